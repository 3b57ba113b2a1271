//! The records that the parts read and write, and how they get into a cluster: in full batches, or at a steady rate.
//!
//! A value begins with a mark that belongs to its key, so that a read can be seen to give what was put there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cinnabar_kv_api::{Client, Key, Op, WriteOutcome};
use hdrhistogram::Histogram;
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Fallible;
use crate::cinnabar::Cluster;
use crate::load::{histogram, scatter};
use crate::machine::now_ns;

/// Where the keys lie: a client whose role is operator writes there.
pub const PREFIX: &str = "operator/bench/";
/// Bytes of a key.
pub const KEY_BYTES: usize = PREFIX.len() + 8;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 256;
/// Records of one batch, under the most operations that a write may have.
const BATCH: u64 = 250;
/// Batches under way at once.
pub const LOADERS: usize = 8;

/// A key by its number.
pub fn key(n: u64) -> String {
    format!("{PREFIX}{n:08}")
}

/// Its value; each generation has another.
pub fn value(n: u64, generation: u64) -> Vec<u8> {
    let words = (2..VALUE_BYTES as u64 / 8).map(|word| scatter(n ^ (word << 40) ^ (generation << 50)));
    [scatter(n), generation].into_iter().chain(words).flat_map(u64::to_le_bytes).collect()
}

/// Is this what was put under the key, of whatever generation?
pub fn is_value(n: u64, bytes: &[u8]) -> bool {
    bytes.len() == VALUE_BYTES && bytes[..8] == scatter(n).to_le_bytes()
}

/// Bytes of this many records' keys and values.
pub fn live_bytes(keys: u64) -> u64 {
    keys * (KEY_BYTES + VALUE_BYTES) as u64
}

/// A put of one record.
pub fn put(n: u64, value: Vec<u8>) -> Fallible<Op> {
    Ok(Op::Put { key: Key::new(key(n).into_bytes())?, value: value.into() })
}

/// Writes, and insists on it; gives the log index.
pub async fn write(client: &Client, ops: Vec<Op>) -> Fallible<u64> {
    match client.write(Vec::new(), ops).await? {
        WriteOutcome::Written { index } => Ok(index),
        WriteOutcome::Unmet { .. } => Err("a write without conditions was not done".into()),
    }
}

/// What writing came to.
pub struct Written {
    /// Nanoseconds from each write's start to its answer.
    pub times: Histogram<u64>,
    /// Highest log index.
    pub index: u64,
    /// From the first write to the last answer.
    pub seconds: f64,
}

/// Writes every key once, in batches, at the leader.
pub async fn load(cluster: &Cluster, keys: u64, generation: u64) -> Fallible<Written> {
    let address = cluster.voters()[cluster.leader().await?].address.clone();
    let (next, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut loaders = Vec::new();
    for _ in 0..LOADERS {
        let (client, next) = (cluster.client(&address)?, next.clone());
        loaders.push(tokio::spawn(async move {
            let (mut times, mut index) = (histogram(), 0);
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= keys {
                    return Fallible::Ok((times, index));
                }
                let records = first..(first + BATCH).min(keys);
                let ops = records.map(|n| put(n, value(n, generation))).collect::<Fallible<Vec<_>>>()?;
                let asked = now_ns();
                index = write(&client, ops).await?.max(index);
                times.saturating_record(now_ns() - asked);
            }
        }));
    }
    let mut all = Written { times: histogram(), index: 0, seconds: 0.0 };
    for loader in loaders {
        let (times, index) = loader.await??;
        all.times.add(&times)?;
        all.index = all.index.max(index);
    }
    all.seconds = start.elapsed().as_secs_f64();
    Ok(all)
}

/// Writes at a steady rate, whether or not earlier ones are answered: the n-th write is what `ops` gives for n.
pub async fn paced(
    clients: &[Client],
    per_second: u32,
    length: Duration,
    ops: impl Fn(u64) -> Fallible<Vec<Op>>,
) -> Fallible<Written> {
    let all = Arc::new(Mutex::new(Written { times: histogram(), index: 0, seconds: 0.0 }));
    let mut tick = interval(Duration::from_secs(1) / per_second);
    // What the machine could not send in time is sent at once: the rate holds.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (start, mut writes) = (Instant::now(), tokio::task::JoinSet::new());
    let mut n = 0;
    while start.elapsed() < length {
        tick.tick().await;
        let (ops, all) = (ops(n)?, all.clone());
        let client = clients[usize::try_from(n)? % clients.len()].clone();
        n += 1;
        writes.spawn(async move {
            let asked = now_ns();
            let index = write(&client, ops).await?;
            let took = now_ns() - asked;
            let mut all = all.lock().await;
            all.times.saturating_record(took);
            all.index = all.index.max(index);
            Fallible::Ok(())
        });
        while let Some(done) = writes.try_join_next() {
            done??;
        }
    }
    while let Some(done) = writes.join_next().await {
        done??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut all = all.lock().await;
    Ok(Written { times: all.times.clone(), index: std::mem::take(&mut all.index), seconds })
}

/// A value that begins with a moment, for whoever sees it appear.
pub fn stamped(bytes: usize) -> Bytes {
    let mut value = vec![0x5a; bytes];
    value[..8].copy_from_slice(&now_ns().to_le_bytes());
    value.into()
}

/// Nanoseconds since the moment in such a value.
pub fn age(value: &[u8]) -> Option<u64> {
    let stamp = value.get(..8)?.try_into().ok()?;
    Some(now_ns().saturating_sub(u64::from_le_bytes(stamp)))
}
