//! Places of the log at which a frame may end: an index, and what a checkpoint there needs. A voter remembers the state
//! hash and signs anew; a replica remembers the signed checkpoint that it received.
//!
//! The newest are all kept; older ones are thinned to one each `MILESTONE_BYTES` of log. The file is a convenience:
//! what a cut takes from it only means that a replica far behind takes a snapshot instead of the log.
//!
//! File: `length u32 | crc32c u32 | index u64 | log bytes u64 | payload`, the checksum over what follows it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::files::read_if_there;
use crate::limits::MILESTONE_BYTES;

/// Newest milestones that are never thinned.
const RECENT_MAX: usize = 256;
/// Bytes of one payload.
const PAYLOAD_BYTES_MAX: usize = 16 * 1024;
/// Records after which the file is written anew without those that are gone.
const REWRITE_RECORDS: usize = 16 * 1024;
const HEADER_BYTES: usize = 24;

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Milestone {
    /// Log index.
    pub index: u64,
    /// What a checkpoint there needs.
    pub payload: Bytes,
    /// Bytes of log up to here, from wherever counting began.
    log_bytes: u64,
}

#[derive(Debug)]
struct Inner {
    kept: VecDeque<Milestone>,
    file: Option<File>,
    written: usize,
    log_bytes: u64,
}

/// The milestones of one log.
#[derive(Debug)]
pub struct Milestones {
    path: Option<PathBuf>,
    inner: Mutex<Inner>,
}

fn encode(milestone: &Milestone) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEADER_BYTES + milestone.payload.len());
    body.extend_from_slice(&milestone.index.to_le_bytes());
    body.extend_from_slice(&milestone.log_bytes.to_le_bytes());
    body.extend_from_slice(&milestone.payload);
    let mut out = u32::try_from(milestone.payload.len()).expect("bounded").to_le_bytes().to_vec();
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

fn decode(mut bytes: &[u8]) -> VecDeque<Milestone> {
    let mut kept: VecDeque<Milestone> = VecDeque::new();
    while let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) {
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
        let crc = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
        let Some((payload, rest)) = rest.split_at_checked(length).filter(|_| length <= PAYLOAD_BYTES_MAX) else {
            break;
        };
        if crc32c::crc32c_append(crc32c::crc32c(&header[8..]), payload) != crc {
            break;
        }
        let milestone = Milestone { index: number(8), log_bytes: number(16), payload: Bytes::copy_from_slice(payload) };
        kept.retain(|older| older.index < milestone.index);
        kept.push_back(milestone);
        bytes = rest;
    }
    kept
}

impl Milestones {
    /// Opens the file in `dir`, or keeps milestones in memory alone. Those past `last_index` are forgotten.
    ///
    /// # Errors
    /// The system's.
    pub fn open(dir: Option<&Path>, last_index: u64) -> io::Result<Self> {
        let path = dir.map(|dir| dir.join("milestones"));
        let bytes = path.as_deref().map(read_if_there).transpose()?.flatten();
        let mut kept = bytes.map_or_else(VecDeque::new, |bytes| decode(&bytes));
        kept.retain(|milestone| milestone.index <= last_index);
        let log_bytes = kept.back().map_or(0, |milestone| milestone.log_bytes);
        let milestones = Self { path, inner: Mutex::new(Inner { kept, file: None, written: 0, log_bytes }) };
        milestones.rewrite(&mut milestones.inner.lock())?;
        Ok(milestones)
    }

