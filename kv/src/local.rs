//! This node's copy of the store: the state that it serves, and the one that takes its place after a snapshot.
//!
//! Law: readers see one verified state after the other, never a mixture; a state that was found wrong is not served.
//! The folder's `CURRENT` names the state that is served after a restart; it changes only once the new one is on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use cinnabar_kv_api::limits::KEY_BYTES_MAX;
use cinnabar_kv_api::{SignedCheckpoint, StateHash};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::changes::ChangeRing;
use crate::files::{read_if_there, replace_file};
use crate::limits::{CACHE_BYTES_DEFAULT, ENGINE_CACHE_BYTES_DEFAULT, IMPORT_ENGINE_CACHE_BYTES};
use crate::log::LogEntry;
use crate::snapshot::{self, Dump, Header, SnapshotError};
use crate::state::{Outcome, Point, Read, State, StateOptions, StateWriter};
use crate::store::{Engine, MemoryEngine, SledEngine, StoreError};

pub(crate) const CURRENT_FILE: &str = "CURRENT";
/// Names a state that was found wrong, for the next process.
const WRONG_FILE: &str = "WRONG";
pub(crate) const STATE_PREFIX: &str = "state-";

/// Why a read is not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// This node has no state to serve yet.
    #[error("this node has no verified state yet: it is waiting for its first snapshot or log")]
    NoState,
    /// The state that it had was found wrong; it is fetching another.
    #[error("this node's state does not agree with the signed state hash; it is fetching another")]
    Wrong,
    /// The key is empty or too long.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes, this one {0}")]
    Key(usize),
    /// `at_least` was not reached in time.
    #[error("this node has applied entry {applied}, not yet {needed}")]
    Behind {
        /// What it has.
        applied: u64,
        /// What was asked.
        needed: u64,
    },
    /// The store failed; damaged bytes are never served.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where and how the copy is kept.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The folder; none keeps everything in memory.
    pub dir: Option<PathBuf>,
    /// Bytes of the read cache.
    pub cache_bytes: u64,
    /// Bytes that the engine may keep in memory.
    pub engine_cache_bytes: u64,
}

impl Default for LocalOptions {
    fn default() -> Self {
        let (cache_bytes, engine_cache_bytes) = (CACHE_BYTES_DEFAULT, ENGINE_CACHE_BYTES_DEFAULT);
        Self { dir: None, cache_bytes, engine_cache_bytes }
    }
}

/// The copy. Shared by everything in a node that reads or writes it.
pub struct Local {
    options: LocalOptions,
    current: ArcSwap<State>,
    writer: Mutex<StateWriter>,
    changes: ChangeRing,
    applied: watch::Sender<u64>,
    serving: AtomicBool,
    wrong: AtomicBool,
    stale: AtomicBool,
    /// Time of the newest verified checkpoint, in milliseconds since 1970.
    checkpoint_ms: AtomicU64,
    /// Highest index known to be committed.
    committed: AtomicU64,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Local({:?} at {})", self.options.dir, self.applied_index())
    }
}

fn engine_in(options: &LocalOptions, name: &str) -> Result<Arc<dyn Engine>, StoreError> {
    Ok(match &options.dir {
        Some(dir) => Arc::new(SledEngine::open(&dir.join(name), options.engine_cache_bytes)?),
        None => Arc::new(MemoryEngine::default()),
    })
}

/// Fills a new engine from a snapshot file: one on disk with the least of memory, then opened anew to serve.
fn imported(options: &LocalOptions, name: &str, file: &Path) -> Result<(Header, Arc<dyn Engine>), SnapshotError> {
    let cache_bytes = options.engine_cache_bytes.min(IMPORT_ENGINE_CACHE_BYTES);
    let engine = engine_in(&LocalOptions { engine_cache_bytes: cache_bytes, ..options.clone() }, name)?;
    let header = snapshot::import(file, &engine)?;
    if options.dir.is_none() {
        return Ok((header, engine));
    }
    drop(engine);
    Ok((header, engine_in(options, name)?))
}

fn damaged(problem: String) -> StoreError {
    StoreError::Damaged { what: "state", problem }
}

/// The state that a file of the folder names.
fn named_in(dir: &Path, file: &str) -> io::Result<Option<String>> {
    let Some(bytes) = read_if_there(&dir.join(file))? else { return Ok(None) };
    let name = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some(name.trim().to_owned()).filter(|name| name.starts_with(STATE_PREFIX)))
}

fn current_name(dir: &Path) -> io::Result<Option<String>> {
    named_in(dir, CURRENT_FILE)
}

/// Removes states that are not the current one: left by an install that was cut.
fn remove_others(dir: &Path, current: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let other = name.to_str().is_some_and(|name| name.starts_with(STATE_PREFIX) && name != current);
        if other && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(%error, state = ?name, "cannot remove an old state");
        }
    }
    Ok(())
}

