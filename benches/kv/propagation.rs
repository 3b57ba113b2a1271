//! How long a put takes to be seen: from the moment before it is sent to the leader until a watch on a replica's Unix
//! socket tells of it. Voters and replicas are processes of their own, with TLS between them.
//!
//! Nothing is subtracted: the time holds the put's way to a quorum's disks, each level's verification and apply, and the
//! watch's way out. The put's own time, until its answer, is a row of its own, and so is what the disk alone takes. Puts
//! come at a steady rate.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_kv_api::proto::WatchRequest;
use cinnabar_kv_api::proto::watch_response::Message;
use cinnabar_kv_api::{Client, Key, Op};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::child::Helper;
use crate::cinnabar::{Cluster, Node};
use crate::data::{VALUE_BYTES, age, paced, stamped, write};
use crate::load::histogram;
use crate::machine::{Usage, now_ns, thread_ns};
use crate::report::{hundredths, require, row};
use crate::world::{FOLLOW_MAX, opening};
use crate::{Fallible, Plan};

/// Where the keys lie.
const PREFIX: &str = "operator/seen/";
/// Puts a second.
const RATE: u32 = 100;
const LEVELS: usize = 3;
/// Downstreams of each node in the second round: so many, the replica below it among them.
const DOWNSTREAMS: usize = 8;
/// Required of one level and of three, in microseconds.
const ONE_LEVEL_US_MAX: f64 = 2000.0;
const THREE_LEVELS_US_MAX: f64 = 4000.0;
/// Appends of the disk alone, and the pause between two.
const SYNCS: u32 = 300;
const SYNC_PAUSE: Duration = Duration::from_millis(5);
/// Puts before those that count.
const WARM_UP: Duration = Duration::from_secs(1);

/// Measures; a row for each level.
pub async fn run(plan: &Plan, folder: &Path) -> Fallible<Vec<Value>> {
    let folder = folder.join("propagation");
    let cluster = Cluster::start(&folder, 3).await?;
    let leader = cluster.leader().await?;
    let client = cluster.client(&cluster.voters()[leader].address)?;
    write(&client, put(0)?).await?;
    let mut chain: Vec<Node> = Vec::new();
    for level in 1..=LEVELS {
        let upstream = chain.last().map_or(cluster.voters()[leader].address.clone(), |node| node.address.clone());
        chain.push(cluster.replica(&format!("level-{level}"), &[&upstream], "")?);
    }
    let other = cluster.voters()[(leader + 1) % 3].address.clone();
    let beside = cluster.replica("beside", &[&other], "")?;
    let index = write(&client, put(1)?).await?;
    for node in chain.iter().chain([&beside]) {
        node.reach(index, FOLLOW_MAX).await?;
    }
    let mut watched: Vec<(String, &Node)> =
        chain.iter().enumerate().map(|(n, node)| (format!("{} below the leader", n + 1), node)).collect();
    watched.push(("1 below a follower".to_owned(), &beside));
    let disk = folder.join("disk");
    let mut rows = vec![tokio::task::spawn_blocking(move || disk_alone(&disk)).await??];
    rows.extend(round(plan, &cluster, &client, &watched, 1).await?);
    let helper = Helper::start()?;
    // The leader feeds the first level already, and each level the next; the last feeds none of its own.
    for (n, node) in [&cluster.voters()[leader]].into_iter().chain(&chain[..LEVELS - 1]).enumerate() {
        helper.ask(opening(&cluster, &folder, &format!("more-{n}"), &[&node.address], DOWNSTREAMS - 1, None)?).await?;
    }
    let index = write(&client, put(2)?).await?;
    helper.ask(json!({ "do": "reach", "index": index, "ms": FOLLOW_MAX.as_millis() as u64 })).await?;
    watched.truncate(LEVELS);
    rows.extend(round(plan, &cluster, &client, &watched, DOWNSTREAMS).await?);
    Ok(rows)
}

