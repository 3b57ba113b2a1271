//! One node: what its servers share, and how its copy comes to be.
//!
//! A voter starts unassigned when its folder is new: it answers only the call that gives it a node id, for good. A
//! replica has its copy from the start. Law: a node id is written once into a folder, and never into a second one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use cinnabar_daemon::{ClusterId, Env, NodeName, Shutdown, Tls};
use cinnabar_kv_api::{Checkpoint, NodeId, SignedCheckpoint, StateHash, StoreId, codec};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore};
use tonic::transport::Channel;

use crate::feed::{Checkpoints, Feed};
use crate::files::{read_if_there, replace_file};
use crate::limits::WRITES_IN_FLIGHT_MAX;
use crate::local::{Local, LocalOptions};
use crate::log::{Log, LogOptions};
use crate::metrics::Metrics;
use crate::milestones::{Milestone, Milestones};
use crate::raft::{Parts, RaftProblem, Timing, Voter};
use crate::replica::Replica;
use crate::snapshot_files::SnapshotFiles;
use crate::state::Point;

pub(crate) const ASSIGNMENT_FILE: &str = "node";
pub(crate) const ASSIGNMENT_FORMAT: u8 = 1;
const ASSIGNMENT_BYTES_MAX: usize = 1024;
/// Exit code of a process whose disk failed: its log or state can no longer be trusted to take writes.
pub const EXIT_DISK: i32 = 74;

/// Which voter of which store a folder belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The cluster.
    pub cluster: ClusterId,
    /// The history.
    pub store_id: StoreId,
    /// The node.
    pub node_id: NodeId,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The folder's.
    #[error("{}: {error}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process uses the folder.
    #[error("{}: another process uses this folder", .0.display())]
    InUse(PathBuf),
    /// The log's.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The core's.
    #[error(transparent)]
    Raft(#[from] RaftProblem),
    /// The folder belongs to another node.
    #[error("this folder belongs to node {} of cluster {}", .0.node_id, .0.cluster)]
    Assigned(Assignment),
}

/// What a node serves once it has a copy.
pub struct Core {
    /// The copy.
    pub local: Arc<Local>,
    /// What it ships.
    pub feed: Arc<Feed>,
    /// Snapshot files that it serves.
    pub snapshots: Arc<SnapshotFiles>,
    /// Its log.
    pub log: Log,
    /// Set on a voter.
    pub voter: Option<Arc<Voter>>,
    /// Set on a replica.
    pub replica: Option<Arc<Replica>>,
}

/// What the servers of a node share.
pub struct Node {
    /// Clocks, randomness, dialling.
    pub env: Env,
    /// Who it is.
    pub tls: Arc<Tls>,
    /// What it counts.
    pub metrics: Metrics,
    /// Ends it.
    pub shutdown: Shutdown,
    /// `host:port` under which others reach it.
    pub advertise: String,
    /// Version and commit, for status.
    pub version: String,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Places for writes in flight.
    pub writes: Semaphore,
    /// One change of membership at a time.
    pub membership: Mutex<()>,
    /// The disk is nearly full: writes are refused.
    pub disk_full: AtomicBool,
    /// What a process that embeds a replica says of itself in the status; kv gives it no meaning.
    pub labels: parking_lot::Mutex<BTreeMap<String, String>>,
    /// The last channel to another voter.
    pub leader_channel: parking_lot::Mutex<Option<(String, Channel)>>,
    core: OnceLock<Arc<Core>>,
    /// Read once: it never changes, and calls between voters ask for it each time.
    assigned: OnceLock<Assignment>,
    local_options: LocalOptions,
    timing: Timing,
    _lock: Option<File>,
}

/// What a node is made from.
pub struct NodeParts {
    /// Clocks, randomness, dialling.
    pub env: Env,
    /// Who it is.
    pub tls: Arc<Tls>,
    /// What it counts.
    pub metrics: Metrics,
    /// Ends it.
    pub shutdown: Shutdown,
    /// `host:port` under which others reach it.
    pub advertise: String,
    /// Version and commit, for status.
    pub version: String,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Keep nothing on disk.
    pub in_memory: bool,
    /// Bytes of the read cache.
    pub cache_bytes: u64,
    /// Bytes that the engine may keep in memory.
    pub engine_cache_bytes: u64,
    /// Heartbeats and elections; a replica has none.
    pub timing: Timing,
}

