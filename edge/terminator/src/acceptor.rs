//! From a byte stream to a plain one: the trait that a TLS library stands behind, and s2n-tls behind it.
//!
//! The road: [`S2n`] builds a connection that has nothing but the client-hello callback ([`crate::resolver`]), which
//! gives it the configuration of its server name, whose private-key callback ([`crate::private_key`]) has the signature
//! made. Law: a handshake has one deadline; what is suspicious waits out the library's delay in a bounded number of
//! places, apart from the handshakes, or is cut at once.
//!
//! The library has no call for an alert of our own. What the client hello alone decides is before the first encrypted
//! byte, so the alert's record is written here, as RFC 8446 section 6 and RFC 6066 section 3 have it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use cinnabar_daemon::Env;
use cinnabar_daemon::env::BoxIo;
use cinnabar_edge_api::client::EdgeClient;
use s2n_tls::config::Config;
use s2n_tls::connection::{Builder, Connection};
use s2n_tls::enums::{Mode, Version};
use s2n_tls::error::{Error, ErrorType};
use s2n_tls_tokio::{TlsAcceptor, TlsStream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::TerminatorConfig;
use crate::limits::FAREWELL;
use crate::metrics::{Counted, Metrics};
use crate::private_key::SignedBy;
use crate::resolver::Resolver;

/// A place among the handshakes under way.
pub struct UnderWay {
    /// The place.
    pub permit: OwnedSemaphorePermit,
    /// Its count.
    pub counted: Counted,
}

/// A connection that was negotiated.
pub struct Accepted {
    /// What the client says and is told, in clear.
    pub stream: Box<dyn Plain>,
    /// What was negotiated.
    pub session: Session,
}

/// A stream in clear.
pub trait Plain: AsyncRead + AsyncWrite + Send + Unpin {
    /// How long it must stay open after a suspicious error; nothing when there was none.
    fn blinding(&self) -> Duration;
}

/// What was negotiated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The name that the client asked for, in lower case.
    pub server_name: String,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The protocol of RFC 7301.
    pub alpn: Option<Vec<u8>>,
    /// The cipher suite, as OpenSSL names it.
    pub cipher: String,
    /// Was it resumed, by a ticket?
    pub resumed: bool,
    /// Who signed; none when it was resumed.
    pub signed: Option<SignedBy>,
}

/// A handshake that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{result}: {message}")]
pub struct Failed {
    /// One of [`RESULTS`](crate::metrics::RESULTS).
    pub result: &'static str,
    /// For people. It may carry what the client sent.
    pub message: String,
}

/// Why our callbacks ended a handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refused {
    #[error("nothing serves {0:?}")]
    UnknownName(String),
    #[error("the client names no server")]
    NoName,
    #[error("the edge node gives no certificates: {0}")]
    Edge(String),
    #[error("certificate {id}: {problem}")]
    Certificate { id: String, problem: String },
    #[error("no signature: {0}")]
    Signature(String),
    #[error("{0}")]
    Internal(String),
}

/// Alert `internal_error`, RFC 8446 section 6.2.
const INTERNAL_ERROR: u8 = 80;
/// Alert `unrecognized_name`, RFC 6066 section 3.
const UNRECOGNIZED_NAME: u8 = 112;
/// No alert.
const NONE: u8 = 0;

impl Refused {
    const fn result(&self) -> &'static str {
        match self {
            Self::UnknownName(_) => "unknown_name",
            Self::NoName => "no_name",
            Self::Edge(_) => "edge",
            Self::Certificate { .. } => "certificate",
            Self::Signature(_) => "refused",
            Self::Internal(_) => "internal",
        }
    }

    /// The alert that is written here. Once keys are in use the library alone can write, and closes.
    const fn alert(&self) -> u8 {
        match self {
            Self::UnknownName(_) | Self::NoName => UNRECOGNIZED_NAME,
            Self::Edge(_) | Self::Certificate { .. } => INTERNAL_ERROR,
            Self::Signature(_) | Self::Internal(_) => NONE,
        }
    }
}

/// What the callbacks of one handshake and its task share.
pub struct Watch {
    /// When the handshake must be over.
    pub deadline: Instant,
    /// Who signed.
    pub signed: OnceLock<SignedBy>,
    /// The name that the client asked for.
    pub server_name: OnceLock<String>,
    refused: OnceLock<Refused>,
    alert: AtomicU8,
    blinded: AtomicBool,
    blinding: Notify,
}

