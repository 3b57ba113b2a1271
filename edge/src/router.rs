//! Has other machines sign: the nearest data centre that holds the key first, up to three within one deadline.
//!
//! The road: [`Router::sign`] runs in its caller's task; [`candidates`] say whom to ask, [`pool`] has the connections,
//! [`latency`] the distances, a [`breaker`] for each machine leaves alone who fails. [`Router::run`] probes. Law: no queue
//! has a slow remote request before anything; a request is passed on once and never by a peer; what cannot differ
//! elsewhere is not asked again elsewhere.

pub mod breaker;
pub mod candidates;
pub mod latency;
pub mod pool;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cinnabar_authority_api::{DataCenterId, MachineId};
use cinnabar_daemon::{Env, Shutdown, Tls};
use cinnabar_edge_api::proto::Signature;
use cinnabar_edge_api::refusal::{Attempt, RefusalCode};
use cinnabar_edge_api::{Refusal, SignRequest};
use tokio::time::Instant;

pub use self::candidates::Ranked;
use self::latency::Latency;
use self::pool::{Pool, Probed, Target};
use crate::directory::Holders;
use crate::limits::{ATTEMPT_TIMEOUT, PROBE_EVERY, ROUTE_ATTEMPTS_MAX, ROUTE_DEADLINE};
use crate::server::sign::micros;
use crate::signer::SignMetrics;
use crate::signer::metrics::SIGNED;

/// Whom there is to ask at all.
pub trait Peers: Send + Sync + 'static {
    /// Every machine with an address that is not revoked, by data centre.
    fn all_peers(&self) -> Arc<Holders>;
}

/// What an operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterConfig {
    /// Longest a request takes, all attempts together.
    pub deadline: Duration,
    /// Longest a single attempt takes.
    pub attempt_timeout: Duration,
    /// Middle of the times between probes.
    pub probe_every: Duration,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self { deadline: ROUTE_DEADLINE, attempt_timeout: ATTEMPT_TIMEOUT, probe_every: PROBE_EVERY }
    }
}

/// How a data centre is, as this node sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Machines that are connected.
    pub connected: usize,
    /// Of those, how many take requests.
    pub healthy: usize,
}

