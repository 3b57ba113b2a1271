//! The log's one thread: writes, syncs once for all that waits, then answers.
//!
//! Law: an answer follows its `fdatasync`; a new file's folder is synced before anything in it is answered. A crash
//! between any two steps leaves a log that opens: each step comes only after the disk holds what it rests on. After any
//! error nothing is answered well again: the process must end, for a failed sync may have lost what the kernel held.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use bytes::Bytes;
use parking_lot::RwLock;

use super::record::{LogPoint, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, segment_header, sync_mark, write_record};
use super::segment::{Segment, file_name};
use super::{Index, LogError};
use crate::files::{replace_file, sync_dir};

/// Bytes of records gathered before they are written and synced.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Told when a job is done, with the error that stopped it. Runs on the log's thread: it must neither wait nor call the
/// log.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Runs each sync that it is given, once, to measure it.
pub type OnSync = Box<dyn FnMut(&mut dyn FnMut() -> io::Result<()>) -> io::Result<()> + Send>;

/// One entry on its way to the disk.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Where it stands.
    pub point: LogPoint,
    /// `kind (1) | body`.
    pub payload: Bytes,
}

/// What the thread is asked to do, in order.
pub enum Job {
    /// Write entries.
    Append(Vec<Pending>, Done),
    /// Remove every entry after this one.
    Truncate(LogPoint, Done),
    /// Remove every entry up to this one; past the last entry, begin anew after it.
    Purge(LogPoint, Done),
    /// Replace a small file of the folder.
    Put(&'static str, Vec<u8>, Done),
    /// Sync what was written; for a log that does not sync every append.
    Sync(Done),
}

impl Job {
    /// Takes what is told when the job is done.
    pub fn into_done(self) -> Done {
        match self {
            Self::Append(_, done) | Self::Truncate(_, done) | Self::Purge(_, done) => done,
            Self::Put(_, _, done) | Self::Sync(done) => done,
        }
    }
}

/// The thread's side of the log.
pub struct Writer {
    /// The folder.
    pub dir: PathBuf,
    /// Shared with readers.
    pub index: Arc<RwLock<Index>>,
    /// Bytes after which a segment is closed.
    pub segment_bytes: u64,
    /// Sync before every answer? A replica's log can be had again from its upstream.
    pub sync_appends: bool,
    /// Told once about the error that ended the log.
    pub on_fatal: Box<dyn Fn(&io::Error) + Send>,
    /// Counts seconds of a sync.
    pub on_sync: OnSync,
    /// The last entry in the files.
    pub tail: LogPoint,
    /// Highest index known to be on disk.
    pub synced: u64,
    /// Index up to which entries are purged.
    pub purged: u64,
}

/// The first error; every later job is answered with it.
type Dead = Option<(io::ErrorKind, String)>;

impl Writer {
    /// Works until the log is dropped or its thread panics.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        let mut dead: Dead = None;
        let mut next = jobs.recv().ok();
        while let Some(job) = next.take() {
            let mut group = Vec::new();
            let mut answers = Vec::new();
            let mut bytes = 0;
            let mut other = None;
            let mut job = Some(job);
            // Gather appends that already wait: they share one sync.
            while let Some(current) = job.take() {
                match current {
                    Job::Append(entries, done) => {
                        bytes += entries.iter().map(|e| e.payload.len() + RECORD_HEADER_BYTES).sum::<usize>();
                        group.extend(entries);
                        answers.push(done);
                    }
                    rest => {
                        other = Some(rest);
                        break;
                    }
                }
                if bytes < GROUP_BYTES {
                    job = jobs.try_recv().ok();
                }
            }
            let result = match &dead {
                Some(error) => Err(again(error)),
                None => self.append(&group),
            };
            self.answer(result, answers, &mut dead);
            if let Some(other) = other {
                self.act(other, &mut dead);
            }
            next = jobs.recv().ok();
        }
    }

