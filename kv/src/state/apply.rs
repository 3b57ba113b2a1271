//! Applying entries: total and deterministic. No clock, no randomness, no panic; a bad command is refused, alike on
//! every node.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cinnabar_daemon::id::ClusterId;
use cinnabar_kv_api::{ClientId, Command, Entry, Op, StateHash, StoreId, Write};
use serde::{Deserialize, Serialize};

use super::flusher::{Range, Stored};
use super::hash::{self, Digest, Space, Sum};
use super::meta::{MEMBERSHIP_BYTES_MAX, Meta};
use super::record::{self, Head, Record};
use super::sessions::{Known, Session, Sessions};
use super::{Change, Changes, Outcome, Point, State, Waiting, scan};
use crate::log::{LogEntry, LogPoint};
use crate::store::{Engine, StoreError};

/// Sessions read at once while a state is opened.
const LOAD_PAGE: usize = 512;

/// Why a command was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Its bytes do not follow the format or a bound.
    Malformed,
    /// The write was answered before, and its answer is forgotten.
    AnsweredBefore,
    /// Nothing is written before the store has its name.
    NoGenesis,
    /// The store has its name.
    SecondGenesis,
}

/// What the writer knows of the state at its tip.
#[derive(Debug, Clone, Default)]
pub(super) struct Tip {
    applied: LogPoint,
    sum: Sum,
    records: u64,
    record_bytes: u64,
    store: Option<(ClusterId, StoreId)>,
    membership: Option<(LogPoint, Bytes)>,
    sessions: Sessions,
}

impl Tip {
    pub(super) fn load(engine: &dyn Engine) -> Result<Self, StoreError> {
        let damaged = |problem: String| StoreError::Damaged { what: "state point", problem };
        let meta = Meta::load(engine)?;
        let sum = if meta.sum.is_empty() { Some(Sum::default()) } else { Sum::from_bytes(&meta.sum) };
        let mut tip = Self {
            applied: meta.applied,
            sum: sum.ok_or_else(|| damaged("its sum has another length".to_owned()))?,
            records: meta.records,
            record_bytes: meta.record_bytes,
            store: meta.store,
            membership: meta.membership,
            sessions: Sessions::default(),
        };
        let prefix = [Space::Session as u8];
        let mut from = prefix.to_vec();
        loop {
            let page = engine.range(&prefix, &from, LOAD_PAGE)?;
            for (key, _) in &page {
                let client = ClientId(key[1..].try_into().map_err(|_| damaged("a session's key".to_owned()))?);
                let Some((head, record)) = record::read_with_head(engine, Space::Session, &client.0)? else { continue };
                let session = Session::decode(&record.value).map_err(|error| damaged(error.to_string()))?;
                tip.sessions.load(client, session, (head.digest, head.length));
            }
            let Some((last, _)) = page.last().filter(|_| page.len() == LOAD_PAGE) else { break };
            from = [last.as_ref(), &[0]].concat();
        }
        if tip.sessions.len() as u64 != meta.sessions {
            return Err(damaged(format!("{} sessions, {} expected", tip.sessions.len(), meta.sessions)));
        }
        Ok(tip)
    }

    pub(super) fn point(&self) -> Point {
        Point {
            applied: self.applied,
            state_hash: self.state_hash(),
            records: self.records,
            record_bytes: self.record_bytes,
            store: self.store.clone(),
            membership: self.membership.clone(),
        }
    }

    fn state_hash(&self) -> StateHash {
        self.sum.hash(self.records + self.sessions.len() as u64)
    }

    fn meta(&self) -> Meta {
        Meta {
            applied: self.applied,
            sum: Bytes::copy_from_slice(&self.sum.to_bytes()),
            records: self.records,
            record_bytes: self.record_bytes,
            sessions: self.sessions.len() as u64,
            store: self.store.clone(),
            membership: self.membership.clone(),
        }
    }
}

/// A key within a range: what it was before, and what it is now if the range changed it.
#[derive(Default)]
struct Touched {
    old: Option<Head>,
    new: Option<Option<Record>>,
    digest: Digest,
}

/// A range of entries, computed and not yet readable.
pub struct Staged {
    /// Answers, one an entry.
    pub outcomes: Vec<Outcome>,
    /// The point after the range.
    pub point: Point,
    touched: BTreeMap<Bytes, Touched>,
    changes: Vec<Changes>,
    sessions: Vec<super::sessions::Changed>,
}

/// What a snapshot is made of: an open scan, its point, and the sessions there, by client.
pub type DumpStart = (scan::ScanId, Arc<Point>, Vec<(ClientId, Record)>);

/// The one writer of a state.
pub struct StateWriter {
    state: Arc<State>,
    tip: Tip,
    /// A staged range that was not committed leaves the tip ahead of what is readable: nothing more is applied.
    staged: bool,
}

