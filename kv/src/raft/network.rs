//! openraft's network over gRPC with mutual TLS. Append requests are pipelined on one stream a peer; heartbeats and
//! snapshots have channels of their own, so that a large batch never delays a heartbeat.

use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::{Env, NodeName, Role, Tls};
use cinnabar_kv_api::{NodeId, StoreId, codec};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, OptionalSend};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::proto::raft_client::RaftClient;
use super::proto::{Body, InstallSnapshotRequest};
use super::state_machine::SnapshotData;
use super::types::{Entry, Node, Types, Vote};
use crate::limits::RAFT_MESSAGE_BYTES_MAX;

const MESSAGE_FORMAT: u8 = 1;
/// Bytes of an append request beside its entries, and of an entry beside its payload, about: room made ahead.
const APPEND_OVERHEAD_BYTES: usize = 256;
const ENTRY_OVERHEAD_BYTES: usize = 48;
/// Bytes of an answer between voters.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Pause after a stream to a peer could not be opened.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Metadata that names the node a call is meant for.
pub const TO_METADATA: &str = "cinnabar-to";
/// Metadata that names the store a call belongs to.
pub const STORE_METADATA: &str = "cinnabar-store";

/// Encodes a message between voters.
pub fn encode<T: Serialize>(message: &T) -> Body {
    Body { data: codec::encode(MESSAGE_FORMAT, message).into() }
}

/// Encodes an append request into one allocation: it is copied to each peer and may be large.
fn encode_append(request: &AppendEntriesRequest<Types>) -> Body {
    let entry_bytes = |entry: &Entry| match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.len() + ENTRY_OVERHEAD_BYTES,
        _ => ENTRY_OVERHEAD_BYTES,
    };
    let bytes: usize = request.entries.iter().map(entry_bytes).sum();
    let mut out = Vec::with_capacity(APPEND_OVERHEAD_BYTES + bytes);
    out.push(MESSAGE_FORMAT);
    codec::encode_into(&mut out, request);
    Body { data: out.into() }
}

/// Decodes a request between voters.
///
/// # Errors
/// When it does not follow its format or is too large.
pub fn decode_request<T: DeserializeOwned>(body: &Body) -> Result<T, Status> {
    codec::decode::<T, RAFT_MESSAGE_BYTES_MAX>("request", MESSAGE_FORMAT, &body.data)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

fn decode_answer<T: DeserializeOwned>(body: &Body) -> Result<T, RPCError<Types>> {
    codec::decode::<T, ANSWER_BYTES_MAX>("answer", MESSAGE_FORMAT, &body.data)
        .map_err(|error| RPCError::Network(NetworkError::new(&error)))
}

fn failed(status: Status) -> RPCError<Types> {
    match status.code() {
        // Nobody there, or a node that is not the one meant: wait before trying again.
        tonic::Code::Unavailable | tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied => {
            RPCError::Unreachable(Unreachable::new(&status))
        }
        _ => RPCError::Network(NetworkError::new(&status)),
    }
}

/// A request that only this node of this store answers.
pub fn addressed<T>(message: T, to: NodeId, store_id: &StoreId) -> Request<T> {
    let mut request = Request::new(message);
    let text = |text: String| MetadataValue::try_from(text).expect("digits are metadata");
    request.metadata_mut().insert(TO_METADATA, text(to.to_string()));
    request.metadata_mut().insert(STORE_METADATA, text(store_id.to_string()));
    request
}

/// Makes a network a peer.
#[derive(Clone)]
pub struct Network {
    /// Clocks and dialling.
    pub env: Env,
    /// Who this node is.
    pub tls: Arc<Tls>,
    /// The store.
    pub store_id: StoreId,
    /// `host:port` at which the others fetch snapshots from this node.
    pub advertise: String,
}

impl Network {
    fn connect(&self, target: NodeId, node: &Node) -> Peer {
        let name = node.name.parse::<NodeName>().ok();
        let channel = self.tls.channel(&node.address, &[Role::Voter], name, self.env.net.clone());
        let client = RaftClient::new(channel)
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX);
        Peer { client, target, store_id: self.store_id, advertise: self.advertise.clone() }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Node) -> Peer {
        self.connect(target, node)
    }
}

/// One peer.
pub struct Peer {
    client: RaftClient<Channel>,
    target: NodeId,
    store_id: StoreId,
    advertise: String,
}

impl Peer {
    fn request<T>(&self, message: T, option: Option<&RPCOption>) -> Request<T> {
        let mut request = addressed(message, self.target, &self.store_id);
        if let Some(option) = option {
            request.set_timeout(option.hard_ttl());
        }
        request
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let (previous, last) = (rpc.prev_log_id, rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id));
        let one = futures::stream::iter([encode_append(&rpc)]);
        let request = self.request(one, Some(&option));
        let mut answers = self.client.append(request).await.map_err(failed)?.into_inner();
        let missing = || failed(Status::unavailable("no answer to an append request"));
        let body = answers.message().await.map_err(failed)?.ok_or_else(missing)?;
        let answer: StreamAppendResult<Types> = decode_answer(&body)?;
        Ok(to_response(answer, previous, last))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // Keep-alive pings of the channel end a stream whose peer is gone.
            let request = self.request(input.map(|rpc| encode_append(&rpc)), None);
            let answers = match self.client.append(request).await {
                Ok(answers) => answers.into_inner(),
                Err(status) => {
                    // openraft's own pause runs inside the requests, which nobody polls when there is no stream.
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    return Err(failed(status));
                }
            };
            let decoded = answers.map(|body| decode_answer(&body.map_err(failed)?));
            Ok::<BoxStream<'s, _>, _>(Box::pin(decoded))
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = self.request(encode(&rpc), Some(&option));
        decode_answer(&self.client.vote(request).await.map_err(failed)?.into_inner())
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = self.request(encode(&rpc), Some(&option));
        decode_answer(&self.client.pre_vote(request).await.map_err(failed)?.into_inner())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        _snapshot: SnapshotOf<Types, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let vote = encode(&vote).data;
        let request = self.request(InstallSnapshotRequest { vote, from: self.advertise.clone() }, None);
        let installed = self.client.install_snapshot(request);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            installed = installed => match installed {
                Ok(body) => Ok(decode_answer(&body.into_inner())?),
                Err(status) => Err(failed(status).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = self.request(encode(&request), Some(&option));
        decode_answer(&self.client.transfer_leader(request).await.map_err(failed)?.into_inner())
    }
}

fn to_response(
    answer: StreamAppendResult<Types>,
    previous: Option<super::types::LogId>,
    last: Option<super::types::LogId>,
) -> AppendEntriesResponse<Types> {
    use openraft::raft::StreamAppendError;
    match answer {
        Ok(matched) if matched == last => AppendEntriesResponse::Success,
        Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
        Err(StreamAppendError::Conflict(_)) => {
            debug_assert!(previous.is_some(), "the empty prefix never conflicts");
            AppendEntriesResponse::Conflict
        }
        Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
    }
}
