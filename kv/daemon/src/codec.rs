//! Bytes to values and back: a format byte, then bincode with integers of fixed width, little-endian, under a limit.
//!
//! Fixed width leaves one encoding to each value (bincode's variable integers have several), so equal values are equal
//! bytes. Hashes and signatures are taken over bytes as they were received, never over bytes encoded anew.

use serde::{Serialize, de::DeserializeOwned};

const CONFIG: bincode::config::Configuration<bincode::config::LittleEndian, bincode::config::Fixint> =
    bincode::config::standard().with_fixed_int_encoding();

/// Bytes that are not one whole value of their format. Nothing is done with any part of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// No bytes, or more than the limit.
    #[error("{what}: {actual} bytes are outside 1..={most}")]
    Length {
        /// The record or message.
        what: &'static str,
        /// The limit.
        most: usize,
        /// What was given.
        actual: usize,
    },
    /// The first byte names a format that this version does not know.
    #[error("{what}: unknown format {actual}, this version reads {expected}")]
    UnknownFormat {
        /// The record or message.
        what: &'static str,
        /// The format that is read.
        expected: u8,
        /// The format found.
        actual: u8,
    },
    /// Bytes do not follow their format.
    #[error("malformed {what}: {problem}")]
    Malformed {
        /// The record or message.
        what: &'static str,
        /// What was found.
        problem: String,
    },
    /// Bytes are left after the value's end.
    #[error("{what}: {bytes} bytes left over")]
    LeftOver {
        /// The record or message.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
}

/// Encodes `value` after its format byte.
///
/// # Panics
/// Never for types without unsized sequences: a `Vec` takes all bytes.
pub fn encode<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let mut out = vec![format];
    encode_into(&mut out, value);
    out
}

/// Appends the encoding of `value`, without a format byte.
///
/// # Panics
/// As [`encode`].
pub fn encode_into<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    bincode::serde::encode_into_std_write(value, out, CONFIG).expect("our types encode, and memory takes all bytes");
}

/// Decodes a whole value of at most `LIMIT` bytes, format byte included.
///
/// # Errors
/// [`CodecError`] when it is too long, has another format, does not follow it, or has bytes left over.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(
    what: &'static str,
    format: u8,
    bytes: &[u8],
) -> Result<T, CodecError> {
    match read::<T, LIMIT>(what, format, bytes)? {
        (value, 0) => Ok(value),
        (_, bytes) => Err(CodecError::LeftOver { what, bytes }),
    }
}

/// Decodes the value that bytes of at most `LIMIT` begin with, format byte before it; what follows it is not looked at.
/// For what must be known before the whole is worth reading; nothing of it is believed yet.
///
/// # Errors
/// [`CodecError`], as [`decode`], but for bytes left over.
pub fn decode_start<T: DeserializeOwned, const LIMIT: usize>(
    what: &'static str,
    format: u8,
    bytes: &[u8],
) -> Result<T, CodecError> {
    read::<T, LIMIT>(what, format, bytes).map(|(value, _)| value)
}

/// The value that the bytes begin with, and how many are left over.
fn read<T: DeserializeOwned, const LIMIT: usize>(
    what: &'static str,
    format: u8,
    bytes: &[u8],
) -> Result<(T, usize), CodecError> {
    if bytes.is_empty() || bytes.len() > LIMIT {
        return Err(CodecError::Length { what, most: LIMIT, actual: bytes.len() });
    }
    if bytes[0] != format {
        return Err(CodecError::UnknownFormat { what, expected: format, actual: bytes[0] });
    }
    let config = CONFIG.with_limit::<LIMIT>();
    let (value, used) = bincode::serde::decode_from_slice(&bytes[1..], config)
        .map_err(|error| CodecError::Malformed { what, problem: error.to_string() })?;
    Ok((value, bytes.len() - 1 - used))
}