impl StateWriter {
    pub(super) fn new(state: Arc<State>, tip: Tip) -> Self {
        Self { state, tip, staged: false }
    }

    /// The state that it writes.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Pretends that everything up to an index was applied.
    #[cfg(test)]
    pub fn skip_to(&mut self, index: u64) {
        self.tip.applied.index = index;
    }

    /// Computes a range of consecutive entries after the applied one.
    ///
    /// # Errors
    /// The engine's; and [`StoreError::Damaged`] when an earlier range was staged and never committed.
    pub fn stage(&mut self, entries: &[LogEntry]) -> Result<Staged, StoreError> {
        if std::mem::replace(&mut self.staged, true) {
            return Err(StoreError::Damaged { what: "state", problem: "a staged range was not committed".to_owned() });
        }
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut touched = BTreeMap::new();
        let mut changes = Vec::new();
        for entry in entries {
            assert_eq!(entry.point.index, self.tip.applied.index + 1, "entries are applied in their order");
            let mut seen = Vec::new();
            outcomes.push(self.apply(entry, &mut touched, &mut seen)?);
            if !seen.is_empty() {
                changes.push(Changes { index: entry.point.index, changes: seen });
            }
            self.tip.applied = entry.point;
        }
        let sessions = self.settle(&mut touched);
        let point = self.tip.point();
        Ok(Staged { outcomes, point, touched, changes, sessions })
    }

    fn settle(&mut self, touched: &mut BTreeMap<Bytes, Touched>) -> Vec<super::sessions::Changed> {
        touched.retain(|_, touched| match &touched.new {
            Some(new) => new.is_some() || touched.old.is_some(),
            None => false,
        });
        for (key, touched) in touched {
            if let Some(old) = &touched.old {
                self.tip.sum.remove(&old.digest);
                self.tip.records -= 1;
                self.tip.record_bytes -= (key.len() + old.length) as u64;
            }
            if let Some(Some(new)) = &touched.new {
                touched.digest = hash::digest(Space::Record, key, new.mod_index, &new.value);
                self.tip.sum.add(&touched.digest);
                self.tip.records += 1;
                self.tip.record_bytes += (key.len() + new.value.len()) as u64;
            }
        }
        let sessions = self.tip.sessions.settle();
        for changed in &sessions {
            if let Some((digest, _)) = &changed.old {
                self.tip.sum.remove(digest);
            }
            if let Some((_, digest)) = &changed.new {
                self.tip.sum.add(digest);
            }
        }
        sessions
    }

    fn apply(
        &mut self,
        entry: &LogEntry,
        touched: &mut BTreeMap<Bytes, Touched>,
        changes: &mut Vec<Change>,
    ) -> Result<Outcome, StoreError> {
        let index = entry.point.index;
        let refused = |refusal| Ok(Outcome::Refused { index, refusal });
        let Some((kind, body)) = entry.payload.split_first() else { return refused(Refusal::Malformed) };
        match *kind {
            Entry::BLANK => return Ok(Outcome::Done { index }),
            Entry::MEMBERSHIP if body.len() <= MEMBERSHIP_BYTES_MAX => {
                self.tip.membership = Some((entry.point, entry.payload.slice(1..)));
                return Ok(Outcome::Done { index });
            }
            Entry::COMMAND => {}
            _ => return refused(Refusal::Malformed),
        }
        let Ok(command) = Command::decode(body) else { return refused(Refusal::Malformed) };
        match command {
            Command::Genesis { .. } if self.tip.store.is_some() => refused(Refusal::SecondGenesis),
            Command::Genesis { cluster, store_id } => {
                self.tip.store = Some((cluster, store_id));
                Ok(Outcome::Done { index })
            }
            _ if self.tip.store.is_none() => refused(Refusal::NoGenesis),
            Command::AllocateNode => Ok(Outcome::Done { index }),
            Command::Write(write) => self.apply_write(index, write, touched, changes),
        }
    }

