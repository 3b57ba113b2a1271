//! Custody: the authority's three secrets, sealed apart on its disk, and how long each is open.
//!
//! The road: [`Custody::init`] makes them once; [`Custody::open`] reads what is public; `serve` opens the cluster's CA and
//! the record-signing key ([`Custody::ca`], [`Custody::records`]); an operator opens the system secret keys for a while
//! ([`Custody::unseal`]), machine keys are issued within [`Custody::with_system_key`], and they close by themselves.
//! Law: nothing secret is on disk but sealed, each file as what it is ([`Secret`]), so that none stands in for another;
//! a system secret key is in memory until its deadline and no longer, whether or not anybody looks. What is public is
//! signed by the record-signing key, since these files could be exchanged: it is checked when that key is opened.
//!
//! Layout: `docs/formats.md#custody`.

mod files;
mod window;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cinnabar_abe::seal::{OperatorSecretKey, Recipient, RecipientInfo, seal};
use cinnabar_abe::signature::{RecordSigningKey, RecordVerifyingKey};
use cinnabar_abe::{PublicKey, SecretBytes, SystemSecretKey, setup};
use cinnabar_authority_api::Generation;
use cinnabar_authority_api::records::Mode;
use cinnabar_daemon::env::RngError;
use cinnabar_daemon::pki::{CertificateAuthority, PkiError, Validity};
use cinnabar_daemon::{Clock, ClusterId, Rng};

use self::files::{Folder, Public};
pub use self::window::Status;
use self::window::Window;
use cinnabar_daemon::random::generator;

/// Most generations whose secret keys lie in one folder: two in use, a few prepared or on their way out.
pub const GENERATIONS_MAX: usize = 16;
/// How long an operator opens the system secret keys unless asked otherwise.
pub const UNSEAL_USUAL: Duration = Duration::from_secs(15 * 60);
/// Longest that the system secret keys are opened at once: a working day, for a rotation of a large fleet.
pub const UNSEAL_MAX: Duration = Duration::from_secs(8 * 3600);
const _: () = assert!(UNSEAL_USUAL.as_secs() <= UNSEAL_MAX.as_secs());

/// Why a secret was not made, opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CustodyError {
    /// There is something where the folder should be made. Nothing was touched.
    #[error("{}: there is something already", path.display())]
    AlreadyThere {
        /// The folder or file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what belongs there. A person must look.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// A sealed file does not open: another passphrase or key, or the file was changed; which, is not told.
    #[error("{}: it does not open with this passphrase or key", path.display())]
    Rejected {
        /// The file.
        path: PathBuf,
    },
    /// The system secret keys are sealed. An operator must unseal them.
    #[error("the system secret keys are sealed")]
    Sealed,
    /// There is no such generation here.
    #[error("there is no secret key of generation {0} here")]
    NoGeneration(Generation),
    /// There are [`GENERATIONS_MAX`] already: destroy one that is no longer used.
    #[error("there are {GENERATIONS_MAX} generations already")]
    TooManyGenerations,
    /// Unsealing for no time, or for more than [`UNSEAL_MAX`].
    #[error("cannot unseal for {} s, allowed are 1 to {} s", asked.as_secs(), UNSEAL_MAX.as_secs())]
    Window {
        /// What was asked for.
        asked: Duration,
    },
    /// There is no tokio runtime whose timer could seal again. We are broken.
    #[error("no runtime to seal again in")]
    NoRuntime,
    /// The CA that should be sealed is another cluster's.
    #[error("the CA is of cluster `{0}`")]
    OtherCluster(ClusterId),
    /// Sealing refused its arguments, or the cryptography failed.
    #[error(transparent)]
    Crypto(#[from] cinnabar_abe::Error),
    /// The cluster's CA was not made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// No random bytes. Stop.
    #[error(transparent)]
    Rng(#[from] RngError),
}

/// One of the authority's secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Secret {
    /// The private key of the cluster's CA.
    Ca,
    /// The key that signs records.
    Records,
    /// The system secret key of a generation.
    System(Generation),
}

/// What the secret is sealed as; no two secrets have the same.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ca => f.write_str("cluster CA key"),
            Self::Records => f.write_str("record signing key"),
            Self::System(generation) => write!(f, "system secret key {generation}"),
        }
    }
}

