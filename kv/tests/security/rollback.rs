//! Old states: what a replica has seen once, it does not go behind, also not after a restart or with an older disk put
//! back under it; and it changes to another store only when an operator says so.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::Role;
use cinnabar_kv::limits::TICK_MS;
use cinnabar_kv::replica::TailEnd;
use cinnabar_kv_api::{Frame, SignedCheckpoint};

use crate::fixture::{Keeps, Pki, Recording, TestNode, TestReplica, until, voter, write, write_many};
use crate::forge::{Signer, SnapshotFile, chunks, join};
use crate::hostile::{Hostile, Script, ended};
use crate::snapshots::snapshot_of;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

struct Scene {
    pki: Pki,
    node: TestNode,
    early: Vec<Frame>,
    /// A heartbeat at the end of `early`.
    heartbeat: Frame,
    /// A snapshot there.
    old: Bytes,
    late: Vec<Frame>,
    late_heartbeat: Frame,
}

impl Scene {
    async fn new() -> Self {
        let pki = Pki::new();
        let node = voter(&pki, "v1").await;
        let recording = Recording::start(&pki, &node.address).await;
        let client = pki.client(Role::Authority, &node.address);
        let index = write_many(&client, "early", 5).await;
        let early = recording.up_to(index).await;
        let heartbeat = recording.heartbeat(index).await;
        let old = snapshot_of(&node).await;
        let index = write_many(&client, "late", 5).await;
        let late = recording.up_to(index).await[early.len()..].to_vec();
        let late_heartbeat = recording.heartbeat(index).await;
        Self { pki, node, early, heartbeat, old, late, late_heartbeat }
    }

    fn open(&self, dir: &Path) -> TestReplica {
        TestReplica::open(&self.pki, "r1", dir, Keeps::OnDisk, &[], None)
    }

    /// Offers the old snapshot, and no log.
    fn old_snapshot(&self) -> Hostile {
        let all = chunks(SnapshotFile::read(&self.old).header.index, &self.old, 4096);
        Hostile::start(&self.pki, Script::snapshot(move |_| Ok(ended(all.iter().cloned().map(Ok).collect()))))
    }
}

fn take(replica: &TestReplica, frame: &Frame) -> Result<bool, TailEnd> {
    replica.replica.take_frame(&frame.encode())
}

/// Index of the checkpoint that a replica keeps on its disk.
fn kept_index(dir: &Path) -> u64 {
    let bytes = std::fs::read(dir.join("checkpoint")).unwrap();
    SignedCheckpoint::decode(&bytes).unwrap().decode_body().unwrap().index
}

fn is_old(answer: &Result<bool, TailEnd>) -> bool {
    matches!(answer, Err(TailEnd::Disbelieved(why)) if why.reason() == "old")
}

