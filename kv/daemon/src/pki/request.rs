//! Certificate signing requests: how somebody proves that he has a key, without giving it away.
//!
//! The road: a process makes a key and a request with [`NewKey::generate`]; whoever has the authority reads it with
//! [`CertificateRequest::from_bytes`] and issues with [`CertificateAuthority::issue_for`](super::CertificateAuthority::issue_for).
//! Law: of a request nothing is used but the public key. Names, extensions and purposes that it asks for are not even
//! looked at: they come from whoever issues. Source: RFC 2986.

use std::fmt;

use rcgen::{
    CertificateParams, CertificateSigningRequest, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::PkiError;

/// Largest request that is read, in bytes: DER, or PEM around it.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;

const PEM_START: &[u8] = b"-----BEGIN ";
/// `ecdsa-with-SHA256` (RFC 5758 section 3.2).
const ECDSA_WITH_SHA256: &str = "1.2.840.10045.4.3.2";

/// The public key of a request whose signature was made with the private one.
pub struct CertificateRequest {
    key: SubjectPublicKeyInfo,
}

impl CertificateRequest {
    /// Reads a request, PEM or DER, and verifies its signature.
    ///
    /// # Errors
    /// [`PkiError::Request`]: no request, another key than ECDSA P-256, or a signature that does not hold.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PkiError> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(PkiError::Request("larger than 8 KiB"));
        }
        if !bytes.starts_with(PEM_START) {
            return Self::from_der(bytes);
        }
        let blocks = Pem::iter_from_buffer(bytes).collect::<Result<Vec<_>, _>>();
        let blocks = blocks.map_err(|_| PkiError::Request("not PEM"))?;
        match blocks.as_slice() {
            [block] if block.label == "CERTIFICATE REQUEST" => Self::from_der(&block.contents),
            _ => Err(PkiError::Request("expected exactly one CERTIFICATE REQUEST block")),
        }
    }

    fn from_der(der: &[u8]) -> Result<Self, PkiError> {
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|_| PkiError::Request("not a certificate signing request (PKCS #10)"))?;
        if !rest.is_empty() {
            return Err(PkiError::Request("bytes are left over"));
        }
        let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
            .map_err(|_| PkiError::Request("the key is not ECDSA P-256"))?;
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(PkiError::Request("the key is not ECDSA P-256"));
        }
        if request.signature_algorithm.algorithm.to_id_string() != ECDSA_WITH_SHA256 {
            return Err(PkiError::Request("it is not signed with ECDSA and SHA-256"));
        }
        // The key is put on its curve by this too.
        request.verify_signature().map_err(|_| PkiError::Request("its signature does not hold"))?;
        Ok(Self { key })
    }

    /// The DER SubjectPublicKeyInfo of the key.
    #[must_use]
    pub fn public_key_der(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    pub(super) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRequest").finish_non_exhaustive()
    }
}

/// A new key and the request for its certificate. `Debug` does not show the key; it is wiped when dropped.
pub struct NewKey {
    /// The private key, PKCS #8 PEM.
    pub key_pem: Zeroizing<String>,
    /// The request, DER; it names nobody.
    pub request_der: Vec<u8>,
    /// The same, PEM.
    pub request_pem: String,
}

impl NewKey {
    /// Makes an ECDSA P-256 key and its request.
    ///
    /// # Errors
    /// [`PkiError::Library`].
    pub fn generate() -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let request = request(&key)?;
        let request_pem = request.pem()?;
        Ok(Self { request_der: request.der().to_vec(), request_pem, key_pem: Zeroizing::new(key.serialize_pem()) })
    }

    /// The request for another certificate of a key that is in use (PKCS #8 PEM).
    ///
    /// # Errors
    /// [`PkiError::Library`], also for what is no key.
    pub fn request_again(key_pem: &str) -> Result<Vec<u8>, PkiError> {
        Ok(request(&KeyPair::from_pem(key_pem)?)?.der().to_vec())
    }
}

