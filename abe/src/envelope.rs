//! The envelope: policy keys, and customer secrets wrapped to them.
//!
//! A *policy key* is an X25519 pair per (policy, version). Its private half is encrypted by TKN20 under the policy
//! ([`PolicySecretKey::encrypt`]); a customer secret is wrapped to its public half by HPKE ([`wrap`]). So a machine pays
//! for attribute-based decryption once per policy, and a fortieth of that per secret from then on.
//!
//! Law: a wrapped secret opens only under the name it was wrapped for. Its [`Context`] (cluster, kind, zone, name, SPKI
//! hash, policy, version) goes into HPKE's `info` and into the associated data, every part behind its length, so that no
//! two contexts share an encoding. A policy key opens only as the key of its cluster, policy and version.
//!
//! Layout: `docs/formats.md#envelope`. Source: RFC 9180 base mode, DHKEM(X25519, HKDF-SHA256) 0x0020, HKDF-SHA256 0x0001,
//! ChaCha20-Poly1305 0x0003; all-zero shared secrets are refused as its §7.1.4 requires.

use std::fmt;
use std::num::NonZeroU32;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey as X25519PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::ciphertext::Ciphertext;
use crate::codec::Reader;
use crate::error::Error;
use crate::limits::{NAME_BYTES_MAX, SECRET_BYTES_MAX};
use crate::policy::{Policy, PolicyId};
use crate::secret::{SecretBytes, constant_time_eq, redacted_debug};
use crate::tkn20::keys::{AttributeKey, PublicKey};

/// The first byte of a wrapped secret and of a policy key's plaintext.
const FORMAT: u8 = 1;
/// Bytes of an X25519 public key, private key or encapsulated key.
pub const X25519_BYTES: usize = 32;
/// Bytes that wrapping adds: format 1, encapsulated key 32, tag 16.
pub const WRAP_OVERHEAD_BYTES: usize = 1 + X25519_BYTES + TAG_BYTES;
const TAG_BYTES: usize = 16;
const POLICY_KEY_PLAINTEXT_BYTES: usize = 1 + 32 + X25519_BYTES;

const POLICY_KEY_DOMAIN: &[u8] = b"cinnabar policy key v1";
const INFO_DOMAIN: &[u8] = b"cinnabar wrapped secret v1 info";
const AAD_DOMAIN: &[u8] = b"cinnabar wrapped secret v1 aad";

// === Context ===

/// What a wrapped secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// The private key of a certificate.
    Certificate = 1,
    /// Any other secret.
    Secret = 2,
}

/// What a wrapped secret is bound to. All of it is public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// Cluster id, at most [`NAME_BYTES_MAX`] bytes.
    pub cluster: &'a [u8],
    /// What the secret is.
    pub kind: Kind,
    /// Zone, at most [`NAME_BYTES_MAX`] bytes.
    pub zone: &'a str,
    /// Name of the certificate or secret within the zone, at most [`NAME_BYTES_MAX`] bytes.
    pub name: &'a str,
    /// SHA-256 of the certificate's SubjectPublicKeyInfo; `None` for secrets that have none.
    pub spki_sha256: Option<[u8; 32]>,
    /// The policy whose key the secret is wrapped to.
    pub policy: PolicyId,
    /// Version of that policy's key, from 1.
    pub policy_key_version: NonZeroU32,
}

impl Context<'_> {
    fn encode(&self, domain: &[u8]) -> Result<Vec<u8>, Error> {
        for (what, name) in
            [("cluster id", self.cluster), ("zone", self.zone.as_bytes()), ("name", self.name.as_bytes())]
        {
            if name.len() > NAME_BYTES_MAX {
                return Err(Error::TooLong { what, actual: name.len(), max: NAME_BYTES_MAX });
            }
        }
        let spki: &[u8] = self.spki_sha256.as_ref().map_or(&[], |hash| hash);
        Ok(length_prefixed(&[
            domain,
            &[FORMAT],
            self.cluster,
            &[self.kind as u8],
            self.zone.as_bytes(),
            self.name.as_bytes(),
            spki,
            self.policy.as_bytes(),
            &self.policy_key_version.get().to_le_bytes(),
        ]))
    }
}

/// Whether 32 little-endian bytes are a number below 2^255 - 19.
pub(crate) fn is_canonical_25519(bytes: &[u8; 32]) -> bool {
    let at_least_the_prime = bytes[31] == 0x7f && bytes[1..31].iter().all(|byte| *byte == 0xff) && bytes[0] >= 0xed;
    bytes[31] <= 0x7f && !at_least_the_prime
}