    fn apply_write(
        &mut self,
        index: u64,
        write: Write,
        touched: &mut BTreeMap<Bytes, Touched>,
        changes: &mut Vec<Change>,
    ) -> Result<Outcome, StoreError> {
        match self.tip.sessions.get(&write.client).map_or(Known::New, |session| session.look_up(write.sequence)) {
            Known::New => {}
            Known::Answered(outcome) => return Ok(outcome),
            Known::Forgotten => return Ok(Outcome::Refused { index, refusal: Refusal::AnsweredBefore }),
        }
        let mut outcome = Outcome::Written { index };
        for (condition, expected) in (0..).zip(&write.conditions) {
            let actual = self.mod_index(touched, &expected.key.to_bytes())?;
            if actual != expected.mod_index {
                outcome = Outcome::Unmet { index, condition, actual };
                break;
            }
        }
        if matches!(outcome, Outcome::Written { .. }) {
            for op in write.ops {
                let (key, value) = match op {
                    Op::Put { key, value } => (key.to_bytes(), Some(value)),
                    Op::Delete { key } => (key.to_bytes(), None),
                };
                let before = self.mod_index(touched, &key)?;
                if before == 0 && value.is_none() {
                    continue;
                }
                let place = touched.get_mut(&key).expect("just looked up");
                // Only a key that the range has written can be among the entry's changes.
                if place.new.is_some() && (before == index || before == 0) {
                    changes.retain(|change| change.key != key);
                }
                place.new = Some(value.clone().map(|value| Record { mod_index: index, value }));
                changes.push(Change { key, value });
            }
        }
        let answer = outcome.clone();
        self.tip.sessions.answer(write.client, index, write.sequence, write.answered_below, answer);
        Ok(outcome)
    }

    /// The `mod_index` of a key as the range has left it, 0 when it is absent.
    fn mod_index(&self, touched: &mut BTreeMap<Bytes, Touched>, key: &Bytes) -> Result<u64, StoreError> {
        let touched = match touched.entry(key.clone()) {
            Place::Occupied(place) => place.into_mut(),
            Place::Vacant(place) => place.insert(Touched { old: self.state.head(key)?, ..Touched::default() }),
        };
        Ok(match &touched.new {
            Some(new) => new.as_ref().map_or(0, |record| record.mod_index),
            None => touched.old.map_or(0, |head| head.mod_index),
        })
    }

    /// Makes a staged range readable and hands it to the flusher.
    ///
    /// # Errors
    /// The flusher's error, once it has failed; the process must end then.
    pub fn commit(&mut self, staged: Staged) -> Result<CommittedRange, StoreError> {
        let state = &self.state;
        let index = staged.point.applied.index;
        let mut range = Range { index, meta: self.tip.meta(), records: Vec::new() };
        let mut cached = Vec::with_capacity(staged.touched.len());
        state.wait_for_dumps();
        let mut scans = state.scans.lock();
        scans.remember(state, index, staged.touched.keys())?;
        let commits = state.commits.lock();
        state.publishing.store(index, Ordering::Release);
        {
            let mut pending = state.pending.write();
            for (key, touched) in staged.touched {
                let (slot, digest) = (touched.new.flatten(), touched.digest);
                cached.push((key.to_vec(), slot.clone().map(|record| super::Cached { record, digest })));
                let old_length = touched.old.map_or(0, |head| head.length);
                range.records.push(Stored {
                    space: Space::Record,
                    key: key.clone(),
                    new: slot.clone(),
                    digest,
                    old_length,
                });
                pending.put(key, Waiting { slot, digest, index });
            }
        }
        for changed in staged.sessions {
            let key = Bytes::copy_from_slice(&changed.client.0);
            let old_length = changed.old.map_or(0, |(_, length)| length);
            let (record, digest) = changed.new.unzip();
            let digest = digest.unwrap_or_default();
            range.records.push(Stored { space: Space::Session, key, new: record, digest, old_length });
        }
        for (key, slot) in cached {
            state.cache.insert(key, slot);
        }
        *state.point.write() = Arc::new(staged.point);
        state.applied.store(index, Ordering::Release);
        drop(commits);
        drop(scans);
        state.flusher.push(range, || state.has_room())?;
        self.staged = false;
        Ok(CommittedRange { outcomes: staged.outcomes, changes: staged.changes })
    }

    /// Opens a scan of everything at the tip, and gives the sessions there; what a snapshot is made of.
    ///
    /// # Errors
    /// [`scan::ScanError`] when too many scans are open.
    pub fn open_dump(&self) -> Result<DumpStart, scan::ScanError> {
        let id = self.state.open_dump()?;
        Ok((id, self.state.point(), self.tip.sessions.records()))
    }

    /// Stages and commits.
    ///
    /// # Errors
    /// As both.
    pub fn apply_range(&mut self, entries: &[LogEntry]) -> Result<CommittedRange, StoreError> {
        let staged = self.stage(entries)?;
        self.commit(staged)
    }
}

/// What a committed range says to those who wait and watch.
pub struct CommittedRange {
    /// Answers, one an entry.
    pub outcomes: Vec<Outcome>,
    /// Changes, by entry.
    pub changes: Vec<Changes>,
}

impl super::Pending {
    fn put(&mut self, key: Bytes, waiting: Waiting) {
        let size = |slot: &Option<Record>| slot.as_ref().map_or(0, |record| record.value.len());
        self.bytes += key.len() + size(&waiting.slot);
        let key_bytes = key.len();
        if let Some(old) = self.records.insert(key, waiting) {
            self.bytes -= key_bytes + size(&old.slot);
        }
    }
}
