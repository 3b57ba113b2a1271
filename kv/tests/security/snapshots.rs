//! A relay that offers a tampered snapshot: whatever it made of the file, the old state goes on being served, marked
//! stale, and an honest upstream's snapshot takes its place.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_daemon::Role;
use cinnabar_kv::local::{Local, LocalOptions};
use cinnabar_kv_api::{ChainHead, Frame, StateHash, StoreId};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::fixture::{Counted, Keeps, Pki, Recording, TestNode, TestReplica, soon, until, voter, write, write_many};
use crate::forge::{Signer, SnapshotFile, chunks, flipped, join, other_history, sealed};
use crate::hostile::{Hostile, Script};

/// A key whose value the new snapshot changes.
const KEY: &str = "early/0000";

/// A voter that has let its log go, what it sent before, and two of its snapshots.
pub struct Scene {
    pub pki: Pki,
    pub node: TestNode,
    /// Everything up to the old snapshot, and everything up to the new one.
    pub early: Vec<Frame>,
    pub all: Vec<Frame>,
    pub old: Bytes,
    pub new: Bytes,
}

/// A snapshot of a node's state as it is now.
pub async fn snapshot_of(node: &TestNode) -> Bytes {
    let core = node.node.core().unwrap();
    let mut serving = core.snapshots.serve(0, 0, node.point().applied.index).await.unwrap();
    let mut file = Vec::new();
    while let Some(chunk) = serving.next_chunk().unwrap() {
        file.extend_from_slice(&chunk.data);
    }
    file.into()
}

