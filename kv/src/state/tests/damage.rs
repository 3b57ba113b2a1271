//! Damaged bytes are never served, and never become a hash or an answer.

use super::*;
use crate::local::{Local, LocalOptions};
use crate::snapshot::Dump;

/// Everything that the engine holds.
fn stored(engine: &Arc<dyn Engine>) -> Vec<(Bytes, Bytes)> {
    engine.range(b"", b"", usize::MAX).unwrap()
}

fn store(engine: &Arc<dyn Engine>, key: &Bytes, value: Option<&[u8]>) {
    engine.commit(vec![(key.to_vec(), value.map(<[u8]>::to_vec))]).unwrap();
}

/// An engine with short, inline and long values, a session and a membership; and its records.
fn filled() -> (Arc<dyn Engine>, BTreeMap<Bytes, Record>, Point, Tape) {
    let engine = memory();
    let (state, mut writer, mut tape) = named(&engine);
    let ops = vec![put("empty", ""), put("short", "value"), put("inline", vec![5; 300]), put("long", vec![6; 20_000])];
    let membership = [&[Entry::MEMBERSHIP][..], b"one voter"].concat();
    let entries = tape.entries(&[write(1, ops), membership.into()]);
    writer.apply_range(&entries).unwrap();
    state.make_durable().unwrap();
    let (records, point) = (contents(&state), (*state.point()).clone());
    drop((state, writer));
    (engine, records, point, tape)
}

fn is_damaged<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Damaged { .. }))
}

/// Reads and overwrites every record; true when every answer was the right one, false when damage was reported.
fn answers_right(engine: &Arc<dyn Engine>, records: &BTreeMap<Bytes, Record>, point: &Point, tape: &Tape) -> bool {
    let (state, _writer) = match State::open(engine.clone(), SMALL_CACHE) {
        Ok(opened) => opened,
        Err(StoreError::Damaged { .. }) => return false,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(*state.point(), *point);
    let mut right = true;
    for (key, record) in records {
        match state.get(key) {
            Ok(read) => assert_eq!(read.record.as_ref(), Some(record)),
            Err(error) => {
                assert!(is_damaged::<()>(Err(error)));
                right = false;
            }
        }
    }
    let id = state.open_scan(0).unwrap();
    let mut scanned = BTreeMap::new();
    match state.scan_page(id, 0, b"", &Bytes::new(), 100, usize::MAX) {
        Ok(page) => scanned.extend(page.records),
        Err(scan::ScanError::Store(error)) => assert!(is_damaged::<()>(Err(error)) && !right, "the read saw no damage"),
        Err(error) => panic!("{error}"),
    }
    assert!(!right || scanned == *records);
    // A condition and the state hash rest on what is overwritten: both are right, or the writer stops.
    let conditions = records.iter().map(|(name, r)| Condition { key: key(name), mod_index: r.mod_index }).collect();
    let ops = records.keys().map(|name| put(name, "new")).collect();
    let entry = tape.clone().entry(command(&Command::Write(Write { conditions, ..write_of(2, ops) })));
    let (state, mut writer) = open(engine);
    match writer.apply_range(&[entry]) {
        Ok(range) => {
            assert!(right, "damage that a read sees went into the hash");
            assert!(matches!(range.outcomes[0], Outcome::Written { .. }));
            let (_, _, sessions) = writer.open_dump().unwrap();
            assert_eq!(state.point().state_hash, recomputed(&contents(&state), &sessions));
        }
        Err(error) => assert!(is_damaged::<()>(Err(error)) && !right),
    }
    right
}

#[test]
fn a_flipped_byte_is_never_served() {
    let (engine, records, point, tape) = filled();
    let whole = stored(&engine);
    assert!(answers_right(&engine, &records, &point, &tape));
    let restore = || {
        stored(&engine).iter().for_each(|(key, _)| store(&engine, key, None));
        whole.iter().for_each(|(key, value)| store(&engine, key, Some(value)));
    };
    for (key, value) in &whole {
        // Every byte of what is short, some of what is long.
        for at in (0..value.len()).filter(|at| value.len() < 400 || at % 97 == 0 || at + 20 > value.len()) {
            restore();
            let mut flipped = value.to_vec();
            flipped[at] ^= 0x01;
            store(&engine, key, Some(&flipped));
            assert!(!answers_right(&engine, &records, &point, &tape), "byte {at} of {key:?}");
        }
    }
}

#[test]
fn a_value_that_lost_a_part_is_never_served() {
    let (engine, records, point, tape) = filled();
    let whole = stored(&engine);
    for (key, value) in &whole {
        for left in [None, Some(0), Some(value.len() - 1)] {
            // That a head is gone shows only in the sum over all records; every other loss shows at once.
            if left.is_none() && key[0] == b'k' {
                continue;
            }
            stored(&engine).iter().for_each(|(key, _)| store(&engine, key, None));
            whole.iter().for_each(|(key, value)| store(&engine, key, Some(value)));
            store(&engine, key, left.map(|left| &value[..left]));
            assert!(!answers_right(&engine, &records, &point, &tape), "{left:?} bytes of {key:?}");
        }
    }
}

#[test]
fn a_state_that_misses_anything_does_not_agree_with_itself() {
    let (engine, ..) = filled();
    let checked =
        || State::open(engine.clone(), SMALL_CACHE).and_then(|(_, writer)| Dump::open(&writer).unwrap().check());
    checked().unwrap();
    for (key, value) in stored(&engine) {
        store(&engine, &key, None);
        assert!(is_damaged(checked()), "{key:?}");
        store(&engine, &key, Some(&value));
    }
    checked().unwrap();
}

#[test]
fn a_state_with_a_page_that_may_be_missing_is_read_through_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let opened = || Local::open(LocalOptions { dir: Some(dir.path().to_owned()), ..LocalOptions::default() });
    let local = opened().unwrap();
    let mut tape = Tape::default();
    local.apply(&tape.entries(&[genesis(), write(1, vec![put("a", "1"), put("b", "2")])])).unwrap();
    local.state().make_durable().unwrap();
    drop(local);
    let folder = dir.path().join(format!("state-{:020}", 0));
    std::fs::create_dir_all(folder.join("blobs")).unwrap();
    std::fs::write(folder.join("blobs/1"), b"a page").unwrap();
    drop(opened().unwrap());

    let engine = sled(&folder);
    let (key, _) = stored(&engine).into_iter().find(|(key, _)| key.ends_with(b"a")).unwrap();
    store(&engine, &key, None);
    engine.make_durable().unwrap();
    drop(engine);
    assert!(opened().is_err_and(|error| error.is_damage()));
}
