//! The Boneh-Katz transform: encryption that withstands chosen ciphertexts.
//!
//! A ciphertext hides a 72-byte seed beside its plaintext. The seed's hashes are the ciphertext's *id*, which the policy
//! is and-ed with as the value of a reserved label that every key holds wild, and the key of its *tag*. Who opens the
//! envelope finds the seed, and believes the plaintext only if id and tag are the seed's.
//!
//! Law: id and tag are checked together, in constant time, and nothing tells which failed; the id is compared as bytes,
//! since as a number mod r it has several spellings. Source: Boneh and Katz, CT-RSA 2005; `docs/formats.md#transform`.

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::decapsulate::{PointChecks, decapsulate, term};
use super::encapsulate::encapsulate;
use super::keys::{AttributeKey, PublicKey};
use crate::ciphertext::{self, Ciphertext, Framing};
use crate::curve::{Gt, Scalar};
use crate::error::Error;
use crate::hash::{HASH_BYTES, SEED_BYTES, expand_seed, hash32, mac, stream_cipher};
use crate::limits::Limits;
use crate::policy::{Policy, size};
use crate::secret::SecretBytes;

impl PublicKey {
    /// Encrypts `plaintext` so that the keys whose attributes satisfy `policy` open it.
    ///
    /// The size of the result is known before any group operation: [`Policy::ciphertext_bytes`]. Constant time in the
    /// randomness and the plaintext, not in the policy and the lengths.
    ///
    /// # Errors
    /// [`Error::Policy`] with [`crate::PolicyErrorKind::TooLarge`] when the result would pass
    /// [`crate::limits::CIPHERTEXT_BYTES_MAX`]; [`Error::BrokenRng`].
    pub fn encrypt(&self, rng: &mut impl CryptoRng, policy: &Policy, plaintext: &[u8]) -> Result<Ciphertext, Error> {
        self.encrypt_with(rng, policy, plaintext, &Limits::default())
    }

    /// As [`PublicKey::encrypt`], under the caller's limits.
    ///
    /// # Errors
    /// As [`PublicKey::encrypt`].
    pub fn encrypt_with(
        &self,
        rng: &mut impl CryptoRng,
        policy: &Policy,
        plaintext: &[u8],
        limits: &Limits,
    ) -> Result<Ciphertext, Error> {
        size::check(policy, plaintext.len(), limits, &policy.to_string())?;
        let bytes = self.encrypt_bytes(rng, policy, plaintext, Framing::V138)?;
        Ciphertext::from_bytes(&bytes)
    }

    /// In either framing. For [`crate::danger`].
    pub(crate) fn encrypt_bytes(
        &self,
        rng: &mut impl CryptoRng,
        policy: &Policy,
        plaintext: &[u8],
        framing: Framing,
    ) -> Result<Vec<u8>, Error> {
        let mut hidden = Zeroizing::new(vec![0; SEED_BYTES + plaintext.len()]);
        let (seed, rest) = hidden.split_first_chunk_mut::<SEED_BYTES>().expect("the buffer starts with a seed");
        rng.fill_bytes(seed);
        rest.copy_from_slice(plaintext);
        let expanded = expand_seed(seed);
        let id = Scalar::from_be_bytes_reduced(&*expanded.id);
        let encapsulation = encapsulate(rng, self, policy, id)?;
        let header = ciphertext::encode_header(policy, &encapsulation.columns)?;
        stream_cipher(&envelope_key(&encapsulation.key), &mut hidden);
        let mac_data = ciphertext::encode_mac_data(&header, &hidden, framing)?;
        let tag = mac(&expanded.mac_key, &mac_data);
        ciphertext::encode(&*expanded.id, &mac_data, &*tag, framing)
    }
}

