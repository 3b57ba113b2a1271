//! What the records say, verified: which certificates serve a name, who holds their keys, who may ask.
//!
//! The road: `follow` reads the embedded copy once and then every change; what all decisions need is verified at once
//! and kept in memory (`world`), certificates, names and ciphertexts when they are first asked for. `standing` remembers
//! the newest version of every key, `kept` has what must outlive the process.
//!
//! Law: a record that does not verify, does not follow the one before it, or was deleted without a tombstone, is not
//! used, and nothing older takes its place: that name fails closed and the others go on. Nothing at all is used before a
//! head of the authority's covers the copy, or while one contradicts it.

mod follow;
mod kept;
mod standing;
#[cfg(test)]
pub(crate) mod tests;
mod trust;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use cinnabar_abe::limits::Limits;
use cinnabar_abe::{Attributes, Policy, PolicyId};
use cinnabar_authority_api::records::{
    Cert, Content, Machine, PolicyCiphertext, PolicyRef, Secret, Sni, State, System,
};
use cinnabar_authority_api::{
    CertId, Checked, DataCenterId, Generation, Hostname, MachineId, RecordError, RecordKey, Schema, SchemaVersion,
    SecretName, Verifier, ZoneId,
};
use cinnabar_daemon::{Clock, ClusterId};
use cinnabar_edge_api::refusal::{Refusal, RefusalCode};
use cinnabar_kv::local::Local;
use cinnabar_kv_api::ChainHead;
use parking_lot::{Mutex, RwLock};
use quick_cache::sync::Cache;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use self::kept::{Kept, KeptFile};
use self::standing::key_hash;
pub use self::trust::{Staleness, Trust};
pub use self::world::PolicyView;
use crate::limits::{CERTS_CACHED_MAX, HOLDERS_CACHED_MAX, NAMES_CACHED_MAX};
use crate::metrics;

/// A usable certificate.
#[derive(Debug)]
pub struct CertView {
    /// Its record.
    pub cert: Checked<Cert>,
    /// The policy that its key is under, compiled.
    pub policy: Policy,
    /// Who may ask for signatures; none lets every machine.
    pub served_by: Option<Policy>,
}

/// A machine that is not revoked.
#[derive(Debug)]
pub struct MachineView {
    /// Its record.
    pub machine: Checked<Machine>,
    /// What was issued to it, ready to be asked.
    attributes: Vec<(Generation, Attributes)>,
}

impl MachineView {
    /// The attributes issued in the newest generation that it was issued any in.
    pub fn newest(&self) -> Option<&Attributes> {
        self.attributes.last().map(|(_, attributes)| attributes)
    }

    /// The attributes issued in a generation.
    pub fn attributes(&self, generation: Generation) -> Option<&Attributes> {
        self.attributes.iter().find(|(held, _)| *held == generation).map(|(_, attributes)| attributes)
    }
}

/// A machine that satisfies a policy by what was issued to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which one.
    pub machine: MachineId,
    /// `host:port` of its signer.
    pub address: String,
}

/// Who holds a key: live machines that are not revoked and have an address, by data centre.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// By data centre; no entry is empty.
    pub data_centers: BTreeMap<DataCenterId, Vec<Holder>>,
}

/// Shared: a look-up never copies a record.
pub type CertRef = Arc<CertView>;

/// Why a record is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// There is none.
    #[error("there is no such record")]
    Unknown,
    /// It was ended.
    #[error("it was ended")]
    Ended,
    /// It, or one that came after it, is not the authority's word on this key.
    #[error("its record is refused: {0}")]
    Rejected(#[from] RecordError),
    /// It was taken from the store without the authority's word.
    #[error("its record was deleted without a tombstone")]
    Deleted,
    /// It says less than was said before.
    #[error("its record is refused: {0}")]
    Lower(&'static str),
    /// A record that it needs is not usable.
    #[error("its {0} is not usable")]
    Missing(&'static str),
    /// No head of the authority's covers this copy of the store yet.
    #[error("no signed head covers this machine's copy of the store yet")]
    NotCovered,
    /// A head of the authority's contradicts this copy.
    #[error("the authority signed another history than this machine's copy of the store has")]
    Forked,
    /// More records were refused than can be remembered.
    #[error("more records were refused than this machine can remember: somebody writes the store anew")]
    Overrun,
    /// The copy cannot be read.
    #[error("this machine's copy of the store: {0}")]
    Store(String),
}

impl Unusable {
    /// One word, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Rejected(error) => error.reason(),
            Self::Deleted => "deleted",
            Self::Lower(_) => "lower",
            _ => "malformed",
        }
    }

    /// Is the record refused, and not merely absent?
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Rejected(_) | Self::Deleted | Self::Lower(_))
    }
}

