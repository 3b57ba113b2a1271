//! A history that the authority never signed, told to a machine that knows no other.
//!
//! Whoever holds a voter's key can do this: restores an old backup as a store of its own, which every certificate of the
//! cluster fits, and goes on from there without what he wants nobody to know, here a revocation. Every record in it is the
//! authority's own, its newest head too; only the head over them is of another history.

use std::fs;
use std::path::{Path, PathBuf};

use cinnabar_authority_api::RecordKey;
use cinnabar_authority_api::records::Head;

use super::attacks::{Forger, SOUND, copied};
use super::rig::{Edge, EdgeRig, READY_MAX};
use super::visits::POLICY;
use crate::harness::deadline::eventually;
use crate::harness::http::Answer;

/// The machine's data centre: by the policy it may hold the key of [`SOUND`].
const FRESH: &str = "mad";
/// The forged store's only voter.
const FORK: &str = "fork";
/// What readiness says while no head covers the copy.
const NOT_COVERED: &str = "[-]records no signed head covers the copy yet: nothing is used";
/// What it says once one contradicts it.
const FORKED: &str = "[-]records the authority signed another history than this copy of the store has: nothing is used";

/// A backup of the store as it is.
pub fn backup(rig: &EdgeRig) -> PathBuf {
    let path = rig.rig.folder.join("old.backup");
    rig.rig.cluster.operate("voter1", ["kv", "backup", "--out", path.to_str().unwrap()]).unwrap();
    path
}

fn applied(rig: &EdgeRig, node: &str) -> u64 {
    rig.rig.cluster.status(node).unwrap()["applied_index"].as_u64().unwrap()
}

/// The authority's newest head, as it lies in the store, once it is past an index.
fn head_past(rig: &EdgeRig, index: u64) -> (Vec<u8>, u64) {
    let verifier = rig.edge("fra").verifier();
    eventually(READY_MAX, &format!("a head past entry {index}"), || {
        let record = rig.rig.record("head")?;
        let head = verifier.read::<Head>(&RecordKey::Head.to_bytes(), &record).unwrap().live()?;
        (head.index > index).then(|| (record, head.index))
    })
}

/// Waits until readiness refuses with this line, over a copy that has at least this entry; nothing is served then, and
/// nothing changes by itself.
fn uses_nothing(rig: &EdgeRig, edge: &Edge, index: u64, why: &str) {
    let refuses = || {
        let Answer { status, body } = edge.readiness()?;
        let applied = |line: &str| line.strip_prefix("[+]store ok: at entry ")?.parse::<u64>().ok();
        let copied = body.lines().filter_map(applied).any(|at| at >= index);
        // The whole line: while the copy has just come, the machine calls itself cut off, too.
        (status == 503 && copied && body.lines().any(|line| line == why)).then_some(())
    };
    eventually(READY_MAX, &format!("{}: {why}", edge.id), refuses);
    let refused = rig.visitor().visit(SOUND, edge.visitors).unwrap_err();
    assert!(refused.contains("alert"), "{refused}");
    assert_eq!(edge.terminator_readiness().unwrap().status, 503, "nobody gives the terminator certificates");
    assert!(refuses().is_some(), "{:?}", edge.readiness());
}

/// A machine whose folder is empty follows the fork: it has every record of it, and uses none.
pub fn to_a_fresh_edge(rig: &mut EdgeRig, old: &Path) {
    let voters = rig.rig.cluster.voter_addresses();
    rig.rig.cluster.add_restored(FORK, old);
    eventually(READY_MAX, "the fork has a leader", || rig.rig.cluster.leads(FORK).then_some(()));
    // What the fork does not know: the revocation, and this.
    for host in ["later.shop.example", "latest.shop.example"] {
        rig.upload(host, &[host], false, POLICY);
    }
    let (head, covers) = head_past(rig, applied(rig, "voter1") - 1);
    let at = rig.rig.cluster.node(FORK).advertise;
    Forger::new(rig, "trudy", &[at]).put("head", &head);
    assert!(covers > applied(rig, FORK), "the fork is still shorter than what the head is over");

    rig.join(FRESH, &[at]);
    let edge = rig.edge(FRESH);
    let (data, as_enrolled) = (edge.dir.join("data"), rig.rig.folder.join("as-enrolled"));
    copied(&data, &as_enrolled);
    rig.edge_mut(FRESH).launch();
    uses_nothing(rig, rig.edge(FRESH), applied(rig, FORK), NOT_COVERED);

    // The fork grows past what the head is over, so that its log can be held against it.
    while applied(rig, FORK) <= covers {
        rig.rig.cluster.operate(FORK, ["kv", "put", "operator/more", "x"]).unwrap();
    }
    uses_nothing(rig, rig.edge(FRESH), covers, FORKED);

    // It was the history alone: the same machine over the authority's own is of use.
    rig.edge_mut(FRESH).kill_9();
    fs::remove_dir_all(&data).unwrap();
    copied(&as_enrolled, &data);
    let config = rig.edge(FRESH).dir.join("edge.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(&at.to_string(), &voters[0].to_string())).unwrap();
    rig.edge_mut(FRESH).launch();
    rig.edge(FRESH).await_ready();
    eventually(READY_MAX, "it signs itself", || {
        let visit = rig.visitor().visit(SOUND, rig.edge(FRESH).visitors).ok()?;
        (visit.center() == FRESH).then_some(())
    });
}
