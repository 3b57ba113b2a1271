//! Reads, writes, watches and status.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::Role;
use cinnabar_kv_api::limits::{
    AT_LEAST_WAIT_MS_DEFAULT, AT_LEAST_WAIT_MS_MAX, KEY_BYTES_MAX, OPERATOR_PREFIX, SCAN_BYTES_MAX, SCAN_RECORDS_MAX,
};
use cinnabar_kv_api::proto::kv_server::Kv;
use cinnabar_kv_api::proto::watch_response::Message;
use cinnabar_kv_api::proto::{self, Stamp};
use cinnabar_kv_api::{Command, Write, codec};
use futures::Stream;
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status};

use super::access::caller;
use crate::changes::After;
use crate::limits::{TICK_MS, WATCHES_MAX};
use crate::local::Local;
use crate::node::{Core, Node};
use crate::raft::{RaftProblem, Voter};
use crate::state::scan::ScanError;
use crate::state::{Outcome, Refusal};

const TOKEN_FORMAT: u8 = 1;
const TOKEN_BYTES_MAX: usize = 64 + KEY_BYTES_MAX;
/// Entries whose changes are read at once for a watch.
const WATCH_ENTRIES: usize = 64;
/// Times that a write is passed on when the leader changes under it.
const FORWARDS_MAX: usize = 3;

/// Where the next page of a scan begins.
#[derive(Serialize, Deserialize)]
struct Token {
    scan: u64,
    /// Tells one process's scans from another's.
    node_started: u64,
    after: Bytes,
}

/// See the module.
pub struct KvService {
    node: Arc<Node>,
    started: u64,
    watches: Arc<tokio::sync::Semaphore>,
}

impl KvService {
    /// Serves this node.
    pub fn new(node: Arc<Node>) -> Self {
        let started = node.env.clock.unix_ms();
        Self { node, started, watches: Arc::new(tokio::sync::Semaphore::new(WATCHES_MAX)) }
    }

    #[allow(clippy::result_large_err)]
    fn core(&self) -> Result<&Arc<Core>, Status> {
        self.node.core().ok_or_else(unassigned)
    }

    fn stamp(&self, local: &Local, applied_index: u64) -> Stamp {
        let behind_ms = behind_ms(&self.node, local);
        Stamp { applied_index, behind_ms, stale: local.is_stale() }
    }

    async fn wait(&self, local: &Local, at_least: u64, wait_ms: u32) -> Result<(), Status> {
        if at_least == 0 {
            return Ok(());
        }
        let wait = if wait_ms == 0 { AT_LEAST_WAIT_MS_DEFAULT } else { wait_ms.min(AT_LEAST_WAIT_MS_MAX) };
        Ok(local.wait_for(at_least, Duration::from_millis(wait.into())).await?)
    }
}

fn check_prefix(prefix: &[u8]) -> Result<(), Status> {
    if prefix.len() > KEY_BYTES_MAX {
        return Err(Status::invalid_argument(format!("prefix: {} bytes, at most {KEY_BYTES_MAX}", prefix.len())));
    }
    Ok(())
}

/// Refuses a write while this node's disk is nearly full.
///
/// # Errors
/// `RESOURCE_EXHAUSTED`.
#[allow(clippy::result_large_err)]
pub fn check_disk(node: &Node) -> Result<(), Status> {
    if node.disk_full.load(Ordering::Acquire) {
        return Err(Status::resource_exhausted("the disk is nearly full: writes are refused until there is room"));
    }
    Ok(())
}

/// A voter that was given no node id yet.
pub fn unassigned() -> Status {
    Status::unavailable("this voter belongs to no cluster yet: `cinnabar cluster init` or `cluster add-voter`")
}

/// Age of what a node shows: a voter in touch is as fresh as its contact, another as its newest checkpoint.
pub fn behind_ms(node: &Node, local: &Local) -> u64 {
    let now = node.env.clock.unix_ms();
    match node.core().and_then(|core| core.voter.as_ref()) {
        Some(voter) => match voter.in_touch_at(now) {
            0 => u64::MAX,
            at => now.saturating_sub(at),
        },
        None => local.behind_ms(now),
    }
}

