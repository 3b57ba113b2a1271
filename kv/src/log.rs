//! The durable log: segmented append-only files, one thread that writes and syncs them, and a cache of the newest
//! entries. A voter keeps its Raft log in one, a replica what it passes on to others.
//!
//! The road of an entry: [`Log::append`] chains it and makes it readable; the thread in `log/writer.rs` writes it with
//! all that waits, syncs once, and answers. Why not the state's engine: docs/adr/0005. Layout: docs/formats.md, "Log".

mod record;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SendError, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use cinnabar_kv_api::ChainHead;
use cinnabar_kv_api::limits::PAYLOAD_BYTES_MAX;
use parking_lot::{Mutex, RwLock};

pub use record::LogPoint;
use record::{RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, read_segment_header, segment_header};
use segment::{Extent, Segment};
pub use writer::{Done, OnSync};
use writer::{Job, Pending, Writer};

use crate::files::{create_dir, read_if_there, sync_dir, with_checksum, without_checksum};
use crate::limits::{LOG_CACHE_BYTES, LOG_JOBS_MAX, SEGMENT_BYTES};

/// Holds the point up to which entries were purged.
const PURGED_FILE: &str = "purged";
/// Holds the vote.
const VOTE_FILE: &str = "vote";
/// Locked while the log is open.
const LOCK_FILE: &str = "lock";
/// Times that a held lock is tried again, and the pause between.
const LOCK_TRIES: usize = 20;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(25);
/// Bytes of a vote file.
const VOTE_BYTES_MAX: usize = 1024;

/// Why the log cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Acknowledged bytes do not hold. The node must not go on: replace it (`cinnabar cluster replace`).
    #[error("log entry {index} is damaged: {} at byte {offset}; this node must be replaced, under a new id", segment.display())]
    Damaged {
        /// The entry.
        index: u64,
        /// The file.
        segment: PathBuf,
        /// Where in the file.
        offset: u64,
    },
    /// The entries between two files are missing.
    #[error("log entries {from}..={to} are missing in {}", dir.display())]
    Gap {
        /// First missing.
        from: u64,
        /// Last missing.
        to: u64,
        /// The folder.
        dir: PathBuf,
    },
    /// The entry is purged.
    #[error("log entry {index} is purged, the first is {first}")]
    Purged {
        /// The entry.
        index: u64,
        /// The first one left.
        first: u64,
    },
    /// The operating system's.
    #[error("cannot {act} {}: {error}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl LogError {
    fn io(act: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { act, path: path.to_owned(), error }
    }
}

/// An entry read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it stands.
    pub point: LogPoint,
    /// `kind (1) | body`.
    pub payload: Bytes,
}

/// What readers and the writer share.
#[derive(Debug)]
pub struct Index {
    purged: LogPoint,
    last: LogPoint,
    /// Highest index in the files.
    written: u64,
    /// Truncations asked for and not done: what the files hold past one is not in the log any more.
    cuts: VecDeque<u64>,
    /// Truncations asked for since the start.
    truncations: u64,
    segments: VecDeque<Segment>,
    /// The newest entries, all those among them that the files do not hold.
    cache: VecDeque<LogEntry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
}

impl Index {
    /// Highest index whose entry the files hold as the log has it.
    fn in_files(&self) -> u64 {
        self.cuts.iter().fold(self.written, |least, cut| least.min(*cut))
    }

    fn shrink_cache(&mut self) {
        let in_files = self.in_files();
        while self.cache_bytes > self.cache_bytes_max
            && self.cache.front().is_some_and(|entry| entry.point.index <= in_files)
        {
            let gone = self.cache.pop_front().expect("just seen");
            self.cache_bytes -= gone.payload.len() + RECORD_HEADER_BYTES;
        }
    }

    fn cut_cache(&mut self, keep: impl Fn(u64) -> bool) {
        self.cache.retain(|entry| keep(entry.point.index));
        self.cache_bytes = self.cache.iter().map(|entry| entry.payload.len() + RECORD_HEADER_BYTES).sum();
    }
}

/// How a log is opened.
pub struct LogOptions {
    /// Sync before every answer.
    pub sync_appends: bool,
    /// Highest index that somebody else knows to have been synced in this log; damage up to there is never a torn
    /// tail. The log's own marks say as much but for the seconds before a power cut, so 0 will mostly do. Not the
    /// state's index: a state may be ahead of its log.
    pub durable: u64,
    /// Told once about the error that ended the log.
    pub on_fatal: Box<dyn Fn(&io::Error) + Send>,
    /// Wraps each sync, to measure it.
    pub on_sync: OnSync,
}

