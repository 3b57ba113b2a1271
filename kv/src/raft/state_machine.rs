//! The state machine, for openraft, on [`Local`].
//!
//! The state is durable on its own, so openraft's snapshot is only a claim: everything up to here is on this node's
//! disk. A snapshot file is made when another voter needs one (`raft/network.rs`), never to purge the log.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cinnabar_kv_api::limits::FRAME_BYTES_TARGET;
use futures::StreamExt;
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;

use super::types::{LogId, SnapshotMeta, StoredMembership, Types, membership, to_index, to_log_id};
use crate::limits::RANGE_ENTRIES_MAX;
use crate::local::Local;
use crate::log::{Log, LogEntry, LogPoint};
use crate::milestones::Milestones;
use crate::state::Point;

/// What stands for a snapshot inside this process.
#[derive(Debug, Clone)]
pub enum SnapshotData {
    /// This node's own durable state.
    Here(Arc<Local>),
    /// A file that was fetched from the leader.
    File(PathBuf),
}

/// Applies the log to this node's copy.
#[derive(Debug, Clone)]
pub struct StateMachine {
    local: Arc<Local>,
    log: Log,
    milestones: Arc<Milestones>,
    current: Arc<Mutex<Option<SnapshotMeta>>>,
    installed: Arc<Mutex<LogPoint>>,
    #[cfg(test)]
    holes: bool,
}

fn log_id(point: &LogPoint) -> Option<LogId> {
    to_log_id(point.index, point.term)
}

/// The membership that a point of the state carries.
///
/// # Errors
/// When its bytes do not follow their format.
pub fn stored_membership(point: &Point) -> io::Result<StoredMembership> {
    match &point.membership {
        None => Ok(StoredMembership::default()),
        Some((at, body)) => {
            let membership = membership(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            Ok(StoredMembership::new(log_id(at), membership))
        }
    }
}

fn meta(point: &Point) -> io::Result<SnapshotMeta> {
    Ok(SnapshotMeta { last_log_id: log_id(&point.applied), last_membership: stored_membership(point)? })
}

/// Cuts entries into ranges of at most `bytes` of payload, or one entry that has more.
fn ranges_of(mut entries: &[LogEntry], bytes: usize) -> impl Iterator<Item = &[LogEntry]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |entry: &&LogEntry| {
            sum += entry.payload.len();
            sum <= bytes
        };
        let count = entries.iter().take_while(fits).count().max(1).min(entries.len());
        let (range, rest) = entries.split_at(count);
        entries = rest;
        (!range.is_empty()).then_some(range)
    })
}

impl StateMachine {
    /// Applies to `local`, reading chain heads from `log`.
    ///
    /// # Errors
    /// When the state's membership is damaged.
    pub fn new(
        local: Arc<Local>,
        log: Log,
        milestones: Arc<Milestones>,
        installed: Arc<Mutex<LogPoint>>,
    ) -> io::Result<Self> {
        let point = local.point();
        let current = if point.applied.index > 0 { Some(meta(&point)?) } else { None };
        Ok(Self {
            local,
            log,
            milestones,
            current: Arc::new(Mutex::new(current)),
            installed,
            #[cfg(test)]
            holes: false,
        })
    }

    /// Takes entries that are not in the log, as openraft's suite gives them.
    #[cfg(test)]
    pub fn with_holes(mut self) -> Self {
        self.holes = true;
        self
    }

    /// Log entries with their chain heads: committed entries are in the log, mostly in its cache.
    fn chained(&self, entries: &[openraft::alias::EntryOf<Types>]) -> io::Result<Vec<LogEntry>> {
        #[cfg(test)]
        if self.holes {
            return Ok(self.chained_anew(entries));
        }
        let first = entries.first().map_or(0, |entry| to_index(entry.log_id.index));
        let mut chained = Vec::with_capacity(entries.len());
        while chained.len() < entries.len() {
            let next = first + chained.len() as u64;
            let part = self.log.read(next, entries.len() - chained.len(), usize::MAX)?;
            let fits = |(entry, chained): (&openraft::alias::EntryOf<Types>, &LogEntry)| {
                entry.log_id.leader_id.term == chained.point.term && to_index(entry.log_id.index) == chained.point.index
            };
            if part.is_empty() || !entries[chained.len()..].iter().zip(&part).all(fits) {
                return Err(io::Error::other(format!("committed entry {next} is not the one in the log")));
            }
            chained.extend(part);
        }
        Ok(chained)
    }

