//! What a node ships to those below it: frames, encoded once, the same bytes for all that are at the tip.
//!
//! A frame is sent as soon as there are entries, but not sooner than a gap after the one before; the gap grows with
//! the number of downstreams, so that a lone relay adds no wait and a thousand leaves share each encoding and each
//! signature. One that is behind the ring reads the log from disk; one that is behind the log is told to take a
//! snapshot. Nothing is buffered for a slow one: its own stream is cut.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::{Clock, Shutdown};
use cinnabar_kv_api::limits::{FRAME_BYTES_TARGET, FRAME_ENTRIES_MAX};
use cinnabar_kv_api::{ChainHead, Entry, Frame, SignedCheckpoint, StoreId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::limits::{
    DOWNSTREAMS_AT_ONCE, DOWNSTREAMS_MAX, DOWNSTREAMS_PER_GAP_MS, FEED_BYTES_MAX, FRAME_GAP_MS_MAX, FRAME_GAP_MS_MIN,
    TICK_MS,
};
use crate::log::{Log, LogError};
use crate::metrics::Metrics;
use crate::milestones::{Milestone, Milestones};

/// Why a downstream gets no frames from here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The log is purged there: take a snapshot.
    #[error("the log begins at entry {first}: take a snapshot")]
    Purged {
        /// First entry that is left.
        first: u64,
    },
    /// Its chain head is not ours at that index.
    #[error("the chain heads differ at entry {index}: one of the two logs is not this cluster's")]
    Forked {
        /// The index.
        index: u64,
    },
    /// It is ahead of this node.
    #[error("this node has entry {ours}, you ask for what follows {yours}")]
    Ahead {
        /// What this node has.
        ours: u64,
        /// What was asked.
        yours: u64,
    },
    /// It follows another history.
    #[error("this node follows store {ours}")]
    OtherStore {
        /// This node's.
        ours: StoreId,
    },
    /// This node has nothing to ship yet.
    #[error("this node follows no store yet")]
    NoStore,
    /// Too many downstreams.
    #[error("this node feeds {DOWNSTREAMS_MAX} others already; ask another upstream")]
    TooMany,
    /// The log failed.
    #[error(transparent)]
    Log(LogError),
}

impl From<LogError> for FeedError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Purged { first, .. } => Self::Purged { first },
            error => Self::Log(error),
        }
    }
}

/// Where a feed's checkpoints come from: a voter signs them, a replica passes on what it verified.
pub trait Checkpoints: Send + Sync + 'static {
    /// The newest checkpoint, at the applied index, and that index. None while there is nothing to ship.
    fn tip(&self) -> Option<(u64, SignedCheckpoint)>;
    /// A checkpoint at a remembered place.
    fn at(&self, milestone: &Milestone) -> Option<SignedCheckpoint>;
    /// The history that is shipped.
    fn store_id(&self) -> Option<StoreId>;
}

