//! The Raft core: openraft over our log, state and network, and what a voter does around it.
//!
//! What is asked of openraft: one leader a term, pre-vote, leader transfer, pipelined appends, and that an entry is
//! committed only when a quorum has said that it is on disk. What it is not asked: to make snapshots of its own accord,
//! or to purge; both follow what is provably durable (`state_machine.rs`, [`Voter::purge`]).

mod log_store;
mod network;
mod state_machine;
mod types;

#[cfg(test)]
mod tests;

/// The generated messages between voters.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    tonic::include_proto!("cinnabar.raft.v1");
}

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::{Env, Tls};
use cinnabar_kv_api::{Command, NodeId, StoreId};
use futures::FutureExt;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{Config, Instant as _, ReadPolicy, ServerState, SnapshotPolicy};
use parking_lot::Mutex;

pub use log_store::{LogStore, vote_file};
pub use network::{Network, STORE_METADATA, TO_METADATA, addressed, decode_request, encode};
pub use state_machine::{SnapshotData, StateMachine, stored_membership};
pub use types::{Node, Proposal, SnapshotMeta, Types, single_membership, to_index, to_log_id};

use crate::limits::WRITE_WAIT_MS_MAX;
use crate::local::Local;
use crate::log::{Log, LogError};
use crate::milestones::Milestones;
use crate::snapshot::Header;
use crate::state::Outcome;

/// Election timeouts without word from the leader, or from a quorum, after which a voter counts as out of touch.
const OUT_OF_TOUCH_ELECTIONS: u64 = 3;
/// Entries that a learner may lack and still count as caught up.
const LEARNER_BEHIND_MAX: u64 = 1_000;

/// openraft with our types.
pub type Raft = openraft::Raft<Types, StateMachine>;

/// Time between two heartbeats of the leader, and the bounds of the time after which a voter that heard none asks for
/// votes, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest election timeout.
    pub election_ms_min: u64,
    /// Longest election timeout.
    pub election_ms_max: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat_ms: 250, election_ms_min: 1000, election_ms_max: 2000 }
    }
}

/// Why a write, a read or a change of membership was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RaftProblem {
    /// Another voter leads, or none does.
    #[error("this voter does not lead; the leader is {}", .0.as_ref().map_or("not known", |(_, node)| &node.name))]
    NotLeader(Option<(NodeId, Node)>),
    /// No answer from a quorum in time: the write may still come to be.
    #[error("no quorum within {0} ms; the write may still be applied, ask again with the same sequence")]
    NoQuorum(u64),
    /// A change of membership that cannot be done.
    #[error("{0}")]
    Membership(String),
    /// The core has ended: this process must end.
    #[error("the Raft core has ended: {0}")]
    Fatal(String),
}

/// The core of one voter.
pub struct Voter {
    raft: Raft,
    id: NodeId,
    local: Arc<Local>,
    log: Log,
    milestones: Arc<Milestones>,
    env: Env,
    silence_ms_max: u64,
    heard_ms: AtomicU64,
}

fn write_problem(error: RaftError<Types, ClientWriteError<Types>>) -> RaftProblem {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            RaftProblem::NotLeader(forward.leader_id.zip(forward.leader_node))
        }
        // Another leader took its place in the log, or may yet take it over: a retry with the same sequence tells.
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => RaftProblem::NotLeader(None),
        RaftError::APIError(error) => RaftProblem::Membership(error.to_string()),
        RaftError::Fatal(error) => RaftProblem::Fatal(error.to_string()),
    }
}

/// What a voter is started from.
pub struct Parts {
    /// Its id.
    pub id: NodeId,
    /// Its store.
    pub store_id: StoreId,
    /// Its copy.
    pub local: Arc<Local>,
    /// Its log.
    pub log: Log,
    /// Places in the log.
    pub milestones: Arc<Milestones>,
    /// `host:port` at which others reach it.
    pub advertise: String,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// Clocks and dialling.
    pub env: Env,
    /// Who it is.
    pub tls: Arc<Tls>,
}

