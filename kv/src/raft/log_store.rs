//! The Raft log and vote, for openraft, on [`Log`].

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use cinnabar_kv_api::codec;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::types::{Entry, LogId, Types, Vote, from_log, to_index, to_log_id, to_wire};
use crate::limits::APPEND_BYTES_MAX;
use crate::log::{Done, Log, LogError, LogPoint};
use crate::milestones::Milestones;

const VOTE_FORMAT: u8 = 1;
const VOTE_BYTES_MAX: usize = 256;

/// The log of a voter. Clones share it; openraft reads through one and writes through another.
#[derive(Debug, Clone)]
pub struct LogStore {
    log: Log,
    milestones: Arc<Milestones>,
    vote: Arc<Mutex<Option<Vote>>>,
    /// Log point of the newest installed snapshot: where a log begins anew that ends before it.
    installed: Arc<Mutex<LogPoint>>,
    purged: Arc<Mutex<Option<LogId>>>,
    /// openraft's own suite begins logs in the middle; a voter's log never does.
    holes: bool,
}

/// Name and bytes of the vote file with which a restored voter begins: its own, in the term of the last entry, so that
/// the next election is in a later one.
pub fn vote_file(term: u64, id: u64) -> (&'static str, Vec<u8>) {
    crate::log::vote_file(&codec::encode(VOTE_FORMAT, &Vote::new(term, id)))
}

/// A future of a job's answer.
fn answer() -> (Done, impl Future<Output = io::Result<()>>) {
    let (tell, told) = oneshot::channel();
    let done: Done = Box::new(move |result| {
        let _ = tell.send(result);
    });
    let wait = async move { told.await.unwrap_or_else(|_| Err(io::Error::other("the log's thread has ended"))) };
    (done, wait)
}

impl LogStore {
    /// Wraps a log; reads the vote.
    ///
    /// # Errors
    /// [`LogError`] when the vote is damaged: the node must be replaced.
    pub fn new(log: Log, milestones: Arc<Milestones>, installed: Arc<Mutex<LogPoint>>) -> Result<Self, LogError> {
        let vote =
            match log.read_vote()? {
                Some(bytes) => Some(
                    codec::decode::<Vote, VOTE_BYTES_MAX>("vote", VOTE_FORMAT, &bytes)
                        .map_err(|_| LogError::Damaged { index: 0, segment: "vote".into(), offset: 0 })?,
                ),
                None => None,
            };
        let purged = log.purged();
        let purged = Arc::new(Mutex::new(to_log_id(purged.index, purged.term)));
        Ok(Self { log, milestones, vote: Arc::new(Mutex::new(vote)), installed, purged, holes: false })
    }

    /// Lets an empty log begin anywhere, as openraft's suite does.
    #[cfg(test)]
    pub fn with_holes(mut self) -> Self {
        self.holes = true;
        self
    }

    fn read(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        let start = start.max(self.purged.lock().map_or(0, |id| id.index + 1));
        let mut found = Vec::new();
        let mut next = to_index(start).max(self.log.purged().index + 1);
        // `end` may be beyond the last entry: openraft asks for open ranges.
        let end = to_index(end).min(self.log.last().index + 1);
        while next < end {
            let count = usize::try_from(end - next).unwrap_or(usize::MAX);
            let part = self.log.read(next, count, bytes)?;
            if part.is_empty() {
                break;
            }
            next += part.len() as u64;
            for entry in &part {
                found.push(from_log(entry).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?);
            }
            if bytes != usize::MAX {
                break;
            }
        }
        Ok(found)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX - 1,
        };
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*self.vote.lock())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, APPEND_BYTES_MAX)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let last = self.log.last();
        let purged = *self.purged.lock();
        let last_log_id = to_log_id(last.index, last.term).filter(|_| last != self.log.purged()).or(purged);
        Ok(LogState { last_purged_log_id: purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, saved) = answer();
        self.log.save_vote(&codec::encode(VOTE_FORMAT, vote), done);
        saved.await?;
        *self.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries = entries.into_iter().map(|entry| to_wire(&entry)).peekable();
        if self.holes
            && self.log.last() == LogPoint::default()
            && let Some((index, _, _)) = entries.peek()
            && *index > 1
        {
            let (done, purged) = answer();
            self.log.purge(LogPoint { index: index - 1, ..LogPoint::default() }, done);
            purged.await?;
        }
        let entries: Vec<_> = entries.collect();
        self.log.append(entries, Box::new(move |result| callback.io_completed(result)))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let after = last_log_id.map_or(0, |id| to_index(id.index));
        if after >= self.log.last().index {
            return Ok(());
        }
        self.milestones.truncate_after(after);
        let (done, truncated) = answer();
        self.log.truncate_after(after, done)?;
        truncated.await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let index = to_index(log_id.index);
        let installed = *self.installed.lock();
        let point = match self.log.point_at(index) {
            Ok(point) => point,
            // Past the last entry, or already purged: only a snapshot that was installed there can know the head.
            Err(_) if installed.index == index => installed,
            Err(_) if self.holes => LogPoint { index, term: log_id.leader_id.term, ..LogPoint::default() },
            Err(LogError::Purged { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        *self.purged.lock() = Some(log_id);
        self.milestones.purge(index);
        let (done, purged) = answer();
        self.log.purge(point, done);
        purged.await
    }
}
