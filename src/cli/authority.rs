//! What customers and operators do with the authority: zones, tokens, machines, data centres, policies, certificates and
//! other secrets. Each command is one call of its HTTP interface; `--curl` prints that call instead.

mod cert;
mod context;
mod inventory;
mod policy;
mod rest;
mod zone;

pub use cert::{Cert, Secret};
pub use context::Context;
pub use inventory::{DataCenter, Machine, Schema};
pub use policy::Policy;
pub use rest::{At, Refusal};
pub use zone::{Token, Zone};

use serde_json::Value;

use super::error::CliError;
use super::report::{Format, print, print_text};

/// Runs a `context` command.
pub fn context(command: Context, format: Format) -> Result<(), CliError> {
    context::run(command, format)
}

/// Runs `policy`, `cert`, `secret`, `zone`, `token`, `machine`, `dc`, `schema`.
pub fn run(command: Command, at: &At, format: Format) -> Result<(), CliError> {
    match command {
        Command::Policy(command) => policy::run(command, at, format),
        Command::Cert(command) => cert::run(command, at, format),
        Command::Secret(command) => cert::run_secret(command, at, format),
        Command::Zone(command) => zone::run(command, at, format),
        Command::Token(command) => zone::run_token(command, at, format),
        Command::Machine(command) => inventory::run_machine(command, at, format),
        Command::DataCenter(command) => inventory::run_data_center(command, at, format),
        Command::Schema(command) => inventory::run_schema(command, at, format),
    }
}

/// Sends a machine's token and request for a certificate, and gives the answer.
pub fn enrol(url: String, ca: Option<std::path::PathBuf>, body: Value) -> Result<Value, CliError> {
    At::openly(url, ca).answer(&rest::Call::send(hyper::Method::POST, "/v1/enrol", body))
}

/// One of the commands that ask the authority.
pub enum Command {
    /// `policy`
    Policy(Policy),
    /// `cert`
    Cert(Cert),
    /// `secret`
    Secret(Secret),
    /// `zone`
    Zone(Zone),
    /// `token`
    Token(Token),
    /// `machine`
    Machine(Machine),
    /// `dc`
    DataCenter(DataCenter),
    /// `schema`
    Schema(Schema),
}

/// Prints an answer: JSON as it came, or lines; an answer that holds one list as a table of some columns.
fn show(format: Format, answer: &Value, list: Option<(&str, &[&str])>) -> Result<(), CliError> {
    let rows = list.and_then(|(name, columns)| Some((answer.get(name)?.as_array()?, columns)));
    match (format, rows) {
        (Format::Text, Some((rows, columns))) => print_text(&table(rows, columns)),
        (Format::Text, None) if answer.as_object().is_none_or(serde_json::Map::is_empty) => Ok(()),
        (Format::Json, _) if !answer.is_object() => print_text(&format!("{answer}\n")),
        _ => print(format, answer, None),
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(entries)) if entries.is_empty() => "-".to_owned(),
        Some(Value::Array(entries)) => entries.iter().map(|entry| cell(Some(entry))).collect::<Vec<_>>().join(", "),
        Some(other) => other.to_string(),
    }
}

fn table(rows: &[Value], columns: &[&str]) -> String {
    let head = columns.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
    let body = rows.iter().map(|row| columns.iter().map(|name| cell(row.get(name))).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let width = |n: usize| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let shown = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(text, width)| format!("{text:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(shown).collect()
}
