//! Both engines behave alike, and sled never makes a page that it would not sync.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::limits::{INLINE_BYTES_MAX, PIECE_BYTES};

fn sled(dir: &Path) -> SledEngine {
    SledEngine::open(dir, 8 << 20).unwrap()
}

fn all(engine: &dyn Engine) -> Vec<(Bytes, Bytes)> {
    engine.range(b"", b"", usize::MAX).unwrap()
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => proptest::collection::vec(0..3u8, 1..4),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => (0..3usize).prop_map(|n| vec![0xff; n + 1]),
    ]
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    proptest::collection::vec(proptest::collection::vec((key(), value), 0..12), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn both_engines_are_the_ordered_map(
        batches in batches(),
        asked in proptest::collection::vec((key(), key(), 0..9usize), 8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let engines: [Box<dyn Engine>; 2] = [Box::new(MemoryEngine::default()), Box::new(sled(dir.path()))];
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for batch in batches {
            for (key, value) in &batch {
                match value {
                    Some(value) => model.insert(key.clone(), value.clone()),
                    None => model.remove(key),
                };
            }
            for engine in &engines {
                engine.commit(batch.clone()).unwrap();
            }
        }
        for engine in &engines {
            for (prefix, from, limit) in &asked {
                let found = engine.range(prefix, from, *limit).unwrap();
                let expected = model.iter().filter(|(key, _)| key.starts_with(prefix) && *key >= from).take(*limit);
                prop_assert!(found.iter().map(|(k, v)| (&k[..], &v[..])).eq(expected.map(|(k, v)| (&k[..], &v[..]))));
                let found = engine.get(from).unwrap();
                prop_assert_eq!(found.as_deref(), model.get(from).map(Vec::as_slice));
            }
            engine.make_durable().unwrap();
        }
        let before = all(&*engines[1]);
        drop(engines);
        prop_assert_eq!(all(&sled(dir.path())), before);
    }
}

#[test]
fn no_reader_sees_a_part_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let engines: [Box<dyn Engine>; 2] = [Box::new(MemoryEngine::default()), Box::new(sled(dir.path()))];
    let keys: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; 30]).collect();
    for engine in &engines {
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..300u32 {
                    let batch = keys.iter().map(|key| (key.clone(), Some(round.to_be_bytes().to_vec())));
                    engine.commit(batch.collect()).unwrap();
                }
            });
            while !writer.is_finished() {
                // What is read later is never older, whichever key it is of.
                let mut least = Bytes::new();
                for key in keys.iter().rev() {
                    let found = engine.get(key).unwrap().unwrap_or_default();
                    assert!(found >= least);
                    least = found;
                }
            }
        });
    }
}

#[test]
fn an_engine_in_a_nested_folder_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let nested = dir.path().join("voter/state");
    let engine = sled(&nested);
    engine.commit(vec![(b"a".to_vec(), Some(b"1".to_vec()))]).unwrap();
    engine.make_durable().unwrap();
    assert!(engine.disk_bytes() > 0);
    assert_eq!(engine.dir(), Some(nested.as_path()));
    drop(engine);
    assert_eq!(all(&sled(&nested)).len(), 1);
}

#[test]
fn a_folder_that_is_open_is_not_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    assert!(matches!(SledEngine::open(dir.path(), 1 << 20), Err(StoreError::Engine(_))));
    drop(engine);
    sled(dir.path());
}

/// Numbers that look random and are the same in every run.
fn scrambled(n: u64) -> [u8; 32] {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

fn long_key(n: u64, length: usize) -> Vec<u8> {
    scrambled(n).into_iter().cycle().take(length).collect()
}

fn blobs(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("blobs")).map_or(0, Iterator::count)
}

