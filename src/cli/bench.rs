//! `cinnabar kv bench`: how fast a running cluster answers, as its own clients see it.
//!
//! The comparison with other systems, which starts processes of its own, is `make bench-kv` (`benches/kv`).

mod load;

use std::time::Duration;

use cinnabar_kv_api::{Client, Key, Op, WriteOutcome};
use clap::Subcommand;
use serde_json::json;

use super::connect::Connect;
use super::error::CliError;
use super::report::{Format, print};

/// Time before the measured one: connections, caches.
const WARM_UP: Duration = Duration::from_secs(1);

/// `cinnabar kv bench ...`
#[derive(Subcommand)]
pub enum Command {
    /// Put values in a closed loop. They stay in the cluster, under the prefix.
    Puts(Puts),
}

/// How puts are made.
#[derive(clap::Args)]
pub struct Puts {
    /// Puts in flight at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    clients: u64,
    /// Connections that they share.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=256))]
    connections: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(0..=65_000))]
    value_bytes: u64,
    /// Keys, chosen at random.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Where the keys lie.
    #[arg(long, default_value = "operator/bench/")]
    prefix: String,
    /// Seconds, after one more that does not count.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

/// Runs it.
pub async fn run(command: Command, connect: &Connect, format: Format) -> Result<(), CliError> {
    let Command::Puts(puts) = command;
    let clients = (0..puts.connections).map(|_| connect.client()).collect::<Result<Vec<Client>, _>>()?;
    let asked = clients[0].status().await?;
    let value = load::value(usize::try_from(puts.value_bytes).unwrap_or(usize::MAX));
    let (prefix, keys) = (puts.prefix.clone(), puts.keys);
    let put = move |client: usize, done| {
        let (name, value) = (load::random_key(&prefix, keys, client, done), value.clone());
        let connection = clients[client % clients.len()].clone();
        async move {
            let key = Key::new(name.into_bytes()).map_err(|error| error.to_string())?;
            match connection.write(Vec::new(), vec![Op::Put { key, value }]).await {
                Ok(WriteOutcome::Written { .. }) => Ok(()),
                Ok(WriteOutcome::Unmet { .. }) => Err("a put without conditions was not done".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    let put = std::sync::Arc::new(put);
    let loops = usize::try_from(puts.clients).unwrap_or(usize::MAX);
    let (warm, measured) = (put.clone(), put);
    load::closed_loop(loops, WARM_UP, move |client, done| warm(client, done)).await;
    // Other keys than while it warmed up.
    let measured = move |client, done: u64| measured(client, done + (1 << 32));
    let load = load::closed_loop(loops, Duration::from_secs(puts.seconds), measured).await;
    if load.operations() == 0 {
        return Err(CliError::Unreachable(load.problem.unwrap_or_else(|| "no put was answered".to_owned())));
    }
    let mut report = json!({
        "node": asked.node,
        "role": asked.role,
        "clients": puts.clients,
        "connections": puts.connections,
        "value_bytes": puts.value_bytes,
    });
    let figures = load.report();
    for (name, value) in figures.as_object().into_iter().flatten() {
        report[name] = value.clone();
    }
    if let Some(problem) = load.problem {
        report["first_error"] = problem.into();
    }
    print(format, &report, None)
}