impl From<Unusable> for Refusal {
    fn from(error: Unusable) -> Self {
        let code = match error {
            Unusable::NotCovered | Unusable::Forked | Unusable::Overrun | Unusable::Store(_) => RefusalCode::Stale,
            _ => RefusalCode::UnknownCertificate,
        };
        Self::new(code, error.to_string())
    }
}

/// What the chain of the store was at an index, if the log still has it.
pub type Chain = Box<dyn Fn(u64) -> Option<ChainHead> + Send + Sync>;

/// What a directory is made of.
pub struct Parts {
    /// Checks every record.
    pub verifier: Verifier,
    /// The embedded copy.
    pub local: Arc<Local>,
    /// The embedded log's chain.
    pub chain: Chain,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// This machine.
    pub me: MachineId,
    /// Where it keeps what must outlive the process; none keeps nothing.
    pub dir: Option<PathBuf>,
}

/// Everything under one lock: written by `follow` alone.
struct Inner {
    standings: standing::Standings,
    world: world::World,
    /// The highest seen, in this process and before.
    kept: Kept,
    /// What the disk has of it.
    on_disk: Kept,
    /// The applied index at which `kept` last grew: it goes to disk once the copy has that on disk.
    kept_at: u64,
    /// A head that the chain has not been asked about.
    head_to_check: Option<kept::KeptHead>,
    forked: bool,
    /// The entry up to which changes were taken in.
    followed: u64,
    /// One more with each change of machines or generations.
    epoch: u64,
}

struct Shared {
    verifier: Verifier,
    local: Arc<Local>,
    chain: Chain,
    clock: Arc<dyn Clock>,
    me: MachineId,
    file: KeptFile,
    inner: RwLock<Inner>,
    place: Mutex<follow::Place>,
    gate: AtomicU8,
    certs: Cache<(ZoneId, CertId), CertRef>,
    names: Cache<Hostname, Arc<Sni>>,
    holders: Cache<(PolicyId, u64), Arc<Holders>>,
    changed: watch::Sender<u64>,
}

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("me", &self.shared.me).finish_non_exhaustive()
    }
}

impl Directory {
    /// Opens what was kept and reads the copy as it is; [`Directory::run`] goes on from there. Reads and verifies: call
    /// it where blocking is allowed, and before the copy follows anybody.
    ///
    /// # Errors
    /// The system's, when what was kept cannot be read.
    pub fn open(parts: Parts) -> std::io::Result<Self> {
        let Parts { verifier, local, chain, clock, me, dir } = parts;
        let file = KeptFile::new(dir);
        let kept = file.load()?;
        let mut standings = standing::Standings::default();
        standings.restore(&kept.refused);
        let inner = Inner {
            standings,
            world: world::World::default(),
            head_to_check: kept.head,
            on_disk: kept.clone(),
            kept,
            kept_at: 0,
            forked: false,
            followed: 0,
            epoch: 0,
        };
        let directory = Self {
            shared: Arc::new(Shared {
                verifier,
                local,
                chain,
                clock,
                me,
                file,
                inner: RwLock::new(inner),
                place: Mutex::default(),
                gate: AtomicU8::new(trust::SHUT),
                certs: Cache::new(CERTS_CACHED_MAX),
                names: Cache::new(NAMES_CACHED_MAX),
                holders: Cache::new(HOLDERS_CACHED_MAX),
                changed: watch::Sender::new(0),
            }),
        };
        directory.catch_up();
        Ok(directory)
    }

    /// May anything be used?
    fn check(&self) -> Result<(), Unusable> {
        self.shared.local.check_serving().map_err(|error| Unusable::Store(error.to_string()))?;
        match self.shared.gate.load(Ordering::Acquire) {
            trust::OPEN => Ok(()),
            trust::FORKED => Err(Unusable::Forked),
            trust::OVERRUN => Err(Unusable::Overrun),
            _ => Err(Unusable::NotCovered),
        }
    }

