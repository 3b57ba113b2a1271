//! Outgoing connections: tonic channels over our TLS, and over a Unix socket.
//!
//! Law: every new connection, a channel's reconnects included, is made with the certificates that are current then.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{HANDSHAKE_TIMEOUT, Tls};
use crate::env::{BoxIo, DIAL_TIMEOUT, Net};
use crate::id::{NodeName, Role};

/// Longest a channel waits for a connection: dial and handshake together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Silence after which an HTTP/2 ping is sent, also while no request is open: a dead path is found before it is needed.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait for the answer to that ping before the connection is given up.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

const _: () = assert!(CONNECT_TIMEOUT.as_millis() >= DIAL_TIMEOUT.as_millis() + HANDSHAKE_TIMEOUT.as_millis());

/// rustls wants a name for the server; it is neither sent nor compared, since identities are.
const SERVER_NAME: &str = "node.invalid";
/// The authority of our requests. Nobody routes by it, so it does not carry the address.
const ORIGIN: &str = "http://cinnabar.invalid";

/// An outgoing authenticated connection.
pub type ClientIo = TlsStream<BoxIo>;

impl Tls {
    /// A channel to `host:port` that connects when first used and again whenever the connection is lost. The server
    /// must have one of `accept_roles` and, if given, exactly this `name`.
    pub fn channel(
        self: &Arc<Self>,
        address: &str,
        accept_roles: &'static [Role],
        name: Option<NodeName>,
        net: Arc<dyn Net>,
    ) -> Channel {
        let (tls, address) = (Arc::clone(self), Arc::<str>::from(address));
        endpoint().connect_with_connector_lazy(service_fn(move |_: Uri| {
            let (tls, address, name, net) = (Arc::clone(&tls), Arc::clone(&address), name.clone(), Arc::clone(&net));
            async move { tls.connect(&address, accept_roles, name, &*net).await.map(TokioIo::new) }
        }))
    }

    /// One connection to `host:port`, as [`Tls::channel`] makes them. In TLS 1.3 the server judges our certificate
    /// after this returns: its refusal is the first read's error.
    ///
    /// # Errors
    /// Of the dial; [`io::ErrorKind::TimedOut`] after [`HANDSHAKE_TIMEOUT`]; of the handshake, where
    /// [`handshake_result`](super::handshake_result) tells why.
    pub async fn connect(
        &self,
        address: &str,
        accept_roles: &'static [Role],
        name: Option<NodeName>,
        net: &dyn Net,
    ) -> io::Result<ClientIo> {
        let config = self.client_config(accept_roles, name).map_err(io::Error::other)?;
        let server = ServerName::try_from(SERVER_NAME).expect("the constant is a DNS name");
        let socket = net.dial(address).await?;
        match timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(config).connect(server, socket)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no TLS handshake from {address}"))),
        }
    }
}

/// A channel over a Unix socket, without TLS: who may connect is the file system's to say.
pub fn uds_channel(path: &Path) -> Channel {
    let path = Arc::<PathBuf>::new(path.to_owned());
    endpoint().connect_with_connector_lazy(service_fn(move |_: Uri| {
        let path = Arc::clone(&path);
        async move { UnixStream::connect(&*path).await.map(TokioIo::new) }
    }))
}

fn endpoint() -> Endpoint {
    Endpoint::from_static(ORIGIN)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}
