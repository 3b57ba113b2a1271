//! Scans that show the store at one index while writes go on.
//!
//! The engine has no snapshots, so while a scan is open each write first puts aside what it overwrites, for the keys
//! that the scan has not passed yet. What is put aside is bounded: past the bound the oldest client scan is ended
//! (its client starts anew), and a snapshot in the making slows the writes down for a moment instead; past a bound of
//! its own it is ended too.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::hash::Space;
use super::record::{self, Record};
use super::{Pending, State};
use crate::limits::{SCAN_IDLE_MS_MAX, SCAN_UNDO_BYTES_MAX, SCANS_MAX};
use crate::store::StoreError;

/// Names an open scan.
pub type ScanId = u64;

/// Keys read from the engine at once; commits wait meanwhile.
const PAGE_KEYS: usize = 128;
/// Bytes put aside for a snapshot in the making that does not come forward; more ends it.
const DUMP_UNDO_BYTES_MAX: usize = 4 * SCAN_UNDO_BYTES_MAX;
/// Times that a commit waits a millisecond for a snapshot in the making to pass on.
const DUMP_WAITS_MAX: usize = 200;

/// Why a scan cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// It was ended: idle too long, or too much was overwritten meanwhile. Start anew.
    #[error(
        "the scan was ended: idle for more than {SCAN_IDLE_MS_MAX} ms, or overtaken by too many writes; start anew"
    )]
    Lost,
    /// Too many are open.
    #[error("{SCANS_MAX} scans are open; try again later")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
struct Open {
    at: u64,
    /// Keys up to this one were passed.
    passed: Bytes,
    used_ms: u64,
    dump: bool,
}

/// Open scans, and what was overwritten since the oldest began.
#[derive(Debug, Default)]
pub(super) struct Scans {
    open: BTreeMap<ScanId, Open>,
    next: ScanId,
    undo: BTreeMap<Bytes, Vec<(u64, Option<Record>)>>,
    undo_bytes: usize,
}

fn undo_size(key: &Bytes, slot: &Option<Record>) -> usize {
    key.len() + slot.as_ref().map_or(0, |record| record.value.len()) + 64
}

impl Scans {
    /// Puts aside what entry range `index` is about to overwrite.
    pub(super) fn remember<'a>(
        &mut self,
        state: &State,
        index: u64,
        keys: impl Iterator<Item = &'a Bytes>,
    ) -> Result<(), StoreError> {
        if self.open.is_empty() {
            return Ok(());
        }
        for key in keys.filter(|key| self.open.values().any(|open| **key > open.passed)).collect::<Vec<_>>() {
            let old = state.load(key)?.map(|cached| cached.record);
            self.undo_bytes += undo_size(key, &old);
            self.undo.entry(key.clone()).or_default().push((index, old));
        }
        while self.undo_bytes > SCAN_UNDO_BYTES_MAX
            && let stuck = self.undo_bytes > DUMP_UNDO_BYTES_MAX
            && let Some(id) = self.open.iter().find(|(_, open)| stuck || !open.dump).map(|(id, _)| *id)
        {
            self.close(id);
        }
        Ok(())
    }

    /// Records put aside, and their bytes.
    #[cfg(test)]
    pub(super) fn undo_size(&self) -> (usize, usize) {
        (self.undo.values().map(Vec::len).sum(), self.undo_bytes)
    }

    #[cfg(test)]
    pub(super) fn pretend_undo_bytes(&mut self, bytes: usize) {
        self.undo_bytes += bytes;
    }

    fn over(&self) -> bool {
        self.undo_bytes > SCAN_UNDO_BYTES_MAX
    }

    fn close(&mut self, id: ScanId) {
        self.open.remove(&id);
        self.prune();
    }

    /// Drops what no open scan needs.
    fn prune(&mut self) {
        let open = &self.open;
        let bytes = &mut self.undo_bytes;
        self.undo.retain(|key, olds| {
            olds.retain(|(replaced, old)| {
                let needed = open.values().any(|open| open.at < *replaced && *key > open.passed);
                if !needed {
                    *bytes -= undo_size(key, old);
                }
                needed
            });
            !olds.is_empty()
        });
    }

    fn begin(&mut self, at: u64, now_ms: u64, dump: bool) -> Result<ScanId, ScanError> {
        let idle = |open: &Open| !open.dump && now_ms.saturating_sub(open.used_ms) > SCAN_IDLE_MS_MAX;
        if self.open.values().any(idle) {
            self.open.retain(|_, open| !idle(open));
            self.prune();
        }
        if self.open.len() >= SCANS_MAX {
            return Err(ScanError::TooMany);
        }
        self.next += 1;
        self.open.insert(self.next, Open { at, passed: Bytes::new(), used_ms: now_ms, dump });
        Ok(self.next)
    }
}

/// Records of a part of a page, and the last key looked at unless nothing follows.
type Part = (Vec<(Bytes, Record)>, Option<Bytes>);

/// Records of one page, and whether there may be more.
#[derive(Debug, Default)]
pub struct Page {
    /// The index at which they are shown.
    pub at_index: u64,
    /// In the order of their keys.
    pub records: Vec<(Bytes, Record)>,
    /// Nothing follows.
    pub done: bool,
}

impl State {
    /// Opens a scan at the applied index.
    ///
    /// # Errors
    /// [`ScanError::TooMany`].
    pub fn open_scan(&self, now_ms: u64) -> Result<ScanId, ScanError> {
        let mut scans = self.scans.lock();
        // Commits hold the same lock before they publish, so the applied index cannot move here.
        scans.begin(self.applied_index(), now_ms, false)
    }

