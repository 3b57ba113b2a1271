//! Why a command is not answered, as the line that the client reads. Each begins with the word by which clients know
//! the kind: ERR, READONLY, LOADING (come back later), BEHIND (ours), NOPROTO, WRONGPASS.

use std::fmt;

use super::SourceError;
use super::limits::{PATTERN_BYTES_MAX, QUOTED_BYTES_MAX};
use super::parser::Args;
use crate::local::ReadError;

/// See the module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It writes.
    #[error("READONLY this replica is read-only; write through a voter (cinnabar kv put)")]
    ReadOnly,
    /// Nobody knows it.
    #[error("ERR unknown command {0}")]
    Unknown(Unknown),
    /// Redis knows it.
    #[error("ERR {0} is not served here: {1}")]
    Advice(&'static str, &'static str),
    /// Too few or too many arguments.
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(&'static str),
    /// A subcommand that is not served.
    #[error("ERR unknown subcommand '{1}' of {0}")]
    Subcommand(&'static str, Quoted),
    /// An option that is not known, or not complete.
    #[error("ERR syntax error")]
    Syntax,
    /// Not a number where one must be.
    #[error("ERR value is not an integer or out of range")]
    Integer,
    /// Only database 0 exists.
    #[error("ERR DB index is out of range")]
    Database,
    /// Not a number, or forgotten.
    #[error("ERR invalid cursor: not one that was given here in the last minutes; begin again with 0")]
    Cursor,
    /// A pattern that no key needs.
    #[error("ERR a pattern has at most {PATTERN_BYTES_MAX} bytes")]
    Pattern,
    /// `HELLO` with a version that does not exist.
    #[error("NOPROTO unsupported protocol version")]
    Version,
    /// `HELLO` with something else than a version.
    #[error("ERR Protocol version is not an integer or out of range")]
    VersionNumber,
    /// `HELLO` with an option that does not exist.
    #[error("ERR Syntax error in HELLO option '{0}'")]
    HelloOption(Quoted),
    /// A name that would not fit into a line of `CLIENT LIST`.
    #[error("ERR Client names cannot contain spaces, newlines or special characters, and are short")]
    Name,
    /// Only the user `default` exists.
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    User,
    /// There are no passwords.
    #[error("ERR AUTH <password> called, but there are no passwords: access is by the socket's file permissions")]
    Password,
    /// There is no state to serve now; there will be.
    #[error("LOADING {0}")]
    Loading(ReadError),
    /// `ATLEAST` was not reached in time.
    #[error("BEHIND applied {applied} needed {needed}")]
    Behind {
        /// What this node has.
        applied: u64,
        /// What was asked.
        needed: u64,
    },
    /// The store does not answer.
    #[error("ERR {0}")]
    Source(SourceError),
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Read(error) => error.into(),
            error => Self::Source(error),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoState | ReadError::Wrong => Self::Loading(error),
            ReadError::Behind { applied, needed } => Self::Behind { applied, needed },
            error => Self::Source(error.into()),
        }
    }
}

/// A client's words in an error: bounded, and with everything escaped that is not a visible ASCII character.
#[derive(Debug)]
pub struct Quoted(Vec<u8>);

impl Quoted {
    /// Takes the first [`QUOTED_BYTES_MAX`] bytes.
    pub fn new(words: &[u8]) -> Self {
        Self(words[..words.len().min(QUOTED_BYTES_MAX)].to_vec())
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// An unknown command, and as many of its arguments as fit.
#[derive(Debug)]
pub struct Unknown {
    name: Quoted,
    args: Vec<Quoted>,
}

impl Unknown {
    /// Takes the name and the arguments that begin within the first [`QUOTED_BYTES_MAX`] bytes of all.
    pub fn new(args: Args<'_>) -> Self {
        let mut left = QUOTED_BYTES_MAX;
        let mut quoted = Vec::new();
        for arg in args.rest(1) {
            if left == 0 {
                break;
            }
            let taken = &arg[..arg.len().min(left)];
            // An empty argument takes place as well, or a thousand of them would all be repeated.
            left = left.saturating_sub(taken.len() + 3);
            quoted.push(Quoted::new(taken));
        }
        Self { name: Quoted::new(args.get(0).unwrap_or_default()), args: quoted }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}', with args beginning with: ", self.name)?;
        self.args.iter().try_for_each(|arg| write!(f, "'{arg}' "))
    }
}
