//! An edge node, a terminator in a process of its own, an upstream that answers, and clients.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, NamedGroup, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::edge::{self, Ca, State};

pub const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
pub const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;
/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub type Stream = TlsStream<TcpStream>;

pub struct World {
    pub folder: TempDir,
    pub socket: PathBuf,
    pub edge: Arc<State>,
    pub ca: Ca,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (socket, edge) = edge::start(folder.path());
        Self { folder, socket, edge, ca: Ca::new() }
    }

    /// Starts a terminator; `more` are lines of its configuration, tables last.
    pub async fn terminate(&self, more: &str) -> Terminator {
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let text = format!(
            "listen = [\"127.0.0.1:0\"]\nedge_socket = {:?}\nadmin_listen = \"{admin}\"\n{more}\n",
            self.socket.display().to_string(),
        );
        let path = self.folder.path().join(format!("terminate-{}.toml", admin.port()));
        std::fs::write(&path, text).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(crate::CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let mut terminator = Terminator { child, address: admin, admin };
        let (found, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("terminator: {line}");
                if let Some((_, rest)) = line.split_once("listening=") {
                    let _ = found.send(rest.split_whitespace().next().unwrap_or_default().to_owned());
                }
            }
        });
        let address = tokio::task::spawn_blocking(move || address.recv_timeout(PATIENCE)).await.unwrap();
        terminator.address = address.expect("it listens").parse().unwrap();
        terminator
    }

    /// A client that trusts our authority, speaks this version and keeps its sessions where they are found by any name.
    pub fn client(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        self.client_with(version, |_| true)
    }

    /// The same with these cipher suites alone.
    pub fn client_with(
        &self,
        version: &'static SupportedProtocolVersion,
        suites: impl Fn(rustls::CipherSuite) -> bool,
    ) -> Arc<ClientConfig> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| suites(suite.suite()));
        let provider = Arc::new(provider);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.ca.der.clone())).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::store(Arc::new(AnyName(ClientSessionMemoryCache::new(256))));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// Sessions of one name, whatever name they are asked by.
#[derive(Debug)]
struct AnyName(ClientSessionMemoryCache);

fn one() -> ServerName<'static> {
    ServerName::try_from("one.example").unwrap()
}

impl ClientSessionStore for AnyName {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(one(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&one())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: rustls::client::Tls12ClientSessionValue) {
        self.0.set_tls12_session(one(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(&one())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&one());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: rustls::client::Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(one(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&one())
    }
}

/// Full or resumed; another key share that was asked for first is neither here nor there.
pub fn kind(stream: &Stream) -> rustls::HandshakeKind {
    match stream.get_ref().1.handshake_kind().unwrap() {
        rustls::HandshakeKind::FullWithHelloRetryRequest => rustls::HandshakeKind::Full,
        kind => kind,
    }
}

pub struct Terminator {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl Terminator {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn connect(&self, client: &Arc<ClientConfig>, name: &str) -> std::io::Result<Stream> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connecting = tokio_rustls::TlsConnector::from(client.clone()).connect(name, tcp);
        tokio::time::timeout(PATIENCE, connecting).await.expect("the handshake ends")
    }

    /// Connects, has a line echoed, and takes leave; what kind of handshake it was.
    pub async fn visit(&self, client: &Arc<ClientConfig>, name: &str) -> rustls::HandshakeKind {
        let mut stream = self.connect(client, name).await.unwrap();
        stream.write_all(b"hello\n").await.unwrap();
        let mut read = [0; 6];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello\n");
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut read).await.unwrap(), 0, "close_notify answers close_notify");
        kind(&stream)
    }

    /// A page of the administrative listener.
    pub async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }

    /// The sum of a metric's values whose line holds every one of `with`.
    pub async fn metric(&self, name: &str, with: &[&str]) -> f64 {
        let page = self.page("/metrics").await;
        let lines = page.lines().filter(|line| line.starts_with(name) && with.iter().all(|word| line.contains(word)));
        let values: Vec<f64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty(), "no metric {name} {with:?}");
        values.iter().sum()
    }

    /// Waits until a metric has at least this value.
    pub async fn until(&self, name: &str, with: &[&str], least: f64) {
        let waiting = async {
            while self.metric(name, with).await < least {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{name} {with:?} stays below {least}"));
    }

    /// Asks it to end, and waits; its exit code.
    pub async fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.wait().await
    }

    /// Waits for its end; its exit code.
    pub async fn wait(&mut self) -> Option<i32> {
        for _ in 0..PATIENCE.as_millis() / 20 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it does not end");
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An upstream that sends back what it receives and then ends; the line of its configuration.
pub async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    format!("upstream = \"{address}\"")
}
