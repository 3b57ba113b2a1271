//! The one record of the engine that says which state it holds; written in the same batch as what it describes.
//!
//! Layout: `format (1) | bincode | crc32c u32` over all before. Nothing else would tell that a bit of the sum, and so of
//! the hash that a voter signs, had turned.

use bytes::Bytes;
use cinnabar_daemon::id::ClusterId;
use cinnabar_kv_api::{StoreId, codec};
use serde::{Deserialize, Serialize};

use crate::files::{with_checksum, without_checksum};
use crate::limits::PIECE_BYTES;
use crate::log::LogPoint;
use crate::store::{Engine, StoreError};

/// The engine's key of this record.
pub const META_KEY: &[u8] = b"m";
const META_FORMAT: u8 = 1;
const META_BYTES_MAX: usize = 4 * 1024 + MEMBERSHIP_BYTES_MAX;
/// Bytes of a membership: five voters and as many learners need a tenth. One page of the engine holds this record and
/// its neighbours, so it is bounded like a piece of a value.
pub const MEMBERSHIP_BYTES_MAX: usize = 16 * 1024;

const _: () = assert!(PIECE_BYTES * 24 + 24 * 600 + META_BYTES_MAX <= 256 * 1024);

/// What the engine holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Last applied entry.
    pub applied: LogPoint,
    /// The running sum, `hash::SUM_BYTES` bytes, or none before the first record.
    pub sum: Bytes,
    /// Live records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub record_bytes: u64,
    /// Clients remembered.
    pub sessions: u64,
    /// The cluster and the history.
    pub store: Option<(ClusterId, StoreId)>,
    /// Index of the last membership and its encoded body.
    pub membership: Option<(LogPoint, Bytes)>,
}

impl Meta {
    /// Encodes.
    pub fn encode(&self) -> Vec<u8> {
        with_checksum(&codec::encode(META_FORMAT, self))
    }

    /// Reads it from an engine; the empty one when the engine is new.
    ///
    /// # Errors
    /// The engine's, or [`StoreError::Damaged`].
    pub fn load(engine: &dyn Engine) -> Result<Self, StoreError> {
        let damaged = |problem: String| StoreError::Damaged { what: "state point", problem };
        let Some(bytes) = engine.get(META_KEY)? else {
            return match engine.range(b"", b"", 1)?.is_empty() {
                true => Ok(Self::default()),
                false => Err(damaged("it is missing".to_owned())),
            };
        };
        let body = without_checksum(&bytes).ok_or_else(|| damaged("its checksum does not hold".to_owned()))?;
        codec::decode::<Self, META_BYTES_MAX>("state point", META_FORMAT, body)
            .map_err(|error| damaged(error.to_string()))
    }
}
