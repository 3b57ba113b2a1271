//! The audit log under attack, under crashes and under many hands.

use std::fs;

use cinnabar_daemon::env::SystemClock;

use super::*;

fn cluster() -> ClusterId {
    "prod".parse().unwrap()
}

fn open(path: &Path) -> Result<Audit, AuditError> {
    Audit::open(path, &cluster(), Arc::new(SystemClock))
}

fn entry<'a>(subject: &'a str, details: &'a [(&'static str, &'a str)]) -> Entry<'a> {
    Entry { actor: "spiffe://prod/operator/o1", act: "issue machine key", subject, details }
}

/// A log of `lines` lines in all, and where it stands.
fn log(path: &Path, lines: u64) -> AuditHead {
    let audit = open(path).unwrap();
    for n in 1..lines {
        audit.append(&entry(&format!("machine \"{n}\"\n"), &[("generation", "1")])).unwrap();
    }
    assert_eq!(audit.head().seq, lines);
    audit.head()
}

fn lines(path: &Path) -> Vec<Vec<u8>> {
    fs::read(path).unwrap().split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn first_bad_line(path: &Path, lines: &[Vec<u8>]) -> u64 {
    fs::write(path, lines.concat()).unwrap();
    match verify(path, None) {
        Err(AuditError::Damaged { line, .. }) => line,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_was_appended_is_there_and_goes_on_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let head = log(&path, 4);
    let audit = open(&path).unwrap();
    assert_eq!(audit.head(), head);
    let next = audit.append(&entry("machine é", &[("zone", "a"), ("name", "b")])).unwrap();
    assert_eq!(next.seq, 5);
    let expected = Verified { cluster: "prod".to_owned(), head: next, cuts: 0, torn_bytes: 0 };
    assert_eq!(verify(&path, Some(&head)).unwrap(), expected);
    let last = lines(&path).pop().unwrap();
    let last: Value = serde_json::from_slice(&last).unwrap();
    assert_eq!((&last["subject"], &last["details"]["name"]), (&Value::from("machine é"), &Value::from("b")));
    assert_eq!(next.to_string().parse::<AuditHead>().unwrap(), next);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_hash_can_be_computed_with_other_tools() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    log(&path, 2);
    let [first, second] = lines(&path).try_into().unwrap();
    let first = String::from_utf8(first).unwrap();
    let (body, rest) = first.split_once(",\"hash\":\"").unwrap();
    let hash = blake3::hash(format!("{body}}}").as_bytes()).to_hex();
    assert_eq!(rest, format!("{hash}\"}}\n"));
    let second: Value = serde_json::from_slice(&second).unwrap();
    assert_eq!(second["previous"].as_str(), Some(hash.as_str()));
}

#[test]
fn a_line_that_is_changed_deleted_moved_or_put_in_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    log(&path, 6);
    let good = lines(&path);
    let changed = |at: usize, change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines = good.clone();
        change(&mut lines);
        assert_eq!(first_bad_line(&path, &lines), at as u64 + 1);
        assert!(open(&path).is_err(), "so short a file is checked whole on opening");
    };
    changed(2, &|lines| {
        lines.remove(2);
    });
    changed(3, &|lines| lines.swap(3, 4));
    changed(4, &|lines| {
        let again = lines[3].clone();
        lines.insert(4, again);
    });
    // A whole line that was made anew fits its number and its hash, and the next one gives it away.
    changed(4, &|lines| {
        let (_, before) = Line::read(lines[2].strip_suffix(b"\n").unwrap()).unwrap();
        lines[3] = Line::new(&entry("somebody else", &[]), 7, &before).seal().unwrap().0;
    });
    changed(0, &|lines| {
        lines.remove(0);
    });
    changed(2, &|lines| lines[2] = vec![b'x'; LINE_BYTES_MAX + 1]);
    changed(2, &|lines| lines[2] = b"\n".to_vec());
}

#[test]
fn no_byte_of_any_line_can_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    log(&path, 3);
    let good = fs::read(&path).unwrap();
    let mut line = 1;
    for at in 0..good.len() - 1 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        match verify(&path, None) {
            Err(AuditError::Damaged { line: found, .. }) => assert_eq!(found, line, "byte {at}"),
            other => panic!("byte {at}: {other:?}"),
        }
        line += u64::from(good[at] == b'\n');
    }
}

#[test]
fn a_cut_end_or_a_log_written_anew_shows_against_a_head_kept_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let head = log(&path, 5);
    let good = lines(&path);
    fs::write(&path, good[..4].concat()).unwrap();
    assert_eq!(verify(&path, None).unwrap().head.seq, 4, "alone it cannot show");
    assert!(matches!(verify(&path, Some(&head)), Err(AuditError::Anchor { .. })));
    fs::remove_file(&path).unwrap();
    log(&path, 9);
    assert!(matches!(verify(&path, Some(&head)), Err(AuditError::Anchor { .. })));
}