#[derive(Debug, Clone)]
struct Shipped {
    after: u64,
    last: u64,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct Ring {
    frames: VecDeque<Shipped>,
    bytes: usize,
    /// Newest heartbeat.
    heartbeat: Option<Shipped>,
    /// Where the last frame ends, and its checkpoint if one was made.
    published: (u64, Option<SignedCheckpoint>),
}

/// The feed of one node.
pub struct Feed {
    log: Log,
    milestones: Arc<Milestones>,
    checkpoints: Box<dyn Checkpoints>,
    ring: Mutex<Ring>,
    /// Counts frames and heartbeats, to wake those at the tip.
    shipped: watch::Sender<u64>,
    /// Counts heartbeats.
    beats: AtomicU64,
    downstreams: AtomicUsize,
    metrics: Metrics,
}

/// A place among the downstreams; given back when it goes.
pub struct Downstream {
    feed: Arc<Feed>,
    next_after: u64,
    beat: u64,
    shipped: watch::Receiver<u64>,
}

impl Drop for Downstream {
    fn drop(&mut self) {
        let left = self.feed.downstreams.fetch_sub(1, Ordering::AcqRel) - 1;
        self.feed.metrics.downstreams.set(left as f64);
    }
}

impl Feed {
    /// A feed of this log.
    pub fn new(log: Log, milestones: Arc<Milestones>, checkpoints: impl Checkpoints, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            log,
            milestones,
            checkpoints: Box::new(checkpoints),
            ring: Mutex::default(),
            shipped: watch::Sender::new(0),
            beats: AtomicU64::new(0),
            downstreams: AtomicUsize::new(0),
            metrics,
        })
    }

    /// Downstreams now.
    pub fn downstreams(&self) -> usize {
        self.downstreams.load(Ordering::Acquire)
    }

    fn gap(&self) -> Duration {
        let lengthened = (self.downstreams() as u64).saturating_sub(DOWNSTREAMS_AT_ONCE) / DOWNSTREAMS_PER_GAP_MS;
        Duration::from_millis(lengthened.clamp(FRAME_GAP_MS_MIN, FRAME_GAP_MS_MAX))
    }

    /// Ships what is applied, until shutdown: a frame or, when there was none for a while, a heartbeat. While frames flow
    /// they say all that a heartbeat would, and each costs every downstream a signature to check.
    pub async fn run(self: Arc<Self>, mut applied: watch::Receiver<u64>, clock: Arc<dyn Clock>, shutdown: Shutdown) {
        let mut beat = tokio::time::interval(Duration::from_millis(TICK_MS));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.ring.lock().published.0 = *applied.borrow();
        let mut sent_at = clock.now() - Duration::from_millis(FRAME_GAP_MS_MAX);
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                _ = beat.tick() => {
                    if self.downstreams() > 0 {
                        self.heartbeat();
                    }
                }
                changed = applied.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if self.downstreams() == 0 {
                        *self.ring.lock() = Ring { published: (*applied.borrow(), None), ..Ring::default() };
                        continue;
                    }
                    let ready = sent_at + self.gap();
                    if ready > clock.now() {
                        tokio::time::sleep_until(ready).await;
                    }
                    sent_at = clock.now();
                    if self.publish() {
                        beat.reset();
                    }
                }
            }
        }
    }

    /// Ships what was applied since the last frame; says whether there was anything.
    fn publish(&self) -> bool {
        let after = self.ring.lock().published.0;
        let Some((tip, checkpoint)) = self.checkpoints.tip().filter(|(tip, _)| *tip > after) else { return false };
        let framed = self.frame_to(after, tip, checkpoint.clone());
        {
            let mut ring = self.ring.lock();
            ring.published = (tip, Some(checkpoint));
            match framed {
                Ok(Some(shipped)) => {
                    ring.bytes += shipped.bytes.len();
                    ring.frames.push_back(shipped);
                    while ring.bytes > FEED_BYTES_MAX && ring.frames.len() > 1 {
                        let gone = ring.frames.pop_front().map_or(0, |frame| frame.bytes.len());
                        ring.bytes -= gone;
                    }
                }
                // Too much for one frame, or purged by a snapshot: downstreams read the log or are told.
                Ok(None) | Err(_) => {
                    ring.frames.clear();
                    ring.bytes = 0;
                }
            }
        }
        self.shipped.send_modify(|count| *count += 1);
        true
    }

    /// Where the last frame ends and the checkpoint there, made now if there was nobody to make it for.
    fn published(&self) -> Option<(u64, SignedCheckpoint)> {
        let mut ring = self.ring.lock();
        if let (index, Some(checkpoint)) = &ring.published {
            return Some((*index, checkpoint.clone()));
        }
        let (tip, checkpoint) = self.checkpoints.tip()?;
        ring.published = (tip, Some(checkpoint.clone()));
        Some((tip, checkpoint))
    }

    fn heartbeat(&self) {
        let Some((tip, checkpoint)) = self.checkpoints.tip() else { return };
        let frame = Frame { after_index: tip, entries: Vec::new(), checkpoint };
        self.ring.lock().heartbeat = Some(Shipped { after: tip, last: tip, bytes: frame.encode() });
        self.beats.fetch_add(1, Ordering::AcqRel);
        self.shipped.send_modify(|count| *count += 1);
    }

    /// One frame of everything after `after` up to `last`, unless that is too much for one.
    fn frame_to(&self, after: u64, last: u64, checkpoint: SignedCheckpoint) -> Result<Option<Shipped>, FeedError> {
        let count = usize::try_from(last - after).unwrap_or(usize::MAX);
        if count > FRAME_ENTRIES_MAX {
            return Ok(None);
        }
        let found = self.log.read(after + 1, count, FRAME_BYTES_TARGET)?;
        if found.len() < count {
            return Ok(None);
        }
        let entries: Vec<Entry> =
            found.into_iter().map(|entry| Entry { term: entry.point.term, payload: entry.payload }).collect();
        self.metrics.frames.increment(1);
        let frame = Frame { after_index: after, entries, checkpoint };
        Ok(Some(Shipped { after, last, bytes: frame.encode() }))
    }

    /// Takes a downstream that has everything up to `after`.
    ///
    /// # Errors
    /// [`FeedError`].
    pub fn subscribe(
        self: &Arc<Self>,
        store_id: Option<StoreId>,
        after: u64,
        head: Option<ChainHead>,
    ) -> Result<Downstream, FeedError> {
        let ours = self.checkpoints.store_id().ok_or(FeedError::NoStore)?;
        if store_id.is_some_and(|theirs| theirs != ours) {
            return Err(FeedError::OtherStore { ours });
        }
        let (tip, _) = self.checkpoints.tip().ok_or(FeedError::NoStore)?;
        if after > tip {
            return Err(FeedError::Ahead { ours: tip, yours: after });
        }
        let first = self.log.purged().index + 1;
        if after + 1 < first {
            return Err(FeedError::Purged { first });
        }
        let point = self.log.point_at(after)?;
        if after > 0 && head != Some(point.head) {
            return Err(FeedError::Forked { index: after });
        }
        let before = self.downstreams.fetch_add(1, Ordering::AcqRel);
        let beat = self.beats.load(Ordering::Acquire);
        let downstream = Downstream { feed: self.clone(), next_after: after, beat, shipped: self.shipped.subscribe() };
        if before >= DOWNSTREAMS_MAX {
            return Err(FeedError::TooMany);
        }
        self.metrics.downstreams.set((before + 1) as f64);
        Ok(downstream)
    }
}

