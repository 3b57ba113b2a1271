//! What several parts measure: three voters that hold the records, loaded once, and who follows them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cinnabar_kv_api::Client;
use serde_json::{Value, json};

use crate::child::Helper;
use crate::cinnabar::{Cluster, Node};
use crate::data::{self, KEY_BYTES, LOADERS, VALUE_BYTES};
use crate::machine::{Usage, cpus};
use crate::report::{hundredths, require, row};
use crate::{Fallible, Plan};

/// Longest wait for a follower to have everything.
pub const FOLLOW_MAX: Duration = Duration::from_secs(300);
/// Connections of those who write at a steady rate.
const CONNECTIONS: usize = 4;
/// Seconds in which a million records must be loaded.
const LOAD_SECONDS_MAX: f64 = 60.0;

/// See the module.
pub struct World {
    pub cluster: Cluster,
    pub keys: u64,
    /// Log index of the last load.
    pub index: u64,
    /// How loading went, a row of the part `restart`.
    pub loaded: Value,
    pub folder: PathBuf,
}

impl World {
    /// Starts three voters and loads the records.
    pub async fn start(plan: &Plan, folder: &Path) -> Fallible<Self> {
        let folder = folder.join("world");
        let cluster = Cluster::start(&folder, 3).await?;
        let usage = Usage::begin(&cluster.pids().await?);
        let written = data::load(&cluster, plan.keys, 0).await?;
        let used = usage.end();
        let servers: f64 = used.servers.iter().sum();
        let what = json!({ "system": "cinnabar", "what": "bulk load", "keys": plan.keys, "clients": LOADERS,
            "value_bytes": VALUE_BYTES });
        let more = json!({ "seconds": hundredths(written.seconds),
            "records_per_second": (plan.keys as f64 / written.seconds).round(),
            "cpu_us_per_op": hundredths(servers * 1e6 / plan.keys as f64),
            "client_cpu_us_per_op": hundredths(used.own * 1e6 / plan.keys as f64),
            "others_share": hundredths(used.others / written.seconds / cpus() as f64) });
        let mut loaded = row(&what, &written.times, &more);
        require(&mut loaded, "seconds", LOAD_SECONDS_MAX);
        plan.progress(&format!(
            "load: {} records of {KEY_BYTES} + {VALUE_BYTES} B in {} s",
            plan.keys, loaded["seconds"]
        ));
        Ok(Self { cluster, keys: plan.keys, index: written.index, loaded, folder })
    }

    /// Clients of the leader.
    pub async fn writers(&self) -> Fallible<Vec<Client>> {
        let address = &self.cluster.voters()[self.cluster.leader().await?].address;
        (0..CONNECTIONS).map(|_| self.cluster.client(address)).collect()
    }

    /// A replica of its own process that has everything.
    pub async fn replica(&self, name: &str) -> Fallible<Node> {
        let upstreams: Vec<&str> = self.cluster.voters().iter().map(|node| node.address.as_str()).collect();
        let node = self.cluster.replica(name, &upstreams, "")?;
        node.reach(self.index, FOLLOW_MAX).await?;
        Ok(node)
    }

    /// What a helper needs to open replicas of this cluster.
    pub fn opening(&self, name: &str, cache_bytes: u64) -> Fallible<Value> {
        let upstreams: Vec<&str> = self.cluster.voters().iter().map(|node| node.address.as_str()).collect();
        opening(&self.cluster, &self.folder, name, &upstreams, 1, Some(cache_bytes))
    }

    /// Waits until a helper's replicas have everything.
    pub async fn reach(&self, helper: &Helper) -> Fallible<Value> {
        helper.ask(json!({ "do": "reach", "index": self.index, "ms": FOLLOW_MAX.as_millis() as u64 })).await
    }
}

/// Asks a helper to open replicas: on disk with a cache of so many bytes, or else in memory with the least one.
pub fn opening(
    cluster: &Cluster,
    folder: &Path,
    name: &str,
    upstreams: &[&str],
    count: usize,
    cache_bytes: Option<u64>,
) -> Fallible<Value> {
    let tls = cluster.issue("edge", name)?;
    Ok(json!({ "do": "open", "with": {
        "tls": [tls.ca, tls.cert, tls.key],
        "folder": folder.join(format!("{name}.data")),
        "upstreams": upstreams,
        "count": count,
        "in_memory": cache_bytes.is_none(),
        "cache_bytes": cache_bytes.unwrap_or(0),
    } }))
}
