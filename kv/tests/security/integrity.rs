//! A replica whose own state is not what the voters signed: it stops serving it, says so, and heals from another
//! upstream.

use bytes::Bytes;
use cinnabar_daemon::Role;
use cinnabar_kv::local::ReadError;
use cinnabar_kv::log::LogPoint;
use cinnabar_kv::replica::TailEnd;
use cinnabar_kv::state::hash::{Space, digest};
use cinnabar_kv_api::proto::TailRequest;
use cinnabar_kv_api::{Entry, Frame, StateHash};
use futures::StreamExt;
use tokio::sync::watch;

use crate::fixture::{Counted, Keeps, Pki, Recording, TestNode, TestReplica, until, voter, write, write_many};
use crate::forge::{Signer, chained, join};
use crate::hostile::{Hostile, Script, message, open};

/// Genuine entries under a checkpoint that says that another state follows from them, signed with a voter's key.
fn lie(signer: &Signer, genuine: &Frame) -> Bytes {
    let mut checkpoint = genuine.checkpoint.decode_body().unwrap();
    checkpoint.state_hash = StateHash([7; 32]);
    Frame { checkpoint: signer.sign(&checkpoint), ..genuine.clone() }.encode()
}

/// Changes a stored value and its digest, as somebody with the disk in his hands may.
fn alter_on_disk(replica: &TestReplica, key: &str) {
    replica.local.make_durable().unwrap();
    let state = replica.local.state();
    let stored_key = [b"k", key.as_bytes()].concat();
    let mut head = state.engine().get(&stored_key).unwrap().expect("it is stored").to_vec();
    let mod_index = u64::from_le_bytes(head[..8].try_into().unwrap());
    head[44] ^= 1;
    let digest = digest(Space::Record, key.as_bytes(), mod_index, &head[44..]);
    head[12..44].copy_from_slice(&digest);
    state.engine().commit(vec![(stored_key, Some(head))]).unwrap();
}

struct Scene {
    pki: Pki,
    node: TestNode,
    recording: Recording,
    /// What replicas begin with.
    frames: Vec<Frame>,
    /// What follows.
    next: Frame,
}

impl Scene {
    async fn new() -> Self {
        let pki = Pki::new();
        let node = voter(&pki, "v1").await;
        let recording = Recording::start(&pki, &node.address).await;
        let client = pki.client(Role::Authority, &node.address);
        let last = write_many(&client, "key", 10).await;
        let frames = recording.up_to(last).await;
        let last = write_many(&client, "next", 3).await;
        let next = join(&recording.up_to(last).await[frames.len()..]);
        Self { pki, node, recording, frames, next }
    }

    fn replica(&self, dir: &std::path::Path, keeps: Keeps, upstreams: &[&str]) -> TestReplica {
        let replica = TestReplica::open(&self.pki, "r1", dir, keeps, upstreams, None);
        assert!(replica.replica.take_frame(&join(&self.frames).encode()).unwrap());
        replica
    }
}

#[tokio::test]
async fn a_state_that_a_voter_swears_differently_about_is_not_served_until_another_is_fetched() {
    for keeps in [Keeps::InMemory, Keeps::OnDisk] {
        let counted = Counted::here();
        let scene = Scene::new().await;
        let signer = Signer::new(&scene.pki.issue(Role::Voter, "v1"));
        let lie = lie(&signer, &scene.next);
        // A voter gone bad, behind a gate so that what the replica does meanwhile can be looked at.
        let (gate, opened) = watch::channel(false);
        let lying = Hostile::start_as(
            scene.pki.tls(Role::Voter, "v2"),
            &scene.pki,
            Script::tail(move |_| Ok(open(vec![Ok(message(lie.clone()))]))),
        );
        let gated = Hostile::start(
            &scene.pki,
            Script::snapshot(move |_| {
                let mut opened = opened.clone();
                let waiting = async move {
                    let _ = opened.wait_for(|opened| *opened).await;
                    Err(tonic::Status::unavailable("not from here"))
                };
                Ok(futures::stream::once(waiting).boxed())
            }),
        );
        let dir = tempfile::tempdir().unwrap();
        let upstreams = [&lying.address[..], &gated.address, &scene.node.address];
        let mut replica = scene.replica(dir.path(), keeps, &upstreams);
        replica.run();
        until("it stops serving", || replica.local.check_serving().is_err()).await;
        assert!(matches!(replica.local.get(b"key/0000"), Err(ReadError::Wrong)));
        let mut shown = 0;
        let scanned = replica.replica.reader().scan(b"key/", |_, _| {
            shown += 1;
            true
        });
        assert!(scanned.is_err() && shown == 0, "a scan in this process shows the wrong state");
        assert_eq!(counted.value("cinnabar_replica_alarm"), 1.0);
        assert_eq!(counted.frames("state"), 1.0);
        let served = replica.serve(&scene.pki).await;
        let refused = scene.pki.replication(&served.address).tail(TailRequest::default()).await;
        assert_eq!(refused.unwrap_err().code(), tonic::Code::Unavailable, "a wrong state is passed on");
        gate.send_replace(true);
        replica.reaches(&scene.node).await;
        assert_eq!(replica.value("key/0000").unwrap(), Bytes::from_static(b"value 0 of key"));
        until("the alarm ends", || counted.value("cinnabar_replica_alarm") == 0.0).await;
        until("it is counted", || counted.value("cinnabar_replica_snapshots_total{result=\"installed\"}") == 1.0).await;
        replica.stop().await;
    }
}

