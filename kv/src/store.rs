//! The ordered engine under the state: `trait Engine`, sled behind it, and a memory engine for many replicas in one
//! process and for the simulator.
//!
//! Law of a crash: after one, an engine holds a prefix of the batches that were committed, each whole, and at least
//! those that were committed before the last [`Engine::make_durable`] returned.

mod memory;
mod sled;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use bytes::Bytes;

pub use self::memory::MemoryEngine;
pub use self::sled::SledEngine;

/// Why an engine failed. The state on it must not be trusted further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The engine's own word.
    #[error("the store failed: {0}")]
    Engine(#[from] ::sled::Error),
    /// The operating system's.
    #[error("the store's files: {0}")]
    Io(#[from] io::Error),
    /// A stored record does not follow its format or its checksum.
    #[error("stored {what} is damaged: {problem}")]
    Damaged {
        /// The record.
        what: &'static str,
        /// What was found.
        problem: String,
    },
}

impl StoreError {
    /// Is what is on the disk no longer what was written?
    pub fn is_damage(&self) -> bool {
        use ::sled::Error::{Corruption, ReportableBug};
        matches!(self, Self::Damaged { .. } | Self::Engine(Corruption { .. } | ReportableBug(_)))
    }
}

/// Changes that are committed together: keys with their new value, or none to remove.
pub type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// An ordered map of bytes on a disk, or as if.
pub trait Engine: Send + Sync + 'static {
    /// Reads one key.
    ///
    /// # Errors
    /// The engine's.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Reads keys from `from` (inclusive) on that start with `prefix`, in order, at most `limit`.
    ///
    /// # Errors
    /// The engine's.
    fn range(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// Commits a batch: all of it or, after a crash, perhaps none.
    ///
    /// # Errors
    /// The engine's.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Returns once every batch committed before is on disk.
    ///
    /// # Errors
    /// The engine's or the system's; the process must end then.
    fn make_durable(&self) -> Result<(), StoreError>;

    /// Might a page that was not synced be missing after a crash, without a word from the engine? What was opened must be
    /// read through then.
    fn may_miss_a_page(&self) -> bool {
        false
    }

    /// Bytes on disk, measured.
    fn disk_bytes(&self) -> u64;

    /// The folder, if it has one.
    fn dir(&self) -> Option<&Path>;
}
