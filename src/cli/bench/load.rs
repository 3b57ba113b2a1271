//! A closed loop: each of a number of clients asks, waits for the answer and asks again, until time is up.
//!
//! Law: an operation counts only with its answer; one that failed is an error, never a fast operation. Also part of
//! `benches/kv`, so that every system that is compared meets the same loop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Digits of a measured time that are kept.
const DIGITS: u8 = 3;
/// Longest time that is told apart from a longer one, in nanoseconds: ten minutes.
const NANOSECONDS_MAX: u64 = 600_000_000_000;

/// An empty histogram of nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, NANOSECONDS_MAX, DIGITS).expect("the bounds are constants")
}

/// Microseconds of a duration at a quantile.
pub fn quantile_us(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1e3
}

/// What a loop did.
pub struct Load {
    /// Nanoseconds of each answered operation.
    pub times: Histogram<u64>,
    /// Operations that failed.
    pub errors: u64,
    /// What the first of them said.
    pub problem: Option<String>,
    /// From the start to the last answer.
    pub seconds: f64,
}

impl Load {
    /// Operations that were answered.
    pub fn operations(&self) -> u64 {
        self.times.len()
    }

    /// Answered operations a second.
    pub fn per_second(&self) -> f64 {
        self.operations() as f64 / self.seconds
    }

    /// The figures, for a report.
    pub fn report(&self) -> Value {
        json!({
            "operations": self.operations(),
            "per_second": self.per_second().round(),
            "p50_us": quantile_us(&self.times, 0.5).round(),
            "p99_us": quantile_us(&self.times, 0.99).round(),
            "p999_us": quantile_us(&self.times, 0.999).round(),
            "errors": self.errors,
        })
    }
}

/// Runs `clients` loops for `length`; `operation` is given the client's number and how many it has done before.
pub async fn closed_loop<F, Answer>(clients: usize, length: Duration, operation: F) -> Load
where
    F: Fn(usize, u64) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Result<(), String>> + Send,
{
    let operation = Arc::new(operation);
    let start = Instant::now();
    let end = start + length;
    let loops: Vec<_> = (0..clients)
        .map(|client| {
            let operation = operation.clone();
            tokio::spawn(async move {
                let mut load = Load { times: histogram(), errors: 0, problem: None, seconds: 0.0 };
                let mut done = 0;
                while Instant::now() < end {
                    let asked = Instant::now();
                    match operation(client, done).await {
                        Ok(()) => load.times.saturating_record(nanoseconds(asked.elapsed())),
                        Err(problem) => {
                            load.errors += 1;
                            load.problem.get_or_insert(problem);
                        }
                    }
                    done += 1;
                }
                load
            })
        })
        .collect();
    let mut all = Load { times: histogram(), errors: 0, problem: None, seconds: 0.0 };
    for one in loops {
        let Ok(load) = one.await else { continue };
        all.times.add(&load.times).expect("all histograms have the same bounds");
        all.errors += load.errors;
        all.problem = all.problem.or(load.problem);
    }
    all.seconds = start.elapsed().as_secs_f64();
    all
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Numbers that look random and are the same in every run (splitmix64; Steele, Lea and Flood, OOPSLA 2014).
pub fn scatter(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A key of `keys` under a prefix, by a client and how many operations it has done.
pub fn random_key(prefix: &str, keys: u64, client: usize, done: u64) -> String {
    format!("{prefix}{:08}", scatter(((client as u64) << 40) ^ done) % keys.max(1))
}

/// A value that does not compress.
pub fn value(bytes: usize) -> bytes::Bytes {
    (0..bytes.div_ceil(8) as u64).flat_map(|n| scatter(n).to_le_bytes()).take(bytes).collect::<Vec<_>>().into()
}
