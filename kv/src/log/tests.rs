//! Attacks on the log: torn tails, flipped bytes, crashes between steps, failing syncs, readers beside the writer.

mod beside;
mod damage;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex as StdMutex};

use proptest::prelude::*;
use tempfile::TempDir;

use super::record::{RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::*;

/// Small, so that a few entries make several files.
const SEGMENT: u64 = 1024;

fn options() -> LogOptions {
    LogOptions {
        sync_appends: true,
        durable: 0,
        on_fatal: Box::new(|error| panic!("{error}")),
        on_sync: Box::new(|sync| sync()),
    }
}

fn open(dir: &Path) -> Log {
    Log::open_sized(dir, options(), SEGMENT, 0).unwrap()
}

fn try_open(dir: &Path) -> Result<Log, LogError> {
    Log::open_sized(dir, options(), SEGMENT, 0)
}

/// The folder of a log that was written up to an index and closed, and its entries.
fn closed(upto: u64) -> (TempDir, Vec<LogEntry>) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1..=upto, 1);
    let all = contents(&log);
    (dir, all)
}

/// An answer to wait for.
fn waiting() -> (Done, Receiver<io::Result<()>>) {
    let (sender, receiver) = channel();
    (Box::new(move |result| sender.send(result).unwrap_or(())), receiver)
}

fn wait(act: impl FnOnce(Done)) -> io::Result<()> {
    let (done, answer) = waiting();
    act(done);
    answer.recv().expect("every job is answered")
}

fn payload(index: u64, term: u64) -> Bytes {
    format!("entry {index} of term {term} {}", "x".repeat(usize::try_from((index * 7 + term * 13) % 90).unwrap()))
        .into()
}

fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<(u64, u64, Bytes)> {
    indexes.map(|index| (index, term, payload(index, term))).collect()
}

fn append(log: &Log, indexes: std::ops::RangeInclusive<u64>, term: u64) {
    wait(|done| log.append(entries(indexes, term), done).unwrap()).unwrap();
}

fn truncate(log: &Log, after: u64) {
    wait(|done| log.truncate_after(after, done).unwrap()).unwrap();
}

fn purge(log: &Log, point: LogPoint) {
    wait(|done| log.purge(point, done)).unwrap();
}

/// Every entry, checked for its place in the chain.
fn contents(log: &Log) -> Vec<LogEntry> {
    let mut found: Vec<LogEntry> = Vec::new();
    let mut before = log.purged();
    while before.index < log.last().index {
        let page = log.read(before.index + 1, 7, 500).unwrap();
        assert!(!page.is_empty(), "entry {} is missing", before.index + 1);
        for entry in page {
            assert_eq!(entry.point.index, before.index + 1);
            assert_eq!(entry.point.head, before.head.next(entry.point.index, entry.point.term, &entry.payload));
            before = entry.point;
            found.push(entry);
        }
    }
    assert_eq!(before, log.last());
    found
}

fn files(dir: &Path) -> Vec<PathBuf> {
    segment::list(dir).unwrap().into_iter().map(|first| dir.join(segment::file_name(first))).collect()
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn bytes_of(entries: &[LogEntry]) -> usize {
    entries.iter().map(|entry| entry.payload.len() + RECORD_HEADER_BYTES).sum()
}

#[test]
fn what_was_answered_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let nested = dir.path().join("voter/raft");
    let log = open(&nested);
    assert_eq!(log.read_vote().unwrap(), None);
    append(&log, 1..=40, 1);
    wait(|done| log.save_vote(b"a vote", done)).unwrap();
    let before = (contents(&log), log.last(), log.purged(), log.read_vote().unwrap(), log.disk_bytes());
    drop(log);
    let log = open(&nested);
    assert_eq!((contents(&log), log.last(), log.purged(), log.read_vote().unwrap(), log.disk_bytes()), before);
    assert_eq!(log.last().index, 40);
    assert_eq!(log.read_vote().unwrap().unwrap(), b"a vote");
    assert!(files(&nested).len() > 3);
}

