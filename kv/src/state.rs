//! The applied state of one node: live records, sessions, and the point of the log that they stand for.
//!
//! The road of a committed range of entries: [`StateWriter::stage`] computes what it changes and the state hash after
//! it; a replica compares that hash with the signed one; [`StateWriter::commit`] makes it readable at once, from memory;
//! the flusher (`state/flusher.rs`) moves it into the engine, one atomic batch with its point. Readers look into the
//! cache, then the pending records, then the engine, so that a commit seldom makes one wait.
//!
//! Law: what is readable is exactly the state after some applied entry; what is in the engine is a prefix of it, and
//! its sum, number of records and point agree.

mod apply;
mod flusher;
pub mod hash;
mod import;
mod meta;
mod record;
pub mod scan;
mod sessions;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cinnabar_daemon::id::ClusterId;
use cinnabar_kv_api::limits::RECORD_BYTES_MAX;
use cinnabar_kv_api::{StateHash, StoreId};
use parking_lot::{Mutex, RwLock};
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult};
use quick_cache::{DefaultHashBuilder, OptionsBuilder};
use serde::{Deserialize, Serialize};

pub use apply::{Refusal, StateWriter};
use flusher::Flusher;
use hash::Space;
pub use import::{ImportError, Importer};
pub use meta::Meta;
pub use record::Record;

use crate::limits::PENDING_BYTES_MAX;
use crate::log::LogPoint;
use crate::store::{Engine, StoreError};

/// What applying an entry answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing to answer: a blank entry, a membership, a genesis.
    Done {
        /// Log index.
        index: u64,
    },
    /// The write was applied.
    Written {
        /// Log index.
        index: u64,
    },
    /// A condition did not hold; nothing was written.
    Unmet {
        /// Log index.
        index: u64,
        /// Position of the condition.
        condition: u32,
        /// `mod_index` of its key, 0 when absent.
        actual: u64,
    },
    /// The command was refused, alike on every node.
    Refused {
        /// Log index.
        index: u64,
        /// Why.
        refusal: Refusal,
    },
}

/// The point that readers see, as one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Log point of the last applied entry.
    pub applied: LogPoint,
    /// State hash there.
    pub state_hash: StateHash,
    /// Live records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub record_bytes: u64,
    /// The cluster and the history, once known.
    pub store: Option<(ClusterId, StoreId)>,
    /// Index of the last membership and its encoded body.
    pub membership: Option<(LogPoint, Bytes)>,
}

/// One change of one key, as watches see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its new value, or none when it was deleted.
    pub value: Option<Bytes>,
}

/// The changes of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Log index.
    pub index: u64,
    /// In the order of the entry's operations, each key once.
    pub changes: Vec<Change>,
}

/// A pending record: applied, not yet in the engine.
#[derive(Debug, Clone)]
struct Waiting {
    slot: Option<Record>,
    digest: hash::Digest,
    /// The applied index after which it may leave.
    index: u64,
}

#[derive(Debug, Default)]
struct Pending {
    records: BTreeMap<Bytes, Waiting>,
    bytes: usize,
}

/// Weighs a cached record by its bytes and what the cache adds to each.
#[derive(Debug, Clone, Copy)]
struct Weigher;

/// Bytes that the cache itself spends on an entry, about.
const CACHE_ENTRY_BYTES: u64 = 152;
/// Mean bytes of an entry, for the number of entries that the cache makes room for.
const CACHE_ENTRY_BYTES_MEAN: u64 = 400;
/// Bytes of a shard of the cache: all of them when it has fewer.
const CACHE_SHARD_BYTES: u64 = 16 * 1024 * 1024;
/// Shards of the cache.
const CACHE_SHARDS_MAX: u64 = 64;
/// Least bytes of the cache. A record that its shard refuses would not overwrite what a reader is about to put there,
/// and the older record would stay: every record must fit, twice over for what the cache keeps apart.
const CACHE_BYTES_MIN: u64 = 4 * (RECORD_BYTES_MAX as u64 + CACHE_ENTRY_BYTES);

