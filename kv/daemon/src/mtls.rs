//! Mutual TLS 1.3 between the processes of one cluster, and signatures by the same certificates.
//!
//! The road: [`Tls::load`] reads authority, certificate and key; [`Acceptor`] and [`Tls::channel`] take the newest of
//! them for every new connection; [`Tls::reload`] swaps them. Law: nobody is spoken to before both sides proved an
//! identity of this cluster, anew for every connection (no resumption, no early data); what is loaded is used only if all of it
//! is valid, and the identity of a process never changes while it runs.
//! Connections that are open survive a reload; a certificate is judged when a connection is made.
//! Source: RFC 8446 (TLS 1.3), X509-SVID (identity in the URI SAN).

mod acceptor;
mod channel;
mod io;
pub mod metrics;
mod signed;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::metrics::{counter, gauge};
use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

pub use self::acceptor::{Acceptor, AcceptorLimits, handshake_result, is_of_the_peer};
pub use self::channel::{ClientIo, uds_channel};
pub use self::io::{PeerInfo, TlsIo};
pub use self::signed::{CONTEXT, SIGNATURE_BYTES_MAX, Signature, VERIFIED_CERTIFICATES_MAX, VerifiedCertificates};
use self::verify::{Accept, PeerVerifier, Purpose, Roots};
pub use self::verify::{CERTIFICATE_BYTES_MAX, INTERMEDIATES_MAX, VerifyError};
use crate::env::Clock;
use crate::file;
use crate::id::{ClusterId, Identity, NodeName, Role};
use crate::shutdown::Shutdown;

/// Longest a TLS handshake may take, on either side.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often [`Tls::watch`] looks at the files.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Largest certificate, key or authority file in bytes.
pub const FILE_BYTES_MAX: usize = 256 * 1024;
/// Most authorities in one trust file; two during a change of authority.
pub const AUTHORITIES_MAX: usize = 8;

/// The protocol we speak inside: HTTP/2 and nothing else.
const ALPN: &[u8] = b"h2";

/// Where a process finds its certificates; all PEM.
#[derive(serde::Serialize, serde::Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The authorities we trust.
    pub ca: PathBuf,
    /// Our certificate, then those between it and the authority.
    pub cert: PathBuf,
    /// Its private key (PKCS #8, SEC1 or PKCS #1).
    pub key: PathBuf,
}

/// Why certificates could not be loaded or used. The operator's fault, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or is too large.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not PEM or holds too little or too much.
    #[error("{}: expected {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// The private key is of no kind we use or belongs to another certificate.
    #[error("{}: {source}", path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// Our own certificate would be refused by every peer.
    #[error("our own certificate {}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What a peer would say.
        source: VerifyError,
    },
    /// The new certificate names somebody else. A process keeps its identity until it restarts.
    #[error("the new certificate is for {actual}, this process is {expected}")]
    IdentityChanged {
        /// Who we are.
        expected: Identity,
        /// Who the new certificate says we are.
        actual: Identity,
    },
    /// rustls refused a configuration or a signature. We are broken.
    #[error("TLS library: {0}")]
    Library(#[from] rustls::Error),
}

/// What [`Tls::reload`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The files were new and valid: they are in use from now on.
    Loaded,
    /// The files hold what is already in use.
    Unchanged,
}

/// The current certificates of this process, and everything that is made with them.
pub struct Tls {
    files: TlsFiles,
    cluster: ClusterId,
    identity: Identity,
    clock: Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Loaded>,
    /// One reload at a time, so that an older read never replaces a newer one.
    reloading: Mutex<()>,
}

/// One consistent set of certificates; never changed, only replaced.
struct Loaded {
    identity: Identity,
    not_after_s: u64,
    certified: Arc<CertifiedKey>,
    roots: Roots,
    server: Arc<ServerConfig>,
    verified: VerifiedCertificates,
    /// Of the three files' bytes; only ever compared with our own.
    fingerprint: u64,
}

impl Tls {
    /// Loads the files and checks that peers of `cluster` would accept them now.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the fault.
    pub fn load(files: &TlsFiles, cluster: &ClusterId, clock: Arc<dyn Clock>) -> Result<Arc<Self>, TlsError> {
        metrics::describe();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let loaded = Loaded::read(files, cluster, &clock, &provider)?;
        loaded.publish();
        Ok(Arc::new(Self {
            files: files.clone(),
            cluster: cluster.clone(),
            identity: loaded.identity.clone(),
            clock,
            provider,
            current: ArcSwap::from_pointee(loaded),
            reloading: Mutex::new(()),
        }))
    }