/// What opens a sealed file.
#[derive(Debug, Clone, Copy)]
pub enum Opener<'a> {
    /// A passphrase.
    Passphrase(&'a SecretBytes),
    /// An operator's key.
    Operator(&'a OperatorSecretKey),
}

/// Where a new system's CA comes from.
#[derive(Debug, Clone, Copy)]
pub enum CaSource<'a> {
    /// It is made, and holds as long.
    New(Validity),
    /// The cluster has one already; its clear key is the operator's to remove.
    Existing(&'a CertificateAuthority),
}

/// What [`Custody::init`] makes a system of.
#[derive(Debug, Clone, Copy)]
pub struct NewSystem<'a> {
    /// The cluster's name, for good.
    pub cluster: &'a ClusterId,
    /// What the system is for, for good.
    pub mode: Mode,
    /// Where the cluster's CA comes from.
    pub ca_source: CaSource<'a>,
    /// Who may open the CA's key.
    pub ca: &'a [Recipient<'a>],
    /// Who may open the record-signing key.
    pub records: &'a [Recipient<'a>],
    /// Who may open the system secret key of generation 1.
    pub system: &'a [Recipient<'a>],
}

/// What [`Custody::init`] made, opened once, so that the first records can be signed without asking again.
pub struct Fresh {
    /// The folder.
    pub custody: Custody,
    /// The cluster's CA.
    pub ca: CertificateAuthority,
    /// The record-signing key.
    pub records: RecordSigningKey,
    /// The system public key of generation 1.
    pub system_public: PublicKey,
}

/// The folder with the sealed secrets. Methods that open a passphrase take its time and memory: call them where blocking
/// is allowed.
pub struct Custody {
    folder: Folder,
    public: Public,
    window: Arc<Window>,
}

impl Custody {
    /// Makes a new system: CA, record-signing key, system key pair of generation 1; seals each and writes all into `folder`,
    /// or nothing. `folder` may be there if it is empty.
    ///
    /// # Errors
    /// [`CustodyError::AlreadyThere`], [`CustodyError::File`], [`CustodyError::Crypto`], [`CustodyError::Pki`],
    /// [`CustodyError::Rng`]; nothing is left behind.
    pub fn init(
        folder: &Path,
        system: &NewSystem<'_>,
        rng: &dyn Rng,
        clock: Arc<dyn Clock>,
    ) -> Result<Fresh, CustodyError> {
        // Before the work; the last step refuses once more.
        files::refuse_if_there(folder)?;
        let random = &mut generator(rng)?;
        let ca = match system.ca_source {
            CaSource::New(validity) => CertificateAuthority::create(system.cluster, validity, rng)?,
            CaSource::Existing(ca) if ca.cluster() == system.cluster => {
                CertificateAuthority::from_pem(ca.certificate_pem(), &ca.key_pem())?
            }
            CaSource::Existing(ca) => return Err(CustodyError::OtherCluster(ca.cluster().clone())),
        };
        let records = RecordSigningKey::generate(random);
        let (system_public, system_secret) = setup(random)?;
        let public = Public::sign(system.cluster, system.mode, &records)?;
        let first = Generation::FIRST;

        let mut close = |secret: Secret, bytes: &SecretBytes, recipients: &[Recipient<'_>]| {
            let cluster = system.cluster.as_str().as_bytes();
            let sealed = seal(random, &secret.to_string(), cluster, bytes, recipients)?;
            Ok::<_, CustodyError>((files::name(secret), sealed))
        };
        let ca_key = SecretBytes::new(ca.key_pem().as_bytes().to_vec());
        let sealed = [
            close(Secret::Ca, &ca_key, system.ca)?,
            close(Secret::Records, &records.to_bytes(), system.records)?,
            close(Secret::System(first), &system_secret.to_bytes(), system.system)?,
        ];
        drop((ca_key, system_secret));
        let signed_key = files::sign_system_public(system.cluster, first, &system_public, &records)?;
        let written = Folder::create(folder, &public, ca.certificate_pem(), (first, &signed_key), &sealed)?;
        let custody = Self { folder: written, public, window: Arc::new(Window::new(clock)) };
        Ok(Fresh { custody, ca, records, system_public })
    }

