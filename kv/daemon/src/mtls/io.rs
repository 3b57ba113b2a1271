//! An accepted connection and what is known about its peer.
//!
//! The road: the acceptor makes a [`TlsIo`] after the handshake, tonic copies its [`PeerInfo`] into every request's
//! extensions, services ask it who calls. Law: a `PeerInfo` with an identity was made from a verified certificate.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::verify::{Accept, VerifyError};
use crate::id::{Identity, Role};

/// Who is at the other end. Cheap to clone; found in `request.extensions()` of every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// Verified identity; `None` where the transport has none (a Unix socket, a test).
    pub identity: Option<Identity>,
    /// Address of the other end, as the kernel names it.
    pub peer_addr: Option<SocketAddr>,
    /// The peer's leaf certificate, DER.
    pub certificate: Option<Arc<[u8]>>,
}

impl PeerInfo {
    /// The identity, if it has one of `roles`.
    ///
    /// # Errors
    /// [`VerifyError::NoCertificate`] without an identity, [`VerifyError::Role`] with another role.
    pub fn require(&self, roles: &'static [Role]) -> Result<&Identity, VerifyError> {
        let identity = self.identity.as_ref().ok_or(VerifyError::NoCertificate)?;
        Accept { roles, name: None }.check(identity)?;
        Ok(identity)
    }
}

/// One accepted, authenticated connection. Holds its place among the open connections until it is dropped.
#[derive(Debug)]
pub struct TlsIo {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) info: PeerInfo,
    pub(super) _open: OpenConnection,
}

impl TlsIo {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &PeerInfo {
        &self.info
    }

    /// Whether small writes leave at once (TCP_NODELAY).
    ///
    /// # Errors
    /// What the operating system says.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.stream.get_ref().0.nodelay()
    }
}

/// A permit and the gauge that counts it.
#[derive(Debug)]
pub(super) struct OpenConnection {
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        metrics::gauge!(super::metrics::CONNECTIONS_OPEN).increment(1.0);
        Self { _permit: permit }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        metrics::gauge!(super::metrics::CONNECTIONS_OPEN).decrement(1.0);
    }
}

impl Connected for TlsIo {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
