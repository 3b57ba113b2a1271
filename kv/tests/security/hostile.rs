//! An upstream with a valid replica's certificate that answers a tail and a snapshot as it likes.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_daemon::{Acceptor, AcceptorLimits, Role, Shutdown, Tls};
use cinnabar_kv_api::limits::MESSAGE_BYTES_MAX;
use cinnabar_kv_api::proto::replication_server::{Replication, ReplicationServer};
use cinnabar_kv_api::proto::{SnapshotChunk, SnapshotRequest, TailRequest, TailResponse};
use futures::{Stream, StreamExt, stream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::fixture::Pki;

/// A stream of answers, each when it likes.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Tail = dyn Fn(TailRequest) -> Result<Answers<TailResponse>, Status> + Send + Sync;
type Snapshot = dyn Fn(SnapshotRequest) -> Result<Answers<SnapshotChunk>, Status> + Send + Sync;

/// How it answers.
#[derive(Clone)]
pub struct Script {
    pub tail: Arc<Tail>,
    pub snapshot: Arc<Snapshot>,
}

impl Script {
    /// Answers tails alone.
    pub fn tail(tail: impl Fn(TailRequest) -> Result<Answers<TailResponse>, Status> + Send + Sync + 'static) -> Self {
        let none = |_| Err(Status::not_found("no snapshot here"));
        Self { tail: Arc::new(tail), snapshot: Arc::new(none) }
    }

    /// Has no log, as it says, and answers snapshots.
    pub fn snapshot(
        snapshot: impl Fn(SnapshotRequest) -> Result<Answers<SnapshotChunk>, Status> + Send + Sync + 'static,
    ) -> Self {
        let purged = |_| Err(Status::out_of_range("the log is gone: take a snapshot"));
        Self { tail: Arc::new(purged), snapshot: Arc::new(snapshot) }
    }
}

/// These answers, then nothing more, but the stream stays open.
pub fn open<T: Send + 'static>(answers: Vec<Result<T, Status>>) -> Answers<T> {
    Box::pin(stream::iter(answers).chain(stream::pending()))
}

/// These answers, then the end.
pub fn ended<T: Send + 'static>(answers: Vec<Result<T, Status>>) -> Answers<T> {
    Box::pin(stream::iter(answers))
}

/// A frame as it is sent.
pub fn message(frame: Bytes) -> TailResponse {
    TailResponse { frame, path: vec!["v1".to_owned(), "relay".to_owned()] }
}

#[tonic::async_trait]
impl Replication for Script {
    type TailStream = Answers<TailResponse>;

    async fn tail(&self, request: Request<TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        (self.tail)(request.into_inner()).map(Response::new)
    }

    type SnapshotStream = Answers<SnapshotChunk>;

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        (self.snapshot)(request.into_inner()).map(Response::new)
    }
}

/// A running one.
pub struct Hostile {
    pub address: String,
    shutdown: Shutdown,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Hostile {
    /// With a replica's certificate.
    pub fn start(pki: &Pki, script: Script) -> Self {
        Self::start_as(pki.tls(Role::Replica, "relay"), pki, script)
    }

    pub fn start_as(tls: Arc<Tls>, pki: &Pki, script: Script) -> Self {
        let listener = pki.env.net.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incoming = Acceptor::new(listener, tls, AcceptorLimits::default());
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let service = ReplicationServer::new(script).max_encoding_message_size(2 * MESSAGE_BYTES_MAX);
        tokio::spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(incoming, async move { stop.wait().await })
                .await
        });
        Self { address, shutdown }
    }
}