    /// Loads the files for a client that belongs to the cluster that its certificate names.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn load_client(files: &TlsFiles, clock: Arc<dyn Clock>) -> Result<Arc<Self>, TlsError> {
        let chain =
            certificates(&files.cert, &read(&files.cert)?, 1 + INTERMEDIATES_MAX, "one to four CERTIFICATE blocks")?;
        let named = chain.first().map(verify::read_identity);
        let Some(Ok(identity)) = named else {
            return Err(TlsError::Content {
                path: files.cert.clone(),
                expected: "a certificate with a spiffe:// name",
            });
        };
        Self::load(files, &identity.cluster, clock)
    }

    /// Who we are; the same for the whole life of the process.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Last second of our current certificate, in seconds since 1970.
    #[must_use]
    pub fn not_after_s(&self) -> u64 {
        self.current.load().not_after_s
    }

    /// Our current leaf certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> Vec<u8> {
        self.current.load().leaf().to_vec()
    }

    /// Loads the files anew and uses them for every connection and signature from now on. Reads three small files: from
    /// asynchronous code call it through `spawn_blocking`, as [`Tls::watch`] does.
    ///
    /// # Errors
    /// [`TlsError`]; what was in use stays in use.
    pub fn reload(&self) -> Result<Reload, TlsError> {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.reload_locked();
        let result = match &outcome {
            Ok(Reload::Loaded) => "loaded",
            Ok(Reload::Unchanged) => "unchanged",
            Err(_) => "refused",
        };
        counter!(metrics::RELOADS, "result" => result).increment(1);
        outcome
    }

    fn reload_locked(&self) -> Result<Reload, TlsError> {
        let loaded = Loaded::read(&self.files, &self.cluster, &self.clock, &self.provider)?;
        if loaded.identity != self.identity {
            return Err(TlsError::IdentityChanged { expected: self.identity.clone(), actual: loaded.identity });
        }
        if loaded.fingerprint == self.current.load().fingerprint {
            return Ok(Reload::Unchanged);
        }
        loaded.publish();
        self.current.store(Arc::new(loaded));
        Ok(Reload::Loaded)
    }

    /// Looks at the files every [`WATCH_INTERVAL`] and reloads them when they changed, until the shutdown. Files that
    /// do not load are tried again every time, since certificate and key are replaced one after the other; the same
    /// fault is logged once.
    pub async fn watch(self: Arc<Self>, shutdown: Shutdown) {
        let mut last_fault = String::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
            let tls = Arc::clone(&self);
            let Ok(outcome) = tokio::task::spawn_blocking(move || tls.reload()).await else { continue };
            match outcome {
                Ok(Reload::Unchanged) => last_fault.clear(),
                Ok(Reload::Loaded) => {
                    last_fault.clear();
                    let not_after_s = self.not_after_s();
                    tracing::info!(identity = %self.identity, not_after_s, "new certificates in use");
                }
                Err(error) => {
                    let fault = error.to_string();
                    if fault != last_fault {
                        tracing::error!(error = %fault, "new certificates refused, the old ones stay in use");
                        last_fault = fault;
                    }
                }
            }
        }
    }

    /// Signs a message with the certificate's key, under [`CONTEXT`].
    ///
    /// # Errors
    /// [`TlsError::Library`] when the key does not sign: we are broken.
    pub fn sign(&self, message: &[u8]) -> Result<Signature, TlsError> {
        let loaded = self.current.load();
        let signer = loaded
            .certified
            .key
            .choose_scheme(signed::SCHEMES)
            .ok_or_else(|| rustls::Error::General("the key makes none of our signature schemes".to_owned()))?;
        Ok(Signature {
            certificate: loaded.leaf().to_vec(),
            scheme: signer.scheme().into(),
            signature: signer.sign(&signed::signed_bytes(message))?,
        })
    }

    /// Checks a signature made by [`Tls::sign`] at `now_unix_ms` (milliseconds since 1970): certificate, role,
    /// signature. The chain is walked once per certificate and set of authorities; after that a call costs a look-up and
    /// the signature check.
    ///
    /// # Errors
    /// [`VerifyError`]; nothing about the message may then be believed.
    pub fn verify_signed(
        &self,
        certificate_der: &[u8],
        scheme: u16,
        message: &[u8],
        signature: &[u8],
        accept_roles: &'static [Role],
        now_unix_ms: u64,
    ) -> Result<Identity, VerifyError> {
        let loaded = self.current.load();
        let certificate = CertificateDer::from(certificate_der);
        let identity = loaded.verified.identify(&loaded.roots, &certificate, unix_time(now_unix_ms))?;
        Accept { roles: accept_roles, name: None }.check(&identity)?;
        signed::check_signature(&loaded.roots, &certificate, scheme, message, signature)?;
        Ok(identity)
    }

    /// What a new incoming connection is answered with.
    fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().server)
    }

    /// What a new outgoing connection is made with. Built per connection, because whom it accepts differs; it shares
    /// everything that is costly.
    fn client_config(
        &self,
        roles: &'static [Role],
        name: Option<NodeName>,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let loaded = self.current.load();
        let verifier = PeerVerifier { roots: loaded.roots.clone(), accept: Accept { roles, name } };
        let mut config = ClientConfig::builder_with_details(Arc::clone(&self.provider), wall_time(&self.clock))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&loaded.certified))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("identity", &self.identity).field("files", &self.files).finish_non_exhaustive()
    }
}

