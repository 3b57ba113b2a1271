//! What the authority knows of its own records: verified, in memory, as of a log index.
//!
//! The road: `follow` reads every record of the store once and then each change, in order; [`Directory::take`] verifies it
//! and holds it against the one before. `publisher` puts in what it wrote itself at once.
//! Law: nothing stands here that the verifier did not take. Chains and ciphertexts stay in the store: only what decisions
//! need is kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cinnabar_abe::{Attributes, PolicyId};
use cinnabar_authority_api::limits::CERT_ID_BYTES;
use cinnabar_authority_api::records::{
    Cert, Head, Issued, KeyType, Machine, MachineState, Mode, PolicyRecord, PolicyRef, Revoked, Sni, State, System,
    Token, Zone,
};
use cinnabar_authority_api::verify::AnyContent;
use cinnabar_authority_api::{
    CertId, Checked, DataCenterId, Generation, Hostname, Kind, MachineId, PolicyKeyVersion, RecordError, RecordKey,
    Schema, SchemaVersion, SecretName, Verifier, ZoneId,
};

use crate::digest::sha256;
use crate::metrics;

/// Where a record stands: its own version, and the log entry that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The record's version; 0 when there is none.
    pub version: u64,
    /// The log index that wrote it; 0 when there is none.
    pub mod_index: u64,
    /// Is it there, or was it ended?
    pub live: bool,
}

/// A certificate without its bytes.
#[derive(Debug, Clone)]
pub struct CertInfo {
    /// Its names.
    pub hostnames: Vec<Hostname>,
    /// Kind of its key.
    pub key_type: KeyType,
    /// SHA-256 of its public key.
    pub spki_sha256: [u8; 32],
    /// The policy key that its private key is wrapped to.
    pub policy: PolicyRef,
    /// SHA-256 of the leaf.
    pub leaf_sha256: [u8; 32],
    /// When it was first uploaded, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A version of a policy's key.
#[derive(Debug, Clone)]
pub struct PolicyInfo {
    /// The record.
    pub record: PolicyRecord,
    /// Generations under which its private half stands in the store.
    pub generations: Vec<Generation>,
}

/// Labels and values of a machine's keys, labels ascending.
pub type Words = Arc<Vec<(String, String)>>;

/// A machine, with the attributes of each generation ready to be asked.
#[derive(Debug, Clone)]
pub struct MachineInfo {
    /// The record.
    pub data_center: DataCenterId,
    /// Does it take work?
    pub state: MachineState,
    /// Attributes as issued; equal sets are shared.
    pub issued: Vec<(Generation, Arc<Attributes>)>,
    /// The same as labels and values; shared likewise.
    pub words: Vec<(Generation, Words)>,
    /// `host:port` of its signer.
    pub address: String,
}

/// Why a record of the store is not taken in.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {source}")]
pub struct Rejected {
    /// The key, as text.
    pub key: String,
    /// Why.
    pub source: RecordError,
}

/// See the module.
#[derive(Debug)]
pub struct Directory {
    verifier: Verifier,
    standings: HashMap<RecordKey, Standing>,
    systems: BTreeMap<Generation, System>,
    schemas: BTreeMap<SchemaVersion, Schema>,
    zones: BTreeMap<ZoneId, Zone>,
    domains: BTreeMap<String, ZoneId>,
    policies: HashMap<PolicyId, BTreeMap<PolicyKeyVersion, PolicyInfo>>,
    certs: BTreeMap<(ZoneId, CertId), CertInfo>,
    secrets: BTreeMap<(ZoneId, SecretName), PolicyRef>,
    sni: HashMap<Hostname, Sni>,
    machines: BTreeMap<MachineId, MachineInfo>,
    revoked: BTreeMap<MachineId, Revoked>,
    tokens: HashMap<CertId, Token>,
    head: Option<Head>,
    attribute_sets: HashMap<Words, Arc<Attributes>>,
    /// Certificates and secrets of each zone that has one.
    keys: HashMap<ZoneId, usize>,
    /// How many certificates of a zone have a leaf.
    leaves: HashMap<(ZoneId, [u8; 32]), u32>,
    /// Grows with each change of what policies are decided by.
    changes: u64,
}

impl Directory {
    /// An empty one.
    pub fn new(verifier: Verifier) -> Self {
        Self {
            verifier,
            standings: HashMap::new(),
            systems: BTreeMap::new(),
            schemas: BTreeMap::new(),
            zones: BTreeMap::new(),
            domains: BTreeMap::new(),
            policies: HashMap::new(),
            certs: BTreeMap::new(),
            secrets: BTreeMap::new(),
            sni: HashMap::new(),
            machines: BTreeMap::new(),
            revoked: BTreeMap::new(),
            tokens: HashMap::new(),
            head: None,
            attribute_sets: HashMap::new(),
            keys: HashMap::new(),
            leaves: HashMap::new(),
            changes: 0,
        }
    }

