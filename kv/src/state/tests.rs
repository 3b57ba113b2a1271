//! Attacks on the state: whatever the log says and however it is cut into ranges, readers and the engine agree with a
//! model made of maps. Here are the helpers; each file below attacks one law.

mod damage;
mod model;
mod readers;
mod scans;
mod sessions;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cinnabar_daemon::id::ClusterId;
use cinnabar_kv_api::{ClientId, Command, Condition, Entry, Key, Op, StateHash, StoreId, Write};

use super::hash::{Space, Sum, digest};
use super::scan::ScanId;
use super::*;
use crate::log::LogEntry;
use crate::store::{Batch, MemoryEngine, SledEngine};

/// Builds entries, each chained to the one before.
#[derive(Debug, Clone, Default)]
struct Tape {
    last: LogPoint,
}

impl Tape {
    fn entry(&mut self, payload: impl Into<Bytes>) -> LogEntry {
        let payload = payload.into();
        let (index, term) = (self.last.index + 1, 1);
        self.last = LogPoint { index, term, head: self.last.head.next(index, term, &payload) };
        LogEntry { point: self.last, payload }
    }

    fn entries(&mut self, payloads: &[Bytes]) -> Vec<LogEntry> {
        payloads.iter().map(|payload| self.entry(payload.clone())).collect()
    }
}

fn command(command: &Command) -> Bytes {
    command.to_payload()
}

fn genesis() -> Bytes {
    let cluster: ClusterId = "acme".parse().unwrap();
    command(&Command::Genesis { cluster, store_id: StoreId([7; 16]) })
}

fn client(n: u64) -> ClientId {
    let mut id = [0xc1; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    ClientId(id)
}

fn key(name: impl AsRef<[u8]>) -> Key {
    Key::new(name.as_ref().to_vec()).unwrap()
}

fn put(name: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Op {
    Op::Put { key: key(name), value: value.into() }
}

fn delete(name: impl AsRef<[u8]>) -> Op {
    Op::Delete { key: key(name) }
}

fn write_of(sequence: u64, ops: Vec<Op>) -> Write {
    Write { client: client(0), sequence, answered_below: sequence, conditions: Vec::new(), ops }
}

/// A write of client 0 that asks nothing.
fn write(sequence: u64, ops: Vec<Op>) -> Bytes {
    command(&Command::Write(write_of(sequence, ops)))
}

const SMALL_CACHE: StateOptions = StateOptions { cache_bytes: 0 };
const LARGE_CACHE: StateOptions = StateOptions { cache_bytes: 64 << 20 };

fn open(engine: &Arc<dyn Engine>) -> (Arc<State>, StateWriter) {
    State::open(engine.clone(), SMALL_CACHE).unwrap()
}

fn memory() -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::default())
}

fn sled(dir: &Path) -> Arc<dyn Engine> {
    Arc::new(SledEngine::open(dir, 8 << 20).unwrap())
}

/// A memory state with its name, at index 1.
fn named(engine: &Arc<dyn Engine>) -> (Arc<State>, StateWriter, Tape) {
    let (state, mut writer) = open(engine);
    let mut tape = Tape::default();
    writer.apply_range(&[tape.entry(genesis())]).unwrap();
    (state, writer, tape)
}

/// Everything that a scan shows, over pages.
fn scan(state: &State, id: ScanId, prefix: &[u8], page_max: usize) -> BTreeMap<Bytes, Record> {
    let mut found = BTreeMap::new();
    let mut after = Bytes::new();
    loop {
        let page = state.scan_page(id, 0, prefix, &after, page_max, 100_000).unwrap();
        assert!(page.records.len() <= page_max);
        for (key, record) in page.records {
            assert!(key > after, "keys come in order, each once");
            after = key.clone();
            found.insert(key, record);
        }
        if page.done {
            return found;
        }
    }
}

fn contents(state: &State) -> BTreeMap<Bytes, Record> {
    let id = state.open_scan(0).unwrap();
    let found = scan(state, id, b"", 50);
    state.close_scan(id);
    found
}

/// The state hash from nothing but the live records and sessions.
fn recomputed(records: &BTreeMap<Bytes, Record>, sessions: &[(ClientId, Record)]) -> StateHash {
    let mut sum = Sum::default();
    for (key, record) in records {
        sum.add(&digest(Space::Record, key, record.mod_index, &record.value));
    }
    for (client, record) in sessions {
        sum.add(&digest(Space::Session, &client.0, record.mod_index, &record.value));
    }
    sum.hash((records.len() + sessions.len()) as u64)
}

/// An engine whose commits fail after some, as a full disk's do.
struct Failing {
    inner: Arc<dyn Engine>,
    commits: AtomicUsize,
}

impl Failing {
    fn after(commits: usize, inner: &Arc<dyn Engine>) -> Arc<dyn Engine> {
        Arc::new(Self { inner: inner.clone(), commits: AtomicUsize::new(commits) })
    }
}

impl Engine for Failing {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(key)
    }

    fn range(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.inner.range(prefix, from, limit)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let left = self.commits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_err(|_| StoreError::Io(std::io::Error::other("the disk is full")))?;
        self.inner.commit(batch)
    }

    fn make_durable(&self) -> Result<(), StoreError> {
        self.inner.make_durable()
    }

    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }

    fn dir(&self) -> Option<&Path> {
        self.inner.dir()
    }
}
