//! Segment files: opening, checking, reading, cutting a torn tail.
//!
//! Law: bytes that were acknowledged are never cut. A record is cut only when nothing shows that it was ever synced:
//! it is in the last segment, and neither a later record nor a mark was written after a sync that covered it. The mark
//! goes to the page cache behind each sync, so it is missing only after a power cut that came within seconds of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::LogError;
use super::record::{
    LogPoint, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, claims, read_mark, read_record, read_segment_header,
    record_length,
};
use crate::limits::{LOG_INDEX_EVERY, SEGMENT_BYTES};

/// Bytes read at once while entries are looked up.
const READ_BYTES: usize = 64 * 1024;
/// How far past the expected index a record behind damage may claim to be.
const RESYNC_INDEX_REACH: u64 = 1 << 20;

/// One segment file, its records from `before.index + 1` on.
#[derive(Debug)]
pub struct Segment {
    /// The point before its first record.
    pub before: LogPoint,
    /// The open file; reads share it with the writer.
    pub file: Arc<File>,
    /// Where it is.
    pub path: Arc<Path>,
    /// Bytes written, header included, the mark behind the last record not.
    pub bytes: u64,
    /// The first record and every [`LOG_INDEX_EVERY`]th: its index and offset.
    pub marks: Vec<(u64, u64)>,
}

/// Where to read in a segment; stays readable whatever becomes of the segment.
#[derive(Debug)]
pub struct Extent {
    file: Arc<File>,
    path: Arc<Path>,
    index: u64,
    offset: u64,
}

/// Name of the segment whose first record has this index.
pub fn file_name(first_index: u64) -> String {
    format!("{first_index:020}.log")
}

/// First indexes of the segment files in a folder, ascending.
///
/// # Errors
/// The folder's.
pub fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(digits) = name.to_str().and_then(|name| name.strip_suffix(".log")) else { continue };
        if let Ok(index) = digits.parse() {
            found.push(index);
        }
    }
    found.sort_unstable();
    Ok(found)
}

impl Segment {
    /// Remembers where a record is, if it is one to remember.
    pub fn mark(&mut self, index: u64, offset: u64) {
        if self.marks.is_empty() || index.is_multiple_of(LOG_INDEX_EVERY) {
            self.marks.push((index, offset));
        }
    }

    /// Where to read when `from` is looked for: a remembered record at or before it, or the first.
    pub fn extent(&self, from: u64) -> Extent {
        let near = self.marks.partition_point(|(index, _)| *index <= from);
        let (index, offset) = match near {
            0 => (self.before.index + 1, SEGMENT_HEADER_BYTES as u64),
            n => self.marks[n - 1],
        };
        Extent { file: self.file.clone(), path: self.path.clone(), index, offset }
    }
}

impl Extent {
    /// Reads records `from..=upto`, as far as this segment has them, until `each` says stop. `end` is where the
    /// segment's records end.
    ///
    /// # Errors
    /// The file's, or [`LogError::Damaged`] naming the entry whose bytes no longer hold; both also when the file was
    /// cut meanwhile.
    pub fn read(
        &self,
        from: u64,
        upto: u64,
        end: u64,
        mut each: impl FnMut(Record, u64) -> bool,
    ) -> Result<(), LogError> {
        let (mut index, mut offset) = (self.index, self.offset);
        let mut buffer: Vec<u8> = Vec::new();
        let mut at = 0;
        while index <= upto && offset + (at as u64) < end {
            let wanted = record_length(&buffer[at..]).unwrap_or(RECORD_HEADER_BYTES);
            if buffer.len() - at < wanted {
                offset += at as u64;
                at = 0;
                let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
                self.fill(&mut buffer, offset, wanted.max(READ_BYTES).min(left))?;
                if buffer.len() < wanted {
                    return Err(self.damaged(index, offset));
                }
                continue;
            }
            let record = read_record(&buffer[at..]).filter(|record| record.point.index == index);
            let place = offset + at as u64;
            let record = record.ok_or_else(|| self.damaged(index, place))?;
            at += RECORD_HEADER_BYTES + record.payload.len();
            if index >= from && !each(record, place) {
                return Ok(());
            }
            index += 1;
        }
        Ok(())
    }

