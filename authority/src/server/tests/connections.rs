//! Over real connections: what is spoken, what is cut, how it ends.

use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::env::{Clock, Net, SystemClock, SystemNet, SystemRng};
use cinnabar_daemon::pki::{CertificateAuthority, Validity};
use cinnabar_daemon::{Acceptor, AcceptorLimits, Identity, Role, Shutdown, Tls, TlsFiles};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::world::World;
use crate::limits::BODY_BYTES_MAX;
use crate::server::https::{Https, HttpsFiles, WATCH_INTERVAL, serve_customers, serve_operators};

struct Served {
    world: World,
    address: String,
    shutdown: Shutdown,
    root: CertificateDer<'static>,
    tls: Arc<Https>,
    files: HttpsFiles,
    _folder: tempfile::TempDir,
}

fn write(files: &HttpsFiles) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["authority.example".to_owned()]).unwrap();
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()
}

impl Served {
    async fn new() -> Self {
        let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
        let files = HttpsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
        let root = write(&files);
        let tls = Https::load(files.clone(), Arc::new(SystemClock)).unwrap();
        let listener = SystemNet.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = Shutdown::new();
        tokio::spawn(serve_customers(listener, tls.clone(), world.router.clone(), shutdown.clone()));
        Self { world, address, shutdown, root, tls, files, _folder: folder }
    }

    async fn connect(
        &self,
        root: &CertificateDer<'static>,
        version: &'static SupportedProtocolVersion,
        alpn: &[&[u8]],
    ) -> std::io::Result<TlsStream<cinnabar_daemon::env::BoxIo>> {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let socket = SystemNet.dial(&self.address).await?;
        let name = ServerName::try_from("authority.example").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }
}

#[tokio::test]
async fn customers_speak_tls_of_two_versions_and_http_of_two() {
    let served = Served::new().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = served.connect(&served.root, version, &[b"http/1.1"]).await.unwrap();
        let request = format!(
            "GET /v1/zones/shop HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            served.world.shop
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("shop.example"), "{answer}");
    }
    let stream = served.connect(&served.root, &rustls::version::TLS13, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = axum::http::Request::get("https://authority.example/v1/openapi.json");
    let answer = client.send_request(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn who_sends_a_whole_body_before_it_reads_sees_why_it_was_refused() {
    let served = Served::new().await;
    let (good, bad) = (served.world.shop.clone(), "nonsense".to_owned());
    // The last is longer than what is taken in for nothing, and only its head is sent.
    for (token, path, bytes, sent, status) in [
        (&good, "/v1/zones/shop/certificates", BODY_BYTES_MAX + 1, BODY_BYTES_MAX + 1, 413),
        (&good, "/v1/zones/shop/certificates", 3 << 20, 3 << 20, 413),
        (&bad, "/v1/zones/shop/certificates", 1 << 20, 1 << 20, 401),
        (&good, "/nowhere", 1 << 20, 1 << 20, 404),
        (&good, "/v1/zones/shop/certificates", 1 << 30, 0, 413),
    ] {
        let mut stream = served.connect(&served.root, &rustls::version::TLS13, &[b"http/1.1"]).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: {bytes}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        for piece in vec![b' '; sent].chunks(16 * 1024) {
            stream.write_all(piece).await.unwrap_or_else(|error| panic!("{path} {bytes}: {error}"));
            // As slow as a network, so that the other side has time to close.
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap_or_else(|error| panic!("{path} {bytes}: {error}"));
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{path} {bytes}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_used_from_the_next_connection_on() {
    let served = Served::new().await;
    let root = write(&served.files);
    assert!(served.tls.reload().unwrap() && !served.tls.reload().unwrap(), "once for each change");
    served.connect(&root, &rustls::version::TLS13, &[b"h2"]).await.unwrap();
    assert!(served.connect(&served.root, &rustls::version::TLS13, &[b"h2"]).await.is_err());
    std::fs::write(&served.files.cert, "nonsense").unwrap();
    assert!(served.tls.reload().is_err());
    served.connect(&root, &rustls::version::TLS13, &[b"h2"]).await.unwrap();
}

#[tokio::test]
async fn the_files_are_watched_and_bad_ones_change_nothing() {
    let served = Served::new().await;
    // The clock goes on by itself where nothing else can happen; sockets are real, so it is asked again and again.
    tokio::time::pause();
    let watching = tokio::spawn(served.tls.clone().watch(served.shutdown.clone()));
    let good = served.tls.in_use();
    std::fs::write(&served.files.cert, "nonsense").unwrap();
    tokio::time::sleep(3 * WATCH_INTERVAL).await;
    assert_eq!(served.tls.in_use(), good);
    write(&served.files);
    let changed = async {
        while served.tls.in_use() == good {
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    };
    tokio::time::timeout(100 * WATCH_INTERVAL, changed).await.expect("the new certificate is in use");
    served.shutdown.clone().drain().await;
    watching.await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_a_shutdown() {
    let served = Served::new().await;
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let mut stream = served.connect(&served.root, &rustls::version::TLS13, &[alpn]).await.unwrap();
        stream.write_all(b"").await.unwrap();
        std::mem::forget(stream);
    }
    let drained = tokio::time::timeout(Duration::from_secs(18), served.shutdown.drain()).await.unwrap();
    assert_eq!(drained, cinnabar_daemon::shutdown::Drained::Complete);
    assert!(served.connect(&served.root, &rustls::version::TLS13, &[b"h2"]).await.is_err());
}

#[tokio::test]
async fn operators_come_in_by_their_certificates_and_other_roles_are_nobody() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let (cluster, now_ms) = ("acme".parse().unwrap(), SystemClock.unix_ms());
    let authority = CertificateAuthority::create(&cluster, Validity::days(30, now_ms), &SystemRng).unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.certificate_pem()).unwrap();
    let tls = |role: &str| {
        let identity: Identity = format!("spiffe://acme/{role}/one").parse().unwrap();
        let issued = authority.issue(&identity, &[], Validity::days(7, now_ms), &SystemRng).unwrap();
        let (cert, key) = (folder.path().join(format!("{role}.pem")), folder.path().join(format!("{role}.key")));
        issued.write(&cert, &key, false).unwrap();
        Tls::load(&TlsFiles { ca: ca.clone(), cert, key }, &cluster, Arc::new(SystemClock)).unwrap()
    };
    let listener = SystemNet.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = Acceptor::new(listener, tls("authority"), AcceptorLimits::default());
    let shutdown = Shutdown::new();
    tokio::spawn(serve_operators(incoming, world.router.clone(), shutdown.clone()));
    for (role, status) in [("operator", 200), ("edge", 401), ("voter", 401)] {
        let stream = tls(role).connect(&address, &[Role::Authority], None, &SystemNet).await.unwrap();
        let (io, executor) = (hyper_util::rt::TokioIo::new(stream), hyper_util::rt::TokioExecutor::new());
        let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let request = axum::http::Request::get("https://authority.example/v1/zones");
        let answer = client.send_request(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{role}");
    }
    assert_eq!(shutdown.drain().await, cinnabar_daemon::shutdown::Drained::Complete);
}
