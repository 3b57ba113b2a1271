//! Moves applied ranges into the engine, in their order, several to a batch, and knows how far the disk is.
//!
//! It gathers for a moment before it writes: each batch wakes the engine's threads, holds up readers that miss the
//! cache, and writes the point and the sessions of the clients anew, so few large batches cost less than many small
//! ones. What waits is readable from memory meanwhile. Whoever needs the engine now says so, and nothing is gathered.
//!
//! Law: a batch is whole ranges with the point after the last of them, so that the engine always holds one applied
//! state. An error ends it for good: what it could not write is still in the log, and the process must end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::Pending;
use super::hash::{Digest, Space};
use super::meta::{META_KEY, Meta};
use super::record::{self, Record};
use crate::limits::{BATCH_BYTES, BATCH_RECORDS, GATHER_MS};
use crate::store::{Engine, StoreError};

/// One record of a range, as it goes to the engine.
#[derive(Debug)]
pub(super) struct Stored {
    pub space: Space,
    pub key: Bytes,
    pub new: Option<Record>,
    pub digest: Digest,
    pub old_length: usize,
}

/// An applied range on its way.
#[derive(Debug)]
pub(super) struct Range {
    pub index: u64,
    pub meta: Meta,
    pub records: Vec<Stored>,
}

/// How much an engine batch has, or ranges that wait for one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Load {
    records: usize,
    /// Of keys and values.
    bytes: usize,
}

impl Load {
    fn of(range: &Range) -> Self {
        let length = |stored: &Stored| stored.key.len() + stored.new.as_ref().map_or(0, |record| record.value.len());
        Self { records: range.records.len(), bytes: range.records.iter().map(length).sum() }
    }

    fn with(self, other: Self) -> Self {
        Self { records: self.records + other.records, bytes: self.bytes + other.bytes }
    }

    fn without(self, other: Self) -> Self {
        Self { records: self.records - other.records, bytes: self.bytes - other.bytes }
    }

    fn fits(self) -> bool {
        self.records <= BATCH_RECORDS && self.bytes <= BATCH_BYTES
    }
}

#[derive(Debug, Default)]
struct Queue {
    ranges: VecDeque<Range>,
    /// Of the ranges.
    load: Load,
    /// Those who wait for the engine: with any, nothing is gathered.
    waiting: usize,
    /// The thread is committing what it took.
    busy: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    less: Condvar,
    flushed: AtomicU64,
    durable: AtomicU64,
    failed: AtomicBool,
}

