//! What a command fails with, and the one place that turns the library's errors into exit codes.

use std::path::Path;
use std::process::ExitCode;

use cinnabar_abe::{Error, PolicyErrorKind};
use serde_json::{Value, json};

use super::report::{Format, print_error};

/// A failed command.
#[derive(Debug)]
pub enum CliError {
    /// The command line makes no sense together.
    Usage(String),
    /// A file could not be read or written.
    File { path: String, problem: String },
    /// The library refused; `subject` names the file or argument.
    Abe { subject: String, error: Error },
    /// Something else failed.
    Failed(String),
    /// No node answered.
    Unreachable(String),
    /// The caller may not do this.
    Denied(String),
    /// The key or node is not there, or something else came first.
    Conflict(String),
    /// The authority answered with a problem.
    Refused(Box<super::authority::Refusal>),
    /// A process of the store could not start or had to end.
    Process { message: String, code: u8 },
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl CliError {
    /// Ties a file's problem to its path.
    pub fn file(path: &Path, problem: impl std::fmt::Display) -> Self {
        Self::File { path: path.display().to_string(), problem: problem.to_string() }
    }

    /// Ties a library error to what the user named.
    pub fn abe(subject: impl Into<String>) -> impl FnOnce(Error) -> Self {
        let subject = subject.into();
        move |error| Self::Abe { subject, error }
    }

    /// 1 failed, 2 usage, 3 unreachable, 4 not permitted, 5 not found or conflict, 6 policy refused; a process has its own.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::Abe { error: Error::Attribute { .. }, .. } => 2,
            // Attributes are the only arguments that can be too long for a key.
            Self::Abe { error: Error::TooLong { what: "attribute list", .. }, .. } => 2,
            Self::Abe { error: Error::NotSatisfied, .. } | Self::Denied(_) => 4,
            Self::Unreachable(_) => 3,
            Self::Conflict(_) => 5,
            Self::Process { code, .. } => *code,
            Self::Refused(refusal) => refusal.exit_code(),
            Self::Abe { error: Error::Policy(_), .. } => 6,
            _ => 1,
        })
    }

    fn code(&self) -> &str {
        match self {
            Self::Usage(_) => "usage",
            Self::File { .. } => "file",
            Self::Failed(_) => "failed",
            Self::Unreachable(_) => "unreachable",
            Self::Denied(_) => "denied",
            Self::Conflict(_) => "conflict",
            Self::Process { .. } => "process",
            Self::Refused(refusal) => refusal.code(),
            Self::Abe { error, .. } => match error {
                Error::Malformed { .. } => "malformed",
                Error::NotSatisfied => "not-permitted",
                Error::Rejected => "rejected",
                Error::Policy(error) => error.kind().code(),
                Error::Attribute { .. } => "attribute",
                Error::TooLong { .. } => "size",
                Error::BrokenRng { .. } => "broken-rng",
                _ => "failed",
            },
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Usage(message)
            | Self::Failed(message)
            | Self::Unreachable(message)
            | Self::Denied(message)
            | Self::Conflict(message)
            | Self::Process { message, .. } => message.clone(),
            Self::Refused(refusal) => refusal.message(),
            Self::File { path, problem } => format!("{path}: {problem}"),
            Self::Abe { error: Error::Policy(error), .. } => error.message().to_owned(),
            Self::Abe { subject, error } => format!("{subject}: {error}"),
        }
    }

    fn to_json(&self) -> Value {
        let mut error = json!({ "code": self.code(), "message": self.message() });
        match self {
            Self::Abe { error: Error::Policy(policy), .. } => {
                error["span"] = json!({ "start": policy.span().start, "end": policy.span().end });
                error["hint"] = policy.hint().into();
            }
            Self::Abe { error: Error::Malformed { at, .. }, .. } => error["at_byte"] = (*at).into(),
            Self::Refused(refusal) => error["problem"] = refusal.problem.clone(),
            _ => {}
        }
        json!({ "error": error })
    }

    /// Prints to standard error.
    pub fn print(&self, format: Format) {
        match (format, self) {
            (Format::Json, _) => print_error(&format!("{}\n", self.to_json())),
            // A refused policy prints itself, with its caret.
            (Format::Text, Self::Abe { error: Error::Policy(error), .. }) => {
                let too_large = error.kind() == PolicyErrorKind::TooLarge;
                let way_out = if too_large { "  --max-bytes raises the limit\n" } else { "" };
                print_error(&format!("{error}\n{way_out}"));
            }
            (Format::Text, Self::Refused(refusal)) => print_error(&refusal.text()),
            (Format::Text, _) => print_error(&format!("error[{}]: {}\n", self.code(), self.message())),
        }
    }
}