/// Refuses what is no good X25519 public key: a second spelling, or a point with which every shared secret is zero.
pub(crate) fn check_x25519_public(bytes: &[u8; X25519_BYTES], what: &'static str) -> Result<(), Error> {
    let malformed = |problem| Error::Malformed { what, at: 0, problem };
    if !is_canonical_25519(bytes) {
        return Err(malformed("the number is not below 2^255 - 19"));
    }
    // Any private key finds out: it is a multiple of the cofactor.
    if !StaticSecret::from([1; X25519_BYTES]).diffie_hellman(&X25519PublicKey::from(*bytes)).was_contributory() {
        return Err(malformed("the point is of low order"));
    }
    Ok(())
}

/// Every part behind its length in 32 bits, little-endian.
pub(crate) fn length_prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let length = u32::try_from(part.len()).expect("parts are bounded far below 4 GiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

// === Policy keys ===

/// The public half of a policy key: 32 bytes, a canonical u-coordinate that is not of low order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyPublicKey([u8; X25519_BYTES]);

impl PolicyPublicKey {
    /// Reads a public key.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a number that is not below 2^255 - 19 and for points of low order, with which every
    /// shared secret would be zero.
    pub fn from_bytes(bytes: [u8; X25519_BYTES]) -> Result<Self, Error> {
        check_x25519_public(&bytes, "policy public key")?;
        Ok(Self(bytes))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; X25519_BYTES] {
        &self.0
    }
}

impl fmt::Debug for PolicyPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PolicyPublicKey(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// The private half of a policy key. Zeroised on drop; not `Clone`; equality is constant time.
pub struct PolicySecretKey(StaticSecret);

impl PolicySecretKey {
    /// Makes a new policy key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; X25519_BYTES]);
        rng.fill_bytes(&mut *bytes);
        Self(StaticSecret::from(*bytes))
    }

    /// The public half.
    pub fn public_key(&self) -> PolicyPublicKey {
        PolicyPublicKey(X25519PublicKey::from(&self.0).to_bytes())
    }

    /// Encrypts the private half under `policy`, as the key of that policy's version in the cluster.
    ///
    /// # Errors
    /// As [`PublicKey::encrypt`].
    pub fn encrypt(
        &self,
        public: &PublicKey,
        rng: &mut impl CryptoRng,
        policy: &Policy,
        cluster: &[u8],
        version: NonZeroU32,
    ) -> Result<Ciphertext, Error> {
        let mut plaintext = Zeroizing::new(Vec::with_capacity(POLICY_KEY_PLAINTEXT_BYTES));
        plaintext.push(FORMAT);
        plaintext.extend_from_slice(&binding(cluster, &policy.id(cluster), version, &self.public_key()));
        plaintext.extend_from_slice(self.0.as_bytes());
        public.encrypt(rng, policy, &plaintext)
    }

    /// Opens a policy key with a machine's attribute key, as the key of `policy`'s `version` in the cluster.
    ///
    /// # Errors
    /// As [`AttributeKey::decrypt`]; [`Error::Rejected`] as well when it is the key of another cluster, policy or
    /// version, or its ciphertext is under another policy.
    pub fn decrypt(
        key: &AttributeKey,
        ciphertext: &Ciphertext,
        cluster: &[u8],
        policy: &PolicyId,
        version: NonZeroU32,
    ) -> Result<Self, Error> {
        let plaintext = key.decrypt(ciphertext)?;
        let plaintext: &[u8; POLICY_KEY_PLAINTEXT_BYTES] =
            plaintext.expose().try_into().map_err(|_| Error::Rejected)?;
        let [format, bound @ ..] = plaintext;
        let (found, secret) = bound.split_at(32);
        let secret = Zeroizing::new(<[u8; X25519_BYTES]>::try_from(secret).expect("65 bytes are 1, 32 and 32"));
        let secret = Self(StaticSecret::from(*secret));
        let expected = binding(cluster, policy, version, &secret.public_key());
        if *format != FORMAT || ciphertext.policy().id(cluster) != *policy || !bool::from(expected.ct_eq(found)) {
            return Err(Error::Rejected);
        }
        Ok(secret)
    }

    /// Opens a wrapped secret.
    ///
    /// Constant time in the secret's bytes, not in its length.
    ///
    /// # Errors
    /// [`Error::Rejected`] when the key, the context or the bytes are not those it was wrapped with;
    /// [`Error::TooLong`] for a name past [`NAME_BYTES_MAX`].
    pub fn unwrap(&self, context: &Context<'_>, wrapped: &WrappedSecret) -> Result<SecretBytes, Error> {
        let info = context.encode(INFO_DOMAIN)?;
        let aad = context.encode(AAD_DOMAIN)?;
        hpke_open(self.0.as_bytes(), wrapped.encapsulated_key(), &info, &aad, wrapped.sealed())
    }
}

constant_time_eq!(PolicySecretKey, key => key.0.as_bytes());
redacted_debug!(PolicySecretKey);

/// What a policy key's plaintext carries beside the key, so that it cannot be moved.
fn binding(cluster: &[u8], policy: &PolicyId, version: NonZeroU32, public: &PolicyPublicKey) -> [u8; 32] {
    let version = version.get().to_le_bytes();
    Sha256::digest(length_prefixed(&[POLICY_KEY_DOMAIN, cluster, policy.as_bytes(), &version, &public.0])).into()
}

// === Wrapped secrets ===

/// A customer secret wrapped to a policy key: `format (1) || encapsulated key (32) || secret (n) || tag (16)` bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedSecret(Vec<u8>);

impl WrappedSecret {
    /// Reads a wrapped secret: format byte and length, no cryptography.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another format or too few bytes, [`Error::TooLong`] past [`SECRET_BYTES_MAX`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, "wrapped secret");
        let at = reader.clone();
        if reader.u8()? != FORMAT {
            return Err(at.malformed("the format byte is not 1"));
        }
        reader.take(X25519_BYTES + TAG_BYTES)?;
        let secret_bytes = reader.rest().len();
        if secret_bytes > SECRET_BYTES_MAX {
            return Err(Error::TooLong { what: "wrapped secret", actual: secret_bytes, max: SECRET_BYTES_MAX });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes, exactly as read or made.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn encapsulated_key(&self) -> &[u8] {
        &self.0[1..1 + X25519_BYTES]
    }

    fn sealed(&self) -> &[u8] {
        &self.0[1 + X25519_BYTES..]
    }
}

impl fmt::Debug for WrappedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedSecret({} bytes)", self.0.len())
    }
}