    /// Takes a record that entry `mod_index` wrote. One that is known already, or older, changes nothing. `gapless` is true
    /// for a reader that sees every change.
    ///
    /// # Errors
    /// [`Rejected`]; nothing is changed then.
    pub fn take(&mut self, key: &[u8], record: &[u8], mod_index: u64, gapless: bool) -> Result<bool, Rejected> {
        let rejected = |source: RecordError| {
            let kind = RecordKey::parse(key).map_or("unknown", |key| key.kind().as_str());
            metrics::rejected(kind, source.reason()).increment(1);
            Rejected { key: String::from_utf8_lossy(key).into_owned(), source }
        };
        let found = self.verifier.read_any(key, record).map_err(rejected)?;
        let known = self.standing(found.key());
        if found.version() <= known.version && mod_index <= known.mod_index {
            return Ok(false);
        }
        Verifier::follows(&found, known.version, gapless).map_err(rejected)?;
        self.put(found, mod_index);
        Ok(true)
    }

    fn put(&mut self, found: Checked<Option<AnyContent>>, mod_index: u64) {
        let (key, version) = (found.key().clone(), found.version());
        let content = found.into_content();
        if matches!(key.kind(), Kind::System | Kind::Schema | Kind::Machine | Kind::Revoked) {
            self.changes += 1;
        }
        self.standings.insert(key.clone(), Standing { version, mod_index, live: content.is_some() });
        match content {
            None => self.end(&key),
            Some(AnyContent::System(system)) => drop(self.systems.insert(system.generation, system)),
            Some(AnyContent::Schema(record)) => drop(self.schemas.insert(record.version, record.schema)),
            Some(AnyContent::Zone(zone)) => {
                self.domains.retain(|_, owner| *owner != zone.id);
                self.domains.extend(zone.domains.iter().map(|domain| (domain.to_string(), zone.id.clone())));
                self.zones.insert(zone.id.clone(), zone);
            }
            Some(AnyContent::Policy(record)) => {
                let versions = self.policies.entry(record.id.0).or_default();
                let generations = versions.remove(&record.version).map(|old| old.generations).unwrap_or_default();
                versions.insert(record.version, PolicyInfo { record, generations });
            }
            Some(AnyContent::PolicyCiphertext(record)) => {
                let info = self.policies.get_mut(&record.id.0).and_then(|versions| versions.get_mut(&record.version));
                if let Some(info) = info.filter(|info| !info.generations.contains(&record.generation)) {
                    info.generations.push(record.generation);
                }
            }
            Some(AnyContent::Cert(cert)) => self.put_cert(cert),
            Some(AnyContent::Secret(secret)) => {
                let zone = secret.zone.clone();
                if self.secrets.insert((secret.zone, secret.name), secret.policy).is_none() {
                    *self.keys.entry(zone).or_default() += 1;
                }
            }
            Some(AnyContent::Sni(sni)) => drop(self.sni.insert(sni.hostname.clone(), sni)),
            Some(AnyContent::Machine(machine)) => self.put_machine(machine),
            Some(AnyContent::Revoked(revoked)) => drop(self.revoked.insert(revoked.id.clone(), revoked)),
            Some(AnyContent::Token(token)) => drop(self.tokens.insert(token.id.clone(), token)),
            Some(AnyContent::Head(head)) => self.head = Some(head),
        }
    }

    fn put_cert(&mut self, cert: Cert) {
        let leaf_sha256 = sha256(&cert.chain[0]);
        let Cert { zone, id, hostnames, key_type, spki_sha256, policy, created_ms, .. } = cert;
        let info = CertInfo { hostnames, key_type, spki_sha256, policy, leaf_sha256, created_ms };
        *self.leaves.entry((zone.clone(), leaf_sha256)).or_default() += 1;
        match self.certs.insert((zone.clone(), id), info) {
            Some(before) => self.forget_leaf(&zone, before.leaf_sha256),
            None => *self.keys.entry(zone).or_default() += 1,
        }
    }

