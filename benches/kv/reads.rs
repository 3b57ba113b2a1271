//! Reads in process: a replica inside a process of its own, as an edge agent embeds it, asked by one thread.
//!
//! Keys are uniform over all records and every value is looked at. Nothing is subtracted: each time holds the two looks
//! at a clock around it. Beside writes: so many single puts a second through the three voters on the same machine, each
//! verified and applied by the replica that is read. sled and redb alone do the same, without voters and signatures.

use std::path::Path;
use std::time::Duration;

use cinnabar_kv::limits::CACHE_BYTES_DEFAULT;
use cinnabar_kv_api::Client;
use serde_json::{Value, json};

use crate::child::Helper;
use crate::data::{live_bytes, paced, put, value};
use crate::engines::{self, Kind};
use crate::load::scatter;
use crate::machine::Usage;
use crate::report::{number, require};
use crate::world::World;
use crate::{Fallible, Plan};

/// Writes beside the reads, a second.
const WRITES: u32 = 1000;
/// Required of a read with nothing beside it, and beside writes.
const P50_US_MAX: f64 = 1.3;
const P99_US_MAX: f64 = 5.0;

/// Measures; a row for each size of cache, with nothing beside the reads and beside writes.
pub async fn run(plan: &Plan, world: &World) -> Fallible<Vec<Value>> {
    let mut rows = Vec::new();
    let caches = [("default", CACHE_BYTES_DEFAULT), ("20 % of the data", live_bytes(world.keys) / 5)];
    let writers = world.writers().await?;
    for (cache, bytes) in caches {
        // A process of its own for each, so that memory is its own.
        let helper = Helper::start()?;
        helper.ask(world.opening(&format!("reader-{}", bytes >> 20), bytes)?).await?;
        let reached = world.reach(&helper).await?;
        if number(&reached["records"]) != world.keys as f64 {
            return Err(format!("the replica has {} records", reached["records"]).into());
        }
        helper.ask(json!({ "do": "fill", "keys": world.keys })).await?;
        for (load, rate) in [("none", 0), ("writes", WRITES)] {
            let load = if rate > 0 { format!("{rate} writes/s") } else { load.to_owned() };
            let what = json!({ "system": "cinnabar", "cache": cache, "cache_mib": bytes >> 20, "load": load });
            let ms = plan.length.as_millis() as u64;
            let question = json!({ "do": "reads", "keys": world.keys, "seed": rate + 1, "ms": ms, "what": what });
            let reads = helper.ask(question);
            let mut row =
                if rate > 0 { beside(plan, world, &writers, reads, helper.id()).await? } else { reads.await? };
            if rate == 0 && bytes == CACHE_BYTES_DEFAULT {
                require(&mut row, "p50_us", P50_US_MAX);
            } else if rate > 0 {
                require(&mut row, "p99_us", P99_US_MAX);
            }
            plan.progress(&format!(
                "reads, cache {cache}, beside {load}: p50 {} us, p99 {} us, hits {}, {} MiB",
                row["p50_us"], row["p99_us"], row["hit_ratio"], row["rss_mib"]
            ));
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Reads while the cluster takes writes.
async fn beside(
    plan: &Plan,
    world: &World,
    writers: &[Client],
    reads: impl Future<Output = Fallible<Value>>,
    pid: u32,
) -> Fallible<Value> {
    let usage = Usage::begin(&[pid]);
    let keys = world.keys;
    let ops = |n| Ok(vec![put(scatter(n) % keys, value(scatter(n) % keys, 1))?]);
    // Begun before the reads and ended after them.
    let length = plan.length + Duration::from_millis(500);
    let late = async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        reads.await
    };
    let (written, row) = tokio::join!(paced(writers, WRITES, length, ops), late);
    let (written, mut row) = (written?, row?);
    row["writes_per_second"] = (written.times.len() as f64 / written.seconds).round().into();
    row["reader_cpu_share"] = crate::report::hundredths(usage.end().servers[0] / written.seconds).into();
    Ok(row)
}

/// sled and redb alone, with as much memory as our caches have; rows for three parts.
pub async fn alone(plan: &Plan, folder: &Path, overwrites: u64) -> Fallible<Vec<engines::Rows>> {
    let mut all = Vec::new();
    for kind in [Kind::Sled, Kind::Redb] {
        for (n, cache_bytes) in [CACHE_BYTES_DEFAULT, live_bytes(plan.keys) / 5].into_iter().enumerate() {
            let folder = folder.join(format!("{kind:?}-{n}"));
            // Overwritten with one of the caches only: it takes longest.
            let overwrites = if n == 0 { overwrites } else { 0 };
            let (keys, length, at) = (plan.keys, plan.length, folder.clone());
            let run = engines::Plan { kind, folder: at, keys, cache_bytes, length, writes: WRITES, overwrites };
            let rows = tokio::task::spawn_blocking(move || engines::measure(&run)).await??;
            for row in &rows.reads {
                plan.progress(&format!(
                    "reads, {}, cache {} MiB, beside {}: p50 {} us, p99 {} us",
                    kind.name(),
                    row["cache_mib"],
                    row["load"],
                    row["p50_us"],
                    row["p99_us"]
                ));
            }
            std::fs::remove_dir_all(&folder)?;
            all.push(rows);
        }
    }
    Ok(all)
}