#[tokio::test]
async fn a_record_that_was_changed_in_the_engine_is_found_when_it_is_written_over() {
    let scene = Scene::new().await;
    let client = scene.pki.client(Role::Authority, &scene.node.address);
    let counted = Counted::here();
    let dir = tempfile::tempdir().unwrap();
    // Closed and opened again: what the cache holds of a record is what was verified, not what is stored.
    scene.replica(dir.path(), Keeps::OnDisk, &[]).stop().await;
    let upstreams = [&scene.node.address[..]];
    let mut replica = TestReplica::open(&scene.pki, "r1", dir.path(), Keeps::OnDisk, &upstreams, None);
    alter_on_disk(&replica, "key/0003");
    replica.run();
    write(&client, "key/0004", "elsewhere").await;
    replica.reaches(&scene.node).await;
    assert_eq!(counted.frames("state"), 0.0, "nobody touched it yet");
    write(&client, "key/0003", "over it").await;
    until("it is found", || counted.frames("state") == 1.0).await;
    replica.reaches(&scene.node).await;
    assert_eq!(replica.value("key/0003").unwrap(), Bytes::from_static(b"over it"));
    until("the alarm ends", || counted.value("cinnabar_replica_alarm") == 0.0).await;
    until("it is counted", || counted.value("cinnabar_replica_snapshots_total{result=\"installed\"}") == 1.0).await;
    replica.stop().await;
}

#[tokio::test]
async fn a_state_that_was_found_wrong_is_not_served_after_a_restart_either() {
    let scene = Scene::new().await;
    let signer = Signer::new(&scene.pki.issue(Role::Voter, "v1"));
    let lie = lie(&signer, &scene.next);
    let dir = tempfile::tempdir().unwrap();
    let replica = scene.replica(dir.path(), Keeps::OnDisk, &[]);
    assert!(matches!(replica.replica.take_frame(&lie), Err(TailEnd::WrongState(_))));
    replica.stop().await;
    let mut again = TestReplica::open(&scene.pki, "r1", dir.path(), Keeps::OnDisk, &[&scene.node.address], None);
    assert!(matches!(again.local.get(b"key/0000"), Err(ReadError::Wrong)));
    again.run();
    again.reaches(&scene.node).await;
    again.stop().await;
    let healed = TestReplica::open(&scene.pki, "r1", dir.path(), Keeps::OnDisk, &[], None);
    assert_eq!(healed.value("key/0000").unwrap(), Bytes::from_static(b"value 0 of key"));
}

#[tokio::test]
async fn entries_that_nobody_signed_are_replaced_by_a_verified_snapshot() {
    let scene = Scene::new().await;
    let client = scene.pki.client(Role::Authority, &scene.node.address);
    for keeps in [Keeps::InMemory, Keeps::OnDisk] {
        let dir = tempfile::tempdir().unwrap();
        let mut replica = scene.replica(dir.path(), keeps, &[&scene.node.address]);
        // A back door: an entry that exists nowhere else, applied as if it had been committed.
        let from: LogPoint = replica.local.point().applied;
        let forged = Entry { term: from.term, payload: scene.frames.last().unwrap().entries[0].payload.clone() };
        replica.local.apply(&chained(from, &[forged])).unwrap();
        assert_ne!(replica.local.point().applied, scene.node.point().applied);
        write_many(&client, "more", 3).await;
        replica.run();
        replica.reaches(&scene.node).await;
        replica.stop().await;
    }
}

#[tokio::test]
async fn genuine_frames_never_make_a_state_look_wrong() {
    let scene = Scene::new().await;
    let dir = tempfile::tempdir().unwrap();
    let replica = TestReplica::open(&scene.pki, "r1", dir.path(), Keeps::InMemory, &[], None);
    let heartbeat = scene.recording.heartbeat(scene.node.point().applied.index).await;
    // Early, late, twice: a relay chooses the order.
    for frame in scene.recording.frames().iter().rev().chain(&scene.recording.frames()).chain(&scene.recording.frames())
    {
        let _ = replica.replica.take_frame(&frame.encode());
        assert!(!replica.local.is_wrong());
    }
    assert!(!replica.replica.take_frame(&heartbeat.encode()).unwrap());
    assert_eq!(replica.local.point().state_hash, scene.node.point().state_hash);
}