// === impl Loaded ===

impl Loaded {
    fn read(
        files: &TlsFiles,
        cluster: &ClusterId,
        clock: &Arc<dyn Clock>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let (ca, cert, key) = (read(&files.ca)?, read(&files.cert)?, read(&files.key)?);
        warn_if_others_can_read(&files.key);
        let mut hasher = DefaultHasher::new();
        (&ca, &cert, &key).hash(&mut hasher);

        let authorities = certificates(&files.ca, &ca, AUTHORITIES_MAX, "one to eight CERTIFICATE blocks")?;
        let chain = certificates(&files.cert, &cert, 1 + INTERMEDIATES_MAX, "one to four CERTIFICATE blocks")?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| TlsError::Content { path: files.key.clone(), expected: "one PRIVATE KEY block" })?;
        let certified = CertifiedKey::from_der(chain, key, provider)
            .map_err(|source| TlsError::Key { path: files.key.clone(), source })?;

        let roots = Roots::new(&authorities, cluster.clone(), provider.signature_verification_algorithms)
            .map_err(|source| TlsError::Certificate { path: files.ca.clone(), source })?;
        let [leaf, intermediates @ ..] = certified.cert.as_slice() else {
            return Err(TlsError::Content { path: files.cert.clone(), expected: "a certificate" });
        };
        let own = |source| TlsError::Certificate { path: files.cert.clone(), source };
        let now = unix_time(clock.unix_ms());
        roots.verify(leaf, intermediates, Purpose::Server, now).map_err(own)?;
        let identity = roots.verify(leaf, intermediates, Purpose::Client, now).map_err(own)?;
        let (_, not_after_s) = verify::read_validity(leaf).map_err(own)?;

        let certified = Arc::new(certified);
        let server = server_config(provider, clock, &roots, &certified)?;
        let verified = VerifiedCertificates::default();
        Ok(Self { identity, not_after_s, certified, roots, server, verified, fingerprint: hasher.finish() })
    }

    fn leaf(&self) -> &CertificateDer<'static> {
        self.certified.cert.first().expect("`read` refuses an empty chain")
    }

    fn publish(&self) {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double's 53 bits for ever")]
        gauge!(metrics::CERTIFICATE_END).set(self.not_after_s as f64);
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    clock: &Arc<dyn Clock>,
    roots: &Roots,
    certified: &Arc<CertifiedKey>,
) -> Result<Arc<ServerConfig>, TlsError> {
    // Any member may connect: which role may do what is the service's to say, per call.
    let verifier = PeerVerifier { roots: roots.clone(), accept: Accept { roles: &Role::ALL, name: None } };
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider), wall_time(clock))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the certificate: an expired one, or one of a withdrawn authority, would live on.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    file::read_bounded(path, FILE_BYTES_MAX).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(
    path: &Path,
    pem: &[u8],
    count_max: usize,
    expected: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = || TlsError::Content { path: path.to_owned(), expected };
    let list = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|_| refuse())?;
    if list.is_empty() || list.len() > count_max { Err(refuse()) } else { Ok(list) }
}

/// Refusing would break set-ups that hand out keys through a group, so this only tells.
fn warn_if_others_can_read(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o007 != 0) {
        tracing::warn!(path = %path.display(), "every user of this machine can read the private key; use mode 0600");
    }
}

fn unix_time(unix_ms: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(unix_ms))
}

/// Our clock as rustls wants it.
struct WallTime(Arc<dyn Clock>);

fn wall_time(clock: &Arc<dyn Clock>) -> Arc<WallTime> {
    Arc::new(WallTime(Arc::clone(clock)))
}

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.unix_ms()))
    }
}

impl fmt::Debug for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallTime")
    }
}
