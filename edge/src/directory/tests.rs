//! What becomes of a store that lies: each attack on one name ends that name and no other.

use cinnabar_authority_api::records::{Machine, Mode, Sni};
use cinnabar_authority_api::{Hostname, RecordKey};

use super::*;
use crate::fixture::{NOW_MS, World};

fn name(text: &str) -> Hostname {
    text.parse().unwrap()
}

/// A world with two served names under `country: DE`, covered.
fn served() -> (World, [Cert; 2]) {
    let mut world = World::new(Mode::Production);
    let policy = world.policy("country: DE");
    let certs = [world.cert("a.example", 1, &policy), world.cert("*.b.example", 2, &policy)];
    certs.iter().for_each(|cert| world.serve(cert));
    world.store.cover();
    (world, certs)
}

fn usable(directory: &Directory, hostname: &str) -> Result<Hostname, Unusable> {
    directory.serving(&name(hostname)).map(|found| found[0].0.clone())
}

fn reason(directory: &Directory, hostname: &str) -> &'static str {
    usable(directory, hostname).unwrap_err().reason()
}

#[test]
fn names_are_found_exactly_or_by_their_wildcard() {
    let (world, certs) = served();
    let directory = world.store.directory(None);
    assert_eq!(usable(&directory, "a.example").unwrap(), name("a.example"));
    assert_eq!(usable(&directory, "www.b.example").unwrap(), name("*.b.example"));
    assert_eq!(usable(&directory, "b.example"), Err(Unusable::Unknown));
    assert_eq!(usable(&directory, "x.www.b.example"), Err(Unusable::Unknown), "a wildcard is one label");
    let view = directory.cert(&certs[0].zone, &certs[0].id).unwrap();
    assert_eq!(*view.cert, certs[0]);
    assert!(Arc::ptr_eq(&view, &directory.cert(&certs[0].zone, &certs[0].id).unwrap()), "verified once");
}

#[test]
fn holders_are_live_machines_that_satisfy_and_are_not_revoked() {
    let (mut world, certs) = served();
    let directory = world.store.directory(None);
    let view = directory.cert(&certs[0].zone, &certs[0].id).unwrap();
    let holders = directory.holders(&view);
    assert_eq!(holders.data_centers.len(), 1);
    assert_eq!(holders.data_centers[&"fra".parse().unwrap()][0].address, "fra-1.example:7000");
    assert!(Arc::ptr_eq(&holders, &directory.holders(&view)), "worked out once");
    assert_eq!(directory.all_peers().data_centers.len(), 2);
    world.machine("muc-1", "muc", "DE");
    world.revoke("fra-1");
    directory.catch_up();
    assert_eq!(directory.holders(&view).data_centers.keys().map(ToString::to_string).collect::<Vec<_>>(), ["muc"]);
    let revoked = "fra-1".parse().unwrap();
    assert!(directory.is_revoked(&revoked) && directory.machine(&revoked).is_none());
    // Nobody comes back because the store forgets.
    world.store.delete_raw(&RecordKey::Revoked(revoked.clone()));
    directory.catch_up();
    assert!(directory.is_revoked(&revoked));
    world.store.end::<Machine>(RecordKey::Machine("muc-1".parse().unwrap()));
    directory.catch_up();
    assert!(directory.holders(&view).data_centers.is_empty());
}

#[test]
fn a_change_takes_effect_and_an_old_record_is_not_believed_again() {
    let (mut world, certs) = served();
    let directory = world.store.directory(None);
    usable(&directory, "a.example").unwrap();
    let (zone, id) = (&certs[0].zone, &certs[0].id);
    let old = world.store.local.get(&certs[0].key().to_bytes()).unwrap().record.unwrap().value;
    let replaced = Cert { created_ms: NOW_MS + 1, ..certs[0].clone() };
    world.store.put(replaced.clone());
    directory.catch_up();
    assert_eq!(*directory.cert(zone, id).unwrap().cert, replaced);
    world.store.put_raw(&certs[0].key().to_bytes(), old);
    directory.catch_up();
    assert_eq!(reason(&directory, "a.example"), "version");
    assert_eq!(directory.refused(), 1);
    usable(&directory, "www.b.example").unwrap();
    // What the authority says next is newer than all that was seen.
    world.store.put(Cert { created_ms: NOW_MS + 2, ..certs[0].clone() });
    directory.catch_up();
    assert_eq!(directory.cert(zone, id).unwrap().cert.created_ms, NOW_MS + 2);
    assert_eq!(directory.refused(), 0);
}

#[test]
fn an_old_record_is_noticed_although_nobody_had_asked_for_the_newer_one() {
    let (mut world, certs) = served();
    let old = world.store.local.get(&certs[0].key().to_bytes()).unwrap().record.unwrap().value;
    world.store.put(Cert { created_ms: NOW_MS + 1, ..certs[0].clone() });
    let directory = world.store.directory(None);
    world.store.put_raw(&certs[0].key().to_bytes(), old);
    directory.catch_up();
    assert_eq!(reason(&directory, "a.example"), "version");
}