/// Lets go of a voter's whole log, so that only a snapshot helps.
pub async fn purge(node: &TestNode) {
    node.local().make_durable().unwrap();
    let core = node.node.core().unwrap();
    // What a voter itself lets go of is a whole segment; here it is everything but the last entry.
    let raft = core.voter.as_ref().unwrap().raft();
    let upto = node.point().applied.index - 1;
    let purging = async {
        // It purges below what it says is in a snapshot, and says so some time after it was asked.
        while core.log.purged().index < upto {
            raft.trigger().snapshot().await.unwrap();
            raft.trigger().purge_log(upto).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    soon("the log is purged", purging).await;
}

impl Scene {
    pub async fn new() -> Self {
        let pki = Pki::new();
        let node = voter(&pki, "v1").await;
        let recording = Recording::start(&pki, &node.address).await;
        let client = pki.client(Role::Authority, &node.address);
        write(&client, KEY, "old").await;
        let index = write_many(&client, "kept", 20).await;
        let early = recording.up_to(index).await;
        let old = snapshot_of(&node).await;
        write(&client, KEY, "new").await;
        let index = write_many(&client, "late", 20).await;
        let all = recording.up_to(index).await;
        let new = snapshot_of(&node).await;
        purge(&node).await;
        Self { pki, node, early, all, old, new }
    }

    /// A replica that has the old state, from genuine frames.
    pub fn victim(&self, dir: &std::path::Path, keeps: Keeps, upstreams: &[&str]) -> TestReplica {
        let replica = TestReplica::open(&self.pki, "victim", dir, keeps, upstreams, None);
        assert!(replica.replica.take_frame(&join(&self.early).encode()).unwrap());
        replica
    }
}

/// Every state that a replica shows, by index and hash.
struct Shown {
    seen: Arc<Mutex<BTreeSet<(u64, StateHash)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Shown {
    fn by(replica: &TestReplica) -> Self {
        let (local, seen) = (replica.local.clone(), Arc::<Mutex<BTreeSet<_>>>::default());
        let kept = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let point = local.point();
                kept.lock().insert((point.applied.index, point.state_hash));
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        });
        Self { seen, task }
    }

    fn only(self, allowed: &[(u64, StateHash)], what: &str) {
        self.task.abort();
        for shown in self.seen.lock().iter() {
            assert!(allowed.contains(shown), "{what}: it showed the state {shown:?}");
        }
    }
}

/// A file, and the reason for which it must be refused.
type Case = (&'static str, Bytes, &'static str);

fn alter(file: &SnapshotFile, change: impl FnOnce(&mut SnapshotFile)) -> Bytes {
    let mut file = file.clone();
    change(&mut file);
    file.write()
}

fn record(file: &SnapshotFile, key: &str) -> usize {
    file.records.iter().position(|record| record.0 == b'k' && record.1 == key.as_bytes()).unwrap()
}

/// Files whose records are not those of the signed state.
fn altered_records(new: &SnapshotFile) -> Vec<Case> {
    let at = record(new, KEY);
    let index = new.header.index;
    let hash = "its records hash to";
    vec![
        ("a byte of a value", alter(new, |file| file.records[at].3 = flipped(&file.records[at].3, 1)), hash),
        ("a byte of a key", alter(new, |file| file.records[at].1 = Bytes::from_static(b"early/0001")), hash),
        ("a record's index", alter(new, |file| file.records[at].2 -= 1), hash),
        ("a record from later", alter(new, |file| file.records[at].2 = index + 1), "from after its index"),
        ("a record less", alter(new, |file| drop(file.records.remove(at))), "records, bytes and sessions"),
        (
            "a record less, counted",
            alter(new, |file| {
                file.records.remove(at);
                file.recount();
            }),
            hash,
        ),
        (
            "a record more, counted",
            alter(new, |file| {
                file.records.push((b'k', Bytes::from_static(b"zz"), index, Bytes::from_static(b"forged")));
                file.recount();
            }),
            hash,
        ),
        (
            "a session less, counted",
            alter(new, |file| {
                assert_eq!(file.records.remove(0).0, b's');
                file.recount();
            }),
            hash,
        ),
        ("two records in another order", alter(new, |file| file.records.swap(at, at + 1)), "out of order"),
        (
            "a record twice",
            alter(new, |file| {
                file.records.insert(at, file.records[at].clone());
                file.recount();
            }),
            "out of order",
        ),
        ("a record of another kind", alter(new, |file| file.records[at].0 = b'm'), "a record of kind"),
    ]
}

/// Files whose header says something else than the checkpoint in it.
fn altered_headers(new: &SnapshotFile, scene: &Scene) -> Vec<Case> {
    let chain = "does not reach the signed head";
    let of_frame = scene.early.last().unwrap().checkpoint.clone();
    vec![
        ("another state hash", alter(new, |file| file.header.state_hash = StateHash([7; 32])), chain),
        ("another chain head", alter(new, |file| file.header.chain_head = ChainHead([7; 32])), chain),
        ("another index", alter(new, |file| file.header.index += 1), chain),
        ("another term", alter(new, |file| file.header.term += 1), chain),
        ("no store", alter(new, |file| file.header.store = None), chain),
        ("another store", alter(new, |file| file.header.store.as_mut().unwrap().1 = StoreId([7; 16])), chain),
        ("no checkpoint", alter(new, |file| file.header.checkpoint = None), chain),
        ("an older checkpoint", alter(new, |file| file.header.checkpoint = Some(of_frame)), chain),
    ]
}

/// A whole other history, consistent in itself, under a checkpoint that cannot be the voters'.
fn forged_histories(new: &SnapshotFile, scene: &Scene) -> Vec<Case> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forged");
    let local = Local::open(LocalOptions::default()).unwrap();
    local.apply(&other_history(&scene.all, KEY)).unwrap();
    let (dump, ()) = local.open_dump(|_| ()).unwrap();
    dump.write(&path, new.header.checkpoint.clone()).unwrap();
    let forged = SnapshotFile::read(&std::fs::read(&path).unwrap().into());
    assert_eq!((forged.header.index, forged.records.len()), (new.header.index, new.records.len()));
    assert_ne!(forged.header.state_hash, new.header.state_hash);
    let genuine = new.header.checkpoint.as_ref().unwrap().decode_body().unwrap();
    let mut claims = genuine.clone();
    (claims.chain_head, claims.state_hash) = (forged.header.chain_head, forged.header.state_hash);
    let mut elsewhere = genuine;
    elsewhere.store_id = StoreId([9; 16]);
    let pki = &scene.pki;
    let signed = |signer: Signer, claims| alter(&forged, |file| file.header.checkpoint = Some(signer.sign(claims)));
    let relay = Signer::new(&pki.issue(Role::Replica, "relay"));
    let over = Signer::new(&pki.issue_expired(Role::Voter, "v1"));
    let voter = Signer::new(&pki.issue(Role::Voter, "v7"));
    vec![
        ("another history under the genuine checkpoint", forged.write(), "does not reach the signed head"),
        (
            "another history under the genuine header",
            alter(&forged, |file| file.header = new.header.clone()),
            "its records hash to",
        ),
        ("another history signed by the relay", signed(relay, &claims), "the checkpoint's signature"),
        ("another history signed by a voter that was", signed(over, &claims), "the checkpoint's signature"),
        ("another store's", signed(voter, &elsewhere), "this node follows"),
    ]
}

/// Files that do not follow their format.
fn malformed(genuine: &Bytes) -> Vec<Case> {
    let body = &genuine[..genuine.len() - 32];
    let mut long = genuine[..9].to_vec();
    long.extend_from_slice(&u32::MAX.to_le_bytes());
    let mut format = body.to_vec();
    format[8] += 1;
    vec![
        ("its end cut", genuine.slice(..genuine.len() - 40), "snapshot"),
        ("its end cut, sealed", sealed(body[..body.len() - 9].to_vec()), "snapshot"),
        ("its hash flipped", flipped(genuine, genuine.len() - 1), "hash does not hold"),
        ("a byte more", [&genuine[..], &[0]].concat().into(), "hash does not hold"),
        ("a header without end", sealed(long), "a header of"),
        ("another format", sealed(format), "format 2"),
        ("something else", Bytes::from_static(b"not a snapshot at all"), "not a snapshot"),
    ]
}

