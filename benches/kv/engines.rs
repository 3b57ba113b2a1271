//! Stores alone, without ours around them: sled, which is under ours, and redb beside it.
//!
//! What they are asked is what ours asks of its engine: batches that become durable once a second, reads by key. sled is
//! reached through the same few lines as in a node, redb through as many.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cinnabar_kv::store::{Engine as _, SledEngine};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Fallible;
use crate::data::{VALUE_BYTES, is_value, key, live_bytes, value};
use crate::load::{histogram, scatter};
use crate::machine::{disk_mib, thread_ns};
use crate::report::{hundredths, row};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
/// Records of one batch while loading: as many as a node's flusher moves at once.
const BATCH: u64 = 400;
/// Time between two moments at which what was written becomes durable.
const DURABLE_EVERY: Duration = Duration::from_secs(1);

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sled,
    Redb,
}

impl Kind {
    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled alone",
            Self::Redb => "redb alone",
        }
    }
}

enum Store {
    Sled(SledEngine),
    Redb(Database),
}

impl Store {
    fn open(kind: Kind, folder: &Path, cache_bytes: u64) -> Fallible<Self> {
        std::fs::create_dir_all(folder)?;
        match kind {
            Kind::Sled => Ok(Self::Sled(SledEngine::open(folder, cache_bytes)?)),
            Kind::Redb => {
                let db =
                    Database::builder().set_cache_size(usize::try_from(cache_bytes)?).create(folder.join("redb"))?;
                let begin = db.begin_write()?;
                begin.open_table(TABLE)?;
                begin.commit()?;
                Ok(Self::Redb(db))
            }
        }
    }

    fn read(&self, key: &[u8]) -> Fallible<Option<Vec<u8>>> {
        match self {
            Self::Sled(engine) => Ok(engine.get(key)?.map(Vec::from)),
            Self::Redb(db) => Ok(db.begin_read()?.open_table(TABLE)?.get(key)?.map(|found| found.value().to_vec())),
        }
    }

    fn write(&self, records: Range<u64>, generation: u64, durable: bool) -> Fallible<()> {
        match self {
            Self::Sled(engine) => {
                engine.commit(records.map(|n| (key(n).into_bytes(), Some(value(n, generation)))).collect())?;
                if durable {
                    engine.make_durable()?;
                }
            }
            Self::Redb(db) => {
                let mut begun = db.begin_write()?;
                begun.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
                {
                    let mut table = begun.open_table(TABLE)?;
                    for n in records {
                        table.insert(key(n).as_bytes(), value(n, generation).as_slice())?;
                    }
                }
                begun.commit()?;
            }
        }
        Ok(())
    }

