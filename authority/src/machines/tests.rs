//! Machines: what each is given, what each could open, and that nobody is given more.

mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::OnceLock;

use cinnabar_abe::envelope::{PolicySecretKey, wrap};
use cinnabar_abe::signature::RecordSigningKey;
use cinnabar_abe::{AttributeKey, Attributes, Policy, PolicyId, PublicKey, SystemSecretKey, danger, setup};
use cinnabar_authority_api::compile::{Compiled, Vocabulary, compile};
use cinnabar_authority_api::records::{
    Cert, Content, Issued, KeyType, Mode, PolicyIdField, PolicyRecord, PolicyRef, SchemaRecord, Secret, Signer, State,
    System, Zone, ZoneLimits,
};
use cinnabar_authority_api::{Generation, PolicyKeyVersion, Schema, SchemaVersion, Verifier, ZoneId};
use cinnabar_daemon::env::SystemRng;
use proptest::prelude::*;

use super::*;
use crate::preview::{RoundTrips, live_sets, preview};

const NOW: u64 = 1_800_000_000_000;
const SCHEMA: &str = "[labels.standard]\nmembers = [\"pci\"]\n";
/// Data centre, country, region, tier.
const CENTERS: [(&str, &str, &str, &str); 6] = [
    ("fra", "DE", "WEUR", "highest"),
    ("ams", "NL", "WEUR", "standard"),
    ("zrh", "CH", "WEUR", "highest"),
    ("iad", "US", "ENAM", "standard"),
    ("led", "RU", "EEUR", "standard"),
    ("svo", "RU", "EEUR", "highest"),
];
const WORDS: [&str; 9] = [
    "country: DE",
    "country: US",
    "country: RU",
    "region: EU",
    "region: WEUR",
    "region: EEUR",
    "tier: highest",
    "dc: zrh",
    "standard: pci",
];

fn cluster() -> ClusterId {
    "prod".parse().unwrap()
}

fn signing_key() -> RecordSigningKey {
    RecordSigningKey::from_bytes(&[7; 32])
}

fn system() -> &'static (PublicKey, SystemSecretKey) {
    static SYSTEM: OnceLock<(PublicKey, SystemSecretKey)> = OnceLock::new();
    SYSTEM.get_or_init(|| setup(&mut generator(&SystemRng).unwrap()).unwrap())
}

fn id(name: &str) -> MachineId {
    name.parse().unwrap()
}

fn dc(name: &str) -> DataCenterId {
    name.parse().unwrap()
}

fn zone() -> ZoneId {
    "acme".parse().unwrap()
}

fn generation(number: u32) -> Generation {
    Generation(NonZeroU32::new(number).unwrap())
}

/// Two machines in each data centre; the second ones of `fra` and `iad` meet a standard.
fn inventory_text() -> String {
    let mut text = String::new();
    for (name, country, region, tier) in CENTERS {
        text.push_str(&format!(
            "[[data_center]]\nid = \"{name}\"\ncountry = \"{country}\"\n\
             attributes = {{ region = [\"{region}\"], tier = \"{tier}\" }}\n"
        ));
    }
    for (name, ..) in CENTERS {
        text.push_str(&format!("[[machine]]\nid = \"{name}-1\"\ndata_center = \"{name}\"\n"));
        text.push_str(&format!("[[machine]]\nid = \"{name}-2\"\ndata_center = \"{name}\"\n"));
        if ["fra", "iad"].contains(&name) {
            text.push_str("attributes = { standard = [\"pci\"] }\n");
        }
    }
    text
}

struct Fixture {
    cluster: ClusterId,
    directory: Directory,
    inventory: Inventory,
    index: u64,
}

impl Fixture {
    /// Generation 1 is active and every machine of the inventory is enrolled, without keys.
    fn new() -> Self {
        let schema = Schema::from_toml(SCHEMA).unwrap();
        let inventory = Inventory::from_toml(&inventory_text(), &schema, &cluster()).unwrap();
        let directory = Directory::new(Verifier::new(cluster(), signing_key().verifying_key()));
        let mut fixture = Self { cluster: cluster(), directory, inventory, index: 0 };
        fixture.put(SchemaRecord { version: SchemaVersion::FIRST, schema });
        fixture.put_generation(1, State::Active);
        let domains = vec!["shop.example".parse().unwrap()];
        let limits = ZoneLimits { data_centers_min: 3, keys_max: 1000, changes_per_minute: 60 };
        fixture.put(Zone { id: zone(), domains, limits });
        let ids: Vec<MachineId> = fixture.inventory.machines().map(|(id, _)| id.clone()).collect();
        for id in ids {
            let record = fixture.world().newcomer(&id).unwrap();
            fixture.put(record);
        }
        fixture
    }

