//! Attacks below the API: what an adversary computes who ignores every check that this crate's code makes before the
//! algebra. The access check is never the boundary, so none of these may open anything.
//!
//! `make test-planted` builds this file with a defect planted and succeeds only if the tests it names here turn red:
//! `and_share` -> `the_boneh_katz_wire_alone_opens_nothing`, `and_shares_are_never_the_parent_or_zero`,
//! `only_exactly_satisfying_wire_sets_open`, `random_policies_never_open_for_keys_that_do_not_satisfy`;
//! `id_check` -> `a_respelled_id_is_refused`.

mod common;

use std::collections::BTreeMap;

use cinnabar_abe::danger::{self, Circuit};
use cinnabar_abe::{AttributeKey, Attributes, Ciphertext, Error, Policy, PublicKey, SystemSecretKey, Verdict, setup};
use common::{Shake, below};

const SECRET: &[u8] = b"the plaintext that no attack may see";
/// Random policies that keys which do not satisfy them are thrown at.
const RANDOM_POLICIES: usize = 2_000;

struct Authority {
    public: PublicKey,
    secret: SystemSecretKey,
    rng: Shake,
}

impl Authority {
    fn new(seed: &str) -> Self {
        let mut rng = Shake::new(seed);
        let (public, secret) = setup(&mut rng).unwrap();
        Self { public, secret, rng }
    }

    fn key(&mut self, pairs: &[(&str, &str)]) -> AttributeKey {
        let attributes = Attributes::new(pairs.iter().copied()).unwrap();
        self.secret.keygen(&mut self.rng, &attributes).unwrap()
    }

    fn encrypt(&mut self, policy: &str) -> Ciphertext {
        self.public.encrypt(&mut self.rng, &Policy::parse(policy).unwrap(), SECRET).unwrap()
    }
}

fn must_not_open(result: Result<cinnabar_abe::SecretBytes, Error>, what: &str) {
    match result {
        Err(Error::Rejected) => {}
        other => panic!("{what}: {other:?}"),
    }
}

// === Wires ===

const POLICIES: [&str; 8] = [
    "a: 1 and b: 2",
    "a: 1 or b: 2",
    "a: 1 and not b: 3",
    "(a: 1 and b: 2) or c: 3",
    "a: 1 and (b: 2 or c: 3)",
    "(a: 1 or b: 2) and (c: 3 or d: 4)",
    "not (a: 2 and b: 3) and c: 3",
    "a: 1 and a: 2 and b: 2",
];

#[test]
fn the_boneh_katz_wire_alone_opens_nothing() {
    let mut authority = Authority::new("bk wire");
    let keys = [
        authority.key(&[]),
        authority.key(&[("a", "9")]),
        authority.key(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]),
    ];
    for policy in POLICIES {
        let ciphertext = authority.encrypt(policy);
        let boneh_katz = ciphertext.policy().conditions();
        for key in &keys {
            must_not_open(danger::open_with_wires(key, &ciphertext, &[boneh_katz]), policy);
            assert_ne!(key.audit(&ciphertext).unwrap(), Verdict::Defective, "{policy}");
        }
    }
}

#[test]
fn no_single_wire_opens_anything() {
    let mut authority = Authority::new("single wires");
    let key = authority.key(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
    for policy in POLICIES.into_iter().chain(["a: 1", "not a: 2"]) {
        let ciphertext = authority.encrypt(policy);
        for wire in 0..ciphertext.policy().conditions() {
            must_not_open(danger::open_with_wires(&key, &ciphertext, &[wire]), &format!("{policy}, wire {wire}"));
        }
    }
}

/// What a set of wires carries at a point of the circuit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    Nothing,
    Share,
    Rubbish,
}

