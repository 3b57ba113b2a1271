//! The other end of a [`Helper`](crate::child::Helper): replicas inside this process, as an edge agent has one.
//!
//! They are the store's own [`Replica`]s: each dials its upstream over TLS, verifies every frame's signature and chain,
//! and applies it; only the servers of a node are missing. Questions: `open` starts replicas, `reach` waits until all
//! have applied an entry, `fill` and `reads` read one of them, `begin` and `end` bound a time in which lags are noted, `point`
//! tells where they are, `close` ends them.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cinnabar_daemon::{ClusterId, Env, Shutdown, Tls, TlsFiles};
use cinnabar_kv::changes::After;
use cinnabar_kv::limits::{ENGINE_CACHE_BYTES_DEFAULT, FLUSH_EVERY_MS, LOG_KEEP_BYTES_DEFAULT};
use cinnabar_kv::local::{CheckpointFile, Local, LocalOptions};
use cinnabar_kv::log::Log;
use cinnabar_kv::metrics::Metrics;
use cinnabar_kv::milestones::Milestones;
use cinnabar_kv::node::log_options;
use cinnabar_kv::replica::{Parts, Reader, Replica};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::Fallible;
use crate::data::{VALUE_BYTES, age, is_value, key};
use crate::load::{histogram, scatter};
use crate::machine::{rss_mib, thread_ns};
use crate::report::{hundredths, row};

/// Entries whose changes are read at once.
const ENTRIES_MAX: usize = 4096;

/// What `open` is asked with.
#[derive(serde::Deserialize)]
struct Open {
    tls: [PathBuf; 3],
    folder: PathBuf,
    /// Each replica prefers the one at its own position, counted around.
    upstreams: Vec<String>,
    count: usize,
    in_memory: bool,
    cache_bytes: u64,
}

struct Copy {
    local: Arc<Local>,
    reader: Reader,
}

/// The replicas of this process.
#[derive(Default)]
struct Copies {
    copies: Vec<Copy>,
    shutdown: Shutdown,
    lags: Arc<Mutex<Lags>>,
}

/// Lags that were noted, in nanoseconds.
struct Lags {
    noting: bool,
    times: Histogram<u64>,
}

impl Default for Lags {
    fn default() -> Self {
        Self { noting: false, times: histogram() }
    }
}

/// A state, to compare with another node's.
pub fn state_name(index: u64, hash: &[u8]) -> String {
    hash.iter().fold(format!("{index}:"), |name, byte| format!("{name}{byte:02x}"))
}

/// Answers questions until there are no more.
pub fn serve() -> Fallible<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut copies = Copies::default();
    for line in std::io::stdin().lock().lines() {
        let question: Value = serde_json::from_str(&line?)?;
        let answer = copies.answer(&runtime, &question).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}

impl Copies {
    fn answer(&mut self, runtime: &Runtime, question: &Value) -> Fallible<Value> {
        let number = |field: &str| question[field].as_u64().ok_or(format!("{field} is no number"));
        match question["do"].as_str() {
            Some("open") => runtime.block_on(self.open(serde_json::from_value(question["with"].clone())?))?,
            Some("reach") => {
                for copy in &self.copies {
                    runtime.block_on(copy.local.wait_for(number("index")?, Duration::from_millis(number("ms")?)))?;
                }
            }
            Some("fill") => self.copies[0].fill(number("keys")?)?,
            Some("reads") => {
                let length = Duration::from_millis(number("ms")?);
                return self.copies[0].read_for(number("keys")?, number("seed")?, length, &question["what"]);
            }
            Some("begin") => *self.lags()? = Lags { noting: true, times: histogram() },
            Some("end") => {
                let mut lags = self.lags()?;
                lags.noting = false;
                let counts: Vec<_> =
                    lags.times.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
                return Ok(json!({ "lags": counts }));
            }
            Some("point") => {}
            Some("close") => {
                self.copies.clear();
                runtime.block_on(self.shutdown.drain());
                *self = Self::default();
            }
            _ => return Err("what to do?".into()),
        }
        self.point()
    }

    fn lags(&self) -> Fallible<std::sync::MutexGuard<'_, Lags>> {
        self.lags.lock().map_err(|_| "a replica's task failed".into())
    }

    /// Where the replicas are, and whether they agree.
    fn point(&self) -> Fallible<Value> {
        let points: Vec<_> = self.copies.iter().map(|copy| copy.local.point()).collect();
        let serving = self.copies.iter().filter(|copy| copy.local.check_serving().is_ok()).count();
        let states: BTreeSet<_> =
            points.iter().map(|point| state_name(point.applied.index, &point.state_hash.to_bytes())).collect();
        Ok(json!({
            "serving": serving,
            "applied": points.iter().map(|point| point.applied.index).min(),
            "records": points.iter().map(|point| point.records).min(),
            "states": states,
            "rss_mib": rss_mib(std::process::id()),
        }))
    }

    async fn open(&mut self, open: Open) -> Fallible<()> {
        let [ca, cert, key] = open.tls.clone();
        let env = Env::system();
        let cluster: ClusterId = "bench".parse()?;
        let tls = Tls::load(&TlsFiles { ca, cert, key }, &cluster, env.clock.clone())?;
        for n in 0..open.count {
            let mut upstreams = open.upstreams.clone();
            upstreams.rotate_left(n % open.upstreams.len());
            let folder = open.folder.join(n.to_string());
            let copy = Copy::open(&open, &folder, upstreams, &env, &tls, &self.shutdown)?;
            self.shutdown.spawn(note_lags(copy.local.clone(), self.lags.clone(), self.shutdown.clone()));
            self.copies.push(copy);
        }
        Ok(())
    }
}

