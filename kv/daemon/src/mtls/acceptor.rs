//! Incoming connections: accept, handshake, hand over.
//!
//! The road: one task accepts; each connection's handshake runs in a task of its own; finished ones queue for whoever
//! polls the [`Acceptor`] (tonic's `serve_with_incoming_shutdown`). Law: no peer can slow another's handshake down, nor
//! end the stream; handshakes, their time and open connections are bounded, and above the bound the kernel's backlog
//! holds what comes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use metrics::counter;
use rustls::CertificateError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::io::{OpenConnection, PeerInfo, TlsIo};
use super::verify::{VerifyError, read_identity};
use super::{HANDSHAKE_TIMEOUT, Tls, metrics as names};

/// Handshakes that may be under way at once.
pub const HANDSHAKES_MAX: usize = 256;
/// Connections that may be open at once, handshakes included.
pub const CONNECTIONS_MAX: usize = 4096;
/// Finished connections that wait to be polled.
const READY_MAX: usize = 64;
/// Pause after a failed accept: EMFILE does not go away at once, and retrying without pause burns a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At most one log line about failed handshakes in this time; the counters see all of them.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds of an [`Acceptor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptorLimits {
    /// Longest handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at once, at least 1.
    pub handshakes_max: usize,
    /// Open connections at once, at least 1.
    pub connections_max: usize,
}

impl Default for AcceptorLimits {
    fn default() -> Self {
        Self { handshake_timeout: HANDSHAKE_TIMEOUT, handshakes_max: HANDSHAKES_MAX, connections_max: CONNECTIONS_MAX }
    }
}

/// A stream of authenticated connections that never ends and never yields an error. Dropping it closes the listener and
/// cuts the handshakes under way; connections that were handed over live on.
#[derive(Debug)]
pub struct Acceptor {
    ready: mpsc::Receiver<TlsIo>,
    address: Option<SocketAddr>,
    _accepting: AbortOnDropHandle<()>,
}

impl Acceptor {
    /// Starts to accept on `listener`; call it inside a tokio runtime.
    #[must_use]
    pub fn new(listener: TcpListener, tls: Arc<Tls>, limits: AcceptorLimits) -> Self {
        let (queue, ready) = mpsc::channel(READY_MAX);
        let address = listener.local_addr().ok();
        let handshaker = Arc::new(Handshaker { tls, limits, queue, logged: Mutex::new(None) });
        let accepting = tokio::spawn(accept(listener, handshaker));
        Self { ready, address, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// The address we listen on; with port 0 in the configuration, the one that was taken.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Stream for Acceptor {
    type Item = io::Result<TlsIo>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

/// What every handshake needs.
struct Handshaker {
    tls: Arc<Tls>,
    limits: AcceptorLimits,
    queue: mpsc::Sender<TlsIo>,
    logged: Mutex<Option<Instant>>,
}

async fn accept(listener: TcpListener, handshaker: Arc<Handshaker>) {
    let connections = Arc::new(Semaphore::new(handshaker.limits.connections_max));
    let handshakes = Arc::new(Semaphore::new(handshaker.limits.handshakes_max));
    let mut tasks = JoinSet::new();
    loop {
        // Permits first: what we have no room for stays in the kernel's backlog.
        let (Ok(open), Ok(handshake)) =
            (Arc::clone(&connections).acquire_owned().await, Arc::clone(&handshakes).acquire_owned().await)
        else {
            return; // Nobody closes these semaphores.
        };
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((socket, peer_addr)) => {
                tasks.spawn(Arc::clone(&handshaker).run(socket, peer_addr, open, handshake));
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                counter!(names::ACCEPT_ERRORS).increment(1);
                tracing::error!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Is an error of `accept` only that the peer went away before we looked? There may be a thousand more of those.
pub fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Handshaker {
    async fn run(
        self: Arc<Self>,
        socket: TcpStream,
        peer_addr: SocketAddr,
        open: OwnedSemaphorePermit,
        handshake: OwnedSemaphorePermit,
    ) {
        let done = timeout(self.limits.handshake_timeout, self.handshake(socket, peer_addr, open)).await;
        drop(handshake);
        let result = match done {
            Ok(Ok(connection)) => {
                counter!(names::HANDSHAKES, "result" => "accepted").increment(1);
                // An error means that the acceptor is gone, and the connection with it.
                let _ = self.queue.send(connection).await;
                return;
            }
            Ok(Err(error)) => {
                let result = handshake_result(&error);
                self.log(peer_addr, result, &error);
                result
            }
            Err(_) => {
                self.log(peer_addr, "timeout", &"no complete handshake in time");
                "timeout"
            }
        };
        counter!(names::HANDSHAKES, "result" => result).increment(1);
    }

    async fn handshake(
        &self,
        socket: TcpStream,
        peer_addr: SocketAddr,
        open: OwnedSemaphorePermit,
    ) -> io::Result<TlsIo> {
        // tonic sets this only on sockets that it accepts itself; without it small frames wait for the peer's ACK.
        socket.set_nodelay(true)?;
        let stream = tokio_rustls::TlsAcceptor::from(self.tls.server_config()).accept(socket).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let leaf = leaf.ok_or_else(|| io::Error::other(rustls::Error::NoCertificatesPresented))?;
        let identity = read_identity(leaf).map_err(rustls::Error::from).map_err(io::Error::other)?;
        let info = PeerInfo {
            identity: Some(identity),
            peer_addr: Some(peer_addr),
            certificate: Some(Arc::from(leaf.as_ref())),
        };
        Ok(TlsIo { stream, info, _open: OpenConnection::new(open) })
    }

    fn log(&self, peer_addr: SocketAddr, result: &'static str, error: &dyn std::fmt::Display) {
        let now = self.tls.clock.now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL) {
            *logged = Some(now);
            tracing::warn!(%peer_addr, result, %error, "TLS handshake failed");
        }
    }
}

/// Why a handshake failed, as one of [`metrics::RESULTS`](super::metrics::RESULTS); for either side's error.
#[must_use]
pub fn handshake_result(error: &io::Error) -> &'static str {
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return if error.kind() == io::ErrorKind::TimedOut { "timeout" } else { "io" };
    };
    match inner {
        rustls::Error::NoCertificatesPresented => "no_certificate",
        rustls::Error::AlertReceived(_) => "peer_alert",
        rustls::Error::InvalidCertificate(fault) => match fault {
            CertificateError::BadEncoding => "malformed",
            CertificateError::UnknownIssuer => "unknown_issuer",
            CertificateError::Expired => "expired",
            CertificateError::NotValidYet => "not_yet_valid",
            CertificateError::InvalidPurpose => "purpose",
            CertificateError::Other(other) => other.0.downcast_ref().map_or("protocol", VerifyError::reason),
            _ => "protocol",
        },
        _ => "protocol",
    }
}
