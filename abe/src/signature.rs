//! Signatures over records: Ed25519 with domain separation and a format byte.
//!
//! Attribute-based encryption hides and does not authenticate: anybody can encrypt. So the authority signs every record,
//! and readers verify before they use one.
//!
//! Law: a signature made for one domain (a kind of record) never verifies in another, and what is signed has one
//! encoding only. Signed bytes: domain of this module, the caller's domain and the record, each behind its length.
//! Layout: `docs/formats.md#signature`. Source: RFC 8032; verification is the strict one (canonical encodings, no points of
//! low order), so that all readers agree on every signature.

use std::fmt;

use ed25519_dalek::{Signature as Ed25519Signature, Signer, SigningKey, VerifyingKey};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::codec::Reader;
use crate::envelope::{is_canonical_25519, length_prefixed};
use crate::error::Error;
use crate::limits::RECORD_BYTES_MAX;
use crate::secret::{SecretBytes, constant_time_eq, redacted_debug};

/// The first byte of a signature.
const FORMAT: u8 = 1;
/// Bytes of a signature: format 1, Ed25519 64.
pub const SIGNATURE_BYTES: usize = 1 + 64;
/// Bytes of a signing key's seed and of a verifying key.
pub const KEY_BYTES: usize = 32;
const DOMAIN: &[u8] = b"cinnabar record signature v1";

/// The authority's signing key. Zeroised on drop; not `Clone`; equality is constant time.
pub struct RecordSigningKey(SigningKey);

impl RecordSigningKey {
    /// Makes a new signing key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; KEY_BYTES]);
        rng.fill_bytes(&mut *seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// Takes the 32-byte seed of RFC 8032 §5.1.5.
    pub fn from_bytes(seed: &[u8; KEY_BYTES]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The 32-byte seed.
    pub fn to_bytes(&self) -> SecretBytes {
        SecretBytes::new(self.0.as_bytes().to_vec())
    }

    /// The key that verifies what this one signs.
    pub fn verifying_key(&self) -> RecordVerifyingKey {
        RecordVerifyingKey(self.0.verifying_key())
    }

    /// Signs a record of at most [`RECORD_BYTES_MAX`] bytes in a domain. Constant time in the key.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn sign(&self, domain: &str, record: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Error> {
        let signature = self.0.sign(&signed_bytes(domain, record)?).to_bytes();
        let mut out = [FORMAT; SIGNATURE_BYTES];
        out[1..].copy_from_slice(&signature);
        Ok(out)
    }
}

constant_time_eq!(RecordSigningKey, key => key.0.as_bytes());
redacted_debug!(RecordSigningKey);

/// The key that readers verify records with: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RecordVerifyingKey(VerifyingKey);

impl RecordVerifyingKey {
    /// Reads a verifying key.
    ///
    /// # Errors
    /// [`Error::Malformed`] for bytes that are no point of the curve, not its one encoding, or a point of low order.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, Error> {
        let malformed = |problem| Error::Malformed { what: "verifying key", at: 0, problem };
        // The library reads y mod p, so that one key would have two spellings. Bit 255 is the sign of x.
        let mut y = *bytes;
        y[31] &= 0x7f;
        if !is_canonical_25519(&y) {
            return Err(malformed("the number is not below 2^255 - 19"));
        }
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| malformed("not a point of the curve"))?;
        if key.is_weak() {
            return Err(malformed("the point is of low order"));
        }
        Ok(Self(key))
    }

    /// The key's bytes.
    pub fn to_bytes(&self) -> [u8; KEY_BYTES] {
        self.0.to_bytes()
    }

    /// Verifies a record's signature in a domain. Variable time: all inputs are public.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another format or length, [`Error::BadSignature`] when it does not verify,
    /// [`Error::TooLong`] for a record past [`RECORD_BYTES_MAX`].
    pub fn verify(&self, domain: &str, record: &[u8], signature: &[u8]) -> Result<(), Error> {
        let mut reader = Reader::new(signature, "signature");
        let at = reader.clone();
        if reader.u8()? != FORMAT {
            return Err(at.malformed("the format byte is not 1"));
        }
        let signature = Ed25519Signature::from_bytes(reader.array()?);
        reader.finish()?;
        self.0.verify_strict(&signed_bytes(domain, record)?, &signature).map_err(|_| Error::BadSignature)
    }
}

impl fmt::Debug for RecordVerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordVerifyingKey(")?;
        self.0.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

fn signed_bytes(domain: &str, record: &[u8]) -> Result<Vec<u8>, Error> {
    if record.len() > RECORD_BYTES_MAX {
        return Err(Error::TooLong { what: "record", actual: record.len(), max: RECORD_BYTES_MAX });
    }
    Ok(length_prefixed(&[DOMAIN, &[FORMAT], domain.as_bytes(), record]))
}