impl Copy {
    fn open(
        open: &Open,
        folder: &Path,
        upstreams: Vec<String>,
        env: &Env,
        tls: &Arc<Tls>,
        shutdown: &Shutdown,
    ) -> Fallible<Self> {
        std::fs::create_dir_all(folder)?;
        let metrics = Metrics::new();
        let on_disk = !open.in_memory;
        let local = Local::open(LocalOptions {
            dir: on_disk.then(|| folder.join("state")),
            cache_bytes: open.cache_bytes,
            engine_cache_bytes: ENGINE_CACHE_BYTES_DEFAULT,
        })?;
        let log_dir = folder.join("log");
        let log = Log::open(&log_dir, log_options(&metrics, false))?;
        let milestones = Arc::new(Milestones::open(Some(&log_dir), log.last().index)?);
        let replica = Replica::open(Parts {
            local: local.clone(),
            log,
            milestones,
            fetch_dir: folder.join("fetch"),
            checkpoint_file: CheckpointFile::new(on_disk.then(|| folder.to_owned())),
            follow: None,
            upstreams,
            env: env.clone(),
            tls: tls.clone(),
            metrics,
        })?;
        shutdown.spawn(replica.clone().run(shutdown.clone()));
        if on_disk {
            shutdown.spawn(keep(local.clone(), replica.clone(), shutdown.clone()));
        }
        Ok(Self { local, reader: replica.reader() })
    }

    /// Reads every key, twice: what the cache can hold of them is there then.
    fn fill(&self, keys: u64) -> Fallible<()> {
        for n in (0..keys).chain(0..keys) {
            self.reader.get(key(n).as_bytes())?;
        }
        Ok(())
    }

    /// Reads random keys, one after the other. Every value is looked at. Each seed gives others, or a small cache would
    /// find again what an earlier run left.
    fn read_for(&self, keys: u64, seed: u64, length: Duration, what: &Value) -> Fallible<Value> {
        let (mut times, mut n) = (histogram(), 0u64);
        let missed = self.local.state().cache_misses();
        let (start, cpu) = (Instant::now(), thread_ns());
        while start.elapsed() < length {
            let record = scatter((seed << 40) + n) % keys;
            let key = key(record);
            let asked = Instant::now();
            let read = self.reader.get(key.as_bytes())?;
            times.saturating_record(u64::try_from(asked.elapsed().as_nanos())?);
            if !read.record.is_some_and(|found| is_value(record, &found.value)) {
                return Err(format!("{key} has another value than was put").into());
            }
            n += 1;
        }
        let cpu = (thread_ns() - cpu) as f64 / 1e3 / n as f64;
        let missed = self.local.state().cache_misses() - missed;
        let more = json!({
            "clients": 1,
            "value_bytes": VALUE_BYTES,
            "cpu_us_per_op": hundredths(cpu),
            "hit_ratio": (1e4 * (1.0 - missed as f64 / n as f64)).round() / 1e4,
            "rss_mib": rss_mib(std::process::id()),
        });
        Ok(row(what, &times, &more))
    }
}

/// Keeps a copy on disk and its log short, as a node's process does.
async fn keep(local: Arc<Local>, replica: Arc<Replica>, shutdown: Shutdown) {
    let mut tick = tokio::time::interval(Duration::from_millis(FLUSH_EVERY_MS));
    while !shutdown.is_triggered() {
        tokio::select! {
            () = shutdown.wait() => return,
            _ = tick.tick() => {}
        }
        let (state, kept) = (local.state(), replica.clone());
        let done = tokio::task::spawn_blocking(move || {
            kept.purge(LOG_KEEP_BYTES_DEFAULT);
            state.sync()
        });
        if !matches!(done.await, Ok(Ok(_))) {
            eprintln!("bench-kv: a replica's state cannot be written");
        }
    }
}

/// Notes how old each applied change's value is, by the moment that it begins with.
async fn note_lags(local: Arc<Local>, lags: Arc<Mutex<Lags>>, shutdown: Shutdown) {
    let mut applied = local.watch_applied();
    let mut position = *applied.borrow_and_update();
    loop {
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            _ = applied.changed() => {}
        }
        let reached = *applied.borrow_and_update();
        if let After::Changes { changes, .. } = local.changes().after(position, ENTRIES_MAX)
            && let Ok(mut lags) = lags.lock()
            && lags.noting
        {
            let values = changes.iter().flat_map(|entry| &entry.changes).filter_map(|change| change.value.as_ref());
            values.filter_map(|value| age(value)).for_each(|age| lags.times.saturating_record(age));
        }
        position = reached;
    }
}