/// The log. Clones share it; the last one to go stops the thread after what waits.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    index: Arc<RwLock<Index>>,
    /// Held from a change of the index until its job is sent, so that the thread sees jobs in the order of the changes.
    /// Not the index's own lock: sending waits while the queue is full, and the thread needs the index to empty it.
    order: Mutex<()>,
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Keeps a second process out.
    _lock: File,
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // An answer may hold the last clone; the thread cannot wait for itself, and ends anyway.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join(LOCK_FILE);
    let open = || {
        let file = File::options().write(true).create(true).truncate(false).open(&path)?;
        // A child that this process is just starting holds a copy of the descriptor for a moment.
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        file.try_lock()?;
        Ok(file)
    };
    open().map_err(|error| LogError::io("lock", &path, error))
}

fn read_purged(dir: &Path) -> Result<LogPoint, LogError> {
    let path = dir.join(PURGED_FILE);
    let Some(bytes) = read_if_there(&path).map_err(|error| LogError::io("read", &path, error))? else {
        return Ok(LogPoint::default());
    };
    let point = read_segment_header(&bytes).filter(|_| bytes.len() == SEGMENT_HEADER_BYTES);
    point.ok_or(LogError::Damaged { index: 0, segment: path, offset: 0 })
}

fn open_segments(dir: &Path, purged: LogPoint, durable: u64) -> Result<(VecDeque<Segment>, LogPoint), LogError> {
    let firsts = segment::list(dir).map_err(|error| LogError::io("list", dir, error))?;
    let mut segments: VecDeque<Segment> = VecDeque::new();
    let mut last = purged;
    for (n, first) in firsts.iter().enumerate() {
        let path = dir.join(segment::file_name(*first));
        let remove = || fs::remove_file(&path).map_err(|error| LogError::io("remove", &path, error));
        let Some(opened) = segment::open(dir, *first, n + 1 == firsts.len(), durable)? else {
            remove()?;
            continue;
        };
        if opened.last.index < purged.index {
            // Purged to a point past this file, but not removed; or lost although a snapshot covers it.
            remove()?;
            continue;
        }
        let before = opened.segment.before;
        let follows = before == last || segments.is_empty() && before.index < purged.index;
        if !follows && before.index > last.index {
            return Err(LogError::Gap { from: last.index + 1, to: before.index, dir: dir.to_owned() });
        }
        if !follows {
            return Err(LogError::Damaged { index: *first, segment: path, offset: 0 });
        }
        if opened.torn_bytes > 0 {
            tracing::warn!(bytes = opened.torn_bytes, after = opened.last.index, "cut a torn tail from the log");
            let cut = opened.segment.file.set_len(opened.segment.bytes).and_then(|()| opened.segment.file.sync_all());
            cut.map_err(|error| LogError::io("cut", &path, error))?;
        }
        last = opened.last;
        segments.push_back(opened.segment);
    }
    Ok((segments, last))
}

