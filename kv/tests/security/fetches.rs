//! A relay that tampers with the way of a snapshot, chunk by chunk, or holds the replica up: it is left, and what it
//! left behind does not keep an honest upstream's snapshot out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cinnabar_kv_api::proto::{SnapshotChunk, SnapshotRequest};
use futures::StreamExt;
use tempfile::TempDir;
use tonic::Status;

use crate::fixture::{Keeps, TestReplica, until};
use crate::forge::{SnapshotFile, chunks, flipped};
use crate::hostile::{Answers, Hostile, Script, ended};
use crate::snapshots::Scene;

const CHUNK_BYTES: usize = 512;

/// Has a replica meet an upstream with these chunks first and an honest one second; gives it and its folder.
async fn meets(
    scene: &Scene,
    what: &str,
    snapshot: impl Fn(SnapshotRequest) -> Result<Answers<SnapshotChunk>, Status> + Send + Sync + 'static,
) -> (TestReplica, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let hostile = Hostile::start(&scene.pki, Script::snapshot(snapshot));
    let mut victim = scene.victim(dir.path(), Keeps::OnDisk, &[&hostile.address, &scene.node.address]);
    victim.run();
    victim.reaches(&scene.node).await;
    until("nothing is left of it", || std::fs::read_dir(dir.path().join("fetch")).unwrap().next().is_none()).await;
    until("it follows the honest one", || victim.upstreams()[1].0).await;
    assert!(!victim.upstreams()[0].1.is_empty(), "{what}: it says why it left the other");
    (victim, dir)
}

type Change = fn(&mut Vec<SnapshotChunk>);

#[tokio::test]
async fn chunks_that_are_not_the_files_are_refused_and_an_honest_upstream_heals() {
    let scene = Scene::new().await;
    let index = SnapshotFile::read(&scene.new).header.index;
    let genuine = chunks(index, &scene.new, CHUNK_BYTES);
    assert!(genuine.len() > 4);
    let changes: [(&str, Change); 9] = [
        ("a byte of a chunk", |chunks| chunks[2].data = flipped(&chunks[2].data, 5)),
        ("a running hash", |chunks| chunks[2].running_hash = flipped(&chunks[2].running_hash, 5)),
        ("no running hash", |chunks| chunks[0].running_hash = Bytes::new()),
        ("two chunks in another order", |chunks| chunks.swap(1, 2)),
        ("a chunk twice", |chunks| chunks.insert(1, chunks[1].clone())),
        ("a chunk less", |chunks| drop(chunks.remove(1))),
        ("another snapshot's chunk", |chunks| chunks[2].index += 1),
        ("chunks of no snapshot", |chunks| chunks.iter_mut().for_each(|chunk| chunk.index = 0)),
        ("a total that is too small", |chunks| chunks.iter_mut().for_each(|chunk| chunk.total_bytes = 600)),
    ];
    for (what, change) in changes {
        let mut tampered = genuine.clone();
        change(&mut tampered);
        let (victim, _dir) = meets(&scene, what, move |_| Ok(ended(tampered.iter().cloned().map(Ok).collect()))).await;
        victim.stop().await;
    }
}

#[tokio::test]
async fn a_snapshot_that_is_cut_leaves_nothing_that_keeps_an_honest_one_out() {
    let scene = Scene::new().await;
    let index = SnapshotFile::read(&scene.new).header.index;
    let genuine = chunks(index, &scene.new, CHUNK_BYTES);
    let first = move |index: u64, data: Bytes| {
        let mut chunk = chunks(index, &data, data.len()).remove(0);
        chunk.total_bytes *= 2;
        chunk
    };
    let noise = Bytes::from(vec![0x5a; 3 * scene.new.len()]);
    let almost = flipped(&scene.new, scene.new.len() / 2);
    let cut: [(&str, Vec<SnapshotChunk>); 7] = [
        ("all but one byte, as if there were more", vec![first(index, almost)]),
        ("the genuine beginning", genuine[..2].to_vec()),
        ("a false beginning", vec![first(index, Bytes::from_static(b"false"))]),
        ("a beginning longer than the whole", vec![first(index, noise.clone())]),
        ("the beginning of no snapshot", vec![first(0, noise.clone())]),
        ("the beginning of one that nobody has", vec![first(u64::MAX, noise)]),
        ("nothing at all", Vec::new()),
    ];
    for (what, answers) in cut {
        let (victim, _dir) = meets(&scene, what, move |_| Ok(ended(answers.iter().cloned().map(Ok).collect()))).await;
        victim.stop().await;
    }
}

#[tokio::test]
async fn an_upstream_that_never_ends_a_snapshot_is_left() {
    let scene = Scene::new().await;
    let index = SnapshotFile::read(&scene.new).header.index;
    let first = chunks(index, &scene.new, CHUNK_BYTES).remove(0);
    // Chunks without bytes, for ever: each keeps the replica waiting for the next.
    let empty = SnapshotChunk { data: Bytes::new(), offset: first.data.len() as u64, ..first.clone() };
    let started = first.clone();
    let (victim, _dir) = meets(&scene, "empty chunks", move |_| {
        let (first, empty) = (started.clone(), empty.clone());
        Ok(futures::stream::iter([first]).chain(futures::stream::repeat(empty)).map(Ok).boxed())
    })
    .await;
    victim.stop().await;
    // Bytes without end, each with its right hash, past the total that was named.
    let noise = Bytes::from(vec![0x5a; 1 << 22]);
    let all = chunks(index, &noise, 1 << 16);
    let (victim, _dir) = meets(&scene, "bytes past the total", move |_| {
        let short = all.clone().into_iter().map(|mut chunk| {
            chunk.total_bytes = 1 << 17;
            Ok(chunk)
        });
        Ok(futures::stream::iter(short.collect::<Vec<_>>()).boxed())
    })
    .await;
    victim.stop().await;
}

#[tokio::test]
async fn an_upstream_that_gives_the_same_snapshot_for_ever_is_left() {
    let scene = Scene::new().await;
    let index = SnapshotFile::read(&scene.new).header.index;
    let genuine = chunks(index, &scene.new, CHUNK_BYTES);
    let fetched = Arc::<AtomicUsize>::default();
    let counted = fetched.clone();
    // The voter goes on: the snapshot that is offered is genuine, not older than what was seen, and will not do.
    let client = scene.pki.client(cinnabar_daemon::Role::Authority, &scene.node.address);
    crate::fixture::write(&client, "after", "it").await;
    let (victim, _dir) = meets(&scene, "the same snapshot again", move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(ended(genuine.iter().cloned().map(Ok).collect()))
    })
    .await;
    until("the newest value", || victim.value("after").is_some()).await;
    assert_eq!(fetched.load(Ordering::Relaxed), 1, "fetched again and again from one that withholds");
    victim.stop().await;
}
