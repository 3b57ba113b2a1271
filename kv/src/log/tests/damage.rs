//! What may be cut and what may not: torn tails, flipped bytes, and crashes between two steps.

use super::*;

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
    let (dir, all) = closed(40);
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
fn a_closed_file_opens_whatever_became_of_the_mark_behind_its_last_record() {
    // The mark is written after the file's last sync, and the next file may be on disk before it.
    let (dir, all) = closed(40);
    let path = &files(dir.path())[0];
    let whole = fs::read(path).unwrap();
    let end = whole.len() - RECORD_HEADER_BYTES;
    let zeroes = [&whole[..end], &[0; RECORD_HEADER_BYTES]].concat();
    for lost in [&zeroes, &whole[..end + 9], &whole[..end]] {
        fs::write(path, lost).unwrap();
        assert_eq!(contents(&open(dir.path())), all);
    }
}

#[test]
fn a_record_of_another_log_does_not_follow() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [one, two] = [(&dir, 1), (&other, 2)].map(|(dir, term)| {
        let log = Log::open(dir.path(), options()).unwrap();
        wait(|done| log.append((1..=4).map(|index| (index, term, Bytes::from(vec![b'x'; 50]))), done).unwrap())
            .unwrap();
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
    let (dir, all) = closed(40);
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
    let (dir, all) = closed(40);
    let firsts = segment::list(dir.path()).unwrap();
    for (kept, first) in firsts.into_iter().enumerate() {
        let crashed = copy(dir.path());
        files(crashed.path())[kept..].iter().for_each(|path| fs::remove_file(path).unwrap());
        let log = open(crashed.path());
        let last = first - 1;
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
