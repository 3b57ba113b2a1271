//! Readers beside the writer: versions in order, none that was not written, none older than what a commit has answered.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex as Lock;

use super::*;

const KEYS: u64 = 96;
/// Each key's every fifth operation is a deletion.
const DELETE_EVERY: u64 = 5;

fn name(key: u64) -> Vec<u8> {
    format!("key {key}").into_bytes()
}

/// Operations go round the keys; entry 1 is the genesis.
fn key_of(index: u64) -> u64 {
    index % KEYS
}

fn deletes(index: u64) -> bool {
    index / KEYS % DELETE_EVERY == DELETE_EVERY - 1
}

fn value_of(index: u64) -> Vec<u8> {
    let length = [3, 900, 4_090, 4_097, 9_000, 20_000][usize::try_from(index % 6).unwrap()];
    index.to_le_bytes().into_iter().cycle().take(length).collect()
}

struct Progress {
    /// Highest index that a commit may have begun to show.
    begun: AtomicU64,
    /// Newest index of each key that a commit has answered.
    answered: Vec<AtomicU64>,
    stop: AtomicBool,
}

fn read_all(state: &State, progress: &Progress, seed: u64) -> u64 {
    let mut seen = vec![0; usize::try_from(KEYS).unwrap()];
    let (mut reads, mut at, mut stamp) = (0, seed, 0);
    while !progress.stop.load(Ordering::SeqCst) {
        at = (at * 5 + 11) % KEYS;
        let slot = usize::try_from(at).unwrap();
        let least = progress.answered[slot].load(Ordering::SeqCst).max(seen[slot]);
        let read = state.get(&name(at)).unwrap();
        let begun = progress.begun.load(Ordering::SeqCst);
        // What is read is what its stamp says, present or absent, and stamps do not go back.
        let shown = (2..=read.applied_index).rev().find(|index| key_of(*index) == at).filter(|index| !deletes(*index));
        assert_eq!(read.record.as_ref().map(|record| record.mod_index), shown, "key {at} at {}", read.applied_index);
        assert!(read.applied_index >= stamp, "{} after {stamp}", read.applied_index);
        stamp = read.applied_index;
        seen[slot] = match read.record {
            Some(record) => {
                assert_eq!(key_of(record.mod_index), at);
                assert!(!deletes(record.mod_index) && record.value == value_of(record.mod_index));
                assert!(record.mod_index <= begun && record.mod_index <= read.applied_index);
                assert!(record.mod_index >= least, "{} was read after {least}", record.mod_index);
                record.mod_index
            }
            // It must be one of the deletions, or the time before the first write.
            None if least == 0 => 0,
            None => (least..=begun).find(|index| key_of(*index) == at && deletes(*index)).expect("nothing deleted it"),
        };
        reads += 1;
    }
    reads
}

fn run_readers(engine: Arc<dyn Engine>, rounds: u64) {
    let (state, mut writer, mut tape) = named(&engine);
    let answered = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let progress = Progress { begun: AtomicU64::new(1), answered, stop: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|seed| {
                let (state, progress) = (&state, &progress);
                scope.spawn(move || read_all(state, progress, seed))
            })
            .collect();
        for round in 0..rounds {
            let mut entries = Vec::new();
            for _ in 0..=round % 9 {
                let index = tape.last.index + 1;
                let name = name(key_of(index));
                let op = if deletes(index) { delete(name) } else { put(name, value_of(index)) };
                entries.push(tape.entry(write(index, vec![op])));
            }
            progress.begun.store(tape.last.index, Ordering::SeqCst);
            writer.apply_range(&entries).unwrap();
            for entry in &entries {
                let index = entry.point.index;
                progress.answered[usize::try_from(key_of(index)).unwrap()].store(index, Ordering::SeqCst);
            }
        }
        progress.stop.store(true, Ordering::SeqCst);
        let reads: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(reads > 0);
    });
    let misses = state.cache_misses();
    assert!(misses > 0, "the engine was never read");
}

