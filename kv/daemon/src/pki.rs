//! The cluster's own certificate authority: making it, loading it, issuing certificates.
//!
//! The road: the operator makes an authority once, issues one certificate per process, `mtls` loads what was written.
//! Law: an authority vouches for one cluster only and says so in its own certificate; a leaf names exactly one identity
//! and ends no later than its authority; private keys are written for their owner only and never over another file
//! unless asked. Keys are ECDSA P-256. Source: RFC 5280 section 4; X509-SVID sections 4 and 5.

mod request;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use zeroize::Zeroizing;

pub use self::request::{CertificateRequest, NewKey, REQUEST_BYTES_MAX};
use crate::env::{Rng, RngError};
use crate::file::{self, PRIVATE, PUBLIC, read_bounded};
use crate::id::{ClusterId, Identity};

/// Largest PEM file that is read, in bytes.
pub const PEM_BYTES_MAX: usize = 64 * 1024;
/// Most DNS names and addresses in one certificate, the identity not counted.
pub const SANS_MAX: usize = 16;
/// How far a validity starts in the past, in seconds: clocks of other machines may be behind ours.
pub const BACKDATE_S: u64 = 5 * 60;

/// 9999-12-31T23:59:59Z, the last second that X.509 can write.
const LAST_SECOND: u64 = 253_402_300_799;
/// Bytes of a serial number; RFC 5280 allows 20, 16 random ones never meet.
const SERIAL_BYTES: usize = 16;

