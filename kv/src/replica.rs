//! A full copy outside Raft: it follows an upstream's frames, believes only what a voter signed, and feeds others.
//!
//! The road of a frame: `tail` receives it, [`verify::Verifier`] checks signature and chain, [`Local::apply_if`]
//! applies it if the state comes out as signed, the log keeps its bytes for those below, the feed passes them on. When
//! the state does not come out as signed, this node stops serving it and fetches another from the next upstream.

pub mod upstream;
pub mod verify;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::{Backoff, Clock, Env, NodeName, Role, Shutdown, Tls};
use cinnabar_kv_api::limits::{MESSAGE_BYTES_MAX, SCAN_BYTES_MAX};
use cinnabar_kv_api::proto::replication_client::ReplicationClient;
use cinnabar_kv_api::proto::{TailRequest, TailResponse};
use cinnabar_kv_api::{Checkpoint, Frame, SignedCheckpoint, StoreId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::feed::{Checkpoints, Feed};
use crate::limits::{TICK_MS, UPSTREAM_BEHIND_MS_MAX, UPSTREAM_SILENT_MS_MAX};
use crate::local::{CheckpointFile, Local, ReadError};
use crate::log::{Log, LogPoint};
use crate::metrics::Metrics;
use crate::milestones::{Milestone, Milestones};
use crate::snapshot;
use crate::snapshot_files::{Fetch, client};
use crate::state::scan::ScanError;
use crate::state::{Point, Read, Record};
use crate::store::StoreError;
use upstream::Upstreams;
use verify::{Disbelief, Verifier};

/// Roles that may be an upstream.
pub const UPSTREAM_ROLES: &[Role] = &[Role::Voter, Role::Replica, Role::Edge];
/// Records that an in-process scan reads at once.
const SCAN_RECORDS: usize = 256;
/// Names of nodes between a voter and a replica that are remembered: advice of an upstream, not verified.
const PATH_NAMES_MAX: usize = 16;
/// Bounds of the pause after every upstream has failed once.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// Why the tail of one upstream ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TailEnd {
    /// The upstream or the way to it.
    #[error("{}: {}", .0.code(), .0.message())]
    Upstream(#[from] Status),
    /// It fell silent.
    #[error("no frame and no heartbeat for {UPSTREAM_SILENT_MS_MAX} ms")]
    Silent,
    /// It lags.
    #[error("its newest checkpoint is {0} ms old")]
    Behind(u64),
    /// It sent what is not believed.
    #[error("not believed: {0}")]
    Disbelieved(#[from] Disbelief),
    /// This node's state does not come out as signed.
    #[error("the state at entry {0} does not come out as signed")]
    WrongState(u64),
    /// A better upstream answers again.
    #[error("going back to an upstream that comes first")]
    Better,
    /// A snapshot that is worth nothing.
    #[error(transparent)]
    Snapshot(#[from] snapshot::SnapshotError),
    /// This node's own disk: the process must end.
    #[error("this node's disk: {0}")]
    Own(String),
}

/// The newest checkpoint and where it is, as the feed wants it.
#[derive(Default)]
pub struct Latest(Mutex<Option<(u64, SignedCheckpoint)>>);

struct Passed {
    latest: Arc<Latest>,
    verifier: Arc<Verifier>,
}

impl Checkpoints for Passed {
    fn tip(&self) -> Option<(u64, SignedCheckpoint)> {
        self.latest.0.lock().clone()
    }

    fn at(&self, milestone: &Milestone) -> Option<SignedCheckpoint> {
        SignedCheckpoint::decode(&milestone.payload).ok()
    }

    fn store_id(&self) -> Option<StoreId> {
        self.verifier.store_id()
    }
}

/// What a replica is started from.
pub struct Parts {
    /// Its copy.
    pub local: Arc<Local>,
    /// The entries that it passes on.
    pub log: Log,
    /// Places in that log.
    pub milestones: Arc<Milestones>,
    /// Where snapshots are fetched to.
    pub fetch_dir: PathBuf,
    /// Where its newest checkpoint is kept.
    pub checkpoint_file: CheckpointFile,
    /// Follow this store from now on, whatever was followed before: an operator's command.
    pub follow: Option<StoreId>,
    /// `host:port`, the preferred one first.
    pub upstreams: Vec<String>,
    /// Clocks and dialling.
    pub env: Env,
    /// Who it is.
    pub tls: Arc<Tls>,
    /// What it counts.
    pub metrics: Metrics,
}

/// A replica.
pub struct Replica {
    local: Arc<Local>,
    log: Log,
    milestones: Arc<Milestones>,
    fetch_dir: PathBuf,
    checkpoint_file: CheckpointFile,
    /// When a checkpoint was last kept there.
    kept_at: Mutex<Option<Instant>>,
    verifier: Arc<Verifier>,
    latest: Arc<Latest>,
    feed: Arc<Feed>,
    passed: watch::Sender<u64>,
    upstreams: Upstreams,
    path: Mutex<Vec<String>>,
    /// One frame at a time, and none while a snapshot's point is taken.
    frames: Mutex<()>,
    env: Env,
    tls: Arc<Tls>,
    metrics: Metrics,
}

/// Reads a copy from within its process: no socket, no waiting but for the store's own. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    local: Arc<Local>,
    clock: Arc<dyn Clock>,
}

impl Reader {
    /// Reads the copy of this node.
    pub fn new(local: Arc<Local>, clock: Arc<dyn Clock>) -> Self {
        Self { local, clock }
    }

    /// Reads a key of 1 to 512 bytes.
    ///
    /// # Errors
    /// [`ReadError`]: no verified state to serve, the key's length, or damaged bytes.
    pub fn get(&self, key: &[u8]) -> Result<Read, ReadError> {
        self.local.get(key)
    }

    /// Gives every record under a prefix to `each`, in the order of their keys, all as of one log index, which it
    /// returns; ends early when `each` says no.
    ///
    /// # Errors
    /// [`ScanError`]: the scan was overtaken by too many writes, or the store failed; also when there is no verified
    /// state to serve.
    pub fn scan(&self, prefix: &[u8], mut each: impl FnMut(&Bytes, &Record) -> bool) -> Result<u64, ScanError> {
        let unserved = |error: ReadError| StoreError::Damaged { what: "state", problem: error.to_string() };
        self.local.check_serving().map_err(unserved)?;
        let state = self.local.state();
        let scan = state.open_scan(self.clock.unix_ms())?;
        let mut after = Bytes::new();
        let result = loop {
            state.scan_passed(scan, &after);
            let now = self.clock.unix_ms();
            match state.scan_page(scan, now, prefix, &after, SCAN_RECORDS, SCAN_BYTES_MAX) {
                Err(error) => break Err(error),
                Ok(page) => {
                    let goes_on = page.records.iter().all(|(key, record)| each(key, record));
                    match page.records.last() {
                        Some((last, _)) if goes_on && !page.done => after = last.clone(),
                        _ => break Ok(page.at_index),
                    }
                }
            }
        };
        state.close_scan(scan);
        result
    }

    /// Age of the newest verified checkpoint, in milliseconds.
    pub fn behind_ms(&self) -> u64 {
        self.local.behind_ms(self.clock.unix_ms())
    }
}

fn own(error: impl std::fmt::Display) -> TailEnd {
    TailEnd::Own(error.to_string())
}

/// Makes the log end where the state is: the state is what was verified and kept.
fn align(log: &Log, applied: LogPoint) {
    let here = log.head_at(applied.index);
    if here == Some(applied.head) && log.last().index >= applied.index {
        if log.last().index > applied.index {
            let _ = log.truncate_after(applied.index, Box::new(|_| {}));
        }
        return;
    }
    // Nothing of it follows from the state: begin anew after it.
    if log.last().index > applied.index {
        let _ = log.truncate_after(log.purged().index, Box::new(|_| {}));
    }
    log.purge(applied, Box::new(|_| {}));
}

impl Replica {
    /// Opens a replica; [`Replica::run`] makes it follow.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when what was kept does not hold together.
    pub fn open(parts: Parts) -> io::Result<Arc<Self>> {
        let point = parts.local.point();
        let kept = parts.checkpoint_file.load()?;
        let seen = kept.as_ref().and_then(|signed| signed.decode_body().ok());
        let followed = parts.follow.or(point.store.as_ref().map(|(_, id)| *id)).or(seen.as_ref().map(|c| c.store_id));
        let seen = seen.filter(|seen| Some(seen.store_id) == followed);
        let verifier = Arc::new(Verifier::new(parts.tls.clone(), parts.env.clock.clone(), seen.clone(), followed));
        // The state of a cut process, an old disk, or another store than the one to follow.
        let behind = seen.as_ref().is_some_and(|seen| seen.index > point.applied.index);
        if behind || point.store.as_ref().is_some_and(|(_, id)| Some(*id) != followed) {
            parts.local.set_stale(true);
        }
        align(&parts.log, point.applied);
        parts.milestones.truncate_after(point.applied.index);
        let latest = Arc::new(Latest::default());
        if let (Some(signed), Some(seen)) = (kept, &seen) {
            parts.local.note_checkpoint(seen.unix_ms, seen.committed);
            if seen.index == point.applied.index && seen.state_hash == point.state_hash {
                *latest.0.lock() = Some((seen.index, signed));
            }
        }
        let passed = Passed { latest: latest.clone(), verifier: verifier.clone() };
        let feed = Feed::new(parts.log.clone(), parts.milestones.clone(), passed, parts.metrics.clone());
        Ok(Arc::new(Self {
            passed: watch::Sender::new(point.applied.index),
            upstreams: Upstreams::new(parts.upstreams),
            path: Mutex::default(),
            frames: Mutex::new(()),
            local: parts.local,
            log: parts.log,
            milestones: parts.milestones,
            fetch_dir: parts.fetch_dir,
            checkpoint_file: parts.checkpoint_file,
            kept_at: Mutex::default(),
            verifier,
            latest,
            feed,
            env: parts.env,
            tls: parts.tls,
            metrics: parts.metrics,
        }))
    }

    /// Reads in this process.
    pub fn reader(&self) -> Reader {
        Reader { local: self.local.clone(), clock: self.env.clock.clone() }
    }

    /// What it passes on.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The upstreams and how they do.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Names of the nodes between a voter and this one, the voter first.
    pub fn path(&self) -> Vec<String> {
        self.path.lock().clone()
    }

    /// The store that it follows.
    pub fn store_id(&self) -> Option<StoreId> {
        self.verifier.store_id()
    }

    /// A checkpoint for a dump at this point, if one was received there.
    pub fn witness(&self, point: &Point) -> Option<SignedCheckpoint> {
        let latest = self.latest.0.lock();
        latest.as_ref().filter(|(index, _)| *index == point.applied.index).map(|(_, signed)| signed.clone())
    }

    /// Follows upstreams until shutdown.
    ///
    /// # Errors
    /// [`TailEnd::Own`]: this process must end.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<(), TailEnd> {
        let feed = self.feed.clone().run(self.passed.subscribe(), self.env.clock.clone(), shutdown.clone());
        shutdown.spawn(feed);
        shutdown.spawn(self.clone().probe(shutdown.clone()));
        let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_MAX, self.env.rng.clone());
        let mut last = String::new();
        while !shutdown.is_triggered() {
            let (chosen, address) = self.upstreams.choose();
            let reached = self.local.applied_index();
            let end = tokio::select! {
                biased;
                () = shutdown.wait() => return Ok(()),
                end = self.follow(chosen, &address) => end,
            };
            let problem = match end {
                TailEnd::Own(problem) => return Err(TailEnd::Own(problem)),
                end => end.to_string(),
            };
            if self.local.applied_index() > reached {
                backoff.reset();
            }
            if problem != last {
                tracing::warn!(upstream = %address, %problem, "left an upstream");
                last.clone_from(&problem);
            }
            self.upstreams.left(chosen, problem);
            self.metrics.upstream_changes.increment(1);
            // Every upstream is tried once without a pause; then they are given time.
            if self.upstreams.tried_all() {
                tokio::select! {
                    () = shutdown.wait() => return Ok(()),
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
        }
        Ok(())
    }

    /// Follows one upstream until something ends it.
    async fn follow(&self, chosen: usize, address: &str) -> TailEnd {
        let channel = self.tls.channel(address, UPSTREAM_ROLES, None, self.env.net.clone());
        let mut client = client(channel);
        // A state of another store than the one to follow is served, marked stale, until the new one is there.
        let state_store = self.local.point().store.as_ref().map(|(_, id)| *id);
        let foreign = state_store.is_some() && state_store != self.verifier.store_id();
        // One snapshot from each turn with an upstream: one that has only snapshots to give holds this node back.
        let mut fetched = self.local.is_wrong() || foreign;
        if fetched && let Err(end) = self.fetch(&mut client).await {
            return end;
        }
        loop {
            match self.tail(chosen, &mut client).await {
                // The log is gone there, or one of the two logs is not what it should be: the whole state, then the log.
                // What it sends is verified, so that it may be asked although it may be the one that is wrong.
                TailEnd::Upstream(status) if !fetched && matches!(status.code(), Code::OutOfRange | Code::DataLoss) => {
                    if status.code() == Code::DataLoss {
                        self.metrics.alarm.set(1.0);
                        tracing::error!(upstream = %address, %status, "an upstream has another log");
                    }
                    fetched = true;
                    if let Err(end) = self.fetch(&mut client).await {
                        return end;
                    }
                }
                end => return end,
            }
        }
    }

    async fn tail(&self, chosen: usize, client: &mut ReplicationClient<Channel>) -> TailEnd {
        let applied = self.local.point().applied;
        let store_id = self.verifier.store_id().map_or(Bytes::new(), |id| id.to_bytes());
        let chain_head = if applied.index > 0 { applied.head.to_bytes() } else { Bytes::new() };
        let request = TailRequest { store_id, after_index: applied.index, chain_head };
        let silent = Duration::from_millis(UPSTREAM_SILENT_MS_MAX);
        let mut frames = match tokio::time::timeout(silent, client.tail(request)).await {
            Ok(Ok(frames)) => frames.into_inner(),
            Ok(Err(status)) => return status.into(),
            Err(_) => return TailEnd::Silent,
        };
        self.upstreams.following(chosen);
        loop {
            let message = match tokio::time::timeout(silent, frames.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Status::unavailable("the upstream ended the stream").into(),
                Ok(Err(status)) => return status.into(),
                Err(_) => return TailEnd::Silent,
            };
            if let Err(end) = self.receive(chosen, message) {
                return end;
            }
            let now = self.env.clock.unix_ms();
            let behind = self.local.behind_ms(now);
            let settled = self.upstreams.note(chosen, now, behind);
            if settled && behind > UPSTREAM_BEHIND_MS_MAX && self.upstreams.has_other(chosen) {
                return TailEnd::Behind(behind);
            }
            if self.upstreams.better_than(chosen) {
                return TailEnd::Better;
            }
        }
    }

    fn receive(&self, chosen: usize, message: TailResponse) -> Result<(), TailEnd> {
        let result = self.take_frame(&message.frame);
        match &result {
            Ok(applied) => {
                if *applied {
                    self.metrics.frame("applied");
                }
                let mut path = self.path.lock();
                let named = message.path.into_iter().filter(|name| name.parse::<NodeName>().is_ok());
                let named: Vec<String> = named.take(PATH_NAMES_MAX).collect();
                if *path != named {
                    *path = named;
                    self.upstreams.named(chosen, path.last().cloned().unwrap_or_default());
                }
            }
            Err(TailEnd::Disbelieved(why)) => {
                self.metrics.frame(why.reason());
                self.metrics.alarm.set(1.0);
                tracing::error!(%why, "a frame is not believed");
            }
            Err(TailEnd::WrongState(index)) => {
                self.metrics.frame("state");
                self.metrics.alarm.set(1.0);
                tracing::error!(index, "the state does not come out as signed: it is no longer served");
            }
            Err(_) => {}
        }
        result.map(|_| ())
    }

    /// Verifies and applies one encoded frame; says whether it brought entries.
    ///
    /// # Errors
    /// [`TailEnd`]; nothing of it was applied then.
    pub fn take_frame(&self, bytes: &[u8]) -> Result<bool, TailEnd> {
        let _one = self.frames.lock();
        let frame = Frame::decode(bytes).map_err(Disbelief::from)?;
        let point = self.local.point();
        let (checkpoint, entries) = self.verifier.frame(&frame, &point.applied)?;
        if entries.is_empty() {
            if checkpoint.state_hash != point.state_hash {
                self.local.found_wrong();
                return Err(TailEnd::WrongState(checkpoint.index));
            }
            self.accept(&checkpoint, frame.checkpoint, true)?;
            return Ok(false);
        }
        let agrees = self.local.apply_if(&entries, &checkpoint.state_hash).map_err(|error| {
            // The next process must not begin with it again.
            if error.is_damage() {
                self.local.found_wrong();
            }
            own(error)
        })?;
        if !agrees {
            self.local.found_wrong();
            return Err(TailEnd::WrongState(checkpoint.index));
        }
        let size: usize = entries.iter().map(|entry| entry.payload.len() + 64).sum();
        let entries = entries.into_iter().map(|entry| (entry.point.index, entry.point.term, entry.payload));
        self.log.append(entries, Box::new(|_| {})).map_err(own)?;
        let encoded = Bytes::from(frame.checkpoint.encode());
        self.milestones.push(checkpoint.index, size as u64, encoded).map_err(own)?;
        self.accept(&checkpoint, frame.checkpoint, false)?;
        self.passed.send_replace(checkpoint.index);
        Ok(true)
    }

    /// Takes note of a checkpoint whose state is served; the newest goes to the disk at once or, with frames one after
    /// the other, every [`TICK_MS`].
    fn accept(&self, checkpoint: &Checkpoint, signed: SignedCheckpoint, at_once: bool) -> Result<(), TailEnd> {
        let newest = self.verifier.accept(checkpoint);
        self.local.note_checkpoint(checkpoint.unix_ms, checkpoint.committed);
        let now = self.env.clock.now();
        let mut kept_at = self.kept_at.lock();
        if newest && (at_once || kept_at.is_none_or(|kept_at| now >= kept_at + Duration::from_millis(TICK_MS))) {
            self.checkpoint_file.save(&signed).map_err(own)?;
            *kept_at = Some(now);
        }
        drop(kept_at);
        if self.verifier.newest().is_none_or(|seen| seen.index <= checkpoint.index) {
            self.local.set_stale(false);
        }
        // Below the newest while this node catches up; an older one of the same entry is nothing to pass on.
        let mut latest = self.latest.0.lock();
        if newest || latest.as_ref().is_none_or(|(index, _)| *index != checkpoint.index) {
            *latest = Some((checkpoint.index, signed));
        }
        Ok(())
    }

    /// Fetches a snapshot, verifies it, and serves its state in place of the old one.
    async fn fetch(&self, client: &mut ReplicationClient<Channel>) -> Result<(), TailEnd> {
        self.local.set_stale(true);
        let result = self.fetch_and_install(client).await;
        match &result {
            Ok(()) => self.metrics.snapshots_installed.increment(1),
            Err(end) => {
                self.metrics.snapshots_failed.increment(1);
                // Only what was fetched and is not what it should be is an alarm; an upstream that is away is not.
                if let TailEnd::Disbelieved(_) | TailEnd::Snapshot(snapshot::SnapshotError::Damaged { .. }) = end {
                    self.metrics.alarm.set(1.0);
                }
            }
        }
        result
    }

    async fn fetch_and_install(&self, client: &mut ReplicationClient<Channel>) -> Result<(), TailEnd> {
        let mut fetch = Fetch::open(&self.fetch_dir).map_err(own)?;
        let path = fetch.run(client, self.verifier.store_id()).await?;
        let result = self.install(&path).await;
        let _ = std::fs::remove_file(&path);
        result
    }

    /// Refuses to go back behind the verified state that this node has: it may be ahead of the newest checkpoint that
    /// an earlier process kept.
    fn not_behind(&self, checkpoint: &Checkpoint) -> Result<(), Disbelief> {
        let point = self.local.point();
        let same = point.store.as_ref().is_some_and(|(_, id)| *id == checkpoint.store_id);
        if same && !self.local.is_wrong() && checkpoint.index < point.applied.index {
            let (index, unix_ms, seen) = (checkpoint.index, checkpoint.unix_ms, point.applied.index);
            return Err(Disbelief::Old { index, unix_ms, seen });
        }
        Ok(())
    }

    /// Verifies a snapshot file and serves it.
    async fn install(&self, path: &std::path::Path) -> Result<(), TailEnd> {
        let header = snapshot::read_header(path)?;
        let chain = || Disbelief::Chain { after: 0, index: header.index };
        let signed = header.checkpoint.clone().ok_or_else(chain)?;
        let checkpoint = self.verifier.checkpoint(&signed)?;
        self.verifier.not_older(&checkpoint)?;
        self.not_behind(&checkpoint)?;
        if !header.agrees_with(&checkpoint) {
            return Err(chain().into());
        }
        let (local, file) = (self.local.clone(), path.to_owned());
        let installed = tokio::task::spawn_blocking(move || local.install(&file)).await.map_err(own)?;
        installed?;
        let _one = self.frames.lock();
        align(&self.log, header.point());
        self.milestones.purge(header.index);
        self.milestones.truncate_after(header.index);
        self.accept(&checkpoint, signed, true)?;
        self.passed.send_replace(header.index);
        self.metrics.alarm.set(0.0);
        tracing::info!(index = header.index, records = header.records, "snapshot installed and verified");
        Ok(())
    }

    /// Measures upstreams, until shutdown.
    async fn probe(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            for (n, address) in self.upstreams.addresses().into_iter().enumerate() {
                if shutdown.is_triggered() {
                    return;
                }
                let channel = self.tls.channel(&address, UPSTREAM_ROLES, None, self.env.net.clone());
                let client = cinnabar_kv_api::proto::kv_client::KvClient::new(channel)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX);
                self.upstreams.probe(n, client, &self.env).await;
            }
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(upstream::PROBE_EVERY) => {}
            }
        }
    }

    /// Lets go of old log entries.
    pub fn purge(&self, keep_bytes: u64) {
        let upto = self.log.index_keeping(keep_bytes);
        if upto > self.log.purged().index
            && let Ok(point) = self.log.point_at(upto)
        {
            self.milestones.purge(upto);
            self.log.purge(point, Box::new(|_| {}));
        }
    }
}