impl AttributeKey {
    /// Opens a ciphertext with [`PointChecks::Sums`].
    ///
    /// What comes back is what was encrypted, under the policy that the header shows; everything is checked before
    /// anything is returned. Variable time in public values only (policy, attribute values, lengths).
    ///
    /// # Errors
    /// [`Error::NotSatisfied`] when the attributes do not satisfy the policy; [`Error::Malformed`] when a point is not
    /// what it must be; [`Error::Rejected`] for everything from the first pairing on, without telling what.
    pub fn decrypt(&self, ciphertext: &Ciphertext) -> Result<SecretBytes, Error> {
        self.decrypt_with(ciphertext, PointChecks::default())
    }

    /// Opens a ciphertext with the caller's choice of point checks.
    ///
    /// # Errors
    /// As [`AttributeKey::decrypt`].
    pub fn decrypt_with(&self, ciphertext: &Ciphertext, checks: PointChecks) -> Result<SecretBytes, Error> {
        let policy = ciphertext.policy();
        let mut wires =
            policy.satisfying_wires(|label| self.attributes().get(label.as_bytes())).ok_or(Error::NotSatisfied)?;
        wires.push(policy.wires.len());
        self.open_with_wires(ciphertext, &wires, checks)
    }

    /// Whether the attributes satisfy the ciphertext's policy. No group operation; not the security boundary.
    pub fn could_decrypt(&self, ciphertext: &Ciphertext) -> bool {
        ciphertext.could_be_decrypted_with(self.attributes())
    }

    /// Opens with exactly these wires of the augmented policy, satisfying or not. For the audit and for attacks.
    pub(crate) fn open_with_wires(
        &self,
        ciphertext: &Ciphertext,
        wires: &[usize],
        checks: PointChecks,
    ) -> Result<SecretBytes, Error> {
        open(ciphertext, &*self.decapsulate_with_wires(ciphertext, wires, checks)?)
    }

    /// K, from exactly these wires.
    pub(crate) fn decapsulate_with_wires(
        &self,
        ciphertext: &Ciphertext,
        wires: &[usize],
        checks: PointChecks,
    ) -> Result<Zeroizing<Gt>, Error> {
        let id = Scalar::from_be_bytes_reduced(ciphertext.id());
        let terms: Vec<_> = wires.iter().filter_map(|wire| term(self, ciphertext, *wire, id)).collect();
        decapsulate(self, ciphertext, &terms, checks)
    }
}

/// The envelope's stream key.
fn envelope_key(key: &Gt) -> Zeroizing<[u8; HASH_BYTES]> {
    hash32(&[&*Zeroizing::new(key.to_bytes())])
}

/// Whether K is the ciphertext's: the envelope then holds the seed that hashes to the id. Says nothing of the tag, so a
/// changed ciphertext is recognised too. For the audit, where an attacker would not mind the tag either.
pub fn finds_seed(ciphertext: &Ciphertext, key: &Gt) -> bool {
    let (head, _) = ciphertext.envelope().split_first_chunk().expect("a parsed envelope holds a seed");
    let mut seed: Zeroizing<[u8; SEED_BYTES]> = Zeroizing::new(*head);
    stream_cipher(&envelope_key(key), &mut *seed);
    expand_seed(&seed).id.ct_eq(ciphertext.id()).into()
}

/// Opens the envelope with K and checks id and tag.
pub fn open(ciphertext: &Ciphertext, key: &Gt) -> Result<SecretBytes, Error> {
    let mut hidden = Zeroizing::new(ciphertext.envelope().to_vec());
    stream_cipher(&envelope_key(key), &mut hidden);
    let (seed, plaintext) = hidden.split_first_chunk::<SEED_BYTES>().expect("a parsed envelope holds a seed");
    let expanded = expand_seed(seed);
    let tag = mac(&expanded.mac_key, ciphertext.mac_data());
    let same_id = expanded.id.ct_eq(ciphertext.id());
    // The planted defect that `make test-planted` expects the attack tests to find.
    #[cfg(cinnabar_planted = "id_check")]
    let same_id = same_id | subtle::Choice::from(1);
    if bool::from(same_id & tag.ct_eq(ciphertext.tag())) {
        Ok(SecretBytes::new(plaintext.to_vec()))
    } else {
        Err(Error::Rejected)
    }
}
