//! Who this machine is: what enrolment pinned, its attribute keys sealed on disk, its certificate renewed.
//!
//! The road: `cinnabar edge enrol` turns a token into certificate, key and pins ([`enrol`]); from then on [`Identity::run`]
//! fetches attribute keys when a generation, the schema or this machine's record asks for it, and a certificate when a
//! seventh of the old one's life is over. Law: an attribute key touches the disk sealed to a key that is elsewhere; in
//! clear only in a demonstration, by the system's own signed record. The authority may be away: everything goes on.

pub mod enrol;
mod sealed;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cinnabar_abe::AttributeKey;
use cinnabar_abe::signature::RecordVerifyingKey;
use cinnabar_authority_api::client::{MachineClient, MachineKey};
use cinnabar_authority_api::limits::LIVE_GENERATIONS_MAX;
use cinnabar_authority_api::{Generation, MachineId};
use cinnabar_daemon::pki::NewKey;
use cinnabar_daemon::{Backoff, ClusterId, Env, Shutdown, Tls, TlsFiles, file};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::sealed::{InMemory, KeyFile, KeyFileError, Sealing, TLS_PURPOSE, open_tls_key};
use crate::directory::Directory;
use crate::keyring::MachineKeys;
use crate::limits::{IDENTITY_FILE_BYTES_MAX, IDENTITY_LOOK_MS, IDENTITY_PAUSE_MS_FIRST, IDENTITY_PAUSE_MS_MAX};
use crate::metrics;

/// A certificate is renewed when one part of so many of its life is over.
const RENEW_PARTS: i64 = 7;

/// What enrolment pinned: public, but whoever changes it changes whom this machine believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    /// The cluster.
    pub cluster: ClusterId,
    /// This machine.
    pub machine: MachineId,
    /// SHA-256 of the cluster's CA certificate, DER, in hexadecimal.
    pub ca_sha256: String,
    /// The key that verifies the authority's records, in hexadecimal.
    pub record_key: String,
}

/// Why this machine cannot be who it says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl IdentityError {
    fn content(path: &Path, problem: impl std::fmt::Display) -> Self {
        Self::Content { path: path.to_owned(), problem: problem.to_string() }
    }
}

impl Pins {
    /// Reads the file that enrolment wrote.
    ///
    /// # Errors
    /// [`IdentityError`], naming the file.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let read = file::read_bounded(path, IDENTITY_FILE_BYTES_MAX);
        let bytes = read.map_err(|source| IdentityError::File { path: path.to_owned(), source })?;
        let text = std::str::from_utf8(&bytes).map_err(|error| IdentityError::content(path, error))?;
        toml::from_str(text).map_err(|error| IdentityError::content(path, error.message()))
    }

    /// The key that verifies records.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn record_key(&self) -> Result<RecordVerifyingKey, String> {
        let mut bytes = [0; 32];
        let decoded = hex::decode_to_slice(&self.record_key, &mut bytes);
        // As it is written, in small letters: one spelling for one key.
        if decoded.is_err() || hex::encode(bytes) != self.record_key {
            return Err("record_key: not 64 hexadecimal digits in small letters".to_owned());
        }
        RecordVerifyingKey::from_bytes(&bytes).map_err(|error| format!("record_key: {error}"))
    }
}

/// What keeps this machine who it is.
pub struct Identity {
    /// What the records say of it.
    pub directory: Directory,
    /// Where its attribute keys go.
    pub keys: MachineKeys,
    /// Where they are kept.
    pub file: KeyFile,
    /// The authority.
    pub authority: MachineClient,
    /// The certificate in use.
    pub tls: std::sync::Arc<Tls>,
    /// Its files.
    pub files: TlsFiles,
    /// Time and randomness.
    pub env: Env,
}

