//! What one log entry says: conditions and operations of a client, or an act of the cluster itself.

use bytes::Bytes;
use cinnabar_daemon::id::ClusterId;
use serde::{Deserialize, Deserializer, Serialize};

use crate::Entry;
use crate::error::{Error, bounded};
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_CONDITIONS_MAX, BATCH_OPS_MAX, COMMAND_BYTES_MAX, KEY_BYTES_MAX, RECORD_BYTES_MAX,
};
use crate::{StoreId, codec};

/// Id of a voter or learner: the index of the log entry that allocated it (1 to 5 for the first voters). Never reused.
pub type NodeId = u64;

/// Bytes that an encoded write has beside its operations, about: room made ahead.
const COMMAND_OVERHEAD_BYTES: usize = 64;
/// Bytes that an operation has beside its key and value.
const OP_OVERHEAD_BYTES: usize = 20;
/// First byte of an encoded [`Command`].
const COMMAND_FORMAT: u8 = 1;

/// A key: 1 to [`KEY_BYTES_MAX`] bytes, any bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Key(Bytes);

impl Key {
    /// Takes the bytes of a key.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] when it is empty or too long.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, Error> {
        let bytes = bytes.into();
        bounded("key bytes", 1, KEY_BYTES_MAX, bytes.len())?;
        Ok(Self(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Bytes::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Names a client process: 16 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientId(pub [u8; 16]);

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Sets the value of a key.
    Put {
        /// The key.
        key: Key,
        /// The value; with its key at most [`RECORD_BYTES_MAX`].
        value: Bytes,
    },
    /// Removes a key; no error when it is absent.
    Delete {
        /// The key.
        key: Key,
    },
}

impl Op {
    /// The key that it changes.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Bytes of its key and value.
    pub fn bytes(&self) -> usize {
        let value = if let Self::Put { value, .. } = self { value.len() } else { 0 };
        self.key().as_bytes().len() + value
    }
}

/// Holds when the key's record was last written by entry `mod_index`; 0 means that the key must be absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The key.
    pub key: Key,
    /// The log index.
    pub mod_index: u64,
}

/// A client's write: all of its operations when all of its conditions hold, else none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Who writes.
    pub client: ClientId,
    /// From 1; the same again means the same write again.
    pub sequence: u64,
    /// Every sequence of this client below this one was answered.
    pub answered_below: u64,
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What to do, in order.
    pub ops: Vec<Op>,
}

impl Write {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] naming the field.
    pub fn check(&self) -> Result<(), Error> {
        bounded("sequence", 1, usize::MAX, usize::try_from(self.sequence).unwrap_or(usize::MAX))?;
        bounded("operations of a write", 1, BATCH_OPS_MAX, self.ops.len())?;
        bounded("conditions of a write", 0, BATCH_CONDITIONS_MAX, self.conditions.len())?;
        let mut total = 0;
        for op in &self.ops {
            let record = op.bytes();
            bounded("key and value bytes", 1, RECORD_BYTES_MAX, record)?;
            total += record;
        }
        bounded("bytes of a write", 1, BATCH_BYTES_MAX, total)
    }
}

/// The body of a log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A client's write.
    Write(Write),
    /// The first command of a store: names the cluster and this history of it.
    Genesis {
        /// The cluster.
        cluster: ClusterId,
        /// The history.
        store_id: StoreId,
    },
    /// Allocates a node id: the index of this very entry.
    AllocateNode,
}

impl Command {
    /// Encodes: `format (1) | bincode`.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(COMMAND_FORMAT, self)
    }

    /// The payload of a log entry that carries it: its kind, then as [`Command::encode`].
    pub fn to_payload(&self) -> Bytes {
        let values = match self {
            Self::Write(write) => write.ops.iter().map(|op| op.bytes() + OP_OVERHEAD_BYTES).sum(),
            _ => 0,
        };
        let mut out = Vec::with_capacity(COMMAND_OVERHEAD_BYTES + values);
        out.extend_from_slice(&[Entry::COMMAND, COMMAND_FORMAT]);
        codec::encode_into(&mut out, self);
        out.into()
    }

    /// Decodes and checks every bound.
    ///
    /// # Errors
    /// [`Error`] for any bytes that [`Command::encode`] does not make from a command within bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let command = codec::decode::<Self, COMMAND_BYTES_MAX>("command", COMMAND_FORMAT, bytes)?;
        if let Self::Write(write) = &command {
            write.check()?;
        }
        Ok(command)
    }
}
