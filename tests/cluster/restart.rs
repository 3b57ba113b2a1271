//! What a voter is after a restart, and what is made of its backup.

use std::fs;
use std::time::Duration;

use crate::harness::cluster::Cluster;
use crate::harness::deadline::eventually;

const BOUND: Duration = Duration::from_secs(60);
/// Large records.
const LARGE: usize = 60;

fn term(cluster: &Cluster, node: &str) -> u64 {
    cluster.status(node).unwrap()["term"].as_u64().unwrap()
}

fn value(cluster: &Cluster, at: &str, key: &str) -> String {
    let answer = cluster.operate(at, ["kv", "get", key, "--linearizable"]).unwrap();
    answer["value"].as_str().unwrap().to_owned()
}

#[test]
fn a_restarted_leader_leads_only_in_a_later_term() {
    // In its old term it would write other entries under indexes that followers may hold already.
    let mut cluster = Cluster::running(1, 1);
    cluster.operate("voter1", ["kv", "put", "operator/key", "one"]).unwrap();
    let before = term(&cluster, "voter1");
    cluster.restart("voter1");
    cluster.await_leader(None);
    assert!(term(&cluster, "voter1") > before);
    assert_eq!(value(&cluster, "voter1", "operator/key"), "one");
}

#[test]
fn a_backup_of_a_later_term_is_restored_as_another_store() {
    let mut cluster = Cluster::running(1, 2);
    cluster.restart("voter1");
    cluster.await_leader(None);
    let index = cluster.operate("voter1", ["kv", "put", "operator/key", "kept"]).unwrap()["index"].as_u64().unwrap();
    assert!(term(&cluster, "voter1") > 1);
    let backup = cluster.place("backup.snap");
    let made = cluster.operate("voter1", ["kv", "backup", "--out", backup.to_str().unwrap()]).unwrap();
    assert_eq!(cluster.stop("voter1"), Some(0));

    cluster.add_restored("restored", &backup);
    eventually(BOUND, "a leader", || (cluster.status("restored").ok()?["role"] == "leader").then_some(()));
    assert_eq!(value(&cluster, "restored", "operator/key"), "kept");
    let later = cluster.operate("restored", ["kv", "put", "operator/new", "x"]).unwrap()["index"].as_u64().unwrap();
    assert!(later > index);
    let status = cluster.status("restored").unwrap();
    assert_eq!(status["cluster"], made["cluster"]);
    assert_ne!(status["store_id"], made["store_id"]);
}

/// A record; [`LARGE`] of them fill several of the engine's segments.
fn large(n: usize) -> (String, String) {
    (format!("operator/{n}"), format!("{n:02}").repeat(30_000))
}

#[test]
fn a_replica_whose_state_is_damaged_fetches_another() {
    let mut cluster = Cluster::running(1, 3);
    cluster.add_replica("replica", &["voter1"]);
    cluster.await_answer("replica", "/readyz", 200);
    for n in 0..LARGE {
        let (key, value) = large(n);
        cluster.operate("voter1", ["kv", "put", &key, &value]).unwrap();
    }
    let applied = |cluster: &Cluster, name: &str| cluster.status(name).ok()?["applied_index"].as_u64();
    let caught_up = |cluster: &Cluster| (applied(cluster, "replica")? == applied(cluster, "voter1")?).then_some(());
    eventually(BOUND, "the replica has everything", || caught_up(&cluster));
    assert_eq!(cluster.stop("replica"), Some(0));
    let state = cluster.node("replica").data.join("state");
    let current = fs::read_to_string(state.join("CURRENT")).unwrap();
    // Of all damage this is what the engine always tells; it opens what is left over some, and that is caught up with.
    let file = state.join(current.trim()).join("conf");
    let mut bytes = fs::read(&file).unwrap();
    bytes[0] ^= 1;
    fs::write(&file, bytes).unwrap();

    cluster.start("replica");
    cluster.child("replica").await_line("the state on this disk is damaged", BOUND);
    eventually(BOUND, "the replica has everything again", || caught_up(&cluster));
    cluster.await_answer("replica", "/readyz", 200);
    let hash = |name: &str| cluster.status(name).unwrap()["state_hash"].clone();
    assert_eq!(hash("replica"), hash("voter1"));
    for n in 0..LARGE {
        let (key, value) = large(n);
        assert_eq!(cluster.get_local("replica", &key).unwrap()["value"], value.as_str());
    }
}