    fn forget_leaf(&mut self, zone: &ZoneId, leaf_sha256: [u8; 32]) {
        let key = (zone.clone(), leaf_sha256);
        if let Some(count) = self.leaves.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.leaves.remove(&key);
            }
        }
    }

    fn forget_key(&mut self, zone: &ZoneId) {
        if let Some(count) = self.keys.get_mut(zone) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(zone);
            }
        }
    }

    fn put_machine(&mut self, machine: Machine) {
        let mut issued = Vec::with_capacity(machine.issued.len());
        let mut words = Vec::with_capacity(machine.issued.len());
        for one in machine.issued {
            let generation = one.generation;
            let known = self.attribute_sets.get_key_value(&one.attributes);
            let shared = known.map(|(words, attributes)| (words.clone(), attributes.clone())).or_else(|| {
                // The verifier has read them once: they are words.
                let attributes = Arc::new(one.attributes().ok()?);
                let words = Arc::new(one.attributes);
                self.attribute_sets.insert(words.clone(), attributes.clone());
                Some((words, attributes))
            });
            if let Some((shared, attributes)) = shared {
                issued.push((generation, attributes));
                words.push((generation, shared));
            }
        }
        let Machine { id, data_center, address, state, .. } = machine;
        self.machines.insert(id, MachineInfo { data_center, state, issued, words, address });
    }

    fn end(&mut self, key: &RecordKey) {
        match key {
            RecordKey::Zone(zone) => {
                self.domains.retain(|_, owner| owner != zone);
                self.zones.remove(zone);
            }
            RecordKey::PolicyCiphertext(id, version, generation) => {
                if let Some(info) = self.policies.get_mut(id).and_then(|versions| versions.get_mut(version)) {
                    info.generations.retain(|held| held != generation);
                }
            }
            RecordKey::Cert(zone, id) => {
                if let Some(info) = self.certs.remove(&(zone.clone(), id.clone())) {
                    self.forget_leaf(zone, info.leaf_sha256);
                    self.forget_key(zone);
                }
            }
            RecordKey::Secret(zone, name) => {
                if self.secrets.remove(&(zone.clone(), name.clone())).is_some() {
                    self.forget_key(zone);
                }
            }
            RecordKey::Sni(hostname) => drop(self.sni.remove(hostname)),
            RecordKey::Machine(id) => drop(self.machines.remove(id)),
            RecordKey::Token(id) => drop(self.tokens.remove(id)),
            // Kinds without tombstones: the verifier takes none of them.
            RecordKey::System(_)
            | RecordKey::Schema(_)
            | RecordKey::Policy(..)
            | RecordKey::Revoked(_)
            | RecordKey::Head => {}
        }
    }

    /// Where a record stands.
    pub fn standing(&self, key: &RecordKey) -> Standing {
        self.standings.get(key).copied().unwrap_or_default()
    }

    /// The verifier that it trusts.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Every generation.
    pub fn systems(&self) -> &BTreeMap<Generation, System> {
        &self.systems
    }

    /// The generation that encrypts.
    pub fn active_system(&self) -> Option<&System> {
        self.systems.values().rev().find(|system| system.state == State::Active)
    }

    /// Generations that open what is under them, oldest first.
    pub fn live_generations(&self) -> impl Iterator<Item = &System> {
        self.systems.values().filter(|system| system.state.decrypts())
    }

    /// What the system is for.
    pub fn mode(&self) -> Option<Mode> {
        self.systems.values().next().map(|system| system.mode)
    }

    /// The newest schema.
    pub fn schema(&self) -> Option<(SchemaVersion, &Schema)> {
        self.schemas.last_key_value().map(|(version, schema)| (*version, schema))
    }

    /// All zones.
    pub fn zones(&self) -> &BTreeMap<ZoneId, Zone> {
        &self.zones
    }

    /// The zone that owns a name, and the domain by which it does.
    pub fn owner(&self, hostname: &Hostname) -> Option<(&ZoneId, &str)> {
        let mut name = hostname.base();
        loop {
            if let Some((domain, zone)) = self.domains.get_key_value(name) {
                return Some((zone, domain));
            }
            name = name.split_once('.')?.1;
        }
    }

    /// The zone whose domains overlap with this one, and the domain.
    pub fn overlapping(&self, domain: &Hostname) -> Option<(&ZoneId, &str)> {
        if let Some(found) = self.owner(domain) {
            return Some(found);
        }
        let below =
            |(name, _): &(&String, &ZoneId)| name.strip_suffix(domain.base()).is_some_and(|rest| rest.ends_with('.'));
        self.domains.iter().find(below).map(|(name, zone)| (zone, name.as_str()))
    }

    /// The newest version of a policy's key that encrypts.
    pub fn active_policy(&self, id: &PolicyId) -> Option<&PolicyInfo> {
        self.policies.get(id)?.values().rev().find(|info| info.record.state == State::Active)
    }

    /// A version of a policy's key.
    pub fn policy(&self, policy: &PolicyRef) -> Option<&PolicyInfo> {
        self.policies.get(&policy.id.0)?.get(&policy.version)
    }

    /// Every version of every policy's key.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyInfo> {
        self.policies.values().flat_map(BTreeMap::values)
    }

    /// All certificates.
    pub fn certs(&self) -> &BTreeMap<(ZoneId, CertId), CertInfo> {
        &self.certs
    }

    /// The certificates of a zone.
    pub fn certs_of<'a>(&'a self, zone: &'a ZoneId) -> impl Iterator<Item = (&'a CertId, &'a CertInfo)> {
        let first = (zone.clone(), lowest_cert_id());
        self.certs.range(first..).take_while(move |((owner, _), _)| owner == zone).map(|((_, id), info)| (id, info))
    }

    /// Certificates and secrets of a zone.
    pub fn keys_of(&self, zone: &ZoneId) -> usize {
        self.keys.get(zone).copied().unwrap_or(0)
    }

    /// The certificate of a zone with this leaf.
    pub fn cert_with_leaf<'a>(&'a self, zone: &'a ZoneId, leaf_sha256: &[u8; 32]) -> Option<&'a CertId> {
        // Uploads ask, and nearly none has it: only then is the zone gone through.
        self.leaves.get(&(zone.clone(), *leaf_sha256))?;
        self.certs_of(zone).find(|(_, info)| info.leaf_sha256 == *leaf_sha256).map(|(id, _)| id)
    }

    /// A number that changes whenever something does that policies are decided by: generations, schema, machines.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The other secrets of a zone.
    pub fn secrets_of<'a>(&'a self, zone: &'a ZoneId) -> impl Iterator<Item = (&'a SecretName, &'a PolicyRef)> {
        self.secrets.iter().filter(move |((owner, _), _)| owner == zone).map(|((_, name), policy)| (name, policy))
    }

    /// All other secrets.
    pub fn secrets(&self) -> &BTreeMap<(ZoneId, SecretName), PolicyRef> {
        &self.secrets
    }

    /// Which certificates serve a name.
    pub fn sni(&self, hostname: &Hostname) -> Option<&Sni> {
        self.sni.get(hostname)
    }

    /// The policy keys that certificates and secrets are wrapped to.
    pub fn used_policies(&self) -> HashSet<PolicyRef> {
        let certs = self.certs.values().map(|info| info.policy);
        certs.chain(self.secrets.values().copied()).collect()
    }

    /// All machines, revoked ones too.
    pub fn machines(&self) -> &BTreeMap<MachineId, MachineInfo> {
        &self.machines
    }

    /// The machines that may do something: not revoked.
    pub fn trusted(&self) -> impl Iterator<Item = (&MachineId, &MachineInfo)> {
        self.machines.iter().filter(|(id, _)| !self.revoked.contains_key(*id))
    }

    /// The machines that take work: not revoked, not draining.
    pub fn live(&self) -> impl Iterator<Item = (&MachineId, &MachineInfo)> {
        self.trusted().filter(|(_, machine)| machine.state == MachineState::Live)
    }

    /// Machines that were revoked.
    pub fn revoked(&self) -> &BTreeMap<MachineId, Revoked> {
        &self.revoked
    }

    /// A token.
    pub fn token(&self, id: &CertId) -> Option<&Token> {
        self.tokens.get(id)
    }

    /// All tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.values()
    }

    /// The newest head.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }
}

impl MachineInfo {
    /// The record that says this.
    pub fn record(&self, id: &MachineId) -> Machine {
        let issued = self
            .words
            .iter()
            .map(|(generation, words)| Issued { generation: *generation, attributes: words.as_ref().clone() });
        Machine {
            id: id.clone(),
            data_center: self.data_center.clone(),
            issued: issued.collect(),
            address: self.address.clone(),
            state: self.state,
        }
    }

    /// Labels and values issued in a generation.
    pub fn words(&self, generation: Generation) -> Option<&Words> {
        self.words.iter().find(|(held, _)| *held == generation).map(|(_, words)| words)
    }

    /// The attributes issued in a generation.
    pub fn attributes(&self, generation: Generation) -> Option<&Arc<Attributes>> {
        self.issued.iter().find(|(held, _)| *held == generation).map(|(_, attributes)| attributes)
    }
}

fn lowest_cert_id() -> CertId {
    "0".repeat(CERT_ID_BYTES).parse().expect("zeros are hexadecimal digits")
}