    /// Reads up to `length` bytes: fewer when the file ends before.
    fn fill(&self, buffer: &mut Vec<u8>, offset: u64, length: usize) -> Result<(), LogError> {
        buffer.resize(length, 0);
        let mut have = 0;
        while have < length {
            match self.file.read_at(&mut buffer[have..], offset + have as u64) {
                Ok(0) => break,
                Ok(read) => have += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LogError::io("read", &self.path, error)),
            }
        }
        buffer.truncate(have);
        Ok(())
    }

    fn damaged(&self, index: u64, offset: u64) -> LogError {
        LogError::Damaged { index, segment: self.path.to_path_buf(), offset }
    }
}

/// A segment as found at start, and the last point in it.
pub struct Opened {
    /// The segment; its torn tail, if it had one, is already outside `bytes`.
    pub segment: Segment,
    /// Its last record, or the point before it when it has none.
    pub last: LogPoint,
    /// Bytes of the file beyond `segment.bytes`, to be cut.
    pub torn_bytes: u64,
}

/// Opens a segment and checks every record. `None` when even its header was torn.
///
/// `last_segment` says that nothing follows it; only then may its tail be torn. `durable` is the highest index that is
/// known to have been synced from elsewhere.
///
/// # Errors
/// [`LogError::Damaged`] naming the entry when acknowledged bytes do not hold; the file's errors.
pub fn open(dir: &Path, first: u64, last_segment: bool, durable: u64) -> Result<Option<Opened>, LogError> {
    let path = dir.join(file_name(first));
    let file =
        File::options().read(true).write(true).open(&path).map_err(|error| LogError::io("open", &path, error))?;
    let length = file.metadata().map_err(|error| LogError::io("read", &path, error))?.len();
    if length > 4 * SEGMENT_BYTES {
        return Err(LogError::Damaged { index: first, segment: path, offset: 0 });
    }
    let mut bytes = vec![0; usize::try_from(length).expect("bounded above")];
    file.read_exact_at(&mut bytes, 0).map_err(|error| LogError::io("read", &path, error))?;
    let damaged = |index, offset: usize| LogError::Damaged { index, segment: path.clone(), offset: offset as u64 };

    let Some(before) = read_segment_header(&bytes).filter(|before| before.index + 1 == first) else {
        let torn = last_segment && durable < first && !synced_beyond(&bytes, 0, first);
        return if torn { Ok(None) } else { Err(damaged(first, 0)) };
    };
    let path: Arc<Path> = path.as_path().into();
    let mut segment = Segment { before, file: Arc::new(file), path, bytes: 0, marks: Vec::new() };
    let mut last = before;
    let mut at = SEGMENT_HEADER_BYTES;
    while at < bytes.len() {
        let next = read_record(&bytes[at..]).filter(|record| {
            let head = last.head.next(record.point.index, record.point.term, &record.payload);
            record.point.index == last.index + 1 && record.point.head == head
        });
        let Some(record) = next else { break };
        last = record.point;
        segment.mark(last.index, at as u64);
        at += RECORD_HEADER_BYTES + record.payload.len();
    }
    segment.bytes = at as u64;
    let rest = &bytes[at..];
    // A closed segment's mark was written after its last sync; its place must hold no record, the next header chains.
    let whole = rest.is_empty()
        || !last_segment && rest.len() <= RECORD_HEADER_BYTES
        || rest.len() == RECORD_HEADER_BYTES && read_mark(rest) == Some(last.index);
    let torn = || last_segment && durable <= last.index && !synced_beyond(&bytes, at, last.index + 1);
    if !whole && !torn() {
        return Err(damaged(last.index + 1, at));
    }
    Ok(Some(Opened { segment, last, torn_bytes: if whole { 0 } else { rest.len() as u64 } }))
}

/// Does anything behind `at` say that entry `index` had been synced: a whole record written after that, or a mark?
fn synced_beyond(bytes: &[u8], at: usize, index: u64) -> bool {
    (at + 1..bytes.len()).any(|from| {
        let bytes = &bytes[from..];
        let plausible = claims(bytes).is_some_and(|(claimed, synced)| {
            synced >= index && synced < claimed && claimed - index < RESYNC_INDEX_REACH
        });
        plausible && (read_mark(bytes).is_some() || read_record(bytes).is_some())
    })
}