impl Log {
    /// Opens or creates the log in `dir`, checks every record and cuts a torn tail.
    ///
    /// # Errors
    /// [`LogError::Damaged`] naming the entry, [`LogError::Gap`], or the system's, among them that another process has
    /// the log open.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self, LogError> {
        Self::open_sized(dir, options, SEGMENT_BYTES, LOG_CACHE_BYTES)
    }

    fn open_sized(
        dir: &Path,
        options: LogOptions,
        segment_bytes: u64,
        cache_bytes_max: usize,
    ) -> Result<Self, LogError> {
        create_dir(dir).map_err(|error| LogError::io("create", dir, error))?;
        let lock = lock(dir)?;
        let purged = read_purged(dir)?;
        let (segments, last) = open_segments(dir, purged, options.durable)?;
        // What a crash left between a write and its sync is read now, so it must not be lost later. The names too.
        if let Some(segment) = segments.back() {
            segment.file.sync_all().map_err(|error| LogError::io("sync", &segment.path, error))?;
        }
        sync_dir(dir).map_err(|error| LogError::io("sync", dir, error))?;
        let index = Index {
            purged,
            last,
            written: last.index,
            cuts: VecDeque::new(),
            truncations: 0,
            segments,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
        };
        let index = Arc::new(RwLock::new(index));
        let writer = Writer {
            dir: dir.to_owned(),
            index: index.clone(),
            segment_bytes,
            sync_appends: options.sync_appends,
            on_fatal: options.on_fatal,
            on_sync: options.on_sync,
            tail: last,
            synced: last.index,
            purged: purged.index,
        };
        let (jobs, waiting) = sync_channel(LOG_JOBS_MAX);
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(|error| LogError::io("start the thread of", dir, error))?;
        let (jobs, thread) = (Some(jobs), Some(thread));
        Ok(Self {
            shared: Arc::new(Shared { dir: dir.to_owned(), index, order: Mutex::default(), jobs, thread, _lock: lock }),
        })
    }

    fn send(&self, job: Job) {
        let jobs = self.shared.jobs.as_ref().expect("the sender is taken only with the last clone");
        if let Err(SendError(job)) = jobs.send(job) {
            // The thread panicked: it outlives every sender otherwise.
            (job.into_done())(Err(io::Error::other("the log's thread is gone")));
        }
    }

    /// The point up to which entries are purged.
    pub fn purged(&self) -> LogPoint {
        self.shared.index.read().purged
    }

    /// The last entry, or the purged point when there is none.
    pub fn last(&self) -> LogPoint {
        self.shared.index.read().last
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.index.read().segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The oldest index that must be kept so that about `bytes` of log stay.
    pub fn index_keeping(&self, bytes: u64) -> u64 {
        let index = self.shared.index.read();
        let mut kept = 0;
        for segment in index.segments.iter().rev() {
            kept += segment.bytes;
            if kept >= bytes {
                return segment.before.index;
            }
        }
        index.purged.index
    }

    /// Chains and appends entries after the last one; they are readable at once and `done` is told once they are on
    /// disk (or, for a log that does not sync appends, written).
    ///
    /// # Errors
    /// An entry that does not follow the last one: the caller's defect, nothing is appended.
    pub fn append(&self, entries: impl IntoIterator<Item = (u64, u64, Bytes)>, done: Done) -> io::Result<()> {
        let _order = self.shared.order.lock();
        let mut last = self.last();
        let mut pending = Vec::new();
        for (at, term, payload) in entries {
            if at != last.index + 1 {
                return Err(io::Error::other(format!("entry {at} appended after entry {}", last.index)));
            }
            if payload.is_empty() || payload.len() > PAYLOAD_BYTES_MAX {
                return Err(io::Error::other(format!("entry {at} has a payload of {} bytes", payload.len())));
            }
            last = LogPoint { index: at, term, head: last.head.next(at, term, &payload) };
            pending.push(Pending { point: last, payload });
        }
        {
            let mut index = self.shared.index.write();
            for entry in &pending {
                index.cache_bytes += entry.payload.len() + RECORD_HEADER_BYTES;
                index.cache.push_back(LogEntry { point: entry.point, payload: entry.payload.clone() });
            }
            index.last = last;
        }
        self.send(Job::Append(pending, done));
        Ok(())
    }

    /// Removes every entry after `after`, which must be in the log or the purged point.
    ///
    /// # Errors
    /// [`LogError`] when `after` cannot be read.
    pub fn truncate_after(&self, after: u64, done: Done) -> Result<(), LogError> {
        let _order = self.shared.order.lock();
        let point = self.point_at(after)?;
        {
            let mut index = self.shared.index.write();
            index.last = point;
            index.cuts.push_back(after);
            index.truncations += 1;
            index.cut_cache(|at| at <= after);
        }
        self.send(Job::Truncate(point, done));
        Ok(())
    }

    /// Removes every entry up to `point`, whole files at a time; past the last entry the log begins anew after it. A
    /// point that is purged already changes nothing.
    pub fn purge(&self, point: LogPoint, done: Done) {
        let _order = self.shared.order.lock();
        {
            let mut index = self.shared.index.write();
            if point.index > index.purged.index {
                index.purged = point;
                index.cut_cache(|at| at > point.index);
            }
            if point.index > index.last.index {
                index.last = point;
            }
        }
        self.send(Job::Purge(point, done));
    }

    /// Replaces the vote; `done` is told once it is on disk.
    pub fn save_vote(&self, vote: &[u8], done: Done) {
        assert!(vote.len() < VOTE_BYTES_MAX, "a vote is a few numbers");
        let (name, bytes) = vote_file(vote);
        self.send(Job::Put(name, bytes, done));
    }

    /// Reads the vote from disk.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when its checksum does not hold: the node must be replaced.
    pub fn read_vote(&self) -> Result<Option<Vec<u8>>, LogError> {
        let path = self.shared.dir.join(VOTE_FILE);
        let Some(bytes) = read_if_there(&path).map_err(|error| LogError::io("read", &path, error))? else {
            return Ok(None);
        };
        let vote = without_checksum(&bytes).map(<[u8]>::to_vec);
        vote.map(Some).ok_or(LogError::Damaged { index: 0, segment: path, offset: 0 })
    }

    /// Syncs what is written.
    pub fn sync(&self, done: Done) {
        self.send(Job::Sync(done));
    }

    /// The point of one entry, or the purged point.
    ///
    /// # Errors
    /// [`LogError::Purged`], or what reading says.
    pub fn point_at(&self, at: u64) -> Result<LogPoint, LogError> {
        let (purged, last) = {
            let index = self.shared.index.read();
            (index.purged, index.last)
        };
        if at == last.index {
            return Ok(last);
        }
        if at == purged.index {
            return Ok(purged);
        }
        let found = self.read(at, 1, 1)?;
        let missing = || LogError::Gap { from: at, to: at, dir: self.shared.dir.clone() };
        found.first().map(|entry| entry.point).ok_or_else(missing)
    }

    /// Chain head at an index that is in the log or the purged point.
    pub fn head_at(&self, at: u64) -> Option<ChainHead> {
        self.point_at(at).ok().map(|point| point.head)
    }

    /// Reads entries from `from` on: at least one when there is one, then while they stay within both bounds.
    ///
    /// # Errors
    /// [`LogError::Purged`]; [`LogError::Damaged`] when the disk no longer holds what was written.
    pub fn read(&self, from: u64, entries_max: usize, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let mut found = Found { entries: Vec::new(), bytes: 0, entries_max, bytes_max };
        let (mut next, mut begun) = (from, None);
        loop {
            let (extents, upto, truncations) = {
                let index = self.shared.index.read();
                if *begun.get_or_insert(index.truncations) != index.truncations {
                    // Only a truncation changes bytes that were looked at, and it is counted before it begins.
                    (found.entries, found.bytes, next, begun) = (Vec::new(), 0, from, Some(index.truncations));
                }
                if next <= index.purged.index {
                    return Err(LogError::Purged { index: next, first: index.purged.index + 1 });
                }
                let first = index.cache.front().map_or(index.last.index + 1, |entry| entry.point.index);
                if next >= first {
                    let skip = usize::try_from(next - first).unwrap_or(usize::MAX);
                    index.cache.iter().skip(skip).cloned().all(|entry| found.take(entry));
                    return Ok(found.entries);
                }
                let start = index.segments.partition_point(|segment| segment.before.index < next).saturating_sub(1);
                let extents = index.segments.range(start..).map(|segment| (segment.extent(next), segment.bytes));
                (extents.collect::<Vec<_>>(), index.in_files(), index.truncations)
            };
            let read = found.read(&extents, next, upto);
            if self.shared.index.read().truncations != truncations {
                continue;
            }
            read?;
            next = from + found.entries.len() as u64;
            if next <= upto {
                return Ok(found.entries);
            }
            // All that the files have is taken: what follows waits to be written, and is in the cache.
        }
    }
}

