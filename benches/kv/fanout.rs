//! Many replicas behind relays: how late the latest of them are, and what that costs the relays and the leader.
//!
//! Voters feed relays, relays feed all others; all with the configuration's defaults. Some of the replicas are processes
//! of their own with their state in sled, watched through their Unix sockets. The others are in memory and share a few
//! processes; each has its own TLS connection, verifies each frame and applies it. At the end of each round all must
//! have the state that the leader has. A lag begins before its put is sent, so that it holds the quorum's part too.

use std::path::Path;
use std::time::Duration;

use cinnabar_kv_api::Client;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::child::Helper;
use crate::cinnabar::{Cluster, Node};
use crate::data::{VALUE_BYTES, paced, write};
use crate::helper::state_name;
use crate::load::histogram;
use crate::machine::{Usage, cpus, rss_mib};
use crate::propagation::{Watch, put};
use crate::report::{hundredths, require, row};
use crate::world::{FOLLOW_MAX, opening};
use crate::{Fallible, Plan};

/// Puts a second.
const RATE: u32 = 100;
/// One: everything runs on one machine here, and a relay lengthens the time between its frames with its subscribers,
/// so that all of them together verify the fewest signatures behind one.
const RELAYS: usize = 1;
/// Processes that the replicas in memory share.
const HELPERS: usize = 2;
/// Replicas that are processes of their own: in the smaller rounds, and in the largest.
const PROCESSES: usize = 8;
const PROCESSES_MAX: usize = 20;
/// Required of the lag, in microseconds, and of a relay for each entry and subscriber.
const LAG_US_MAX: f64 = 1e6;
const RELAY_US_MAX: f64 = 3.0;
/// Replicas that one configuration must serve.
const REPLICAS_REQUIRED: usize = 1000;
/// Puts before those that count: replicas find their upstreams.
const WARM_UP: Duration = Duration::from_secs(3);

/// The tree.
struct Tree {
    cluster: Cluster,
    client: Client,
    relays: Vec<Node>,
    processes: Vec<(Node, Watch)>,
    helpers: Vec<Helper>,
    in_memory: usize,
}

/// Measures; two rows for each number of replicas: all, and those that are processes.
pub async fn run(plan: &Plan, folder: &Path) -> Fallible<Vec<Value>> {
    let folder = folder.join("fanout");
    let mut tree = Tree::start(&folder).await?;
    let steps: &[usize] = if plan.quick { &[8, 100] } else { &[8, 100, REPLICAS_REQUIRED] };
    let mut rows = Vec::new();
    for replicas in steps {
        tree.grow(&folder, *replicas).await?;
        rows.extend(tree.round(plan).await?);
    }
    Ok(rows)
}

impl Tree {
    async fn start(folder: &Path) -> Fallible<Self> {
        let cluster = Cluster::start(folder, 3).await?;
        let client = cluster.client(&cluster.voters()[cluster.leader().await?].address)?;
        let index = write(&client, put(0)?).await?;
        let mut relays = Vec::new();
        for n in 0..RELAYS {
            let mut upstreams: Vec<&str> = cluster.voters().iter().map(|node| node.address.as_str()).collect();
            upstreams.rotate_left(n);
            let relay = cluster.replica(&format!("relay-{n}"), &upstreams, "")?;
            relay.reach(index, FOLLOW_MAX).await?;
            relays.push(relay);
        }
        let helpers = (0..HELPERS).map(|_| Helper::start()).collect::<Fallible<_>>()?;
        Ok(Self { cluster, client, relays, processes: Vec::new(), helpers, in_memory: 0 })
    }

    fn replicas(&self) -> usize {
        self.processes.len() + self.in_memory
    }

    /// Adds replicas until there are so many.
    async fn grow(&mut self, folder: &Path, replicas: usize) -> Fallible<()> {
        let relays: Vec<&str> = self.relays.iter().map(|node| node.address.as_str()).collect();
        let processes = if replicas < REPLICAS_REQUIRED { PROCESSES } else { PROCESSES_MAX };
        for n in self.processes.len()..processes {
            let mut upstreams = relays.clone();
            upstreams.rotate_left(n % relays.len());
            let node = self.cluster.replica(&format!("leaf-{n}"), &upstreams, "")?;
            node.reach(1, FOLLOW_MAX).await?;
            let watch = Watch::open(&node.client()?).await?;
            self.processes.push((node, watch));
        }
        let more = replicas - self.replicas();
        for (n, helper) in self.helpers.iter().enumerate() {
            let count = more / HELPERS + usize::from(n < more % HELPERS);
            let name = format!("leaves-{replicas}-{n}");
            if count > 0 {
                helper.ask(opening(&self.cluster, folder, &name, &relays, count, None)?).await?;
            }
        }
        self.in_memory += more;
        Ok(())
    }

