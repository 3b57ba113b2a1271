//! Readers beside the log's thread.

use super::*;

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

#[test]
fn a_read_goes_on_from_the_files_into_what_waits_to_be_written() {
    // One that ends there instead looks as if the rest were too much for its bounds, and a replica takes a snapshot.
    let dir = tempfile::tempdir().unwrap();
    append(&open(dir.path()), 1..=10, 1);
    let (options, begins, go) = gated();
    let log = Log::open_sized(dir.path(), options, SEGMENT, 0).unwrap();
    log.append(entries(11..=12, 1), Box::new(drop)).unwrap();
    begins.recv().unwrap();
    log.append(entries(13..=15, 1), Box::new(drop)).unwrap();
    let read = |from, entries_max, bytes_max| {
        let found = log.read(from, entries_max, bytes_max).unwrap();
        found.iter().map(|entry| entry.point.index).collect::<Vec<_>>()
    };
    assert_eq!(read(9, 100, usize::MAX), [9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(read(9, 6, usize::MAX), [9, 10, 11, 12, 13, 14]);
    assert_eq!(read(11, 2, usize::MAX), [11, 12]);
    assert_eq!(read(12, 100, 1), [12]);
    drop(go);
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
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| read_beside_the_writer(&log, &floor, &stop))).collect();
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