#[tokio::test]
async fn a_replica_with_an_older_disk_put_back_believes_nothing_older_than_it_has_seen() {
    let scene = Scene::new().await;
    let (dir, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let replica = scene.open(dir.path());
    assert!(take(&replica, &join(&scene.early)).unwrap());
    replica.stop().await;
    for part in ["state", "log"] {
        copy(&dir.path().join(part), &backup.path().join(part));
    }
    let replica = scene.open(dir.path());
    assert!(take(&replica, &join(&scene.late)).unwrap());
    assert!(!take(&replica, &scene.late_heartbeat).unwrap());
    let newest = replica.local.point();
    replica.stop().await;

    // The old state comes back; the newest checkpoint is kept apart from it.
    for part in ["state", "log"] {
        std::fs::remove_dir_all(dir.path().join(part)).unwrap();
        copy(&backup.path().join(part), &dir.path().join(part));
    }
    let replica = scene.open(dir.path());
    assert!(replica.index() < newest.applied.index);
    assert!(replica.local.is_stale(), "it knows that there is a newer state");
    let before = replica.traces();
    assert!(is_old(&take(&replica, &scene.heartbeat)));
    assert_eq!(replica.traces(), before);
    // What leads on from the old state is the way back.
    for frame in &scene.late {
        assert!(take(&replica, frame).unwrap());
    }
    assert_eq!(replica.local.point().state_hash, newest.state_hash);
    assert!(!take(&replica, &scene.late_heartbeat).unwrap());
    assert!(!replica.local.is_stale());
    assert!(take(&replica, &scene.heartbeat).is_err());
}

#[tokio::test]
async fn an_empty_disk_does_not_make_an_old_snapshot_new() {
    let scene = Scene::new().await;
    let dir = tempfile::tempdir().unwrap();
    let replica = scene.open(dir.path());
    assert!(take(&replica, &join(&scene.early)).unwrap());
    assert!(take(&replica, &join(&scene.late)).unwrap());
    assert!(!take(&replica, &scene.late_heartbeat).unwrap());
    replica.stop().await;
    for part in ["state", "log"] {
        std::fs::remove_dir_all(dir.path().join(part)).unwrap();
    }
    let hostile = scene.old_snapshot();
    let mut replica = TestReplica::open(&scene.pki, "r1", dir.path(), Keeps::OnDisk, &[&hostile.address], None);
    replica.run();
    until("the old snapshot is refused", || replica.upstreams()[0].1.contains("is older than entry")).await;
    assert_eq!(replica.index(), 0);
    assert!(replica.local.get(b"early/0000").is_err());
    replica.stop().await;
    let upstreams = [&hostile.address[..], &scene.node.address];
    let mut replica = TestReplica::open(&scene.pki, "r1", dir.path(), Keeps::OnDisk, &upstreams, None);
    replica.run();
    replica.reaches(&scene.node).await;
}

#[tokio::test]
async fn a_snapshot_behind_the_state_that_is_served_is_refused_after_a_restart_too() {
    let scene = Scene::new().await;
    let dir = tempfile::tempdir().unwrap();
    let replica = scene.open(dir.path());
    // The newest checkpoint that is on disk is behind the state: frames came within a second of the last that was kept.
    assert!(take(&replica, &join(&scene.early)).unwrap());
    let kept = std::fs::read(dir.path().join("checkpoint")).unwrap();
    assert!(take(&replica, &join(&scene.late)).unwrap());
    let newest = replica.local.point();
    replica.stop().await;
    std::fs::write(dir.path().join("checkpoint"), kept).unwrap();
    assert_eq!(kept_index(dir.path()), scene.heartbeat.last_index());
    let hostile = scene.old_snapshot();
    let mut replica = TestReplica::open(&scene.pki, "r1", dir.path(), Keeps::OnDisk, &[&hostile.address], None);
    replica.run();
    until("the old snapshot is refused", || replica.upstreams()[0].1.contains("is older than entry")).await;
    assert_eq!(replica.local.point(), newest);
}

#[tokio::test]
async fn frames_without_heartbeats_have_their_checkpoints_kept_every_second() {
    let scene = Scene::new().await;
    let dir = tempfile::tempdir().unwrap();
    let replica = scene.open(dir.path());
    assert!(take(&replica, &join(&scene.early)).unwrap());
    assert_eq!(kept_index(dir.path()), scene.heartbeat.last_index());
    tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
    assert!(take(&replica, &join(&scene.late)).unwrap());
    assert_eq!(kept_index(dir.path()), replica.index());
}

#[tokio::test]
async fn an_older_heartbeat_of_the_same_entry_makes_nothing_fresher_or_older() {
    let scene = Scene::new().await;
    let dir = tempfile::tempdir().unwrap();
    let replica = scene.open(dir.path());
    assert!(take(&replica, &join(&scene.early)).unwrap());
    let signer = Signer::new(&scene.pki.issue(Role::Voter, "v7"));
    let mut later = scene.heartbeat.checkpoint.decode_body().unwrap();
    later.unix_ms += 1000;
    let later = Frame { checkpoint: signer.sign(&later), ..scene.heartbeat.clone() };
    assert!(!take(&replica, &later).unwrap());
    let (kept, now) =
        (std::fs::read(dir.path().join("checkpoint")).unwrap(), later.checkpoint.decode_body().unwrap().unix_ms);
    let _ = take(&replica, &scene.heartbeat);
    assert_eq!(replica.local.behind_ms(now), 0);
    assert_eq!(std::fs::read(dir.path().join("checkpoint")).unwrap(), kept);
    assert_eq!(replica.replica.witness(&replica.local.point()), Some(later.checkpoint), "an older one is passed on");
}

#[tokio::test]
async fn another_store_is_refused_until_an_operator_names_it() {
    let scene = Scene::new().await;
    let other = voter(&scene.pki, "w1").await;
    write(&scene.pki.client(Role::Authority, &other.address), "whose", "the other store's").await;
    let dir = tempfile::tempdir().unwrap();
    let open = |upstream: &TestNode, follow| {
        let upstreams = [&upstream.address[..]];
        TestReplica::open(&scene.pki, "r1", dir.path(), Keeps::OnDisk, &upstreams, follow)
    };
    let mut replica = open(&scene.node, None);
    replica.run();
    replica.reaches(&scene.node).await;
    until("the checkpoint is kept", || dir.path().join("checkpoint").exists()).await;
    let ours = replica.local.point();
    replica.stop().await;

    // The same cluster, another history, in a replica that is started anew: refused on both sides.
    let mut replica = open(&other, None);
    replica.run();
    until("it is refused", || replica.upstreams()[0].1.contains("follows store")).await;
    let frames = Recording::start(&scene.pki, &other.address).await.up_to(other.point().applied.index).await;
    let refused = take(&replica, &join(&frames)).unwrap_err();
    assert!(matches!(&refused, TailEnd::Disbelieved(why) if why.reason() == "foreign"), "{refused}");
    assert_eq!(replica.local.point(), ours);
    replica.stop().await;

    // Named: the whole state is the other store's then, and the first store is refused from there on.
    let mut replica = open(&other, Some(other.store_id()));
    replica.run();
    replica.reaches(&other).await;
    assert_eq!(replica.value("early/0000"), None);
    let back = take(&replica, &scene.late_heartbeat).unwrap_err();
    assert!(matches!(&back, TailEnd::Disbelieved(why) if why.reason() == "foreign"), "{back}");
    replica.stop().await;
    let mut replica = open(&scene.node, None);
    assert_eq!(replica.replica.store_id(), Some(other.store_id()));
    replica.run();
    until("it is refused", || replica.upstreams()[0].1.contains("follows store")).await;
    assert_eq!(replica.value("whose").unwrap(), Bytes::from_static(b"the other store's"));
}

#[tokio::test]
async fn a_replica_told_to_follow_another_store_serves_nothing_newer_of_the_old_one() {
    let scene = Scene::new().await;
    let other = voter(&scene.pki, "w1").await;
    let dir = tempfile::tempdir().unwrap();
    let replica = scene.open(dir.path());
    assert!(take(&replica, &join(&scene.early)).unwrap());
    assert!(!take(&replica, &scene.heartbeat).unwrap());
    replica.stop().await;
    let replica = TestReplica::open(&scene.pki, "r1", dir.path(), Keeps::OnDisk, &[], Some(other.store_id()));
    let before = replica.local.point();
    for frame in [join(&scene.late), scene.heartbeat.clone(), scene.late_heartbeat.clone()] {
        let refused = take(&replica, &frame).unwrap_err();
        assert!(matches!(&refused, TailEnd::Disbelieved(why) if why.reason() == "foreign"), "{refused}");
    }
    assert_eq!(replica.local.point(), before);
    assert!(replica.local.is_stale(), "what it serves is not what it was told to follow");
}