/// What a leaf is good for.
const PURPOSES: [ExtendedKeyUsagePurpose; 2] =
    [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

/// Why a certificate was not issued or an authority not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file cannot be read or written; `AlreadyExists` when it is there and `force` was not given.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold an authority that [`CertificateAuthority::create`] made, or the key is another one's.
    #[error("{}: {problem}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// A text is not the certificate of an authority that [`CertificateAuthority::create`] made with that key.
    #[error("certificate of an authority: {0}")]
    CertificatePem(&'static str),
    /// A text is not the private key of an authority.
    #[error("private key of an authority: {0}")]
    KeyPem(&'static str),
    /// This authority does not vouch for that cluster.
    #[error("this authority is of cluster `{authority}`, it issues nothing for {identity}")]
    ForeignCluster {
        /// The authority's cluster.
        authority: ClusterId,
        /// Whom the certificate was wanted for.
        identity: Identity,
    },
    /// An empty validity, one past the year 9999, or one that ends after the authority's.
    #[error("validity of {} to {} (seconds since 1970): {problem}", validity.not_before_s, validity.not_after_s)]
    Validity {
        /// The validity.
        validity: Validity,
        /// What is wrong.
        problem: &'static str,
    },
    /// Too many or unusable subject alternative names.
    #[error("subject alternative names: {0}")]
    Names(&'static str),
    /// A certificate signing request is none, or its key did not sign it. Its sender's fault.
    #[error("certificate signing request: {0}")]
    Request(&'static str),
    /// No random bytes for the serial number.
    #[error(transparent)]
    Rng(#[from] RngError),
    /// The library failed to make or sign a certificate. We are broken.
    #[error("certificate library: {0}")]
    Library(#[from] rcgen::Error),
}

/// From when to when a certificate holds, both seconds included, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before_s: u64,
    /// Last second.
    pub not_after_s: u64,
}

impl Validity {
    /// From [`BACKDATE_S`] before `now_unix_ms` until `days` days after it.
    #[must_use]
    pub fn days(days: u32, now_unix_ms: u64) -> Self {
        Self::seconds(u64::from(days) * 24 * 3600, now_unix_ms)
    }

    /// From [`BACKDATE_S`] before `now_unix_ms` until `hours` hours after it.
    #[must_use]
    pub fn hours(hours: u32, now_unix_ms: u64) -> Self {
        Self::seconds(u64::from(hours) * 3600, now_unix_ms)
    }

    fn seconds(seconds: u64, now_unix_ms: u64) -> Self {
        let now_s = now_unix_ms / 1000;
        Self { not_before_s: now_s.saturating_sub(BACKDATE_S), not_after_s: now_s.saturating_add(seconds) }
    }

    fn to_times(self) -> Result<(OffsetDateTime, OffsetDateTime), PkiError> {
        let refuse = |problem| PkiError::Validity { validity: self, problem };
        if self.not_after_s <= self.not_before_s {
            return Err(refuse("it ends before it starts"));
        }
        let time = |seconds: u64| {
            let bounded = i64::try_from(seconds.min(LAST_SECOND + 1)).ok().filter(|_| seconds <= LAST_SECOND);
            bounded.and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok()).ok_or_else(|| refuse("it passes 9999"))
        };
        Ok((time(self.not_before_s)?, time(self.not_after_s)?))
    }
}

/// A name in a certificate beside the identity. We never check it ourselves; other tools may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum San {
    /// A host name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// A certificate with its private key, both PEM. `Debug` does not show the key; it is wiped when dropped.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key, PKCS #8.
    pub key_pem: Zeroizing<String>,
}

impl Issued {
    /// Writes both files, the key with mode 0600, and syncs them. Without `force`, neither may exist yet.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn write(&self, certificate: &Path, key: &Path, force: bool) -> Result<(), PkiError> {
        write_pair((certificate, &self.certificate_pem), (key, &self.key_pem), force)
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// What vouches for a cluster's identities.
pub struct CertificateAuthority {
    cluster: ClusterId,
    not_after_s: u64,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Makes a new authority with a new key.
    ///
    /// # Errors
    /// [`PkiError::Validity`], [`PkiError::Rng`], [`PkiError::Library`].
    pub fn create(cluster: &ClusterId, validity: Validity, rng: &dyn Rng) -> Result<Self, PkiError> {
        let mut params = params(&format!("cinnabar authority of {cluster}"), validity, rng)?;
        // A path length of 0: what it issues are leaves, no further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(trust_domain(cluster).try_into()?)];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate_pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self { cluster: cluster.clone(), not_after_s: validity.not_after_s, certificate_pem, issuer })
    }

    /// Loads an authority from its two PEM files.
    ///
    /// # Errors
    /// [`PkiError::File`]; [`PkiError::Authority`] when the files do not hold one of ours.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let certificate_pem = read_text(certificate)?;
        let key_pem = Zeroizing::new(read_text(key)?);
        Self::from_pem(&certificate_pem, &key_pem).map_err(|error| match error {
            PkiError::CertificatePem(problem) => PkiError::Authority { path: certificate.to_owned(), problem },
            PkiError::KeyPem(problem) => PkiError::Authority { path: key.to_owned(), problem },
            other => other,
        })
    }

    /// Takes an authority from the texts of its two PEM files.
    ///
    /// # Errors
    /// [`PkiError::CertificatePem`] and [`PkiError::KeyPem`] when they are not one of ours.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let pair = KeyPair::from_pem_and_sign_algo(key_pem, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| PkiError::KeyPem("not a PEM private key for ECDSA P-256"))?;
        let (cluster, not_after_s) = read_authority(certificate_pem, &pair).map_err(PkiError::CertificatePem)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, pair)?;
        Ok(Self { cluster, not_after_s, certificate_pem: certificate_pem.to_owned(), issuer })
    }

    /// The cluster it vouches for.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Last second of its own certificate, in seconds since 1970: no leaf can outlast it.
    #[must_use]
    pub fn not_after_s(&self) -> u64 {
        self.not_after_s
    }

    /// Its certificate, PEM: what every process of the cluster trusts.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key, PKCS #8 PEM: for whoever keeps it otherwise than in a file of its own.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Writes both files, the key with mode 0600, and syncs them. Without `force`, neither may exist yet.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn write(&self, certificate: &Path, key: &Path, force: bool) -> Result<(), PkiError> {
        let key_pem = self.key_pem();
        write_pair((certificate, &self.certificate_pem), (key, &key_pem), force)
    }

    /// Issues a certificate for one identity with a new key, good as client and as server. The validity is taken as it
    /// is: also one that is over already.
    ///
    /// # Errors
    /// [`PkiError::ForeignCluster`], [`PkiError::Validity`], [`PkiError::Names`], [`PkiError::Rng`],
    /// [`PkiError::Library`].
    pub fn issue(
        &self,
        identity: &Identity,
        sans: &[San],
        validity: Validity,
        rng: &dyn Rng,
    ) -> Result<Issued, PkiError> {
        self.check(identity, validity)?;
        self.issue_leaf(&[identity.to_string()], sans, &PURPOSES, validity, rng)
    }

    /// Issues a certificate, PEM, for one identity and the key of a request, good as client and as server. Whatever else
    /// the request asks for is ignored.
    ///
    /// # Errors
    /// As [`CertificateAuthority::issue`].
    pub fn issue_for(
        &self,
        request: &CertificateRequest,
        identity: &Identity,
        sans: &[San],
        validity: Validity,
        rng: &dyn Rng,
    ) -> Result<String, PkiError> {
        self.check(identity, validity)?;
        let params = leaf_params(&[identity.to_string()], sans, &PURPOSES, validity, rng)?;
        Ok(params.signed_by(request.key(), &self.issuer)?.pem())
    }

    fn check(&self, identity: &Identity, validity: Validity) -> Result<(), PkiError> {
        if identity.cluster != self.cluster {
            let (authority, identity) = (self.cluster.clone(), identity.clone());
            return Err(PkiError::ForeignCluster { authority, identity });
        }
        if validity.not_after_s > self.not_after_s {
            return Err(PkiError::Validity { validity, problem: "it ends after the authority's own" });
        }
        Ok(())
    }

    /// Issues what it is told to; tests make certificates with it that [`CertificateAuthority::issue`] would not.
    pub(crate) fn issue_leaf(
        &self,
        uris: &[String],
        sans: &[San],
        purposes: &[ExtendedKeyUsagePurpose],
        validity: Validity,
        rng: &dyn Rng,
    ) -> Result<Issued, PkiError> {
        let params = leaf_params(uris, sans, purposes, validity, rng)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: Zeroizing::new(key.serialize_pem()) })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// The name of a whole cluster (SPIFFE-ID section 2.1).