/// See the module.
pub struct Router {
    config: RouterConfig,
    me: MachineId,
    data_center: DataCenterId,
    env: Env,
    peers: Arc<dyn Peers>,
    pool: Pool,
    latency: Latency,
    random: AtomicU64,
    metrics: SignMetrics,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Router {
    /// A router of the machine `me` in `data_center`; [`Router::run`] makes it measure.
    pub fn new(
        config: RouterConfig,
        (me, data_center): (MachineId, DataCenterId),
        tls: Arc<Tls>,
        env: Env,
        peers: Arc<dyn Peers>,
        metrics: SignMetrics,
    ) -> Arc<Self> {
        let mut seed = [0; 8];
        // Draws need no secrecy: without random bytes all routers begin alike, and no more.
        let _ = env.rng.fill(&mut seed);
        let pool = Pool::new(tls, env.net.clone(), me.clone(), metrics.clone());
        let random = AtomicU64::new(u64::from_le_bytes(seed));
        Arc::new(Self { config, me, data_center, env, peers, pool, latency: Latency::default(), random, metrics })
    }

    /// The data centres that hold a key in the order in which they are asked.
    pub fn order(&self, holders: &Holders) -> Vec<Ranked> {
        let now = self.env.clock.now();
        candidates::order(holders, &self.me, &self.data_center, &self.pool, &self.latency, now)
    }

    /// Round trips to other data centres by probes, in microseconds, at least 1.
    pub fn round_trips(&self) -> BTreeMap<DataCenterId, u32> {
        let peers = self.peers.all_peers();
        let others = peers.data_centers.keys().filter(|data_center| **data_center != self.data_center);
        let measured = |name: &DataCenterId| Some((name.clone(), micros(self.latency.round_trip(name)?).max(1)));
        others.filter_map(measured).collect()
    }

    /// How a data centre is.
    pub fn health(&self, data_center: &DataCenterId) -> Health {
        let now = self.env.clock.now();
        let mut health = Health::default();
        for target in self.pool.all().iter().filter(|target| target.data_center == *data_center) {
            health.connected += 1;
            health.healthy += usize::from(target.is_usable(now));
        }
        health
    }

    /// Has another machine sign, until `deadline` or the configured one.
    ///
    /// # Errors
    /// `NO_HOLDER` or `DEADLINE` with what was tried; what a peer refused and no other could answer otherwise.
    pub async fn sign(
        &self,
        request: &SignRequest,
        holders: &Holders,
        deadline: Instant,
    ) -> Result<Signature, Refusal> {
        let deadline = deadline.min(self.env.clock.now() + self.config.deadline);
        let order = self.order(holders);
        let (mut asked, mut tried) = (Vec::with_capacity(ROUTE_ATTEMPTS_MAX), Vec::new());
        for turn in 0..ROUTE_ATTEMPTS_MAX {
            let now = self.env.clock.now();
            let left = deadline.saturating_duration_since(now);
            let Some(target) = self.next(&order, holders, turn, &asked).filter(|_| !left.is_zero()) else { break };
            asked.push(target.machine.clone());
            let (answer, took) = self.attempt(&target, request, left).await;
            match answer {
                Ok(signature) => {
                    let (machine, data_center) = (target.machine.to_string(), target.data_center.to_string());
                    return Ok(Signature { machine, data_center, remote: true, ..signature });
                }
                Err(refusal) => {
                    let goes_on = another_may_differ(refusal.code);
                    tried.push(Attempt {
                        machine: target.machine.to_string(),
                        data_center: target.data_center.to_string(),
                        code: refusal.code.into(),
                        message: refusal.message.clone(),
                        elapsed_us: micros(took),
                    });
                    if !goes_on {
                        return Err(Refusal { tried, ..refusal });
                    }
                }
            }
        }
        let late = self.env.clock.now() >= deadline;
        let (code, message) = match (tried.is_empty(), late) {
            (_, true) => (RefusalCode::Deadline, "no machine that holds the key answered in time"),
            (true, false) => (RefusalCode::NoHolder, "no machine that holds the key is known here"),
            (false, false) => (RefusalCode::NoHolder, "no machine that holds the key signed"),
        };
        Err(Refusal { code, message: message.to_owned(), tried })
    }

    /// The machine to ask: one of the next data centre; after the last of them, others of the first ones.
    fn next(&self, order: &[Ranked], holders: &Holders, turn: usize, asked: &[MachineId]) -> Option<Arc<Target>> {
        let now = self.env.clock.now();
        let turns = (0..order.len()).map(|n| &order[(turn + n) % order.len()].data_center);
        let mut found =
            turns.map(|name| candidates::pick(holders, name, &self.me, asked, &self.pool, (self.draw(), now)));
        found.find_map(|target| target)
    }

    async fn attempt(
        &self,
        target: &Target,
        request: &SignRequest,
        left: Duration,
    ) -> (Result<Signature, Refusal>, Duration) {
        let timeout = left.min(self.config.attempt_timeout);
        // What comes back later than our patience is of no use: the peer is told, less the way there.
        let way = self.latency.round_trip(&target.data_center).unwrap_or_default() / 2;
        let budget = timeout.saturating_sub(way).max(Duration::from_millis(1));
        let traceparent = self.next_span(&request.traceparent);
        let request = SignRequest { budget, traceparent, ..request.clone() };
        let attempted = target.attempt(request, timeout, &*self.env.clock).await;
        let result = attempted.answer.as_ref().map_or_else(|refusal| refusal.word(), |_| SIGNED);
        self.metrics.attempt(result);
        let code = attempted.answer.as_ref().err().map(|refusal| refusal.code);
        // How long a machine that is gone took to say so is no distance.
        if matches!(code, None | Some(RefusalCode::Deadline)) {
            self.latency.requested(&target.data_center, attempted.took, self.env.clock.now());
        }
        if code == Some(RefusalCode::NotPermitted) {
            tracing::warn!(peer = %target.machine, "a machine that should hold a key says that it may not sign");
        }
        if attempted.ejected {
            self.metrics.ejections.increment(1);
            tracing::warn!(peer = %target.machine, data_center = %target.data_center, result, "a peer is left alone");
        }
        (attempted.answer, attempted.took)
    }

    /// Keeps connections, and measures them, until shutdown.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            self.refresh();
            for target in self.pool.all() {
                // Each in a task of its own: one that does not answer delays no other.
                tokio::spawn(self.clone().probe(target));
            }
            let share = f64::from(u32::try_from(self.draw() >> 32).unwrap_or(0)) / f64::from(u32::MAX);
            let pause = self.config.probe_every.mul_f64(0.75 + 0.5 * share);
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Follows the directory: connects whom it has, drops whom it has no longer.
    fn refresh(&self) {
        let peers = self.peers.all_peers();
        self.pool.refresh(&peers, self.env.clock.now());
        self.latency.retain(|data_center| peers.data_centers.contains_key(data_center));
    }

    async fn probe(self: Arc<Self>, target: Arc<Target>) {
        let expected = self.latency.round_trip(&target.data_center);
        match target.probe(expected, &*self.env.clock).await {
            Probed::Answered(took) => {
                self.metrics.probes_answered.increment(1);
                self.latency.probed(&target.data_center, took, self.env.clock.now());
            }
            Probed::Failed => self.metrics.probes_failed.increment(1),
            Probed::UnderWay => {}
        }
    }

    /// Even, and not secret: SplitMix64.
    fn draw(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The same trace with a span of our own: W3C Trace Context section 3.2.2.4.
    fn next_span(&self, traceparent: &str) -> String {
        match (traceparent.get(..36), traceparent.get(52..)) {
            // An id of zeros is none.
            (Some(trace), Some(flags)) => format!("{trace}{:016x}{flags}", self.draw().max(1)),
            _ => String::new(),
        }
    }
}

/// Could another machine answer otherwise?
const fn another_may_differ(code: RefusalCode) -> bool {
    match code {
        RefusalCode::NoHolder
        | RefusalCode::Deadline
        | RefusalCode::Overloaded
        | RefusalCode::UnknownCertificate
        | RefusalCode::Stale
        | RefusalCode::NotPermitted => true,
        RefusalCode::Unspecified | RefusalCode::BadScheme | RefusalCode::Malformed | RefusalCode::Internal => false,
    }
}