#[test]
fn a_torn_last_line_is_cut_and_the_cut_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let head = log(&path, 3);
    let good = fs::read(&path).unwrap();
    let last = lines(&path).pop().unwrap();
    // Shorter than the line about it, longer, zeros that a power cut leaves, and a line whose end alone is missing.
    for torn in [b"{".to_vec(), vec![b'x'; 2000], vec![0; 4096], last[..last.len() - 1].to_vec()] {
        fs::write(&path, [&good[..], &torn].concat()).unwrap();
        assert_eq!(verify(&path, Some(&head)).unwrap().torn_bytes, torn.len() as u64);
        let audit = open(&path).unwrap();
        assert_eq!(audit.head().seq, 4);
        let found = verify(&path, Some(&head)).unwrap();
        assert_eq!((found.head, found.cuts, found.torn_bytes), (audit.head(), 1, 0));
        assert!(fs::read(&path).unwrap().starts_with(&good));
        let cut: Value = serde_json::from_slice(&lines(&path).pop().unwrap()).unwrap();
        assert_eq!(cut["details"]["torn_bytes"], Value::from(torn.len().to_string()));
    }
    // A crash between writing that line and cutting what reaches behind it.
    let cut = lines(&path).pop().unwrap();
    fs::write(&path, [&good[..], &cut, b"xxxxxxxx"].concat()).unwrap();
    assert_eq!(open(&path).unwrap().head().seq, 5);
    assert_eq!(verify(&path, Some(&head)).unwrap().cuts, 2);
}

#[test]
fn a_log_whose_first_line_was_torn_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    fs::write(&path, "{\"format\":1,\"se").unwrap();
    assert_eq!(open(&path).unwrap().head().seq, 1);
    assert_eq!(verify(&path, None).unwrap().cluster, "prod");
    for foreign in ["a file of somebody else's".to_owned(), "{".repeat(LINE_BYTES_MAX)] {
        fs::write(&path, &foreign).unwrap();
        assert!(matches!(open(&path), Err(AuditError::Damaged { line: 1, .. })));
        assert_eq!(fs::read(&path).unwrap(), foreign.as_bytes());
    }
}

#[test]
fn a_damaged_end_of_a_long_log_is_refused_on_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let long = "d".repeat(LINE_BYTES_MAX - 600);
    let audit = open(&path).unwrap();
    for n in 0..8 {
        audit.append(&entry(&n.to_string(), &[("long", &long)])).unwrap();
    }
    let head = audit.head();
    drop(audit);
    assert_eq!(open(&path).unwrap().head(), head);
    let good = fs::read(&path).unwrap();
    for back in [2, 100, 20_000] {
        let mut bad = good.clone();
        let at = bad.len() - back;
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert!(matches!(open(&path), Err(AuditError::Damaged { .. })), "{back} bytes before the end");
    }
    let mut lines: Vec<_> = good.split_inclusive(|byte| *byte == b'\n').collect();
    lines.remove(7);
    fs::write(&path, lines.concat()).unwrap();
    assert!(matches!(open(&path), Err(AuditError::Damaged { line: 9, .. })));
    fs::write(&path, [&good[..], &vec![b'x'; LINE_BYTES_MAX]].concat()).unwrap();
    assert!(matches!(open(&path), Err(AuditError::Damaged { .. })), "too long to be one torn line");
}

#[test]
fn two_processes_and_two_clusters_do_not_share_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let audit = open(&path).unwrap();
    assert!(matches!(open(&path), Err(AuditError::Locked { .. })));
    drop(audit);
    let other = Audit::open(&path, &"test".parse().unwrap(), Arc::new(SystemClock)).unwrap_err();
    assert!(matches!(other, AuditError::ForeignCluster { .. }), "{other}");
    open(&path).unwrap();
}

#[test]
fn after_one_failed_append_every_later_one_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let audit = open(&path).unwrap();
    let head = audit.head();
    let good = std::mem::replace(&mut audit.inner.lock().file, File::open(&path).unwrap());
    assert!(matches!(audit.append(&entry("x", &[])), Err(AuditError::File { .. })));
    audit.inner.lock().file = good;
    assert!(matches!(audit.append(&entry("x", &[])), Err(AuditError::Broken)), "also once the disk is well again");
    assert_eq!(audit.head(), head);
    drop(audit);
    assert_eq!(open(&path).unwrap().head(), head);
}

#[test]
fn an_entry_past_a_bound_is_refused_and_the_log_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(&folder.path().join("audit.log")).unwrap();
    let (word, subject) = ("w".repeat(WORD_BYTES_MAX + 1), "s".repeat(SUBJECT_BYTES_MAX + 1));
    let long = "d".repeat(LINE_BYTES_MAX);
    let many = vec![("n", "v"); DETAILS_MAX + 1];
    let good = entry("s", &[]);
    for bad in [
        Entry { actor: "", ..good },
        Entry { actor: &word, ..good },
        Entry { act: "", ..good },
        Entry { act: &word, ..good },
        Entry { subject: &subject, ..good },
        Entry { details: &[("a", "1"), ("a", "2")], ..good },
        Entry { details: &many, ..good },
        Entry { details: &[("a", &long)], ..good },
    ] {
        assert!(matches!(audit.append(&bad), Err(AuditError::Entry { .. })), "{bad:?}");
    }
    assert_eq!(audit.append(&good).unwrap().seq, 2);
}

#[test]
fn appenders_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let audit = open(&path).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let audit = &audit;
            scope.spawn(move || {
                for n in 0..10 {
                    audit.append(&entry(&format!("{thread} {n}"), &[])).unwrap();
                }
            });
        }
    });
    assert_eq!(audit.head().seq, 41);
    assert_eq!(verify(&path, Some(&audit.head())).unwrap().head, audit.head());
}
