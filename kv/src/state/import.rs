//! Filling an empty engine with the records of a snapshot, summing them up on the way.

use std::sync::Arc;

use bytes::Bytes;
use cinnabar_daemon::allocator::give_back;
use cinnabar_kv_api::ClientId;

use super::hash::{Space, Sum, digest};
use super::meta::{META_KEY, Meta};
use super::record::{self, Record};
use super::sessions::Session;
use crate::limits::{IMPORT_BATCH_BYTES, IMPORT_SYNC_BYTES};
use crate::snapshot::Header;
use crate::store::{Batch, Engine, StoreError};

/// Why records cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// They are not in order, or not records.
    #[error("{0}")]
    Malformed(String),
    /// The engine's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Sums up records, and stores them unless it is a dry run.
pub struct Importer {
    engine: Option<Arc<dyn Engine>>,
    sum: Sum,
    records: u64,
    record_bytes: u64,
    sessions: u64,
    last: (u8, Bytes),
    batch: Batch,
    batch_bytes: usize,
    unsynced_bytes: usize,
}

impl Importer {
    fn new(engine: Option<Arc<dyn Engine>>) -> Self {
        let last = (Space::Session as u8, Bytes::new());
        Self {
            engine,
            sum: Sum::default(),
            records: 0,
            record_bytes: 0,
            sessions: 0,
            last,
            batch: Batch::new(),
            batch_bytes: 0,
            unsynced_bytes: 0,
        }
    }

    /// Only sums up.
    pub fn dry() -> Self {
        Self::new(None)
    }

    /// Stores into an empty engine.
    pub fn into(engine: Arc<dyn Engine>) -> Self {
        Self::new(Some(engine))
    }

    /// Takes the next record: sessions first, then records, each by key.
    ///
    /// # Errors
    /// [`ImportError::Malformed`] when it is out of order or no record; the engine's.
    pub fn add(&mut self, space: u8, key: Bytes, record: Record) -> Result<(), ImportError> {
        let malformed = |problem: &str| ImportError::Malformed(problem.to_owned());
        let kind = match space {
            b's' => Space::Session,
            b'k' => Space::Record,
            _ => return Err(ImportError::Malformed(format!("a record of kind {space}"))),
        };
        // Sessions stand before records although their letter does not.
        let rank = |space: u8| u8::from(space == Space::Record as u8);
        if (rank(space), &key) <= (rank(self.last.0), &self.last.1) {
            return Err(malformed("records are out of order"));
        }
        let digest = digest(kind, &key, record.mod_index, &record.value);
        self.sum.add(&digest);
        if kind == Space::Session {
            if key.len() != size_of::<ClientId>() || Session::decode(&record.value).is_err() {
                return Err(malformed("a session does not follow its format"));
            }
            self.sessions += 1;
        } else {
            self.records += 1;
            self.record_bytes += (key.len() + record.value.len()) as u64;
        }
        if self.engine.is_some() {
            self.batch_bytes += key.len() + record.value.len();
            record::write(&mut self.batch, kind, &key, Some((&record, &digest)), 0);
        }
        self.last = (space, key);
        if self.batch_bytes >= IMPORT_BATCH_BYTES { Ok(self.flush()?) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let Some(engine) = &self.engine else { return Ok(()) };
        self.unsynced_bytes += std::mem::take(&mut self.batch_bytes);
        engine.commit(std::mem::take(&mut self.batch))?;
        if self.unsynced_bytes >= IMPORT_SYNC_BYTES {
            self.unsynced_bytes = 0;
            engine.make_durable()?;
            // sled writes through blocks of a segment's size, and has freed them now.
            give_back();
        }
        Ok(())
    }

    /// Compares what was summed up with what the header says.
    ///
    /// # Errors
    /// What does not agree.
    pub fn check(&self, header: &Header) -> Result<(), String> {
        let counts = (self.records, self.record_bytes, self.sessions);
        let expected = (header.records, header.record_bytes, header.sessions);
        if counts != expected {
            return Err(format!("records, bytes and sessions are {counts:?}, its header says {expected:?}"));
        }
        let hash = self.sum.hash(self.records + self.sessions);
        if hash == header.state_hash {
            Ok(())
        } else {
            Err(format!("its records hash to {hash}, its header says {}", header.state_hash))
        }
    }

    /// Stores the rest and the point.
    ///
    /// # Errors
    /// The engine's.
    pub fn finish(mut self, header: &Header) -> Result<(), StoreError> {
        self.flush()?;
        let Some(engine) = &self.engine else { return Ok(()) };
        let meta = Meta {
            applied: header.point(),
            sum: Bytes::copy_from_slice(&self.sum.to_bytes()),
            records: self.records,
            record_bytes: self.record_bytes,
            sessions: self.sessions,
            store: header.store.clone(),
            membership: header.membership.clone(),
        };
        engine.commit(vec![(META_KEY.to_vec(), Some(meta.encode()))])
    }
}
