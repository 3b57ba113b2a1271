//! How entries travel: a frame of consecutive entries, ended by a checkpoint that a voter signed.
//!
//! A frame is worth nothing until its checkpoint is verified and the chain over its entries ends in the checkpoint's
//! head. A relay may join frames: entries keep their bytes, the last checkpoint covers them all.

use bytes::Bytes;
use cinnabar_daemon::id::ClusterId;
use cinnabar_daemon::{Role, Tls, VerifyError};
use serde::{Deserialize, Serialize};

use crate::error::{Error, bounded};
use crate::limits::{
    CERTIFICATE_BYTES_MAX, FRAME_BYTES_MAX, FRAME_ENTRIES_MAX, PAYLOAD_BYTES_MAX, SIGNATURE_BYTES_MAX,
};
use crate::{ChainHead, StateHash, StoreId, codec};

const FRAME_FORMAT: u8 = 1;
const CHECKPOINT_FORMAT: u8 = 1;
/// Bytes of an encoded checkpoint.
const CHECKPOINT_BYTES_MAX: usize = 512;
/// Separates a checkpoint's signature from every other signature of the same key.
const CHECKPOINT_DOMAIN: &[u8] = b"cinnabar kv checkpoint v1\0";

/// One entry of the log; its index follows from its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Term in which a leader appended it.
    pub term: u64,
    /// `kind (1) | body`, see [`Entry::command`].
    pub payload: Bytes,
}

impl Entry {
    /// Kind of an entry that a new leader appends and that says nothing.
    pub const BLANK: u8 = 0;
    /// Kind of an entry that carries an encoded [`crate::Command`].
    pub const COMMAND: u8 = 1;
    /// Kind of an entry that carries a membership of voters.
    pub const MEMBERSHIP: u8 = 2;

    /// The encoded command, when the entry carries one.
    pub fn command(&self) -> Option<&[u8]> {
        match self.payload.split_first() {
            Some((&Self::COMMAND, body)) => Some(body),
            _ => None,
        }
    }
}

/// What a voter swears: the log up to `index` has this head, and applying it gives this state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The cluster.
    pub cluster: ClusterId,
    /// The history.
    pub store_id: StoreId,
    /// Term of the entry at `index`.
    pub term: u64,
    /// Log index, applied at the voter.
    pub index: u64,
    /// Highest index that the voter knew to be committed.
    pub committed: u64,
    /// Chain head at `index`.
    pub chain_head: ChainHead,
    /// Hash of the state at `index`.
    pub state_hash: StateHash,
    /// When the voter was last sure to be in touch with the cluster, in milliseconds since 1970.
    pub unix_ms: u64,
}

impl Checkpoint {
    /// Encodes: `format (1) | bincode`.
    pub fn encode(&self) -> Bytes {
        codec::encode(CHECKPOINT_FORMAT, self).into()
    }
}

/// A checkpoint, the certificate of the voter that signed it, and the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCheckpoint {
    /// The encoded [`Checkpoint`].
    pub body: Bytes,
    /// The voter's certificate, DER.
    pub certificate: Bytes,
    /// The signature scheme, as TLS 1.3 numbers it (RFC 8446 section 4.2.3).
    pub scheme: u16,
    /// Signature over [`SignedCheckpoint::message`].
    pub signature: Bytes,
}

impl SignedCheckpoint {
    /// The bytes that are signed.
    pub fn message(body: &[u8]) -> Vec<u8> {
        [CHECKPOINT_DOMAIN, body].concat()
    }

    /// Was it signed by a voter of the cluster, with a certificate that held at `at_ms` (milliseconds since 1970)?
    ///
    /// # Errors
    /// [`VerifyError`]; nothing of the body may then be believed.
    pub fn check_signature(&self, tls: &Tls, at_ms: u64) -> Result<(), VerifyError> {
        let message = Self::message(&self.body);
        tls.verify_signed(&self.certificate, self.scheme, &message, &self.signature, &[Role::Voter], at_ms).map(drop)
    }

    /// Decodes the body; says nothing about the signature.
    ///
    /// # Errors
    /// [`Error`] when the bytes do not follow the format.
    pub fn decode_body(&self) -> Result<Checkpoint, Error> {
        codec::decode::<Checkpoint, CHECKPOINT_BYTES_MAX>("checkpoint", CHECKPOINT_FORMAT, &self.body)
    }

    fn check(&self) -> Result<(), Error> {
        bounded("checkpoint bytes", 1, CHECKPOINT_BYTES_MAX, self.body.len())?;
        bounded("certificate bytes", 1, CERTIFICATE_BYTES_MAX, self.certificate.len())?;
        bounded("signature bytes", 1, SIGNATURE_BYTES_MAX, self.signature.len())
    }

    /// Encodes for disk: `format (1) | bincode`.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(CHECKPOINT_FORMAT, self)
    }

    /// Decodes what [`SignedCheckpoint::encode`] made.
    ///
    /// # Errors
    /// [`Error`] when the bytes do not follow the format.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const LIMIT: usize = CHECKPOINT_BYTES_MAX + CERTIFICATE_BYTES_MAX + SIGNATURE_BYTES_MAX + 64;
        let signed = codec::decode::<Self, LIMIT>("signed checkpoint", CHECKPOINT_FORMAT, bytes)?;
        signed.check()?;
        Ok(signed)
    }
}

/// Consecutive entries and the checkpoint that covers them; without entries it is a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Index before the first entry.
    pub after_index: u64,
    /// The entries, first to last.
    pub entries: Vec<Entry>,
    /// Covers the last of them.
    pub checkpoint: SignedCheckpoint,
}

impl Frame {
    /// Encodes: `format (1) | bincode`.
    pub fn encode(&self) -> Bytes {
        codec::encode(FRAME_FORMAT, self).into()
    }

    /// Decodes and checks every bound; says nothing about chain and signature.
    ///
    /// # Errors
    /// [`Error`] when the bytes do not follow the format or a bound.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let frame = codec::decode::<Self, FRAME_BYTES_MAX>("frame", FRAME_FORMAT, bytes)?;
        bounded("entries of a frame", 0, FRAME_ENTRIES_MAX, frame.entries.len())?;
        for entry in &frame.entries {
            bounded("payload bytes", 1, PAYLOAD_BYTES_MAX, entry.payload.len())?;
        }
        if frame.after_index.checked_add(frame.entries.len() as u64).is_none() {
            return Err(Error::Malformed { what: "frame", problem: "index overflows".to_owned() });
        }
        frame.checkpoint.check()?;
        Ok(frame)
    }

    /// Index of the last entry, or of the one before when there are none.
    pub fn last_index(&self) -> u64 {
        self.after_index + self.entries.len() as u64
    }
}