#[test]
fn an_answer_follows_its_sync() {
    let dir = tempfile::tempdir().unwrap();
    let synced = Arc::new(AtomicU64::new(0));
    let options = LogOptions {
        on_sync: Box::new({
            let (synced, dir) = (synced.clone(), dir.path().to_owned());
            move |sync| {
                let bytes: u64 = files(&dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
                sync()?;
                synced.store(bytes, Ordering::SeqCst);
                Ok(())
            }
        }),
        ..options()
    };
    let log = Log::open_sized(dir.path(), options, SEGMENT, 0).unwrap();
    for index in 1..=30 {
        let (sender, at_answer) = channel();
        let synced = synced.clone();
        let done: Done = Box::new(move |_| sender.send(synced.load(Ordering::SeqCst)).unwrap());
        log.append(entries(index..=index, 1), done).unwrap();
        assert!(at_answer.recv().unwrap() >= log.disk_bytes(), "entry {index}");
    }
}

/// Options whose syncs wait for a word: (one is begun, it may go on).
fn gated() -> (LogOptions, Receiver<()>, Sender<()>) {
    let (begun, begins) = channel();
    let (go, goes) = channel::<()>();
    let on_sync = move |sync: &mut dyn FnMut() -> io::Result<()>| {
        let _ = begun.send(());
        let _ = goes.recv();
        sync()
    };
    (LogOptions { on_sync: Box::new(on_sync), ..options() }, begins, go)
}

#[test]
fn appends_that_wait_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (options, begins, go) = gated();
    let log = Log::open(dir.path(), options).unwrap();
    let mut answers = Vec::new();
    for index in 1..=51 {
        let (done, answer) = waiting();
        log.append(entries(index..=index, 1), done).unwrap();
        answers.push(answer);
        if index == 1 {
            begins.recv().unwrap();
        }
    }
    go.send(()).unwrap();
    begins.recv().unwrap();
    go.send(()).unwrap();
    for answer in answers {
        answer.recv().unwrap().unwrap();
    }
    assert!(begins.try_recv().is_err(), "fifty appends took more than one sync");
}

#[test]
fn a_full_queue_stops_neither_readers_nor_the_thread() {
    let dir = tempfile::tempdir().unwrap();
    let (options, begins, go) = gated();
    let log = Log::open(dir.path(), options).unwrap();
    let answered = Arc::new(AtomicU64::new(0));
    let jobs = LOG_JOBS_MAX as u64 + 100;
    let writer = std::thread::spawn({
        let (log, answered) = (log.clone(), answered.clone());
        move || {
            for index in 1..=jobs {
                let answered = answered.clone();
                let done: Done = Box::new(move |result| {
                    result.unwrap();
                    answered.fetch_add(1, Ordering::SeqCst);
                });
                log.append([(index, 1, Bytes::from_static(b"x"))], done).unwrap();
            }
        }
    });
    begins.recv().unwrap();
    // All that the queue takes is in it once the index has come this far; the next append waits.
    while log.last().index < LOG_JOBS_MAX as u64 + 1 {
        std::thread::yield_now();
    }
    assert_eq!(log.read(1, 1, 1).unwrap().len(), 1);
    drop(go);
    writer.join().unwrap();
    wait(|done| log.sync(done)).unwrap();
    assert_eq!(answered.load(Ordering::SeqCst), jobs);
}

#[test]
fn after_a_failed_sync_nothing_is_answered_well() {
    let dir = tempfile::tempdir().unwrap();
    let fatal = Arc::new(AtomicU64::new(0));
    let (failing, fails) = (Arc::new(AtomicBool::new(false)), fatal.clone());
    let options = LogOptions {
        on_fatal: Box::new(move |_| {
            fails.fetch_add(1, Ordering::SeqCst);
        }),
        on_sync: Box::new({
            let failing = failing.clone();
            move |sync| if failing.load(Ordering::SeqCst) { Err(io::Error::other("the disk is gone")) } else { sync() }
        }),
        ..options()
    };
    let log = Log::open_sized(dir.path(), options, SEGMENT, 0).unwrap();
    append(&log, 1..=3, 1);
    failing.store(true, Ordering::SeqCst);
    let error = wait(|done| log.append(entries(4..=4, 1), done).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "the disk is gone");
    failing.store(false, Ordering::SeqCst);
    // The disk seems well again; what it lost is not known, so nothing may succeed.
    wait(|done| log.append(entries(5..=5, 1), done).unwrap()).unwrap_err();
    wait(|done| log.save_vote(b"vote", done)).unwrap_err();
    wait(|done| log.truncate_after(2, done).unwrap()).unwrap_err();
    wait(|done| log.purge(log.point_at(1).unwrap(), done)).unwrap_err();
    wait(|done| log.sync(done)).unwrap_err();
    assert_eq!(fatal.load(Ordering::SeqCst), 1);
    assert_eq!(log.read_vote().unwrap(), None);
}