    /// As [`Fixture::new`], and every machine has keys.
    fn issued() -> Self {
        let mut fixture = Self::new();
        let ids: Vec<MachineId> = fixture.inventory.machines().map(|(id, _)| id.clone()).collect();
        for id in ids {
            let issue = fixture.world().issue(&id).unwrap();
            fixture.put(issue.record);
        }
        fixture
    }

    fn world(&self) -> World<'_> {
        World { cluster: &self.cluster, directory: &self.directory, inventory: &self.inventory }
    }

    fn put<T: Content>(&mut self, content: T) {
        let key = content.key();
        let previous = self.directory.standing(&key).version;
        let record = Signer { cluster: &cluster(), key: &signing_key() }.sign(content, previous, NOW).unwrap();
        self.index += 1;
        self.directory.take(&key.to_bytes(), &record, self.index, true).unwrap();
    }

    fn put_generation(&mut self, number: u32, state: State) {
        let public_key = system().0.to_bytes().into();
        self.put(System { generation: generation(number), public_key, state, mode: Mode::Demo });
    }

    fn compile(&self, text: &str) -> Compiled {
        let data_centers = self.inventory.names();
        let (_, schema) = self.directory.schema().unwrap();
        compile(text, &cluster(), &Vocabulary { schema, data_centers: &data_centers, held: &|_| true }).unwrap()
    }

    /// A policy's key, and a certificate and a secret under it.
    fn key_records(&self, n: u32, text: &str) -> (PolicyRecord, Cert, Secret) {
        let compiled = self.compile(text);
        let id = PolicyIdField(compiled.id(&cluster()));
        let random = &mut generator(&SystemRng).unwrap();
        let public = PolicySecretKey::generate(random).public_key();
        let policy = PolicyRef { id, version: PolicyKeyVersion::FIRST };
        let mut cert = Cert {
            zone: zone(),
            id: format!("{n:032x}").parse().unwrap(),
            chain: vec![vec![n as u8; 3].into()],
            hostnames: vec![format!("h{n}.shop.example").parse().unwrap()],
            key_type: KeyType::P256,
            spki_sha256: [0; 32],
            policy,
            policy_text: text.to_owned(),
            wrapped_key: Default::default(),
            served_by: None,
            created_ms: NOW,
        };
        let wrapped = wrap(random, &public, &cert.context(&cluster()), b"key").unwrap();
        cert.wrapped_key = wrapped.as_bytes().to_vec().into();
        let wrapped = cert.wrapped_key.clone();
        let (name, policy_text) = (format!("s{n}").parse().unwrap(), text.to_owned());
        let secret = Secret { zone: zone(), name, policy, policy_text, wrapped, created_ms: NOW };
        let record = PolicyRecord {
            id,
            version: PolicyKeyVersion::FIRST,
            text: text.to_owned(),
            canonical: compiled.canonical.clone(),
            schema: SchemaVersion::FIRST,
            compiled: compiled.policy.to_string(),
            public_key: *public.as_bytes(),
            state: State::Active,
        };
        (record, cert, secret)
    }

    /// Stores a policy, and a certificate and a secret under it.
    fn put_key(&mut self, n: u32, text: &str) -> PolicyId {
        let (record, cert, secret) = self.key_records(n, text);
        let (id, known) = (record.id.0, self.directory.policy(&cert.policy).is_some());
        self.put(secret);
        self.put(cert);
        if !known {
            self.put(record);
        }
        id
    }

    fn change_inventory(&mut self, from: &str, to: &str) {
        let text = inventory_text().replacen(from, to, 1);
        assert_ne!(text, inventory_text());
        let (_, schema) = self.directory.schema().unwrap();
        self.inventory = Inventory::from_toml(&text, schema, &cluster()).unwrap();
    }

    fn key_of(&self, machine: &MachineId) -> AttributeKey {
        let issue = self.world().issue(machine).unwrap();
        let keygen =
            |attributes: &Attributes| Ok(system().1.keygen(&mut generator(&SystemRng).unwrap(), attributes).unwrap());
        make_key(&issue.keys[0].1, keygen).unwrap()
    }
}

