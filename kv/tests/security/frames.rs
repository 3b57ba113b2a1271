//! A relay that tampers with frames, frame by frame: of a hundred frames attacked in every way, nothing is applied.
//! And when heartbeats come.

use std::collections::BTreeMap;
use std::time::Duration;

use cinnabar_daemon::Role;
use cinnabar_kv::limits::TICK_MS;
use cinnabar_kv::replica::TailEnd;
use cinnabar_kv_api::Frame;

use crate::fixture::{Keeps, Pki, Recording, TestNode, TestReplica, until, voter, write_many};
use crate::forge::{Attack, Forger, Kind, Seen, join_all};

/// Genuine frames that are attacked.
const FRAMES: usize = 100;
/// Entries of each, at least.
const ENTRIES: usize = 3;

/// A voter's history: frames to attack, heartbeats on the way.
async fn history(pki: &Pki, node: &TestNode) -> (Vec<Frame>, Vec<Frame>) {
    let recording = Recording::start(pki, &node.address).await;
    let client = pki.client(Role::Authority, &node.address);
    let early = write_many(&client, "early", ENTRIES).await;
    let heartbeat = recording.heartbeat(early).await;
    // A frame holds what was applied since the one before it: how many entries is the scheduler's to say.
    let mut frames = Vec::new();
    while frames.len() < FRAMES + 2 {
        let last = write_many(&client, "key", FRAMES).await;
        frames = join_all(&recording.up_to(last).await, ENTRIES);
    }
    (frames, vec![heartbeat])
}

fn attempt(replica: &TestReplica, attack: &Attack) {
    let before = replica.traces();
    let what = || format!("{:?}: {}", attack.kind, attack.what);
    match replica.replica.take_frame(&attack.bytes) {
        Err(TailEnd::Disbelieved(why)) => assert!(attack.reasons.contains(&why.reason()), "{}: {why}", what()),
        other => panic!("{}: {other:?}", what()),
    }
    assert_eq!(replica.traces(), before, "{} left a trace", what());
}

fn attack_all(pki: &Pki, frames: &[Frame], heartbeats: &[Frame], keeps: Keeps) -> TestReplica {
    let dir = tempfile::tempdir().unwrap();
    let forger = Forger::new(pki);
    let replica = TestReplica::open(pki, "victim", dir.path(), keeps, &[], None);
    let mut tried: BTreeMap<Kind, usize> = BTreeMap::new();
    // The first frame tells a new replica whom it follows.
    assert!(replica.replica.take_frame(&frames[0].encode()).unwrap());
    for n in 1..=FRAMES {
        let genuine = &frames[n];
        let from = replica.local.point().applied;
        let past: Vec<Frame> = heartbeats.iter().filter(|beat| beat.last_index() < from.index).cloned().collect();
        let seen = Seen { from, genuine, older: &frames[..n], heartbeats: &past, next: &frames[n + 1] };
        for attack in forger.attacks(&seen, n) {
            attempt(&replica, &attack);
            *tried.entry(attack.kind).or_default() += 1;
        }
        assert!(replica.replica.take_frame(&genuine.encode()).unwrap(), "the genuine frame {n}");
        let again =
            Attack { kind: Kind::Repeat, what: "the frame itself", bytes: genuine.encode(), reasons: &["chain"] };
        attempt(&replica, &again);
    }
    for kind in Kind::ALL {
        assert!(tried.get(&kind).is_some_and(|tried| *tried >= FRAMES), "{kind:?}: {tried:?}");
    }
    replica
}

async fn nothing_tampered_is_applied(keeps: Keeps) {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let (frames, heartbeats) = history(&pki, &node).await;
    let replica = attack_all(&pki, &frames, &heartbeats, keeps);
    let last = frames.iter().find(|frame| frame.last_index() == replica.index()).expect("it ends with a frame");
    let signed = last.checkpoint.decode_body().unwrap();
    assert_eq!(replica.local.point().state_hash, signed.state_hash);
    assert_eq!(replica.value("key/0000").unwrap(), node.local().get(b"key/0000").unwrap().record.unwrap().value);
}

#[tokio::test]
async fn a_replica_in_memory_applies_nothing_that_a_relay_made_of_frames() {
    nothing_tampered_is_applied(Keeps::InMemory).await;
}

#[tokio::test]
async fn a_replica_on_disk_applies_nothing_that_a_relay_made_of_frames() {
    nothing_tampered_is_applied(Keeps::OnDisk).await;
}

/// What a tick may be early by, as two clocks round it.
const EARLY_MS: u64 = 50;

#[tokio::test]
async fn heartbeats_come_when_there_was_no_frame_for_a_second_and_only_then() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let recording = Recording::start(&pki, &node.address).await;
    let client = pki.client(Role::Authority, &node.address);
    let mut index = 0;
    for _ in 0..25 {
        index = write_many(&client, "flow", 1).await;
        tokio::time::sleep(Duration::from_millis(TICK_MS / 10)).await;
    }
    let first = recording.heartbeat(index).await;
    let frames = recording.frames();
    assert!(frames.len() > 20, "{}", frames.len());
    let signed_ms = |frame: &Frame| frame.checkpoint.decode_body().unwrap().unix_ms;
    for (before, after) in frames.iter().zip(&frames[1..]) {
        let quiet_ms = signed_ms(after) - signed_ms(before);
        assert!(!after.entries.is_empty() || quiet_ms + EARLY_MS >= TICK_MS, "a heartbeat after {quiet_ms} ms");
    }
    let is_next = |frame: &Frame| frame.entries.is_empty() && signed_ms(frame) > signed_ms(&first);
    until("the next heartbeat", || recording.frames().iter().any(is_next)).await;
}
