//! Attacks on the door: every peer that is not a valid member is turned away, for the reason we mean, over sockets.

mod channel;
mod reload;
mod signed;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, HandshakeKind};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::env::{SystemClock, SystemNet, SystemRng};
use crate::pki::{CertificateAuthority, Issued, Validity};

const PATIENCE: Duration = Duration::from_secs(20);
const VOTERS: &[Role] = &[Role::Voter];
const DAY_MS: u64 = 24 * 3600 * 1000;

/// The machine's clock, some days off.
struct Shifted(i64);

impl Clock for Shifted {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn unix_ms(&self) -> u64 {
        SystemClock.unix_ms().saturating_add_signed(self.0 * i64::try_from(DAY_MS).unwrap())
    }
}

fn now() -> u64 {
    SystemClock.unix_ms()
}

/// An authority and a folder for what it issues.
struct Pki {
    authority: CertificateAuthority,
    folder: TempDir,
}

impl Pki {
    fn new() -> Self {
        let cluster = "prod".parse().unwrap();
        let validity =
            Validity { not_before_s: now() / 1000 - 400 * 24 * 3600, not_after_s: now() / 1000 + 999_999_999 };
        let authority = CertificateAuthority::create(&cluster, validity, &SystemRng).unwrap();
        let folder = tempfile::tempdir().unwrap();
        authority.write(&folder.path().join("ca.pem"), &folder.path().join("ca.key"), false).unwrap();
        Self { authority, folder }
    }

    fn issue(&self, identity: &str, validity: Validity) -> Issued {
        self.authority.issue(&identity.parse().unwrap(), &[], validity, &SystemRng).unwrap()
    }

    /// What the honest authority would never issue.
    fn forge(&self, uris: &[&str], purposes: &[rcgen::ExtendedKeyUsagePurpose]) -> Issued {
        let uris: Vec<String> = uris.iter().map(ToString::to_string).collect();
        self.authority.issue_leaf(&uris, &[], purposes, Validity::days(1, now()), &SystemRng).unwrap()
    }

    fn place(&self, issued: &Issued, stem: &str) -> TlsFiles {
        let path = |end: &str| self.folder.path().join(format!("{stem}.{end}"));
        issued.write(&path("pem"), &path("key"), true).unwrap();
        TlsFiles { ca: self.folder.path().join("ca.pem"), cert: path("pem"), key: path("key") }
    }

    fn files(&self, identity: &str, validity: Validity) -> TlsFiles {
        self.place(&self.issue(identity, validity), identity.rsplit('/').next().unwrap())
    }

    fn tls(&self, identity: &str) -> Arc<Tls> {
        load(&self.files(identity, Validity::days(1, now())), 0).unwrap()
    }
}

fn load(files: &TlsFiles, days_off: i64) -> Result<Arc<Tls>, TlsError> {
    Tls::load(files, &"prod".parse().unwrap(), Arc::new(Shifted(days_off)))
}

fn certified(issued: &Issued) -> Arc<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    Arc::new(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).unwrap())
}

