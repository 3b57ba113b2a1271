//! One configuration per process: a TOML file, then the environment, then flags; the last one wins.
//!
//! The road: [`load`] reads the file into a tree that remembers where each value came from (`tree`), lays
//! `CINNABAR_CACHE__BYTES=...` and dotted flags over it, and reads the process's own type out of it (`de`).
//! Law: nothing is ignored. A key nobody knows, in the file, the environment or a flag, is an error that says where it
//! stands and which key is nearest; a process with a bad configuration leaves with [`EXIT_CONFIG`] and binds no port.

mod de;
#[cfg(test)]
mod tests;
mod tree;
mod units;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use self::tree::{Node, Origin};
pub use self::units::{Bytes, DurationMs, UnitError};
use crate::file;

/// Exit code for a configuration that cannot be used (EX_USAGE of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;
/// Largest configuration file in bytes.
pub const CONFIG_BYTES_MAX: usize = 1024 * 1024;
/// Deepest table that environment and flags can reach.
pub const KEY_DEPTH_MAX: usize = 8;
/// The prefix of our environment variables.
pub const ENV_PREFIX: &str = "CINNABAR_";
/// Variables with our prefix that are no configuration keys: `CINNABAR_LOG` (level filter, see `telemetry`),
/// `CINNABAR_CONFIG` (the file's path, read by the command line), `CINNABAR_COMMIT` and `CINNABAR_VECTORS` (build and
/// tests). Written without the prefix.
pub const ENV_ALLOWED: &[&str] =
    &["LOG", "CONFIG", "COMMIT", "VECTORS", "SERVER", "AUTHORITY", "URL", "CA", "CERT", "KEY"];

/// Why a configuration cannot be used. Always the operator's to repair; the text says where and how.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read, or is larger than [`CONFIG_BYTES_MAX`].
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What the parser expected.
        problem: String,
    },
    /// A key that this process does not have.
    #[error("{origin}: unknown key `{field}`{}", did_you_mean(hint.as_ref()))]
    UnknownKey {
        /// `file:line:column`, the variable or the flag.
        origin: String,
        /// The key with dots.
        field: String,
        /// The nearest key there is.
        hint: Option<String>,
    },
    /// A key without a default that nobody set.
    #[error("{origin}: `{field}` is missing; set it in the file, as {variable} or by a flag")]
    MissingKey {
        /// The file or table.
        origin: String,
        /// The key with dots.
        field: String,
        /// The variable that would set it.
        variable: String,
    },
    /// A value of the wrong type or outside its range.
    #[error("{origin}: `{field}`: {problem}")]
    Value {
        /// `file:line:column`, the variable or the flag.
        origin: String,
        /// The key with dots.
        field: String,
        /// What is wrong and what is expected.
        problem: String,
    },
}

fn did_you_mean(hint: Option<&String>) -> String {
    hint.map(|hint| format!("; did you mean `{hint}`?")).unwrap_or_default()
}

/// A value that the file's form cannot rule out, found once the whole is read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Invalid {
    /// A fault of a field.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

impl ConfigError {
    /// The exit code of a process that stops for this.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        EXIT_CONFIG
    }
}

/// Loads a configuration: the file at `path` if there is one, over it every variable that starts with `env_prefix`
/// ([`ENV_PREFIX`]; `__` between tables), over it `overrides` (dotted key, value). Values from outside the file are
/// read as what the field wants: `123` is a number for a number and a string for a string; lists are `a,b` or
/// `["a", "b"]`.
///
/// # Errors
/// [`ConfigError`] with the first fault.
pub fn load<T: DeserializeOwned>(
    path: Option<&Path>,
    env_prefix: &str,
    overrides: &[(String, String)],
) -> Result<T, ConfigError> {
    load_with(path, env_prefix, std::env::vars_os(), overrides)
}

/// [`load`] with the environment as an argument.
///
/// # Errors
/// As [`load`].
pub fn load_with<T: DeserializeOwned>(
    path: Option<&Path>,
    env_prefix: &str,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    overrides: &[(String, String)],
) -> Result<T, ConfigError> {
    let mut root = match path {
        Some(path) => read_file(path)?,
        None => Node::table(Origin::Nowhere),
    };
    let mut variables = Vec::new();
    for (name, value) in environment {
        variables.extend(variable(env_prefix, &name, &value)?);
    }
    // The order of the environment is the operating system's; the errors shall not be.
    variables.sort();
    for (name, keys, value) in variables {
        lay(&mut root, &keys, value, Origin::Variable(name))?;
    }
    for (key, value) in overrides {
        let keys: Vec<String> = key.split('.').map(str::to_owned).collect();
        lay(&mut root, &keys, value.clone(), Origin::Flag(key.clone()))?;
    }
    de::read(&root).map_err(|fault| fault.into_error(path, env_prefix))
}

fn read_file(path: &Path) -> Result<Node, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = file::read_bounded(path, CONFIG_BYTES_MAX).map_err(failed)?;
    let text = String::from_utf8(bytes)
        .map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error())))?;
    tree::parse(&text).map_err(|fault| ConfigError::Syntax {
        path: path.to_owned(),
        line: fault.line,
        column: fault.column,
        problem: fault.problem,
    })
}

/// Name, keys and value of a variable that is ours; `None` for everybody else's.
fn variable(
    prefix: &str,
    name: &OsString,
    value: &OsString,
) -> Result<Option<(String, Vec<String>, String)>, ConfigError> {
    let shown = name.to_string_lossy();
    let Some(key) = shown.strip_prefix(prefix) else { return Ok(None) };
    if ENV_ALLOWED.contains(&key) {
        return Ok(None);
    }
    let Some(value) = value.to_str() else {
        let problem = "the value is not UTF-8".to_owned();
        return Err(ConfigError::Value { origin: shown.to_string(), field: key.to_lowercase(), problem });
    };
    let keys = key.split("__").map(str::to_lowercase).collect();
    Ok(Some((shown.to_string(), keys, value.to_owned())))
}

fn lay(root: &mut Node, keys: &[String], value: String, origin: Origin) -> Result<(), ConfigError> {
    if keys.len() > KEY_DEPTH_MAX || keys.iter().any(String::is_empty) {
        return Err(ConfigError::UnknownKey { origin: origin.show(None), field: keys.join("."), hint: None });
    }
    let shown = origin.show(None);
    root.lay(keys, value, &origin).map_err(|at| ConfigError::Value {
        origin: shown,
        field: keys[..at].join("."),
        problem: "is a single value, not a table".to_owned(),
    })
}
