//! Connections: customers over TLS 1.2 and 1.3, operators over the mutual TLS of the cluster; both to the same router.
//!
//! The road: [`serve_customers`] accepts, shakes hands and reads requests of HTTP/2 or HTTP/1.1, as agreed in the
//! handshake; [`serve_operators`] takes connections that [`cinnabar_daemon::Acceptor`] made, HTTP/2 only. Each request
//! carries the connection's [`PeerInfo`]. Law: handshakes, headers, connections and their lives are bounded; a shutdown
//! lets requests under way finish, for a bounded time.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use cinnabar_daemon::mtls::is_of_the_peer;
use cinnabar_daemon::{Acceptor, Clock, PeerInfo, Shutdown, file};
use futures::StreamExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::metrics::{OpenConnection, count_handshake};
use crate::digest::sha256;
use crate::limits::{
    CONNECTION_END_S_MAX, CONNECTION_LIFE_S_MAX, CUSTOMER_CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADER_TIMEOUT_S,
    STREAMS_MAX,
};

/// Longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept: a lack of descriptors does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Silence after which an HTTP/2 peer is probed, and the longest wait for its answer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Streams that a peer reset and that are not cleaned up yet (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 32;
/// Bytes that one stream, and one connection, may have under way.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How often the files with the certificate for customers are looked at.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// Largest certificate or key file, in bytes.
const FILE_BYTES_MAX: usize = 256 * 1024;
/// What is spoken, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where the certificate for customers is; PEM.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpsFiles {
    /// Our certificate, then those between it and its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why the certificate for customers is not used. The operator's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpsError {
    /// A file cannot be read or is too large.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not PEM or holds nothing of its kind.
    #[error("{}: expected {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// Certificate and key do not belong together, or are of no kind we use.
    #[error("certificate and key for customers: {0}")]
    Library(#[from] rustls::Error),
}

/// The certificate for customers, which may be exchanged while it is in use.
pub struct Https {
    files: HttpsFiles,
    clock: Arc<dyn Clock>,
    current: ArcSwap<Loaded>,
    /// One reload at a time, so that an older read never replaces a newer one.
    reloading: Mutex<()>,
}

/// What new connections are made with.
struct Loaded {
    config: Arc<ServerConfig>,
    /// Of the files that it came from.
    digest: [u8; 32],
}

impl Https {
    /// Loads the files. Small reads: call it before serving.
    ///
    /// # Errors
    /// [`HttpsError`] names the file and the fault.
    pub fn load(files: HttpsFiles, clock: Arc<dyn Clock>) -> Result<Arc<Self>, HttpsError> {
        let current = ArcSwap::from_pointee(config(&files, &clock, None)?.expect("nothing was loaded before"));
        Ok(Arc::new(Self { files, clock, current, reloading: Mutex::new(()) }))
    }

    /// Loads the files anew, for every connection from now on; says whether they had changed.
    ///
    /// # Errors
    /// [`HttpsError`]; what was in use stays in use.
    pub fn reload(&self) -> Result<bool, HttpsError> {
        let _one_at_a_time = self.reloading.lock();
        let loaded = config(&self.files, &self.clock, Some(self.current.load().digest))?;
        let changed = loaded.is_some();
        if let Some(loaded) = loaded {
            self.current.store(Arc::new(loaded));
        }
        Ok(changed)
    }

    /// A digest of the files in use.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> [u8; 32] {
        self.current.load().digest
    }

    /// Looks at the files every [`WATCH_INTERVAL`] and reloads them when they changed, until the shutdown. Files that do not
    /// load are tried again every time, since certificate and key are replaced one after the other.
    pub async fn watch(self: Arc<Self>, shutdown: Shutdown) {
        let mut last_fault = String::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = sleep(WATCH_INTERVAL) => {}
            }
            self.clone().look(&mut last_fault).await;
        }
    }

    /// Looks at the files once; a fault that is the same as the last one is not logged again.
    pub async fn look(self: Arc<Self>, last_fault: &mut String) {
        let Ok(outcome) = tokio::task::spawn_blocking(move || self.reload()).await else { return };
        match outcome {
            Ok(changed) => {
                last_fault.clear();
                if changed {
                    tracing::info!("a new certificate for customers is in use");
                }
            }
            Err(error) => {
                let fault = error.to_string();
                if fault != *last_fault {
                    tracing::error!(error = %fault, "the new certificate for customers is refused, the old one stays in use");
                    *last_fault = fault;
                }
            }
        }
    }
}