/// Serves a file; keeps its second half back until it is let go.
fn offer(pki: &Pki, index: u64, file: &Bytes) -> (Hostile, watch::Sender<bool>) {
    let (release, released) = watch::channel(false);
    let all = chunks(index, file, file.len().div_ceil(2).max(1));
    let script = Script::snapshot(move |request| {
        let from = request.offset;
        let rest: Vec<_> = all.iter().filter(|chunk| chunk.offset >= from).cloned().collect();
        let released = released.clone();
        Ok(stream::iter(rest)
            .then(move |chunk| {
                let mut released = released.clone();
                async move {
                    if chunk.offset > 0 {
                        let _ = released.wait_for(|released| *released).await;
                    }
                    Ok(chunk)
                }
            })
            .boxed())
    });
    (Hostile::start(pki, script), release)
}

async fn is_refused(scene: &Scene, (what, file, why): Case, keeps: Keeps) {
    let counted = Counted::here();
    let dir = tempfile::tempdir().unwrap();
    let (hostile, release) = offer(&scene.pki, SnapshotFile::read(&scene.new).header.index, &file);
    let mut victim = scene.victim(dir.path(), keeps, &[&hostile.address, &scene.node.address]);
    let before = victim.local.point();
    let shown = Shown::by(&victim);
    victim.run();
    until("the old state is marked stale", || victim.local.is_stale()).await;
    assert_eq!(
        (victim.local.point(), victim.value(KEY).unwrap()),
        (before.clone(), Bytes::from_static(b"old")),
        "{what}"
    );
    release.send_replace(true);
    victim.reaches(&scene.node).await;
    assert_eq!(victim.value(KEY).unwrap(), Bytes::from_static(b"new"), "{what}");
    until("it is no longer stale", || !victim.local.is_stale()).await;
    let upstreams = victim.upstreams();
    assert!(upstreams[0].1.contains(why), "{what}: {upstreams:?}");
    let healed = scene.node.point();
    let allowed = [&before, &healed].map(|point| (point.applied.index, point.state_hash));
    shown.only(&allowed, what);
    assert_eq!(counted.value("cinnabar_replica_snapshots_total{result=\"failed\"}"), 1.0, "{what}");
    until("it is counted", || counted.value("cinnabar_replica_snapshots_total{result=\"installed\"}") == 1.0).await;
    until("nothing is left of it", || std::fs::read_dir(dir.path().join("fetch")).unwrap().next().is_none()).await;
    victim.stop().await;
}

async fn are_refused(scene: &Scene, cases: Vec<Case>) {
    for (n, case) in cases.into_iter().enumerate() {
        let keeps = if n % 2 == 0 { Keeps::InMemory } else { Keeps::OnDisk };
        is_refused(scene, case, keeps).await;
    }
}

#[tokio::test]
async fn the_files_of_these_attacks_are_made_as_genuine_ones_are() {
    let scene = Scene::new().await;
    assert_eq!(SnapshotFile::read(&scene.new).write(), scene.new);
    let mut counted = SnapshotFile::read(&scene.new);
    counted.recount();
    assert_eq!(counted.write(), scene.new);
}

#[tokio::test]
async fn a_snapshot_with_other_records_is_not_served() {
    let scene = Scene::new().await;
    let new = SnapshotFile::read(&scene.new);
    are_refused(&scene, altered_records(&new)).await;
}

#[tokio::test]
async fn a_snapshot_with_another_header_is_not_served() {
    let scene = Scene::new().await;
    let new = SnapshotFile::read(&scene.new);
    are_refused(&scene, altered_headers(&new, &scene)).await;
}

#[tokio::test]
async fn a_snapshot_of_another_history_is_not_served() {
    let scene = Scene::new().await;
    let new = SnapshotFile::read(&scene.new);
    are_refused(&scene, forged_histories(&new, &scene)).await;
}

#[tokio::test]
async fn a_snapshot_that_is_no_snapshot_is_not_served() {
    let scene = Scene::new().await;
    are_refused(&scene, malformed(&scene.new)).await;
}

#[tokio::test]
async fn a_genuine_snapshot_older_than_what_was_seen_is_not_served() {
    let scene = Scene::new().await;
    let dir = tempfile::tempdir().unwrap();
    let index = SnapshotFile::read(&scene.old).header.index;
    let (hostile, release) = offer(&scene.pki, index, &scene.old);
    release.send_replace(true);
    let mut victim = scene.victim(dir.path(), Keeps::OnDisk, &[&hostile.address]);
    let rest: Vec<_> = scene.all[scene.early.len()..].to_vec();
    assert!(victim.replica.take_frame(&join(&rest).encode()).unwrap());
    let before = victim.local.point();
    assert!(before.applied.index > index);
    victim.run();
    until("the old snapshot is refused", || victim.upstreams()[0].1.contains("is older than entry")).await;
    assert_eq!((victim.local.point(), victim.value(KEY).unwrap()), (before, Bytes::from_static(b"new")));
}
