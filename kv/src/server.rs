//! The servers of a node: thin; each decodes, calls, and maps errors. One place decides who may call what.

pub mod access;
mod cluster;
mod kv;
mod raft;
mod replication;
pub mod resp;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::grpc::{self, AccessLayer};
use cinnabar_daemon::{Acceptor, AcceptorLimits, Shutdown};
use cinnabar_kv_api::limits::MESSAGE_BYTES_MAX;
use cinnabar_kv_api::proto::cluster_server::ClusterServer;
use cinnabar_kv_api::proto::kv_server::KvServer;
use cinnabar_kv_api::proto::replication_server::ReplicationServer;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;

use crate::limits::RAFT_MESSAGE_BYTES_MAX;
use crate::local::ReadError;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::raft::RaftProblem;
use crate::raft::proto::raft_server::RaftServer;
use access::ACCESS;
pub use kv::behind_ms;

/// Counts what the table refuses.
fn refuse(metrics: Metrics) -> impl Fn(&'static str, String) -> Status + Clone {
    move |role, message| {
        metrics.denied(role);
        Status::permission_denied(message)
    }
}

macro_rules! bounded {
    ($server:ident, $service:expr, $bytes:expr) => {
        $server::new($service).max_decoding_message_size($bytes).max_encoding_message_size($bytes)
    };
}

/// Serves everything over mutual TLS, until shutdown.
///
/// # Errors
/// The transport's.
pub async fn serve_tcp(
    node: Arc<Node>,
    listener: TcpListener,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let incoming = Acceptor::new(listener, node.tls.clone(), AcceptorLimits::default());
    grpc::server()
        .layer(AccessLayer::new(ACCESS, refuse(node.metrics.clone())))
        .add_service(bounded!(KvServer, kv::KvService::new(node.clone()), MESSAGE_BYTES_MAX))
        .add_service(bounded!(ReplicationServer, replication::ReplicationService::new(node.clone()), MESSAGE_BYTES_MAX))
        .add_service(bounded!(ClusterServer, cluster::ClusterService::new(node.clone()), MESSAGE_BYTES_MAX))
        .add_service(bounded!(RaftServer, raft::RaftService::new(node), RAFT_MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(incoming, async move { shutdown.wait().await })
        .await
}

/// Serves local readers on a Unix socket, until shutdown. Who may connect is the file system's to say.
///
/// # Errors
/// The transport's.
pub async fn serve_unix(
    node: Arc<Node>,
    listener: UnixListener,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    grpc::server()
        .layer(AccessLayer::new(ACCESS, refuse(node.metrics.clone())))
        .add_service(bounded!(KvServer, kv::KvService::new(node), MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move { shutdown.wait().await })
        .await
}

/// Serves RESP on a Unix socket, until shutdown.
pub async fn serve_resp(node: Arc<Node>, listener: UnixListener, shutdown: Shutdown) {
    let Some(core) = wait_for_core(&node, &shutdown).await else { return };
    let behind_ms = {
        let (node, local) = (node.clone(), core.local.clone());
        Arc::new(move || behind_ms(&node, &local))
    };
    let source = resp::LocalSource { local: core.local.clone(), clock: node.env.clock.clone(), behind_ms };
    resp::serve(listener, source, node.metrics.clone(), shutdown).await;
}

/// A voter without an id has nothing to serve yet.
async fn wait_for_core(node: &Arc<Node>, shutdown: &Shutdown) -> Option<Arc<crate::node::Core>> {
    while !shutdown.is_triggered() {
        if let Some(core) = node.core() {
            return Some(core.clone());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

/// Binds a Unix socket in place of one that an earlier process left.
///
/// # Errors
/// The system's; and when something that is no socket is in the way, or another process answers on it.
pub fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another process answers on it"));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, "in the way, and no socket")),
        Err(_) => {}
    }
    UnixListener::bind(path)
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::NoState | ReadError::Wrong => Self::unavailable(message),
            ReadError::Key(_) => Self::invalid_argument(message),
            ReadError::Behind { .. } => Self::deadline_exceeded(message),
            ReadError::Store(_) => Self::data_loss(message),
        }
    }
}

impl From<RaftProblem> for Status {
    fn from(problem: RaftProblem) -> Self {
        let message = problem.to_string();
        match problem {
            RaftProblem::NotLeader(_) => Self::unavailable(message),
            RaftProblem::NoQuorum(_) => Self::deadline_exceeded(message),
            RaftProblem::Membership(_) => Self::failed_precondition(message),
            RaftProblem::Fatal(_) => Self::internal(message),
        }
    }
}
