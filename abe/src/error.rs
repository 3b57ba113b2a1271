//! What can go wrong, by who is at fault.
//!
//! Law: from the first pairing of a decryption on there is one error, [`Error::Rejected`], whatever failed; what comes
//! before it ([`Error::Malformed`], [`Error::NotSatisfied`]) depends on public bytes alone.

use crate::policy::PolicyError;

/// Why an operation of this crate failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not what an honest writer makes. Refuse and count; retrying cannot help.
    #[error("malformed {what} at byte {at}: {problem}")]
    Malformed {
        /// The object or field that was being read.
        what: &'static str,
        /// Offset in bytes from the start of the object that the caller passed in.
        at: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The key's attributes do not make the policy true. Says nothing about the ciphertext's authenticity.
    #[error("the key's attributes do not satisfy the policy")]
    NotSatisfied,
    /// Decryption failed from the first pairing on: another authority's key, a changed byte, a wrong tag. Which of them
    /// is not told, on purpose.
    #[error("the ciphertext does not open with this key")]
    Rejected,
    /// The policy text was refused; the value prints with a caret under the fault.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// An attribute that this crate does not issue keys for.
    #[error("attribute `{label}`: {problem}")]
    Attribute {
        /// The label, with bytes outside printable ASCII replaced.
        label: String,
        /// What is wrong and what to write instead.
        problem: &'static str,
    },
    /// A value is longer than the format or this crate's bound carries.
    #[error("{what} is {actual} bytes long, the most is {max}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length in bytes.
        actual: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// A value is shorter than is safe.
    #[error("{what} is {actual} bytes long, the least is {min}")]
    TooShort {
        /// What is too short.
        what: &'static str,
        /// Its length in bytes.
        actual: usize,
        /// The bound in bytes.
        min: usize,
    },
    /// What a caller asked to seal, or how, is refused. Nothing was sealed.
    #[error("cannot seal, {what}: {problem}")]
    Sealing {
        /// Which of the caller's values.
        what: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The memory that a passphrase's parameters ask for is not there. The passphrase was not tried.
    #[error("no {kib} KiB of memory for the passphrase")]
    NoMemory {
        /// What was asked for, in KiB.
        kib: u32,
    },
    /// A record's signature does not verify: another key, another domain, or changed bytes.
    #[error("the signature does not verify")]
    BadSignature,
    /// The random number generator gave unusable output many times in a row. It is broken: do not go on with it.
    #[error("the random number generator gave {attempts} unusable outputs in a row")]
    BrokenRng {
        /// How many outputs were refused.
        attempts: usize,
    },
}