    /// Reads what is public of a folder. Every secret stays sealed, and nothing is believed yet.
    ///
    /// # Errors
    /// [`CustodyError::File`], [`CustodyError::Damaged`].
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, CustodyError> {
        let folder = Folder::at(folder);
        let public = folder.read_public()?;
        Ok(Self { folder, public, window: Arc::new(Window::new(clock)) })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &ClusterId {
        &self.public.cluster
    }

    /// What the system is for.
    pub fn mode(&self) -> Mode {
        self.public.mode
    }

    /// The key that verifies this authority's records.
    pub fn record_verifying_key(&self) -> &RecordVerifyingKey {
        &self.public.record_key
    }

    /// The CA's certificate, PEM.
    ///
    /// # Errors
    /// [`CustodyError::File`], [`CustodyError::Damaged`].
    pub fn ca_certificate_pem(&self) -> Result<String, CustodyError> {
        self.folder.read_ca_certificate()
    }

    /// The system public key of a generation, as it was signed when it was made.
    ///
    /// # Errors
    /// [`CustodyError::NoGeneration`], [`CustodyError::File`], [`CustodyError::Damaged`].
    pub fn system_public(&self, generation: Generation) -> Result<PublicKey, CustodyError> {
        self.folder.read_system_public(generation, &self.public)
    }

    /// The generations whose secret keys are here, ascending.
    ///
    /// # Errors
    /// [`CustodyError::File`], [`CustodyError::TooManyGenerations`].
    pub fn generations(&self) -> Result<Vec<Generation>, CustodyError> {
        self.folder.generations()
    }

    /// Who can open a secret, for people to read.
    ///
    /// # Errors
    /// [`CustodyError::NoGeneration`], [`CustodyError::File`], [`CustodyError::Damaged`].
    pub fn recipients(&self, secret: Secret) -> Result<Vec<RecipientInfo>, CustodyError> {
        Ok(self.folder.read_sealed(secret, &self.public.cluster)?.recipients().collect())
    }

    /// Opens the cluster's CA.
    ///
    /// # Errors
    /// [`CustodyError::Rejected`]; [`CustodyError::Damaged`] when its certificate is another's; [`CustodyError::File`].
    pub fn ca(&self, opener: Opener<'_>) -> Result<CertificateAuthority, CustodyError> {
        let key = self.open_secret(Secret::Ca, opener)?;
        let damaged = |problem| self.folder.damaged(Secret::Ca, problem);
        let key = std::str::from_utf8(key.expose()).map_err(|_| damaged("it holds no PEM"))?;
        let ca = CertificateAuthority::from_pem(&self.folder.read_ca_certificate()?, key)?;
        if *ca.cluster() != self.public.cluster {
            return Err(damaged("the certificate is another cluster's"));
        }
        Ok(ca)
    }

    /// Opens the record-signing key, and believes `public.json` from then on: it must be signed by this key.
    ///
    /// # Errors
    /// [`CustodyError::Rejected`]; [`CustodyError::Damaged`] when `public.json` names another key; [`CustodyError::File`].
    pub fn records(&self, opener: Opener<'_>) -> Result<RecordSigningKey, CustodyError> {
        let seed = self.open_secret(Secret::Records, opener)?;
        let damaged = |problem| self.folder.damaged(Secret::Records, problem);
        let seed = seed.expose().try_into().map_err(|_| damaged("it holds no signing key"))?;
        let key = RecordSigningKey::from_bytes(seed);
        if key.verifying_key() != self.public.record_key {
            return Err(damaged("public.json names another key"));
        }
        Ok(key)
    }

    // === System secret keys ===

    /// Opens the system secret keys of all generations for 1 s to [`UNSEAL_MAX`]; they close by themselves. When they are open
    /// already, the new deadline takes the place of the old one, earlier or later. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`CustodyError::Window`], [`CustodyError::Rejected`], [`CustodyError::NoRuntime`], [`CustodyError::File`],
    /// [`CustodyError::Damaged`]; what was open before stays so.
    pub fn unseal(&self, opener: Opener<'_>, time: Duration) -> Result<Status, CustodyError> {
        if !(Duration::from_secs(1)..=UNSEAL_MAX).contains(&time) {
            return Err(CustodyError::Window { asked: time });
        }
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| CustodyError::NoRuntime)?;
        let mut keys = Vec::new();
        for generation in self.folder.generations()? {
            keys.push((generation, self.open_system(generation, opener)?));
        }
        Ok(self.window.open(keys, time, &runtime))
    }

