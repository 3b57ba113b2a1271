//! Attacks on the log: torn tails, flipped bytes, crashes between steps, failing syncs, readers beside the writer.

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
    format!("entry {index} of term {term} {}", "x".repeat(usize::try_from((index * 7 + term * 13) % 90).unwrap())).into()
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
fn a_torn_tail_is_cut_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options()).unwrap();
    append(&log, 1..=5, 1);
    let kept = SEGMENT_HEADER_BYTES + bytes_of(&contents(&log));
    append(&log, 6..=7, 2);
    let all = contents(&log);
    let end = SEGMENT_HEADER_BYTES + bytes_of(&all);
    drop(log);
    let sixth = end - bytes_of(&all[6..]);
    let whole = fs::read(&files(dir.path())[0]).unwrap();
    for length in kept..end {
        for lost in [Lost::Cut, Lost::Zeroes, Lost::First] {
            let crashed = tempfile::tempdir().unwrap();
            let path = crashed.path().join(segment::file_name(1));
            // What was not synced is torn; the mark behind it was never written.
            let mut torn = whole[..end].to_vec();
            match lost {
                Lost::Cut => torn.truncate(length),
                Lost::Zeroes => torn[length..].fill(0),
                Lost::First if length > kept => torn[kept..length].fill(0),
                Lost::First => continue,
            }
            fs::write(&path, &torn).unwrap();
            let log = Log::open(crashed.path(), options()).unwrap();
            let expected = if matches!(lost, Lost::First) || length < sixth { 5 } else { 6 };
            assert_eq!(contents(&log), all[..expected], "{lost:?} at {length}");
            let last = log.last().index;
            append(&log, last + 1..=last + 2, 3);
            drop(log);
            let log = Log::open(crashed.path(), options()).unwrap();
            assert_eq!(log.last().index, last + 2);
            assert_eq!(contents(&log)[..expected], all[..expected]);
        }
    }
}

/// What became of bytes that were never synced.
#[derive(Debug, Clone, Copy)]
enum Lost {
    /// The file is shorter.
    Cut,
    /// The file is long enough, its end never came.
    Zeroes,
    /// The end came, what is before it did not.
    First,
}

#[test]
fn a_flipped_byte_of_an_answered_entry_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1..=2, 1);
    append(&log, 3..=4, 1);
    let all = contents(&log);
    drop(log);
    let path = files(dir.path())[0].clone();
    let whole = fs::read(&path).unwrap();
    let end = SEGMENT_HEADER_BYTES + bytes_of(&all);
    let mut ends: Vec<usize> = vec![SEGMENT_HEADER_BYTES];
    all.iter().for_each(|entry| ends.push(ends.last().unwrap() + bytes_of(std::slice::from_ref(entry))));
    for at in 0..end {
        let expected = if at < SEGMENT_HEADER_BYTES { 1 } else { ends.partition_point(|end| *end <= at) as u64 };
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        match try_open(dir.path()) {
            Err(LogError::Damaged { index, .. }) => assert_eq!(index, expected, "byte {at}"),
            other => panic!("byte {at}: {other:?}"),
        }
        assert_eq!(fs::read(&path).unwrap(), damaged, "damage is evidence, it is not touched");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(contents(&open(dir.path())), all);
}

#[test]
fn damage_in_a_closed_file_is_never_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1..=40, 1);
    let all = contents(&log);
    drop(log);
    let closed = files(dir.path()).len() - 1;
    for path in &files(dir.path())[..closed] {
        let whole = fs::read(path).unwrap();
        for length in [0, 30, SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES + 30, whole.len() - RECORD_HEADER_BYTES - 1] {
            fs::write(path, &whole[..length]).unwrap();
            let refused = try_open(dir.path());
            assert!(matches!(refused, Err(LogError::Damaged { .. } | LogError::Gap { .. })), "{length}");
        }
        fs::remove_file(path).unwrap();
        assert!(matches!(try_open(dir.path()), Err(LogError::Gap { .. })));
        fs::write(path, &whole).unwrap();
    }
    assert_eq!(contents(&open(dir.path())), all);
}

#[test]
fn a_record_of_another_log_does_not_follow() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [one, two] = [(&dir, 1), (&other, 2)].map(|(dir, term)| {
        let log = Log::open(dir.path(), options()).unwrap();
        wait(|done| log.append((1..=4).map(|index| (index, term, Bytes::from(vec![b'x'; 50]))), done).unwrap()).unwrap();
        drop(log);
        fs::read(&files(dir.path())[0]).unwrap()
    });
    // All records have one length, and each is whole; but the third rests on another second.
    let third = SEGMENT_HEADER_BYTES + 2 * (RECORD_HEADER_BYTES + 50);
    fs::write(&files(dir.path())[0], [&one[..third], &two[third..]].concat()).unwrap();
    assert!(matches!(try_open(dir.path()), Err(LogError::Damaged { index: 3, .. })));
}