    /// Reads and verifies a record that is not kept in memory.
    fn read<T: Content>(&self, inner: &Inner, key: &RecordKey) -> Result<Checked<T>, Unusable> {
        let raw = key.to_bytes();
        let hash = key_hash(&raw);
        if let Some(why) = inner.standings.refused(&hash) {
            return Err(why.clone());
        }
        let known = inner.standings.get(&hash).version;
        let found = self.shared.local.get(&raw).map_err(|error| Unusable::Store(error.to_string()))?;
        let Some(record) = found.record else {
            return Err(if known > 0 { Unusable::Deleted } else { Unusable::Unknown });
        };
        let found = match self.shared.verifier.read::<T>(&raw, &record.value) {
            Ok(found) => found,
            // Following will have its say in a moment, over all that is known of the key.
            Err(_) if record.mod_index > inner.followed => return Err(Unusable::Missing("newest record")),
            Err(error) => return Err(error.into()),
        };
        if found.version() < known {
            let (version, previous) = (found.version(), found.previous());
            return Err(RecordError::Version { version, previous, known }.into());
        }
        found.live().ok_or(Unusable::Ended)
    }

    /// Looks up under the lock; what turns out to be refused is remembered.
    fn look_up<T>(&self, key: &RecordKey, look: impl FnOnce(&Inner) -> Result<T, Unusable>) -> Result<T, Unusable> {
        let found = look(&self.shared.inner.read());
        if let Err(why) = &found
            && why.is_refusal()
        {
            self.refuse_late(key, why);
        }
        found
    }

    /// A certificate.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn cert(&self, zone: &ZoneId, id: &CertId) -> Result<CertRef, Unusable> {
        self.check()?;
        let name = (zone.clone(), id.clone());
        if let Some(found) = self.shared.certs.get(&name) {
            return Ok(found);
        }
        let key = RecordKey::Cert(zone.clone(), id.clone());
        self.look_up(&key, |inner| {
            let view = Arc::new(cert_view(inner, self.read::<Cert>(inner, &key)?)?);
            // Under the lock: a change of the record takes it out again.
            self.shared.certs.insert(name, view.clone());
            Ok(view)
        })
    }

    fn name(&self, hostname: &Hostname) -> Result<Arc<Sni>, Unusable> {
        if let Some(found) = self.shared.names.get(hostname) {
            return Ok(found);
        }
        let key = RecordKey::Sni(hostname.clone());
        self.look_up(&key, |inner| {
            let found = Arc::new(self.read::<Sni>(inner, &key)?.into_content());
            self.shared.names.insert(hostname.clone(), found.clone());
            Ok(found)
        })
    }

    /// The certificates that serve a name, with the name that they were found under: itself, or `*.` and all but its
    /// first label. Never empty.
    ///
    /// # Errors
    /// [`Unusable`]: a refused record of the name itself is not passed over for the wildcard's.
    pub fn serving(&self, hostname: &Hostname) -> Result<Vec<(Hostname, CertRef)>, Unusable> {
        self.check()?;
        let (found_as, sni) = match self.name(hostname) {
            Ok(sni) => (hostname.clone(), sni),
            Err(error @ (Unusable::Unknown | Unusable::Ended)) => {
                let rest = hostname.as_str().split_once('.').filter(|(first, _)| *first != "*").map(|(_, rest)| rest);
                let wildcard = rest.and_then(|rest| format!("*.{rest}").parse::<Hostname>().ok()).ok_or(error)?;
                let sni = self.name(&wildcard)?;
                (wildcard, sni)
            }
            Err(error) => return Err(error),
        };
        let mut usable = Vec::with_capacity(sni.certs.len());
        let mut problem = Unusable::Unknown;
        for named in &sni.certs {
            match self.cert(&named.zone, &named.id) {
                Ok(view) if view.cert.hostnames.contains(&found_as) => usable.push((found_as.clone(), view)),
                Ok(_) => problem = Unusable::Missing("certificate, which has other names,"),
                Err(error) => problem = error,
            }
        }
        if usable.is_empty() { Err(problem) } else { Ok(usable) }
    }

    /// A secret that is no certificate's key.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn secret(&self, zone: &ZoneId, name: &SecretName) -> Result<Checked<Secret>, Unusable> {
        self.check()?;
        let key = RecordKey::Secret(zone.clone(), name.clone());
        self.look_up(&key, |inner| self.read::<Secret>(inner, &key))
    }

    /// A policy key's private half under one generation.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn ciphertext(
        &self,
        policy: &PolicyRef,
        generation: Generation,
    ) -> Result<Checked<PolicyCiphertext>, Unusable> {
        self.check()?;
        let key = RecordKey::PolicyCiphertext(policy.id.0, policy.version, generation);
        self.look_up(&key, |inner| self.read::<PolicyCiphertext>(inner, &key))
    }

    /// A version of a policy's key.
    pub fn policy(&self, policy: &PolicyRef) -> Option<Arc<PolicyView>> {
        self.shared.inner.read().world.policies.get(policy).cloned()
    }

    /// Every version of every policy's key that opens something.
    pub fn policies(&self) -> Vec<Arc<PolicyView>> {
        let inner = self.shared.inner.read();
        inner.world.policies.values().filter(|view| view.record.state.decrypts()).cloned().collect()
    }

    /// Generations whose keys open something, the newest first.
    pub fn live_generations(&self) -> Vec<Generation> {
        self.shared.inner.read().world.live_generations().collect()
    }

    /// Generations that a machine is to have keys of: all but the destroyed.
    pub fn generations(&self) -> Vec<Generation> {
        let inner = self.shared.inner.read();
        let used = |system: &&System| system.state != State::Destroyed;
        inner.world.systems.values().filter(used).map(|system| system.generation).collect()
    }

    /// The newest attribute schema.
    pub fn schema(&self) -> Option<(SchemaVersion, Arc<Schema>)> {
        let inner = self.shared.inner.read();
        inner.world.schemas.last_key_value().map(|(version, schema)| (*version, schema.clone()))
    }

    /// A machine; none when it is revoked, ended or its record is not usable.
    pub fn machine(&self, id: &MachineId) -> Option<Arc<MachineView>> {
        self.shared.inner.read().world.machine(id).cloned()
    }

    /// Was a machine revoked?
    pub fn is_revoked(&self, id: &MachineId) -> bool {
        self.shared.inner.read().world.revoked.contains(id)
    }

    /// Who holds a certificate's key, this machine among them.
    pub fn holders(&self, cert: &CertView) -> Arc<Holders> {
        let inner = self.shared.inner.read();
        let name = (cert.cert.policy.id.0, inner.epoch);
        if let Some(found) = self.shared.holders.get(&name) {
            return found;
        }
        let found = Arc::new(inner.world.holders(Some(&cert.policy)));
        self.shared.holders.insert(name, found.clone());
        found
    }

    /// Every machine that takes work and has an address, for probes; this one among them.
    pub fn all_peers(&self) -> Arc<Holders> {
        Arc::new(self.shared.inner.read().world.holders(None))
    }

    /// This machine.
    pub fn me(&self) -> &MachineId {
        &self.shared.me
    }

    /// Where this machine stands, by its record.
    pub fn data_center(&self) -> Option<DataCenterId> {
        let inner = self.shared.inner.read();
        inner.world.machines.get(&self.shared.me).map(|view| view.machine.data_center.clone())
    }

    /// The country of this machine, as it was issued.
    pub fn country(&self) -> Option<String> {
        let inner = self.shared.inner.read();
        let newest = inner.world.machines.get(&self.shared.me)?.machine.issued.last()?;
        newest.attributes.iter().find(|(label, _)| label == "country").map(|(_, country)| country.clone())
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterId {
        self.shared.verifier.cluster()
    }

    /// The embedded copy.
    pub fn local(&self) -> &Arc<Local> {
        &self.shared.local
    }

    /// Keys whose records are refused now.
    pub fn refused(&self) -> usize {
        self.shared.inner.read().standings.refused_len()
    }

    /// Counts changes of what decides over keys: generations, schemas, policies, ciphertexts, this machine.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }
}

