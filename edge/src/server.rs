//! The servers of an edge node: thin; one table decides who may call what.

pub mod access;
pub mod agent;
pub mod local;
pub mod peer;
pub mod rates;
pub mod sign;

use std::sync::Arc;

use cinnabar_daemon::grpc::{self, AccessLayer};
use cinnabar_daemon::{Acceptor, AcceptorLimits, Shutdown, Tls};
use cinnabar_edge_api::Refusal;
use cinnabar_edge_api::limits::MESSAGE_BYTES_MAX;
use cinnabar_edge_api::proto::peer_server::PeerServer;
use cinnabar_edge_api::proto::signer_server::SignerServer;
use cinnabar_edge_api::refusal::RefusalCode;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::service::Routes;

use crate::signer::SignMetrics;
use access::ACCESS;
use peer::PeerService;
use sign::SignService;

/// Counts what the table refuses.
fn refuse(metrics: SignMetrics) -> impl Fn(&'static str, String) -> Status + Clone {
    move |role, message| {
        metrics.denied(role);
        Refusal::new(RefusalCode::NotPermitted, message).into()
    }
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
    grpc::server()
        .layer(AccessLayer::new(ACCESS, refuse(metrics)))
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
    grpc::server()
        .layer(AccessLayer::new(ACCESS, refuse(metrics)))
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move { shutdown.wait().await })
        .await
}
