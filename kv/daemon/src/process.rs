//! Why a process did not start, or had to end, and the code that it leaves with.

use std::fmt::Display;

use crate::config::EXIT_CONFIG;

/// Why a process did not start, or had to end.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ProcessError {
    /// What is wrong and what to do.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

impl ProcessError {
    /// A wrong configuration: the operator's to repair.
    pub fn config(error: impl Display) -> Self {
        Self { message: error.to_string(), code: EXIT_CONFIG }
    }

    /// Anything else.
    pub fn failed(error: impl Display) -> Self {
        Self { message: error.to_string(), code: 1 }
    }
}
