//! Snapshots under load: for a replica that comes back after its place in the log is gone, and for a new voter.
//!
//! The log is kept as short as it can be; values of 20 and 60 KiB purge it within seconds.

use std::ops::Range;
use std::time::Duration;

use crate::harness::cluster::{Cluster, NODE_MAX, Wiring};
use crate::harness::deadline::eventually;
use crate::harness::load::Mix;
use crate::harness::proxy::{Flow, Link};
use crate::harness::scale::seed;
use crate::run::Run;

/// Longest until clients wrote so much that the first file of the log goes.
const PURGE_MAX: Duration = Duration::from_secs(240);
/// What the replica may receive: so little that its fetching of a snapshot can be watched.
const BYTES_PER_SECOND: u64 = 2_000_000;
/// A key that no client of the load writes.
const ANCHOR: &str = "operator/anchor";

const LARGE: Mix = Mix {
    clients: 12,
    slots: 200,
    turnover: 40,
    sizes: &[100, 20 * 1024, 60 * 1024, 60 * 1024],
    pause: Duration::from_millis(20),
    ..Mix::SMALL
};

fn number(cluster: &Cluster, node: &str, field: &str) -> Option<u64> {
    cluster.status(node).ok()?[field].as_u64()
}

fn put(cluster: &Cluster, value: &str) -> u64 {
    cluster.operate("voter1", ["kv", "put", ANCHOR, value]).unwrap()["index"].as_u64().unwrap()
}

/// Waits until no voter has the entry after this index any more.
fn await_purge(cluster: &Cluster, index: u64) {
    eventually(PURGE_MAX, "a purged log", || {
        let gone = |name: &String| number(cluster, name, "first_log_index").is_some_and(|first| first > index + 1);
        cluster.names_of(true).iter().all(gone).then_some(())
    });
}

fn narrow(cluster: &Cluster, to: &str, bytes_per_second: u64) {
    let Wiring::Mesh(mesh) = &cluster.wiring else { unreachable!("it was made with a mesh") };
    let link = Link::Open { there: Flow::PASS, back: Flow::limited(bytes_per_second) };
    cluster.names_of(true).iter().for_each(|voter| mesh.set(to, voter, link));
}

/// The replica answers from the state that it left with, and says that it is an old one.
fn assert_old(cluster: &Cluster, left_with: Range<u64>) {
    let old = eventually(NODE_MAX, "an answer from the old state", || {
        cluster.get_local("late", ANCHOR).ok().filter(|answer| answer["stale"] == true)
    });
    assert_eq!(old["value"], "old", "{old}");
    assert!(left_with.contains(&old["applied_index"].as_u64().unwrap()), "{old}");
}

#[test]
fn a_snapshot_replaces_a_purged_log_while_clients_write() {
    let seed = seed(41);
    let mut cluster = Cluster::new(3, seed);
    for voter in cluster.names_of(true) {
        cluster.set_env(&voter, "CINNABAR_LOG_KEEP_BYTES", "1MiB");
    }
    cluster.start_all();
    cluster.init();
    cluster.add_replica("late", &["voter2", "voter3", "voter1"]);
    cluster.await_answer("late", "/readyz", 200);
    let mut run = Run::begin(cluster, LARGE, &[], seed);

    // The replica has a state, then it is away until its place in the log is gone.
    let first = put(&run.cluster, "old");
    run.load.await_writes(50);
    eventually(NODE_MAX, "the replica", || (number(&run.cluster, "late", "applied_index")? >= first).then_some(()));
    assert_eq!(run.cluster.stop("late"), Some(0));
    let away_from = put(&run.cluster, "new");
    await_purge(&run.cluster, away_from);

    // It serves what it had, and says so, while it fetches what it needs.
    narrow(&run.cluster, "late", BYTES_PER_SECOND);
    run.cluster.start("late");
    assert_old(&run.cluster, first..away_from);
    // Nor does it matter that the sender, or it itself, is killed in the middle of it.
    for killed in ["voter2", "late"] {
        run.cluster.restart(killed);
        assert_old(&run.cluster, first..away_from);
    }
    let written = run.load.written();
    run.cluster.heal();
    let new = eventually(PURGE_MAX, "an answer from the new state", || {
        run.cluster.get_local("late", ANCHOR).ok().filter(|answer| answer["stale"] == false)
    });
    assert_eq!(new["value"], "new", "{new}");
    assert!(new["applied_index"].as_u64().unwrap() > away_from, "{new}");
    eventually(NODE_MAX, "one installed snapshot", || {
        let installed = run.cluster.metric("late", "cinnabar_replica_snapshots_total{result=\"installed\"}")?;
        (installed == 1.0).then_some(())
    });
    assert!(run.load.written() > written, "clients must have gone on");

    // A new voter has nothing, and the log's beginning is gone.
    run.cluster.add_voter("voter4");
    let address = run.cluster.node("voter4").advertise.to_string();
    let leader = run.cluster.await_leader(None);
    let added = run.cluster.operate(&leader, ["cluster", "add-voter", &address]).unwrap();
    assert_eq!(added["voters"].as_array().unwrap().len(), 4, "{added}");
    run.load.await_writes(50);
    assert!(number(&run.cluster, "voter4", "first_log_index").unwrap() > away_from);
    run.judge("snapshots under load");
}
