//! Messages signed with a certificate's key, outside of any connection.
//!
//! The road: a node signs with [`Tls::sign`](super::Tls::sign) and sends [`Signature`] along; the receiver asks
//! [`Tls::verify_signed`](super::Tls::verify_signed), which remembers certificates it has already walked to the root.
//! Law: what is signed starts with [`CONTEXT`], so that no such signature is one of a TLS handshake (RFC 8446 section
//! 4.4.3 starts with 64 spaces) and none of a handshake is one of these.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;

use super::verify::{Purpose, Roots, VerifyError, read_validity};
use crate::id::Identity;

/// Stands before every signed message.
pub const CONTEXT: &[u8] = b"cinnabar signed message v1\0";
/// Certificates that are remembered as verified; about 1 KiB each. A cluster has fewer signers than this.
pub const VERIFIED_CERTIFICATES_MAX: usize = 256;
/// Longest signature in bytes that is looked at; ECDSA P-384 needs 104.
pub const SIGNATURE_BYTES_MAX: usize = 512;

/// The schemes we make and take, best first: ECDSA P-256, ECDSA P-384, Ed25519.
pub(super) const SCHEMES: &[SignatureScheme] =
    &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519];

/// A detached signature and the certificate to check it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The signer's leaf certificate, DER. It must be issued by an authority directly: no chain travels with it.
    pub certificate: Vec<u8>,
    /// TLS SignatureScheme code point (RFC 8446 section 4.2.3).
    pub scheme: u16,
    /// The signature, DER-encoded for ECDSA.
    pub signature: Vec<u8>,
}

/// Certificates whose chain was verified, by their exact bytes. Bounded by [`VERIFIED_CERTIFICATES_MAX`].
///
/// Belongs to one set of authorities: a reload starts an empty one, so that trust that was withdrawn is not remembered.
#[derive(Debug, Default)]
pub struct VerifiedCertificates {
    entries: Mutex<HashMap<Vec<u8>, Verified>>,
}

#[derive(Debug, Clone)]
struct Verified {
    identity: Identity,
    not_before_s: u64,
    not_after_s: u64,
}

impl Verified {
    /// The same comparison as webpki's: both ends belong to the validity.
    fn holds_at(&self, now_s: u64) -> Result<Identity, VerifyError> {
        if now_s < self.not_before_s {
            Err(VerifyError::NotYetValid)
        } else if now_s > self.not_after_s {
            Err(VerifyError::Expired)
        } else {
            Ok(self.identity.clone())
        }
    }
}

impl VerifiedCertificates {
    /// How many certificates are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The identity of a certificate that holds at `now`, from memory or by walking its chain.
    pub(super) fn identify(
        &self,
        roots: &Roots,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<Identity, VerifyError> {
        if let Some(verified) = self.lock().get(certificate.as_ref()) {
            return verified.holds_at(now.as_secs());
        }
        // Every certificate we issue may authenticate a client; one that may not does not speak for a node.
        let identity = roots.verify(certificate, &[], Purpose::Client, now)?;
        let (not_before_s, not_after_s) = read_validity(certificate)?;
        let mut entries = self.lock();
        if entries.len() >= VERIFIED_CERTIFICATES_MAX {
            // Only members can fill this, so which one goes hardly matters: it costs one chain walk.
            let first = entries.keys().next().cloned();
            first.and_then(|key| entries.remove(&key));
        }
        let verified = Verified { identity: identity.clone(), not_before_s, not_after_s };
        entries.insert(certificate.as_ref().to_vec(), verified);
        Ok(identity)
    }

    // The map is whole after every step, so a panic elsewhere while the lock was held leaves nothing half done.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, Verified>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes that are signed for `message`.
pub(super) fn signed_bytes(message: &[u8]) -> Vec<u8> {
    [CONTEXT, message].concat()
}

/// Checks only the signature, by the key in `certificate`.
pub(super) fn check_signature(
    roots: &Roots,
    certificate: &CertificateDer<'_>,
    scheme: u16,
    message: &[u8],
    signature: &[u8],
) -> Result<(), VerifyError> {
    let wanted = SignatureScheme::from(scheme);
    let mapping = roots.algorithms().mapping.iter().find(|(have, _)| *have == wanted && SCHEMES.contains(have));
    let Some((_, [algorithm, ..])) = mapping else { return Err(VerifyError::Scheme(scheme)) };
    if signature.len() > SIGNATURE_BYTES_MAX {
        return Err(VerifyError::Signature);
    }
    let leaf = EndEntityCert::try_from(certificate).map_err(|_| VerifyError::Malformed("not a DER certificate"))?;
    leaf.verify_signature(*algorithm, &signed_bytes(message), signature).map_err(|_| VerifyError::Signature)
}
