//! What the fuzzers do with their bytes: read them as the store would, and hold what can be read to the laws that every
//! value keeps. The fuzz targets and the regression test (`tests/security/fuzzed.rs`) share these functions.
//!
//! Each says whether its input was sound, so that a test can see that the seeds are. Checksums and hashes would keep a fuzzer at the door, so the first byte says whether they are made right before the
//! bytes are read.

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_daemon::config::{ENV_PREFIX, load_with};
use cinnabar_kv::config::{ReplicaConfig, VoterConfig};
use cinnabar_kv::log::{Log, LogEntry, LogOptions, LogPoint, purged_file};
use cinnabar_kv::server::resp::Parser;
use cinnabar_kv::snapshot;
use cinnabar_kv::state::{Outcome, State, StateOptions};
use cinnabar_kv::store::{Engine, MemoryEngine};
use cinnabar_kv_api::{Command, Entry, Frame};

/// Bytes of a log record before its payload, as docs/formats.md has it.
pub const RECORD_HEADER_BYTES: usize = 64;
/// Name of the first file of a log.
pub const FIRST_FILE: &str = "00000000000000000001.log";
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
const SNAPSHOT_HASH_BYTES: usize = 32;

/// A record of the log, with checksum and chain head as they should be; gives its point.
pub fn record(out: &mut Vec<u8>, before: &LogPoint, term: u64, synced: u64, payload: &[u8]) -> LogPoint {
    let index = before.index + 1;
    let point = LogPoint { index, term, head: before.head.next(index, term, payload) };
    let mut body = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len());
    body.extend_from_slice(&index.to_le_bytes());
    body.extend_from_slice(&term.to_le_bytes());
    body.extend_from_slice(&synced.to_le_bytes());
    body.extend_from_slice(&point.head.0);
    body.extend_from_slice(payload);
    out.extend_from_slice(&u32::try_from(payload.len()).expect("a payload is bounded").to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
    point
}

/// The records in `bytes` with index, chain head and checksum made right, as far as their lengths go.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut last = LogPoint::default();
    let mut rest = bytes;
    while let Some((header, after)) = rest.split_at_checked(RECORD_HEADER_BYTES) {
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
        if length == 0 || length > PAYLOAD_BYTES_MAX || length > after.len() {
            break;
        }
        let (payload, after) = after.split_at(length);
        last = record(&mut out, &last, number(16), number(24), payload);
        rest = after;
    }
    out.extend_from_slice(rest);
    out
}

/// The bytes behind the header of a log's only file: it opens or it does not, and what can be read is one chain.
pub fn log_file(data: &[u8]) -> bool {
    let Some((mode, data)) = data.split_first() else { return false };
    let records = if mode & 1 == 0 { data.to_vec() } else { mended(data) };
    let dir = tempfile::tempdir().expect("a folder");
    let (_, header) = purged_file(&LogPoint::default());
    fs::write(dir.path().join(FIRST_FILE), [header, records].concat()).expect("a file");
    let options = || LogOptions {
        sync_appends: false,
        durable: 0,
        on_fatal: Box::new(|error| panic!("{error}")),
        on_sync: Box::new(|sync| sync()),
    };
    let Ok(log) = Log::open(dir.path(), options()) else { return false };
    let last = log.last();
    let mut before = LogPoint::default();
    while before.index < last.index {
        let part = log.read(before.index + 1, 16, 1 << 20).expect("what was opened can be read");
        assert!(!part.is_empty());
        for entry in part {
            let LogPoint { index, term, head } = entry.point;
            assert_eq!(index, before.index + 1);
            assert_eq!(head, before.head.next(index, term, &entry.payload));
            before = entry.point;
        }
    }
    assert_eq!(before, last);
    drop(log);
    // What opening cut off stays cut off.
    assert_eq!(Log::open(dir.path(), options()).expect("it was open before").last(), last);
    last.index > 0
}

fn memory() -> (Arc<State>, cinnabar_kv::state::StateWriter) {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
    State::open(engine, StateOptions { cache_bytes: 0 }).expect("an empty state opens")
}