fn outcome_answer(outcome: Outcome) -> Result<proto::WriteResponse, Status> {
    match outcome {
        Outcome::Written { index } | Outcome::Done { index } => {
            Ok(proto::WriteResponse { index, succeeded: true, ..Default::default() })
        }
        Outcome::Unmet { index, condition, actual } => {
            Ok(proto::WriteResponse { index, succeeded: false, failed_condition: condition, actual_mod_index: actual })
        }
        Outcome::Refused { refusal, .. } => Err(match refusal {
            Refusal::AnsweredBefore => {
                Status::already_exists("this sequence was answered before and its answer is forgotten")
            }
            Refusal::NoGenesis => Status::unavailable("the store has no name yet: `cinnabar cluster init`"),
            Refusal::Malformed | Refusal::SecondGenesis => Status::internal("a checked write was refused at apply"),
        }),
    }
}

/// Has a command committed through the leader, wherever this is called.
///
/// # Errors
/// The leader's status.
pub async fn propose(node: &Arc<Node>, voter: &Arc<Voter>, command: Bytes) -> Result<Outcome, Status> {
    let mut last = Status::unavailable("no leader is known");
    for _ in 0..FORWARDS_MAX {
        match voter.propose(command.clone()).await {
            Ok(outcome) => return Ok(outcome),
            Err(RaftProblem::NotLeader(Some(leader))) if leader.0 != voter.id() => {
                match super::raft::forward(node, &leader, command.clone()).await {
                    Ok(outcome) => return Ok(outcome),
                    Err(status) if status.code() == tonic::Code::Unavailable => last = status,
                    Err(status) => return Err(status),
                }
            }
            Err(problem @ RaftProblem::NotLeader(_)) => last = problem.into(),
            Err(problem) => return Err(problem.into()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(last)
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<proto::WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for KvService {
    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        let started = self.node.env.clock.now();
        let core = self.core()?;
        let request = request.into_inner();
        if request.linearizable {
            let no_voter = || Status::failed_precondition("a linearizable read is asked of a voter, this is a replica");
            let voter = core.voter.as_ref().ok_or_else(no_voter)?;
            match voter.read_index().await {
                Ok(()) => {}
                Err(RaftProblem::NotLeader(Some(_))) => {
                    return super::raft::forward_get(&self.node, voter, request).await;
                }
                Err(problem) => return Err(problem.into()),
            }
        }
        self.wait(&core.local, request.at_least, request.wait_ms).await?;
        let read = core.local.get(&request.key)?;
        let stamp = Some(self.stamp(&core.local, read.applied_index));
        let answer = match read.record {
            Some(record) => proto::GetResponse { stamp, found: true, value: record.value, mod_index: record.mod_index },
            None => proto::GetResponse { stamp, ..Default::default() },
        };
        self.node.metrics.reads_grpc.increment(1);
        self.node.metrics.read_seconds_grpc.record(self.node.env.clock.now().duration_since(started).as_secs_f64());
        Ok(Response::new(answer))
    }

    async fn scan(&self, request: Request<proto::ScanRequest>) -> Result<Response<proto::ScanResponse>, Status> {
        let core = self.core()?;
        let request = request.into_inner();
        check_prefix(&request.prefix)?;
        self.wait(&core.local, request.at_least, request.wait_ms).await?;
        core.local.check_serving()?;
        let state = core.local.state();
        let now = self.node.env.clock.unix_ms();
        let lost = || Status::aborted(ScanError::Lost.to_string());
        let (scan, after) = if request.token.is_empty() {
            (state.open_scan(now).map_err(|error| scan_status(&error))?, Bytes::new())
        } else {
            let token = codec::decode::<Token, TOKEN_BYTES_MAX>("token", TOKEN_FORMAT, &request.token)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            if token.node_started != self.started || !token.after.starts_with(&request.prefix) {
                return Err(lost());
            }
            (token.scan, token.after)
        };
        let limit = if request.limit == 0 { SCAN_RECORDS_MAX } else { request.limit.min(SCAN_RECORDS_MAX) };
        let (prefix, keys_only, started) = (request.prefix, request.keys_only, self.started);
        let page = tokio::task::spawn_blocking(move || {
            // What came before this page is not asked for again, also when its answer gets lost.
            state.scan_passed(scan, &after);
            let page = state.scan_page(scan, now, &prefix, &after, limit as usize, SCAN_BYTES_MAX);
            if !matches!(&page, Ok(page) if !page.done) {
                state.close_scan(scan);
            }
            page
        });
        let page = page.await.map_err(|error| Status::internal(error.to_string()))?;
        let page = page.map_err(|error| scan_status(&error))?;
        let next_token = match page.records.last() {
            Some((key, _)) if !page.done => {
                codec::encode(TOKEN_FORMAT, &Token { scan, node_started: started, after: key.clone() }).into()
            }
            _ => Bytes::new(),
        };
        let record = |(key, record): (Bytes, crate::state::Record)| proto::Record {
            key,
            value: if keys_only { Bytes::new() } else { record.value },
            mod_index: record.mod_index,
        };
        let stamp = Some(self.stamp(&core.local, core.local.applied_index()));
        let records = page.records.into_iter().map(record).collect();
        Ok(Response::new(proto::ScanResponse { stamp, at_index: page.at_index, records, next_token }))
    }

    async fn write(&self, request: Request<proto::WriteRequest>) -> Result<Response<proto::WriteResponse>, Status> {
        let started = self.node.env.clock.now();
        let role = caller(&request);
        let core = self.core()?;
        let no_voter = || Status::failed_precondition("writes are taken by voters, this is a replica");
        let voter = core.voter.as_ref().ok_or_else(no_voter)?;
        let write =
            Write::try_from(request.into_inner()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if role == Some(Role::Operator)
            && let Some(op) = write.ops.iter().find(|op| !op.key().as_bytes().starts_with(OPERATOR_PREFIX))
        {
            let key = op.key().as_bytes().escape_ascii().to_string();
            return Err(Status::permission_denied(format!("operators write only under operator/, not {key}")));
        }
        check_disk(&self.node)?;
        let busy = |_| Status::resource_exhausted("too many writes are in flight; try again in 100 ms");
        let _place = self.node.writes.try_acquire().map_err(busy)?;
        let result = propose(&self.node, voter, Command::Write(write).to_payload()).await;
        let metrics = &self.node.metrics;
        metrics.write_seconds.record(self.node.env.clock.now().duration_since(started).as_secs_f64());
        match &result {
            Ok(Outcome::Written { .. } | Outcome::Done { .. }) => metrics.written.increment(1),
            Ok(Outcome::Unmet { .. }) => metrics.unmet.increment(1),
            Ok(Outcome::Refused { .. }) => metrics.refused.increment(1),
            Err(_) => {
                metrics.write_failed.increment(1);
                metrics.proposals_failed.increment(1);
            }
        }
        outcome_answer(result?).map(Response::new)
    }

    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<proto::WatchRequest>) -> Result<Response<WatchStream>, Status> {
        let core = self.core()?;
        let request = request.into_inner();
        check_prefix(&request.prefix)?;
        core.local.check_serving()?;
        let busy = |_| Status::resource_exhausted(format!("{WATCHES_MAX} watches are open on this node"));
        let place = self.watches.clone().try_acquire_owned().map_err(busy)?;
        self.node.metrics.watchers.increment(1.0);
        let position = if request.from_now { core.local.applied_index() } else { request.after_index };
        let applied = core.local.changes().watch();
        let state = Watching {
            node: self.node.clone(),
            core: core.clone(),
            prefix: request.prefix,
            position,
            applied,
            ready: Vec::new(),
            ended: false,
            first: true,
            _place: place,
        };
        Ok(Response::new(Box::pin(futures::stream::unfold(state, |mut state| async move {
            let message = state.next().await?;
            Some((Ok(proto::WatchResponse { message: Some(message) }), state))
        }))))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusResponse>, Status> {
        Ok(Response::new(describe(&self.node)))
    }
}

fn scan_status(error: &ScanError) -> Status {
    match error {
        ScanError::Lost => Status::aborted(error.to_string()),
        ScanError::TooMany => Status::resource_exhausted(error.to_string()),
        ScanError::Store(_) => Status::data_loss(error.to_string()),
    }
}

/// One open watch. It holds a position and nothing else: a reader that is slow is not waited for, and finds that the
/// changes are gone when it comes back.
struct Watching {
    node: Arc<Node>,
    core: Arc<Core>,
    prefix: Bytes,
    position: u64,
    applied: tokio::sync::watch::Receiver<u64>,
    ready: Vec<Message>,
    ended: bool,
    first: bool,
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.node.metrics.watchers.decrement(1.0);
    }
}

impl Watching {
    async fn next(&mut self) -> Option<Message> {
        let tick = Duration::from_millis(TICK_MS);
        loop {
            if let Some(message) = self.ready.pop() {
                return Some(message);
            }
            if self.ended || self.node.shutdown.is_triggered() {
                return None;
            }
            self.applied.borrow_and_update();
            let before = self.position;
            self.fill();
            if !self.ready.is_empty() || self.position > before {
                continue;
            }
            tokio::select! {
                changed = self.applied.changed() => if changed.is_err() { return None },
                () = self.node.shutdown.wait() => return None,
                () = tokio::time::sleep(tick) => {
                    let behind_ms = behind_ms(&self.node, &self.core.local);
                    return Some(Message::Progress(proto::Progress { applied_index: self.position, behind_ms }));
                }
            }
        }
    }

    fn fill(&mut self) {
        match self.core.local.changes().after(self.position, WATCH_ENTRIES) {
            After::Gone { oldest } => {
                let (reason, counter) = if self.first {
                    ("the changes after this index are gone", &self.node.metrics.resyncs_gone)
                } else {
                    ("the watch was too slow, or a snapshot took the place of the log", &self.node.metrics.resyncs_slow)
                };
                counter.increment(1);
                self.ended = true;
                self.ready.push(Message::Resync(proto::Resync { reason: reason.to_owned(), oldest_index: oldest }));
            }
            After::Changes { changes, applied } => {
                for entry in changes.iter().rev() {
                    let under = entry.changes.iter().filter(|change| change.key.starts_with(&self.prefix));
                    let events: Vec<_> = under.map(event).collect();
                    if !events.is_empty() {
                        self.ready.push(Message::Changes(proto::Changes { index: entry.index, events }));
                    }
                }
                self.position = self.position.max(applied);
                self.first = false;
            }
        }
    }
}

fn event(change: &crate::state::Change) -> proto::Event {
    let kind = if change.value.is_some() { proto::op::Kind::Put } else { proto::op::Kind::Delete };
    proto::Event { kind: kind.into(), key: change.key.clone(), value: change.value.clone().unwrap_or_default() }
}

/// Describes a node.
pub fn describe(node: &Arc<Node>) -> proto::StatusResponse {
    let mut status = proto::StatusResponse {
        node: node.name().to_string(),
        cluster: node.cluster().to_string(),
        version: node.version.clone(),
        role: "unassigned".to_owned(),
        health: "unassigned".to_owned(),
        labels: node.labels.lock().clone().into_iter().collect(),
        ..Default::default()
    };
    let Some(core) = node.core() else { return status };
    let point = core.local.point();
    status.store_id = point.store.as_ref().map_or(Bytes::new(), |(_, id)| id.to_bytes());
    status.applied_index = point.applied.index;
    status.term = point.applied.term;
    status.chain_head = point.applied.head.to_bytes();
    status.state_hash = point.state_hash.to_bytes();
    status.records = point.records;
    status.first_log_index = core.log.purged().index + 1;
    status.behind_ms = behind_ms(node, &core.local);
    status.committed_index = core.local.committed();
    status.health = health(node, core, status.behind_ms).to_owned();
    if let Some(voter) = &core.voter {
        describe_voter(voter, &mut status);
    }
    if let Some(replica) = &core.replica {
        let edge = node.tls.identity().role == Role::Edge;
        status.role = if edge { "edge" } else { "replica" }.to_owned();
        status.fed_by = replica.upstreams().current_name().unwrap_or_default();
        status.upstreams = replica.upstreams().describe();
    }
    status
}

fn health(node: &Node, core: &Core, behind_ms: u64) -> &'static str {
    if core.local.is_wrong() {
        "damaged"
    } else if core.local.check_serving().is_err() {
        "no-state"
    } else if core.local.is_stale() {
        "catching-up"
    } else if core.voter.as_ref().is_some_and(|voter| voter.leader().is_none() || !voter.is_in_touch()) {
        "no-leader"
    } else if node.disk_full.load(Ordering::Acquire) {
        "disk-full"
    } else if behind_ms > crate::limits::STALE_MS {
        "stale"
    } else {
        "ok"
    }
}

fn describe_voter(voter: &Arc<Voter>, status: &mut proto::StatusResponse) {
    let metrics = voter.metrics();
    let members = voter.members();
    status.node_id = voter.id();
    status.term = metrics.current_term;
    status.committed_index = status.committed_index.max(voter.committed());
    let leader = voter.leader();
    status.leader = leader.as_ref().map(|(_, node)| node.name.clone()).unwrap_or_default();
    let leads = voter.leads();
    status.role = match members.get(&voter.id()) {
        _ if leads => "leader",
        Some((_, true)) => "voter",
        Some((_, false)) => "learner",
        None => "removed",
    }
    .to_owned();
    if !leads {
        status.fed_by = status.leader.clone();
    }
    let matched = metrics.replication.unwrap_or_default();
    let matched_index = |id: &u64| matched.get(id).cloned().flatten().map_or(0, |at| crate::raft::to_index(at.index));
    let member = |(id, (node, voter)): (&u64, &(crate::raft::Node, bool))| proto::Member {
        id: *id,
        name: node.name.clone(),
        address: node.address.clone(),
        voter: *voter,
        matched_index: matched_index(id),
    };
    status.members = members.iter().map(member).collect();
}