#[test]
fn a_missed_version_a_forgery_a_moved_record_and_a_deletion_each_end_their_name() {
    let (mut world, certs) = served();
    let directory = world.store.directory(None);
    let key = certs[0].key().to_bytes();
    let gap = world.store.sign_as(certs[0].clone(), 5);
    let good = world.store.local.get(&key).unwrap().record.unwrap().value;
    let mut forged = good.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let other = world.store.local.get(&certs[1].key().to_bytes()).unwrap().record.unwrap().value;
    for (record, why) in [(gap, "version"), (forged.into(), "signature"), (other, "moved")] {
        world.store.put_raw(&key, record);
        directory.catch_up();
        assert_eq!(reason(&directory, "a.example"), why);
        usable(&directory, "www.b.example").unwrap();
        // Nor does the last good one come back.
        world.store.put_raw(&key, good.clone());
        directory.catch_up();
        assert_eq!(reason(&directory, "a.example"), "version");
    }
    world.store.delete_raw(&certs[1].key());
    directory.catch_up();
    assert_eq!(usable(&directory, "www.b.example"), Err(Unusable::Deleted));
}

#[test]
fn a_name_that_was_ended_stays_ended_and_a_dropped_tombstone_brings_nothing_back() {
    let (mut world, _) = served();
    let directory = world.store.directory(None);
    let key = RecordKey::Sni(name("a.example"));
    let old = world.store.local.get(&key.to_bytes()).unwrap().record.unwrap().value;
    world.store.end::<Sni>(key.clone());
    directory.catch_up();
    assert_eq!(usable(&directory, "a.example"), Err(Unusable::Ended));
    world.store.delete_raw(&key);
    world.store.put_raw(&key.to_bytes(), old);
    directory.catch_up();
    assert_eq!(reason(&directory, "a.example"), "version");
}

#[test]
fn a_record_that_was_forged_before_the_start_ends_its_name_alone() {
    let (mut world, certs) = served();
    let policy = world.policy("country: US");
    let fresh = world.cert("c.example", 3, &policy);
    let mut forged = world.store.sign_as(fresh.clone(), 1_000_000).to_vec();
    *forged.last_mut().unwrap() ^= 1;
    world.store.put_raw(&fresh.key().to_bytes(), forged);
    let directory = world.store.directory(None);
    assert_eq!(directory.cert(&fresh.zone, &fresh.id).unwrap_err().reason(), "signature");
    assert_eq!(directory.refused(), 1);
    directory.cert(&certs[0].zone, &certs[0].id).unwrap();
    // A number that only a forgery claimed does not shut the name for good.
    world.store.put(fresh.clone());
    directory.catch_up();
    directory.cert(&fresh.zone, &fresh.id).unwrap();
}

#[test]
fn a_refusal_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let (mut world, certs) = served();
    let key = certs[0].key().to_bytes();
    let old = world.store.local.get(&key).unwrap().record.unwrap().value;
    world.store.put(Cert { created_ms: NOW_MS + 1, ..certs[0].clone() });
    let directory = world.store.directory(Some(folder.path()));
    usable(&directory, "a.example").unwrap();
    world.store.put_raw(&key, old);
    directory.catch_up();
    drop(directory);
    // To a process that knew nothing, the old record would be as good as any.
    usable(&world.store.directory(None), "a.example").unwrap();
    let directory = world.store.directory(Some(folder.path()));
    assert_eq!(reason(&directory, "a.example"), "version");
    world.store.put(Cert { created_ms: NOW_MS + 2, ..certs[0].clone() });
    directory.catch_up();
    usable(&directory, "a.example").unwrap();
}

#[test]
fn nothing_is_used_before_a_head_covers_the_copy() {
    let mut world = World::new(Mode::Production);
    let policy = world.policy("country: DE");
    let cert = world.cert("a.example", 1, &policy);
    world.serve(&cert);
    let folder = tempfile::tempdir().unwrap();
    let directory = world.store.directory(Some(folder.path()));
    assert_eq!(usable(&directory, "a.example"), Err(Unusable::NotCovered));
    assert!(!directory.trust().may_sign_local());
    // A head of which this copy's log knows nothing says nothing of it.
    world.store.cover();
    let known = std::mem::take(&mut *world.store.chain.lock());
    directory.catch_up();
    assert_eq!(usable(&directory, "a.example"), Err(Unusable::NotCovered));
    world.store.chain.lock().extend(known);
    directory.catch_up();
    usable(&directory, "a.example").unwrap();
    // Once covered, a start with a log that begins later goes on.
    world.store.local.make_durable().unwrap();
    directory.catch_up();
    world.store.chain.lock().clear();
    let directory = world.store.directory(Some(folder.path()));
    usable(&directory, "a.example").unwrap();
}