impl Watch {
    fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            signed: OnceLock::new(),
            server_name: OnceLock::new(),
            refused: OnceLock::new(),
            alert: AtomicU8::new(NONE),
            blinded: AtomicBool::new(false),
            blinding: Notify::new(),
        }
    }

    /// Ends the handshake.
    pub fn refuse(&self, why: Refused) -> Error {
        self.alert.store(why.alert(), Ordering::Release);
        let error = Error::application(Box::new(why.clone()));
        let _ = self.refused.set(why);
        error
    }

    /// The connection's watch.
    pub fn of(connection: &Connection) -> Result<Arc<Self>, Error> {
        let none = || Error::application("a connection without its watch".into());
        connection.application_context::<Arc<Self>>().cloned().ok_or_else(none)
    }

    fn look(&self, connection: &Connection) {
        let delayed = || connection.remaining_blinding_delay().is_ok_and(|delay| !delay.is_zero());
        if !self.blinded.load(Ordering::Relaxed) && delayed() {
            self.blinded.store(true, Ordering::Relaxed);
            self.blinding.notify_one();
        }
    }
}

// === The trait ===

/// A handshake under way.
pub type Accepting<'a> = Pin<Box<dyn Future<Output = Result<Accepted, Failed>> + Send + 'a>>;

/// A TLS library: it makes a plain stream of a connection.
pub trait TlsServer: Send + Sync + 'static {
    /// Negotiates. `under_way` is released when the handshake is over, before a suspicious one waits out its delay.
    fn accept(&self, wire: BoxIo, under_way: UnderWay) -> Accepting<'_>;
}

// === Blinding ===

/// Places for connections that wait out the delay after a suspicious error.
#[derive(Clone)]
pub struct Blinding {
    places: Arc<Semaphore>,
    longest: Duration,
    metrics: Metrics,
}

impl Blinding {
    /// Places as the configuration says.
    pub fn new(conf: &TerminatorConfig, metrics: Metrics) -> Self {
        let longest = Duration::from_secs(conf.limits.blinding_seconds().into());
        Self { places: Arc::new(Semaphore::new(conf.limits.blinded)), longest, metrics }
    }

    /// Waits for what waits out the delay; it is cut when every place is taken.
    async fn wait(&self, waiting: impl Future) {
        let Ok(_place) = self.places.try_acquire() else {
            self.metrics.blinded_cut.increment(1);
            return;
        };
        let _counted = Counted::new(&self.metrics.blinded_open);
        let _ = timeout(self.longest + FAREWELL, waiting).await;
        self.metrics.blinded_waited.increment(1);
    }

    /// Ends a connection: the delay if there is one, close_notify, the end of the stream.
    pub async fn close(&self, mut stream: Box<dyn Plain>) {
        if stream.blinding().is_zero() {
            let _ = timeout(FAREWELL, stream.shutdown()).await;
        } else {
            self.wait(stream.shutdown()).await;
        }
    }
}

// === s2n-tls ===

/// s2n-tls with both callbacks.
pub struct S2n {
    base: Config,
    env: Env,
    time: Duration,
    blinding: Blinding,
}

impl S2n {
    /// s2n-tls whose certificates and signatures come from this edge node.
    ///
    /// # Errors
    /// The library's, when it cannot be set up on this machine.
    pub fn new(
        conf: &TerminatorConfig,
        edge: EdgeClient,
        env: Env,
        metrics: Metrics,
        blinding: Blinding,
    ) -> Result<Self, Error> {
        let base = Resolver::base(conf, edge, env.clone(), metrics)?;
        Ok(Self { base, env, time: conf.handshake_time(), blinding })
    }

    async fn run(&self, wire: BoxIo, under_way: UnderWay) -> Result<Accepted, Failed> {
        let watch = Arc::new(Watch::new(self.env.clock.now() + self.time));
        let mut wire = Wire { inner: wire, watch: watch.clone() };
        match self.negotiate(&mut wire, &watch, under_way).await {
            Ok(connection) => {
                let session = session(&connection.inner, &watch)?;
                Ok(Accepted { stream: Box::new(TlsStream::from_parts(connection, wire)), session })
            }
            Err(failed) => {
                wire.tell().await;
                Err(failed)
            }
        }
    }