fn policy_texts() -> impl Strategy<Value = String> {
    let leaf = (0..WORDS.len(), any::<bool>());
    let leaf = leaf.prop_map(|(n, negated)| format!("{}{}", if negated { "not " } else { "" }, WORDS[n]));
    leaf.prop_recursive(2, 4, 2, |inner| {
        (inner.clone(), inner, any::<bool>())
            .prop_map(|(a, b, both)| format!("({a}) {} ({b})", if both { "and" } else { "or" }))
    })
}

fn satisfies(issued: &[Issued], policy: &Policy) -> bool {
    issued.iter().any(|one| policy.is_satisfied_by(&one.attributes().unwrap()))
}

// === What a machine is given ===

#[test]
fn a_machine_is_given_what_the_inventory_says_and_its_record_says_that() {
    let fixture = Fixture::issued();
    let (_, schema) = fixture.directory.schema().unwrap();
    for (id, facts) in fixture.inventory.machines() {
        let issue = fixture.world().issue(id).unwrap();
        let expected = schema.attributes(&cluster(), facts).unwrap();
        assert_eq!(issue.keys, [(Generation::FIRST, expected.clone())]);
        assert_eq!(issue.record.issued, [Issued { generation: Generation::FIRST, attributes: expected }]);
        assert!(!issue.changed, "asking twice writes nothing");
        assert_eq!(issue.record.data_center, facts.data_center);
    }
}

#[test]
fn no_key_leaves_with_a_wildcard_or_with_other_attributes_than_were_asked_for() {
    let fixture = Fixture::new();
    for (machine, _) in fixture.inventory.machines() {
        let key = AttributeKey::from_bytes(fixture.key_of(machine).to_bytes().expose()).unwrap();
        assert_eq!(key.attributes().wildcard_labels().count(), 0);
    }
    let pairs = fixture.world().pairs(&id("fra-1")).unwrap();
    let words = || pairs.iter().map(|(label, value)| (label.as_bytes(), value.as_bytes()));
    let random = || generator(&SystemRng).unwrap();
    for wrong in [
        danger::attributes(words(), [&b"country"[..]]),
        danger::attributes(words(), [&b"anything"[..]]),
        danger::attributes(words().skip(1), []),
        danger::attributes(words().chain([(&b"extra"[..], &b"1"[..])]), []),
    ] {
        let refused = make_key(&pairs, |_| Ok(danger::keygen(&system().1, &mut random(), &wrong).unwrap()));
        assert_eq!(refused.unwrap_err().code(), Code::Internal);
    }
    make_key(&pairs, |asked| Ok(danger::keygen(&system().1, &mut random(), asked).unwrap())).unwrap();
}

proptest! {
    // 200 policies, each against every machine.
    #![proptest_config(ProptestConfig::with_cases(50))]
    #[test]
    fn preview_satisfaction_and_decryption_are_one(texts in proptest::collection::vec(policy_texts(), 4)) {
        static ISSUED: OnceLock<(Fixture, BTreeMap<MachineId, AttributeKey>)> = OnceLock::new();
        let (fixture, keys) = ISSUED.get_or_init(|| {
            let fixture = Fixture::issued();
            let keys = fixture.inventory.machines().map(|(id, _)| (id.clone(), fixture.key_of(id))).collect();
            (fixture, keys)
        });
        prop_assert_eq!(keys.len(), 2 * CENTERS.len());
        for text in texts {
            check_policy(fixture, keys, &text)?;
        }
    }
}

/// Holds what is previewed, what the issued attributes satisfy and what a real key opens against each other: machine by
/// machine, and for all of them together.
fn check_policy(fixture: &Fixture, keys: &BTreeMap<MachineId, AttributeKey>, text: &str) -> Result<(), TestCaseError> {
    let compiled = fixture.compile(text);
    let random = &mut generator(&SystemRng).unwrap();
    let (bytes, version) = (cluster(), PolicyKeyVersion::FIRST.0);
    let (bytes, id) = (bytes.as_str().as_bytes(), compiled.id(&cluster()));
    let secret = PolicySecretKey::generate(random);
    let ciphertext = secret.encrypt(&system().0, random, &compiled.policy, bytes, version).unwrap();
    let previewed = |sets: &[(Arc<Attributes>, BTreeSet<DataCenterId>)]| {
        preview(&compiled.policy, sets, &fixture.inventory, &RoundTrips::new()).holders.data_centers
    };
    let mut holders = BTreeSet::new();
    for (machine, info) in fixture.directory.live() {
        let satisfied = satisfies(&info.record(machine).issued, &compiled.policy);
        let attributes = info.attributes(Generation::FIRST).unwrap().clone();
        let alone = previewed(&[(attributes, BTreeSet::from([info.data_center.clone()]))]);
        prop_assert_eq!(!alone.is_empty(), satisfied, "{} at {}", text, machine);
        let opened = PolicySecretKey::decrypt(&keys[machine], &ciphertext, bytes, &id, version);
        prop_assert_eq!(opened.is_ok(), satisfied, "{} at {}", text, machine);
        // What comes out is the key that went in.
        prop_assert!(opened.map_or(true, |opened| opened.public_key() == secret.public_key()));
        if satisfied {
            holders.insert(info.data_center.clone());
        }
    }
    let shown = previewed(&live_sets(&fixture.directory, Generation::FIRST));
    prop_assert_eq!(shown, holders.into_iter().collect::<Vec<_>>(), "{}", text);
    Ok(())
}

