//! sled behind [`Engine`], and the durability that it does not give.
//!
//! sled's `flush` hands bytes to the kernel (`sync_file_range`) and stops there, so an own descriptor of its log file
//! is synced after each flush; its small files and folders are synced when they are created. Values reach sled in pieces
//! small enough that no page passes 128 KiB: larger pages would go to files that sled never syncs, and a commit that
//! makes one is an error here. docs/adr/0005 has the measurements.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use super::{Batch, Engine, StoreError};
use crate::files::{create_dir, sync_dir};

/// Times that a locked database is tried.
const LOCK_TRIES_MAX: u32 = 100;
/// Time between two tries.
const LOCK_WAIT: Duration = Duration::from_millis(10);

/// A sled database and the descriptor through which it is synced.
#[derive(Debug)]
pub struct SledEngine {
    db: sled::Db,
    /// sled's log file.
    file: File,
    dir: PathBuf,
}

impl SledEngine {
    /// Opens or creates the database in `dir`, which keeps about `cache_bytes` of pages in memory.
    ///
    /// # Errors
    /// sled's, or the system's.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        create_dir(dir)?;
        let db = open_locked(&sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(None))?;
        db.flush()?;
        for name in ["db", "conf"] {
            File::open(dir.join(name))?.sync_all()?;
        }
        sync_dir(dir)?;
        Ok(Self { file: File::open(dir.join("db"))?, db, dir: dir.to_owned() })
    }

    fn large_pages(&self) -> Result<usize, StoreError> {
        match fs::read_dir(self.dir.join("blobs")) {
            Ok(entries) => Ok(entries.count()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// Opens a database; waits a moment for its lock, which sled's own threads may hold for a while after the last handle
/// of this process is gone.
fn open_locked(config: &sled::Config) -> Result<sled::Db, StoreError> {
    let mut tries = LOCK_TRIES_MAX;
    loop {
        tries -= 1;
        // sled panics over some of what a power cut leaves; to whoever opens it that is damage like any other.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        match opened.map_err(|_| damaged_file())? {
            Err(sled::Error::Io(error)) if tries > 0 && error.to_string().contains("could not acquire lock") => {
                std::thread::sleep(LOCK_WAIT);
            }
            opened => return Ok(opened?),
        }
    }
}

fn damaged_file() -> StoreError {
    StoreError::Damaged { what: "file", problem: "the engine cannot open it".to_owned() }
}

fn shared(value: &sled::IVec) -> Bytes {
    Bytes::copy_from_slice(value)
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.db.get(key)?.as_ref().map(shared))
    }

    fn range(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut found = Vec::new();
        for item in self.db.range(from.max(prefix)..).take(limit) {
            let (key, value) = item?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push((shared(&key), shared(&value)));
        }
        Ok(found)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut changes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        Ok(self.db.apply_batch(changes)?)
    }

    fn make_durable(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        self.file.sync_data()?;
        match self.large_pages()? {
            0 => Ok(()),
            count => Err(StoreError::Damaged {
                what: "page",
                problem: format!("{count} pages over 128 KiB, which are never synced"),
            }),
        }
    }

    fn disk_bytes(&self) -> u64 {
        let mut bytes = 0;
        let mut folders = vec![self.dir.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(found) if found.is_dir() => folders.push(entry.path()),
                    Ok(found) => bytes += std::os::unix::fs::MetadataExt::blocks(&found) * 512,
                    Err(_) => {}
                }
            }
        }
        bytes
    }

    fn dir(&self) -> Option<&Path> {
        Some(&self.dir)
    }
}