#[test]
fn damage_up_to_what_is_known_to_be_durable_is_never_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options()).unwrap();
    append(&log, 1..=4, 1);
    let end = SEGMENT_HEADER_BYTES + bytes_of(&contents(&log));
    drop(log);
    let path = files(dir.path())[0].clone();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..end - 1]).unwrap();
    let durable = |durable| Log::open(dir.path(), LogOptions { durable, ..options() });
    assert!(matches!(durable(4), Err(LogError::Damaged { index: 4, .. })));
    assert_eq!(durable(3).unwrap().last().index, 3);
}

#[test]
fn damage_found_by_a_read_names_the_entry() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1..=3, 1);
    let path = files(dir.path())[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    let second = SEGMENT_HEADER_BYTES + bytes_of(&contents(&log)[..1]);
    bytes[second + RECORD_HEADER_BYTES] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(log.read(1, 1, 1).unwrap().len(), 1);
    assert!(matches!(log.read(2, 1, 1), Err(LogError::Damaged { index: 2, .. })));
    assert!(matches!(log.read(1, 9, 900), Err(LogError::Damaged { index: 2, .. })));
}

#[test]
fn a_crash_while_a_file_is_begun_leaves_a_log_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1..=20, 1);
    let all = contents(&log);
    let header = segment_header(&log.last());
    drop(log);
    for length in 0..=header.len() {
        let crashed = copy(dir.path());
        fs::write(crashed.path().join(segment::file_name(21)), &header[..length]).unwrap();
        let log = open(crashed.path());
        assert_eq!(contents(&log), all, "{length}");
        append(&log, 21..=30, 2);
        drop(log);
        assert_eq!(open(crashed.path()).last().index, 30, "{length}");
    }
}

#[test]
fn a_crash_in_a_purge_leaves_a_log_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1..=40, 1);
    let all = contents(&log);
    drop(log);
    let beyond = LogPoint { index: 90, term: 7, head: ChainHead([9; 32]) };
    for point in all.iter().map(|entry| entry.point).chain([beyond]) {
        // Files are removed from the front on; none is removed that holds more.
        for removed in 0..files(dir.path()).len() {
            let crashed = copy(dir.path());
            let (name, bytes) = purged_file(&point);
            fs::write(crashed.path().join(name), bytes).unwrap();
            let firsts = segment::list(crashed.path()).unwrap();
            if point != beyond && firsts[removed] > point.index + 1 {
                break;
            }
            files(crashed.path())[..removed].iter().for_each(|path| fs::remove_file(path).unwrap());
            let log = open(crashed.path());
            assert_eq!(log.purged(), point);
            let left = all.iter().filter(|entry| entry.point.index > point.index).cloned().collect::<Vec<_>>();
            assert_eq!(contents(&log), left);
            let next = log.last().index + 1;
            append(&log, next..=next + 20, 8);
            drop(log);
            assert_eq!(open(crashed.path()).last().index, next + 20);
        }
    }
}

#[test]
fn a_crash_in_a_truncation_leaves_a_log_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1..=40, 1);
    let all = contents(&log);
    drop(log);
    let firsts = segment::list(dir.path()).unwrap();
    for kept in 0..firsts.len() {
        let crashed = copy(dir.path());
        files(crashed.path())[kept..].iter().for_each(|path| fs::remove_file(path).unwrap());
        let log = open(crashed.path());
        let last = if kept == 0 { 0 } else { firsts[kept] - 1 };
        assert_eq!(contents(&log)[..], all[..usize::try_from(last).unwrap()]);
        truncate(&log, last / 2);
        append(&log, last / 2 + 1..=last + 9, 2);
        drop(log);
        assert_eq!(open(crashed.path()).last().index, last + 9);
    }
}