#[test]
fn within_a_generation_attributes_only_grow() {
    let mut fixture = Fixture::issued();
    let before = fixture.world().pairs(&id("fra-1")).unwrap();
    // The schema grows: everybody is given the new label beside the old ones.
    let schema = Schema::from_toml(&format!("{SCHEMA}[labels.colour]\nmembers = [\"red\"]\n")).unwrap();
    fixture.put(SchemaRecord { version: SchemaVersion::FIRST.next().unwrap(), schema });
    let grown = fixture.world().issue(&id("fra-1")).unwrap();
    assert!(grown.changed && before.iter().all(|pair| grown.keys[0].1.contains(pair)));
    assert_eq!(grown.keys[0].1.len(), before.len() + 1);
    // A value changes: not in this generation.
    fixture.change_inventory("id = \"fra-1\"\ndata_center = \"fra\"", "id = \"fra-1\"\ndata_center = \"ams\"");
    let refused = fixture.world().issue(&id("fra-1")).unwrap_err();
    assert_eq!(refused.code(), Code::RotationNeeded);
    assert!(refused.detail().contains("`country`"), "{}", refused.detail());
    // In the next one it is, while the record goes on saying what the old key carries.
    fixture.put_generation(2, State::Prepared);
    let moved = fixture.world().issue(&id("fra-1")).unwrap();
    assert_eq!(moved.keys.iter().map(|(generation, _)| generation.get()).collect::<Vec<_>>(), [2]);
    assert_eq!(moved.record.issued.len(), 2);
    assert_eq!(moved.record.issued[0].attributes, before);
    assert!(moved.record.issued[1].attributes.contains(&("country".to_owned(), "NL".to_owned())));
    assert_eq!(moved.record.data_center.as_str(), "ams");
    // What is destroyed is neither issued nor said any more.
    for state in [State::Retiring, State::Destroyed] {
        fixture.put_generation(1, state);
    }
    let last = fixture.world().issue(&id("fra-1")).unwrap();
    assert_eq!((last.keys.len(), last.record.issued.len()), (1, 1));
}

#[test]
fn strangers_and_revoked_machines_are_given_nothing() {
    let mut fixture = Fixture::issued();
    fixture.put(Revoked { id: id("led-1"), at_ms: NOW, reason: "lost".to_owned() });
    let world = fixture.world();
    for check in [world.issue(&id("led-1")).map(drop), world.newcomer(&id("led-1")).map(drop)] {
        assert_eq!(check.unwrap_err().code(), Code::MachineRevoked);
    }
    assert_eq!(world.issue(&id("nobody")).unwrap_err().code(), Code::MachineUnknown);
    fixture.change_inventory("[[machine]]\nid = \"fra-1\"\ndata_center = \"fra\"\n", "");
    assert_eq!(fixture.world().enrolled(&id("fra-1")).unwrap_err().code(), Code::MachineUnknown);
}

#[test]
fn a_newcomer_of_a_drained_data_centre_is_drained_too() {
    let mut fixture = Fixture::issued();
    for name in ["ams-1", "ams-2"] {
        let mut record = fixture.directory.machines()[&id(name)].record(&id(name));
        record.state = MachineState::Draining;
        fixture.put(record);
    }
    let more = "id = \"ams-1\"\ndata_center = \"ams\"\n[[machine]]\nid = \"ams-3\"\ndata_center = \"ams\"\n";
    fixture.change_inventory("id = \"ams-1\"\ndata_center = \"ams\"\n", more);
    assert_eq!(fixture.world().newcomer(&id("ams-3")).unwrap().state, MachineState::Draining);
    assert_eq!(fixture.world().newcomer(&id("fra-1")).unwrap().issued.len(), 1, "a second enrolment unsays nothing");
}

