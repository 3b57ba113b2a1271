//! A rolling restart, as an operator does it for a new version: no client notices.

use std::time::Duration;

use crate::harness::cluster::{Cluster, NODE_MAX};
use crate::harness::deadline::eventually;
use crate::harness::load::Mix;
use crate::harness::scale::{scale, seed};
use crate::run::{Run, tree};

/// Longest that a write may take with its retries.
const PATIENCE: Duration = Duration::from_secs(60);
/// Answered writes between two restarts.
const WRITES_BETWEEN: u64 = 20;

/// Stops a node in order, starts it, and waits as `docs/operations.md` says.
fn restart(run: &mut Run, name: &str) {
    assert_eq!(run.cluster.stop(name), Some(0), "{name} ends in order");
    run.load.await_writes(WRITES_BETWEEN);
    run.cluster.start(name);
    run.cluster.await_answer(name, "/readyz", 200);
    eventually(NODE_MAX, &format!("{name} has caught up"), || {
        (run.cluster.status(name).ok()?["behind_entries"].as_u64()? < 100).then_some(())
    });
    run.load.await_writes(WRITES_BETWEEN);
}

#[test]
fn a_rolling_restart_costs_no_client_a_write() {
    let (rounds, seed) = (scale("ROLLS", 1), seed(31));
    let mix = Mix { impatient: false, deadline: PATIENCE, clients: 8, ..Mix::SMALL };
    let mut run = Run::begin(tree(Cluster::new(3, seed)), mix, &["leaf"], seed);
    for _ in 0..rounds {
        let leader = run.cluster.await_leader(None);
        let mut order = run.cluster.names_of(true);
        order.sort_by_key(|name| *name == leader);
        order.extend(["relay".to_owned(), "leaf".to_owned()]);
        for name in order {
            restart(&mut run, &name);
        }
    }
    let judged = run.judge(&format!("{rounds} rolling restarts"));
    assert_eq!(judged.failed_writes(), 0, "a write failed");
}