#[test]
fn a_crash_while_the_vote_is_replaced_leaves_one_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    wait(|done| log.save_vote(b"old", done)).unwrap();
    drop(log);
    fs::write(dir.path().join("vote.new"), b"ne").unwrap();
    let log = open(dir.path());
    assert_eq!(log.read_vote().unwrap().unwrap(), b"old");
    wait(|done| log.save_vote(b"new", done)).unwrap();
    assert_eq!(log.read_vote().unwrap().unwrap(), b"new");
    for at in 0..3 + 4 {
        let mut bytes = fs::read(dir.path().join(VOTE_FILE)).unwrap();
        bytes[at] ^= 4;
        fs::write(dir.path().join(VOTE_FILE), &bytes).unwrap();
        assert!(matches!(log.read_vote(), Err(LogError::Damaged { .. })), "{at}");
        bytes[at] ^= 4;
        fs::write(dir.path().join(VOTE_FILE), &bytes).unwrap();
    }
    fs::write(dir.path().join(VOTE_FILE), b"").unwrap();
    assert!(matches!(log.read_vote(), Err(LogError::Damaged { .. })), "a vote is never forgotten");
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
fn a_group_larger_than_a_file_goes_to_several() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 1..=200, 1);
    let all = contents(&log);
    for path in files(dir.path()) {
        assert!(fs::metadata(path).unwrap().len() < SEGMENT + 300);
    }
    drop(log);
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

#[test]
fn entries_that_wait_for_a_truncation_are_read_as_they_will_be() {
    let dir = tempfile::tempdir().unwrap();
    let (options, begins, go) = gated();
    let log = Log::open_sized(dir.path(), options, SEGMENT, 0).unwrap();
    let mut answers = Vec::new();
    let mut act = |act: &dyn Fn(Done)| {
        let (done, answer) = waiting();
        act(done);
        answers.push(answer);
    };
    act(&|done| log.append(entries(1..=10, 1), done).unwrap());
    begins.recv().unwrap();
    act(&|done| log.append(entries(11..=20, 1), done).unwrap());
    act(&|done| log.truncate_after(12, done).unwrap());
    act(&|done| log.append(entries(13..=15, 2), done).unwrap());
    let terms = || contents(&log).iter().map(|entry| entry.point.term).collect::<Vec<_>>();
    let expected = [[1; 12].as_slice(), &[2; 3]].concat();
    assert_eq!(terms(), expected);
    // One sync further, the old entries 13 to 20 are in the files and the truncation still waits.
    go.send(()).unwrap();
    begins.recv().unwrap();
    assert_eq!(terms(), expected);
    drop(go);
    answers.into_iter().for_each(|answer| answer.recv().unwrap().unwrap());
    assert_eq!(terms(), expected);
    drop(log);
    assert_eq!(contents(&open(dir.path())).len(), 15);
}

/// The newest truncation that has returned: entries after the index have at least this term.
#[derive(Default)]
struct Floor(StdMutex<(u64, u64)>);

fn read_beside_the_writer(log: &Log, floor: &Floor, stop: &AtomicBool) -> u64 {
    let mut reads = 0;
    let mut at = 1;
    while !stop.load(Ordering::SeqCst) {
        let (after, term) = *floor.0.lock().unwrap();
        at = (at * 31 + 7) % log.last().index.max(1) + 1;
        let found = match log.read(at, 9, 2000) {
            Ok(found) => found,
            Err(LogError::Purged { first, .. }) => {
                assert!(first > at);
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let mut before: Option<LogPoint> = None;
        for entry in &found {
            let point = entry.point;
            assert_eq!(entry.payload, payload(point.index, point.term));
            assert!(point.index <= after || point.term >= term, "{point:?} was truncated at {after} for term {term}");
            if let Some(before) = before {
                assert_eq!(point.head, before.head.next(point.index, point.term, &entry.payload));
            } else {
                assert_eq!(point.index, at);
            }
            before = Some(point);
        }
        reads += 1;
    }
    reads
}

#[test]
fn readers_beside_truncations_and_purges_never_see_a_wrong_entry() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let (floor, stop) = (Floor::default(), AtomicBool::new(false));
    append(&log, 1..=60, 1);
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..3).map(|_| scope.spawn(|| read_beside_the_writer(&log, &floor, &stop))).collect();
        for term in 2..400 {
            let last = log.last().index;
            let after = last - term * 13 % 35;
            let answer = {
                let mut floor = floor.0.lock().unwrap();
                let (done, answer) = waiting();
                log.truncate_after(after, done).unwrap();
                *floor = (after, term);
                answer
            };
            append(&log, after + 1..=after + 40, term);
            answer.recv().unwrap().unwrap();
            if term % 16 == 0 {
                purge(&log, log.point_at(log.purged().index.max(log.last().index - 80)).unwrap());
            }
        }
        stop.store(true, Ordering::SeqCst);
        let reads: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(reads > 0);
    });
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
