//! Edge nodes and terminators of a whole system: real processes over a real authority and a real store.

mod age;
mod attacks;
mod clock;
mod fork;
mod loss;
mod policies;
mod rig;
mod visits;

use rig::EdgeRig;

/// What the policy of [`visits`] lets hold a key, the nearest to `cdg` first.
const HOLDERS: [&str; 3] = ["ams", "fra", "mad"];

#[test]
fn every_data_centre_serves_and_only_the_right_ones_hold_the_key() {
    let mut rig = EdgeRig::running(91, &["fra", "ams", "mad", "cdg", "iad", "nrt"]);
    policies::agree(&rig);
    visits::complete(&rig);
    visits::resume(&rig);
    visits::follow_changes(&rig);
    loss::of_the_nearest(&mut rig);
    loss::of_the_core(&mut rig);
    age::of_what_was_said(&mut rig);
}

#[test]
fn what_the_authority_did_not_say_is_not_used() {
    let mut rig = EdgeRig::running(92, &["fra", "ams", "cdg"]);
    attacks::on_records(&mut rig);
    attacks::by_another_user(&rig);
    let old = fork::backup(&rig);
    attacks::by_a_revoked_machine(&rig);
    fork::to_a_fresh_edge(&mut rig, &old);
    attacks::on_a_stolen_folder(&mut rig);
}
