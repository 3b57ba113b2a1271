//! How live records lie in the engine, as bytes.
//!
//! Head, under `space | key`: `mod index u64 | value length u32 | digest 32 | value, when at most INLINE_BYTES_MAX`.
//! Pieces of a longer value, under `'p' | space | key length u16 | key | piece u16`, numbers of keys big-endian.
//! The digest covers key, index and value: it is what the state hash adds up, and what every read checks.

use bytes::{Bytes, BytesMut};

use super::hash::{Digest, Space, digest};
use crate::limits::{INLINE_BYTES_MAX, PIECE_BYTES};
use crate::store::{Batch, Engine, StoreError};

const HEAD_BYTES: usize = 44;
const PIECE_SPACE: u8 = b'p';

/// A live record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Index of the entry that wrote it.
    pub mod_index: u64,
    /// Its value.
    pub value: Bytes,
}

/// What the head says without the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Index of the entry that wrote it.
    pub mod_index: u64,
    /// Bytes of the value.
    pub length: usize,
    /// See [`digest`].
    pub digest: Digest,
}

/// The engine's key of a record's head.
pub fn head_key(space: Space, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(space as u8);
    out.extend_from_slice(key);
    out
}

fn piece_key(space: Space, key: &[u8], piece: usize) -> Vec<u8> {
    let length = u16::try_from(key.len()).expect("keys are bounded");
    let piece = u16::try_from(piece).expect("values are bounded");
    let mut out = Vec::with_capacity(6 + key.len());
    out.extend_from_slice(&[PIECE_SPACE, space as u8]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&piece.to_be_bytes());
    out
}

fn pieces(length: usize) -> usize {
    if length <= INLINE_BYTES_MAX { 0 } else { length.div_ceil(PIECE_BYTES) }
}

/// Adds to a batch what makes `key` hold `new` where a value of `old_length` bytes (0: none) was before.
pub fn write(batch: &mut Batch, space: Space, key: &[u8], new: Option<(&Record, &Digest)>, old_length: usize) {
    let mut count = 0;
    match new {
        Some((record, digest)) => {
            let length = record.value.len();
            let inline = if length <= INLINE_BYTES_MAX { &record.value[..] } else { &[] };
            let mut head = Vec::with_capacity(HEAD_BYTES + inline.len());
            head.extend_from_slice(&record.mod_index.to_le_bytes());
            head.extend_from_slice(&u32::try_from(length).expect("values are bounded").to_le_bytes());
            head.extend_from_slice(digest);
            head.extend_from_slice(inline);
            batch.push((head_key(space, key), Some(head)));
            count = pieces(length);
            for (n, piece) in record.value.chunks(PIECE_BYTES).enumerate().take(count) {
                batch.push((piece_key(space, key, n), Some(piece.to_vec())));
            }
        }
        None => batch.push((head_key(space, key), None)),
    }
    batch.extend((count..pieces(old_length)).map(|n| (piece_key(space, key, n), None)));
}

/// Reads a stored head.
///
/// # Errors
/// [`StoreError::Damaged`] when it does not follow its format.
pub fn parse_head(bytes: &[u8]) -> Result<(Head, &[u8]), StoreError> {
    let damaged = |problem: &str| StoreError::Damaged { what: "record", problem: problem.to_owned() };
    let (head, inline) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(|| damaged("too short"))?;
    let mod_index = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
    let length = u32::from_le_bytes(head[8..12].try_into().expect("four bytes")) as usize;
    let digest = head[12..].try_into().expect("thirty-two bytes");
    let stored = if length <= INLINE_BYTES_MAX { length } else { 0 };
    if inline.len() != stored {
        return Err(damaged("another length than its head says"));
    }
    Ok((Head { mod_index, length, digest }, inline))
}

/// Reads a record and checks its digest.
///
/// # Errors
/// The engine's, or [`StoreError::Damaged`] when the stored bytes do not hold.
pub fn read(engine: &dyn Engine, space: Space, key: &[u8]) -> Result<Option<Record>, StoreError> {
    Ok(read_with_head(engine, space, key)?.map(|(_, record)| record))
}

/// Reads a record with its head and checks its digest. A commit may replace the record between two pieces: then its
/// head is another one afterwards, for no two have one index, and it is read again. Pieces that do not fit a head that
/// stayed are damaged.
///
/// # Errors
/// As [`read`].
pub fn read_with_head(engine: &dyn Engine, space: Space, key: &[u8]) -> Result<Option<(Head, Record)>, StoreError> {
    let head_key = head_key(space, key);
    let mut stored = engine.get(&head_key)?;
    while let Some(bytes) = &stored {
        let (head, inline) = parse_head(bytes)?;
        let problem = match assemble(engine, space, key, &head, inline)? {
            Ok(record) => return Ok(Some((head, record))),
            Err(problem) => problem,
        };
        let again = engine.get(&head_key)?;
        if again == stored {
            return Err(StoreError::Damaged { what: "record", problem });
        }
        stored = again;
    }
    Ok(None)
}

/// Completes a record from its head; the inner error says what did not fit.
///
/// # Errors
/// The engine's.
pub fn assemble(
    engine: &dyn Engine,
    space: Space,
    key: &[u8],
    head: &Head,
    inline: &[u8],
) -> Result<Result<Record, String>, StoreError> {
    let value = if head.length <= INLINE_BYTES_MAX {
        Bytes::copy_from_slice(inline)
    } else {
        let mut value = BytesMut::with_capacity(head.length);
        for n in 0..pieces(head.length) {
            match engine.get(&piece_key(space, key, n))? {
                Some(piece) => value.extend_from_slice(&piece),
                None => return Ok(Err(format!("piece {n} is missing"))),
            }
        }
        value.freeze()
    };
    if value.len() != head.length || digest(space, key, head.mod_index, &value) != head.digest {
        return Ok(Err("its digest does not hold".to_owned()));
    }
    Ok(Ok(Record { mod_index: head.mod_index, value }))
}
