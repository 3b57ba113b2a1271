//! The keys that this machine's attributes open: policies' first, once each, then customers', cheaply.
//!
//! The road: a policy's ciphertext arrives -> is the policy satisfied? (no group operation) -> one decryption, on one of
//! few blocking threads -> the policy key stays in memory; a certificate's key is unwrapped with it, held against the
//! certificate, parsed, and stays too. Law: what is open is in memory alone, bounded, and wiped when it leaves; a key
//! whose certificate shows another one is never used.

mod machine;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use cinnabar_abe::envelope::{PolicySecretKey, WrappedSecret};
use cinnabar_abe::{AttributeKey, Ciphertext, SecretBytes};
use cinnabar_authority_api::records::PolicyRef;
use cinnabar_authority_api::{CertId, Generation, SecretName, ZoneId};
use cinnabar_daemon::Shutdown;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

pub use self::machine::{KeyRefused, MachineKeys};
use crate::directory::{CertRef, Directory, PolicyView, Unusable};
use crate::limits::{CUSTOMER_KEYS_MAX, DECRYPTIONS_WAITING_MAX, POLICY_KEYS_MAX};
use crate::metrics;
use crate::signer::SigningKey;

/// Longest time between two looks for policies that could be opened.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Time between two looks whether records and keys of the start are there.
const FIRST_LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why a key is not here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotHere {
    /// This machine's attributes do not satisfy the policy.
    #[error("this machine's attributes do not satisfy the policy")]
    NotSatisfied,
    /// This machine has no usable attribute key, or was revoked.
    #[error("this machine has no attribute key that may be used")]
    NoKey,
    /// What should open does not, or holds another key than the certificate shows.
    #[error("the key is refused: {0}")]
    Rejected(String),
    /// A record that is needed is not usable.
    #[error(transparent)]
    Record(#[from] Unusable),
    /// Too many policies are being opened.
    #[error("too many policies are being opened at once")]
    Busy,
}

impl From<NotHere> for cinnabar_edge_api::Refusal {
    fn from(error: NotHere) -> Self {
        use cinnabar_edge_api::refusal::RefusalCode;
        let code = match error {
            NotHere::NotSatisfied | NotHere::NoKey => RefusalCode::NotPermitted,
            NotHere::Rejected(_) => RefusalCode::UnknownCertificate,
            NotHere::Record(error) => return error.into(),
            NotHere::Busy => RefusalCode::Overloaded,
        };
        Self::new(code, error.to_string())
    }
}

/// A customer's key by its record: a changed record is another key.
type CustomerKey = (ZoneId, CertId, u64, [u8; 32]);

struct Shared {
    directory: Directory,
    machine: MachineKeys,
    policies: Cache<PolicyRef, Arc<PolicySecretKey>>,
    customers: Cache<CustomerKey, (PolicyRef, Arc<SigningKey>)>,
    threads: Arc<Semaphore>,
    waiting: AtomicUsize,
    decryptions: AtomicU64,
    looked: AtomicBool,
}

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct Keyring {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("policies", &self.shared.policies.len()).finish_non_exhaustive()
    }
}

/// What is opened with: the newest generation whose key satisfies.
struct Opening {
    key: Arc<AttributeKey>,
    generation: Generation,
}