pub(crate) fn lock_folder(dir: &Path) -> Result<File, NodeError> {
    let folder = |error| NodeError::Folder { path: dir.to_owned(), error };
    fs::create_dir_all(dir).map_err(folder)?;
    let permissions = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
    fs::set_permissions(dir, permissions).map_err(folder)?;
    let file = File::create(dir.join("lock")).map_err(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(NodeError::InUse(dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(folder(error)),
    }
}

/// Options of a log whose failure ends the process.
pub fn log_options(metrics: &Metrics, sync_appends: bool) -> LogOptions {
    let seconds = metrics.fsync_seconds.clone();
    LogOptions {
        sync_appends,
        // The state may be ahead of the log (`Node::open_log`), so it says nothing of what the log has synced.
        durable: 0,
        on_fatal: Box::new(|error| {
            tracing::error!(%error, "the log's disk failed: this process ends");
            std::process::exit(EXIT_DISK);
        }),
        on_sync: Box::new(move |sync| {
            let started = tokio::time::Instant::now();
            let result = sync();
            seconds.record(started.elapsed().as_secs_f64());
            result
        }),
    }
}

impl Node {
    /// Takes the folder.
    ///
    /// # Errors
    /// [`NodeError::InUse`], or the system's.
    pub fn new(parts: NodeParts) -> Result<Arc<Self>, NodeError> {
        let lock = if parts.in_memory { None } else { Some(lock_folder(&parts.data_dir)?) };
        let local_options = LocalOptions {
            dir: (!parts.in_memory).then(|| parts.data_dir.join("state")),
            cache_bytes: parts.cache_bytes,
            engine_cache_bytes: parts.engine_cache_bytes,
        };
        Ok(Arc::new(Self {
            env: parts.env,
            tls: parts.tls,
            metrics: parts.metrics,
            shutdown: parts.shutdown,
            advertise: parts.advertise,
            version: parts.version,
            labels: parking_lot::Mutex::default(),
            data_dir: parts.data_dir,
            writes: Semaphore::new(WRITES_IN_FLIGHT_MAX),
            membership: Mutex::new(()),
            disk_full: AtomicBool::new(false),
            leader_channel: parking_lot::Mutex::new(None),
            core: OnceLock::new(),
            assigned: OnceLock::new(),
            local_options,
            timing: parts.timing,
            _lock: lock,
        }))
    }

    /// The copy and what belongs to it, once there is one.
    pub fn core(&self) -> Option<&Arc<Core>> {
        self.core.get()
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.tls.identity().name
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterId {
        &self.tls.identity().cluster
    }

    /// Where the copy is kept.
    pub fn local_options(&self) -> LocalOptions {
        self.local_options.clone()
    }

    /// Gives the node its core.
    pub fn set_core(&self, core: Core) {
        assert!(self.core.set(Arc::new(core)).is_ok(), "a node has one core");
    }

    /// Reads which voter this folder belongs to.
    ///
    /// # Errors
    /// The system's, or when the file does not follow its format.
    pub fn assignment(&self) -> Result<Option<Assignment>, NodeError> {
        if let Some(assigned) = self.assigned.get() {
            return Ok(Some(assigned.clone()));
        }
        let path = self.data_dir.join(ASSIGNMENT_FILE);
        let folder = |error| NodeError::Folder { path: path.clone(), error };
        let Some(bytes) = read_if_there(&path).map_err(folder)? else { return Ok(None) };
        let assigned = codec::decode::<Assignment, ASSIGNMENT_BYTES_MAX>("node id", ASSIGNMENT_FORMAT, &bytes)
            .map_err(|error| folder(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        Ok(Some(self.assigned.get_or_init(|| assigned).clone()))
    }

    /// Makes this folder the given voter's, for good, and starts it. The same assignment again does nothing.
    ///
    /// # Errors
    /// [`NodeError::Assigned`] when it belongs to another.
    pub async fn assign(self: &Arc<Self>, assignment: Assignment) -> Result<(), NodeError> {
        let _one = self.membership.lock().await;
        match self.assignment()? {
            Some(ours) if ours == assignment && self.core().is_some() => return Ok(()),
            Some(ours) if ours != assignment => return Err(NodeError::Assigned(ours)),
            _ => {}
        }
        let bytes = codec::encode(ASSIGNMENT_FORMAT, &assignment);
        replace_file(&self.data_dir, ASSIGNMENT_FILE, &bytes)
            .map_err(|error| NodeError::Folder { path: self.data_dir.clone(), error })?;
        self.start_voter(&assignment).await
    }

    /// Starts the voter that this folder belongs to.
    ///
    /// # Errors
    /// The log's, the store's, the core's.
    pub async fn start_voter(self: &Arc<Self>, assignment: &Assignment) -> Result<(), NodeError> {
        let folder = |error| NodeError::Folder { path: self.data_dir.clone(), error };
        let local = Local::open(self.local_options())?;
        let log_dir = self.data_dir.join("log");
        let log = Self::open_log(&log_dir, &local, &self.metrics).await?;
        let milestones = Milestones::open(Some(&log_dir), log.last().index).map_err(folder)?;
        let milestones = Arc::new(milestones);
        let voter = Voter::start(Parts {
            id: assignment.node_id,
            store_id: assignment.store_id,
            local: local.clone(),
            log: log.clone(),
            milestones: milestones.clone(),
            advertise: self.advertise.clone(),
            timing: self.timing,
            env: self.env.clone(),
            tls: self.tls.clone(),
        })
        .await?;
        let signer = Arc::new(Signer {
            cluster: assignment.cluster.clone(),
            store_id: assignment.store_id,
            voter: voter.clone(),
            local: local.clone(),
            tls: self.tls.clone(),
            env: self.env.clone(),
        });
        let feed = Feed::new(log.clone(), milestones, signer.clone(), self.metrics.clone());
        let running = feed.clone().run(local.watch_applied(), self.env.clock.clone(), self.shutdown.clone());
        self.shutdown.spawn(running);
        let witness = Box::new(move |point: &Point| signer.sign(point));
        let dir = self.data_dir.join("snapshots");
        let snapshots = SnapshotFiles::open(dir, local.clone(), self.env.clock.clone(), witness).map_err(folder)?;
        self.set_core(Core { local, feed, snapshots, log, voter: Some(voter), replica: None });
        Ok(())
    }

    /// Opens a voter's log beside its state.
    ///
    /// The state may be ahead of the log after a power cut: committed entries are applied before this node's own sync
    /// of them returns, and a snapshot never was in the log. What the log then misses is committed and in the state,
    /// so the log begins anew after it. What is acknowledged beyond the state is the log's own to keep.
    async fn open_log(dir: &Path, local: &Local, metrics: &Metrics) -> Result<Log, NodeError> {
        let log = Log::open(dir, log_options(metrics, true))?;
        let applied = local.point().applied;
        if log.last().index >= applied.index {
            return Ok(log);
        }
        tracing::warn!(log = log.last().index, state = applied.index, "the log ends before the state: it begins anew");
        let (done, purged) = tokio::sync::oneshot::channel();
        log.purge(applied, Box::new(move |result| drop(done.send(result))));
        let folder = |error| NodeError::Folder { path: dir.to_owned(), error };
        purged.await.map_err(|_| folder(io::Error::other("the log's thread has ended")))?.map_err(folder)?;
        Ok(log)
    }

    /// Says that the disk is nearly full, or no longer.
    pub fn set_disk_full(&self, full: bool) {
        if self.disk_full.swap(full, Ordering::AcqRel) != full {
            self.metrics.disk_full.set(f64::from(u8::from(full)));
            if full {
                tracing::error!("the disk is nearly full: writes are refused until there is room");
            } else {
                tracing::info!("there is room on the disk again");
            }
        }
    }
}

/// Makes a voter's checkpoints.
struct Signer {
    cluster: ClusterId,
    store_id: StoreId,
    voter: Arc<Voter>,
    local: Arc<Local>,
    tls: Arc<Tls>,
    env: Env,
}

impl Signer {
    fn sign_at(&self, index: u64, state_hash: StateHash) -> Option<SignedCheckpoint> {
        let at = self.voter.log().point_at(index).ok()?;
        let checkpoint = Checkpoint {
            cluster: self.cluster.clone(),
            store_id: self.store_id,
            term: at.term,
            index,
            committed: self.voter.committed().max(index),
            chain_head: at.head,
            state_hash,
            unix_ms: self.voter.in_touch_at(self.env.clock.unix_ms()),
        };
        let body = checkpoint.encode();
        match self.tls.sign(&SignedCheckpoint::message(&body)) {
            Ok(signed) => Some(SignedCheckpoint {
                body,
                certificate: signed.certificate.into(),
                scheme: signed.scheme,
                signature: signed.signature.into(),
            }),
            Err(error) => {
                tracing::error!(%error, "a checkpoint cannot be signed");
                None
            }
        }
    }

    fn sign(&self, point: &Point) -> Option<SignedCheckpoint> {
        // A state whose store has no name yet is nobody's to follow.
        point.store.as_ref()?;
        self.sign_at(point.applied.index, point.state_hash)
    }
}

impl Checkpoints for Arc<Signer> {
    fn tip(&self) -> Option<(u64, SignedCheckpoint)> {
        let point = self.local.point();
        Some((point.applied.index, self.sign(&point)?))
    }

    fn at(&self, milestone: &Milestone) -> Option<SignedCheckpoint> {
        let hash: &Bytes = &milestone.payload;
        self.sign_at(milestone.index, StateHash::try_from(&hash[..]).ok()?)
    }

    fn store_id(&self) -> Option<StoreId> {
        self.local.point().store.as_ref().map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{LogEntry, LogPoint};

    #[tokio::test]
    async fn a_log_that_ends_before_its_state_begins_anew_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let local = Local::open(LocalOptions { dir: Some(dir.path().join("state")), ..LocalOptions::default() });
        let local = local.unwrap();
        let blank = Bytes::from_static(&[cinnabar_kv_api::Entry::BLANK]);
        let mut last = LogPoint::default();
        for index in 1..=5 {
            last = LogPoint { index, term: 1, head: last.head.next(index, 1, &blank) };
            local.apply(&[LogEntry { point: last, payload: blank.clone() }]).unwrap();
        }
        let log_dir = dir.path().join("log");
        let metrics = Metrics::new();
        // What a cut leaves of the file that a log was about to begin: the state came from a snapshot.
        fs::create_dir(&log_dir).unwrap();
        fs::write(log_dir.join("00000000000000000003.log"), [0; 20]).unwrap();
        let log = Node::open_log(&log_dir, &local, &metrics).await.unwrap();
        assert_eq!(log.last(), last);
        drop(log);
        let log = Node::open_log(&log_dir, &local, &metrics).await.unwrap();
        assert_eq!(log.purged(), last);
    }
}