const _: () = assert!(CACHE_BYTES_MIN <= CACHE_SHARD_BYTES);

/// A record and its digest, which whoever replaces it needs.
#[derive(Debug, Clone)]
struct Cached {
    record: Record,
    digest: hash::Digest,
}

type Slot = Option<Cached>;

impl quick_cache::Weighter<Key, Slot> for Weigher {
    fn weight(&self, key: &Key, slot: &Slot) -> u64 {
        (key.len() + slot.as_ref().map_or(0, |cached| cached.record.value.len())) as u64 + CACHE_ENTRY_BYTES
    }
}

type Key = Vec<u8>;

/// How a state is opened.
#[derive(Debug, Clone, Copy)]
pub struct StateOptions {
    /// Bytes of the read cache; room for a few of the largest records is always made.
    pub cache_bytes: u64,
}

/// What is read under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The record, if there is one.
    pub record: Option<Record>,
    /// An index at which this was so.
    pub applied_index: u64,
}

/// The readable state. Shared by readers, the writer and the flusher.
#[derive(Debug)]
pub struct State {
    engine: Arc<dyn Engine>,
    cache: Cache<Key, Slot, Weigher>,
    pending: Arc<RwLock<Pending>>,
    scans: Mutex<scan::Scans>,
    point: RwLock<Arc<Point>>,
    applied: AtomicU64,
    /// Index of the range that is being made readable, then of the one that was: `applied` once it all is.
    publishing: AtomicU64,
    /// Held while a range is made readable.
    commits: Mutex<()>,
    flusher: Flusher,
    reads: AtomicU64,
}

impl std::fmt::Debug for dyn Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?})", self.dir())
    }
}

impl State {
    /// Opens the state in an engine: reads its point and sessions. Records are checked as they are read.
    ///
    /// # Errors
    /// The engine's, or [`StoreError::Damaged`] when the point does not follow its format.
    pub fn open(engine: Arc<dyn Engine>, options: StateOptions) -> Result<(Arc<Self>, StateWriter), StoreError> {
        let tip = apply::Tip::load(&*engine)?;
        let point = Arc::new(tip.point());
        let pending = Arc::<RwLock<Pending>>::default();
        let flusher = Flusher::start(point.applied.index, engine.clone(), pending.clone())?;
        let state = Arc::new(Self {
            cache: new_cache(options.cache_bytes),
            pending,
            scans: Mutex::default(),
            applied: AtomicU64::new(point.applied.index),
            publishing: AtomicU64::new(point.applied.index),
            commits: Mutex::default(),
            flusher,
            point: RwLock::new(point),
            reads: AtomicU64::new(0),
            engine,
        });
        let writer = StateWriter::new(state.clone(), tip);
        Ok((state, writer))
    }

    /// Index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// The point that readers see.
    pub fn point(&self) -> Arc<Point> {
        self.point.read().clone()
    }

    /// The engine underneath.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Reads since the start that the cache could not answer.
    pub fn cache_misses(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Reads a key. Mostly from memory; a miss reads the engine, which may wait for a batch that it commits.
    ///
    /// # Errors
    /// The engine's, or [`StoreError::Damaged`]: damaged bytes are never served.
    pub fn get(&self, key: &[u8]) -> Result<Read, StoreError> {
        // The index first: what is read after it is at least as new.
        let applied_index = self.applied_index();
        let record = self.look_up(key)?;
        // A record that was there already is what that index says. Another, or none, is so only when no commit was
        // under way; while one is, what is read may be of it, and the index before it.
        let old = record.as_ref().is_some_and(|record| record.mod_index <= applied_index);
        if old || self.publishing.load(Ordering::Acquire) == applied_index {
            return Ok(Read { record, applied_index });
        }
        let _no_commit = self.commits.lock();
        let applied_index = self.applied_index();
        Ok(Read { record: self.look_up(key)?, applied_index })
    }

    fn look_up(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        let slot = match self.cache.get(key) {
            Some(slot) => slot,
            None => self.fill(key)?,
        };
        Ok(slot.map(|cached| cached.record))
    }

    fn fill(&self, key: &[u8]) -> Result<Slot, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match self.cache.get_value_or_guard(key, None) {
            GuardResult::Value(slot) => Ok(slot),
            GuardResult::Guard(guard) => {
                let slot = self.load(key)?;
                // Refused when the writer put a newer record meanwhile; what was read was right when it was read.
                let _ = guard.insert(slot.clone());
                Ok(slot)
            }
            GuardResult::Timeout => self.load(key),
        }
    }