/// A request that names nobody.
fn request(key: &KeyPair) -> Result<CertificateSigningRequest, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(key)?)
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};
    use x509_parser::extensions::GeneralName;

    use super::super::{CertificateAuthority, Validity};
    use super::*;
    use crate::env::SystemRng;

    const NOW: u64 = 1_800_000_000_000;

    fn demanding(key: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root of everything");
        params.subject_alt_names = vec![
            SanType::URI("spiffe://prod/authority/a1".try_into().unwrap()),
            SanType::DnsName("authority.example".try_into().unwrap()),
        ];
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn refusal(bytes: &[u8]) -> &'static str {
        match CertificateRequest::from_bytes(bytes) {
            Err(PkiError::Request(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_request_asks_for_is_ignored_and_its_key_is_used() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let read = CertificateRequest::from_bytes(&demanding(&key)).unwrap();
        assert_eq!(read.public_key_der(), key.subject_public_key_info());
        let ca = CertificateAuthority::create(&"prod".parse().unwrap(), Validity::days(10, NOW), &SystemRng).unwrap();
        let identity = "spiffe://prod/edge/fra-1".parse().unwrap();
        let pem = ca.issue_for(&read, &identity, &[], Validity::days(7, NOW), &SystemRng).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let leaf = block.parse_x509().unwrap();
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.as_slice(), [GeneralName::URI("spiffe://prod/edge/fra-1")]);
        assert!(!leaf.is_ca() && leaf.subject().iter().next().is_none());
        assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
        let late = ca.issue_for(&read, &identity, &[], Validity::days(11, NOW), &SystemRng);
        assert!(matches!(late, Err(PkiError::Validity { .. })));
        let foreign = "spiffe://test/edge/fra-1".parse().unwrap();
        let refused = ca.issue_for(&read, &foreign, &[], Validity::days(7, NOW), &SystemRng);
        assert!(matches!(refused, Err(PkiError::ForeignCluster { .. })));
    }

    #[test]
    fn a_key_asks_again_for_itself() {
        let first = NewKey::generate().unwrap();
        let again = NewKey::request_again(&first.key_pem).unwrap();
        let key = |der: &[u8]| CertificateRequest::from_bytes(der).unwrap().public_key_der();
        assert_eq!(key(&again), key(&first.request_der));
        assert!(NewKey::request_again("no key").is_err());
    }

    #[test]
    fn only_p256_keys_that_signed_their_request_are_taken() {
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(refusal(&demanding(&key)), "the key is not ECDSA P-256");
        }
        let good = NewKey::generate().unwrap().request_der;
        CertificateRequest::from_bytes(&good).unwrap();
        let last = good.len() - 1;
        for at in [last, last - 20, 60] {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            assert!(CertificateRequest::from_bytes(&flipped).is_err(), "flipped at {at}");
        }
        let mut flipped = good.clone();
        flipped[last] ^= 1;
        assert_eq!(refusal(&flipped), "its signature does not hold");
        assert_eq!(refusal(&[&good[..], &[0]].concat()), "bytes are left over");
    }

    #[test]
    fn anything_but_one_request_is_refused() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        CertificateRequest::from_bytes(pem.as_bytes()).unwrap();
        assert_eq!(refusal(pem.repeat(2).as_bytes()), "expected exactly one CERTIFICATE REQUEST block");
        assert_eq!(refusal(key.serialize_pem().as_bytes()), "expected exactly one CERTIFICATE REQUEST block");
        assert_eq!(refusal(b"-----BEGIN CERTIFICATE REQUEST-----"), "not PEM");
        assert_eq!(refusal(&vec![0x30; REQUEST_BYTES_MAX + 1]), "larger than 8 KiB");
        for bytes in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0; 64]] {
            assert_eq!(refusal(bytes), "not a certificate signing request (PKCS #10)");
        }
    }
}
