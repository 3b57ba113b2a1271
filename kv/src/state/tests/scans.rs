//! A scan shows the state at one index, over all its pages, whatever is written meanwhile; and its memory is bounded.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::scan::ScanError;
use super::*;
use crate::limits::{SCAN_IDLE_MS_MAX, SCAN_UNDO_BYTES_MAX, SCANS_MAX};

/// A scan on its way, and what it must show.
struct Walk {
    id: ScanId,
    prefix: Vec<u8>,
    expected: BTreeMap<Bytes, Record>,
    found: BTreeMap<Bytes, Record>,
    after: Bytes,
    done: bool,
}

impl Walk {
    fn begin(state: &State, prefix: &[u8], now: &BTreeMap<Bytes, Record>) -> Self {
        let expected = now.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(k, r)| (k.clone(), r.clone()));
        Self {
            id: state.open_scan(0).unwrap(),
            prefix: prefix.to_vec(),
            expected: expected.collect(),
            found: BTreeMap::new(),
            after: Bytes::new(),
            done: false,
        }
    }

    fn page(&mut self, state: &State, records_max: usize, tell: bool) {
        if self.done {
            return;
        }
        let page = state.scan_page(self.id, 0, &self.prefix, &self.after, records_max, 100_000).unwrap();
        for (key, record) in page.records {
            assert!(key > self.after);
            self.after = key.clone();
            self.found.insert(key, record);
        }
        if tell {
            state.scan_passed(self.id, &self.after);
        }
        self.done = page.done;
        if self.done {
            assert_eq!(self.found, self.expected);
            state.close_scan(self.id);
        }
    }
}

fn nth(n: u16) -> Vec<u8> {
    format!("{}/{n:04}", if n.is_multiple_of(3) { "x" } else { "y" }).into_bytes()
}

#[derive(Debug, Clone)]
enum Act {
    Write(Vec<(u16, Option<usize>)>),
    Begin(usize),
    Page(usize, usize, bool),
    Durable,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let length = prop_oneof![4 => 0..50usize, 1 => Just(5_000usize), 1 => Just(20_000usize)];
    let op = (0..400u16, prop_oneof![3 => length.prop_map(Some), 2 => Just(None)]);
    let act = prop_oneof![
        5 => proptest::collection::vec(op, 1..60).prop_map(Act::Write),
        1 => (0..3usize).prop_map(Act::Begin),
        6 => (0..8usize, prop_oneof![1..60usize, 100..500usize], any::<bool>()).prop_map(|(which, max, tell)| Act::Page(which, max, tell)),
        1 => Just(Act::Durable),
    ];
    proptest::collection::vec(act, 1..60)
}

fn run(engine: Arc<dyn Engine>, acts: Vec<Act>) {
    let (state, mut writer, mut tape) = named(&engine);
    let mut model = BTreeMap::new();
    // More keys than are read at once, so that every source of a page is cut short somewhere.
    let many = (0..400).map(|n| (n, Some(9))).collect();
    let mut walks: Vec<Walk> = Vec::new();
    for act in [Act::Write(many)].into_iter().chain(acts) {
        match act {
            Act::Write(changes) => {
                let index = tape.last.index + 1;
                let mut ops = Vec::new();
                for (n, length) in changes {
                    let name = nth(n);
                    let value = length.map(|length| Bytes::from(vec![u8::try_from(index % 251).unwrap(); length]));
                    let record = value.clone().map(|value| Record { mod_index: index, value });
                    match record {
                        Some(record) => model.insert(name.clone().into(), record),
                        None => model.remove(&name[..]),
                    };
                    ops.push(value.map_or_else(|| delete(&name), |value| put(&name, value)));
                }
                writer.apply_range(&[tape.entry(write(index, ops))]).unwrap();
            }
            Act::Begin(prefix) => walks.push(Walk::begin(&state, [&b""[..], b"x/", b"y"][prefix], &model)),
            Act::Page(which, max, tell) if !walks.is_empty() => {
                let which = which % walks.len();
                walks[which].page(&state, max, tell);
            }
            Act::Page(..) => {}
            Act::Durable => drop(state.make_durable().unwrap()),
        }
    }
    for walk in &mut walks {
        while !walk.done {
            walk.page(&state, 170, true);
        }
    }
    assert_eq!(state.scans.lock().undo_size(), (0, 0), "nothing is kept once no scan is open");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_page_of_a_scan_shows_its_index_while_writes_go_on(acts in acts()) {
        run(memory(), acts.clone());
        let dir = tempfile::tempdir().unwrap();
        run(sled(dir.path()), acts);
    }
}

#[test]
fn scans_beside_a_writer_in_another_thread_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    for engine in [memory(), sled(dir.path())] {
        let (state, mut writer, mut tape) = named(&engine);
        let stop = AtomicBool::new(false);
        // Every entry writes the same value under some keys and deletes one: at any index each live key of a group of
        // four has one version, and exactly one of the four is missing.
        let group = |group: u64, version: u64| {
            let key = move |n: u64| format!("{group:04}/{n}");
            let mut ops: Vec<Op> = (0..4).map(|n| put(key(n), format!("{version}"))).collect();
            ops.push(delete(key(version % 4)));
            ops
        };
        let all = (0..200).map(|n| write(n + 1, group(n, 0))).collect::<Vec<_>>();
        writer.apply_range(&tape.entries(&all)).unwrap();
        std::thread::scope(|scope| {
            let scanner = scope.spawn(|| {
                let mut scans = 0;
                while !stop.load(Ordering::SeqCst) || scans == 0 {
                    let id = state.open_scan(0).unwrap();
                    let found = scan(&state, id, b"", 37);
                    state.close_scan(id);
                    assert_eq!(found.len(), 600);
                    for group in found.values().collect::<Vec<_>>().chunks(3) {
                        assert!(group.iter().all(|record| *record == group[0]), "{group:?}");
                    }
                    scans += 1;
                }
            });
            for round in 1..600 {
                let first = tape.last.index + 1;
                let writes = (0..6).map(|n| write(first + n, group((round * 7 + n * 31) % 200, first + n)));
                let entries = tape.entries(&writes.collect::<Vec<_>>());
                writer.apply_range(&entries).unwrap();
            }
            stop.store(true, Ordering::SeqCst);
            scanner.join().unwrap();
        });
    }
}