    fn load(&self, key: &[u8]) -> Result<Slot, StoreError> {
        if let Some(waiting) = self.pending.read().records.get(key) {
            return Ok(waiting.slot.clone().map(|record| Cached { record, digest: waiting.digest }));
        }
        let read = record::read_with_head(&*self.engine, Space::Record, key)?;
        Ok(read.map(|(head, record)| Cached { record, digest: head.digest }))
    }

    /// What the state hash and conditions need of a record. Checked like every read: damage that went unnoticed here
    /// would become a wrong answer, or a wrong hash that a voter signs.
    fn head(&self, key: &[u8]) -> Result<Option<record::Head>, StoreError> {
        if let Some(waiting) = self.pending.read().records.get(key) {
            let head = |record: &Record| record::Head {
                mod_index: record.mod_index,
                length: record.value.len(),
                digest: waiting.digest,
            };
            return Ok(waiting.slot.as_ref().map(head));
        }
        if let Some(slot) = self.cache.peek(key) {
            return Ok(slot.map(|Cached { record, digest }| record::Head {
                mod_index: record.mod_index,
                length: record.value.len(),
                digest,
            }));
        }
        Ok(record::read_with_head(&*self.engine, Space::Record, key)?.map(|(head, _)| head))
    }

    /// Highest applied index whose state is surely on disk.
    pub fn durable_index(&self) -> u64 {
        self.flusher.durable()
    }

    /// Waits until everything applied so far is in the engine and on disk; gives the index of what is.
    ///
    /// # Errors
    /// The flusher's error; the process must end then.
    pub fn make_durable(&self) -> Result<u64, StoreError> {
        self.flusher.drain(self.applied_index());
        self.flusher.make_durable(&*self.engine)
    }

    /// Has what the engine holds now written to the disk, without waiting for what was applied since.
    ///
    /// # Errors
    /// As [`State::make_durable`].
    pub fn sync(&self) -> Result<u64, StoreError> {
        self.flusher.make_durable(&*self.engine)
    }

    /// True once the flusher has failed: nothing applied since is on disk, and nothing will be.
    pub fn failed(&self) -> bool {
        self.flusher.failed()
    }

    /// Bytes applied and not yet in the engine.
    pub fn pending_bytes(&self) -> usize {
        self.pending.read().bytes
    }

    fn has_room(&self) -> bool {
        self.pending_bytes() < PENDING_BYTES_MAX
    }
}

fn new_cache(bytes: u64) -> Cache<Key, Slot, Weigher> {
    let capacity = bytes.max(CACHE_BYTES_MIN);
    let shards = (capacity / CACHE_SHARD_BYTES).clamp(1, CACHE_SHARDS_MAX);
    let options = OptionsBuilder::new()
        .shards(usize::try_from(shards).expect("clamped above"))
        .estimated_items_capacity(usize::try_from(capacity / CACHE_ENTRY_BYTES_MEAN).unwrap_or(usize::MAX))
        .weight_capacity(capacity)
        .build()
        .expect("capacities are given");
    Cache::with_options(options, Weigher, DefaultHashBuilder::default(), DefaultLifecycle::default())
}