/// Holds a certificate's record against what it names and what it holds.
fn cert_view(inner: &Inner, cert: Checked<Cert>) -> Result<CertView, Unusable> {
    let content = |problem: String| Unusable::Rejected(RecordError::Content(problem));
    let policy = inner.world.policies.get(&cert.policy).ok_or(Unusable::Missing("policy's record"))?;
    if policy.record.state == State::Destroyed {
        return Err(Unusable::Missing("policy's key"));
    }
    let (rest, leaf) =
        X509Certificate::from_der(&cert.chain[0]).map_err(|_| content("chain: no certificate".into()))?;
    if !rest.is_empty() || digest(&SHA256, leaf.public_key().raw).as_ref() != cert.spki_sha256 {
        return Err(content("spki_sha256: the leaf has another key".to_owned()));
    }
    let read = |text: &String| Policy::parse_with(text, &Limits::FORMAT);
    let served_by = cert.served_by.as_ref().map(read).transpose();
    let served_by = served_by.map_err(|error| content(format!("served_by: {error}")))?;
    Ok(CertView { policy: policy.policy.clone(), served_by, cert })
}

/// Counts a refusal.
fn count(key: &RecordKey, why: &Unusable) {
    metrics::rejected(key.kind().as_str(), why.reason()).increment(1);
}
