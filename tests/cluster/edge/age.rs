//! Days without the authority: what goes on by the age of its word, and by the age of the store's.
//!
//! The authority is dead for all of it. Two ages decide (docs/edge.md has the table): that of the newest head, which only
//! the authority signs, and that of the newest checkpoint, which voters sign. So the edge nodes' clocks alone are moved
//! first, where voters are dead too: the copy is cut off, and two days are more than the twelve hours that it may then
//! sign for others. Voters that come back must live in the same time as the edge nodes, or what they sign would stay two
//! days old: they are started with their clocks moved as far, and then the head's age alone is left, two days of three.
//! In place of two more days, which would end certificates of seven as well, the third start allows less than two.

use std::fs;
use std::time::Duration;

use cinnabar_edge_api::proto::StatusResponse;

use super::clock::ahead;
use super::rig::{EdgeRig, READY_MAX};
use super::visits::HOST;
use crate::harness::deadline::eventually;

/// How far the clocks are ahead.
const MOVED: Duration = Duration::from_secs(2 * 86_400);
/// `head_max` of the last start: less than the age of the newest head.
const HEAD_MAX_BELOW: &str = "[staleness]\nhead_max = \"47h\"\n";
/// The data centre that holds the key, and one that may not.
const HOLDER: &str = "fra";
const ASKER: &str = "cdg";

/// Waits until the holder describes itself so, in a word and with these alarms; it is ready all the same.
fn holder_says(rig: &EdgeRig, health: &str, alarms: &[&str]) {
    let holder = rig.edge(HOLDER);
    let mut last = StatusResponse::default();
    eventually(READY_MAX, &format!("{HOLDER} is {health} with {alarms:?}"), || {
        last = holder.status();
        (last.health == health && last.alarms == alarms).then_some(())
    });
    let age = Duration::from_millis(last.head_age_ms);
    assert!((MOVED..MOVED + READY_MAX * 10).contains(&age), "{last:?}");
    let said = holder.readiness().unwrap();
    assert_eq!(said.status, 200, "{}", said.body);
    alarms.iter().for_each(|alarm| assert!(said.body.contains(alarm), "{}", said.body));
}

fn holder_serves(rig: &EdgeRig) {
    let visit = rig.visitor().visit(HOST, rig.edge(HOLDER).visitors).unwrap();
    assert_eq!(visit.center(), HOLDER);
}

/// The holder refuses a signature for another, and says why.
fn asker_is_refused(rig: &EdgeRig, why: &str) {
    let (asker, message) = (rig.edge(ASKER), rig.rig.folder.join("aged"));
    fs::write(&message, "message").unwrap();
    let refused = eventually(READY_MAX, &format!("{ASKER} is refused"), || {
        let sign = ["sign", HOST, "--scheme", "ecdsa_secp256r1_sha256", "--in", message.to_str().unwrap()];
        asker.ask(&sign).err().filter(|refused| refused.told.contains(why))
    });
    assert!(rig.visitor().visit(HOST, asker.visitors).unwrap_err().contains("alert"), "{refused:?}");
}

const AWAY: &str = "the authority is away: its newest head is old";
const CUT_OFF: &str = "this machine is cut off from the store";
const ENDED: &str = "too long cut off: nothing is signed for others";

/// Voters and authority are dead when it begins.
pub fn of_what_was_said(rig: &mut EdgeRig) {
    rig.edges.iter_mut().filter(|edge| edge.runs()).for_each(super::rig::Edge::kill_9);
    for id in [HOLDER, ASKER] {
        rig.edge_mut(id).change_node(|program| ahead(program, MOVED));
        rig.edge_mut(id).launch();
    }
    [HOLDER, ASKER].iter().for_each(|id| rig.edge(id).await_ready());
    holder_says(rig, "stale", &[AWAY, CUT_OFF, ENDED]);
    holder_serves(rig);
    asker_is_refused(rig, "stale");

    for voter in rig.rig.cluster.names_of(true) {
        rig.rig.cluster.change_program(&voter, |program| ahead(program, MOVED));
    }
    rig.rig.cluster.start_all();
    holder_says(rig, "ready", &[AWAY]);
    holder_serves(rig);
    let visit = eventually(READY_MAX, &format!("{ASKER} is served"), || {
        rig.visitor().visit(HOST, rig.edge(ASKER).visitors).ok()
    });
    assert_eq!(visit.center(), HOLDER);

    rig.edge_mut(HOLDER).kill_9();
    let file = rig.edge(HOLDER).dir.join("edge.toml");
    fs::write(&file, fs::read_to_string(&file).unwrap() + HEAD_MAX_BELOW).unwrap();
    rig.edge_mut(HOLDER).launch();
    rig.edge(HOLDER).await_ready();
    holder_says(rig, "ready", &[AWAY, ENDED]);
    holder_serves(rig);
    asker_is_refused(rig, "stale");
}