    fn answer(&self, result: io::Result<()>, answers: Vec<Done>, dead: &mut Dead) {
        if let Err(error) = &result
            && dead.is_none()
        {
            *dead = Some((error.kind(), error.to_string()));
            (self.on_fatal)(error);
        }
        for done in answers {
            done(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }

    fn act(&mut self, job: Job, dead: &mut Dead) {
        let (result, done) = match (job, &dead) {
            (job, Some(error)) => (Err(again(error)), job.into_done()),
            (Job::Append(..), None) => unreachable!("appends are gathered"),
            (Job::Truncate(point, done), None) => (self.truncate(&point), done),
            (Job::Purge(point, done), None) => (self.purge(&point), done),
            (Job::Put(name, bytes, done), None) => (replace_file(&self.dir, name, &bytes), done),
            (Job::Sync(done), None) => (self.sync(), done),
        };
        self.answer(result, vec![done], dead);
    }

    /// The segment that takes the next record, the last one or a new one: its file, and where the record goes.
    fn segment(&mut self) -> io::Result<(Arc<File>, u64)> {
        if let Some(segment) = self.index.read().segments.back().filter(|segment| segment.bytes < self.segment_bytes) {
            return Ok((segment.file.clone(), segment.bytes));
        }
        // Once a file follows, nothing before it may be torn.
        if self.synced < self.tail.index {
            self.sync()?;
        }
        let path = self.dir.join(file_name(self.tail.index + 1));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        file.write_all_at(&segment_header(&self.tail), 0)?;
        sync_dir(&self.dir)?;
        let (file, bytes) = (Arc::new(file), SEGMENT_HEADER_BYTES as u64);
        let segment =
            Segment { before: self.tail, file: file.clone(), path: path.as_path().into(), bytes, marks: Vec::new() };
        self.index.write().segments.push_back(segment);
        Ok((file, bytes))
    }

    fn append(&mut self, mut entries: &[Pending]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        while !entries.is_empty() {
            let (file, start) = self.segment()?;
            out.clear();
            let mut places = Vec::new();
            for entry in entries {
                let place = start + out.len() as u64;
                if place >= self.segment_bytes && !places.is_empty() {
                    break;
                }
                places.push((entry.point.index, place));
                write_record(&mut out, &entry.point, self.synced, &entry.payload);
            }
            file.write_all_at(&out, start)?;
            let written = places.len();
            self.tail = entries[written - 1].point;
            entries = &entries[written..];
            let mut index = self.index.write();
            let segment = index.segments.back_mut().expect("the segment just written");
            segment.bytes += out.len() as u64;
            places.into_iter().for_each(|(index, place)| segment.mark(index, place));
            index.written = self.tail.index;
            index.shrink_cache();
        }
        if self.sync_appends { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let end = self.index.read().segments.back().map(|segment| (segment.file.clone(), segment.bytes));
        if let Some((file, end)) = end {
            (self.on_sync)(&mut || file.sync_data())?;
            file.write_all_at(&sync_mark(&self.tail), end)?;
        }
        self.synced = self.tail.index;
        Ok(())
    }

    fn truncate(&mut self, point: &LogPoint) -> io::Result<()> {
        // From the end backwards, so that a crash in between leaves no hole.
        loop {
            let path = {
                let index = self.index.read();
                let past = index.segments.back().filter(|segment| segment.before.index > point.index);
                past.map(|segment| segment.path.clone())
            };
            let Some(path) = path else { break };
            fs::remove_file(path)?;
            sync_dir(&self.dir)?;
            self.index.write().segments.pop_back();
        }
        let last = {
            let index = self.index.read();
            index.segments.back().map(|segment| (segment.extent(point.index), segment.file.clone(), segment.bytes))
        };
        if let Some((extent, file, mut end)) = last {
            extent.read(point.index + 1, u64::MAX, end, |_, place| {
                end = place;
                false
            })?;
            file.set_len(end)?;
            file.sync_all()?;
            let mut index = self.index.write();
            let segment = index.segments.back_mut().expect("the segment just cut");
            segment.bytes = end;
            segment.marks.retain(|(index, _)| *index <= point.index);
        }
        self.tail = *point;
        self.synced = self.synced.min(point.index);
        let mut index = self.index.write();
        index.written = point.index;
        index.cuts.pop_front();
        Ok(())
    }

    fn purge(&mut self, point: &LogPoint) -> io::Result<()> {
        if point.index <= self.purged {
            return Ok(());
        }
        replace_file(&self.dir, super::PURGED_FILE, &segment_header(point))?;
        self.purged = point.index;
        let beyond = self.tail.index < point.index;
        loop {
            let front = {
                let index = self.index.read();
                let next = index.segments.get(1).map(|segment| segment.before.index);
                let obsolete = beyond || next.is_some_and(|next| next <= point.index);
                index.segments.front().filter(|_| obsolete).map(|segment| segment.path.clone())
            };
            let Some(path) = front else { break };
            fs::remove_file(path)?;
            self.index.write().segments.pop_front();
        }
        sync_dir(&self.dir)?;
        if beyond {
            self.tail = *point;
            self.synced = point.index;
            self.index.write().written = point.index;
        }
        Ok(())
    }
}

fn again((kind, message): &(io::ErrorKind, String)) -> io::Error {
    io::Error::new(*kind, message.clone())
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        Self::other(error)
    }
}