#[test]
fn a_head_over_another_history_ends_everything() {
    let (mut world, _) = served();
    let folder = tempfile::tempdir().unwrap();
    let directory = world.store.directory(Some(folder.path()));
    usable(&directory, "a.example").unwrap();
    world.store.clock.0.fetch_add(1, Ordering::Relaxed);
    let mut head = world.store.head();
    head.chain_head[0] ^= 1;
    world.store.put(head);
    directory.catch_up();
    assert_eq!(usable(&directory, "a.example"), Err(Unusable::Forked));
    assert!(directory.trust().forked && !directory.trust().may_sign_local());
    // Neither a good head nor a restart mends it: the histories differ.
    world.store.cover();
    directory.catch_up();
    assert_eq!(usable(&directory, "a.example"), Err(Unusable::Forked));
}

#[test]
fn a_lower_head_is_refused_and_so_is_one_after_a_restart() {
    let (mut world, _) = served();
    let folder = tempfile::tempdir().unwrap();
    let directory = world.store.directory(Some(folder.path()));
    world.store.clock.0.fetch_add(20_000, Ordering::Relaxed);
    let mut lower = world.store.head();
    lower.time_ms = NOW_MS;
    world.store.put(lower.clone());
    directory.catch_up();
    assert_eq!(directory.trust().head_age_ms, 20_000, "the highest head is the one that counts");
    assert_eq!(directory.refused(), 1);
    usable(&directory, "a.example").unwrap();
    world.store.local.make_durable().unwrap();
    directory.catch_up();
    drop(directory);
    let directory = world.store.directory(Some(folder.path()));
    assert_eq!(directory.trust().head_age_ms, 20_000);
    world.store.cover();
    directory.catch_up();
    assert_eq!((directory.trust().head_age_ms, directory.refused()), (0, 0));
}

#[test]
fn the_table_of_staleness_holds() {
    let (world, _) = served();
    let directory = world.store.directory(None);
    let limits = Staleness { head_max_ms: 3 * 86_400_000, remote_stale_max_ms: 12 * 3_600_000 };
    let after = |head: u64, checkpoint: u64| {
        let at = NOW_MS + 1 + head;
        world.store.clock.0.store(at, Ordering::Relaxed);
        world.store.local.note_checkpoint(at - checkpoint, 0);
        let trust = directory.trust();
        (trust.may_sign_local(), trust.may_sign_for_others(&limits), trust.word(), trust.alarms(&limits).len())
    };
    assert_eq!(after(0, 0), (true, true, "ready", 0));
    assert_eq!(after(6 * 60_000, 0), (true, true, "ready", 1));
    assert_eq!(after(3 * 86_400_000, 0), (true, true, "ready", 1));
    assert_eq!(after(3 * 86_400_000 + 1, 0), (true, false, "ready", 2));
}

#[test]
fn a_copy_cut_off_from_the_store_signs_for_itself_and_in_the_end_for_itself_alone() {
    let (mut world, _) = served();
    let directory = world.store.directory(None);
    let limits = Staleness { head_max_ms: u64::MAX, remote_stale_max_ms: 12 * 3_600_000 };
    world.store.local.note_checkpoint(NOW_MS, 0);
    for (age, others) in [(12 * 3_600_000, true), (12 * 3_600_000 + 1, false)] {
        world.store.clock.0.store(NOW_MS + age, Ordering::Relaxed);
        let trust = directory.trust();
        assert_eq!((trust.may_sign_local(), trust.may_sign_for_others(&limits)), (true, others), "{age}");
        assert_eq!(trust.word(), "stale");
    }
    world.store.cover();
}

#[test]
fn a_generation_that_went_back_shuts_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (mut world, _) = served();
    let mut fresh = world.store.local.get(b"system/0000000001").unwrap().record.unwrap().value;
    fresh =
        world.store.verifier().read::<System>(b"system/0000000001", &fresh).unwrap().live().unwrap().public_key.clone();
    let mode = Mode::Production;
    let second = System { generation: crate::fixture::generation(2), public_key: fresh, state: State::Active, mode };
    world.store.put(second);
    let directory = world.store.directory(Some(folder.path()));
    usable(&directory, "a.example").unwrap();
    assert_eq!(directory.trust().generation, 2);
    world.store.delete_raw(&RecordKey::System(crate::fixture::generation(2)));
    directory.catch_up();
    assert_eq!(usable(&directory, "a.example"), Err(Unusable::NotCovered));
    world.store.local.make_durable().unwrap();
    directory.catch_up();
    assert_eq!(usable(&world.store.directory(Some(folder.path())), "a.example"), Err(Unusable::NotCovered));
}

#[test]
fn changes_that_were_missed_are_read_again_and_what_vanished_is_refused() {
    let (mut world, certs) = served();
    let directory = world.store.directory(None);
    usable(&directory, "a.example").unwrap();
    let old = world.store.local.get(&certs[0].key().to_bytes()).unwrap().record.unwrap().value;
    world.store.put(Cert { created_ms: NOW_MS + 1, ..certs[0].clone() });
    directory.catch_up();
    world.store.put_raw(&certs[0].key().to_bytes(), old);
    world.store.delete_raw(&certs[1].key());
    // As after a snapshot: the ring begins behind the changes.
    world.store.local.changes().restart(world.store.local.applied_index());
    directory.catch_up();
    assert_eq!(reason(&directory, "a.example"), "version");
    assert_eq!(usable(&directory, "www.b.example"), Err(Unusable::Deleted));
}