/// What a read has gathered, within its bounds.
struct Found {
    entries: Vec<LogEntry>,
    bytes: usize,
    entries_max: usize,
    bytes_max: usize,
}

impl Found {
    /// Takes one more entry if there is room for it; false when there is none for another.
    fn take(&mut self, entry: LogEntry) -> bool {
        let bytes = self.bytes + entry.payload.len();
        let full = self.entries.len() >= self.entries_max || !self.entries.is_empty() && bytes > self.bytes_max;
        if !full {
            self.bytes = bytes;
            self.entries.push(entry);
        }
        !full && self.entries.len() < self.entries_max && self.bytes < self.bytes_max
    }

    fn read(&mut self, extents: &[(Extent, u64)], from: u64, upto: u64) -> Result<(), LogError> {
        let mut more = true;
        for (extent, end) in extents {
            extent.read(from, upto, *end, |record, _| {
                more = self.take(LogEntry { point: record.point, payload: record.payload });
                more
            })?;
            if !more {
                break;
            }
        }
        Ok(())
    }
}

/// Name and bytes of the file that holds the purged point, for those who build a log's folder beside the log.
pub fn purged_file(point: &LogPoint) -> (&'static str, Vec<u8>) {
    (PURGED_FILE, segment_header(point))
}

/// Name and bytes of a vote's file, for those who build a log's folder beside the log.
pub fn vote_file(vote: &[u8]) -> (&'static str, Vec<u8>) {
    (VOTE_FILE, with_checksum(vote))
}