/// A client that trusts what `trusting` trusts and presents whatever it likes.
fn attacker(trusting: &Tls, presenting: Option<Arc<CertifiedKey>>) -> ClientConfig {
    let roots = trusting.current.load().roots.clone();
    let verifier = PeerVerifier { roots, accept: Accept { roles: &Role::ALL, name: None } };
    let builder = ClientConfig::builder_with_details(Arc::clone(&trusting.provider), wall_time(&trusting.clock))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match presenting {
        Some(certified) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// A server on loopback that echoes one byte per connection, and its counters.
struct Server {
    address: String,
    counters: PrometheusHandle,
    _recorder: ::metrics::LocalRecorderGuard<'static>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Server {
    fn start(tls: &Arc<Tls>, limits: AcceptorLimits) -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let counters = recorder.handle();
        let guard = ::metrics::set_default_local_recorder(recorder);
        let listener = crate::env::Net::listen(&SystemNet, "127.0.0.1:0".parse().unwrap()).unwrap();
        let mut acceptor = Acceptor::new(listener, Arc::clone(tls), limits);
        let address = acceptor.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            while let Some(Ok(mut connection)) = acceptor.next().await {
                tokio::spawn(async move {
                    let byte = connection.read_u8().await.unwrap_or(0);
                    let _ = connection.write_u8(byte).await;
                    let _ = connection.read_u8().await;
                });
            }
        });
        Self { address, counters, _recorder: guard, _task: tokio_util::task::AbortOnDropHandle::new(task) }
    }

    fn count(&self, result: &str) -> u64 {
        let prefix = format!("{}{{result=\"{result}\"}} ", metrics::HANDSHAKES);
        let rendered = self.counters.render();
        rendered.lines().find_map(|line| line.strip_prefix(&prefix)).map_or(0, |count| count.parse().unwrap())
    }

    async fn until_counted(&self, result: &str, count: u64) {
        let counted = async {
            while self.count(result) < count {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("no {result}: {}", self.counters.render()));
        assert_eq!(self.count(result), count);
    }

    async fn dial(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(&self.address).await.unwrap();
        let name = ServerName::try_from("any.invalid").unwrap();
        timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, socket)).await.unwrap()
    }

    async fn connect(&self, tls: &Tls, roles: &'static [Role], name: Option<&str>) -> std::io::Result<ClientIo> {
        tls.connect(&self.address, roles, name.map(|name| name.parse().unwrap()), &SystemNet).await
    }
}

/// In TLS 1.3 a client learns with its first read whether the server took its certificate.
async fn echoes(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) -> bool {
    let echo = async { stream.write_u8(7).await.is_ok() && stream.read_u8().await.is_ok_and(|byte| byte == 7) };
    timeout(PATIENCE, echo).await.unwrap()
}

