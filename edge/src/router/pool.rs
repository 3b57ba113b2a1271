//! Connections to other machines: some of every data centre kept warm, others made when they are asked for.
//!
//! Law: a connection is made for one machine by name and speaks to no other; one that stalls is left for its sibling;
//! what left the directory is dropped, and the number of machines has a bound.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use cinnabar_authority_api::{DataCenterId, MachineId};
use cinnabar_daemon::{Net, Role, Tls};
use cinnabar_edge_api::client::EdgeClient;
use cinnabar_edge_api::limits::MESSAGE_BYTES_MAX;
use cinnabar_edge_api::proto::peer_client::PeerClient;
use cinnabar_edge_api::proto::{ProbeRequest, Signature};
use cinnabar_edge_api::refusal::RefusalCode;
use cinnabar_edge_api::{Refusal, SignRequest};
use metrics::Histogram;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::breaker::Breaker;
use crate::directory::{Holder, Holders};
use crate::limits::{
    CONNECTIONS_PER_MACHINE, PROBE_FAILURES, PROBE_TIMEOUT, TARGET_IDLE, TARGETS_MAX, WARM_PER_DATA_CENTER,
};
use crate::signer::SignMetrics;

/// One connection with its stream.
struct Connection {
    client: EdgeClient,
    channel: Channel,
    pending: AtomicUsize,
    answered: AtomicU64,
    stalled: AtomicBool,
}

/// A machine that is connected.
pub struct Target {
    /// Which one.
    pub machine: MachineId,
    /// Where.
    pub data_center: DataCenterId,
    address: String,
    connections: [Connection; CONNECTIONS_PER_MACHINE],
    breaker: Mutex<Breaker>,
    probes_failed: AtomicU32,
    signs: AtomicBool,
    probing: AtomicBool,
    used: Mutex<Instant>,
    seconds: Histogram,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({}, {}, {})", self.machine, self.data_center, self.address)
    }
}

/// Counts a request while it is open.
struct Pending<'a>(&'a AtomicUsize);

impl<'a> Pending<'a> {
    fn new(pending: &'a AtomicUsize) -> Self {
        pending.fetch_add(1, Ordering::Relaxed);
        Self(pending)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gives the place of a request that looked back when its caller gives it up.
struct Entered<'a> {
    target: &'a Target,
    looked: bool,
    now: Instant,
    settled: bool,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.target.breaker.lock().abandoned(self.looked, self.now);
        }
    }
}

/// What became of an attempt, and whether the machine is left alone since.
pub struct Attempted {
    /// The answer.
    pub answer: Result<Signature, Refusal>,
    /// How long it took.
    pub took: Duration,
    /// Did it fail once too often?
    pub ejected: bool,
}

impl Target {
    /// Requests that are open.
    pub fn pending(&self) -> usize {
        self.connections.iter().map(|connection| connection.pending.load(Ordering::Relaxed)).sum()
    }

    /// Does it take requests, as far as is known?
    pub fn is_usable(&self, now: Instant) -> bool {
        let reachable = self.probes_failed.load(Ordering::Relaxed) < PROBE_FAILURES;
        reachable && self.signs.load(Ordering::Relaxed) && self.breaker.lock().is_usable(now)
    }

    /// The one that answers and has less to do.
    fn connection(&self) -> &Connection {
        let [first, rest @ ..] = &self.connections;
        let burden = |connection: &Connection| {
            (connection.stalled.load(Ordering::Relaxed), connection.pending.load(Ordering::Relaxed))
        };
        rest.iter().fold(first, |best, other| if burden(other) < burden(best) { other } else { best })
    }

    /// Has the machine sign, for at most `timeout`.
    pub async fn attempt(
        &self,
        request: SignRequest,
        timeout: Duration,
        clock: &dyn cinnabar_daemon::Clock,
    ) -> Attempted {
        let start = clock.now();
        *self.used.lock() = start;
        let looked = self.breaker.lock().enter(start);
        let mut entered = Entered { target: self, looked, now: start, settled: false };
        let connection = self.connection();
        let _pending = Pending::new(&connection.pending);
        let answered = connection.answered.load(Ordering::Relaxed);
        let answer = match tokio::time::timeout(timeout, connection.client.sign(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::new(RefusalCode::Deadline, format!("no answer in {} ms", timeout.as_millis()))),
        };
        let now = clock.now();
        let took = now.saturating_duration_since(start);
        self.seconds.record(took.as_secs_f64());
        // `NO_HOLDER` comes from no machine: there was no connection, or it broke.
        let fault = matches!(
            answer.as_ref().map_err(|refusal| refusal.code),
            Err(RefusalCode::Deadline | RefusalCode::NoHolder | RefusalCode::Internal)
        );
        if !fault {
            connection.answered.fetch_add(1, Ordering::Relaxed);
            connection.stalled.store(false, Ordering::Relaxed);
        } else if connection.answered.load(Ordering::Relaxed) == answered {
            connection.stalled.store(true, Ordering::Relaxed);
        }
        entered.settled = true;
        let mut breaker = self.breaker.lock();
        let ejected = fault && breaker.failed(looked, now);
        if !fault {
            breaker.succeeded();
        }
        Attempted { answer, took, ejected }
    }