impl Downstream {
    /// The next frame for this downstream: waits at the tip.
    ///
    /// # Errors
    /// [`FeedError::Purged`] when the log moved on faster than it could read; the log's.
    pub async fn next(&mut self) -> Result<Bytes, FeedError> {
        loop {
            self.shipped.borrow_and_update();
            if let Some(bytes) = self.ready()? {
                return Ok(bytes);
            }
            if self.shipped.changed().await.is_err() {
                return Err(FeedError::NoStore);
            }
        }
    }

    fn ready(&mut self) -> Result<Option<Bytes>, FeedError> {
        let feed = &self.feed;
        {
            let ring = feed.ring.lock();
            let start = ring.frames.partition_point(|frame| frame.after < self.next_after);
            if let Some(frame) = ring.frames.get(start).filter(|frame| frame.after == self.next_after) {
                self.next_after = frame.last;
                return Ok(Some(frame.bytes.clone()));
            }
            let beat = feed.beats.load(Ordering::Acquire);
            if beat != self.beat
                && let Some(heartbeat) = ring.heartbeat.as_ref().filter(|beat| beat.after == self.next_after)
            {
                self.beat = beat;
                return Ok(Some(heartbeat.bytes.clone()));
            }
        }
        let Some((published, checkpoint)) = feed.published() else { return Ok(None) };
        if published <= self.next_after {
            return Ok(None);
        }
        // Behind the ring: from the log, up to the last frame's end if that is near, else up to a remembered place.
        if let Some(shipped) = feed.frame_to(self.next_after, published, checkpoint)? {
            self.next_after = shipped.last;
            return Ok(Some(shipped.bytes));
        }
        let far = (FRAME_BYTES_TARGET / 2) as u64;
        for reach in [far, 0] {
            let Some(milestone) = feed.milestones.within(self.next_after, reach) else { break };
            let Some(checkpoint) = feed.checkpoints.at(&milestone) else { break };
            if let Some(shipped) = feed.frame_to(self.next_after, milestone.index, checkpoint)? {
                self.next_after = shipped.last;
                return Ok(Some(shipped.bytes));
            }
        }
        // No place to end a frame at: only a snapshot helps.
        Err(FeedError::Purged { first: published + 1 })
    }
}
