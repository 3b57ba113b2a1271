//! `cinnabar zone` and `cinnabar token`: who owns which names, and what customers prove themselves with.

use clap::Subcommand;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::rest::{At, Call};
use super::show;
use crate::cli::error::CliError;
use crate::cli::report::{Format, print_text};

/// `cinnabar zone ...`
#[derive(Subcommand)]
pub enum Zone {
    /// Make a zone. No two zones' domains overlap.
    Add {
        /// Its id: 1 to 63 of a-z, 0-9, '-' and '.'.
        id: String,
        /// A domain that it owns with everything below; may be repeated.
        #[arg(long, required = true)]
        domain: Vec<String>,
        #[command(flatten)]
        limits: Limits,
    },
    /// Change a zone; what is left out stays.
    Set {
        /// The zone.
        id: String,
        /// All its domains from now on.
        #[arg(long)]
        domain: Vec<String>,
        #[command(flatten)]
        limits: Limits,
    },
    /// List zones.
    List,
    /// Show a zone.
    Show {
        /// The zone.
        id: String,
    },
    /// Remove a zone that holds no key.
    Rm {
        /// The zone.
        id: String,
    },
}

/// What a zone may do.
#[derive(clap::Args)]
pub struct Limits {
    /// Fewest data centres that a key should be held by.
    #[arg(long, value_name = "N")]
    data_centers_min: Option<u16>,
    /// Most certificates and secrets.
    #[arg(long, value_name = "N")]
    keys_max: Option<u32>,
    /// Changes a minute.
    #[arg(long, value_name = "N")]
    changes_per_minute: Option<u32>,
}

/// `cinnabar token ...`
#[derive(Subcommand)]
pub enum Token {
    /// Make a token for a zone, or for an operator. It is shown once.
    Create {
        #[command(flatten)]
        owner: Owner,
        /// What its owner calls it; an operator's acts under that name and needs one.
        #[arg(long, default_value = "", required_if_eq("operator", "true"))]
        name: String,
    },
    /// List the tokens of a zone, or operators'; never the tokens themselves.
    List {
        #[command(flatten)]
        owner: Owner,
    },
    /// End a token.
    Revoke {
        #[command(flatten)]
        owner: Owner,
        /// The token's id.
        id: String,
    },
}

/// Whose tokens.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Owner {
    /// The zone's.
    #[arg(long)]
    zone: Option<String>,
    /// Operators'.
    #[arg(long)]
    operator: bool,
}

impl Owner {
    fn path(&self) -> String {
        match &self.zone {
            Some(zone) => format!("/v1/zones/{zone}/tokens"),
            None => "/v1/operator_tokens".to_owned(),
        }
    }
}

impl Limits {
    fn body(&self, domains: Vec<String>) -> Map<String, Value> {
        let mut body = Map::new();
        if !domains.is_empty() {
            body.insert("domains".to_owned(), json!(domains));
        }
        let mut limits = Map::new();
        limits.extend(self.data_centers_min.map(|n| ("data_centers_min".to_owned(), n.into())));
        limits.extend(self.keys_max.map(|n| ("keys_max".to_owned(), n.into())));
        limits.extend(self.changes_per_minute.map(|n| ("changes_per_minute".to_owned(), n.into())));
        if !limits.is_empty() {
            body.insert("limits".to_owned(), limits.into());
        }
        body
    }
}

/// Runs `zone`.
pub fn run(command: Zone, at: &At, format: Format) -> Result<(), CliError> {
    let columns: &[&str] = &["id", "domains"];
    let path = |id: &str| format!("/v1/zones/{id}");
    let call = match command {
        Zone::Add { id, domain, limits } => {
            let mut body = limits.body(domain);
            body.insert("id".to_owned(), id.into());
            Call::send(Method::POST, "/v1/zones", body.into())
        }
        Zone::Set { id, domain, limits } => Call::send(Method::PATCH, path(&id), limits.body(domain).into()),
        Zone::List => {
            let answer = at.list("/v1/zones", "zones")?;
            return answer.map_or(Ok(()), |answer| show(format, &answer, Some(("zones", columns))));
        }
        Zone::Show { id } => Call::get(path(&id)),
        Zone::Rm { id } => Call::delete(path(&id)),
    };
    at.call(&call)?.map_or(Ok(()), |answer| show(format, &answer, None))
}

/// Runs `token`.
pub fn run_token(command: Token, at: &At, format: Format) -> Result<(), CliError> {
    match command {
        Token::Create { owner, name } => {
            let call = Call::send(Method::POST, owner.path(), json!({ "name": name }));
            let Some(answer) = at.call(&call)? else { return Ok(()) };
            match (format, answer["token"].as_str()) {
                // Alone on its line, so that it can go into a file.
                (Format::Text, Some(token)) => print_text(&format!("{token}\n")),
                _ => show(format, &answer, None),
            }
        }
        Token::List { owner } => {
            let columns: &[&str] = &["id", "name", "expires_ms"];
            let answer = at.call(&Call::get(owner.path()))?;
            answer.map_or(Ok(()), |answer| show(format, &answer, Some(("tokens", columns))))
        }
        Token::Revoke { owner, id } => {
            let answer = at.call(&Call::delete(format!("{}/{id}", owner.path())))?;
            answer.map_or(Ok(()), |answer| show(format, &answer, None))
        }
    }
}