    /// Closes the system secret keys now. A use that is under way ends first.
    pub fn reseal(&self) {
        self.window.close();
    }

    /// Whether the system secret keys are open, and until when.
    pub fn status(&self) -> Status {
        self.window.status()
    }

    /// Uses the system secret key of a generation.
    ///
    /// # Errors
    /// [`CustodyError::Sealed`]; [`CustodyError::NoGeneration`] when it was not there when they were opened.
    pub fn with_system_key<T>(
        &self,
        generation: Generation,
        use_key: impl FnOnce(&SystemSecretKey) -> T,
    ) -> Result<T, CustodyError> {
        Ok(use_key(&*self.window.key(generation)?))
    }

    /// Makes the key pair of the next generation, for a rotation. It is not open until the next [`Custody::unseal`].
    ///
    /// # Errors
    /// [`CustodyError::TooManyGenerations`], [`CustodyError::File`], [`CustodyError::Crypto`], [`CustodyError::Rng`];
    /// [`CustodyError::Damaged`] when `records` is not this system's.
    pub fn add_generation(
        &self,
        records: &RecordSigningKey,
        recipients: &[Recipient<'_>],
        rng: &dyn Rng,
    ) -> Result<(Generation, PublicKey), CustodyError> {
        if records.verifying_key() != self.public.record_key {
            return Err(self.folder.damaged(Secret::Records, "public.json names another key"));
        }
        let next = self.folder.next_generation()?;
        let random = &mut generator(rng)?;
        let (public, secret) = setup(random)?;
        let cluster = &self.public.cluster;
        let purpose = Secret::System(next);
        let sealed = seal(random, &purpose.to_string(), cluster.as_str().as_bytes(), &secret.to_bytes(), recipients)?;
        let signed_key = files::sign_system_public(cluster, next, &public, records)?;
        self.folder.write_generation(next, &signed_key, &sealed)?;
        Ok((next, public))
    }

    /// Takes a generation's secret key from disk and memory, for good. Its public key stays. Copies of the disk keep theirs.
    ///
    /// # Errors
    /// [`CustodyError::NoGeneration`], [`CustodyError::File`].
    pub fn destroy_generation(&self, generation: Generation) -> Result<(), CustodyError> {
        self.window.forget(generation);
        self.folder.remove_sealed(Secret::System(generation))
    }

    /// Seals a secret to other recipients: a new passphrase, an operator who left. The old file is gone from the folder,
    /// though not from copies of it.
    ///
    /// # Errors
    /// As opening and sealing; the old file is then still in place.
    pub fn change_recipients(
        &self,
        secret: Secret,
        opener: Opener<'_>,
        recipients: &[Recipient<'_>],
        rng: &dyn Rng,
    ) -> Result<(), CustodyError> {
        let bytes = self.open_secret(secret, opener)?;
        let cluster = self.public.cluster.as_str().as_bytes();
        let sealed = seal(&mut generator(rng)?, &secret.to_string(), cluster, &bytes, recipients)?;
        self.folder.replace_sealed(secret, &sealed)
    }

    fn open_secret(&self, secret: Secret, opener: Opener<'_>) -> Result<SecretBytes, CustodyError> {
        let cluster = &self.public.cluster;
        let file = self.folder.read_sealed(secret, cluster)?;
        let (purpose, cluster) = (secret.to_string(), cluster.as_str().as_bytes());
        let opened = match opener {
            Opener::Passphrase(passphrase) => file.open_with_passphrase(&purpose, cluster, passphrase),
            Opener::Operator(key) => file.open_with_key(&purpose, cluster, key),
        };
        opened.map_err(|error| match error {
            cinnabar_abe::Error::Rejected => CustodyError::Rejected { path: self.folder.path(secret) },
            other => CustodyError::Crypto(other),
        })
    }

    fn open_system(&self, generation: Generation, opener: Opener<'_>) -> Result<SystemSecretKey, CustodyError> {
        let secret = Secret::System(generation);
        let bytes = self.open_secret(secret, opener)?;
        SystemSecretKey::from_bytes(bytes.expose())
            .map_err(|_| self.folder.damaged(secret, "it holds no system secret key"))
    }
}

impl fmt::Debug for Custody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custody").field("cluster", &self.public.cluster).finish_non_exhaustive()
    }
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh").field("custody", &self.custody).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
