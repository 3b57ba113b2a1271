//! What a customer uploads: a chain of certificates and its private key, checked before anything is stored.
//!
//! The road: [`check`] takes the two PEM texts of a request; `certificate/pem.rs` finds the blocks, `chain.rs` reads the
//! certificates and their order, `key.rs` the private key; what comes out goes to the zone (its hostnames), the envelope
//! (its key) and the publisher. Law: a [`Checked`] exists only if a TLS client of today, given the right roots and the
//! right name, would accept a handshake made with it: whoever holds one checks nothing again. Whether a root vouches for
//! the chain is not asked: customers may have their own.
//! Source: RFC 5280 (certificates), RFC 7468 (PEM), RFC 8446 section 4.4.2 (the order of a chain), RFC 5958, 8017 and
//! 5915 (private keys).
//!
//! Hostnames are the DNS names of the subject alternative names; the common name is not looked at, as clients do not.
//! Other kinds of names, IP addresses among them, are ignored: a certificate is chosen by the name in the client's hello,
//! which is never an address, so nothing is ever served or owned because of one.

mod chain;
mod error;
mod key;
mod pem;
#[cfg(test)]
mod tests;

use crate::digest::sha256;
use cinnabar_abe::SecretBytes;
use cinnabar_authority_api::Hostname;
use cinnabar_authority_api::records::KeyType;

pub use self::error::{CertificateError, Field, OrderFault};

/// A certificate that may be stored, and its key.
#[derive(Debug)]
pub struct Checked {
    /// The certificates as DER, the leaf first, each issued by the next.
    pub chain: Vec<Vec<u8>>,
    /// The names that the leaf is for, in its order, without repeats; at least one.
    pub hostnames: Vec<Hostname>,
    /// What kind of key it is for.
    pub key_type: KeyType,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// First second of the leaf's validity, since 1970.
    pub not_before_s: u64,
    /// Last second of the leaf's validity, since 1970.
    pub not_after_s: u64,
    /// Who issued the leaf: the organisation, or else the common name, or else the whole name.
    pub issuer: String,
    /// How the leaf is signed, such as `SHA256WithRSA`.
    pub signature_algorithm: &'static str,
    /// The private key as PKCS #8 (RFC 5208, version 1) DER, however it was sent; none when none was sent.
    pub private_key_pkcs8: Option<SecretBytes>,
}

/// Checks a chain and its key, where one was sent with it. `now_s` is in seconds since 1970.
///
/// # Errors
/// [`CertificateError`]: always the sender's fault, always with a code and, where there is one, a hint.
pub fn check(certificate: &str, private_key: Option<&str>, now_s: u64) -> Result<Checked, CertificateError> {
    let blocks = pem::certificates(certificate)?;
    let chain = chain::parse(&blocks)?;
    chain::check_order(&chain)?;
    let leaf = &chain[0];
    let key_type = key::of_certificate(leaf)?;
    let signature_algorithm = chain::check_signatures(&chain)?;
    let (not_before_s, not_after_s) = chain::check_validity(&chain, now_s)?;
    chain::check_purpose(leaf)?;
    let hostnames = chain::hostnames(leaf)?;
    let private_key_pkcs8 = private_key.map(|key| key::matching(key, leaf, key_type)).transpose()?;
    Ok(Checked {
        hostnames,
        key_type,
        spki_sha256: sha256(leaf.public_key().raw),
        not_before_s,
        not_after_s,
        issuer: chain::issuer(leaf),
        signature_algorithm,
        private_key_pkcs8,
        chain: blocks,
    })
}

/// What is shown of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// As in [`Checked`].
    pub issuer: String,
    /// As in [`Checked`].
    pub signature_algorithm: &'static str,
    /// As in [`Checked`].
    pub not_before_s: u64,
    /// As in [`Checked`].
    pub not_after_s: u64,
}

/// Describes a leaf that was checked when it was stored.
///
/// # Errors
/// [`CertificateError`] when the bytes are no certificate.
pub fn describe(leaf: &[u8]) -> Result<Described, CertificateError> {
    let blocks = [leaf.to_vec()];
    chain::describe(&chain::parse(&blocks)?[0])
}
