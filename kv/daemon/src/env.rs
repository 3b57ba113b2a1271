//! The seams to the world: time, randomness, dialling and listening.
//!
//! The road: `main` builds [`Env::system`] once and hands it down; a test or the simulator builds its own.
//! Law: nothing outside this file reads a clock, asks the operating system for random bytes or opens a socket on its
//! own; `clippy.toml` refuses the standard library's calls everywhere else.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

/// Longest a dial may take, name resolution and every resolved address together.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections the kernel may hold for us between SYN and accept; `net.core.somaxconn` caps it.
pub const LISTEN_BACKLOG: u32 = 1024;

/// Source of time.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time: for durations and deadlines. Follows tokio's clock, so paused tests control it.
    fn now(&self) -> Instant;
    /// Wall time in milliseconds since 1970-01-01T00:00:00Z: for certificates and records. May jump either way.
    fn unix_ms(&self) -> u64;
}

/// Source of bytes that nobody can guess.
pub trait Rng: Send + Sync + 'static {
    /// Fills `out` completely.
    ///
    /// # Errors
    /// [`RngError`] when the source is not there; `out` then holds nothing of use and the caller stops what it does.
    fn fill(&self, out: &mut [u8]) -> Result<(), RngError>;
}

/// Dialling and listening.
pub trait Net: Send + Sync + 'static {
    /// Connects to `host:port`. The real one sets TCP_NODELAY and gives up after [`DIAL_TIMEOUT`].
    ///
    /// # Errors
    /// What the operating system says; [`io::ErrorKind::TimedOut`] after the timeout.
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxIo>>;

    /// Listens on `address`; port 0 takes a free one. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// What the operating system says: address in use, no permission.
    fn listen(&self, address: SocketAddr) -> io::Result<TcpListener>;
}

/// A byte stream as [`Net::dial`] gives it.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Any byte stream.
pub type BoxIo = Box<dyn Io>;

/// Why no random bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RngError {
    /// The operating system's generator failed. The machine is broken or the sandbox forbids the call; do not go on.
    #[error("the operating system gives no random bytes: {0}")]
    Os(getrandom::Error),
}

/// The three seams as one value; cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// Network.
    pub net: Arc<dyn Net>,
}

impl Env {
    /// The real world.
    #[must_use]
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock), rng: Arc::new(SystemRng), net: Arc::new(SystemNet) }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam behind which wall time is read")]
    fn unix_ms(&self) -> u64 {
        // A clock before 1970 reads as 0: every certificate is then "not yet valid", which is the safe side.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, out: &mut [u8]) -> Result<(), RngError> {
        getrandom::fill(out).map_err(RngError::Os)
    }
}

/// TCP of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNet;

impl Net for SystemNet {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxIo>> {
        Box::pin(async move {
            let stream = match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
                Ok(connected) => connected?,
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {address}"))),
            };
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxIo)
        })
    }

    fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restarted process must get its port back while old connections are in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(LISTEN_BACKLOG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dialled_stream_reaches_the_listener() {
        let net = SystemNet;
        let listener = net.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (dialled, accepted) = tokio::join!(net.dial(&address), listener.accept());
        let (mut dialled, (mut accepted, _)) = (dialled.unwrap(), accepted.unwrap());
        tokio::io::AsyncWriteExt::write_all(&mut dialled, b"x").await.unwrap();
        let mut byte = [0];
        tokio::io::AsyncReadExt::read_exact(&mut accepted, &mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
    }

    #[tokio::test]
    async fn an_address_nobody_listens_on_is_an_error() {
        let net = SystemNet;
        let address = {
            let listener = net.listen("127.0.0.1:0".parse().unwrap()).unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let refused = net.dial(&address).await.err().expect("the listener is gone");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn random_bytes_differ() {
        let (mut a, mut b) = ([0u8; 32], [0u8; 32]);
        SystemRng.fill(&mut a).unwrap();
        SystemRng.fill(&mut b).unwrap();
        assert_ne!(a, b);
    }

    #[test]
    fn wall_time_is_past_the_day_this_was_written() {
        assert!(SystemClock.unix_ms() > 1_760_000_000_000);
    }
}
