//! Tails and snapshots, for those who follow this node.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_kv_api::proto::replication_server::Replication;
use cinnabar_kv_api::proto::{SnapshotChunk, SnapshotRequest, TailRequest, TailResponse};
use cinnabar_kv_api::{ChainHead, StoreId};
use futures::Stream;
use tonic::{Request, Response, Status};

use super::kv::unassigned;
use crate::feed::{Downstream, FeedError};
use crate::node::{Core, Node};

/// See the module.
pub struct ReplicationService {
    node: Arc<Node>,
}

impl ReplicationService {
    /// Serves this node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

impl From<FeedError> for Status {
    fn from(error: FeedError) -> Self {
        let message = error.to_string();
        match error {
            FeedError::Purged { .. } => Self::out_of_range(message),
            FeedError::Forked { .. } => Self::data_loss(message),
            FeedError::OtherStore { .. } => Self::failed_precondition(message),
            FeedError::TooMany => Self::resource_exhausted(message),
            FeedError::Ahead { .. } | FeedError::NoStore => Self::unavailable(message),
            FeedError::Log(_) => Self::internal(message),
        }
    }
}

fn optional<T>(bytes: &Bytes, parse: impl Fn(&[u8]) -> Result<T, cinnabar_kv_api::Error>) -> Result<Option<T>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    parse(bytes).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn check_store(core: &Core, asked: Option<StoreId>) -> Result<(), Status> {
    let ours = core.local.point().store.as_ref().map(|(_, id)| *id).ok_or(FeedError::NoStore)?;
    if asked.is_some_and(|asked| asked != ours) {
        return Err(FeedError::OtherStore { ours }.into());
    }
    Ok(())
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Tailing {
    node: Arc<Node>,
    core: Arc<Core>,
    downstream: Downstream,
}

impl Tailing {
    async fn next(&mut self) -> Result<Option<TailResponse>, Status> {
        let frame = tokio::select! {
            biased;
            () = self.node.shutdown.wait() => return Ok(None),
            frame = self.downstream.next() => frame,
        };
        if let Err(FeedError::Purged { .. }) = &frame {
            self.node.metrics.cut.increment(1);
        }
        let mut path = self.core.replica.as_ref().map_or(Vec::new(), |replica| replica.path());
        path.push(self.node.name().to_string());
        Ok(Some(TailResponse { frame: frame?, path }))
    }
}

#[tonic::async_trait]
impl Replication for ReplicationService {
    type TailStream = Messages<TailResponse>;

    async fn tail(&self, request: Request<TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let core = self.node.core().ok_or_else(unassigned)?.clone();
        let request = request.into_inner();
        let store_id = optional(&request.store_id, |bytes| StoreId::try_from(bytes))?;
        let head = optional(&request.chain_head, |bytes| ChainHead::try_from(bytes))?;
        core.local.check_serving()?;
        let downstream = core.feed.subscribe(store_id, request.after_index, head)?;
        let tailing = Tailing { node: self.node.clone(), core, downstream };
        // Pulled, never pushed: a slow reader's frames wait in the log, not in memory.
        let frames = futures::stream::try_unfold(tailing, |mut tailing| async move {
            Ok(tailing.next().await?.map(|message| (message, tailing)))
        });
        Ok(Response::new(Box::pin(frames)))
    }

    type SnapshotStream = Messages<SnapshotChunk>;

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let core = self.node.core().ok_or_else(unassigned)?;
        let request = request.into_inner();
        check_store(core, optional(&request.store_id, |bytes| StoreId::try_from(bytes))?)?;
        core.local.check_serving()?;
        // The log must go on where the snapshot ends.
        let least = core.log.purged().index;
        let serving = core.snapshots.serve(request.index, request.offset, least).await?;
        let chunks = futures::stream::try_unfold(serving, |mut serving| async move {
            Ok(serving.next_chunk()?.map(|chunk| (chunk, serving)))
        });
        Ok(Response::new(Box::pin(chunks)))
    }
}