/// Whether the algebra must open for exactly these wires, by reading the circuit and nothing of the implementation.
fn should_open(circuit: &Circuit, key: &[(&str, &str)], set: u32) -> bool {
    let inputs = circuit.wires.len();
    let key: BTreeMap<&str, &str> = key.iter().copied().collect();
    let mut wires = vec![Carries::Nothing; 2 * inputs - 1];
    for (i, (label, value, _, positive)) in circuit.wires.iter().enumerate() {
        if set & 1 << i != 0 {
            let satisfied = key.get(label.as_str()).is_some_and(|own| (own == value) == *positive);
            wires[i] = if satisfied { Carries::Share } else { Carries::Rubbish };
        }
    }
    let mut pending: Vec<_> = circuit.gates.clone();
    let mut known: Vec<bool> = (0..wires.len()).map(|wire| wire < inputs).collect();
    while !pending.is_empty() {
        pending.retain(|[class, in0, in1, out]| {
            let (in0, in1, out) = (usize::from(*in0), usize::from(*in1), usize::from(*out));
            if !(known[in0] && known[in1]) {
                return true;
            }
            wires[out] = match (class, wires[in0], wires[in1]) {
                (_, Carries::Nothing, Carries::Nothing) => Carries::Nothing,
                (0, Carries::Share, Carries::Share) => Carries::Share,
                (1, Carries::Share, Carries::Nothing) | (1, Carries::Nothing, Carries::Share) => Carries::Share,
                _ => Carries::Rubbish,
            };
            known[out] = true;
            false
        });
    }
    // The transform's wire is and-ed to the rest.
    set & 1 << inputs != 0 && wires[2 * inputs - 2] == Carries::Share
}

