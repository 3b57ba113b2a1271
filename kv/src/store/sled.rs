//! sled behind [`Engine`], and the durability that it does not give.
//!
//! sled's `flush` hands bytes to the kernel (`sync_file_range`) and stops there, so an own descriptor of its log file
//! is synced after each flush; its small files and folders are synced when they are created. A page above a quarter of a
//! segment goes to a file of its own under `blobs/`, which sled never syncs. Values reach sled in pieces, and segments
//! are large enough, that merging pages seldom makes one; those that are made are synced here before the log, and a
//! database that has any is read through when it is opened. docs/adr/0005 has the measurements.
//!
//! What sled replaces it leaves to crossbeam-epoch, which frees at most 512 objects at every 128th batch of a thread,
//! however many a batch left, and sled uses a part of its file again only after that. So each commit here has what was
//! left freed, as many objects as batches make: without it memory and file grew with every byte written.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Batch, Engine, StoreError};
use crate::files::{create_dir, sync_dir};
use crate::limits::ENGINE_ITEMS_PER_ROUND;

/// Times that a locked database is tried.
const LOCK_TRIES_MAX: u32 = 100;
/// Time between two tries.
const LOCK_WAIT: Duration = Duration::from_millis(10);

/// Bytes of one of sled's segments: twice its default, so that pages up to 256 KiB stay in the log.
const SEGMENT_BYTES: usize = 1024 * 1024;
/// Rounds of freeing after a flush: an object is freed two epochs after it was left, and a round begins at most one.
const ROUNDS_AFTER_FLUSH: usize = 3;
/// Folder of the pages that did not.
const LARGE_PAGES_DIR: &str = "blobs";

/// A sled database and the descriptor through which it is synced.
#[derive(Debug)]
pub struct SledEngine {
    db: sled::Db,
    /// sled's log file.
    file: File,
    dir: PathBuf,
    /// Large pages that are on disk.
    synced: Mutex<BTreeSet<OsString>>,
    /// Were there large pages when it was opened?
    unsure: bool,
}

impl SledEngine {
    /// Opens or creates the database in `dir`, which keeps about `cache_bytes` of pages in memory.
    ///
    /// # Errors
    /// sled's, or the system's.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        create_dir(dir)?;
        let unsure = !large_pages(dir)?.is_empty();
        let config = sled::Config::new().path(dir).segment_size(SEGMENT_BYTES).cache_capacity(cache_bytes);
        let db = open_locked(&config.flush_every_ms(None))?;
        db.flush()?;
        for name in ["db", "conf"] {
            File::open(dir.join(name))?.sync_all()?;
        }
        sync_dir(dir)?;
        Ok(Self { file: File::open(dir.join("db"))?, db, dir: dir.to_owned(), synced: Mutex::default(), unsure })
    }

    /// Syncs large pages that were not synced yet.
    fn sync_large_pages(&self) -> io::Result<()> {
        let found = large_pages(&self.dir)?;
        let mut synced = self.synced.lock();
        let folder = self.dir.join(LARGE_PAGES_DIR);
        for name in found.difference(&synced) {
            match File::open(folder.join(name)) {
                Ok(file) => file.sync_all()?,
                // The page was written anew since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if *synced != found {
            sync_dir(&folder)?;
            *synced = found;
        }
        Ok(())
    }
}

/// Has crossbeam-epoch free what sled left for it: some rounds of at most 512 objects, in this thread. What a reader may
/// still look at waits for a later one.
fn free_garbage(rounds: usize) {
    for _ in 0..rounds {
        crossbeam_epoch::pin().flush();
    }
}

fn large_pages(dir: &Path) -> io::Result<BTreeSet<OsString>> {
    match fs::read_dir(dir.join(LARGE_PAGES_DIR)) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
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
        let rounds = 1 + batch.len() / ENGINE_ITEMS_PER_ROUND;
        let mut changes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        self.db.apply_batch(changes)?;
        free_garbage(rounds);
        Ok(())
    }

    fn make_durable(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        free_garbage(ROUNDS_AFTER_FLUSH);
        self.sync_large_pages()?;
        Ok(self.file.sync_data()?)
    }

    fn may_miss_a_page(&self) -> bool {
        self.unsure
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