    async fn negotiate(&self, wire: &mut Wire, watch: &Arc<Watch>, under_way: UnderWay) -> Result<Watched, Failed> {
        let acceptor = TlsAcceptor::new(ForOne { base: self.base.clone(), watch: watch.clone() });
        let mut accept = pin!(acceptor.accept(wire));
        tokio::select! {
            biased;
            accepted = &mut accept => {
                return accepted.map(|stream| stream.into_parts().0).map_err(|error| failed(&error, watch));
            }
            () = watch.blinding.notified() => {}
            () = sleep_until(watch.deadline) => {
                return Err(Failed { result: "timeout", message: "no complete handshake in time".to_owned() });
            }
        }
        drop(under_way);
        // Only an error starts the delay, so that what comes out is one.
        let mut message = "a message that does not belong there or does not verify".to_owned();
        self.blinding
            .wait(async {
                if let Err(error) = accept.await {
                    message = failed(&error, watch).message;
                }
            })
            .await;
        Err(Failed { result: "protocol", message })
    }
}

impl TlsServer for S2n {
    fn accept(&self, wire: BoxIo, under_way: UnderWay) -> Accepting<'_> {
        Box::pin(self.run(wire, under_way))
    }
}

fn failed(error: &Error, watch: &Watch) -> Failed {
    if let Some(refused) = watch.refused.get() {
        return Failed { result: refused.result(), message: refused.to_string() };
    }
    let result = match error.kind() {
        ErrorType::IOError | ErrorType::ConnectionClosed => "closed",
        ErrorType::Alert => "alert",
        ErrorType::ProtocolError => "protocol",
        _ => "internal",
    };
    Failed { result, message: format!("{}: {}", error.name(), error.message()) }
}

fn session(connection: &Connection, watch: &Watch) -> Result<Session, Failed> {
    let internal = |error: Error| Failed { result: "internal", message: error.to_string() };
    let version = match connection.actual_protocol_version().map_err(internal)? {
        Version::TLS13 => "1.3",
        Version::TLS12 => "1.2",
        other => return Err(Failed { result: "internal", message: format!("{other:?} against the policy") }),
    };
    Ok(Session {
        server_name: watch.server_name.get().cloned().unwrap_or_default(),
        version,
        alpn: connection.application_protocol().map(<[u8]>::to_vec),
        cipher: connection.cipher_suite().map_err(internal)?.to_owned(),
        resumed: connection.resumed(),
        signed: watch.signed.get().cloned(),
    })
}

/// Builds one connection.
#[derive(Clone)]
struct ForOne {
    base: Config,
    watch: Arc<Watch>,
}

impl Builder for ForOne {
    type Output = Watched;

    fn build_connection(&self, mode: Mode) -> Result<Watched, Error> {
        let mut inner = self.base.build_connection(mode)?;
        inner.set_application_context(self.watch.clone());
        Ok(Watched { inner, watch: self.watch.clone() })
    }
}

/// A connection that says when its delay begins: the library's stream looks at it between an error and the delay.
struct Watched {
    inner: Connection,
    watch: Arc<Watch>,
}

impl AsRef<Connection> for Watched {
    fn as_ref(&self) -> &Connection {
        self.watch.look(&self.inner);
        &self.inner
    }
}

impl AsMut<Connection> for Watched {
    fn as_mut(&mut self) -> &mut Connection {
        &mut self.inner
    }
}

impl Plain for TlsStream<Wire, Watched> {
    fn blinding(&self) -> Duration {
        self.as_ref().remaining_blinding_delay().unwrap_or_default()
    }
}

/// The client's bytes. Once an alert of ours is to be written, nothing of the library's is.
struct Wire {
    inner: BoxIo,
    watch: Arc<Watch>,
}

impl Wire {
    fn is_muted(&self) -> bool {
        self.watch.alert.load(Ordering::Acquire) != NONE
    }

    /// Writes our alert, if there is one, and ends the stream.
    async fn tell(&mut self) {
        let alert = self.watch.alert.load(Ordering::Acquire);
        let farewell = async {
            if alert != NONE {
                // TLSPlaintext: alert, the version of old, two bytes: fatal, which one.
                self.inner.write_all(&[21, 3, 3, 0, 2, 2, alert]).await?;
            }
            self.inner.shutdown().await
        };
        let _ = timeout(FAREWELL, farewell).await;
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        if self.is_muted() {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.is_muted() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