impl Voter {
    /// Starts the core.
    ///
    /// # Errors
    /// [`LogError`] for a damaged vote; openraft's for a state that does not fit the log.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, RaftProblem> {
        let fatal = |error: &dyn std::fmt::Display| RaftProblem::Fatal(error.to_string());
        let config = Config {
            cluster_name: parts.store_id.to_string(),
            heartbeat_interval: parts.timing.heartbeat_ms,
            election_timeout_min: parts.timing.election_ms_min,
            election_timeout_max: parts.timing.election_ms_max,
            max_payload_entries: 1024,
            enable_pre_vote: Some(true),
            snapshot_policy: SnapshotPolicy::Never,
            // Nearer than this to the end of the log, a learner has caught up.
            replication_lag_threshold: LEARNER_BEHIND_MAX,
            max_in_snapshot_log_to_keep: u64::MAX,
            purge_batch_size: 1,
            allow_log_reversion: Some(false),
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(|error| fatal(&error))?);
        let installed = Arc::new(Mutex::new(parts.local.point().applied));
        let store = LogStore::new(parts.log.clone(), parts.milestones.clone(), installed.clone())
            .map_err(|error: LogError| fatal(&error))?;
        let machine = StateMachine::new(parts.local.clone(), parts.log.clone(), parts.milestones.clone(), installed)
            .map_err(|error: io::Error| fatal(&error))?;
        let env = parts.env.clone();
        let silence_ms_max = OUT_OF_TOUCH_ELECTIONS * parts.timing.election_ms_max;
        let network = Network { env: parts.env, tls: parts.tls, store_id: parts.store_id, advertise: parts.advertise };
        let raft = Raft::new(parts.id, config, network, store, machine).await.map_err(|error| fatal(&error))?;
        let (local, log, milestones) = (parts.local, parts.log, parts.milestones);
        let heard_ms = AtomicU64::new(0);
        Ok(Arc::new(Self { raft, id: parts.id, local, log, milestones, env, silence_ms_max, heard_ms }))
    }

    /// openraft itself, for the server between voters.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// This voter's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// This voter's log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Places of its log at which a frame may end.
    pub fn milestones(&self) -> &Arc<Milestones> {
        &self.milestones
    }

    /// Makes a new cluster of these voters and names the store.
    ///
    /// # Errors
    /// When it was made before, or no quorum answers.
    pub async fn initialize(&self, members: BTreeMap<NodeId, Node>, genesis: &Command) -> Result<(), RaftProblem> {
        use openraft::errors::InitializeError;
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(RaftProblem::Membership(error.to_string())),
        }
        // The first leader may be another of them; it is the one that must take the genesis, so wait for a leader and
        // let the caller ask that one.
        let wait = Duration::from_millis(WRITE_WAIT_MS_MAX);
        let led = self.raft.wait(Some(wait)).metrics(|metrics| metrics.current_leader.is_some(), "a leader").await;
        led.map_err(|_| RaftProblem::NoQuorum(WRITE_WAIT_MS_MAX))?;
        if self.local.point().store.is_some() {
            return Ok(());
        }
        self.propose(genesis.to_payload()).await.map(|_| ())
    }

    /// Has a command committed and applied, given as [`Command::to_payload`]; gives its answer.
    ///
    /// # Errors
    /// [`RaftProblem`]; after [`RaftProblem::NoQuorum`] it may still come to be.
    pub async fn propose(&self, payload: Bytes) -> Result<Outcome, RaftProblem> {
        let write = self.raft.client_write(Proposal(payload));
        match tokio::time::timeout(Duration::from_millis(WRITE_WAIT_MS_MAX), write).await {
            Ok(Ok(answer)) => Ok(answer.data),
            Ok(Err(error)) => Err(write_problem(error)),
            Err(_) => Err(RaftProblem::NoQuorum(WRITE_WAIT_MS_MAX)),
        }
    }

    /// Returns once this node, leading, has applied every write that was answered before the call.
    ///
    /// # Errors
    /// [`RaftProblem`].
    pub async fn read_index(&self) -> Result<(), RaftProblem> {
        use openraft::errors::LinearizableReadError;
        let read = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(Duration::from_millis(WRITE_WAIT_MS_MAX), read).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(RaftProblem::NotLeader(forward.leader_id.zip(forward.leader_node)))
            }
            Ok(Err(RaftError::Fatal(error))) => Err(RaftProblem::Fatal(error.to_string())),
            Ok(Err(RaftError::APIError(_))) | Err(_) => Err(RaftProblem::NoQuorum(WRITE_WAIT_MS_MAX)),
        }
    }

    /// Adds a learner and waits until it has caught up.
    ///
    /// # Errors
    /// [`RaftProblem`].
    pub async fn add_learner(&self, id: NodeId, node: Node) -> Result<(), RaftProblem> {
        self.raft.add_learner(id, node, true).await.map(|_| ()).map_err(write_problem)
    }

    /// Makes these the voters; others that were voters leave the cluster.
    ///
    /// # Errors
    /// [`RaftProblem`].
    pub async fn change_voters(&self, voters: impl IntoIterator<Item = NodeId>) -> Result<(), RaftProblem> {
        let voters: std::collections::BTreeSet<NodeId> = voters.into_iter().collect();
        self.raft.change_membership(voters, false).await.map(|_| ()).map_err(write_problem)
    }

    /// Removes a member that does not vote.
    ///
    /// # Errors
    /// [`RaftProblem`].
    pub async fn remove_learner(&self, id: NodeId) -> Result<(), RaftProblem> {
        let gone = openraft::ChangeMembers::RemoveNodes(std::collections::BTreeSet::from([id]));
        self.raft.change_membership(gone, false).await.map(|_| ()).map_err(write_problem)
    }

    /// Voters and learners, by id.
    pub fn members(&self) -> BTreeMap<NodeId, (Node, bool)> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let voters: Vec<NodeId> = metrics.membership_config.membership().voter_ids().collect();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(id, node)| (*id, (node.clone(), voters.contains(id)))).collect()
    }

    /// openraft's metrics.
    pub fn metrics(&self) -> openraft::RaftMetrics<Types> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Highest index that this voter knows a quorum to have.
    pub fn committed(&self) -> u64 {
        self.metrics().cluster_committed.map_or(0, |at| to_index(at.index))
    }

    /// Does this voter lead, and can serve? One that has lost its quorum leads nobody.
    pub fn leads(&self) -> bool {
        let metrics = self.metrics();
        metrics.state == ServerState::Leader && metrics.current_leader == Some(self.id) && self.is_in_touch()
    }

    /// Has this voter lately heard from its leader, or from a quorum as the leader? A removed voter has not.
    pub fn is_in_touch(&self) -> bool {
        let now = self.env.clock.unix_ms();
        now.saturating_sub(self.in_touch_at(now)) <= self.silence_ms_max
    }

    /// Why the core has ended, once it has: this process must end then. Looked at now and then; whoever waited for it
    /// would be woken by every write.
    pub fn ended(&self) -> Option<String> {
        let mut metrics = self.raft.metrics();
        // A core that panicked has said nothing, but its end of the channel is gone.
        while let Some(changed) = metrics.changed().now_or_never() {
            if changed.is_err() {
                return Some("its task is gone".to_owned());
            }
        }
        metrics.borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// The leader as this voter knows it.
    pub fn leader(&self) -> Option<(NodeId, Node)> {
        let metrics = self.metrics();
        let leader = metrics.current_leader?;
        metrics.membership_config.membership().get_node(&leader).map(|node| (leader, node.clone()))
    }

    /// Takes note that the leader was heard at this time.
    pub fn note_heard(&self, unix_ms: u64) {
        self.heard_ms.fetch_max(unix_ms, Ordering::Relaxed);
    }

    /// When this voter was last sure to be in touch with the cluster, in milliseconds since 1970: as leader with a
    /// quorum, as another with the leader. 0 before that.
    pub fn in_touch_at(&self, now_ms: u64) -> u64 {
        let metrics = self.metrics();
        if metrics.state != ServerState::Leader {
            return self.heard_ms.load(Ordering::Relaxed);
        }
        let alone = metrics.membership_config.membership().voter_ids().count() == 1;
        let acked = metrics.last_quorum_acked.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        match acked {
            _ if alone => now_ms,
            Some(ago) => now_ms.saturating_sub(ago),
            None => 0,
        }
    }

    /// Hands leadership to the most advanced other voter, if this one leads; waits until it has gone, bounded.
    ///
    /// # Errors
    /// [`RaftProblem`].
    pub async fn transfer_leader(&self, to: Option<NodeId>, wait: Duration) -> Result<(), RaftProblem> {
        let metrics = self.metrics();
        if metrics.state != ServerState::Leader {
            return Err(RaftProblem::NotLeader(self.leader()));
        }
        let voters: Vec<NodeId> = metrics.membership_config.membership().voter_ids().collect();
        let matched = metrics.replication.clone().unwrap_or_default();
        let advanced = voters.iter().filter(|id| **id != self.id).max_by_key(|id| matched.get(id).cloned().flatten());
        let target = match to {
            Some(to) if voters.contains(&to) => to,
            Some(to) => return Err(RaftProblem::Membership(format!("node {to} is not a voter"))),
            None => *advanced.ok_or_else(|| RaftProblem::Membership("there is no other voter".to_owned()))?,
        };
        self.raft.trigger().transfer_leader(target).await.map_err(|error| RaftProblem::Fatal(error.to_string()))?;
        let waiting = self.raft.wait(Some(wait));
        let gone = waiting.metrics(|m| m.current_leader.is_some_and(|l| l != self.id), "handed over").await;
        gone.map(|_| ()).map_err(|_| RaftProblem::NoQuorum(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Lets go of log entries that are on disk in the state and older than what is kept for replicas.
    ///
    /// # Errors
    /// [`RaftProblem::Fatal`].
    pub async fn purge(&self, keep_bytes: u64) -> Result<(), RaftProblem> {
        let fatal = |error: openraft::errors::Fatal<Types>| RaftProblem::Fatal(error.to_string());
        let upto = self.log.index_keeping(keep_bytes).min(self.local.state().durable_index());
        if upto <= self.log.purged().index {
            return Ok(());
        }
        // openraft purges only below what a snapshot claims; the claim is renewed from what is durable now.
        self.raft.trigger().snapshot().await.map_err(fatal)?;
        self.raft.trigger().purge_log(upto - 1).await.map_err(fatal)
    }

    /// Installs a snapshot file that was fetched for the leader with this vote.
    ///
    /// # Errors
    /// [`RaftProblem::Fatal`], or when the file's membership is damaged.
    pub async fn install(
        &self,
        vote: openraft::alias::VoteOf<Types>,
        header: &Header,
        file: std::path::PathBuf,
    ) -> Result<openraft::raft::SnapshotResponse<Types>, RaftProblem> {
        let membership = match &header.membership {
            Some((at, body)) => {
                let membership = types::membership(body).map_err(|error| RaftProblem::Membership(error.to_string()))?;
                types::StoredMembership::new(to_log_id(at.index, at.term), membership)
            }
            None => types::StoredMembership::default(),
        };
        let meta = SnapshotMeta { last_log_id: to_log_id(header.index, header.term), last_membership: membership };
        let snapshot = openraft::alias::SnapshotOf::<Types, SnapshotData> { meta, snapshot: SnapshotData::File(file) };
        self.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| RaftProblem::Fatal(error.to_string()))
    }

    /// Ends the core.
    pub async fn stop(&self) {
        let _ = self.raft.shutdown().await;
    }
}
