//! What goes on when something is gone: the nearest holder, then the whole core.

use std::time::Duration;

use cinnabar_edge_api::proto;

use super::HOLDERS;
use super::rig::EdgeRig;
use super::visits::HOST;
use crate::harness::deadline::eventually;

/// Handshakes at once after a loss, one after the other.
const AFTER_LOSS: usize = 20;
/// Longest until a data centre that came nearer is asked.
const MOVES_MAX: Duration = Duration::from_secs(10);
/// Longest until the one that is nearest is asked, after many starts on a busy machine.
const SETTLES_MAX: Duration = Duration::from_secs(30);

fn await_signed_by(rig: &EdgeRig, at: &str, by: &str, bound: Duration) {
    let edge = rig.edge(at);
    eventually(bound, &format!("{at} asks {by}"), || {
        let visit = rig.visitor().visit(HOST, edge.visitors).unwrap();
        (visit.center() == by).then_some(())
    });
}

/// The nearest holder is killed: no handshake that begins afterwards fails; and one that comes nearer is asked.
pub fn of_the_nearest(rig: &mut EdgeRig) {
    let [nearest, next, far] = HOLDERS;
    await_signed_by(rig, "cdg", nearest, SETTLES_MAX);
    rig.edge_mut(nearest).kill_9();
    for n in 0..AFTER_LOSS {
        for edge in rig.edges.iter().filter(|edge| edge.runs()) {
            let visit = rig.visitor().visit(HOST, edge.visitors);
            let visit = visit.unwrap_or_else(|error| panic!("handshake {n} at {}: {error}", edge.id));
            assert!(visit.center() == next || visit.center() == far, "{}: signed by {}", edge.id, visit.signed_by);
        }
    }
    await_signed_by(rig, "cdg", next, MOVES_MAX);
    let set = |round_trip_us| {
        let request = proto::SetDistanceRequest { data_center: far.to_owned(), round_trip_us };
        rig.edge("cdg").agent(|client| async move { client.agent().set_distance(request).await });
    };
    set(1_000);
    await_signed_by(rig, "cdg", far, MOVES_MAX);
    set(100_000);
    await_signed_by(rig, "cdg", next, MOVES_MAX);
}

/// Voters and authority are gone, and every data centre starts cold.
pub fn of_the_core(rig: &mut EdgeRig) {
    rig.rig.kill_9();
    for voter in rig.rig.cluster.names_of(true) {
        rig.rig.cluster.kill_9(&voter);
    }
    for edge in &mut rig.edges {
        if edge.runs() {
            edge.kill_9();
        }
        edge.launch();
    }
    for edge in &rig.edges {
        edge.await_ready();
        let visit = eventually(SETTLES_MAX, &format!("{} serves without a core", edge.id), || {
            rig.visitor().visit(HOST, edge.visitors).ok()
        });
        let home = HOLDERS.contains(&edge.id);
        assert!(!home || visit.center() == edge.id, "{}: signed by {}", edge.id, visit.signed_by);
        assert!(HOLDERS.contains(&visit.center()), "{}: signed by {}", edge.id, visit.signed_by);
    }
}