/// What a put cannot do without: an append and its sync, by one process that nobody else makes wait.
fn disk_alone(path: &Path) -> Fallible<Value> {
    let (mut file, mut times, cpu) = (File::create(path)?, histogram(), thread_ns());
    for _ in 0..SYNCS {
        let asked = now_ns();
        file.write_all(&[0x5a; VALUE_BYTES])?;
        file.sync_data()?;
        times.saturating_record(now_ns() - asked);
        std::thread::sleep(SYNC_PAUSE);
    }
    let what =
        json!({ "system": "disk alone", "what": "an append and its sync", "clients": 1, "value_bytes": VALUE_BYTES });
    let cpu = (thread_ns() - cpu) as f64 / 1e3 / f64::from(SYNCS);
    Ok(row(&what, &times, &json!({ "cpu_us_per_op": hundredths(cpu) })))
}

/// A put whose value begins with this moment.
pub fn put(n: u64) -> Fallible<Vec<Op>> {
    let key = Key::new(format!("{PREFIX}{:04}", n % 10_000).into_bytes())?;
    Ok(vec![Op::Put { key, value: stamped(VALUE_BYTES) }])
}

/// Watches some nodes while puts are made.
async fn round(
    plan: &Plan,
    cluster: &Cluster,
    client: &Client,
    watched: &[(String, &Node)],
    downstreams: usize,
) -> Fallible<Vec<Value>> {
    let mut watches = Vec::new();
    for (_, node) in watched {
        watches.push(Watch::open(&node.client()?).await?);
    }
    paced(slice::from_ref(client), RATE, WARM_UP, put).await?;
    for watch in &watches {
        watch.times.lock().await.reset();
    }
    let mut pids = cluster.pids().await?;
    pids.extend(watched.iter().map(|(_, node)| node.process.id()));
    let usage = Usage::begin(&pids);
    let puts = paced(slice::from_ref(client), RATE, plan.length * 2, put).await?;
    for (_, node) in watched {
        node.reach(puts.index, FOLLOW_MAX).await?;
    }
    let used = usage.end();
    // What is applied may still be on its way to a watch.
    sleep(Duration::from_millis(200)).await;
    let per_put = |seconds: f64| json!({ "cpu_us_per_op": hundredths(seconds * 1e6 / puts.times.len() as f64) });
    let what = |text: &str| {
        json!({ "system": "cinnabar", "what": text, "downstreams": downstreams, "clients": 1, "value_bytes": VALUE_BYTES,
            "per_second": RATE })
    };
    let mut rows = vec![row(&what("the put's own answer"), &puts.times, &per_put(used.servers[..3].iter().sum()))];
    for (n, ((name, _), watch)) in watched.iter().zip(&watches).enumerate() {
        let times = watch.times.lock().await.clone();
        if times.len() < puts.times.len() {
            return Err(format!("{name}: {} of {} puts were seen", times.len(), puts.times.len()).into());
        }
        let mut row = row(&what(name), &times, &per_put(used.servers[3 + n]));
        if name.starts_with('1') {
            require(&mut row, "p50_us", ONE_LEVEL_US_MAX);
        } else if name.starts_with('3') {
            require(&mut row, "p50_us", THREE_LEVELS_US_MAX);
        }
        plan.progress(&format!(
            "propagation, {name}, {downstreams} downstreams: p50 {} us, p99 {} us",
            row["p50_us"], row["p99_us"]
        ));
        rows.push(row);
    }
    Ok(rows)
}

/// An open watch that notes how old each value is when it is told.
pub struct Watch {
    /// Nanoseconds.
    pub times: Arc<Mutex<Histogram<u64>>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Watches what [`put`] puts, from now on.
    pub async fn open(client: &Client) -> Fallible<Self> {
        let request = WatchRequest { prefix: PREFIX.as_bytes().into(), after_index: 0, from_now: true };
        let mut changes = client.watch(request).await?;
        let times = Arc::new(Mutex::new(histogram()));
        let noted = times.clone();
        let task = tokio::spawn(async move {
            while let Ok(Some(response)) = changes.message().await {
                if let Some(Message::Changes(changes)) = response.message {
                    let ages: Vec<u64> = changes.events.iter().filter_map(|event| age(&event.value)).collect();
                    let mut times = noted.lock().await;
                    ages.into_iter().for_each(|age| times.saturating_record(age));
                }
            }
        });
        Ok(Self { times, task })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