/// Payloads of log entries, each after its length: applied as one range and one by one, two states come out alike.
pub fn log_entry(mut data: &[u8]) -> bool {
    let mut entries = Vec::new();
    let mut last = LogPoint::default();
    while let Some((length, rest)) = data.split_at_checked(2) {
        let length = usize::from(u16::from_le_bytes([length[0], length[1]])).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        let index = last.index + 1;
        last = LogPoint { index, term: 1, head: last.head.next(index, 1, payload) };
        entries.push(LogEntry { point: last, payload: Bytes::copy_from_slice(payload) });
        if let Some((&Entry::COMMAND, body)) = payload.split_first()
            && let Ok(command) = Command::decode(body)
        {
            assert_eq!(command.encode(), body, "one command, one encoding");
        }
        data = rest;
    }
    let ((_, mut whole), (_, mut single)) = (memory(), memory());
    let together = whole.apply_range(&entries).expect("a state in memory does not fail").outcomes;
    let apart: Vec<_> = entries
        .iter()
        .flat_map(|entry| single.apply_range(std::slice::from_ref(entry)).expect("as above").outcomes)
        .collect();
    assert_eq!(together, apart);
    assert_eq!(*whole.state().point(), *single.state().point());
    together.iter().any(|outcome| matches!(outcome, Outcome::Written { .. }))
}

/// A frame as a replica receives it.
pub fn frame(data: &[u8]) -> bool {
    let Ok(frame) = Frame::decode(data) else { return false };
    assert_eq!(frame.encode(), data, "one frame, one encoding");
    let _ = frame.checkpoint.decode_body();
    let _ = frame.last_index();
    true
}

/// A snapshot file as it was fetched: checked, then imported; both or neither.
pub fn snapshot_file(data: &[u8]) -> bool {
    let Some((mode, data)) = data.split_first() else { return false };
    let mut bytes = data.to_vec();
    if mode & 1 == 1 && bytes.len() > SNAPSHOT_HASH_BYTES {
        bytes.truncate(bytes.len() - SNAPSHOT_HASH_BYTES);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("fetched.snap");
    fs::write(&path, bytes).expect("a file");
    let mut records = 0;
    let checked = snapshot::verify(&path, |_, _| {
        records += 1;
        Ok(())
    });
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
    let imported = snapshot::import(&path, &engine);
    assert_eq!(checked.is_ok(), imported.is_ok(), "{checked:?}, {imported:?}");
    let Ok(header) = checked else { return false };
    assert_eq!(records, header.records);
    let (state, _) = State::open(engine, StateOptions { cache_bytes: 0 }).expect("what was imported opens");
    assert_eq!((state.point().applied, state.point().state_hash), (header.point(), header.state_hash));
    true
}

/// What a client of the Redis protocol sends: the same commands are found however it arrives.
pub fn resp(data: &[u8]) -> bool {
    let found = |steps: &mut dyn Iterator<Item = usize>| {
        let (mut parser, mut commands, mut begin) = (Parser::new(), Vec::new(), 0);
        for end in steps {
            loop {
                let input = &data[begin..end];
                match parser.next(input) {
                    Ok(None) => break,
                    Ok(Some(length)) => {
                        assert!((1..=input.len()).contains(&length));
                        let args = parser.args(input);
                        commands.push(args.rest(0).map(<[u8]>::to_vec).collect::<Vec<_>>());
                        begin += length;
                    }
                    Err(error) => return (commands, Some(error.to_string())),
                }
            }
        }
        (commands, None)
    };
    let (commands, error) = found(&mut std::iter::once(data.len()));
    let piece_by_piece = found(&mut (1..=data.len()));
    let sound = !commands.is_empty() && error.is_none();
    assert_eq!((commands, error), piece_by_piece);
    sound
}

/// A configuration file: loaded, or refused with an error that names the file.
pub fn config(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("node.toml");
    fs::write(&path, data).expect("a file");
    let voter = load_with::<VoterConfig>(Some(&path), ENV_PREFIX, [], &[]).map(|_| ());
    let replica = load_with::<ReplicaConfig>(Some(&path), ENV_PREFIX, [], &[]).map(|_| ());
    let sound = voter.is_ok() || replica.is_ok();
    for error in [voter.err(), replica.err()].into_iter().flatten() {
        assert!(error.to_string().contains("node.toml"), "the file is named: {error}");
    }
    sound
}