fn lost(state: &State, id: ScanId, now_ms: u64) -> bool {
    match state.scan_page(id, now_ms, b"", &Bytes::new(), 1, 1) {
        Ok(_) => false,
        Err(ScanError::Lost) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn scans_are_counted_and_an_idle_one_makes_room() {
    let (state, _writer, _) = named(&memory());
    let ids: Vec<_> = (0..SCANS_MAX).map(|_| state.open_scan(0).unwrap()).collect();
    assert!(matches!(state.open_scan(SCAN_IDLE_MS_MAX), Err(ScanError::TooMany)));
    assert!(!lost(&state, ids[3], SCAN_IDLE_MS_MAX));
    let newer = state.open_scan(SCAN_IDLE_MS_MAX + 1).unwrap();
    assert!(ids.iter().all(|id| lost(&state, *id, SCAN_IDLE_MS_MAX + 1) != (*id == ids[3])));
    state.close_scan(newer);
    assert!(lost(&state, newer, SCAN_IDLE_MS_MAX + 1));
}

#[test]
fn a_scan_ends_when_it_was_idle_for_too_long() {
    let (state, _writer, _) = named(&memory());
    let id = state.open_scan(5).unwrap();
    assert!(!lost(&state, id, 5 + SCAN_IDLE_MS_MAX));
    assert!(!lost(&state, id, 5 + 2 * SCAN_IDLE_MS_MAX));
    assert!(lost(&state, id, 6 + 3 * SCAN_IDLE_MS_MAX));
    assert!(lost(&state, id, 5), "what is lost stays lost");
}

#[test]
fn a_place_that_a_scan_has_passed_is_not_shown_again() {
    let (state, mut writer, mut tape) = named(&memory());
    writer.apply_range(&[tape.entry(write(1, vec![put("a", "1"), put("b", "1"), put("c", "1")]))]).unwrap();
    let id = state.open_scan(0).unwrap();
    let read = |after: &'static [u8]| state.scan_page(id, 0, b"", &Bytes::from_static(after), 9, 900);
    state.scan_passed(id, &Bytes::from_static(b"b"));
    state.scan_passed(id, &Bytes::from_static(b"a"));
    // What was under "a" is not put aside any more, so it cannot be told.
    writer.apply_range(&[tape.entry(write(2, vec![put("a", "2"), put("c", "2")]))]).unwrap();
    assert!(matches!(read(b""), Err(ScanError::Lost)));
    assert!(matches!(read(b"a"), Err(ScanError::Lost)));
    let page = read(b"b").unwrap();
    assert_eq!(page.records.len(), 1);
    assert_eq!(page.records[0].1.value, &b"1"[..]);
}

/// Overwrites sixteen large records once.
fn overwrite(writer: &mut StateWriter, tape: &mut Tape) {
    let sequence = tape.last.index;
    let ops = (0..16).map(|n| put([n], vec![0; 60_000])).collect();
    writer.apply_range(&[tape.entry(write(sequence, ops))]).unwrap();
}

#[test]
fn too_much_put_aside_ends_the_oldest_scan_and_only_that() {
    let (state, mut writer, mut tape) = named(&memory());
    overwrite(&mut writer, &mut tape);
    let old = state.open_scan(0).unwrap();
    overwrite(&mut writer, &mut tape);
    let young = state.open_scan(0).unwrap();
    let rounds = SCAN_UNDO_BYTES_MAX / (16 * 60_065);
    (1..rounds).for_each(|_| overwrite(&mut writer, &mut tape));
    assert!(!lost(&state, old, 0) && !lost(&state, young, 0));
    overwrite(&mut writer, &mut tape);
    assert!(lost(&state, old, 0));
    assert!(!lost(&state, young, 0));
    state.close_scan(young);
    assert_eq!(state.scans.lock().undo_size(), (0, 0));
}

#[test]
fn a_snapshot_in_the_making_outlives_client_scans() {
    let (state, mut writer, mut tape) = named(&memory());
    overwrite(&mut writer, &mut tape);
    let expected = contents(&state);
    let (dump, _, _) = writer.open_dump().unwrap();
    let client = state.open_scan(0).unwrap();
    (0..=SCAN_UNDO_BYTES_MAX / (16 * 60_065)).for_each(|_| overwrite(&mut writer, &mut tape));
    assert!(lost(&state, client, 0));
    assert_eq!(scan(&state, dump, b"", 5), expected);
    state.close_scan(dump);
    assert_eq!(state.scans.lock().undo_size(), (0, 0));
}

#[test]
fn a_snapshot_that_never_comes_forward_is_ended_too() {
    let (state, mut writer, mut tape) = named(&memory());
    let (dump, _, _) = writer.open_dump().unwrap();
    let id = dump;
    overwrite(&mut writer, &mut tape);
    state.scans.lock().pretend_undo_bytes(4 * SCAN_UNDO_BYTES_MAX);
    assert!(!lost(&state, id, 0));
    overwrite(&mut writer, &mut tape);
    assert!(lost(&state, id, 0));
}