    /// Writes every key once, in the order of a node's writes: none in particular.
    fn load(&self, keys: u64, generation: u64) -> Fallible<f64> {
        let (start, mut durable_at) = (Instant::now(), Instant::now());
        let batches = keys.div_ceil(BATCH);
        for n in 0..batches {
            let durable = durable_at.elapsed() > DURABLE_EVERY || n + 1 == batches;
            self.write(n * BATCH..((n + 1) * BATCH).min(keys), generation, durable)?;
            if durable {
                durable_at = Instant::now();
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Commits single records at a steady rate until told to stop.
    fn write_steadily(&self, keys: u64, per_second: u32, stop: &AtomicBool) -> Fallible<u64> {
        let (start, mut durable_at, mut n) = (Instant::now(), Instant::now(), 0);
        while !stop.load(Ordering::Relaxed) {
            let due = start + Duration::from_secs(1) * u32::try_from(n)? / per_second;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let durable = durable_at.elapsed() > DURABLE_EVERY;
            let record = scatter(n) % keys;
            self.write(record..record + 1, 2, durable)?;
            if durable {
                durable_at = Instant::now();
            }
            n += 1;
        }
        Ok(n)
    }

    /// Reads random keys, others for each seed, one after the other.
    fn read_for(&self, keys: u64, seed: u64, length: Duration, what: &Value) -> Fallible<Value> {
        let (mut times, mut n) = (histogram(), 0u64);
        let (start, cpu) = (Instant::now(), thread_ns());
        while start.elapsed() < length {
            let record = scatter((seed << 40) + n) % keys;
            let key = key(record);
            let asked = Instant::now();
            let found = self.read(key.as_bytes())?;
            times.saturating_record(u64::try_from(asked.elapsed().as_nanos())?);
            if !found.is_some_and(|bytes| is_value(record, &bytes)) {
                return Err(format!("{key} has another value than was put").into());
            }
            n += 1;
        }
        let cpu = (thread_ns() - cpu) as f64 / 1e3 / n as f64;
        Ok(row(what, &times, &json!({ "cpu_us_per_op": hundredths(cpu) })))
    }
}

/// Rows of one store for the part `reads`, and for `restart` and `disk`.
pub struct Rows {
    pub reads: Vec<Value>,
    /// Of the run whose records are overwritten.
    pub rest: Option<(Value, Value)>,
}

/// What is measured.
pub struct Plan {
    pub kind: Kind,
    pub folder: PathBuf,
    pub keys: u64,
    pub cache_bytes: u64,
    /// Of each run of reads.
    pub length: Duration,
    /// Beside the reads, a second.
    pub writes: u32,
    /// Times that everything is written again.
    pub overwrites: u64,
}

/// Loads a store, reads it with nothing else and beside writes, opens it again, and overwrites it.
pub fn measure(plan: &Plan) -> Fallible<Rows> {
    let Plan { kind, keys, cache_bytes, length, writes: per_second, overwrites, .. } = *plan;
    let folder = plan.folder.as_path();
    let what = |load: &str| {
        json!({ "system": kind.name(), "load": load, "keys": keys, "cache_mib": cache_bytes >> 20, "clients": 1,
            "value_bytes": VALUE_BYTES })
    };
    let store = Store::open(kind, folder, cache_bytes)?;
    let loaded = store.load(keys, 0)?;
    // Every key once: what fits its cache is there.
    for n in 0..keys {
        store.read(key(n).as_bytes())?;
    }
    let mut reads = vec![store.read_for(keys, 1, length, &what("none"))?];
    let stop = AtomicBool::new(false);
    let (beside, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| store.write_steadily(keys, per_second, &stop));
        let beside = store.read_for(keys, 2, length, &what(&format!("{per_second} writes/s")));
        stop.store(true, Ordering::Relaxed);
        (beside, writer.join())
    });
    let mut beside = beside?;
    let written = written.map_err(|_| "the writer ended")??;
    beside["writes_per_second"] = (written as f64 / length.as_secs_f64()).round().into();
    reads.push(beside);
    drop(store);
    let start = Instant::now();
    let store = Store::open(kind, folder, cache_bytes)?;
    store.read(key(0).as_bytes())?.ok_or("nothing is there after a restart")?;
    let restart = json!({ "system": kind.name(), "what": "open and read one", "keys": keys,
        "value_bytes": VALUE_BYTES, "seconds": hundredths(start.elapsed().as_secs_f64()) });
    if overwrites == 0 {
        return Ok(Rows { reads, rest: None });
    }
    for generation in 1..=overwrites {
        store.load(keys, generation)?;
    }
    let (live, on_disk) = (live_bytes(keys) as f64 / f64::from(1 << 20), disk_mib(folder));
    let disk = json!({ "system": kind.name(), "what": format!("after {overwrites} overwrites"), "keys": keys,
        "value_bytes": VALUE_BYTES, "live_mib": live.round(), "disk_mib": on_disk,
        "disk_over_live": hundredths(on_disk / live), "load_seconds": hundredths(loaded) });
    Ok(Rows { reads, rest: Some((restart, disk)) })
}