fn trust_domain(cluster: &ClusterId) -> String {
    format!("spiffe://{cluster}")
}

fn params(common_name: &str, validity: Validity, rng: &dyn Rng) -> Result<CertificateParams, PkiError> {
    let mut serial = [0; SERIAL_BYTES];
    rng.fill(&mut serial)?;
    // Positive, and never shorter than it looks.
    serial[0] = serial[0] & 0x7f | 0x40;
    let (not_before, not_after) = validity.to_times()?;
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (not_before, not_after);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    if !common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, common_name);
    }
    Ok(params)
}

fn leaf_params(
    uris: &[String],
    sans: &[San],
    purposes: &[ExtendedKeyUsagePurpose],
    validity: Validity,
    rng: &dyn Rng,
) -> Result<CertificateParams, PkiError> {
    if sans.len() > SANS_MAX {
        return Err(PkiError::Names("too many"));
    }
    // The names stand in the SAN, which is critical then (RFC 5280 section 4.1.2.6): the subject stays empty.
    let mut params = params("", validity, rng)?;
    let uris = uris.iter().map(|uri| Ok(SanType::URI(uri.as_str().try_into()?)));
    let others = sans.iter().map(|san| match san {
        San::Dns(name) => Ok(SanType::DnsName(dns_name(name)?.try_into()?)),
        San::Ip(address) => Ok(SanType::IpAddress(*address)),
    });
    params.subject_alt_names = uris.chain(others).collect::<Result<_, PkiError>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes.to_vec();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn dns_name(name: &str) -> Result<&str, PkiError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'*' | b'_');
    if name.is_empty() || name.len() > 253 || !name.bytes().all(allowed) {
        return Err(PkiError::Names("a DNS name is 1 to 253 of letters, digits, `-`, `.`, `_`"));
    }
    Ok(name)
}