/// The state's side of the flusher.
#[derive(Debug)]
pub(super) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Flusher {
    /// Lets the batch that is being committed end and drops the others. Once this returns, nothing writes to the engine.
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.more.notify_all();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn failed() -> StoreError {
    StoreError::Damaged { what: "state", problem: "an earlier batch could not be written".to_owned() }
}

impl Flusher {
    /// Starts the thread; it ends with the state.
    pub(super) fn start(
        index: u64,
        engine: Arc<dyn Engine>,
        pending: Arc<RwLock<Pending>>,
    ) -> Result<Self, StoreError> {
        let shared = Shared { flushed: index.into(), durable: index.into(), ..Shared::default() };
        let shared = Arc::new(shared);
        let thread = std::thread::Builder::new().name("state-flusher".to_owned()).spawn({
            let shared = shared.clone();
            move || run(&shared, &*engine, &pending)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Queues a range; waits while there is no room.
    pub(super) fn push(&self, range: Range, has_room: impl Fn() -> bool) -> Result<(), StoreError> {
        let mut queue = self.shared.queue.lock();
        queue.load = queue.load.with(Load::of(&range));
        queue.ranges.push_back(range);
        // One that gathers is woken only when it has enough.
        if queue.ranges.len() == 1 || queue.is_full() {
            self.shared.more.notify_one();
        }
        self.wait(&mut queue, |queue| !has_room() && (queue.busy || !queue.ranges.is_empty()));
        if self.failed() { Err(failed()) } else { Ok(()) }
    }

    /// Waits until the engine has everything up to an applied index.
    pub(super) fn drain(&self, index: u64) {
        let mut queue = self.shared.queue.lock();
        self.wait(&mut queue, |_| self.shared.flushed.load(Ordering::Acquire) < index);
    }

    fn wait(&self, queue: &mut MutexGuard<'_, Queue>, needed: impl Fn(&Queue) -> bool) {
        if self.failed() || !needed(queue) {
            return;
        }
        queue.waiting += 1;
        self.shared.more.notify_one();
        while !self.failed() && needed(queue) {
            self.shared.less.wait(queue);
        }
        queue.waiting -= 1;
    }

    pub(super) fn make_durable(&self, engine: &dyn Engine) -> Result<u64, StoreError> {
        if self.failed() {
            return Err(failed());
        }
        let flushed = self.shared.flushed.load(Ordering::Acquire);
        if let Err(error) = engine.make_durable() {
            self.shared.failed.store(true, Ordering::Release);
            return Err(error);
        }
        self.shared.durable.fetch_max(flushed, Ordering::AcqRel);
        Ok(flushed)
    }

    pub(super) fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    pub(super) fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }
}

impl Queue {
    fn is_full(&self) -> bool {
        self.load.records >= BATCH_RECORDS || self.load.bytes >= BATCH_BYTES
    }

    /// The ranges of the next batch.
    fn take(&mut self) -> Vec<Range> {
        let mut taken: Vec<Range> = Vec::new();
        let mut load = Load::default();
        while let Some(next) = self.ranges.front().map(Load::of)
            && (taken.is_empty() || load.with(next).fits())
        {
            load = load.with(next);
            taken.extend(self.ranges.pop_front());
        }
        self.load = self.load.without(load);
        taken
    }
}

impl Shared {
    /// Waits for ranges, and then for some more; none when the thread must end.
    fn next(&self) -> Option<Vec<Range>> {
        let mut queue = self.queue.lock();
        queue.busy = false;
        self.less.notify_all();
        while queue.ranges.is_empty() && !queue.stop {
            self.more.wait(&mut queue);
        }
        let gather = Duration::from_millis(GATHER_MS);
        while !queue.stop && queue.waiting == 0 && !queue.is_full() {
            if self.more.wait_for(&mut queue, gather).timed_out() {
                break;
            }
        }
        if queue.stop {
            return None;
        }
        queue.busy = true;
        Some(queue.take())
    }
}

fn run(shared: &Shared, engine: &dyn Engine, pending: &RwLock<Pending>) {
    while let Some(taken) = shared.next() {
        if let Err(error) = commit(engine, &taken) {
            tracing::error!(%error, "the state cannot be written; this process must end");
            shared.failed.store(true, Ordering::Release);
            shared.queue.lock().busy = false;
            shared.less.notify_all();
            return;
        }
        let last = taken.last().map_or(0, |range| range.index);
        shared.flushed.store(last, Ordering::Release);
        pending.write().leave(&taken);
    }
}

/// Writes each record once, as the last range leaves it, over what the engine holds from before the first.
fn commit(engine: &dyn Engine, ranges: &[Range]) -> Result<(), StoreError> {
    let mut newest: HashMap<(Space, &Bytes), (&Stored, usize)> = HashMap::new();
    for stored in ranges.iter().flat_map(|range| &range.records) {
        let place = newest.entry((stored.space, &stored.key)).or_insert((stored, stored.old_length));
        place.0 = stored;
    }
    let mut batch = Vec::with_capacity(newest.len() + 1);
    for ((space, key), (stored, old_length)) in newest {
        let new = stored.new.as_ref().map(|record| (record, &stored.digest));
        record::write(&mut batch, space, key, new, old_length);
    }
    let meta = ranges.last().map(|range| range.meta.encode());
    batch.push((META_KEY.to_vec(), meta));
    engine.commit(batch)
}

impl Pending {
    fn leave(&mut self, ranges: &[Range]) {
        for range in ranges {
            for stored in range.records.iter().filter(|stored| stored.space == Space::Record) {
                let newest = self.records.get(&stored.key).is_some_and(|waiting| waiting.index == range.index);
                if newest && let Some(gone) = self.records.remove(&stored.key) {
                    self.bytes -= stored.key.len() + gone.slot.as_ref().map_or(0, |record| record.value.len());
                }
            }
        }
    }
}
