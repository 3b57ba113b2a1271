//! `cinnabar cert` and `cinnabar secret`: keys in, replaced, out. Keys come from files or standard input only.

use std::path::PathBuf;

use clap::Subcommand;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::policy::preview;
use super::rest::{At, Call};
use super::show;
use crate::cli::edge::{self, Local};
use crate::cli::error::CliError;
use crate::cli::files::{Destination, Source};
use crate::cli::report::{Format, print_text};

/// `cinnabar cert ...`
#[derive(Subcommand)]
pub enum Cert {
    /// Store a certificate and its key under a policy.
    Add {
        /// The zone that owns its names.
        zone: String,
        #[command(flatten)]
        upload: Upload,
    },
    /// Replace a certificate under its id; what is left out stays.
    Replace {
        /// The zone.
        zone: String,
        /// The certificate's id.
        id: String,
        #[command(flatten)]
        upload: Upload,
    },
    /// List a zone's certificates.
    List {
        /// The zone.
        zone: String,
    },
    /// Show a certificate.
    Show {
        /// The zone.
        zone: String,
        /// The certificate's id.
        id: String,
    },
    /// Delete a certificate. What machines could open once they may have read: this takes nothing back.
    Rm {
        /// The zone.
        zone: String,
        /// The certificate's id.
        id: String,
    },
}

/// What is sent.
#[derive(clap::Args)]
pub struct Upload {
    /// PEM chain, the leaf first.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// PEM private key; '-' is standard input.
    #[arg(long, value_name = "FILE")]
    key_file: Option<Source>,
    /// Who may hold the key; left out of a new certificate, everywhere.
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Who may ask for signatures: a policy over machines; left out, all.
    #[arg(long, value_name = "POLICY")]
    served_by: Option<String>,
    /// A warning that was seen: few-holders.
    #[arg(long, value_name = "WARNING")]
    acknowledge: Vec<String>,
    /// Check everything and store nothing.
    #[arg(long)]
    dry_run: bool,
}

/// `cinnabar secret ...`
#[derive(Subcommand)]
pub enum Secret {
    /// Store a secret under a policy, or replace it.
    Put {
        /// The zone.
        zone: String,
        /// Its name there.
        name: String,
        /// Who may hold it; left out, everywhere.
        #[arg(long, value_name = "POLICY")]
        policy: Option<String>,
        /// The secret, any bytes; '-' is standard input.
        #[arg(long, value_name = "FILE")]
        file: Source,
        /// A warning that was seen: few-holders.
        #[arg(long, value_name = "WARNING")]
        acknowledge: Vec<String>,
    },
    /// Read a secret on a machine that satisfies its policy, from that machine's edge node.
    Get {
        /// The zone.
        zone: String,
        /// Its name.
        name: String,
        /// Where to; '-' is standard output.
        #[arg(long, value_name = "FILE", default_value = "-")]
        out: Destination,
        #[command(flatten)]
        local: Local,
    },
    /// Show what is known of a secret; never the secret.
    Show {
        /// The zone.
        zone: String,
        /// Its name.
        name: String,
    },
    /// Delete a secret.
    Rm {
        /// The zone.
        zone: String,
        /// Its name.
        name: String,
    },
}

fn text_of(source: &Source) -> Result<String, CliError> {
    let bytes = source.read()?;
    String::from_utf8(bytes.to_vec()).map_err(|_| CliError::Usage("not PEM: the file is not text".to_owned()))
}

impl Upload {
    fn body(&self) -> Result<Value, CliError> {
        let mut body = Map::new();
        if let Some(path) = &self.certificate {
            let text = std::fs::read_to_string(path).map_err(|error| CliError::file(path, error))?;
            body.insert("certificate".to_owned(), text.into());
        }
        if let Some(source) = &self.key_file {
            body.insert("private_key".to_owned(), text_of(source)?.into());
        }
        for (name, text) in [("policy", &self.policy), ("served_by", &self.served_by)] {
            body.extend(text.as_ref().map(|text| (name.to_owned(), text.as_str().into())));
        }
        if !self.acknowledge.is_empty() {
            body.insert("acknowledge".to_owned(), json!(self.acknowledge));
        }
        Ok(body.into())
    }