#[test]
fn values_as_the_state_stores_them_make_no_page_outside_the_log() {
    use crate::state::{State, StateOptions};
    use cinnabar_kv_api::{ClientId, Command, Key, Op, StoreId, Write};

    let dir = tempfile::tempdir().unwrap();
    let engine = std::sync::Arc::new(sled(dir.path()));
    let (state, mut writer) = State::open(engine.clone(), StateOptions { cache_bytes: 0 }).unwrap();
    let mut last = crate::log::LogPoint::default();
    let mut apply = |command: Command| {
        let payload = command.to_payload();
        last = crate::log::LogPoint { index: last.index + 1, term: 1, head: last.head };
        writer.apply_range(&[crate::log::LogEntry { point: last, payload }]).unwrap();
    };
    apply(Command::Genesis { cluster: "acme".parse().unwrap(), store_id: StoreId([1; 16]) });
    // Lengths just under and over what is stored beside its key, and those that end in a full piece.
    let lengths = [20 * 1024, INLINE_BYTES_MAX, 60 * 1024, INLINE_BYTES_MAX + 1, 5 * PIECE_BYTES, 100, 64 * 1024 - 513];
    for n in 0..2_400u64 {
        let length = lengths[usize::try_from(n % 7).unwrap()];
        // Every third write comes back to an older key with another length, some delete one.
        let which = if n % 3 == 2 { n / 2 } else { n };
        let key = Key::new(long_key(which, if n % 2 == 0 { 512 } else { 40 })).unwrap();
        let op = if n % 17 == 16 { Op::Delete { key } } else { Op::Put { key, value: vec![n as u8; length].into() } };
        let write = Write {
            client: ClientId([u8::try_from(n % 200).unwrap(); 16]),
            sequence: n + 1,
            answered_below: 0,
            conditions: Vec::new(),
            ops: vec![op],
        };
        apply(Command::Write(write));
        if n % 400 == 399 {
            state.make_durable().unwrap();
        }
    }
    state.make_durable().unwrap();
    assert_eq!(blobs(dir.path()), 0);
    assert!(!engine.may_miss_a_page());
}

#[test]
fn a_database_with_a_page_outside_the_log_is_one_to_read_through() {
    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    // Values that are not cut into pieces make such pages.
    for n in 0..200 {
        engine.commit(vec![(long_key(n, 512), Some(vec![0; 60 * 1024]))]).unwrap();
    }
    engine.make_durable().unwrap();
    assert!(blobs(dir.path()) > 0 && !engine.may_miss_a_page());
    // One that was synced and has gone since is no error.
    for n in 0..200 {
        engine.commit(vec![(long_key(n, 512), None)]).unwrap();
        engine.make_durable().unwrap();
    }
    engine.commit(vec![(b"large".to_vec(), Some(vec![0; 300 * 1024]))]).unwrap();
    engine.make_durable().unwrap();
    drop(engine);
    let engine = sled(dir.path());
    assert!(engine.may_miss_a_page());
    assert_eq!(all(&engine).len(), 1);
}

/// Parts of the file that are damaged, one at a time: sled panics over about half of them.
const PARTS: usize = 20;

#[test]
fn whatever_sled_makes_of_a_damaged_file_nothing_panics() {
    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    for n in 0..6_000u64 {
        let value = Some(scrambled(n).into_iter().cycle().take(900).collect());
        engine.commit(vec![(n.to_be_bytes().to_vec(), value)]).unwrap();
    }
    engine.make_durable().unwrap();
    drop(engine);
    let [file, conf] = ["db", "conf"].map(|name| dir.path().join(name));
    let whole = std::fs::read(&file).unwrap();
    for part in 0..PARTS {
        let mut damaged = whole.clone();
        let (from, to) = (damaged.len() * part / PARTS, damaged.len() * (part + 1) / PARTS);
        damaged[from..to].iter_mut().for_each(|byte| *byte ^= 0x5a);
        std::fs::write(&file, damaged).unwrap();
        // It may also open what is left, as after a torn end; what is missing then the state and the log tell.
        let opened = SledEngine::open(dir.path(), 8 << 20);
        assert!(opened.as_ref().err().is_none_or(StoreError::is_damage), "part {part}: {opened:?}");
    }
    std::fs::write(&file, &whole).unwrap();
    let mut damaged = std::fs::read(&conf).unwrap();
    damaged[0] ^= 1;
    std::fs::write(&conf, damaged).unwrap();
    assert!(SledEngine::open(dir.path(), 8 << 20).is_err_and(|error| error.is_damage()));
}