#[test]
fn readers_of_a_memory_engine_see_versions_in_order_and_never_an_old_one() {
    run_readers(memory(), 3_000);
}

#[test]
fn readers_of_sled_see_versions_in_order_and_never_an_old_one() {
    let dir = tempfile::tempdir().unwrap();
    run_readers(sled(dir.path()), 1_500);
}

/// An engine whose next read of the gated key stops after it has the value.
struct Gated {
    inner: Arc<dyn Engine>,
    key: Vec<u8>,
    gate: Lock<Option<(Sender<()>, Receiver<()>)>>,
}

impl Engine for Gated {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.inner.get(key);
        let gate = if key == self.key { self.gate.lock().take() } else { None };
        if let Some((reached, go)) = gate {
            reached.send(()).unwrap();
            go.recv().unwrap();
        }
        found
    }

    fn range(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.inner.range(prefix, from, limit)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.inner.commit(batch)
    }

    fn make_durable(&self) -> Result<(), StoreError> {
        self.inner.make_durable()
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    fn dir(&self) -> Option<&Path> {
        None
    }
}

#[test]
fn a_slow_reader_never_puts_an_old_record_back_whatever_the_size_of_the_new_one() {
    for cache_bytes in [0, 1_000, 40_000, 1 << 20] {
        for op in [put("k", vec![2; 65_000]), put("k", "new"), delete("k")] {
            let engine = memory();
            let (state, mut writer, mut tape) = named(&engine);
            writer.apply_range(&[tape.entry(write(1, vec![put("k", "old")]))]).unwrap();
            state.make_durable().unwrap();
            drop((state, writer));
            let ((reached, is_reached), (go, goes)) = (channel(), channel());
            let key = record::head_key(Space::Record, b"k");
            let gated = Arc::new(Gated { inner: engine, key, gate: Lock::new(None) });
            let (state, mut writer) = State::open(gated.clone(), StateOptions { cache_bytes }).unwrap();
            *gated.gate.lock() = Some((reached, goes));
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| state.get(b"k").unwrap().record.unwrap().value);
                is_reached.recv().unwrap();
                writer.apply_range(&[tape.entry(write(2, vec![op.clone()]))]).unwrap();
                go.send(()).unwrap();
                assert_eq!(reader.join().unwrap(), &b"old"[..]);
            });
            let expected = if let Op::Put { value, .. } = &op { Some(value.clone()) } else { None };
            for _ in 0..3 {
                assert_eq!(state.get(b"k").unwrap().record.map(|record| record.value), expected, "{cache_bytes}");
            }
        }
    }
}

#[test]
fn a_value_replaced_while_its_pieces_are_read_is_read_again() {
    let engine = memory();
    let (state, mut writer, mut tape) = named(&engine);
    writer.apply_range(&[tape.entry(write(1, vec![put("k", vec![1; 20_000])]))]).unwrap();
    state.make_durable().unwrap();
    drop((state, writer));
    let ((reached, is_reached), (go, goes)) = (channel(), channel());
    let key = record::head_key(Space::Record, b"k");
    let gated = Arc::new(Gated { inner: engine, key, gate: Lock::new(None) });
    let (state, mut writer) = State::open(gated.clone(), SMALL_CACHE).unwrap();
    *gated.gate.lock() = Some((reached, goes));
    std::thread::scope(|scope| {
        // The head is read, then all pieces are replaced, then the pieces are read.
        let reader = scope.spawn(|| state.get(b"k").unwrap().record.unwrap().value);
        is_reached.recv().unwrap();
        writer.apply_range(&[tape.entry(write(2, vec![put("k", vec![2; 20_000])]))]).unwrap();
        state.make_durable().unwrap();
        go.send(()).unwrap();
        assert_eq!(reader.join().unwrap(), vec![2; 20_000]);
    });
}