impl Identity {
    /// Keeps keys and certificate as they should be, until the shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let mut changes = self.directory.watch();
        let pauses = (Duration::from_millis(IDENTITY_PAUSE_MS_FIRST), Duration::from_millis(IDENTITY_PAUSE_MS_MAX));
        let mut backoff = Backoff::new(pauses.0, pauses.1, self.env.rng.clone());
        let mut loaded = false;
        loop {
            changes.mark_unchanged();
            let step = async {
                if !loaded {
                    loaded = self.load().await;
                }
                // Once records are believed, keys that may not be kept here are not waited for.
                if loaded || self.directory.trust().may_sign_local() {
                    self.keys.settle();
                }
                self.step().await
            };
            let done = tokio::select! {
                () = shutdown.wait() => return,
                done = step => done,
            };
            let pause = match done {
                Ok(()) => {
                    backoff.reset();
                    Duration::from_millis(IDENTITY_LOOK_MS)
                }
                Err(error) => {
                    tracing::warn!(%error, "this machine's keys or certificate are not renewed; it is tried again");
                    backoff.next_delay()
                }
            };
            let failed = pause.as_millis() < u128::from(IDENTITY_LOOK_MS);
            tokio::select! {
                () = shutdown.wait() => return,
                // After a failure a change is no reason to hurry.
                changed = changes.changed(), if !failed => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Takes in the keys of an earlier process; true when there is nothing more to do.
    async fn load(&self) -> bool {
        if !self.may_keep() {
            return false;
        }
        let (file, cluster) = (self.file.clone(), self.directory.cluster().clone());
        match tokio::task::spawn_blocking(move || file.load(&cluster)).await {
            Ok(Ok(keys)) => {
                if !keys.is_empty() {
                    self.keys.replace(keys);
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "the sealed attribute keys cannot be used; new ones are fetched"),
            Err(_) => return false,
        }
        true
    }

    /// Is the way in which the keys are kept allowed? Not known before the system's record is.
    fn may_keep(&self) -> bool {
        let trust = self.directory.trust();
        !self.file.is_plain() || (trust.may_sign_local() && trust.demo)
    }

    async fn step(&self) -> Result<(), String> {
        metrics::insecure_machine_key(self.file.is_plain());
        // First: an authority whose system secret keys are sealed renews certificates still, and gives no keys.
        let renewed = self.renew_if_due().await;
        if self.wants_keys() && self.may_keep() {
            self.fetch().await?;
        }
        renewed
    }

    /// Is a key missing, another than was issued, or older than the schema?
    fn wants_keys(&self) -> bool {
        let Some(me) = self.directory.machine(self.directory.me()) else { return false };
        let labels = self.directory.schema().map(|(_, schema)| schema.compiled_labels()).unwrap_or_default();
        self.directory.generations().into_iter().any(|generation| match self.keys.usable(generation, &me) {
            Err(_) => true,
            Ok(key) => {
                let held: std::collections::BTreeSet<String> = key.attributes().labels().collect();
                labels.iter().any(|label| !held.contains(label))
            }
        })
    }

    async fn fetch(&self) -> Result<(), String> {
        let issued = self.authority.keys().await.map_err(|error| error.to_string())?;
        let (file, cluster) = (self.file.clone(), self.directory.cluster().clone());
        let parsed = tokio::task::spawn_blocking(move || {
            let keys = parse(&issued)?;
            file.store(&cluster, &issued).map_err(|error| error.to_string())?;
            Ok::<_, String>(keys)
        });
        let keys = parsed.await.map_err(|error| error.to_string())??;
        tracing::info!(generations = ?keys.keys().map(|key| key.get()).collect::<Vec<_>>(), "attribute keys fetched");
        self.keys.replace(keys);
        Ok(())
    }

    async fn renew_if_due(&self) -> Result<(), String> {
        let now_s = i64::try_from(self.env.clock.unix_ms() / 1000).unwrap_or(i64::MAX);
        if !is_due(&self.tls.certificate(), now_s) {
            return Ok(());
        }
        let key = self.files.key.clone();
        let request = tokio::task::spawn_blocking(move || {
            let pem = file::read_bounded(&key, IDENTITY_FILE_BYTES_MAX).map(zeroize::Zeroizing::new);
            let pem = pem.map_err(|error| format!("{}: {error}", key.display()))?;
            let text = std::str::from_utf8(&pem).map_err(|_| format!("{}: not PEM", key.display()))?;
            NewKey::request_again(text).map_err(|error| error.to_string())
        });
        let request = request.await.map_err(|error| error.to_string())??;
        let certificate = self.authority.renew(request).await.map_err(|error| error.to_string())?;
        let (path, tls) = (self.files.cert.clone(), self.tls.clone());
        let written = tokio::task::spawn_blocking(move || {
            // The key stays, so one file in one step: at no moment do the two not fit each other.
            let old = file::read_bounded(&path, IDENTITY_FILE_BYTES_MAX).map_err(|error| error.to_string())?;
            let write =
                |pem: &[u8]| file::write_synced(&path, pem, file::PRIVATE, true).map_err(|error| error.to_string());
            write(certificate.certificate_pem.as_bytes())?;
            tls.reload().map(drop).map_err(|error| match write(&old) {
                Ok(()) => format!("the renewed certificate is refused, the old one stays: {error}"),
                Err(second) => format!("the renewed certificate is refused: {error}; the old one is lost: {second}"),
            })
        });
        written.await.map_err(|error| error.to_string())??;
        tracing::info!(not_after_s = certificate.not_after_s, "certificate renewed");
        Ok(())
    }
}

/// Is so much of a certificate's life over that another is asked for?
fn is_due(certificate: &[u8], now_s: i64) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return true };
    let (from, to) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    now_s >= from.saturating_add(to.saturating_sub(from) / RENEW_PARTS)
}

/// Reads keys as the authority or the file gives them.
fn parse(keys: &[MachineKey]) -> Result<BTreeMap<Generation, AttributeKey>, String> {
    if keys.len() > LIVE_GENERATIONS_MAX {
        return Err(format!("keys of {} generations; a machine holds {LIVE_GENERATIONS_MAX}", keys.len()));
    }
    let parsed = keys.iter().map(|key| {
        let parsed = AttributeKey::from_bytes(key.key.expose());
        let parsed = parsed.map_err(|error| format!("key of generation {}: {error}", key.generation.get()))?;
        if parsed.attributes().wildcard_labels().next().is_some() {
            return Err(format!("key of generation {}: has a wildcard, which is never issued", key.generation.get()));
        }
        Ok((key.generation, parsed))
    });
    parsed.collect()
}
