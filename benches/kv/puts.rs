//! Puts: three voters over TLS beside three nodes of etcd without it, in turn, under one closed loop.
//!
//! Both run all the time, so each pays for the other's idle nodes; each value size begins with fresh clusters. Every put
//! goes to the leader. Processor time is that of all three servers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_kv_api::{Key, Op, WriteOutcome};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cinnabar::Cluster;
use crate::etcd::{self, Etcd};
use crate::load::{Load, closed_loop, random_key, value};
use crate::machine::{Usage, Used, cpus};
use crate::report::{median_of, number};
use crate::{Fallible, Plan};

const CONNECTIONS: usize = 8;
const KEYS: u64 = 50_000;
const PREFIX: &str = "operator/bench/";
/// Load before the measured one.
const WARM_UP: Duration = Duration::from_secs(1);
/// Rest after a load, so that what it left to do does not fall to the other system's turn.
const REST: Duration = Duration::from_millis(1500);

type Put = Arc<dyn Fn(usize, u64) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// One system under load.
struct System {
    name: &'static str,
    /// The leader's first.
    pids: Vec<u32>,
    put: Put,
}

/// Measures; one row a system, value size and number of clients.
pub async fn run(plan: &Plan, folder: &Path) -> Fallible<Vec<Value>> {
    let sizes: &[usize] = if plan.quick { &[1024, 20 * 1024] } else { &[1024, 256, 20 * 1024, 60 * 1024] };
    let loads: &[usize] = if plan.quick { &[64] } else { &[64, 1, 256] };
    let mut rows = Vec::new();
    for bytes in sizes {
        let folder = folder.join(format!("puts-{bytes}"));
        let cluster = Cluster::start(&folder.join("cinnabar"), 3).await?;
        let etcd = match &plan.etcd {
            Some(program) => Some(Etcd::start(program, &folder.join("etcd")).await?),
            None => None,
        };
        for clients in loads {
            rows.extend(compare(plan, &cluster, etcd.as_ref(), *clients, *bytes).await?);
        }
        drop((cluster, etcd));
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(rows)
}

/// All repeats of one value size and number of clients, the systems in turn; their medians.
async fn compare(
    plan: &Plan,
    cluster: &Cluster,
    etcd: Option<&Etcd>,
    clients: usize,
    bytes: usize,
) -> Fallible<Vec<Value>> {
    let mut runs: Vec<Vec<Value>> = Vec::new();
    for turn in 0..plan.repeats {
        let mut systems = vec![cinnabar(cluster, bytes).await?];
        if let Some(etcd) = etcd {
            systems.push(peer(etcd, bytes).await?);
        }
        // Who begins changes, so that nobody always comes after the other's load.
        if turn % 2 == 1 {
            systems.reverse();
        }
        for system in systems {
            let row = measure(plan, &system, clients, bytes, turn).await;
            plan.progress(&format!(
                "puts {bytes:>6} B {clients:>4} clients  {:8}  {:>7}/s  p50 {:>7} us  p99 {:>8} us  {:>5} us CPU a put  (others {:.2} of the machine)",
                system.name, row["per_second"], row["p50_us"], row["p99_us"], row["cpu_us_per_op"], number(&row["others_share"]),
            ));
            match runs.iter_mut().find(|runs| runs[0]["system"] == row["system"]) {
                Some(runs) => runs.push(row),
                None => runs.push(vec![row]),
            }
        }
    }
    Ok(runs.iter().map(|runs| median_of(runs)).collect())
}

async fn measure(plan: &Plan, system: &System, clients: usize, bytes: usize, turn: usize) -> Value {
    let (put, base) = (system.put.clone(), (turn as u64) << 34);
    closed_loop(clients, WARM_UP, move |client, done| put(client, base + done)).await;
    let put = system.put.clone();
    let usage = Usage::begin(&system.pids);
    let load = closed_loop(clients, plan.length, move |client, done| put(client, base + (1 << 33) + done)).await;
    let used = usage.end();
    sleep(REST).await;
    row(system.name, clients, bytes, &load, &used)
}

fn row(system: &str, clients: usize, bytes: usize, load: &Load, used: &Used) -> Value {
    let per_op = |seconds: f64| (seconds * 1e6 / load.operations().max(1) as f64 * 10.0).round() / 10.0;
    let followers: f64 = used.servers.iter().skip(1).sum();
    let mut row = json!({ "system": system, "clients": clients, "value_bytes": bytes });
    let measured = [
        load.report(),
        json!({
            "cpu_us_per_op": per_op(used.servers.iter().sum()),
            "leader_cpu_us_per_op": per_op(used.servers[0]),
            "follower_cpu_us_per_op": per_op(followers / (used.servers.len() - 1).max(1) as f64),
            "client_cpu_us_per_op": per_op(used.own),
            "others_share": (used.others / load.seconds / cpus() as f64 * 100.0).round() / 100.0,
            "first_error": load.problem,
        }),
    ];
    for (name, value) in measured.iter().filter_map(Value::as_object).flatten() {
        row[name] = value.clone();
    }
    row
}

fn leader_first(mut pids: Vec<u32>, leader: usize) -> Vec<u32> {
    pids.swap(0, leader);
    pids
}

async fn cinnabar(cluster: &Cluster, bytes: usize) -> Fallible<System> {
    let leader = cluster.leader().await?;
    let address = &cluster.voters()[leader].address;
    let clients = (0..CONNECTIONS).map(|_| cluster.client(address)).collect::<Fallible<Vec<_>>>()?;
    let value = value(bytes);
    let put: Put = Arc::new(move |client, done| {
        let (connection, value) = (clients[client % CONNECTIONS].clone(), value.clone());
        Box::pin(async move {
            let key =
                Key::new(random_key(PREFIX, KEYS, client, done).into_bytes()).map_err(|error| error.to_string())?;
            match connection.write(Vec::new(), vec![Op::Put { key, value }]).await {
                Ok(WriteOutcome::Written { .. }) => Ok(()),
                Ok(WriteOutcome::Unmet { .. }) => Err("a put without conditions was not done".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
    });
    let pids = cluster.voters().iter().map(|node| node.process.id()).collect();
    Ok(System { name: "cinnabar", pids: leader_first(pids, leader), put })
}

async fn peer(etcd: &Etcd, bytes: usize) -> Fallible<System> {
    let leader = etcd.leader().await?;
    let port = etcd.port(leader);
    let clients = (0..CONNECTIONS).map(|_| etcd::Client::new(port)).collect::<Fallible<Vec<_>>>()?;
    let value = value(bytes);
    let put: Put = Arc::new(move |client, done| {
        let (connection, value) = (clients[client % CONNECTIONS].clone(), value.clone());
        Box::pin(async move { connection.put(random_key(PREFIX, KEYS, client, done).into(), value).await })
    });
    Ok(System { name: "etcd", pids: leader_first(etcd.pids(), leader), put })
}
