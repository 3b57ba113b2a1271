//! Large values in a burst: many of them come to be applied at once, and frames have to end between them.

use std::time::Duration;

use crate::harness::client::{Ask, Store};
use crate::harness::cluster::{Cluster, NODE_MAX};
use crate::harness::deadline::eventually;
use crate::harness::history::Outcome;

const BOUND: Duration = Duration::from_secs(60);
const WRITERS: usize = 32;
const WRITES: usize = 12;
const VALUE_BYTES: usize = 60 * 1024;

#[test]
fn a_burst_of_large_writes_is_answered_and_followed_by_the_log() {
    let mut cluster = Cluster::running(1, 41);
    cluster.add_replica("replica", &["voter1"]);
    cluster.await_answer("replica", "/readyz", 200);
    let snapshots = "cinnabar_replica_snapshots_total{result=\"installed\"}";
    let before = cluster.metric("replica", snapshots).unwrap();
    let credentials = cluster.credentials("operator", "writer");
    let nodes = [cluster.node("voter1").advertise];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcomes = runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = Store::over_tls(&nodes, &credentials, BOUND);
            writers.spawn(async move {
                let mut outcomes = Vec::new();
                for write in 0..WRITES {
                    let value = Some(vec![u8::try_from(writer).unwrap(); VALUE_BYTES]);
                    let ask = Ask::Write { expected: None, value };
                    outcomes.push(store.ask(&format!("operator/{writer}/{write}"), &ask).await);
                }
                outcomes
            });
        }
        writers.join_all().await.concat()
    });
    assert_eq!(outcomes.len(), WRITERS * WRITES);
    for outcome in outcomes {
        assert!(matches!(outcome, Outcome::Written { .. }), "{outcome:?}");
    }
    let applied = |name: &str| cluster.status(name).ok()?["applied_index"].as_u64();
    eventually(NODE_MAX, "the replica has everything", || (applied("replica")? == applied("voter1")?).then_some(()));
    // It had the log all the time: a snapshot of everything in its place would do this at every burst.
    assert_eq!(cluster.metric("replica", snapshots).unwrap(), before);
}