    async fn reach(&self, index: u64) -> Fallible<()> {
        for (node, _) in &self.processes {
            node.reach(index, FOLLOW_MAX).await?;
        }
        if self.in_memory > 0 {
            for helper in &self.helpers {
                helper.ask(json!({ "do": "reach", "index": index, "ms": FOLLOW_MAX.as_millis() as u64 })).await?;
            }
        }
        Ok(())
    }

    /// Compares every replica's state with the leader's.
    async fn agree(&self) -> Fallible<()> {
        let leader = self.client.status().await?;
        let expected = json!([state_name(leader.applied_index, &leader.state_hash)]);
        for (node, _) in &self.processes {
            let status = node.client()?.status().await?;
            let found = json!([state_name(status.applied_index, &status.state_hash)]);
            if found != expected {
                return Err(format!("a replica is at {found}, the leader at {expected}").into());
            }
        }
        for helper in self.helpers.iter().filter(|_| self.in_memory > 0) {
            let point = helper.ask(json!({ "do": "point" })).await?;
            if point["states"] != expected {
                return Err(format!("replicas are at {}, the leader at {expected}", point["states"]).into());
            }
        }
        Ok(())
    }

    async fn round(&self, plan: &Plan) -> Fallible<Vec<Value>> {
        let clients = [self.client.clone()];
        let index = paced(&clients, RATE, WARM_UP, put).await?.index;
        self.reach(index).await?;
        for helper in &self.helpers {
            helper.ask(json!({ "do": "begin" })).await?;
        }
        for (_, watch) in &self.processes {
            watch.times.lock().await.reset();
        }
        let mut pids = self.cluster.pids().await?;
        pids.extend(self.relays.iter().map(|node| node.process.id()));
        let serving = pids.len();
        pids.extend(self.processes.iter().map(|(node, _)| node.process.id()));
        pids.extend(self.helpers.iter().map(Helper::id));
        let usage = Usage::begin(&pids);
        let puts = paced(&clients, RATE, plan.length * 3, put).await?;
        let used = usage.end();
        self.reach(puts.index).await?;
        sleep(Duration::from_millis(200)).await;
        let (mut all, mut own) = (histogram(), histogram());
        for helper in &self.helpers {
            add_lags(&mut all, &helper.ask(json!({ "do": "end" })).await?)?;
        }
        for (_, watch) in &self.processes {
            own.add(&*watch.times.lock().await)?;
        }
        all.add(&own)?;
        self.agree().await?;
        let expected = puts.times.len() * self.replicas() as u64;
        if all.len() < expected {
            return Err(format!("{} of {expected} changes were seen", all.len()).into());
        }
        let relays: f64 = used.servers[3..serving].iter().sum();
        let leaves: f64 = used.servers[serving..].iter().sum();
        let entries = puts.times.len() as f64;
        let of_machine = |seconds: f64| hundredths(seconds / puts.seconds / cpus() as f64);
        let what = json!({ "system": "cinnabar", "replicas": self.replicas(), "processes": self.processes.len(),
            "relays": RELAYS, "clients": 1, "value_bytes": VALUE_BYTES });
        let more = json!({
            "per_second": (entries / puts.seconds).round(),
            "cpu_us_per_op": hundredths(used.servers[..serving].iter().sum::<f64>() * 1e6 / entries),
            "leader_cpu_us_per_op": hundredths(used.servers[0] * 1e6 / entries),
            "relay_us_per_entry_and_subscriber": hundredths(relays * 1e6 / entries / self.replicas() as f64),
            "relay_rss_mib": rss_mib(self.relays[0].process.id()),
            "helper_rss_mib": self.helpers.iter().map(|helper| rss_mib(helper.id())).sum::<f64>(),
            "replica_us_per_entry": hundredths(leaves * 1e6 / entries / self.replicas() as f64),
            "replicas_share": of_machine(leaves),
            "others_share": of_machine(used.others),
            "own_processes_p99_us": hundredths(own.value_at_quantile(0.99) as f64 / 1e3),
        });
        let mut row = row(&what, &all, &more);
        require(&mut row, "p99_us", LAG_US_MAX);
        // With fewer subscribers frames go out sooner, with fewer entries in each: the figure is that of the largest round.
        if self.replicas() >= REPLICAS_REQUIRED {
            require(&mut row, "relay_us_per_entry_and_subscriber", RELAY_US_MAX);
        }
        plan.progress(&format!(
            "fanout, {} replicas: p50 {} us, p99 {} us, relays {} us CPU an entry and subscriber, leader {} us a put, others {} of the machine",
            self.replicas(), row["p50_us"], row["p99_us"], row["relay_us_per_entry_and_subscriber"], row["leader_cpu_us_per_op"], row["others_share"],
        ));
        Ok(vec![row])
    }
}

fn add_lags(all: &mut Histogram<u64>, answer: &Value) -> Fallible<()> {
    for step in answer["lags"].as_array().into_iter().flatten() {
        let (Some(value), Some(count)) = (step[0].as_u64(), step[1].as_u64()) else {
            return Err("a helper's lags are no numbers".into());
        };
        all.record_n(value, count)?;
    }
    Ok(())
}