#[test]
fn after_a_failed_write_nothing_is_answered_well() {
    let dir = tempfile::tempdir().unwrap();
    let fatal = Arc::new(AtomicU64::new(0));
    let fails = fatal.clone();
    let on_fatal = move |_: &io::Error| {
        fails.fetch_add(1, Ordering::SeqCst);
    };
    let log = Log::open(dir.path(), LogOptions { on_fatal: Box::new(on_fatal), ..options() }).unwrap();
    append(&log, 1..=3, 1);
    fs::create_dir(dir.path().join("vote.new")).unwrap();
    wait(|done| log.save_vote(b"vote", done)).unwrap_err();
    wait(|done| log.append(entries(4..=4, 1), done).unwrap()).unwrap_err();
    assert_eq!(fatal.load(Ordering::SeqCst), 1);
    drop(log);
    assert_eq!(open(dir.path()).last().index, 3);
}

#[test]
fn a_purge_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1..=40, 1);
    let (early, late) = (log.point_at(3).unwrap(), log.point_at(30).unwrap());
    purge(&log, late);
    purge(&log, early);
    assert_eq!(log.purged(), late);
    assert!(matches!(log.read(30, 1, 1), Err(LogError::Purged { index: 30, first: 31 })));
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.purged(), late);
    assert_eq!(contents(&log).first().unwrap().point.index, 31);
}

#[test]
fn what_was_truncated_leaves_no_trace_in_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open_sized(dir.path(), options(), 1 << 20, 0).unwrap();
    append(&log, 1..=300, 1);
    // The new entries have other lengths, so each place that is still remembered would be a wrong one.
    truncate(&log, 100);
    append(&log, 101..=300, 2);
    for index in 1..=300 {
        let found = log.read(index, 1, 1).unwrap();
        assert_eq!(found[0].payload, payload(index, if index > 100 { 2 } else { 1 }));
    }
}

#[test]
fn a_group_larger_than_a_file_goes_to_several() {
    let (dir, all) = closed(200);
    for path in files(dir.path()) {
        assert!(fs::metadata(path).unwrap().len() < SEGMENT + 300);
    }
    assert_eq!(contents(&open(dir.path())), all);
}

#[test]
fn a_log_that_does_not_sync_appends_syncs_a_file_before_the_next_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let synced: Arc<StdMutex<Vec<usize>>> = Arc::default();
    let on_sync = {
        let (synced, dir) = (synced.clone(), dir.path().to_owned());
        move |sync: &mut dyn FnMut() -> io::Result<()>| {
            synced.lock().unwrap().push(files(&dir).len());
            sync()
        }
    };
    let options = LogOptions { sync_appends: false, on_sync: Box::new(on_sync), ..options() };
    let log = Log::open_sized(dir.path(), options, SEGMENT, 0).unwrap();
    (1..=40).for_each(|index| append(&log, index..=index, 1));
    let begun = files(dir.path()).len();
    assert!(begun > 2);
    assert_eq!(*synced.lock().unwrap(), (1..begun).collect::<Vec<_>>());
    wait(|done| log.sync(done)).unwrap();
    assert_eq!(synced.lock().unwrap().len(), begun);
}

#[test]
fn a_second_opener_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    assert!(matches!(try_open(dir.path()), Err(LogError::Io { act: "lock", .. })));
    drop(log);
    open(dir.path());
}

