//! Calls between voters. Each names the node and the store that it is meant for, so that a wiped node or another
//! history never answers in the place of the one that was asked.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_daemon::{NodeName, Role};
use cinnabar_kv_api::limits::MESSAGE_BYTES_MAX;
use cinnabar_kv_api::proto::kv_client::KvClient;
use cinnabar_kv_api::{Command, Entry, NodeId, proto};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::kv::{check_disk, unassigned};
use crate::limits::RAFT_MESSAGE_BYTES_MAX;
use crate::node::Node;
use crate::raft::proto::raft_client::RaftClient;
use crate::raft::proto::raft_server::Raft;
use crate::raft::proto::{Body, InstallSnapshotRequest};
use crate::raft::{self, STORE_METADATA, TO_METADATA, Voter, addressed, decode_request, encode};
use crate::snapshot;
use crate::snapshot_files::{Fetch, client};
use crate::state::Outcome;

/// See the module.
pub struct RaftService {
    node: Arc<Node>,
}

impl RaftService {
    /// Serves this node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// The voter, if the call is meant for it.
    fn meant<T>(&self, request: &Request<T>) -> Result<Arc<Voter>, Status> {
        let core = self.node.core().ok_or_else(unassigned)?;
        let voter = core.voter.as_ref().ok_or_else(|| Status::failed_precondition("this is a replica"))?;
        let text = |name| request.metadata().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let store = self.node.assignment().ok().flatten().map(|assignment| assignment.store_id.to_string());
        if text(TO_METADATA) != voter.id().to_string() || Some(text(STORE_METADATA)) != store.as_deref() {
            let message = format!("this is node {}, not the one that was asked", voter.id());
            return Err(Status::failed_precondition(message));
        }
        Ok(voter.clone())
    }
}

fn fatal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

type Bodies = Pin<Box<dyn Stream<Item = Result<Body, Status>> + Send>>;

#[tonic::async_trait]
impl Raft for RaftService {
    type AppendStream = Bodies;

    async fn append(&self, request: Request<Streaming<Body>>) -> Result<Response<Bodies>, Status> {
        let voter = self.meant(&request)?;
        let clock = self.node.env.clock.clone();
        // A request that cannot be decoded ends the stream: what follows it would not fit either.
        let failed = Arc::new(Mutex::new(None));
        let (noted, heard) = (failed.clone(), voter.clone());
        let requests = request.into_inner().map(move |body| {
            let decoded = body.and_then(|body| decode_request(&body));
            if decoded.is_ok() {
                heard.note_heard(clock.unix_ms());
            }
            decoded.map_err(|status| *noted.lock() = Some(status)).ok()
        });
        let requests = requests.take_while(|request| std::future::ready(request.is_some()));
        let requests = requests.filter_map(std::future::ready);
        // A stream that stayed open would keep this server from ending.
        let stop = self.node.shutdown.clone();
        let requests = requests.take_until(async move { stop.wait().await });
        let answers = voter.raft().stream_append(Box::pin(requests));
        let answers = answers.map(|answer| answer.map(|answer| encode(&answer)).map_err(fatal));
        let end = futures::stream::poll_fn(move |_| std::task::Poll::Ready(failed.lock().take().map(Err)));
        Ok(Response::new(Box::pin(answers.chain(end))))
    }

    async fn vote(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let voter = self.meant(&request)?;
        let answer = voter.raft().vote(decode_request(request.get_ref())?).await.map_err(fatal)?;
        Ok(Response::new(encode(&answer)))
    }

    async fn pre_vote(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let voter = self.meant(&request)?;
        let answer = voter.raft().pre_vote(decode_request(request.get_ref())?).await.map_err(fatal)?;
        Ok(Response::new(encode(&answer)))
    }

    async fn transfer_leader(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let voter = self.meant(&request)?;
        let answer = voter.raft().handle_transfer_leader(decode_request(request.get_ref())?).await.map_err(fatal)?;
        Ok(Response::new(encode(&answer)))
    }

    async fn propose(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let voter = self.meant(&request)?;
        let payload = request.into_inner().data;
        let body = payload.strip_prefix(&[Entry::COMMAND]);
        let body = body.ok_or_else(|| Status::invalid_argument("payload: not a command"))?;
        Command::decode(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
        // The voter that was asked checked its own disk; this is the leader's.
        check_disk(&self.node)?;
        let outcome = voter.propose(payload).await?;
        Ok(Response::new(encode(&outcome)))
    }

    async fn install_snapshot(&self, request: Request<InstallSnapshotRequest>) -> Result<Response<Body>, Status> {
        let voter = self.meant(&request)?;
        let request = request.into_inner();
        let vote = decode_request(&Body { data: request.vote })?;
        let channel = self.node.tls.channel(&request.from, &[Role::Voter], None, self.node.env.net.clone());
        let dir = self.node.data_dir.join("fetch");
        let mut fetch = Fetch::open(&dir).map_err(fatal)?;
        let path = fetch.run(&mut client(channel), None).await?;
        let header = snapshot::read_header(&path).map_err(fatal)?;
        let installed = voter.install(vote, &header, path.clone()).await;
        let _ = std::fs::remove_file(&path);
        Ok(Response::new(encode(&installed?)))
    }
}

/// A channel to another voter; the last one is kept, since it is the leader's most of the time.
fn channel(node: &Arc<Node>, to: &raft::Node) -> Channel {
    let mut kept = node.leader_channel.lock();
    if let Some((address, channel)) = &*kept
        && *address == to.address
    {
        return channel.clone();
    }
    let name = to.name.parse::<NodeName>().ok();
    let channel = node.tls.channel(&to.address, &[Role::Voter], name, node.env.net.clone());
    *kept = Some((to.address.clone(), channel.clone()));
    channel
}

/// Has the leader take a command.
///
/// # Errors
/// The leader's status.
pub async fn forward(node: &Arc<Node>, (id, leader): &(NodeId, raft::Node), command: Bytes) -> Result<Outcome, Status> {
    let store_id = node.assignment().ok().flatten().ok_or_else(unassigned)?.store_id;
    let mut client = RaftClient::new(channel(node, leader)).max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX);
    client = client.max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX);
    let request = addressed(Body { data: command }, *id, &store_id);
    decode_request(client.propose(request).await?.get_ref())
}

/// Has the leader answer a linearizable read.
///
/// # Errors
/// The leader's status.
pub async fn forward_get(
    node: &Arc<Node>,
    voter: &Arc<Voter>,
    request: proto::GetRequest,
) -> Result<Response<proto::GetResponse>, Status> {
    KvClient::new(leader_channel(node, voter)?).max_decoding_message_size(MESSAGE_BYTES_MAX).get(request).await
}

/// A channel to the leader, for calls that only the leader answers.
///
/// # Errors
/// `UNAVAILABLE` when no other voter is known to lead.
pub fn leader_channel(node: &Arc<Node>, voter: &Arc<Voter>) -> Result<Channel, Status> {
    let (id, leader) = voter.leader().ok_or_else(|| Status::unavailable("no leader is known"))?;
    if id == voter.id() {
        return Err(Status::unavailable("leadership is changing; try again"));
    }
    Ok(channel(node, &leader))
}