    fn query(&self) -> &'static str {
        if self.dry_run { "?dry_run=true" } else { "" }
    }
}

fn stored(answer: &Value, format: Format, dry_run: bool) -> Result<(), CliError> {
    if format == Format::Json {
        return show(format, answer, None);
    }
    let id = answer["id"].as_str().unwrap_or_default();
    let done = if dry_run { "would be stored".to_owned() } else { format!("stored as {id}") };
    let mut out = format!("{}{done}, entry {}\n", preview(answer), answer["index"]);
    out += &before(answer);
    print_text(&out)
}

fn before(answer: &Value) -> String {
    let could = answer["before"]["could_open"].as_array().map(Vec::as_slice).unwrap_or_default();
    if could.is_empty() {
        return String::new();
    }
    let names = could.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    format!("Before   {names}. {}\n", answer["before"]["note"].as_str().unwrap_or_default())
}

/// Runs `cert`.
pub fn run(command: Cert, at: &At, format: Format) -> Result<(), CliError> {
    const SECRETS: &[&str] = &["private_key"];
    let path = |zone: &str| format!("/v1/zones/{zone}/certificates");
    match command {
        Cert::Add { zone, upload } => {
            let path = path(&zone) + upload.query();
            let call = Call { secrets: SECRETS, ..Call::send(Method::POST, path, upload.body()?) };
            at.call(&call)?.map_or(Ok(()), |answer| stored(&answer, format, upload.dry_run))
        }
        Cert::Replace { zone, id, upload } => {
            let path = format!("{}/{id}{}", path(&zone), upload.query());
            let call = Call { secrets: SECRETS, ..Call::send(Method::PUT, path, upload.body()?) };
            at.call(&call)?.map_or(Ok(()), |answer| stored(&answer, format, upload.dry_run))
        }
        Cert::List { zone } => {
            let columns: &[&str] = &["id", "hostnames", "key_type", "policy", "not_after"];
            let answer = at.list(&path(&zone), "certificates")?;
            answer.map_or(Ok(()), |answer| show(format, &answer, Some(("certificates", columns))))
        }
        Cert::Show { zone, id } => {
            let answer = at.call(&Call::get(format!("{}/{id}", path(&zone))))?;
            answer.map_or(Ok(()), |answer| show(format, &answer, None))
        }
        Cert::Rm { zone, id } => deleted(at, format, format!("{}/{id}", path(&zone))),
    }
}

fn deleted(at: &At, format: Format, path: String) -> Result<(), CliError> {
    let Some(answer) = at.call(&Call::delete(path))? else { return Ok(()) };
    if format == Format::Json {
        return show(format, &answer, None);
    }
    print_text(&format!(
        "deleted {}, entry {}\n{}",
        answer["id"].as_str().unwrap_or_default(),
        answer["index"],
        before(&answer)
    ))
}

/// Runs `secret`.
pub fn run_secret(command: Secret, at: &At, format: Format) -> Result<(), CliError> {
    let path = |zone: &str, name: &str| format!("/v1/zones/{zone}/secrets/{name}");
    match command {
        Secret::Put { zone, name, policy, file, acknowledge } => {
            use base64ct::{Base64, Encoding};
            let secret = Base64::encode_string(&file.read()?);
            let mut body = json!({ "secret": secret });
            if let Some(policy) = policy {
                body["policy"] = policy.into();
            }
            if !acknowledge.is_empty() {
                body["acknowledge"] = json!(acknowledge);
            }
            let call = Call { secrets: &["secret"], ..Call::send(Method::PUT, path(&zone, &name), body) };
            at.call(&call)?.map_or(Ok(()), |answer| stored(&answer, format, false))
        }
        Secret::Get { zone, name, out, local } => edge::secret(zone, name, &local, &out),
        Secret::Show { zone, name } => {
            let answer = at.call(&Call::get(path(&zone, &name)))?;
            answer.map_or(Ok(()), |answer| show(format, &answer, None))
        }
        Secret::Rm { zone, name } => deleted(at, format, path(&zone, &name)),
    }
}