    pub(super) fn open_dump(&self) -> Result<ScanId, ScanError> {
        self.scans.lock().begin(self.applied_index(), 0, true)
    }

    /// Ends a scan.
    pub fn close_scan(&self, id: ScanId) {
        self.scans.lock().close(id);
    }

    /// Waits, bounded, for snapshots in the making to pass on when too much was put aside for them.
    pub(super) fn wait_for_dumps(&self) {
        for _ in 0..DUMP_WAITS_MAX {
            if !self.scans.lock().over() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Reads the records of an open scan after key `after` that start with `prefix`, until either bound is passed. An
    /// empty `after` is the beginning.
    ///
    /// # Errors
    /// [`ScanError::Lost`], also for a place that the scan was said to have passed; or the store's.
    pub fn scan_page(
        &self,
        id: ScanId,
        now_ms: u64,
        prefix: &[u8],
        after: &Bytes,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Page, ScanError> {
        let mut page = Page::default();
        let mut after = after.clone();
        let mut bytes = 0;
        while !page.done {
            let mut scans = self.scans.lock();
            let open = scans.open.get_mut(&id).ok_or(ScanError::Lost)?;
            if !open.dump && now_ms.saturating_sub(open.used_ms) > SCAN_IDLE_MS_MAX {
                scans.close(id);
                return Err(ScanError::Lost);
            }
            if *after < *open.passed {
                return Err(ScanError::Lost);
            }
            open.used_ms = now_ms;
            page.at_index = open.at;
            let (records, last) = self.part(&scans, page.at_index, prefix, &after)?;
            page.done = last.is_none();
            for (key, record) in records {
                let size = key.len() + record.value.len();
                if page.records.len() >= records_max || !page.records.is_empty() && bytes + size > bytes_max {
                    page.done = false;
                    return Ok(page);
                }
                bytes += size;
                page.records.push((key, record));
            }
            if let Some(last) = last {
                after = last;
            }
            drop(scans);
        }
        Ok(page)
    }

    /// Tells a scan that keys up to this one will not be asked for again. A place before an earlier one changes nothing.
    pub fn scan_passed(&self, id: ScanId, key: &Bytes) {
        let mut scans = self.scans.lock();
        if let Some(open) = scans.open.get_mut(&id)
            && open.passed < *key
        {
            open.passed = key.clone();
        }
        if scans.undo_bytes > SCAN_UNDO_BYTES_MAX / 2 {
            scans.prune();
        }
    }

    /// One part of a page, and the last key looked at unless the end was reached.
    fn part(&self, scans: &Scans, at: u64, prefix: &[u8], after: &Bytes) -> Result<Part, ScanError> {
        // Held so that no record leaves for the engine behind the place where it was looked for.
        let pending = self.pending.read();
        let next = if after.is_empty() { Vec::new() } else { [after, &[0][..]].concat() };
        let from = Bytes::from(next.max(prefix.to_vec()));
        let space = record::head_key(Space::Record, prefix);
        let stored = self.engine.range(&space, &record::head_key(Space::Record, &from), PAGE_KEYS)?;
        let heads: BTreeMap<Bytes, Bytes> = stored.into_iter().map(|(key, head)| (key.slice(1..), head)).collect();
        let waiting = first_keys(&pending.records, &from, prefix);
        let undone = first_keys(&scans.undo, &from, prefix);
        // A source that gave all it may give says nothing of what comes after its last key.
        let full = |count: usize, last: Option<&Bytes>| last.filter(|_| count == PAGE_KEYS).cloned();
        let last = [
            full(heads.len(), heads.keys().next_back()),
            full(waiting.len(), waiting.last()),
            full(undone.len(), undone.last()),
        ];
        let last = last.into_iter().flatten().min();
        let mut keys: BTreeSet<Bytes> = heads.keys().cloned().collect();
        keys.extend(waiting);
        keys.extend(undone);
        let mut records = Vec::with_capacity(keys.len());
        for key in keys.into_iter().take_while(|key| last.as_ref().is_none_or(|last| key <= last)) {
            if let Some(record) = self.at(scans, &pending, at, &key, heads.get(&key))? {
                records.push((key, record));
            }
        }
        Ok((records, last))
    }

    /// What a key held at an index.
    fn at(
        &self,
        scans: &Scans,
        pending: &Pending,
        at: u64,
        key: &Bytes,
        head: Option<&Bytes>,
    ) -> Result<Option<Record>, StoreError> {
        let undone = scans.undo.get(key).and_then(|olds| olds.iter().find(|(replaced, _)| *replaced > at));
        if let Some((_, old)) = undone {
            return Ok(old.clone());
        }
        if let Some(waiting) = pending.records.get(key) {
            return Ok(waiting.slot.clone());
        }
        let Some(head) = head else { return Ok(None) };
        let (head, inline) = record::parse_head(head)?;
        match record::assemble(&*self.engine, Space::Record, key, &head, inline)? {
            Ok(record) => Ok(Some(record)),
            Err(_) => record::read(&*self.engine, Space::Record, key),
        }
    }
}

fn first_keys<V>(map: &BTreeMap<Bytes, V>, from: &Bytes, prefix: &[u8]) -> Vec<Bytes> {
    let keys = map.range::<Bytes, _>(from..).map(|(key, _)| key);
    keys.take_while(|key| key.starts_with(prefix)).take(PAGE_KEYS).cloned().collect()
}
