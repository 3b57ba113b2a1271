//! The processes of the store, and what operators do with them: `voter`, `replica`, `cluster`, `status`.

use std::path::{Path, PathBuf};

use cinnabar_daemon::config::{self, ENV_PREFIX};
use cinnabar_daemon::{Env, ProcessError};
use cinnabar_kv::process;
use cinnabar_kv_api::Target;
use cinnabar_kv_api::proto::cluster_client::ClusterClient;
use cinnabar_kv_api::proto::{self, StatusResponse};
use clap::Subcommand;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::VERSION;
use super::connect::{Connect, block_on};
use super::error::CliError;
use super::report::{Format, behind_ms, hex, print, print_text};

/// `cinnabar voter` and `cinnabar replica`.
#[derive(clap::Args)]
pub struct Process {
    /// Configuration file (TOML); docs/configuration.md lists its keys.
    #[arg(long, value_name = "FILE", env = "CINNABAR_CONFIG")]
    config: PathBuf,
    /// Set one key over the file and the environment: --set cache_bytes=1GiB. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// `cinnabar cluster ...`
#[derive(Subcommand)]
pub enum Cluster {
    /// Make a new cluster of unassigned voters.
    Init {
        /// Addresses of all first voters, 1, 3 or 5. The first of them is asked unless --server names another.
        #[arg(required = true, value_name = "HOST:PORT")]
        addresses: Vec<String>,
    },
    /// Add an unassigned voter: learner first, voter once it has caught up.
    AddVoter {
        /// Its address.
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
    /// Remove a voter.
    RemoveVoter {
        /// Its name.
        name: String,
    },
    /// Put an unassigned voter in the place of another, in one change.
    Replace {
        /// Name of the voter that leaves.
        name: String,
        /// Address of the one that comes.
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
    /// Hand leadership to another voter.
    TransferLeader {
        /// Its name; left out, the most advanced one.
        name: Option<String>,
    },
    /// Show every member.
    Status,
}

/// A process's end as a command's.
pub fn process_error(error: ProcessError) -> CliError {
    CliError::Process { message: error.message, code: error.code }
}

/// Reads a process's configuration.
pub fn load<T: DeserializeOwned>(process: &Process) -> Result<T, CliError> {
    let mut overrides = Vec::new();
    for set in &process.set {
        let (key, value) =
            set.split_once('=').ok_or_else(|| CliError::Usage(format!("--set {set}: write KEY=VALUE")))?;
        overrides.push((key.to_owned(), value.to_owned()));
    }
    config::load(Some(Path::new(&process.config)), ENV_PREFIX, &overrides)
        .map_err(|error| CliError::Process { message: error.to_string(), code: error.exit_code() })
}

/// Runs a voter until it is told to stop.
pub fn voter(process: &Process) -> Result<(), CliError> {
    let conf = load(process)?;
    block_on(async { process::run_voter(Env::system(), conf, VERSION).await.map_err(process_error) })
}

/// Runs a replica until it is told to stop.
pub fn replica(process: &Process) -> Result<(), CliError> {
    let conf = load(process)?;
    block_on(async { process::run_replica(Env::system(), conf, VERSION).await.map_err(process_error) })
}

/// Runs a cluster command.
pub fn cluster(command: Cluster, connect: &Connect, format: Format) -> Result<(), CliError> {
    block_on(async {
        if let Cluster::Status = command {
            return members(connect, format).await;
        }
        let channel = match &command {
            Cluster::Init { addresses } if connect.servers().is_empty() => {
                let tls = connect.tls()?;
                connect.client_of(Target::Tcp { addresses: vec![addresses[0].clone()], tls })?.current_channel()
            }
            _ => connect.channel().await?,
        };
        let mut cluster = ClusterClient::new(channel);
        let status = |status: tonic::Status| CliError::status(&status);
        let remove = |name: String| proto::RemoveVoterRequest { node_id: 0, name };
        let report = match command {
            Cluster::Init { addresses } => {
                let made = cluster.init(proto::InitRequest { addresses }).await.map_err(status)?.into_inner();
                json!({ "store_id": hex(&made.store_id), "node_ids": made.node_ids })
            }
            Cluster::AddVoter { address } => {
                membership(cluster.add_voter(proto::AddVoterRequest { address }).await.map_err(status)?.into_inner())
            }
            Cluster::RemoveVoter { name } => {
                membership(cluster.remove_voter(remove(name)).await.map_err(status)?.into_inner())
            }
            Cluster::Replace { name, address } => {
                let add = Some(proto::AddVoterRequest { address });
                let request = proto::ReplaceVoterRequest { remove: Some(remove(name)), add };
                membership(cluster.replace_voter(request).await.map_err(status)?.into_inner())
            }
            Cluster::TransferLeader { name } => {
                let request = proto::TransferLeaderRequest { node_id: 0, name: name.unwrap_or_default() };
                json!({ "leader": cluster.transfer_leader(request).await.map_err(status)?.into_inner().leader })
            }
            Cluster::Status => unreachable!("answered above"),
        };
        print(format, &report, None)
    })
}

fn membership(answer: proto::MembershipResponse) -> Value {
    let mut report = json!({ "voters": answer.voters });
    if answer.node_id > 0 {
        report["node_id"] = answer.node_id.into();
    }
    report
}

async fn ask(connect: &Connect, address: &str) -> Result<StatusResponse, CliError> {
    let target = Target::Tcp { addresses: vec![address.to_owned()], tls: connect.tls()? };
    Ok(connect.client_of(target)?.status().await?)
}

/// Asks every member that the first node knows.
async fn members(connect: &Connect, format: Format) -> Result<(), CliError> {
    let first = connect.client()?.status().await?;
    let mut rows = Vec::new();
    for member in &first.members {
        let row = match ask(connect, &member.address).await {
            Ok(status) => row(&status, &member.address),
            Err(error) => silent(&member.name, &member.address, &error),
        };
        rows.push(row);
    }
    if first.members.is_empty() {
        rows.push(row(&first, connect.servers().first().map_or("", String::as_str)));
    }
    table(format, rows)
}

/// `cinnabar status`: every node named, or every member of the first one's cluster.
pub fn status(connect: &Connect, format: Format) -> Result<(), CliError> {
    block_on(async {
        if connect.servers().is_empty() {
            let status = connect.client()?.status().await?;
            return table(format, vec![row(&status, "")]);
        }
        let mut rows = Vec::new();
        let mut known: Vec<String> = connect.servers().to_vec();
        let mut n = 0;
        while n < known.len() {
            let address = known[n].clone();
            n += 1;
            match ask(connect, &address).await {
                Ok(status) => {
                    for member in &status.members {
                        if !known.contains(&member.address) {
                            known.push(member.address.clone());
                        }
                    }
                    rows.push(row(&status, &address));
                }
                Err(error) => rows.push(silent("", &address, &error)),
            }
        }
        let all_silent = rows.iter().all(|row| row["health"] == "silent");
        table(format, rows)?;
        if all_silent { Err(CliError::Unreachable("no node answered".to_owned())) } else { Ok(()) }
    })
}

fn silent(name: &str, address: &str, error: &CliError) -> Value {
    json!({ "node": name, "role": "-", "health": "silent", "address": address, "problem": error.to_string() })
}

fn row(status: &StatusResponse, address: &str) -> Value {
    let upstreams: Vec<Value> = status
        .upstreams
        .iter()
        .map(|up| json!({ "address": up.address, "current": up.current, "round_trip_us": up.round_trip_us, "behind_ms": behind_ms(up.behind_ms), "problem": up.problem }))
        .collect();
    json!({
        "node": status.node,
        "role": status.role,
        "data_center": status.labels.get("data_center"),
        "country": status.labels.get("country"),
        "health": if status.health == "ok" { status.labels.get("health").unwrap_or(&status.health) } else { &status.health },
        "applied_index": status.applied_index,
        "behind_entries": status.committed_index.saturating_sub(status.applied_index),
        "behind_ms": behind_ms(status.behind_ms),
        "fed_by": status.fed_by,
        "generation": status.labels.get("generation").and_then(|text| text.parse::<u32>().ok()),
        "alarms": status.labels.get("alarms"),
        "version": status.version,
        "address": address,
        "cluster": status.cluster,
        "store_id": hex(&status.store_id),
        "node_id": status.node_id,
        "term": status.term,
        "leader": status.leader,
        "chain_head": hex(&status.chain_head),
        "state_hash": hex(&status.state_hash),
        "records": status.records,
        "first_log_index": status.first_log_index,
        "upstreams": upstreams,
    })
}

/// Columns of the table, and the fields of a row that fill them.
const COLUMNS: [(&str, &str); 10] = [
    ("NODE", "node"),
    ("ROLE", "role"),
    ("COUNTRY", "country"),
    ("HEALTH", "health"),
    ("APPLIED", "applied_index"),
    ("BEHIND", "behind"),
    ("FED BY", "fed_by"),
    ("KEY GEN", "generation"),
    ("ADDRESS", "address"),
    ("VERSION", "version"),
];

fn table(format: Format, rows: Vec<Value>) -> Result<(), CliError> {
    if format == Format::Json {
        return print(format, &json!({ "nodes": rows }), None);
    }
    let cell = |row: &Value, field: &str| match field {
        "behind" if row["role"] == "unassigned" => "-".to_owned(),
        "behind" => match (row["behind_entries"].as_u64(), row["behind_ms"].as_u64()) {
            (Some(entries), Some(ms)) => format!("{entries} / {ms} ms"),
            (Some(entries), None) => format!("{entries} / never"),
            _ => "-".to_owned(),
        },
        field => match &row[field] {
            Value::String(text) if text.is_empty() => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        },
    };
    // What edge nodes alone have is shown when there is one.
    let shown = |(_, field): &&(&str, &str)| {
        !matches!(*field, "country" | "generation") || rows.iter().any(|row| !row[*field].is_null())
    };
    let columns: Vec<&(&str, &str)> = COLUMNS.iter().filter(shown).collect();
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|(title, _)| (*title).to_owned()).collect()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|(_, field)| cell(row, field)).collect()));
    let widths: Vec<usize> =
        (0..columns.len()).map(|n| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let padded: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    for row in &rows {
        if let Some(alarms) = row["alarms"].as_str().filter(|alarms| !alarms.is_empty()) {
            text.push_str(&format!("{}: {alarms}\n", row["node"].as_str().unwrap_or("-")));
        }
    }
    print_text(&text)
}
