//! A million records: how long they take to load, a voter and a replica to start again over them, and their disk.
//!
//! A restart ends when the process answers on its Unix socket that it has applied everything and is well; a voter then
//! also knows a leader. It is polled every 5 ms.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cinnabar::Node;
use crate::data::{LOADERS, VALUE_BYTES, live_bytes, load};
use crate::load::histogram;
use crate::machine::{Usage, disk_mib, process_seconds, rss_mib};
use crate::report::{hundredths, require, row};
use crate::world::{FOLLOW_MAX, World};
use crate::{Fallible, Plan, resp};

/// Required of a restart.
const RESTART_SECONDS_MAX: f64 = 3.0;
/// Required of a node's whole folder over the bytes of its live records.
const DISK_OVER_LIVE_MAX: f64 = 3.0;
/// Rest after writing: state flushed, log purged, each done once a second.
const REST: Duration = Duration::from_secs(5);

/// Measures the part `restart`.
pub async fn run(plan: &Plan, world: &mut World) -> Fallible<Vec<Value>> {
    let mut rows = vec![world.loaded.clone()];
    let start = Instant::now();
    let mut replica = world.replica("edge").await?;
    let what = |text: &str| json!({ "system": "cinnabar", "what": text, "keys": world.keys, "clients": 1, "value_bytes": VALUE_BYTES });
    let mut first = what("replica: its first copy, from nothing");
    first["seconds"] = hundredths(start.elapsed().as_secs_f64()).into();
    first["rss_mib"] = rss_mib(replica.process.id()).into();
    rows.push(first);
    for (signal, how) in [(Signal::TERM, "stopped"), (Signal::KILL, "killed")] {
        rows.push(
            again(plan, &mut replica, world.index, signal, what(&format!("replica: {how}, started again"))).await?,
        );
        let follower = (world.cluster.leader().await? + 1) % world.cluster.voters().len();
        let what = what(&format!("voter: {how}, started again"));
        let index = world.index;
        rows.push(again(plan, world.cluster.voter_mut(follower), index, signal, what).await?);
    }
    let (socket, keys) = (replica.file(".resp"), world.keys);
    tokio::task::spawn_blocking(move || resp::get_all(&socket, keys)).await??;
    let mut read = what("replica: after each key was read");
    read["rss_mib"] = rss_mib(replica.process.id()).into();
    rows.push(read);
    Ok(rows)
}

/// Ends a process and starts it again, some times.
async fn again(plan: &Plan, node: &mut Node, index: u64, signal: Signal, what: Value) -> Fallible<Value> {
    let (mut times, mut cpu) = (histogram(), 0.0);
    for _ in 0..plan.repeats {
        node.process.end(signal)?;
        let start = Instant::now();
        node.again()?;
        node.reach(index, FOLLOW_MAX).await?;
        times.saturating_record(u64::try_from(start.elapsed().as_nanos())?);
        cpu += process_seconds(node.process.id());
    }
    let more = json!({
        "seconds": hundredths(times.value_at_quantile(0.5) as f64 / 1e9),
        "cpu_us_per_op": (cpu * 1e6 / plan.repeats as f64).round(),
        "rss_mib": rss_mib(node.process.id()),
    });
    let mut row = row(&what, &times, &more);
    require(&mut row, "seconds", RESTART_SECONDS_MAX);
    plan.progress(&format!("restart, {}: {} s, {} MiB", row["what"], row["seconds"], row["rss_mib"]));
    Ok(row)
}

/// Measures the part `disk`: everything is written again, some times.
pub async fn overwrite(plan: &Plan, world: &World) -> Fallible<Vec<Value>> {
    let replica = world.replica("disk").await?;
    let usage = Usage::begin(&world.cluster.pids().await?);
    let (mut times, mut index) = (histogram(), world.index);
    for generation in 1..=plan.overwrites {
        let written = load(&world.cluster, world.keys, generation).await?;
        times.add(&written.times)?;
        index = written.index;
        plan.progress(&format!("disk: {} records written again in {} s", world.keys, hundredths(written.seconds)));
    }
    let servers: f64 = usage.end().servers.iter().sum();
    let leader = &world.cluster.voters()[world.cluster.leader().await?];
    let live = live_bytes(world.keys) as f64 / f64::from(1 << 20);
    let mut rows = Vec::new();
    for (name, node) in [("voter", leader), ("replica", &replica)] {
        node.reach(index, FOLLOW_MAX).await?;
        sleep(REST).await;
        let part = |name: &str| disk_mib(&node.file(".data").join(name));
        let what = json!({ "system": "cinnabar", "what": format!("{name}, after {} overwrites", plan.overwrites),
            "keys": world.keys, "clients": LOADERS, "value_bytes": VALUE_BYTES });
        let whole = disk_mib(&node.file(".data"));
        let more = json!({
            "cpu_us_per_op": hundredths(servers * 1e6 / (world.keys * plan.overwrites) as f64),
            "live_mib": live.round(),
            "state_mib": part("state"),
            "log_mib": part("log"),
            "disk_mib": whole,
            "disk_over_live": hundredths(whole / live),
            "rss_mib": rss_mib(node.process.id()),
        });
        let mut row = row(&what, &times, &more);
        require(&mut row, "disk_over_live", DISK_OVER_LIVE_MAX);
        plan.progress(&format!("disk, {name}: {} MiB for {} MiB", row["disk_mib"], row["live_mib"]));
        rows.push(row);
    }
    Ok(rows)
}
