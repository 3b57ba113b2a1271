//! The records that the authority signs, one type for each kind of key.
//!
//! Bytes: `format (1) | bincode of the body | signature (65)`. A body holds the cluster, the record's whole store key, its
//! version and the one before it, the time, and the content; no content is a tombstone. docs/formats.md has every field.
//! Law: a record means nothing before [`crate::verify::Verifier`] checked it. Everything here is public: what is secret
//! in a record is a ciphertext.

mod certs;
mod machines;
mod system;
#[cfg(test)]
mod tests;
mod zones;

use std::fmt;

use bytes::Bytes;
use cinnabar_abe::PolicyId;
use cinnabar_abe::signature::RecordSigningKey;
use cinnabar_daemon::codec;
use cinnabar_daemon::id::ClusterId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::certs::{Cert, KeyKind, KeyType, PolicyRef, Secret, Sni, SniCert};
pub use self::machines::{Issued, Machine, MachineState, Revoked};
pub use self::system::{Head, Mode, SchemaRecord, State, System};
pub use self::zones::{PolicyCiphertext, PolicyRecord, Token, TokenScope, Zone, ZoneLimits};
use crate::keyspace::{Kind, RecordKey};
use crate::limits::RECORD_BYTES_MAX;

/// First byte of a record.
pub const FORMAT: u8 = 1;
/// The domain of a record's signature.
pub const DOMAIN: &str = "cinnabar record v1";

/// What stands in a record of one kind.
pub trait Content: Serialize + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static {
    /// The kind.
    const KIND: Kind;
    /// May a tombstone take its place?
    const ENDS: bool;

    /// The key that it belongs under.
    fn key(&self) -> RecordKey;

    /// Checks every bound and what must agree within it.
    ///
    /// # Errors
    /// What is wrong, naming the field.
    fn check(&self, cluster: &ClusterId) -> Result<(), String>;
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: DeserializeOwned"))]
pub(crate) struct Body<T> {
    pub cluster: ClusterId,
    /// The whole store key.
    pub key: Bytes,
    /// From 1, one more with each change of the key.
    pub version: u64,
    /// The version that this one follows; 0 for the first.
    pub previous: u64,
    /// When it was signed, in milliseconds since 1970.
    pub time_ms: u64,
    /// None is a tombstone.
    pub content: Option<T>,
}

/// Why a record is not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A field is outside its bounds, or disagrees with another.
    #[error("{kind}: {problem}")]
    Content {
        /// The kind.
        kind: &'static str,
        /// The field and what is wrong.
        problem: String,
    },
    /// The record with its key is too large for the store.
    #[error("{kind}: {actual} bytes, the store takes {RECORD_BYTES_MAX}")]
    TooLarge {
        /// The kind.
        kind: &'static str,
        /// Bytes of key and record.
        actual: usize,
    },
    /// The signature.
    #[error(transparent)]
    Signature(#[from] cinnabar_abe::Error),
}

/// Signs records of one cluster.
pub struct Signer<'a> {
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The authority's key.
    pub key: &'a RecordSigningKey,
}

impl Signer<'_> {
    /// Makes the record that follows version `previous` of its key (0: there was none) at `time_ms`.
    ///
    /// # Errors
    /// [`SignError`]; a record that a verifier would refuse is not made.
    pub fn sign<T: Content>(&self, content: T, previous: u64, time_ms: u64) -> Result<Bytes, SignError> {
        let kind = T::KIND.as_str();
        content.check(self.cluster).map_err(|problem| SignError::Content { kind, problem })?;
        let key = content.key();
        self.sign_body(key, Some(content), previous, time_ms)
    }

    /// Makes the tombstone that follows version `previous` of `key`.
    ///
    /// # Errors
    /// [`SignError::Content`] for a kind that has none, or another kind's key.
    pub fn sign_end<T: Content>(&self, key: RecordKey, previous: u64, time_ms: u64) -> Result<Bytes, SignError> {
        if !T::ENDS || key.kind() != T::KIND || previous == 0 {
            let problem = "there is nothing to end".to_owned();
            return Err(SignError::Content { kind: T::KIND.as_str(), problem });
        }
        self.sign_body::<T>(key, None, previous, time_ms)
    }

    fn sign_body<T: Content>(
        &self,
        key: RecordKey,
        content: Option<T>,
        previous: u64,
        time_ms: u64,
    ) -> Result<Bytes, SignError> {
        let key = key.to_bytes();
        let body =
            Body { cluster: self.cluster.clone(), key: key.clone(), version: previous + 1, previous, time_ms, content };
        let mut record = codec::encode(FORMAT, &body);
        let signature = self.key.sign(DOMAIN, &record)?;
        record.extend_from_slice(&signature);
        let actual = key.len() + record.len();
        if actual > RECORD_BYTES_MAX {
            return Err(SignError::TooLarge { kind: T::KIND.as_str(), actual });
        }
        Ok(record.into())
    }
}

/// A policy's id inside a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyIdField(pub PolicyId);

impl Serialize for PolicyIdField {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PolicyIdField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(PolicyId::from_bytes(<[u8; 32]>::deserialize(deserializer)?)))
    }
}

/// Checks a length against its bound.
pub(crate) fn bounded(field: &str, least: usize, most: usize, actual: usize) -> Result<(), String> {
    if (least..=most).contains(&actual) {
        Ok(())
    } else {
        Err(format!("{field}: {actual} is outside {least}..={most}"))
    }
}