    /// Measures every connection and opens its stream; the shortest round trip, none when nothing answered or a probe is
    /// under way already. `expected` is what is known: a time far above it is measured again, since it may hold the
    /// handshake of a new connection.
    pub async fn probe(&self, expected: Option<Duration>, clock: &dyn cinnabar_daemon::Clock) -> Probed {
        if self.probing.swap(true, Ordering::AcqRel) {
            return Probed::UnderWay;
        }
        let probes = self.connections.iter().map(|connection| connection.probe(expected, clock));
        let answers = futures::future::join_all(probes).await;
        self.probing.store(false, Ordering::Release);
        let answered = answers.into_iter().flatten().min_by_key(|(took, _)| *took);
        match answered {
            Some((took, signs)) => {
                self.signs.store(signs, Ordering::Relaxed);
                if self.probes_failed.swap(0, Ordering::Relaxed) >= PROBE_FAILURES {
                    self.breaker.lock().came_back(clock.now());
                }
                Probed::Answered(took)
            }
            None => {
                self.probes_failed.fetch_add(1, Ordering::Relaxed);
                Probed::Failed
            }
        }
    }
}

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// The round trip.
    Answered(Duration),
    /// Nothing answered.
    Failed,
    /// Another is under way.
    UnderWay,
}

impl Connection {
    fn new(channel: Channel) -> Self {
        Self {
            client: EdgeClient::over(channel.clone()),
            channel,
            pending: AtomicUsize::new(0),
            answered: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
        }
    }

    async fn probe(&self, expected: Option<Duration>, clock: &dyn cinnabar_daemon::Clock) -> Option<(Duration, bool)> {
        let (first, signs) = self.once(clock).await?;
        // A stream that nobody opened yet, or that broke, is not the next request's to wait for.
        let _ = tokio::time::timeout(PROBE_TIMEOUT, self.client.open()).await;
        self.stalled.store(false, Ordering::Relaxed);
        let took = match expected {
            Some(expected) if first <= expected * 3 / 2 => first,
            _ => self.once(clock).await.map_or(first, |(second, _)| first.min(second)),
        };
        Some((took, signs))
    }

    async fn once(&self, clock: &dyn cinnabar_daemon::Clock) -> Option<(Duration, bool)> {
        let mut client = PeerClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let start = clock.now();
        let answer = tokio::time::timeout(PROBE_TIMEOUT, client.probe(ProbeRequest {})).await;
        let took = clock.now().saturating_duration_since(start);
        match answer {
            Ok(Ok(answer)) => Some((took, answer.into_inner().signs)),
            Ok(Err(_)) | Err(_) => {
                self.stalled.store(true, Ordering::Relaxed);
                None
            }
        }
    }
}

/// See the module.
pub struct Pool {
    tls: Arc<Tls>,
    net: Arc<dyn Net>,
    me: MachineId,
    metrics: SignMetrics,
    targets: RwLock<HashMap<MachineId, Arc<Target>>>,
}

impl Pool {
    /// Dials with these certificates.
    pub fn new(tls: Arc<Tls>, net: Arc<dyn Net>, me: MachineId, metrics: SignMetrics) -> Self {
        Self { tls, net, me, metrics, targets: RwLock::default() }
    }

    /// A machine, if it is connected.
    pub fn get(&self, holder: &Holder) -> Option<Arc<Target>> {
        let found = self.targets.read().get(&holder.machine).cloned();
        found.filter(|target| target.address == holder.address)
    }

    /// All that are connected.
    pub fn all(&self) -> Vec<Arc<Target>> {
        self.targets.read().values().cloned().collect()
    }

    /// A machine, connected when it was not; none when its name is none, or there are too many.
    pub fn connect(&self, data_center: &DataCenterId, holder: &Holder, now: Instant) -> Option<Arc<Target>> {
        if let Some(found) = self.get(holder) {
            return Some(found);
        }
        let name = holder.machine.as_str().parse().ok()?;
        let channel = || {
            let (name, net) = (Some(Clone::clone(&name)), self.net.clone());
            Connection::new(self.tls.channel(&holder.address, &[Role::Edge], name, net))
        };
        let mut targets = self.targets.write();
        if targets.len() >= TARGETS_MAX && !targets.contains_key(&holder.machine) {
            return None;
        }
        let target = Arc::new(Target {
            machine: holder.machine.clone(),
            data_center: data_center.clone(),
            address: holder.address.clone(),
            connections: std::array::from_fn(|_| channel()),
            breaker: Mutex::default(),
            probes_failed: AtomicU32::new(0),
            signs: AtomicBool::new(true),
            probing: AtomicBool::new(false),
            used: Mutex::new(now),
            seconds: self.metrics.forward(data_center.as_str()),
        });
        targets.insert(holder.machine.clone(), target.clone());
        Some(target)
    }

    /// Drops who left or moved and who was not asked for long, and connects some of every data centre: those that this
    /// machine's name draws, so that not all go to the same ones.
    pub fn refresh(&self, peers: &Holders, now: Instant) {
        let mut warm: BTreeMap<&MachineId, (&DataCenterId, &Holder)> = BTreeMap::new();
        let mut known: HashMap<&MachineId, &str> = HashMap::new();
        for (data_center, machines) in &peers.data_centers {
            known.extend(machines.iter().map(|holder| (&holder.machine, holder.address.as_str())));
            let mut drawn: Vec<&Holder> = machines.iter().filter(|holder| holder.machine != self.me).collect();
            drawn.sort_by_key(|holder| self.draw(&holder.machine));
            let some = drawn.into_iter().take(WARM_PER_DATA_CENTER);
            warm.extend(some.map(|holder| (&holder.machine, (data_center, holder))));
        }
        self.targets.write().retain(|machine, target| {
            let is_there = known.get(machine).is_some_and(|address| *address == target.address);
            let idle = now.saturating_duration_since(*target.used.lock()) >= TARGET_IDLE;
            is_there && (warm.contains_key(machine) || !idle || target.pending() > 0)
        });
        for (data_center, holder) in warm.into_values() {
            self.connect(data_center, holder, now);
        }
    }

    fn draw(&self, machine: &MachineId) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.me.as_str(), machine.as_str()).hash(&mut hasher);
        hasher.finish()
    }
}
