//! `cinnabar policy`: what a policy would mean today, before anything is stored.

use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::rest::{At, Call};
use super::show;
use crate::cli::error::CliError;
use crate::cli::report::{Format, print_text};

/// `cinnabar policy ...`
#[derive(Subcommand)]
pub enum Policy {
    /// Check a policy and show who would hold a key under it.
    Check {
        /// The policy, such as 'region: EU and (not country: FR)'.
        policy: String,
    },
    /// Show what a policy becomes: its one form, and the conditions that machines' keys are asked for.
    Explain {
        /// The policy.
        policy: String,
    },
}

/// Runs it.
pub fn run(command: Policy, at: &At, format: Format) -> Result<(), CliError> {
    let (policy, explain) = match command {
        Policy::Check { policy } => (policy, false),
        Policy::Explain { policy } => (policy, true),
    };
    let call = Call::send(Method::POST, "/v1/policies:check", json!({ "policy": policy }));
    let Some(answer) = at.call(&call)? else { return Ok(()) };
    match format {
        Format::Json => show(format, &answer, None),
        Format::Text if explain => {
            let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
            print_text(&format!(
                "policy     {}\ncanonical  {}\ncompiled   {}\nid         {}\n",
                text("policy"),
                text("canonical"),
                text("compiled"),
                text("policy_id")
            ))
        }
        Format::Text => print_text(&preview(&answer)),
    }
}

/// Holders, warnings and waits, for people.
pub fn preview(answer: &Value) -> String {
    let names = |value: &Value| {
        let entries = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        entries.collect::<Vec<_>>().join(", ")
    };
    let holders = &answer["holders"];
    let mut out = format!("Policy   {}\n", answer["policy"].as_str().unwrap_or("everywhere"));
    if answer["canonical"] != answer["policy"] {
        out += &format!("         {}\n", answer["canonical"].as_str().unwrap_or_default());
    }
    out += &format!(
        "Holders  {} of {} data centres in {}: {}\n",
        holders["count"],
        holders["of"],
        names(&holders["countries"]),
        names(&holders["data_centers"])
    );
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        let word = if warning["severity"] == "warning" { "Warning" } else { "Note   " };
        let (message, code) = (warning["message"].as_str().unwrap_or_default(), warning["code"].as_str());
        out += &format!("{word}  {message} [{}]\n", code.unwrap_or_default());
    }
    let regions = answer["latency"]["regions"].as_array().cloned().unwrap_or_default();
    if !regions.is_empty() {
        let basis = answer["latency"]["basis"].as_str().unwrap_or_default();
        out += &format!("Latency  added wait of a new TLS connection, {basis}; resumed ones do not wait\n");
        out += "           region    local       p50       p95\n";
        for region in regions {
            let ms = |name: &str| region["extra_ms"][name].as_f64().unwrap_or_default();
            let local = format!("{}/{}", region["local"], region["of"]);
            let name = region["region"].as_str().unwrap_or_default();
            out += &format!("           {name:<8}  {local:>5}  {:>5.1} ms  {:>5.1} ms\n", ms("p50"), ms("p95"));
        }
    }
    out
}
