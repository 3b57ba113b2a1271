//! Reads and writes from the command line. Operators write under `operator/` only.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use cinnabar_kv_api::proto::watch_response::Message;
use cinnabar_kv_api::proto::{self, GetRequest, ScanRequest, WatchRequest};
use cinnabar_kv_api::{Client, Condition, Key, Op, WriteOutcome};
use clap::Subcommand;
use serde_json::{Value, json};

use super::backup;
use super::bench;
use super::connect::{Connect, block_on};
use super::error::CliError;
use super::files::Source;
use super::report::{Format, behind_ms, hex, print, print_text};
use super::store::Process;

/// `cinnabar kv ...`
#[derive(Subcommand)]
pub enum Command {
    /// Print a value.
    Get {
        /// The key.
        key: String,
        /// Wait until this log index is applied.
        #[arg(long, value_name = "INDEX", default_value_t = 0)]
        at_least: u64,
        /// Longest such wait, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = 0)]
        wait_ms: u32,
        /// See every write that was answered before, by asking the leader.
        #[arg(long)]
        linearizable: bool,
    },
    /// Set a value; '-' reads it from standard input.
    Put {
        /// The key, under operator/.
        key: String,
        /// The value, or '-'.
        value: String,
    },
    /// Remove a key.
    Del {
        /// The key.
        key: String,
    },
    /// Set a value if the record was last written by this log index; 0 means that there must be none.
    Cas {
        /// The key, under operator/.
        key: String,
        /// The expected mod_index.
        mod_index: u64,
        /// The new value, or '-'.
        value: String,
    },
    /// List keys under a prefix.
    List {
        /// The prefix; left out, everything.
        #[arg(default_value = "")]
        prefix: String,
        /// Most keys to print.
        #[arg(long)]
        limit: Option<usize>,
        /// Print values, too.
        #[arg(long)]
        values: bool,
    },
    /// Print changes as they come, one JSON object a line with -o json.
    Watch {
        /// The prefix; left out, everything.
        #[arg(default_value = "")]
        prefix: String,
        /// Start after this log index; left out, now.
        #[arg(long, value_name = "INDEX")]
        after: Option<u64>,
    },
    /// Write everything into a file, checked and signed for by a voter.
    Backup {
        /// The file.
        #[arg(long)]
        out: PathBuf,
    },
    /// Check a backup offline: every record, the state hash, and with --ca, --cert and --key the voter's signature.
    Verify {
        /// The file.
        file: PathBuf,
    },
    /// Fill a new voter's folder from a backup: the same cluster, a new store id.
    Restore {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        process: Process,
    },
    /// Print every record under a prefix, at one index, one JSON object a line (values in base 16).
    Export {
        /// The prefix; left out, everything.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Measure how fast a cluster answers.
    #[command(subcommand)]
    Bench(bench::Command),
}

fn key(text: &str) -> Result<Key, CliError> {
    Key::new(text.as_bytes().to_vec()).map_err(|error| CliError::Usage(error.to_string()))
}

fn value(text: String) -> Result<Bytes, CliError> {
    if text == "-" { Ok(Bytes::copy_from_slice(&Source::from(OsString::from("-")).read()?)) } else { Ok(text.into()) }
}

fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), str::to_owned)
}

/// Runs it.
pub fn run(command: Command, connect: &Connect, format: Format) -> Result<(), CliError> {
    match command {
        Command::Backup { out } => return backup::backup(connect, &out, format),
        Command::Verify { file } => return backup::verify(connect, &file, format),
        Command::Restore { file, process } => return backup::restore(&file, &process, format),
        _ => {}
    }
    block_on(async {
        let client = connect.client()?;
        match command {
            Command::Backup { .. } | Command::Verify { .. } | Command::Restore { .. } => unreachable!("run above"),
            Command::Get { key, at_least, wait_ms, linearizable } => {
                get(&client, GetRequest { key: key.into(), at_least, wait_ms, linearizable }, format).await
            }
            Command::Put { key: name, value: text } => {
                write(&client, None, Op::Put { key: key(&name)?, value: value(text)? }, format).await
            }
            Command::Del { key: name } => write(&client, None, Op::Delete { key: key(&name)? }, format).await,
            Command::Cas { key: name, mod_index, value: text } => {
                let condition = Condition { key: key(&name)?, mod_index };
                write(&client, Some(condition), Op::Put { key: key(&name)?, value: value(text)? }, format).await
            }
            Command::List { prefix, limit, values } => list(&client, prefix, limit, values, format).await,
            Command::Watch { prefix, after } => watch(&client, prefix, after, format).await,
            Command::Export { prefix } => export(&client, prefix).await,
            Command::Bench(command) => bench::run(command, connect, format).await,
        }
    })
}

