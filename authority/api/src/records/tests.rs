//! Attacks on records: whatever is done to one, it is refused, and says why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use cinnabar_abe::signature::RecordSigningKey;
use cinnabar_daemon::id::ClusterId;

use super::*;
use crate::verify::{AnyContent, Checked, RecordError, Verifier};

/// The golden files' cluster and key: see `examples/golden_records.rs`.
fn cluster() -> ClusterId {
    "acme".parse().unwrap()
}

fn authority() -> RecordSigningKey {
    RecordSigningKey::from_bytes(&[7; 32])
}

fn verifier() -> Verifier {
    Verifier::new(cluster(), authority().verifying_key())
}

fn sign<T: Content>(content: T, previous: u64) -> Bytes {
    Signer { cluster: &cluster(), key: &authority() }.sign(content, previous, 1_800_000_000_000).unwrap()
}

fn golden(folder: &str) -> BTreeMap<String, (Vec<u8>, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(folder);
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut found = BTreeMap::new();
    for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "record")) {
        let text = fs::read_to_string(&path).unwrap();
        let (key, record) = text.split_once('\n').unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        found.insert(name, (key.as_bytes().to_vec(), hex::decode(record.trim_end()).unwrap()));
    }
    found
}

fn revoked() -> Revoked {
    Revoked { id: "fra-1".parse().unwrap(), at_ms: 1_800_000_000_000, reason: "lost".to_owned() }
}

fn machine(id: &str) -> Machine {
    Machine {
        id: id.parse().unwrap(),
        data_center: "fra".parse().unwrap(),
        issued: Vec::new(),
        address: String::new(),
        state: MachineState::Live,
    }
}

fn signed_again(found: &Checked<Option<AnyContent>>) -> Bytes {
    let (cluster, key) = (cluster(), authority());
    let signer = Signer { cluster: &cluster, key: &key };
    let (previous, time_ms) = (found.previous(), found.time_ms());
    macro_rules! again {
        ($($kind:ident),*) => {
            match (**found).clone() {
                $(Some(AnyContent::$kind(content)) => signer.sign(content, previous, time_ms),)*
                None => signer.sign_end::<Cert>(found.key().clone(), previous, time_ms),
            }
        };
    }
    again!(System, Schema, Zone, Policy, PolicyCiphertext, Cert, Secret, Sni, Machine, Revoked, Token, Head).unwrap()
}

#[test]
fn every_kind_has_a_golden_file_that_is_read_and_written_alike() {
    let mut kinds = BTreeSet::new();
    for (name, (key, record)) in golden("records") {
        let found = verifier().read_any(&key, &record).unwrap_or_else(|error| panic!("{name}: {error}"));
        kinds.insert(found.key().kind());
        assert_eq!(signed_again(&found), record, "{name}");
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), Kind::ALL);
}

#[test]
fn every_bad_golden_file_is_refused_for_its_reason() {
    let files = golden("records/bad");
    let mut reasons = BTreeSet::new();
    for (name, (key, record)) in &files {
        let (_, expected) = name.rsplit_once('.').unwrap();
        let refused = verifier().read_any(key, record).expect_err(name);
        assert_eq!(refused.reason(), expected, "{name}: {refused}");
        reasons.insert(refused.reason());
    }
    assert_eq!(reasons, RecordError::REASONS.into_iter().collect(), "a reason without a file");
}

#[test]
fn no_flipped_bit_and_no_cut_record_is_taken() {
    for (name, (key, record)) in golden("records") {
        // The large ones by samples, prime so that no field is passed over in step.
        let step = if record.len() > 4_000 { 97 } else { 1 };
        for at in (0..record.len()).step_by(step) {
            let mut flipped = record.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(verifier().read_any(&key, &flipped).is_err(), "{name} at {at}");
            assert!(verifier().read_any(&key, &record[..at]).is_err(), "{name} cut at {at}");
        }
        let longer = [&record[..], &[0]].concat();
        assert!(verifier().read_any(&key, &longer).is_err(), "{name} with one byte more");
    }
}

#[test]
fn a_set_in_another_order_is_no_record() {
    let (key, record) = golden("records").into_values().find(|(key, _)| key.starts_with(b"schema/")).unwrap();
    let mut body = record[..record.len() - cinnabar_abe::signature::SIGNATURE_BYTES].to_vec();
    // The first region of the default ones becomes one that belongs at their end.
    let at = body.windows(3).position(|word| word == b"AFR").unwrap();
    body[at..at + 3].copy_from_slice(b"ZZZ");
    let signed = [&body[..], &authority().sign(DOMAIN, &body).unwrap()].concat();
    let refused = verifier().read_any(&key, &signed).unwrap_err();
    assert_eq!(refused, RecordError::Content("it is not encoded as its value is".to_owned()));
}

#[test]
fn a_record_under_any_other_key_is_moved() {
    let files = golden("records");
    for (name, (key, _)) in &files {
        for (other, (_, record)) in files.iter().filter(|(_, (other, _))| other != key) {
            let refused = verifier().read_any(key, record).unwrap_err();
            assert!(["moved", "malformed"].contains(&refused.reason()), "{other} under {name}: {refused}");
        }
    }
    let two = [machine("fra-1"), machine("fra-2")].map(|content| (content.key().to_bytes(), sign(content, 0)));
    let refused = verifier().read::<Machine>(&two[0].0, &two[1].1).unwrap_err();
    assert_eq!(refused, RecordError::Moved("machine/fra-2".to_owned()));
}

