//! One record of a log file, and the header of a segment, as bytes.
//!
//! Record: `payload length u32 | crc32c u32 | index u64 | term u64 | synced u64 | chain head 32 | payload`,
//! little-endian, the checksum over everything after itself. `synced` is the highest index known to be on disk when the
//! record was written: it tells a torn tail (never acknowledged) from a damaged middle. A record without payload is a
//! mark: it says only `synced`, stands behind the last record, and is overwritten by the next one.
//! Segment header: `magic 8 | format u8 | first index u64 | term before u64 | chain head before 32 | crc32c u32`.

use bytes::Bytes;
use cinnabar_kv_api::ChainHead;
use cinnabar_kv_api::limits::PAYLOAD_BYTES_MAX;
use serde::{Deserialize, Serialize};

/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 64;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 61;
const MAGIC: &[u8; 8] = b"CINNALOG";
const FORMAT: u8 = 1;

/// A place in the log: index, term, and chain head there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogPoint {
    /// Log index; 0 before the first entry.
    pub index: u64,
    /// Term of the entry at `index`.
    pub term: u64,
    /// Chain head at `index`.
    pub head: ChainHead,
}

/// A record read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub point: LogPoint,
    /// Highest index known to be on disk when it was written.
    pub synced: u64,
    /// `kind (1) | body`.
    pub payload: Bytes,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn head_at(bytes: &[u8], at: usize) -> ChainHead {
    ChainHead(bytes[at..at + 32].try_into().expect("thirty-two bytes"))
}

/// Appends a record.
pub fn write_record(out: &mut Vec<u8>, point: &LogPoint, synced: u64, payload: &[u8]) {
    let start = out.len();
    let length = u32::try_from(payload.len()).expect("a payload is bounded");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&point.index.to_le_bytes());
    out.extend_from_slice(&point.term.to_le_bytes());
    out.extend_from_slice(&synced.to_le_bytes());
    out.extend_from_slice(&point.head.0);
    out.extend_from_slice(payload);
    let crc = crc32c::crc32c(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Length of the record that starts here by its own word, when it is a possible one.
pub fn record_length(bytes: &[u8]) -> Option<usize> {
    let length = u32_at(bytes.get(..4)?, 0) as usize;
    (1..=PAYLOAD_BYTES_MAX).contains(&length).then_some(RECORD_HEADER_BYTES + length)
}

/// Reads the record that starts here, if its checksum holds. The chain is for the caller to check.
pub fn read_record(bytes: &[u8]) -> Option<Record> {
    let bytes = bytes.get(..record_length(bytes)?)?;
    if crc32c::crc32c(&bytes[8..]) != u32_at(bytes, 4) {
        return None;
    }
    Some(Record {
        point: LogPoint { index: u64_at(bytes, 8), term: u64_at(bytes, 16), head: head_at(bytes, 32) },
        synced: u64_at(bytes, 24),
        payload: Bytes::copy_from_slice(&bytes[RECORD_HEADER_BYTES..]),
    })
}

/// The mark behind the last record: a record without payload, for the entry after `last`, all before it synced.
pub fn sync_mark(last: &LogPoint) -> Vec<u8> {
    let mut out = Vec::with_capacity(RECORD_HEADER_BYTES);
    write_record(&mut out, &LogPoint { index: last.index + 1, term: last.term, head: last.head }, last.index, &[]);
    out
}

/// Reads the mark that starts here, if its checksum holds: the highest index that was synced.
pub fn read_mark(bytes: &[u8]) -> Option<u64> {
    let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
    (u32_at(bytes, 0) == 0 && crc32c::crc32c(&bytes[8..]) == u32_at(bytes, 4)).then(|| u64_at(bytes, 24))
}

/// The index that a record starting here would have, and the index that it would say was synced, without any check.
pub fn claims(bytes: &[u8]) -> Option<(u64, u64)> {
    (bytes.len() >= RECORD_HEADER_BYTES).then(|| (u64_at(bytes, 8), u64_at(bytes, 24)))
}

/// The header of the segment whose first record follows `before`.
pub fn segment_header(before: &LogPoint) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
    out.extend_from_slice(MAGIC);
    out.push(FORMAT);
    out.extend_from_slice(&(before.index + 1).to_le_bytes());
    out.extend_from_slice(&before.term.to_le_bytes());
    out.extend_from_slice(&before.head.0);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Reads a segment's header: the point before its first record.
pub fn read_segment_header(bytes: &[u8]) -> Option<LogPoint> {
    let bytes = bytes.get(..SEGMENT_HEADER_BYTES)?;
    let (body, crc) = bytes.split_at(SEGMENT_HEADER_BYTES - 4);
    if &body[..8] != MAGIC || body[8] != FORMAT || crc32c::crc32c(body) != u32_at(crc, 0) {
        return None;
    }
    Some(LogPoint { index: u64_at(body, 9).checked_sub(1)?, term: u64_at(body, 17), head: head_at(body, 25) })
}
