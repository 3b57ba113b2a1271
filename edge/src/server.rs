//! The servers of an edge node: thin; one table decides who may call what.

pub mod access;
pub mod agent;
pub mod peer;
pub mod rates;
pub mod sign;

use std::sync::Arc;

use cinnabar_daemon::{Acceptor, AcceptorLimits, Shutdown, Tls};
use cinnabar_edge_api::limits::MESSAGE_BYTES_MAX;
use cinnabar_edge_api::proto::peer_server::PeerServer;
use cinnabar_edge_api::proto::signer_server::SignerServer;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::limits::{
    CONNECTION_WINDOW_BYTES, HEADER_BYTES_MAX, KEEP_ALIVE, PENDING_RESETS_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX,
};
use crate::signer::SignMetrics;
use access::AccessLayer;
use peer::PeerService;
use sign::SignService;

fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
}

/// The signer, as one of the services of a listener.
pub fn signer(service: Arc<SignService>) -> SignerServer<SignService> {
    SignerServer::from_arc(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Serves peers over mutual TLS: signatures and probes, until shutdown.
///
/// # Errors
/// The transport's.
pub async fn serve_peers(
    service: Arc<SignService>,
    tls: Arc<Tls>,
    listener: TcpListener,
    metrics: SignMetrics,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let incoming = Acceptor::new(listener, tls, AcceptorLimits::default());
    let probes = PeerServer::new(PeerService::new(service.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    builder()
        .layer(AccessLayer::new(metrics))
        .add_service(signer(service))
        .add_service(probes)
        .serve_with_incoming_shutdown(incoming, async move { shutdown.wait().await })
        .await
}

/// Serves this machine's services on a Unix socket, until shutdown. `routes` begin with [`signer`]; the agent's calls
/// are added by whoever has them.
///
/// # Errors
/// The transport's.
pub async fn serve_local(
    routes: Routes,
    listener: UnixListener,
    metrics: SignMetrics,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    builder()
        .layer(AccessLayer::new(metrics))
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move { shutdown.wait().await })
        .await
}