async fn get(client: &Client, request: GetRequest, format: Format) -> Result<(), CliError> {
    let name = text(&request.key);
    let answer = client.get(request).await?;
    let stamp = answer.stamp.unwrap_or_default();
    if !answer.found {
        return Err(CliError::Conflict(format!("{name} is absent as of index {}", stamp.applied_index)));
    }
    if format == Format::Text {
        let mut out = std::io::stdout().lock();
        let written = out.write_all(&answer.value).and_then(|()| out.write_all(b"\n"));
        return written.map_err(|error| CliError::Failed(format!("standard output: {error}")));
    }
    let report = json!({
        "key": name,
        "value": text(&answer.value),
        "value_hex": hex(&answer.value),
        "mod_index": answer.mod_index,
        "applied_index": stamp.applied_index,
        "behind_ms": behind_ms(stamp.behind_ms),
        "stale": stamp.stale,
    });
    print(format, &report, None)
}

async fn write(client: &Client, condition: Option<Condition>, op: Op, format: Format) -> Result<(), CliError> {
    let name = text(op.key().as_bytes());
    match client.write(condition.into_iter().collect(), vec![op]).await? {
        WriteOutcome::Written { index } => print(format, &json!({ "key": name, "index": index }), None),
        WriteOutcome::Unmet { actual, .. } => {
            let found = if actual == 0 { "is absent".to_owned() } else { format!("was last written by {actual}") };
            Err(CliError::Conflict(format!("{name} {found}; nothing was written")))
        }
    }
}

/// Every record under a prefix, page by page, at one index.
async fn pages(
    client: &Client,
    prefix: String,
    keys_only: bool,
    mut each: impl FnMut(u64, proto::Record) -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let mut token = Bytes::new();
    let prefix = Bytes::from(prefix);
    loop {
        let request = ScanRequest { prefix: prefix.clone(), token, keys_only, ..ScanRequest::default() };
        let page = client.scan(request).await?;
        for record in page.records {
            if !each(page.at_index, record)? {
                return Ok(());
            }
        }
        if page.next_token.is_empty() {
            return Ok(());
        }
        token = page.next_token;
    }
}

async fn list(
    client: &Client,
    prefix: String,
    limit: Option<usize>,
    values: bool,
    format: Format,
) -> Result<(), CliError> {
    let mut records = Vec::new();
    let mut index = 0;
    let limit = limit.unwrap_or(usize::MAX);
    pages(client, prefix, !values, |at, record| {
        index = at;
        if records.len() >= limit {
            return Ok(false);
        }
        if format == Format::Json {
            let mut entry = json!({ "key": text(&record.key), "mod_index": record.mod_index });
            if values {
                entry["value"] = text(&record.value).into();
            }
            records.push(entry);
        } else {
            let shown = if values {
                format!("{}  {}\n", text(&record.key), text(&record.value))
            } else {
                format!("{}\n", text(&record.key))
            };
            records.push(Value::Null);
            print_text(&shown)?;
        }
        Ok(true)
    })
    .await?;
    if format == Format::Json { print(format, &json!({ "at_index": index, "records": records }), None) } else { Ok(()) }
}

async fn export(client: &Client, prefix: String) -> Result<(), CliError> {
    pages(client, prefix, false, |at, record| {
        let line = json!({ "key": text(&record.key), "key_hex": hex(&record.key), "value_hex": hex(&record.value), "mod_index": record.mod_index, "at_index": at });
        print_text(&format!("{line}\n"))?;
        Ok(true)
    })
    .await
}

async fn watch(client: &Client, prefix: String, after: Option<u64>, format: Format) -> Result<(), CliError> {
    let request = WatchRequest { prefix: prefix.into(), after_index: after.unwrap_or(0), from_now: after.is_none() };
    let mut messages = client.watch(request).await?;
    while let Some(message) = messages.message().await.map_err(|status| CliError::status(&status))? {
        match message.message {
            Some(Message::Changes(changes)) => {
                for event in changes.events {
                    let deleted = event.kind == i32::from(proto::op::Kind::Delete);
                    let shown = match (format, deleted) {
                        (Format::Json, _) => json!({
                            "index": changes.index,
                            "kind": if deleted { "delete" } else { "put" },
                            "key": text(&event.key),
                            "value": if deleted { Value::Null } else { text(&event.value).into() },
                        })
                        .to_string(),
                        (Format::Text, true) => format!("{}  delete  {}", changes.index, text(&event.key)),
                        (Format::Text, false) => {
                            format!("{}  put     {}  {}", changes.index, text(&event.key), text(&event.value))
                        }
                    };
                    print_text(&format!("{shown}\n"))?;
                }
            }
            Some(Message::Progress(progress)) if format == Format::Json => {
                print_text(&format!(
                    "{}\n",
                    json!({ "progress": progress.applied_index, "behind_ms": progress.behind_ms })
                ))?;
            }
            Some(Message::Resync(resync)) => {
                return Err(CliError::Conflict(format!(
                    "{}; list, then watch from index {}",
                    resync.reason, resync.oldest_index
                )));
            }
            _ => {}
        }
    }
    Ok(())
}