#[test]
fn only_exactly_satisfying_wire_sets_open() {
    let mut authority = Authority::new("subsets");
    let pairs: [&[(&str, &str)]; 3] =
        [&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")], &[("a", "1"), ("b", "3"), ("d", "4")], &[("c", "3")]];
    let keys: Vec<_> = pairs.iter().map(|pairs| authority.key(pairs)).collect();
    let (mut opened, mut refused) = (0, 0);
    for policy in POLICIES {
        let ciphertext = authority.encrypt(policy);
        let circuit = danger::circuit(ciphertext.policy()).unwrap();
        for (key, pairs) in keys.iter().zip(pairs) {
            // Wires without a key part drop out of a set, so sets that name them repeat others.
            let held = |wire: &usize| {
                circuit.wires.get(*wire).is_none_or(|(label, ..)| pairs.iter().any(|(own, _)| own == label))
            };
            for set in 0..1u32 << (circuit.wires.len() + 1) {
                let wires: Vec<usize> = (0..=circuit.wires.len()).filter(|wire| set & 1 << wire != 0).collect();
                if !wires.iter().all(held) {
                    continue;
                }
                let what = format!("{policy}, key {pairs:?}, wires {wires:?}");
                let result = danger::open_with_wires(key, &ciphertext, &wires);
                if should_open(&circuit, pairs, set) {
                    assert_eq!(result.expect(&what).expose(), SECRET, "{what}");
                    opened += 1;
                } else {
                    must_not_open(result, &what);
                    refused += 1;
                }
            }
        }
    }
    assert!(opened >= 10 && refused >= 200, "{opened} opened, {refused} refused: the test lost its cases");
}

// === Random policies ===

fn random_policy(rng: &mut Shake, depth: usize) -> String {
    let condition = |rng: &mut Shake| {
        let not = if below(rng, 4) == 0 { "not " } else { "" };
        format!("{not}{}: {}", ["a", "b", "c", "d"][below(rng, 4)], below(rng, 3))
    };
    if depth == 0 || below(rng, 3) == 0 {
        return condition(rng);
    }
    let operator = ["and", "and", "or"][below(rng, 3)];
    let not = if below(rng, 6) == 0 { "not " } else { "" };
    let (left, right) = (random_policy(rng, depth - 1), random_policy(rng, depth - 1));
    format!("{not}({left} {operator} {right})")
}

#[test]
fn random_policies_never_open_for_keys_that_do_not_satisfy() {
    let mut authority = Authority::new("random policies");
    let mut keys = Vec::new();
    for _ in 0..16 {
        let rng = &mut authority.rng;
        let mut pairs = Vec::new();
        for label in ["a", "b", "c", "d"] {
            if below(rng, 4) != 0 {
                pairs.push((label, ["0", "1", "2"][below(rng, 3)]));
            }
        }
        keys.push(authority.key(&pairs));
    }
    let (mut attacked, mut opened) = (0, 0);
    while attacked < RANDOM_POLICIES {
        let depth = 1 + below(&mut authority.rng, 2);
        let policy = random_policy(&mut authority.rng, depth);
        let ciphertext = authority.encrypt(&policy);
        let conditions = ciphertext.policy().conditions();
        let first = below(&mut authority.rng, keys.len());
        let (mut seen_refused, mut seen_opened) = (false, false);
        for key in keys.iter().cycle().skip(first).take(keys.len()) {
            if key.could_decrypt(&ciphertext) {
                if !seen_opened {
                    assert_eq!(key.decrypt(&ciphertext).unwrap().expose(), SECRET, "{policy}");
                    opened += 1;
                }
                seen_opened = true;
            } else if !seen_refused {
                seen_refused = true;
                attacked += 1;
                assert_eq!(key.decrypt(&ciphertext), Err(Error::NotSatisfied), "{policy}");
                let all: Vec<usize> = (0..=conditions).collect();
                must_not_open(danger::open_with_wires(key, &ciphertext, &all), &policy);
                must_not_open(danger::open_with_wires(key, &ciphertext, &[conditions]), &policy);
            }
        }
    }
    assert!(opened >= RANDOM_POLICIES / 4, "only {opened} policies opened for anybody: the test lost its contrast");
}

// === Collusion ===

#[test]
fn keys_put_together_open_nothing_that_none_opens() {
    let mut authority = Authority::new("collusion");
    for colluders in 2..=5 {
        let labels = &["a", "b", "c", "d", "e"][..colluders];
        let conditions: Vec<String> = labels.iter().map(|label| format!("{label}: 1")).collect();
        let ciphertext = authority.encrypt(&conditions.join(" and "));
        let keys: Vec<_> = labels.iter().map(|label| authority.key(&[(*label, "1")])).collect();
        for base in &keys {
            for boneh_katz in &keys {
                let mut wires: Vec<(usize, &AttributeKey)> = keys.iter().enumerate().collect();
                wires.push((colluders, boneh_katz));
                must_not_open(danger::open_mixed(base, &ciphertext, &wires), &format!("{colluders} colluders"));
            }
        }
        // The same attack with one key that satisfies opens: the attack itself works.
        let pairs: Vec<_> = labels.iter().map(|label| (*label, "1")).collect();
        let whole = authority.key(&pairs);
        let wires: Vec<_> = (0..=colluders).map(|wire| (wire, &whole)).collect();
        assert_eq!(danger::open_mixed(&whole, &ciphertext, &wires).unwrap().expose(), SECRET);
    }
}

#[test]
fn two_keys_of_one_machine_do_not_mix() {
    let mut authority = Authority::new("two keys");
    let (first, second) = (authority.key(&[("a", "1"), ("b", "1")]), authority.key(&[("a", "1"), ("b", "1")]));
    let ciphertext = authority.encrypt("a: 1 and b: 1");
    must_not_open(danger::open_mixed(&first, &ciphertext, &[(0, &first), (1, &second), (2, &first)]), "b of another");
    must_not_open(danger::open_mixed(&first, &ciphertext, &[(0, &first), (1, &first), (2, &second)]), "bk of another");
    must_not_open(
        danger::open_mixed(&second, &ciphertext, &[(0, &first), (1, &first), (2, &first)]),
        "base of another",
    );
}

// === Shares ===

#[test]
fn and_shares_are_never_the_parent_or_zero() {
    let mut rng = Shake::new("shares");
    let zero = [[0; 32]; 2];
    for policy in POLICIES.into_iter().chain(["a: 1", "not a: 1"]) {
        let gates = danger::and_shares(&Policy::parse(policy).unwrap(), &mut rng).unwrap();
        assert!(!gates.is_empty(), "{policy}: the transform's gate is an AND");
        for gate in gates {
            assert_ne!(gate.first, gate.second, "{policy}");
            for share in [gate.first, gate.second] {
                assert_ne!(share, gate.parent, "{policy}");
                assert_ne!(share, zero, "{policy}");
            }
        }
    }
}

// === Changed ciphertexts ===

/// r, big-endian.
const ORDER: [u8; 32] = [
    0x73, 0xed, 0xa7, 0x53, 0x29, 0x9d, 0x7d, 0x48, 0x33, 0x39, 0xd8, 0x08, 0x09, 0xa1, 0xd8, 0x05, 0x53, 0xbd, 0xa4,
    0x02, 0xff, 0xfe, 0x5b, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01,
];

/// Another 32-byte number that is the same mod r.
fn respell(id: &[u8]) -> Vec<u8> {
    let subtract = *id >= ORDER[..];
    let mut out = id.to_vec();
    let mut carry = 0;
    for (byte, order) in out.iter_mut().zip(ORDER).rev() {
        let order = if subtract { -i16::from(order) } else { i16::from(order) };
        let sum = i16::from(*byte) + order + carry;
        carry = sum.div_euclid(256);
        *byte = sum.rem_euclid(256) as u8;
    }
    assert_eq!(carry, 0, "every 32-byte number has another spelling");
    out
}

/// Where the id starts in the v1.3.8 framing: behind the magic and its length.
const ID_AT: usize = 8;

#[test]
fn a_respelled_id_is_refused() {
    let mut authority = Authority::new("ids");
    let key = authority.key(&[("a", "1")]);
    for policy in ["a: 1", "a: 1 or b: 1"] {
        let mut bytes = authority.encrypt(policy).as_bytes().to_vec();
        let respelled = respell(&bytes[ID_AT..ID_AT + 32]);
        bytes[ID_AT..ID_AT + 32].copy_from_slice(&respelled);
        must_not_open(key.decrypt(&Ciphertext::from_bytes(&bytes).unwrap()), policy);
    }
}

#[test]
fn parts_of_two_ciphertexts_do_not_mix() {
    let mut authority = Authority::new("swaps");
    let key = authority.key(&[("a", "1"), ("b", "1")]);
    let (one, two) = (authority.encrypt("a: 1 and b: 1"), authority.encrypt("a: 1 and b: 1"));
    let (one, two) = (one.as_bytes(), two.as_bytes());
    let length = one.len();
    assert_eq!(length, two.len());
    let header_at = ID_AT + 32 + 4 + 4;
    let header_bytes = u32::from_le_bytes(one[header_at - 4..header_at].try_into().unwrap()) as usize;
    let envelope_at = header_at + header_bytes + 4;
    let tag_at = length - 32;
    for (what, range) in [
        ("id", ID_AT..ID_AT + 32),
        ("header", header_at..header_at + header_bytes),
        ("envelope", envelope_at..envelope_at + 72 + SECRET.len()),
        ("tag", tag_at..length),
    ] {
        let mut mixed = one.to_vec();
        mixed[range.clone()].copy_from_slice(&two[range]);
        must_not_open(key.decrypt(&Ciphertext::from_bytes(&mixed).unwrap()), what);
    }
}

#[test]
fn a_policy_that_was_changed_in_the_header_opens_nothing() {
    let mut authority = Authority::new("policy swaps");
    let key = authority.key(&[("a", "1")]);
    for (policy, weaker) in [("a: 1 and b: 1", "a: 1 or b: 1"), ("a: 2 and a: 3", "a: 1 and a: 1")] {
        let ciphertext = authority.encrypt(policy);
        let encoded = |policy: &str| danger::circuit(&Policy::parse(policy).unwrap()).unwrap().encoded;
        let (from, to) = (encoded(policy), encoded(weaker));
        assert_eq!(from.len(), to.len());
        let mut bytes = ciphertext.as_bytes().to_vec();
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(&to);
        let changed = Ciphertext::from_bytes(&bytes).unwrap();
        assert!(key.could_decrypt(&changed), "the changed text satisfies");
        must_not_open(key.decrypt(&changed), policy);
        assert_eq!(key.decrypt(&ciphertext), Err(Error::NotSatisfied));
    }
}

#[test]
fn no_flipped_bit_is_accepted() {
    let mut authority = Authority::new("flips");
    let key = authority.key(&[("a", "1"), ("b", "2")]);
    let ciphertext = authority.encrypt("a: 1 and not b: 1");
    let bytes = ciphertext.as_bytes();
    let body_at = ID_AT + 32;
    let envelope_at = bytes.len() - 34 - 72 - SECRET.len();
    for at in (0..bytes.len()).filter(|at| *at < 160 || at % 7 == 0 || *at >= envelope_at) {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << below(&mut authority.rng, 8);
        let result = Ciphertext::from_bytes(&flipped).and_then(|changed| key.decrypt(&changed));
        assert!(result.is_err(), "byte {at}");
        // Id, envelope and tag reach the pairing: one error, whatever was changed.
        let opaque = (ID_AT..body_at).contains(&at) || (envelope_at..bytes.len() - 34).contains(&at);
        if opaque || at >= bytes.len() - 32 {
            assert_eq!(result, Err(Error::Rejected), "byte {at}");
        }
    }
}

#[test]
fn another_authoritys_key_gets_the_same_error_as_a_changed_tag() {
    let (mut authority, mut other) = (Authority::new("one"), Authority::new("other"));
    let ciphertext = authority.encrypt("a: 1");
    let (own, foreign) = (authority.key(&[("a", "1")]), other.key(&[("a", "1")]));
    let mut changed = ciphertext.as_bytes().to_vec();
    *changed.last_mut().unwrap() ^= 1;
    let wrong_tag = own.decrypt(&Ciphertext::from_bytes(&changed).unwrap()).unwrap_err();
    let wrong_key = foreign.decrypt(&ciphertext).unwrap_err();
    assert_eq!((wrong_tag.clone(), wrong_tag.to_string()), (wrong_key.clone(), wrong_key.to_string()));
    assert_eq!(wrong_tag, Error::Rejected);
}

// === What the shipped API refuses ===

#[test]
fn the_shipped_api_issues_no_wildcard_and_takes_no_reserved_label() {
    let mut authority = Authority::new("refusals");
    let reserved = "internal-boneh-katz-transform-attribute";
    assert!(matches!(Attributes::new([(reserved, "1")]), Err(Error::Attribute { .. })));
    assert!(Policy::parse(&format!("{reserved}: 1")).is_err());
    let wild = danger::attributes([], [b"country".as_slice()]);
    let refused = authority.secret.keygen(&mut authority.rng, &wild);
    assert!(matches!(refused, Err(Error::Attribute { label, .. }) if label == "country"));
    // A key read back with a wildcard tells so, and its attributes are not issued again.
    let key = danger::keygen(&authority.secret, &mut authority.rng, &wild).unwrap();
    let key = AttributeKey::from_bytes(key.to_bytes().expose()).unwrap();
    assert_eq!(key.attributes().wildcard_labels().collect::<Vec<_>>(), ["country"]);
    assert!(authority.secret.keygen(&mut authority.rng, key.attributes()).is_err());
}

// === Audit ===

#[test]
fn the_audit_tells_defective_from_sound() {
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{}/testdata/legacy.json", env!("CARGO_MANIFEST_DIR"))).unwrap())
            .unwrap();
    let field = |value: &serde_json::Value, name: &str| common::hex(value[name].as_str().unwrap());
    let mut verdicts = BTreeMap::new();
    for case in file["cases"].as_array().unwrap() {
        let ciphertext = Ciphertext::from_bytes(&field(case, "ciphertext")).unwrap();
        let defective = case["pre_v1_6_4_and_share_bug"] == true;
        for key in file["attribute_keys"].as_array().unwrap() {
            let key = AttributeKey::from_bytes(&field(key, "attribute_key")).unwrap();
            let single = ciphertext.policy().conditions() == 1;
            let expected = match (defective, single && !key.could_decrypt(&ciphertext)) {
                (_, true) => Verdict::CannotTell,
                (true, false) => Verdict::Defective,
                (false, false) => Verdict::Sound,
            };
            assert_eq!(key.audit(&ciphertext).unwrap(), expected, "{} {:?}", case["id"], key);
            if expected == Verdict::Defective {
                // Who reads it by the defect does not mind a wrong tag: neither must the audit.
                let mut changed = ciphertext.as_bytes().to_vec();
                *changed.last_mut().unwrap() ^= 1;
                let changed = Ciphertext::from_bytes(&changed).unwrap();
                assert_eq!(key.audit(&changed).unwrap(), Verdict::Defective, "{} {:?}", case["id"], key);
            }
            *verdicts.entry(expected.name()).or_insert(0) += 1;
        }
    }
    assert_eq!(verdicts.len(), 3, "{verdicts:?}");
    // With a key of another authority that satisfies, nothing can be said.
    let foreign = Authority::new("foreign").key(&[("country", "US"), ("dept", "eng")]);
    let sound = Ciphertext::from_bytes(&field(&file["cases"][1], "ciphertext")).unwrap();
    assert_eq!(foreign.audit(&sound).unwrap(), Verdict::CannotTell);
}
