//! `cinnabar machine`, `cinnabar dc` and `cinnabar schema`: what the operators' inventory becomes.

use std::path::PathBuf;

use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::rest::{At, Call};
use super::show;
use crate::cli::error::CliError;
use crate::cli::report::{Format, print_text};

/// `cinnabar machine ...`
#[derive(Subcommand)]
pub enum Machine {
    /// Make a token with which one machine of the inventory enrols, once, within the hour.
    Token {
        /// The machine.
        id: String,
    },
    /// List machines: what was issued to them, and how they are.
    List,
    /// Take everything from machines, for good, and show which keys they could open.
    Revoke {
        /// The machine.
        #[arg(required_unless_present = "filter")]
        id: Option<String>,
        /// All machines that a policy describes, such as 'country: RU'.
        #[arg(long = "where", value_name = "POLICY", conflicts_with = "id")]
        filter: Option<String>,
        /// Why; it is written into the record.
        #[arg(long)]
        reason: String,
        /// Show what would be revoked, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// `cinnabar dc ...`
#[derive(Subcommand)]
pub enum DataCenter {
    /// List data centres.
    List,
    /// Ask a data centre for nothing new; shows which policies that touches first.
    Drain {
        /// The data centre.
        id: String,
        /// Even where a policy would have no holder left.
        #[arg(long)]
        force: bool,
        /// Show what would change, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a data centre back.
    Undrain {
        /// The data centre.
        id: String,
    },
}

/// `cinnabar schema ...`
#[derive(Subcommand)]
pub enum Schema {
    /// Show the labels, what they may say, and which of them not every machine holds yet.
    Show,
    /// Check a schema file against the schema in use, without a change.
    Check {
        /// The file (TOML).
        file: PathBuf,
    },
}

/// Runs `machine`.
pub fn run_machine(command: Machine, at: &At, format: Format) -> Result<(), CliError> {
    match command {
        Machine::Token { id } => {
            let call = Call::send(Method::POST, "/v1/machine_tokens", json!({ "machine": id }));
            let Some(answer) = at.call(&call)? else { return Ok(()) };
            match (format, answer["token"].as_str()) {
                (Format::Text, Some(token)) => print_text(&format!("{token}\n")),
                _ => show(format, &answer, None),
            }
        }
        Machine::List => {
            let columns: &[&str] = &["id", "data_center", "state", "issued", "address"];
            let answer = at.list("/v1/machines", "machines")?;
            answer.map_or(Ok(()), |answer| show(format, &answer, Some(("machines", columns))))
        }
        Machine::Revoke { id, filter, reason, dry_run } => {
            let mut body = json!({ "reason": reason, "dry_run": dry_run });
            match (id, filter) {
                (Some(id), _) => body["machines"] = json!([id]),
                (None, filter) => body["policy"] = filter.into(),
            }
            let Some(answer) = at.call(&Call::send(Method::POST, "/v1/machines:revoke", body))? else { return Ok(()) };
            if format == Format::Json {
                return show(format, &answer, None);
            }
            print_text(&blast_radius(&answer))
        }
    }
}

fn blast_radius(answer: &Value) -> String {
    let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let machines: Vec<String> = list("machines").iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
    let mut out = format!("{} machines: {}\n", machines.len(), machines.join(", "));
    out += &format!("{} policies they could open\n", list("policies").len());
    out += "Keys that they may have read, to be replaced at their issuers:\n";
    for cert in list("certificates") {
        let names = cert["hostnames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
        let text = |name: &str| cert[name].as_str().unwrap_or_default().to_owned();
        out += &format!("  certificate {}/{}  {}\n", text("zone"), text("id"), names.join(", "));
    }
    for secret in list("secrets") {
        let text = |name: &str| secret[name].as_str().unwrap_or_default().to_owned();
        out += &format!("  secret {}/{}\n", text("zone"), text("name"));
    }
    out
}

/// Runs `dc`.
pub fn run_data_center(command: DataCenter, at: &At, format: Format) -> Result<(), CliError> {
    let columns: &[&str] = &["id", "country", "machines", "live"];
    let (call, list) = match command {
        DataCenter::List => (Call::get("/v1/data_centers"), Some(("data_centers", columns))),
        DataCenter::Drain { id, force, dry_run } => {
            let body = json!({ "data_center": id, "force": force, "dry_run": dry_run });
            (Call::send(Method::POST, "/v1/data_centers:drain", body), None)
        }
        DataCenter::Undrain { id } => {
            (Call::send(Method::POST, "/v1/data_centers:undrain", json!({ "data_center": id })), None)
        }
    };
    at.call(&call)?.map_or(Ok(()), |answer| show(format, &answer, list))
}

/// Runs `schema`.
pub fn run_schema(command: Schema, at: &At, format: Format) -> Result<(), CliError> {
    let call = match command {
        Schema::Show => Call::get("/v1/schema"),
        Schema::Check { file } => {
            let text = std::fs::read_to_string(&file).map_err(|error| CliError::file(&file, error))?;
            Call::send(Method::POST, "/v1/schema:check", json!({ "schema": text }))
        }
    };
    at.call(&call)?.map_or(Ok(()), |answer| show(format, &answer, None))
}