/// Cluster and last second of an authority's certificate that belongs to `key`.
fn read_authority(pem: &str, key: &KeyPair) -> Result<(ClusterId, u64), &'static str> {
    let blocks = Pem::iter_from_buffer(pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(|_| "not PEM")?;
    let [block] = blocks.as_slice() else { return Err("expected exactly one CERTIFICATE block") };
    let certificate = block.parse_x509().map_err(|_| "not an X.509 certificate")?;
    if !certificate.is_ca() {
        return Err("not the certificate of an authority");
    }
    if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err("the private key belongs to another certificate");
    }
    let names = certificate.subject_alternative_name().ok().flatten().ok_or("it names no cluster")?;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return Err("it names no cluster") };
    let cluster = uri.strip_prefix("spiffe://").and_then(|name| name.parse().ok()).ok_or("it names no cluster")?;
    Ok((cluster, u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0)))
}

fn read_text(path: &Path) -> Result<String, PkiError> {
    let bytes = read_bounded(path, PEM_BYTES_MAX).map_err(|source| PkiError::File { path: path.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|_| PkiError::Authority { path: path.to_owned(), problem: "not text" })
}

fn write_pair(certificate: (&Path, &str), key: (&Path, &str), force: bool) -> Result<(), PkiError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PkiError::File { path, source }
    };
    // Looked at first, so that a second run does not leave a key without its certificate.
    if !force && certificate.0.exists() {
        return Err(failed(certificate.0)(std::io::ErrorKind::AlreadyExists.into()));
    }
    file::write_synced(key.0, key.1.as_bytes(), PRIVATE, force).map_err(failed(key.0))?;
    file::write_synced(certificate.0, certificate.1.as_bytes(), PUBLIC, force).map_err(failed(certificate.0))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use x509_parser::prelude::X509Certificate;

    use super::*;
    use crate::env::SystemRng;

    const NOW: u64 = 1_800_000_000_000;

    fn authority(cluster: &str) -> CertificateAuthority {
        CertificateAuthority::create(&cluster.parse().unwrap(), Validity::days(10, NOW), &SystemRng).unwrap()
    }

    fn with_leaf(issued: &Issued, check: impl FnOnce(&X509Certificate<'_>)) {
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.certificate_pem.as_bytes()).unwrap();
        check(&pem.parse_x509().unwrap());
    }

    #[test]
    fn a_leaf_says_who_it_is_and_what_it_is_for() {
        let authority = authority("prod");
        let identity: Identity = "spiffe://prod/voter/v1".parse().unwrap();
        let sans = [San::Dns("v1.example".to_owned()), San::Ip([127, 0, 0, 1].into())];
        let issued = authority.issue(&identity, &sans, Validity::hours(24, NOW), &SystemRng).unwrap();
        with_leaf(&issued, |leaf| {
            let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
            assert_eq!(names[0], GeneralName::URI("spiffe://prod/voter/v1"));
            assert_eq!(names[1], GeneralName::DNSName("v1.example"));
            assert_eq!(names[2], GeneralName::IPAddress(&[127, 0, 0, 1]));
            let usage = leaf.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.server_auth && usage.client_auth && !usage.any);
            let key_usage = leaf.key_usage().unwrap().unwrap().value;
            assert_eq!(key_usage.flags, 1, "digitalSignature only");
            assert!(!leaf.is_ca());
            let (from, to) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
            assert_eq!((from, to), (1_800_000_000 - 300, 1_800_000_000 + 24 * 3600));
            assert_eq!(leaf.raw_serial().len(), SERIAL_BYTES);
        });
        assert!(!format!("{issued:?}").contains("PRIVATE"));
    }

    #[test]
    fn serials_and_keys_are_new_every_time() {
        let authority = authority("prod");
        let identity: Identity = "spiffe://prod/edge/e1".parse().unwrap();
        let [a, b] = [0, 1].map(|_| authority.issue(&identity, &[], Validity::hours(1, NOW), &SystemRng).unwrap());
        assert_ne!(*a.key_pem, *b.key_pem);
        let mut first = Vec::new();
        with_leaf(&a, |leaf| first = leaf.raw_serial().to_vec());
        with_leaf(&b, |leaf| assert_ne!(first, leaf.raw_serial()));
    }

    #[test]
    fn an_authority_issues_nothing_foreign_and_nothing_that_outlives_it() {
        let authority = authority("prod");
        let foreign: Identity = "spiffe://test/voter/v1".parse().unwrap();
        let refused = authority.issue(&foreign, &[], Validity::hours(1, NOW), &SystemRng).unwrap_err();
        assert!(matches!(refused, PkiError::ForeignCluster { .. }));
        let own: Identity = "spiffe://prod/voter/v1".parse().unwrap();
        for validity in [
            Validity::days(11, NOW),
            Validity { not_before_s: 10, not_after_s: 10 },
            Validity { not_before_s: u64::MAX - 1, not_after_s: u64::MAX },
        ] {
            let refused = authority.issue(&own, &[], validity, &SystemRng).unwrap_err();
            assert!(matches!(refused, PkiError::Validity { .. }), "{validity:?}");
        }
        let names = vec![San::Dns("a".to_owned()); SANS_MAX + 1];
        for sans in [names.as_slice(), &[San::Dns("a b".to_owned())], &[San::Dns(String::new())]] {
            let refused = authority.issue(&own, sans, Validity::hours(1, NOW), &SystemRng).unwrap_err();
            assert!(matches!(refused, PkiError::Names(_)), "{sans:?}");
        }
    }

    #[test]
    fn a_written_authority_is_private_loads_again_and_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
        let made = authority("prod");
        made.write(&cert, &key, false).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read(&key).unwrap();
        assert!(matches!(authority("prod").write(&cert, &key, false), Err(PkiError::File { .. })));
        assert_eq!(fs::read(&key).unwrap(), before);

        let loaded = CertificateAuthority::load(&cert, &key).unwrap();
        assert_eq!((loaded.cluster().as_str(), loaded.certificate_pem()), ("prod", made.certificate_pem()));
        let late = loaded.issue(&"spiffe://prod/voter/v1".parse().unwrap(), &[], Validity::days(11, NOW), &SystemRng);
        assert!(matches!(late, Err(PkiError::Validity { .. })), "the end is read from the certificate");
    }

    #[test]
    fn files_that_are_not_one_authority_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (one, two) = (authority("prod"), authority("prod"));
        one.write(&path("1.pem"), &path("1.key"), false).unwrap();
        two.write(&path("2.pem"), &path("2.key"), false).unwrap();
        let identity = "spiffe://prod/voter/v1".parse().unwrap();
        let leaf = one.issue(&identity, &[], Validity::hours(1, NOW), &SystemRng).unwrap();
        leaf.write(&path("leaf.pem"), &path("leaf.key"), false).unwrap();
        fs::write(path("empty"), "").unwrap();
        for (cert, key) in
            [("1.pem", "2.key"), ("leaf.pem", "leaf.key"), ("empty", "1.key"), ("1.pem", "empty"), ("1.key", "1.pem")]
        {
            let refused = CertificateAuthority::load(&path(cert), &path(key)).unwrap_err();
            assert!(matches!(refused, PkiError::Authority { .. }), "{cert} {key}: {refused}");
        }
    }
}