impl Keyring {
    /// An empty ring.
    pub fn new(directory: Directory, machine: MachineKeys) -> Self {
        // Half of the processors: signatures must not wait for policies to be opened.
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).div_ceil(2);
        Self {
            shared: Arc::new(Shared {
                directory,
                machine,
                policies: Cache::new(POLICY_KEYS_MAX),
                customers: Cache::new(CUSTOMER_KEYS_MAX),
                threads: Arc::new(Semaphore::new(threads)),
                waiting: AtomicUsize::new(0),
                decryptions: AtomicU64::new(0),
                looked: AtomicBool::new(false),
            }),
        }
    }

    /// The key of a certificate, ready to sign: from memory, or opened now.
    ///
    /// # Errors
    /// [`NotHere`].
    pub async fn key(&self, cert: &CertRef) -> Result<Arc<SigningKey>, NotHere> {
        let record = &cert.cert;
        let policy = self.allowed(&record.policy)?;
        let opening = self.opening(&policy)?;
        let name = (record.zone.clone(), record.id.clone(), record.version(), record.spki_sha256);
        let opened = self.shared.customers.get_or_insert_async(&name, async {
            let secret = self.policy_key(&policy, opening).await?;
            let (cert, cluster) = (cert.clone(), self.shared.directory.cluster().clone());
            // Parsing an RSA key takes a processor for a millisecond.
            let opened = tokio::task::spawn_blocking(move || unwrap(&cert, &cluster, &secret)).await;
            let opened = opened.unwrap_or_else(|_| Err(NotHere::Rejected("opening it failed".to_owned())))?;
            Ok((policy.reference(), opened))
        });
        opened.await.map(|(_, key)| key)
    }

    /// A secret that is no certificate's key.
    ///
    /// # Errors
    /// [`NotHere`].
    pub async fn secret(&self, zone: &ZoneId, name: &SecretName) -> Result<SecretBytes, NotHere> {
        let record = self.shared.directory.secret(zone, name)?;
        let policy = self.allowed(&record.policy)?;
        let opening = self.opening(&policy)?;
        let secret = self.policy_key(&policy, opening).await?;
        let wrapped = WrappedSecret::from_bytes(&record.wrapped).map_err(rejected)?;
        secret.unwrap(&record.context(self.shared.directory.cluster()), &wrapped).map_err(rejected)
    }

    /// May this machine open a policy, by its attributes and its standing? Says why not.
    ///
    /// # Errors
    /// [`NotHere`].
    pub fn could_open(&self, policy: &PolicyRef) -> Result<(), NotHere> {
        let policy = self.allowed(policy)?;
        self.opening(&policy).map(drop)
    }

    /// The newest generation of which this machine has a key that may be used; 0 for none.
    pub fn generation(&self) -> u32 {
        let usable = |generation: &Generation| self.machine_key(*generation).is_ok();
        self.shared.directory.generations().into_iter().rev().find(usable).map_or(0, Generation::get)
    }

    /// Policy keys in memory.
    pub fn open_policies(&self) -> usize {
        self.shared.policies.len()
    }

    /// Attribute-based decryptions since the start.
    pub fn decryptions(&self) -> u64 {
        self.shared.decryptions.load(Ordering::Relaxed)
    }

    /// The policy's record, unless its key is destroyed.
    fn allowed(&self, policy: &PolicyRef) -> Result<Arc<PolicyView>, NotHere> {
        let view = self.shared.directory.policy(policy).ok_or(Unusable::Missing("policy's record"))?;
        let usable = view.record.state.decrypts();
        if usable { Ok(view) } else { Err(Unusable::Missing("policy's key").into()) }
    }

    /// This machine's key of a generation, if its own signed record says the same as the key.
    fn machine_key(&self, generation: Generation) -> Result<Arc<AttributeKey>, NotHere> {
        let directory = &self.shared.directory;
        let me = directory.machine(directory.me()).ok_or(NotHere::NoKey)?;
        self.shared.machine.usable(generation, &me).map_err(|_| NotHere::NoKey)
    }

    fn opening(&self, policy: &PolicyView) -> Result<Opening, NotHere> {
        let mut problem = NotHere::NoKey;
        for generation in self.shared.directory.live_generations() {
            let Ok(key) = self.machine_key(generation) else { continue };
            if policy.policy.is_satisfied_by(key.attributes()) {
                return Ok(Opening { key, generation });
            }
            problem = NotHere::NotSatisfied;
        }
        Err(problem)
    }

    async fn policy_key(&self, policy: &PolicyView, opening: Opening) -> Result<Arc<PolicySecretKey>, NotHere> {
        let reference = policy.reference();
        let opened = self.shared.policies.get_or_insert_async(&reference, self.decrypt(reference, opening));
        let opened = opened.await?;
        if opened.public_key().as_bytes() == &policy.record.public_key {
            return Ok(opened);
        }
        self.shared.policies.remove(&reference);
        Err(NotHere::Rejected("the policy's ciphertext holds another key than its record".to_owned()))
    }

    async fn decrypt(&self, policy: PolicyRef, opening: Opening) -> Result<Arc<PolicySecretKey>, NotHere> {
        let shared = &self.shared;
        let Opening { key, generation } = opening;
        let record = shared.directory.ciphertext(&policy, generation)?;
        let _place = Waiting::enter(&shared.waiting)?;
        let Ok(thread) = shared.threads.clone().acquire_owned().await else { return Err(NotHere::Busy) };
        shared.decryptions.fetch_add(1, Ordering::Relaxed);
        let cluster = shared.directory.cluster().clone();
        let opening = tokio::task::spawn_blocking(move || {
            let _thread = thread;
            let ciphertext = Ciphertext::from_bytes(&record.ciphertext)?;
            let cluster = cluster.as_str().as_bytes();
            PolicySecretKey::decrypt(&key, &ciphertext, cluster, &policy.id.0, policy.version.0)
        });
        let opened = opening.await.map_err(|_| NotHere::Rejected("opening it failed".to_owned()))?;
        metrics::policy_opened(opened.is_ok());
        opened.map(Arc::new).map_err(rejected)
    }

    /// Opens what this machine's attributes satisfy as it arrives, until the shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let mut changes = self.shared.directory.watch();
        let mut keys = self.shared.machine.watch();
        loop {
            changes.mark_unchanged();
            keys.mark_unchanged();
            let could_look = self.could_look();
            tokio::select! {
                () = shutdown.wait() => return,
                () = self.open_all() => {}
            }
            self.shared.looked.fetch_or(could_look, Ordering::AcqRel);
            tokio::select! {
                () = shutdown.wait() => return,
                () = self.until_it_could_look(), if !self.has_looked() => {}
                changed = changes.changed() => if changed.is_err() { return },
                changed = keys.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Was every policy opened once that this machine may open, with the keys and the records of its start? Until then a
    /// handshake here would wait for its policy.
    pub fn has_looked(&self) -> bool {
        self.shared.looked.load(Ordering::Acquire)
    }

    fn could_look(&self) -> bool {
        self.shared.machine.is_settled() && self.shared.directory.trust().may_sign_local()
    }

    async fn until_it_could_look(&self) {
        while !self.could_look() {
            tokio::time::sleep(FIRST_LOOK_EVERY).await;
        }
    }

    /// Opens every policy that may be opened and is not; drops those that may not any more, and customers' keys under them,
    /// of certificates that were replaced, and of those that ended.
    pub(crate) async fn open_all(&self) {
        let policies = self.shared.directory.policies();
        self.shared.policies.retain(|held, _| self.could_open(held).is_ok());
        self.shared.customers.retain(|(zone, id, version, _), (policy, _)| {
            let current = self.shared.directory.cert(zone, id).is_ok_and(|cert| cert.cert.version() == *version);
            current && self.could_open(policy).is_ok()
        });
        let mut open = tokio::task::JoinSet::new();
        for policy in policies.into_iter().take(POLICY_KEYS_MAX) {
            if self.shared.policies.contains_key(&policy.reference()) {
                continue;
            }
            let Ok(opening) = self.opening(&policy) else { continue };
            // A part of the queue, so that nobody who waits for one finds it full.
            while open.len() >= DECRYPTIONS_WAITING_MAX / 4 {
                open.join_next().await;
            }
            let keyring = self.clone();
            open.spawn(async move {
                if let Err(error) = keyring.policy_key(&policy, opening).await {
                    tracing::warn!(%error, policy = %policy.record.id.0, "a policy's key is not opened");
                }
            });
        }
        while open.join_next().await.is_some() {}
    }
}

/// A place among those that wait for a decryption.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Result<Self, NotHere> {
        let before = count.fetch_add(1, Ordering::AcqRel);
        let place = Self(count);
        if before < DECRYPTIONS_WAITING_MAX { Ok(place) } else { Err(NotHere::Busy) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn rejected(error: impl std::fmt::Display) -> NotHere {
    NotHere::Rejected(error.to_string())
}

/// Unwraps a customer's key and holds it against its certificate.
fn unwrap(
    cert: &CertRef,
    cluster: &cinnabar_daemon::ClusterId,
    secret: &PolicySecretKey,
) -> Result<Arc<SigningKey>, NotHere> {
    let record = &cert.cert;
    let wrapped = WrappedSecret::from_bytes(&record.wrapped_key).map_err(rejected)?;
    let pkcs8 = secret.unwrap(&record.context(cluster), &wrapped).map_err(rejected)?;
    let key = SigningKey::from_pkcs8(pkcs8.expose(), record.key_type).map_err(rejected)?;
    let spki = key.public_key_der().map_err(rejected)?;
    if digest(&SHA256, &spki).as_ref() != record.spki_sha256 {
        return Err(NotHere::Rejected("it is another key than the certificate's".to_owned()));
    }
    Ok(Arc::new(key))
}