impl Local {
    /// Opens the copy, or begins an empty one.
    ///
    /// # Errors
    /// The store's.
    pub fn open(options: LocalOptions) -> Result<Arc<Self>, StoreError> {
        let mut name = format!("{STATE_PREFIX}{:020}", 0);
        let mut wrong = false;
        if let Some(dir) = &options.dir {
            fs::create_dir_all(dir)?;
            match current_name(dir)? {
                Some(current) => name = current,
                None => replace_file(dir, CURRENT_FILE, name.as_bytes())?,
            }
            remove_others(dir, &name)?;
            wrong = named_in(dir, WRONG_FILE)?.as_ref() == Some(&name);
        }
        let engine = engine_in(&options, &name)?;
        let unsure = engine.may_miss_a_page();
        let (state, writer) = State::open(engine, StateOptions { cache_bytes: options.cache_bytes })?;
        if unsure {
            Dump::open(&writer).map_err(|error| damaged(error.to_string())).and_then(Dump::check)?;
        }
        // What an earlier process left in the kernel's hands counts as durable only from here on.
        state.make_durable()?;
        let applied = state.applied_index();
        Ok(Arc::new(Self {
            options,
            current: ArcSwap::new(state),
            writer: Mutex::new(writer),
            changes: ChangeRing::new(applied),
            applied: watch::Sender::new(applied),
            serving: AtomicBool::new(applied > 0 && !wrong),
            wrong: AtomicBool::new(wrong),
            stale: AtomicBool::new(false),
            checkpoint_ms: AtomicU64::new(0),
            committed: AtomicU64::new(applied),
        }))
    }

    /// The folder, if it has one.
    pub fn dir(&self) -> Option<&Path> {
        self.options.dir.as_deref()
    }

    /// The state that is served.
    pub fn state(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// The point that readers see.
    pub fn point(&self) -> Arc<Point> {
        self.current.load().point()
    }

    /// Index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.current.load().applied_index()
    }

