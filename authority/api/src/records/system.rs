//! The system's own records: key generations, attribute schemas, the head.

use bytes::Bytes;
use cinnabar_abe::{PUBLIC_KEY_BYTES, PublicKey};
use cinnabar_daemon::id::ClusterId;
use serde::{Deserialize, Serialize};

use super::{Content, bounded};
use crate::keyspace::{Kind, RecordKey};
use crate::names::{Generation, SchemaVersion};
use crate::schema::Schema;

/// What a system is for. Said once, when it is made; never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Real keys.
    Production,
    /// A demonstration: what is allowed only there is refused everywhere else.
    Demo,
}

/// Where a generation, or a policy key's version, stands in its life. Only ever goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Made, not used yet.
    Prepared,
    /// Encrypts and decrypts.
    Active,
    /// Decrypts only.
    Retiring,
    /// Gone.
    Destroyed,
}

impl State {
    /// The one that may follow; none after the last.
    pub fn next(self) -> Option<Self> {
        match self {
            Self::Prepared => Some(Self::Active),
            Self::Active => Some(Self::Retiring),
            Self::Retiring => Some(Self::Destroyed),
            Self::Destroyed => None,
        }
    }

    /// May what is under it be opened?
    pub fn decrypts(self) -> bool {
        matches!(self, Self::Active | Self::Retiring)
    }
}

/// A generation of the system key pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Which one.
    pub generation: Generation,
    /// Its ABE public key.
    pub public_key: Bytes,
    /// Where it stands.
    pub state: State,
    /// What the system is for.
    pub mode: Mode,
}

impl Content for System {
    const KIND: Kind = Kind::System;
    const ENDS: bool = false;

    fn key(&self) -> RecordKey {
        RecordKey::System(self.generation)
    }

    fn check(&self, _: &ClusterId) -> Result<(), String> {
        bounded("public key", PUBLIC_KEY_BYTES, PUBLIC_KEY_BYTES, self.public_key.len())
    }
}

impl System {
    /// Reads the public key, points and all.
    ///
    /// # Errors
    /// [`cinnabar_abe::Error::Malformed`].
    pub fn public_key(&self) -> Result<PublicKey, cinnabar_abe::Error> {
        PublicKey::from_bytes(&self.public_key)
    }
}

/// A version of the attribute schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRecord {
    /// Which one.
    pub version: SchemaVersion,
    /// The labels and what they may say.
    pub schema: Schema,
}

impl Content for SchemaRecord {
    const KIND: Kind = Kind::Schema;
    const ENDS: bool = false;

    fn key(&self) -> RecordKey {
        RecordKey::Schema(self.version)
    }

    fn check(&self, _: &ClusterId) -> Result<(), String> {
        self.schema.check().map_err(|error| error.to_string())
    }
}

/// How far the store is, as the authority sees it: signed every 10 s and after each write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Log index.
    pub index: u64,
    /// The chain's head after that entry.
    pub chain_head: [u8; 32],
    /// The state's hash after that entry.
    pub state_hash: [u8; 32],
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
}

impl Content for Head {
    const KIND: Kind = Kind::Head;
    const ENDS: bool = false;

    fn key(&self) -> RecordKey {
        RecordKey::Head
    }

    fn check(&self, _: &ClusterId) -> Result<(), String> {
        bounded("index", 1, usize::MAX, usize::try_from(self.index).unwrap_or(usize::MAX))
    }
}