#[test]
fn another_cluster_and_another_authority_mean_nothing() {
    let (key, record) = (revoked().key().to_bytes(), sign(revoked(), 0));
    verifier().read::<Revoked>(&key, &record).unwrap();
    let elsewhere = Verifier::new("other".parse().unwrap(), authority().verifying_key());
    assert_eq!(elsewhere.read::<Revoked>(&key, &record), Err(RecordError::Cluster(cluster())));
    let stranger = RecordSigningKey::from_bytes(&[8; 32]).verifying_key();
    assert_eq!(Verifier::new(cluster(), stranger).read::<Revoked>(&key, &record), Err(RecordError::Signature));
    // A signature of the same key over the same bytes in another domain.
    let body = &record[..record.len() - cinnabar_abe::signature::SIGNATURE_BYTES];
    let other = [body, &authority().sign("cinnabar head v1", body).unwrap()].concat();
    assert_eq!(verifier().read::<Revoked>(&key, &other), Err(RecordError::Signature));
}

#[test]
fn versions_follow_one_another() {
    let key = revoked().key().to_bytes();
    let version = |previous| verifier().read::<Revoked>(&key, &sign(revoked(), previous)).unwrap();
    let (first, second, fifth) = (version(0), version(1), version(4));
    assert_eq!((first.version(), second.version(), fifth.version()), (1, 2, 5));
    Verifier::follows(&first, 0, true).unwrap();
    Verifier::follows(&second, 1, true).unwrap();
    Verifier::follows(&fifth, 1, false).unwrap();
    for (record, known, gapless) in [(&first, 1, true), (&first, 1, false), (&fifth, 1, true), (&second, 5, false)] {
        assert!(matches!(Verifier::follows(record, known, gapless), Err(RecordError::Version { .. })));
    }
    let (cluster, authority) = (cluster(), authority());
    let body = Body {
        cluster: cluster.clone(),
        key: key.clone(),
        version: 7,
        previous: 5,
        time_ms: 0,
        content: Some(revoked()),
    };
    let bytes = codec::encode(FORMAT, &body);
    let record = [&bytes[..], &authority.sign(DOMAIN, &bytes).unwrap()].concat();
    assert!(matches!(verifier().read::<Revoked>(&key, &record), Err(RecordError::Version { version: 7, .. })));
}

#[test]
fn what_no_verifier_takes_is_not_signed() {
    let signer = |content: Machine| Signer { cluster: &cluster(), key: &authority() }.sign(content, 0, 0);
    let issued = |generation, attributes: &[(&str, &str)]| Issued {
        generation: crate::Generation(std::num::NonZeroU32::new(generation).unwrap()),
        attributes: attributes.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect(),
    };
    let with = |issued: Vec<Issued>| Machine { issued, ..machine("fra-1") };
    signer(with(vec![issued(1, &[("a", "1"), ("b", "1")])])).unwrap();
    for bad in [
        with(vec![issued(2, &[("a", "1")]), issued(1, &[("a", "1")])]),
        with(vec![issued(1, &[("b", "1"), ("a", "1")])]),
        with(vec![issued(1, &[("a", "1"), ("a", "2")])]),
        with(vec![issued(1, &[("a", "b c")])]),
        with(vec![issued(1, &[("not", "1")])]),
        with(vec![issued(1, &[])]),
        Machine { address: "a".repeat(257), ..machine("fra-1") },
    ] {
        assert!(matches!(signer(bad.clone()), Err(SignError::Content { .. })), "{bad:?}");
    }
    let (cluster, key) = (cluster(), authority());
    let signer = Signer { cluster: &cluster, key: &key };
    let revoked_key = revoked().key();
    assert!(signer.sign_end::<Revoked>(revoked_key.clone(), 1, 0).is_err(), "nothing revoked comes back");
    assert!(signer.sign_end::<Machine>(revoked_key, 1, 0).is_err(), "a key of another kind");
    assert!(signer.sign_end::<Machine>(machine("fra-1").key(), 0, 0).is_err(), "nothing was there");
    let end = signer.sign_end::<Machine>(machine("fra-1").key(), 3, 0).unwrap();
    let read = verifier().read::<Machine>(&machine("fra-1").key().to_bytes(), &end).unwrap();
    assert!(read.is_none() && read.version() == 4);
}

#[test]
fn zones_hold_domains_apart() {
    let zone = |domains: &[&str]| Zone {
        id: "acme".parse().unwrap(),
        domains: domains.iter().map(|domain| domain.parse().unwrap()).collect(),
        limits: ZoneLimits { data_centers_min: 3, keys_max: 10, changes_per_minute: 60 },
    };
    zone(&["shop.example", "example.org"]).check(&cluster()).unwrap();
    for bad in [&["shop.example", "www.shop.example"][..], &["shop.example", "shop.example"], &["*.shop.example"], &[]]
    {
        assert!(zone(bad).check(&cluster()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_record_claims_the_version_that_it_has_and_bytes_that_are_none_claim_nothing() {
    for previous in [0, 6, u64::MAX - 1] {
        assert_eq!(Verifier::claimed_version(&sign(machine("fra-1"), previous)), Ok(previous + 1));
    }
    let record = sign(revoked(), 0);
    for length in [0, 1, 8, 20] {
        assert!(Verifier::claimed_version(&record[..length]).is_err(), "{length} bytes");
    }
    let found = verifier().read_any(b"machine/fra-1", &sign(machine("fra-1"), 0)).unwrap().live().unwrap();
    assert_eq!(*found.machine().unwrap(), machine("fra-1"));
    let other = verifier().read_any(b"revoked/fra-1", &record).unwrap().live().unwrap();
    assert!(other.machine().is_none());
}