    /// Tells of each new applied index, over all states.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The newest changes, for watches.
    pub fn changes(&self) -> &ChangeRing {
        &self.changes
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn get(&self, key: &[u8]) -> Result<Read, ReadError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(ReadError::Key(key.len()));
        }
        self.check_serving()?;
        Ok(self.current.load().get(key)?)
    }

    /// Is there a state to serve?
    ///
    /// # Errors
    /// [`ReadError::NoState`] or [`ReadError::Wrong`].
    pub fn check_serving(&self) -> Result<(), ReadError> {
        if self.serving.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(if self.wrong.load(Ordering::Acquire) { ReadError::Wrong } else { ReadError::NoState })
    }

    /// Waits until an index is applied.
    ///
    /// # Errors
    /// [`ReadError::Behind`] when that takes longer than `wait`.
    pub async fn wait_for(&self, index: u64, wait: Duration) -> Result<(), ReadError> {
        if self.applied_index() >= index {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        let reached = tokio::time::timeout(wait, applied.wait_for(|applied| *applied >= index)).await;
        match reached {
            Ok(_) => Ok(()),
            Err(_) => Err(ReadError::Behind { applied: self.applied_index(), needed: index }),
        }
    }

    /// Applies committed entries.
    ///
    /// # Errors
    /// The store's; the process must end then.
    pub fn apply(&self, entries: &[LogEntry]) -> Result<Vec<Outcome>, StoreError> {
        let mut writer = self.writer.lock();
        let range = writer.apply_range(entries)?;
        self.publish(&writer, range.changes);
        Ok(range.outcomes)
    }

    /// Applies entries if the state after them has this hash; says whether it has. If not, nothing becomes readable, and
    /// this state takes no more entries.
    ///
    /// # Errors
    /// The store's; the process must end then.
    pub fn apply_if(&self, entries: &[LogEntry], expected: &StateHash) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock();
        let staged = writer.stage(entries)?;
        if staged.point.state_hash != *expected {
            return Ok(false);
        }
        let range = writer.commit(staged)?;
        self.publish(&writer, range.changes);
        Ok(true)
    }

    fn publish(&self, writer: &StateWriter, changes: Vec<crate::state::Changes>) {
        let applied = writer.state().applied_index();
        self.changes.push(changes, applied);
        self.applied.send_replace(applied);
        self.serving.store(!self.is_wrong(), Ordering::Release);
    }

    /// Pretends that everything up to an index was applied, as openraft's suite does.
    #[cfg(test)]
    pub fn skip_to(&self, index: u64) {
        self.writer.lock().skip_to(index);
    }

    /// Opens a dump of the state at its tip. `at_tip` is called with the point while nothing can be applied.
    ///
    /// # Errors
    /// When too many scans are open.
    pub fn open_dump<T>(&self, at_tip: impl FnOnce(&Point) -> T) -> Result<(Dump, T), SnapshotError> {
        let writer = self.writer.lock();
        let dump = Dump::open(&writer)?;
        let found = at_tip(&dump.point);
        Ok((dump, found))
    }

    /// Builds a state from a snapshot file beside the one that is served, and swaps when its hashes agree.
    ///
    /// # Errors
    /// [`SnapshotError`]; the old state goes on being served then.
    pub fn install(&self, file: &Path) -> Result<Header, SnapshotError> {
        let index = snapshot::read_header(file)?.index;
        // A second install at one index must not build into the folder that is served.
        let taken = self.options.dir.as_deref().map(current_name).transpose()?.flatten();
        let mut name = format!("{STATE_PREFIX}{index:020}");
        if taken.as_ref() == Some(&name) {
            name.push_str("-again");
        }
        if let Some(dir) = &self.options.dir
            && dir.join(&name).exists()
        {
            fs::remove_dir_all(dir.join(&name))?;
        }
        self.stale.store(true, Ordering::Release);
        let (header, engine) = match imported(&self.options, &name, file) {
            Ok(imported) => imported,
            Err(error) => {
                if let Some(dir) = &self.options.dir {
                    let _ = fs::remove_dir_all(dir.join(&name));
                }
                return Err(error);
            }
        };
        let (state, fresh) = State::open(engine, StateOptions { cache_bytes: self.options.cache_bytes })?;
        if let Some(dir) = &self.options.dir {
            replace_file(dir, CURRENT_FILE, name.as_bytes())?;
        }
        let mut writer = self.writer.lock();
        *writer = fresh;
        self.current.store(state);
        self.changes.restart(header.index);
        self.wrong.store(false, Ordering::Release);
        self.serving.store(true, Ordering::Release);
        self.stale.store(false, Ordering::Release);
        self.applied.send_replace(header.index);
        drop(writer);
        if let Some(dir) = &self.options.dir {
            if let Err(error) = fs::remove_file(dir.join(WRONG_FILE))
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error.into());
            }
            remove_others(dir, &name)?;
        }
        Ok(header)
    }

    /// Stops serving this state: it does not agree with what a voter signed. A restart does not serve it either.
    pub fn found_wrong(&self) {
        self.wrong.store(true, Ordering::Release);
        self.serving.store(false, Ordering::Release);
        let Some(dir) = &self.options.dir else { return };
        let named = current_name(dir).and_then(|name| match name {
            Some(name) => replace_file(dir, WRONG_FILE, name.as_bytes()),
            None => Ok(()),
        });
        if let Err(error) = named {
            tracing::error!(%error, "a restart of this node would serve a state that was found wrong");
        }
    }

    /// Says that a newer state is being built, or that this one is up to date again.
    pub fn set_stale(&self, stale: bool) {
        self.stale.store(stale, Ordering::Release);
    }

    /// The state is an old verified one, while a newer is built.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// The state was found wrong.
    pub fn is_wrong(&self) -> bool {
        self.wrong.load(Ordering::Acquire)
    }

    /// Takes note of a verified checkpoint's time, in milliseconds since 1970, and of what it says is committed.
    pub fn note_checkpoint(&self, unix_ms: u64, committed: u64) {
        self.checkpoint_ms.fetch_max(unix_ms, Ordering::AcqRel);
        self.committed.fetch_max(committed, Ordering::AcqRel);
    }

    /// Age of the newest verified checkpoint, in milliseconds; the largest number when there was none yet.
    pub fn behind_ms(&self, now_ms: u64) -> u64 {
        match self.checkpoint_ms.load(Ordering::Acquire) {
            0 => u64::MAX,
            at => now_ms.saturating_sub(at),
        }
    }

    /// Highest index known to be committed.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire).max(self.applied_index())
    }

    /// Has everything that is applied written to the disk; gives the index.
    ///
    /// # Errors
    /// The store's; the process must end then.
    pub fn make_durable(&self) -> Result<u64, StoreError> {
        self.state().make_durable()
    }
}

/// The newest checkpoint of a node and where it is kept, so that no older one is believed after a restart.
#[derive(Debug)]
pub struct CheckpointFile {
    dir: Option<PathBuf>,
}

const CHECKPOINT_FILE: &str = "checkpoint";

impl CheckpointFile {
    /// In this folder; none keeps nothing.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir }
    }

    /// Reads it.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when it does not follow its format.
    pub fn load(&self) -> io::Result<Option<SignedCheckpoint>> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let Some(bytes) = read_if_there(&dir.join(CHECKPOINT_FILE))? else { return Ok(None) };
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        SignedCheckpoint::decode(&bytes).map(Some).map_err(invalid)
    }

    /// Replaces it, synced.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, checkpoint: &SignedCheckpoint) -> io::Result<()> {
        match &self.dir {
            Some(dir) => replace_file(dir, CHECKPOINT_FILE, &checkpoint.encode()),
            None => Ok(()),
        }
    }
}