    fn rewrite(&self, inner: &mut Inner) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let fresh = path.with_extension("new");
        let bytes: Vec<u8> = inner.kept.iter().flat_map(encode).collect();
        fs::write(&fresh, bytes)?;
        fs::rename(&fresh, path)?;
        inner.file = Some(File::options().append(true).open(path)?);
        inner.written = inner.kept.len();
        Ok(())
    }

    /// Remembers a place, `bytes` of log after the one before.
    ///
    /// # Errors
    /// The file's.
    pub fn push(&self, index: u64, bytes: u64, payload: Bytes) -> io::Result<()> {
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a milestone is a hash or a checkpoint");
        let mut inner = self.inner.lock();
        inner.log_bytes += bytes;
        let milestone = Milestone { index, payload, log_bytes: inner.log_bytes };
        if inner.kept.back().is_some_and(|last| last.index >= index) {
            return Ok(());
        }
        let encoded = encode(&milestone);
        inner.kept.push_back(milestone);
        // The one that is no longer recent stays only when it is far enough from the one before it.
        if let Some(old) = inner.kept.len().checked_sub(RECENT_MAX)
            && old > 0
            && inner.kept[old + 1].log_bytes - inner.kept[old - 1].log_bytes < MILESTONE_BYTES
        {
            inner.kept.remove(old);
        }
        if let Some(file) = &mut inner.file {
            file.write_all(&encoded)?;
            inner.written += 1;
        }
        if inner.written > REWRITE_RECORDS + 2 * inner.kept.len() {
            self.rewrite(&mut inner)?;
        }
        Ok(())
    }

    /// Forgets what lies at or below an index.
    pub fn purge(&self, index: u64) {
        let mut inner = self.inner.lock();
        while inner.kept.front().is_some_and(|milestone| milestone.index <= index) {
            inner.kept.pop_front();
        }
    }

    /// Forgets what lies after an index.
    pub fn truncate_after(&self, index: u64) {
        self.inner.lock().kept.retain(|milestone| milestone.index <= index);
    }

    /// The last place after `index` that is at most `bytes` of log away from the first one after it, and that first
    /// one at least.
    pub fn within(&self, index: u64, bytes: u64) -> Option<Milestone> {
        let inner = self.inner.lock();
        let start = inner.kept.partition_point(|milestone| milestone.index <= index);
        let first = inner.kept.get(start)?;
        let end = inner.kept.partition_point(|milestone| milestone.log_bytes <= first.log_bytes + bytes);
        inner.kept.get(end.max(start + 1) - 1).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_thinned_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let milestones = Milestones::open(Some(dir.path()), 0).unwrap();
        for index in 1..=2000 {
            milestones.push(index, 1024, Bytes::copy_from_slice(&index.to_le_bytes())).unwrap();
        }
        let kept = milestones.inner.lock().kept.len();
        assert!(kept < 400, "{kept} milestones kept");
        // From anywhere there is a next place, not much further than the thinning allows.
        for index in [0, 1, 500, 1700, 1999] {
            let next = milestones.within(index, 0).unwrap().index;
            assert!(next > index && next - index <= 2 * MILESTONE_BYTES / 1024, "{index} -> {next}");
        }
        assert_eq!(milestones.within(2000, 0), None);
        assert!(milestones.within(1990, 4 * 1024).unwrap().index > 1990);
        drop(milestones);
        let again = Milestones::open(Some(dir.path()), 1900).unwrap();
        assert_eq!(again.within(1899, 0).unwrap().payload, Bytes::copy_from_slice(&1900u64.to_le_bytes()));
        assert_eq!(again.within(1900, 0), None);
        again.purge(1900);
        assert_eq!(again.within(0, 0), None);
    }

    #[test]
    fn a_torn_file_loses_only_its_tail() {
        let dir = tempfile::tempdir().unwrap();
        let milestones = Milestones::open(Some(dir.path()), 0).unwrap();
        for index in 1..=10 {
            milestones.push(index, 1, Bytes::from_static(b"payload")).unwrap();
        }
        drop(milestones);
        let path = dir.path().join("milestones");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let again = Milestones::open(Some(dir.path()), 10).unwrap();
        assert_eq!(again.within(8, 0).unwrap().index, 9);
        assert_eq!(again.within(9, 0), None);
    }
}
