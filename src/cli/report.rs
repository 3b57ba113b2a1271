//! What a command prints: one JSON object, or `name  value` lines.
//!
//! Standard output belongs to the data when a command writes its data there; the report then goes to standard error.

use std::io::Write;

use serde_json::Value;

use super::error::CliError;
use super::files::Destination;

/// How results and errors are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines and tables for people.
    #[value(alias = "table")]
    Text,
    /// One JSON object for programs.
    Json,
}

/// Prints a report (a JSON object) beside data that went to `data`.
pub fn print(format: Format, report: &Value, data: Option<&Destination>) -> Result<(), CliError> {
    let text = match format {
        Format::Json => format!("{report}\n"),
        Format::Text => lines(report),
    };
    let data_on_stdout = data.is_some_and(Destination::is_stdout);
    // For people, data on standard output needs no commentary.
    if data_on_stdout && format == Format::Text {
        return Ok(());
    }
    if data_on_stdout {
        print_error(&text);
        return Ok(());
    }
    print_text(&text)
}

/// Prints text to standard output.
pub fn print_text(text: &str) -> Result<(), CliError> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| CliError::File { path: "standard output".to_owned(), problem: error.to_string() })
}

/// Prints to standard error. Where nobody listens there is nobody to tell.
pub fn print_error(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Bytes in base 16, lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An age in milliseconds; null when there is nothing yet that could have one.
pub fn behind_ms(ms: u64) -> Value {
    if ms == u64::MAX { Value::Null } else { ms.into() }
}

fn lines(report: &Value) -> String {
    let fields = report.as_object().expect("a report is an object");
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    fields
        .iter()
        .map(|(name, value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Array(entries) if entries.is_empty() => "none".to_owned(),
                Value::Array(entries) => entries
                    .iter()
                    .map(|entry| entry.as_str().map_or(entry.to_string(), str::to_owned))
                    .collect::<Vec<_>>()
                    .join(", "),
                other => other.to_string(),
            };
            format!("{:width$}  {value}\n", name.replace('_', " "))
        })
        .collect()
}