// === Revocation ===

#[test]
fn a_filter_means_machines_by_what_was_issued_or_by_what_the_inventory_says() {
    let mut fixture = Fixture::issued();
    let meant = |fixture: &Fixture, text: &str| {
        select(fixture.world(), &Selection::Where(text.to_owned()))
            .map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(meant(&fixture, "country: RU").unwrap(), ["led-1", "led-2", "svo-1", "svo-2"]);
    assert_eq!(meant(&fixture, "country: RU and tier: highest").unwrap(), ["svo-1", "svo-2"]);
    // Moved in the inventory: found in both places.
    fixture.change_inventory("id = \"fra-1\"\ndata_center = \"fra\"", "id = \"fra-1\"\ndata_center = \"led\"");
    assert_eq!(meant(&fixture, "country: RU and tier: standard").unwrap(), ["fra-1", "led-1", "led-2"]);
    assert_eq!(meant(&fixture, "country: DE").unwrap(), ["fra-1", "fra-2"]);
    for (text, code) in [("", Code::InvalidField), (" ", Code::InvalidField), ("country: XX", Code::UnknownValue)] {
        assert_eq!(meant(&fixture, text).unwrap_err().code(), code, "{text}");
    }
    assert_eq!(meant(&fixture, "country: FR").unwrap_err().code(), Code::MachineUnknown);
    let unknown = select(fixture.world(), &Selection::Ids(vec![id("fra-1"), id("nobody")])).unwrap_err();
    assert_eq!(unknown.code(), Code::MachineUnknown);
}

/// What these machines could open, machine by machine and key by key.
fn oracle(fixture: &Fixture, machines: &BTreeSet<MachineId>) -> (BTreeMap<String, usize>, BTreeSet<CertId>) {
    let (mut policies, mut certs) = (BTreeMap::new(), BTreeSet::new());
    for machine in machines {
        let record = fixture.directory.machines()[machine].record(machine);
        for info in fixture.directory.policies() {
            if satisfies(&record.issued, &info.record.policy().unwrap()) {
                *policies.entry(info.record.id.0.to_string()).or_insert(0) += 1;
                let under = fixture.directory.certs().iter().filter(|(_, cert)| cert.policy.id == info.record.id);
                certs.extend(under.map(|((_, id), _)| id.clone()));
            }
        }
    }
    (policies, certs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_blast_radius_is_what_machine_by_machine_would_find(
        texts in proptest::collection::vec(policy_texts(), 1..12),
        filter in policy_texts(),
    ) {
        let mut fixture = Fixture::issued();
        for (n, text) in texts.iter().enumerate() {
            fixture.put_key(n as u32, text);
        }
        let Ok(machines) = select(fixture.world(), &Selection::Where(filter.clone())) else { return Ok(()) };
        let compiled = fixture.compile(&filter);
        let expected: BTreeSet<MachineId> = fixture
            .directory
            .machines()
            .iter()
            .filter(|(id, machine)| satisfies(&machine.record(id).issued, &compiled.policy))
            .map(|(id, _)| id.clone())
            .collect();
        prop_assert_eq!(&machines, &expected);
        let radius = blast_radius(&fixture.directory, &machines);
        let (policies, certs) = oracle(&fixture, &machines);
        let found: BTreeMap<String, usize> = radius.policies.iter().map(|one| (one.id.clone(), one.machines)).collect();
        prop_assert_eq!(found, policies);
        prop_assert_eq!(radius.certificates.iter().map(|cert| cert.id.clone()).collect::<BTreeSet<_>>(), certs);
        prop_assert_eq!(radius.secrets.len(), radius.certificates.len());
    }

    #[test]
    fn a_drain_costs_what_counting_again_afterwards_finds(
        texts in proptest::collection::vec(policy_texts(), 1..12),
        center in 0..CENTERS.len(),
        back in any::<bool>(),
    ) {
        let mut fixture = Fixture::issued();
        let ids: Vec<PolicyId> = texts.iter().enumerate().map(|(n, text)| fixture.put_key(n as u32, text)).collect();
        let center = dc(CENTERS[center].0);
        let set = |fixture: &mut Fixture, state| {
            for piece in pieces(&fixture.directory, &center, state, 1, usize::MAX) {
                let mut record = fixture.directory.machines()[&piece[0]].record(&piece[0]);
                record.state = state;
                fixture.put(record);
            }
        };
        let to = if back { MachineState::Live } else { MachineState::Draining };
        if back {
            set(&mut fixture, MachineState::Draining);
        }
        let count = |fixture: &Fixture, id: &PolicyId| {
            let policy = fixture.directory.active_policy(id).unwrap().record.policy().unwrap();
            let sets = live_sets(&fixture.directory, Generation::FIRST);
            preview(&policy, &sets, &fixture.inventory, &RoundTrips::new()).holders.count
        };
        let before: BTreeMap<PolicyId, usize> = ids.iter().map(|id| (*id, count(&fixture, id))).collect();
        let told: BTreeMap<String, Effect> =
            effects(&fixture.directory, &center, to).into_iter().map(|effect| (effect.policy.clone(), effect)).collect();
        set(&mut fixture, to);
        for (id, before) in before {
            let after = count(&fixture, &id);
            match told.get(&id.to_string()) {
                None => prop_assert_eq!(before, after),
                Some(effect) => {
                    prop_assert_eq!((effect.before, effect.after), (before, after));
                    prop_assert_eq!(effect.is_fatal(), after == 0);
                    prop_assert_eq!(effect.is_below(), after < 3);
                    prop_assert_eq!(effect.keys, 2 * ids.iter().filter(|other| **other == id).count());
                }
            }
        }
    }
}

#[test]
fn a_drain_is_written_in_pieces_that_the_store_takes() {
    let fixture = Fixture::issued();
    let sizes = |ops, bytes| {
        let pieces = pieces(&fixture.directory, &dc("fra"), MachineState::Draining, ops, bytes);
        pieces.iter().map(Vec::len).collect::<Vec<_>>()
    };
    assert_eq!((sizes(500, 1 << 20), sizes(1, 1 << 20), sizes(500, 100)), (vec![2], vec![1, 1], vec![1, 1]));
    assert!(pieces(&fixture.directory, &dc("fra"), MachineState::Live, 500, 1 << 20).is_empty());
}

#[test]
fn a_new_token_ends_earlier_ones_of_its_machine_and_lapsed_ones() {
    let mut fixture = Fixture::new();
    let mut token = |machine: &str, expires_ms| {
        let (_, token) = mint(&SystemRng, TokenScope::Machine(id(machine)), machine, expires_ms).unwrap();
        fixture.put(token.clone());
        token.id
    };
    let (same, lapsed, _good) = (token("fra-1", NOW + 1), token("fra-2", NOW - 1), token("ams-1", NOW + 1));
    let zone_token = mint(&SystemRng, TokenScope::Zone(zone()), "ci", NOW - 1).unwrap().1;
    fixture.put(zone_token);
    let ended: BTreeSet<CertId> =
        replaced(&fixture.directory, &TokenScope::Machine(id("fra-1")), NOW).into_iter().collect();
    assert_eq!(ended, BTreeSet::from([same, lapsed]));
}

#[test]
fn a_list_has_every_machine_once_and_in_order() {
    let mut fixture = Fixture::issued();
    fixture.put(Revoked { id: id("led-1"), at_ms: NOW, reason: "lost".to_owned() });
    let more = "id = \"ams-1\"\ndata_center = \"ams\"\n[[machine]]\nid = \"new-1\"\ndata_center = \"ams\"\n";
    fixture.change_inventory("id = \"ams-1\"\ndata_center = \"ams\"\n", more);
    let reports = Reports::new(Arc::new(cinnabar_daemon::env::SystemClock), Arc::default());
    let mut seen: Vec<MachineView> = Vec::new();
    loop {
        let page = view::page(fixture.world(), &reports, seen.last().map(|view| &view.id), 5);
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    let states: BTreeMap<&str, &str> = seen.iter().map(|view| (view.id.as_str(), view.state)).collect();
    assert_eq!((seen.len(), states.len()), (13, 13));
    assert!(seen.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert_eq!((states["led-1"], states["new-1"], states["fra-1"]), ("revoked", "not-enrolled", "live"));
    assert!(seen.iter().all(|view| !view.reissue));
    fixture.change_inventory("id = \"fra-1\"\ndata_center = \"fra\"", "id = \"fra-1\"\ndata_center = \"ams\"");
    assert!(view::view(fixture.world(), &reports, &id("fra-1")).unwrap().reissue);
    assert!(view::view(fixture.world(), &reports, &id("nobody")).is_none());
}