#[tokio::test]
async fn members_of_a_cluster_meet_and_know_each_other() {
    let pki = Pki::new();
    let (server_tls, client_tls) = (pki.tls("spiffe://prod/voter/v1"), pki.tls("spiffe://prod/edge/e1"));
    let listener = crate::env::Net::listen(&SystemNet, "127.0.0.1:0".parse().unwrap()).unwrap();
    let mut acceptor = Acceptor::new(listener, server_tls, AcceptorLimits::default());
    let address = acceptor.local_addr().unwrap().to_string();
    let (client, server) =
        tokio::join!(client_tls.connect(&address, VOTERS, Some("v1".parse().unwrap()), &SystemNet), acceptor.next());
    let (mut client, mut server) = (client.unwrap(), server.unwrap().unwrap());

    let peer = server.peer().clone();
    assert_eq!(peer.identity.as_ref().unwrap().to_string(), "spiffe://prod/edge/e1");
    assert_eq!(peer.certificate.as_deref(), Some(client_tls.certificate().as_slice()));
    assert!(peer.peer_addr.unwrap().ip().is_loopback());
    assert!(server.nodelay().unwrap(), "small frames must not wait for an ACK");
    assert!(peer.require(&[Role::Edge]).is_ok());
    assert!(matches!(peer.require(VOTERS), Err(VerifyError::Role { .. })));
    assert_eq!(PeerInfo::default().require(VOTERS), Err(VerifyError::NoCertificate));

    client.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_turned_away() {
    let pki = Pki::new();
    let tls = pki.tls("spiffe://prod/voter/v1");
    let server = Server::start(&tls, AcceptorLimits::default());
    let mut stream = server.dial(attacker(&tls, None)).await.unwrap();
    assert!(!echoes(&mut stream).await);
    server.until_counted("no_certificate", 1).await;
    assert_eq!(server.count("accepted"), 0);
}

#[tokio::test]
async fn a_client_with_a_bad_certificate_is_turned_away_for_that_reason() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let tls = pki.tls("spiffe://prod/voter/v1");
    let server = Server::start(&tls, AcceptorLimits::default());
    let both = [ServerAuth, ClientAuth];
    let voter = "spiffe://prod/voter/v2";
    let past = Validity { not_before_s: now() / 1000 - 7200, not_after_s: now() / 1000 - 3600 };
    let future = Validity { not_before_s: now() / 1000 + 3600, not_after_s: now() / 1000 + 7200 };
    let attacks = [
        ("unknown_issuer", stranger.issue(voter, Validity::days(1, now()))),
        ("expired", pki.issue(voter, past)),
        ("not_yet_valid", pki.issue(voter, future)),
        ("purpose", pki.forge(&[voter], &[ServerAuth])),
        ("purpose", pki.forge(&[voter], &[])),
        ("identity", pki.forge(&[voter, "spiffe://prod/operator/root"], &both)),
        ("identity", pki.forge(&[voter, voter], &both)),
        ("identity", pki.forge(&[voter, "https://prod/"], &both)),
        ("identity", pki.forge(&[], &both)),
        ("identity", pki.forge(&["https://prod/voter/v2"], &both)),
        ("identity", pki.forge(&["spiffe://prod/Voter/v2"], &both)),
        ("cluster", pki.forge(&["spiffe://test/voter/v2"], &both)),
    ];
    let mut expected = std::collections::HashMap::new();
    for (reason, issued) in &attacks {
        let mut stream = server.dial(attacker(&tls, Some(certified(issued)))).await.unwrap();
        assert!(!echoes(&mut stream).await, "{reason}");
        let count = expected.entry(*reason).or_insert(0);
        *count += 1;
        server.until_counted(reason, *count).await;
    }
    assert_eq!(server.count("accepted"), 0);
    // The same client with an honest certificate gets in, so it was the certificates.
    let honest = certified(&pki.issue(voter, Validity::days(1, now())));
    assert!(echoes(&mut server.dial(attacker(&tls, Some(honest))).await.unwrap()).await);
    server.until_counted("accepted", 1).await;
}

#[tokio::test]
async fn a_client_does_not_talk_to_the_wrong_server() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let client = pki.tls("spiffe://prod/edge/e1");
    let replica = Server::start(&pki.tls("spiffe://prod/replica/r1"), AcceptorLimits::default());
    let refusal = |result: std::io::Result<ClientIo>| handshake_result(&result.err().expect("it must not connect"));
    assert_eq!(refusal(replica.connect(&client, VOTERS, None).await), "role");
    assert_eq!(refusal(replica.connect(&client, &[], None).await), "role");
    assert_eq!(refusal(replica.connect(&client, &[Role::Replica], Some("r2")).await), "name");
    replica.until_counted("peer_alert", 3).await;
    assert!(echoes(&mut replica.connect(&client, &[Role::Voter, Role::Replica], Some("r1")).await.unwrap()).await);
    drop(replica);

    let foreign = Server::start(&stranger.tls("spiffe://prod/voter/v1"), AcceptorLimits::default());
    assert_eq!(refusal(foreign.connect(&client, VOTERS, None).await), "unknown_issuer");
    drop(foreign);

    // Two days ago this certificate was good, and this server's clock stands there.
    let week = Validity { not_before_s: now() / 1000 - 7 * 24 * 3600, not_after_s: now() / 1000 - 24 * 3600 };
    let late = load(&pki.files("spiffe://prod/voter/v9", week), -2).unwrap();
    let expired = Server::start(&late, AcceptorLimits::default());
    assert_eq!(refusal(expired.connect(&client, VOTERS, None).await), "expired");
}