/// Our clock as rustls wants it.
struct WallTime(Arc<dyn Clock>);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.unix_ms())))
    }
}

impl std::fmt::Debug for WallTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WallTime")
    }
}

/// Reads the files; none when they are those that were loaded before.
fn config(files: &HttpsFiles, clock: &Arc<dyn Clock>, before: Option<[u8; 32]>) -> Result<Option<Loaded>, HttpsError> {
    let read = |path: &PathBuf| {
        file::read_bounded(path, FILE_BYTES_MAX).map_err(|source| HttpsError::Read { path: path.clone(), source })
    };
    let content = |path: &PathBuf, expected| HttpsError::Content { path: path.clone(), expected };
    let (chain_pem, key_pem) = (read(&files.cert)?, zeroize::Zeroizing::new(read(&files.key)?));
    let digest = sha256(&[sha256(&chain_pem), sha256(&key_pem)].concat());
    if before == Some(digest) {
        return Ok(None);
    }
    let chain = CertificateDer::pem_slice_iter(&chain_pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| content(&files.cert, "CERTIFICATE blocks"))?;
    let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| content(&files.key, "one private key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(WallTime(clock.clone())))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Some(Loaded { config: Arc::new(config), digest }))
}

/// Serves customers until shutdown, then lets what is under way finish.
pub async fn serve_customers(listener: TcpListener, tls: Arc<Https>, router: Router, shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(CUSTOMER_CONNECTIONS_MAX));
    loop {
        // A place first: what we have no room for stays in the kernel's backlog.
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = shutdown.wait() => return,
            accepted = accepted => accepted,
        };
        let Ok(place) = place else { return };
        match accepted {
            Ok((socket, address)) => {
                let (config, router, ends) = (tls.current.load().config.clone(), router.clone(), shutdown.clone());
                shutdown.spawn(async move {
                    let _open = OpenConnection::new();
                    converse(socket, address, config, router, ends).await;
                    drop(place);
                });
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept customers' connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    socket: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    router: Router,
    shutdown: Shutdown,
) {
    // Without it, small answers wait for the peer's acknowledgement; a socket that refuses is about to fail anyway.
    let _ = socket.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_TIMEOUT, tokio_rustls::TlsAcceptor::from(config).accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a customer's handshake failed");
            return count_handshake("failed");
        }
        Err(_) => return count_handshake("timeout"),
    };
    count_handshake("accepted");
    // What the handshake agreed on, so that nobody is waited for to show it by its first bytes.
    let http2 = stream.get_ref().1.alpn_protocol() == Some(PROTOCOLS[0]);
    let peer = PeerInfo { identity: None, peer_addr: Some(address), certificate: None };
    let life = Duration::from_secs(CONNECTION_LIFE_S_MAX);
    serve(stream, peer, router, http2, Some(life), shutdown).await;
}

/// Serves operators, over connections that the cluster's mutual TLS let in, until shutdown.
pub async fn serve_operators(mut incoming: Acceptor, router: Router, shutdown: Shutdown) {
    loop {
        let next = tokio::select! {
            biased;
            () = shutdown.wait() => return,
            next = incoming.next() => next,
        };
        let Some(next) = next else { return };
        let Ok(stream) = next else { continue };
        let (peer, router, ends) = (stream.peer().clone(), router.clone(), shutdown.clone());
        shutdown.spawn(async move { serve(stream, peer, router, true, None, ends).await });
    }
}

/// Serves one connection to its end: its peer's, its life's, or the shutdown's.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: PeerInfo,
    router: Router,
    http2: bool,
    life: Option<Duration>,
    shutdown: Shutdown,
) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request)
    });
    let builder = builder(http2);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let over = async {
        let ends = shutdown.wait();
        match life {
            // Elapsed or not, it ends.
            Some(life) => drop(timeout(life, ends).await),
            None => ends.await,
        }
    };
    // Peers that go away or talk nonsense are nobody's error here: what they asked is counted where it is answered.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = over => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(Duration::from_secs(CONNECTION_END_S_MAX), connection).await;
}

fn builder(http2: bool) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEADER_TIMEOUT_S))
        .max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(KEEP_ALIVE)
        .max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .max_header_list_size(HEADER_BYTES_MAX);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}