    /// Chains entries that are in no log.
    #[cfg(test)]
    fn chained_anew(&self, entries: &[openraft::alias::EntryOf<Types>]) -> Vec<LogEntry> {
        let mut before = self.local.point().applied;
        let mut chained = Vec::new();
        for entry in entries {
            let (index, term, payload) = super::types::to_wire(entry);
            if index != before.index + 1 {
                self.local.skip_to(index - 1);
                before.index = index - 1;
            }
            before = LogPoint { index, term, head: before.head.next(index, term, &payload) };
            chained.push(LogEntry { point: before, payload });
        }
        chained
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let point = self.local.point();
        Ok((log_id(&point.applied), stored_membership(&point)?))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: futures::Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut ranges = entries.ready_chunks(RANGE_ENTRIES_MAX);
        while let Some(range) = ranges.next().await {
            let mut entries = Vec::with_capacity(range.len());
            let mut responders = Vec::with_capacity(range.len());
            for item in range {
                let (entry, responder) = item?;
                entries.push(entry);
                responders.push(responder);
            }
            let chained = self.chained(&entries)?;
            let mut responders = responders.into_iter();
            // A frame ends where a range does, so no range may be more than a frame takes.
            for range in ranges_of(&chained, FRAME_BYTES_TARGET / 2) {
                let bytes: usize = range.iter().map(|entry| entry.payload.len()).sum();
                let outcomes = self.local.apply(range).map_err(io::Error::other)?;
                let point = self.local.point();
                let hash = point.state_hash.to_bytes();
                self.milestones.push(point.applied.index, bytes as u64, hash)?;
                // The outcomes first: the other way round, the end of a range would cost a responder.
                for (outcome, responder) in outcomes.into_iter().zip(responders.by_ref()) {
                    if let Some(responder) = responder {
                        responder.send(outcome);
                    }
                }
            }
            let membership = entries.iter().any(|entry| matches!(entry.payload, EntryPayload::Membership(_)));
            if membership {
                tracing::info!(index = self.local.applied_index(), "membership applied");
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let local = self.local.clone();
        let header = tokio::task::spawn_blocking(move || match snapshot {
            SnapshotData::File(path) => local.install(&path).map_err(io::Error::other),
            SnapshotData::Here(from) => {
                let dir = tempfile_dir(&local)?;
                let path = dir.join("transfer.snap");
                let (dump, ()) = from.open_dump(|_| ()).map_err(io::Error::other)?;
                dump.write(&path, None).map_err(io::Error::other)?;
                local.install(&path).map_err(io::Error::other)
            }
        });
        let header = header.await.map_err(io::Error::other)??;
        *self.installed.lock() = header.point();
        *self.current.lock() = Some(meta.clone());
        tracing::info!(index = header.index, "snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, SnapshotData>>, io::Error> {
        let meta = self.current.lock().clone();
        Ok(meta
            .map(|meta| SnapshotOf::<Types, SnapshotData> { meta, snapshot: SnapshotData::Here(self.local.clone()) }))
    }
}

fn tempfile_dir(local: &Local) -> io::Result<PathBuf> {
    let dir = local.dir().map_or_else(std::env::temp_dir, |dir| dir.join("snapshots"));
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    type SnapshotData = SnapshotData;

    /// Has the state written to the disk, and claims the point that is surely there.
    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, SnapshotData>, io::Error> {
        let local = self.local.clone();
        let meta = tokio::task::spawn_blocking(move || {
            let state = local.state();
            let point = state.point();
            let durable = state.make_durable().map_err(io::Error::other)?;
            assert!(durable >= point.applied.index, "what was applied before is in the engine once it is drained");
            meta(&point)
        });
        let meta = meta.await.map_err(io::Error::other)??;
        *self.current.lock() = Some(meta.clone());
        Ok(SnapshotOf::<Types, SnapshotData> { meta, snapshot: SnapshotData::Here(self.local.clone()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_fit_into_frames_and_leave_nothing_out() {
        let entry = |length: usize| LogEntry { point: LogPoint::default(), payload: vec![0; length].into() };
        let entries: Vec<_> = [10, 90, 1, 300, 40, 40, 40].map(entry).into();
        let cut: Vec<Vec<usize>> =
            ranges_of(&entries, 100).map(|range| range.iter().map(|entry| entry.payload.len()).collect()).collect();
        assert_eq!(cut, [vec![10, 90], vec![1], vec![300], vec![40, 40], vec![40]]);
        assert_eq!(ranges_of(&[], 100).count(), 0);
    }
}
