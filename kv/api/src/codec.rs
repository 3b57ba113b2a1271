//! Bytes to values and back, as `cinnabar_daemon::codec` does it, with this crate's error.

use cinnabar_daemon::codec::{self, CodecError};
pub use cinnabar_daemon::codec::{encode, encode_into};
use serde::de::DeserializeOwned;

use crate::Error;

/// Decodes a whole record of at most `LIMIT` bytes, format byte included.
///
/// # Errors
/// [`Error`] when it is too long, has another format, does not follow it, or has bytes left over.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(
    what: &'static str,
    format: u8,
    bytes: &[u8],
) -> Result<T, Error> {
    codec::decode::<T, LIMIT>(what, format, bytes).map_err(|error| match error {
        CodecError::Length { what, most, actual } => Error::OutOfBounds { what, least: 1, most, actual },
        CodecError::UnknownFormat { what, expected, actual } => Error::UnknownFormat { what, expected, actual },
        CodecError::LeftOver { what, bytes } => Error::LeftOver { what, bytes },
        CodecError::Malformed { what, problem } => Error::Malformed { what, problem },
        // The error may grow; what is new is malformed too.
        error => Error::Malformed { what, problem: error.to_string() },
    })
}
