//! What is wrong with bytes or values that came from outside.

/// Bytes or values that the contract refuses. Nothing is done with any part of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value is outside its bounds.
    #[error("{what}: {actual} is outside {least}..={most}")]
    OutOfBounds {
        /// The field.
        what: &'static str,
        /// Smallest allowed.
        least: usize,
        /// Largest allowed.
        most: usize,
        /// What was given.
        actual: usize,
    },
    /// Bytes do not follow their format.
    #[error("malformed {what}: {problem}")]
    Malformed {
        /// The record or message.
        what: &'static str,
        /// What was found.
        problem: String,
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
    /// Bytes are left after the record's end.
    #[error("{what}: {bytes} bytes left over")]
    LeftOver {
        /// The record or message.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
    /// A required field is missing.
    #[error("{what} is missing")]
    Missing {
        /// The field.
        what: &'static str,
    },
}

/// Checks a number against its bounds.
pub(crate) fn bounded(what: &'static str, least: usize, most: usize, actual: usize) -> Result<(), Error> {
    if (least..=most).contains(&actual) { Ok(()) } else { Err(Error::OutOfBounds { what, least, most, actual }) }
}
