//! What a voter is after a restart, and what is made of its backup.

use crate::harness::cluster::Cluster;
use crate::harness::deadline::eventually;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(60);

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