/// Wraps a secret of at most [`SECRET_BYTES_MAX`] bytes to a policy key, bound to its context.
///
/// Constant time in the secret's bytes, not in its length, which the result shows.
///
/// # Errors
/// [`Error::TooLong`] for the secret or a name of the context.
pub fn wrap(
    rng: &mut impl CryptoRng,
    policy_key: &PolicyPublicKey,
    context: &Context<'_>,
    secret: &[u8],
) -> Result<WrappedSecret, Error> {
    if secret.len() > SECRET_BYTES_MAX {
        return Err(Error::TooLong { what: "secret", actual: secret.len(), max: SECRET_BYTES_MAX });
    }
    let info = context.encode(INFO_DOMAIN)?;
    let aad = context.encode(AAD_DOMAIN)?;
    let (encapsulated, sealed) = hpke_seal(rng, &policy_key.0, &info, &aad, secret)?;
    let mut out = Vec::with_capacity(WRAP_OVERHEAD_BYTES + secret.len());
    out.push(FORMAT);
    out.extend_from_slice(&encapsulated);
    out.extend_from_slice(&sealed);
    Ok(WrappedSecret(out))
}

// === HPKE ===

/// Single-shot base mode; returns the encapsulated key and the ciphertext with its tag.
pub(crate) fn hpke_seal(
    rng: &mut impl CryptoRng,
    public: &[u8],
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<([u8; X25519_BYTES], Vec<u8>), Error> {
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public).map_err(|_| Error::Rejected)?;
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        info,
        plaintext,
        aad,
        rng,
    )
    .map_err(|_| Error::Rejected)?;
    Ok((encapsulated.to_bytes().into(), sealed))
}

/// Opens what [`hpke_seal`] made; one error for every failure, an all-zero shared secret among them.
pub(crate) fn hpke_open(
    secret: &[u8],
    encapsulated: &[u8],
    info: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<SecretBytes, Error> {
    let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(secret).map_err(|_| Error::Rejected)?;
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| Error::Rejected)?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &secret,
        &encapsulated,
        info,
        sealed,
        aad,
    )
    .map(SecretBytes::new)
    .map_err(|_| Error::Rejected)
}
