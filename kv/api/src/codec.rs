//! Bytes to values and back: a format byte, then bincode with integers of fixed width, little-endian, under a limit.
//!
//! Fixed width leaves one encoding to each value (bincode's variable integers have several), so equal values are equal
//! bytes. Hashes and signatures are taken over bytes as they were received, never over bytes encoded anew.

use serde::{Serialize, de::DeserializeOwned};

use crate::Error;

const CONFIG: bincode::config::Configuration<bincode::config::LittleEndian, bincode::config::Fixint> =
    bincode::config::standard().with_fixed_int_encoding();

/// Encodes `value` after its format byte.
///
/// # Panics
/// Never for the types of this crate: they have no unsized sequences, and a `Vec` takes all bytes.
pub fn encode<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let mut out = vec![format];
    encode_into(&mut out, value);
    out
}

/// Appends the encoding of `value`, without a format byte.
pub fn encode_into<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    bincode::serde::encode_into_std_write(value, out, CONFIG).expect("our types encode, and memory takes all bytes");
}

/// Decodes a whole record of at most `LIMIT` bytes, format byte included.
///
/// # Errors
/// [`Error`] when it is too long, has another format, does not follow it, or has bytes left over.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(
    what: &'static str,
    format: u8,
    bytes: &[u8],
) -> Result<T, Error> {
    crate::error::bounded(what, 1, LIMIT, bytes.len())?;
    if bytes[0] != format {
        return Err(Error::UnknownFormat { what, expected: format, actual: bytes[0] });
    }
    let config = CONFIG.with_limit::<LIMIT>();
    let (value, used) = bincode::serde::decode_from_slice(&bytes[1..], config)
        .map_err(|error| Error::Malformed { what, problem: error.to_string() })?;
    match bytes.len() - 1 - used {
        0 => Ok(value),
        bytes => Err(Error::LeftOver { what, bytes }),
    }
}
