//! The ordered list of upstreams: which one is followed, how far away and how far behind each is.

use std::time::Duration;

use cinnabar_daemon::Env;
use cinnabar_kv_api::proto;
use cinnabar_kv_api::proto::kv_client::KvClient;
use parking_lot::Mutex;
use tonic::transport::Channel;

use crate::limits::{UPSTREAM_BEHIND_MS_MAX, UPSTREAMS_MAX};

/// Time between two measurements of each upstream.
pub const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for the answer to one.
const PROBE_WAIT: Duration = Duration::from_secs(2);
/// Measurements in a row that a better upstream must answer before this node goes back to it.
const GOOD_PROBES: u32 = 2;
/// Time for which a new upstream may be behind before that counts, in milliseconds.
const SETTLE_MS: u64 = 5_000;

#[derive(Debug, Clone, Default)]
struct Upstream {
    address: String,
    name: String,
    round_trip_us: u64,
    behind_ms: u64,
    good_probes: u32,
    since_ms: Option<u64>,
    problem: String,
}

#[derive(Debug, Default)]
struct Inner {
    list: Vec<Upstream>,
    current: Option<usize>,
    next: usize,
    failures: usize,
}

/// The list.
#[derive(Debug)]
pub struct Upstreams(Mutex<Inner>);

impl Upstreams {
    /// In the order of preference; at most [`UPSTREAMS_MAX`].
    pub fn new(addresses: Vec<String>) -> Self {
        let upstream = |address| Upstream { address, ..Upstream::default() };
        let list = addresses.into_iter().take(UPSTREAMS_MAX).map(upstream).collect();
        Self(Mutex::new(Inner { list, ..Inner::default() }))
    }

    /// The addresses.
    pub fn addresses(&self) -> Vec<String> {
        self.0.lock().list.iter().map(|upstream| upstream.address.clone()).collect()
    }

    /// The next one to try.
    pub fn choose(&self) -> (usize, String) {
        let inner = self.0.lock();
        let n = inner.next % inner.list.len().max(1);
        (n, inner.list.get(n).map(|upstream| upstream.address.clone()).unwrap_or_default())
    }

    /// This one is followed.
    pub fn following(&self, n: usize) {
        let mut inner = self.0.lock();
        inner.current = Some(n);
        inner.failures = 0;
        inner.list[n].since_ms = None;
        inner.list[n].problem.clear();
    }

    /// This one was left; the next in the list comes, or the first when a better one was found.
    pub fn left(&self, n: usize, problem: String) {
        let mut inner = self.0.lock();
        inner.current = None;
        inner.failures += 1;
        let better = inner.list[..n].iter().position(Upstream::is_good);
        inner.next = better.unwrap_or((n + 1) % inner.list.len());
        inner.list[n].good_probes = 0;
        inner.list[n].problem = problem;
    }

    /// Has every one been tried since one was followed?
    pub fn tried_all(&self) -> bool {
        let mut inner = self.0.lock();
        let all = inner.failures >= inner.list.len();
        if all {
            inner.failures = 0;
        }
        all
    }

    /// Is there another one?
    pub fn has_other(&self, n: usize) -> bool {
        let inner = self.0.lock();
        inner.list.len() > 1 && n < inner.list.len()
    }

    /// Takes note of how far behind the followed one is; says whether it has had time to settle.
    pub fn note(&self, n: usize, now_ms: u64, behind_ms: u64) -> bool {
        let mut inner = self.0.lock();
        let upstream = &mut inner.list[n];
        upstream.behind_ms = behind_ms;
        now_ms.saturating_sub(*upstream.since_ms.get_or_insert(now_ms)) >= SETTLE_MS
    }

    /// The name that the followed one goes by.
    pub fn named(&self, n: usize, name: String) {
        self.0.lock().list[n].name = name;
    }

    /// Does one that comes before this one answer well again?
    pub fn better_than(&self, n: usize) -> bool {
        self.0.lock().list[..n].iter().any(Upstream::is_good)
    }

    /// Name of the followed one.
    pub fn current_name(&self) -> Option<String> {
        let inner = self.0.lock();
        let upstream = &inner.list[inner.current?];
        Some(if upstream.name.is_empty() { upstream.address.clone() } else { upstream.name.clone() })
    }

    /// Measures one.
    pub async fn probe(&self, n: usize, mut client: KvClient<Channel>, env: &Env) {
        let started = env.clock.now();
        let answer = tokio::time::timeout(PROBE_WAIT, client.status(proto::StatusRequest {})).await;
        let took = env.clock.now().duration_since(started);
        let mut inner = self.0.lock();
        let current = inner.current;
        let upstream = &mut inner.list[n];
        match answer {
            Ok(Ok(status)) => {
                upstream.round_trip_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                upstream.behind_ms = status.into_inner().behind_ms;
                upstream.good_probes = upstream.good_probes.saturating_add(1);
                if upstream.behind_ms > UPSTREAM_BEHIND_MS_MAX {
                    upstream.good_probes = 0;
                }
            }
            Ok(Err(status)) => upstream.fail(status.message().to_owned(), current == Some(n)),
            Err(_) => upstream.fail(format!("no answer within {} ms", PROBE_WAIT.as_millis()), current == Some(n)),
        }
    }

    /// All of them, for status.
    pub fn describe(&self) -> Vec<proto::Upstream> {
        let inner = self.0.lock();
        let describe = |(n, upstream): (usize, &Upstream)| proto::Upstream {
            address: upstream.address.clone(),
            current: inner.current == Some(n),
            round_trip_us: upstream.round_trip_us,
            behind_ms: upstream.behind_ms,
            problem: upstream.problem.clone(),
        };
        inner.list.iter().enumerate().map(describe).collect()
    }
}

impl Upstream {
    fn is_good(&self) -> bool {
        self.good_probes >= GOOD_PROBES
    }

    fn fail(&mut self, problem: String, followed: bool) {
        self.good_probes = 0;
        if !followed {
            self.problem = problem;
        }
    }
}
