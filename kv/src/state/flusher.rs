//! Moves applied ranges into the engine, in their order, several to a batch, and knows how far the disk is.
//!
//! Law: a batch is whole ranges with the point after the last of them, so that the engine always holds one applied
//! state. An error ends it for good: what it could not write is still in the log, and the process must end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};

use super::Pending;
use super::hash::{Digest, Space};
use super::meta::{META_KEY, Meta};
use super::record::{self, Record};
use crate::limits::BATCH_RECORDS;
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

#[derive(Debug, Default)]
struct Queue {
    ranges: VecDeque<Range>,
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
        queue.ranges.push_back(range);
        self.shared.more.notify_one();
        while !has_room() && !self.failed() && (queue.busy || !queue.ranges.is_empty()) {
            self.shared.less.wait(&mut queue);
        }
        if self.failed() { Err(failed()) } else { Ok(()) }
    }

    /// Waits until the engine has everything up to an applied index.
    pub(super) fn drain(&self, index: u64) {
        let mut queue = self.shared.queue.lock();
        while !self.failed() && self.shared.flushed.load(Ordering::Acquire) < index {
            self.shared.less.wait(&mut queue);
        }
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

fn run(shared: &Shared, engine: &dyn Engine, pending: &RwLock<Pending>) {
    loop {
        let taken = {
            let mut queue = shared.queue.lock();
            queue.busy = false;
            shared.less.notify_all();
            while queue.ranges.is_empty() && !queue.stop {
                shared.more.wait(&mut queue);
            }
            if queue.stop {
                return;
            }
            queue.busy = true;
            take(&mut queue.ranges)
        };
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

fn take(ranges: &mut VecDeque<Range>) -> Vec<Range> {
    let mut taken: Vec<Range> = Vec::new();
    let mut records = 0;
    while let Some(next) = ranges.front()
        && (taken.is_empty() || records + next.records.len() <= BATCH_RECORDS)
    {
        records += next.records.len();
        taken.extend(ranges.pop_front());
    }
    taken
}

fn commit(engine: &dyn Engine, ranges: &[Range]) -> Result<(), StoreError> {
    let mut batch = Vec::new();
    for stored in ranges.iter().flat_map(|range| &range.records) {
        let new = stored.new.as_ref().map(|record| (record, &stored.digest));
        record::write(&mut batch, stored.space, &stored.key, new, stored.old_length);
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