#[test]
fn an_answer_may_hold_the_last_clone() {
    let dir = tempfile::tempdir().unwrap();
    let (options, begins, go) = gated();
    let log = Log::open(dir.path(), options).unwrap();
    let (sender, answer) = channel::<()>();
    let clone = log.clone();
    log.append(entries(1..=1, 1), Box::new(move |result| drop((result, clone, sender)))).unwrap();
    begins.recv().unwrap();
    drop(log);
    go.send(()).unwrap();
    assert!(answer.recv().is_err(), "the answer was given");
    while try_open(dir.path()).is_err() {
        std::thread::yield_now();
    }
}

#[test]
fn entries_out_of_place_and_payloads_out_of_bounds_are_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let never = || -> Done { Box::new(|_| panic!("refused entries are not answered")) };
    append(&log, 1..=3, 1);
    let last = log.last();
    for refused in [
        entries(5..=6, 1),
        entries(3..=4, 1),
        [entries(4..=5, 1), entries(7..=7, 1)].concat(),
        vec![(4, 1, Bytes::new())],
        vec![(4, 1, vec![0; PAYLOAD_BYTES_MAX + 1].into())],
    ] {
        log.append(refused, never()).unwrap_err();
        assert_eq!(log.last(), last);
    }
    wait(|done| log.append([(4, 1, vec![7; PAYLOAD_BYTES_MAX].into())], done).unwrap()).unwrap();
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.read(4, 1, 1).unwrap()[0].payload.len(), PAYLOAD_BYTES_MAX);
    assert!(log.truncate_after(5, never()).is_err());
    assert_eq!(contents(&log).len(), 4);
}

#[derive(Debug, Clone)]
enum Act {
    Append(u64),
    Truncate(u64),
    Purge(u64),
    Reset(u64),
    Reopen,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1..30u64).prop_map(Act::Append),
        2 => (0..40u64).prop_map(Act::Truncate),
        2 => (0..40u64).prop_map(Act::Purge),
        1 => (1..9u64).prop_map(Act::Reset),
        2 => Just(Act::Reopen),
    ];
    proptest::collection::vec(act, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_its_model_whatever_happens_to_it(
        acts in acts(),
        cache in prop_oneof![Just(0), Just(900), Just(1 << 20)],
        segment in prop_oneof![Just(SEGMENT), Just(1 << 20)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let reopen = || Log::open_sized(dir.path(), options(), segment, cache).unwrap();
        let mut log = reopen();
        let mut purged = LogPoint::default();
        let mut model: Vec<LogEntry> = Vec::new();
        for (term, act) in (1..).zip(acts) {
            let last = model.last().map_or(purged, |entry| entry.point);
            let point = |back: u64| match last.index.saturating_sub(back) {
                at if at <= purged.index => purged,
                at => model[usize::try_from(at - purged.index - 1).unwrap()].point,
            };
            match act {
                Act::Append(count) => {
                    let mut at = last;
                    for (index, term, payload) in entries(last.index + 1..=last.index + count, term) {
                        at = LogPoint { index, term, head: at.head.next(index, term, &payload) };
                        model.push(LogEntry { point: at, payload });
                    }
                    append(&log, last.index + 1..=last.index + count, term);
                }
                Act::Truncate(back) => {
                    let point = point(back);
                    model.retain(|entry| entry.point.index <= point.index);
                    truncate(&log, point.index);
                }
                Act::Purge(back) => {
                    purged = point(back);
                    model.retain(|entry| entry.point.index > purged.index);
                    purge(&log, purged);
                }
                Act::Reset(ahead) => {
                    purged = LogPoint { index: last.index + ahead, term, head: last.head.next(ahead, term, b"x") };
                    model.clear();
                    purge(&log, purged);
                }
                Act::Reopen => {
                    drop(log);
                    log = reopen();
                }
            }
            prop_assert_eq!(log.purged(), purged);
            prop_assert_eq!(log.last(), model.last().map_or(purged, |entry| entry.point));
            prop_assert_eq!(&contents(&log), &model);
        }
        drop(log);
        prop_assert_eq!(contents(&reopen()), model);
    }
}