#[tokio::test]
async fn a_tls_1_2_client_is_refused() {
    let pki = Pki::new();
    let server = Server::start(&pki.tls("spiffe://prod/voter/v1"), AcceptorLimits::default());
    // A ClientHello without supported_versions is one of TLS 1.2 at most (RFC 8446 section 4.2.1).
    let extensions = [
        [0, 10, 0, 4, 0, 2, 0, 23].as_slice(), // supported_groups: secp256r1
        &[0, 11, 0, 2, 1, 0],                  // ec_point_formats: uncompressed
        &[0, 13, 0, 4, 0, 2, 4, 3],            // signature_algorithms: ecdsa_secp256r1_sha256
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([5; 32]); // random
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]); // no session, ECDHE-ECDSA-AES128-GCM, no compression
    body.extend([0, u8::try_from(extensions.len()).unwrap()]);
    body.extend(&extensions);
    let length = u8::try_from(body.len()).unwrap();
    let hello = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], body.as_slice()].concat();

    let mut socket = TcpStream::connect(&server.address).await.unwrap();
    socket.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70], "a fatal protocol_version alert");
    server.until_counted("protocol", 1).await;
}

#[tokio::test]
async fn a_half_open_handshake_is_cut_and_blocks_nobody_for_longer() {
    let pki = Pki::new();
    let tls = pki.tls("spiffe://prod/voter/v1");
    let limits =
        AcceptorLimits { handshake_timeout: Duration::from_millis(300), handshakes_max: 1, connections_max: 2 };
    let server = Server::start(&tls, limits);
    let mut silent = TcpStream::connect(&server.address).await.unwrap();
    // The only handshake place is taken: the honest client waits until the silent one is cut, then gets in.
    let mut honest = server.connect(&pki.tls("spiffe://prod/edge/e1"), VOTERS, None).await.unwrap();
    assert_eq!(server.count("timeout"), 1, "the silent peer went first");
    assert!(echoes(&mut honest).await);
    assert_eq!(timeout(PATIENCE, silent.read(&mut [0])).await.unwrap().unwrap(), 0, "cut");
    assert_eq!(AcceptorLimits::default().handshake_timeout, HANDSHAKE_TIMEOUT);
}

#[tokio::test]
async fn garbage_ends_one_handshake_and_not_the_stream() {
    let pki = Pki::new();
    let server = Server::start(&pki.tls("spiffe://prod/voter/v1"), AcceptorLimits::default());
    let mut garbage = TcpStream::connect(&server.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    server.until_counted("protocol", 1).await;
    drop(TcpStream::connect(&server.address).await.unwrap());
    server.until_counted("io", 1).await;
    assert!(echoes(&mut server.connect(&pki.tls("spiffe://prod/edge/e1"), VOTERS, None).await.unwrap()).await);
}

#[tokio::test]
async fn a_connection_above_the_bound_waits_for_a_place() {
    let pki = Pki::new();
    let client = pki.tls("spiffe://prod/edge/e1");
    let limits = AcceptorLimits { connections_max: 1, ..AcceptorLimits::default() };
    let server = Server::start(&pki.tls("spiffe://prod/voter/v1"), limits);
    let mut first = server.connect(&client, VOTERS, None).await.unwrap();
    assert!(echoes(&mut first).await);
    let second = server.connect(&client, VOTERS, None);
    tokio::pin!(second);
    assert!(timeout(Duration::from_millis(200), &mut second).await.is_err(), "there is no place");
    drop(first);
    assert!(echoes(&mut timeout(PATIENCE, second).await.unwrap().unwrap()).await);
}

#[tokio::test]
async fn no_session_is_resumed_without_its_certificate() {
    let pki = Pki::new();
    let tls = pki.tls("spiffe://prod/voter/v1");
    let server = Server::start(&tls, AcceptorLimits::default());
    let config = attacker(&tls, Some(certified(&pki.issue("spiffe://prod/edge/e1", Validity::days(1, now())))));
    for _ in 0..3 {
        let mut stream = server.dial(config.clone()).await.unwrap();
        assert!(echoes(&mut stream).await);
        let session: &ClientConnection = stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}
