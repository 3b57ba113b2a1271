//! Signatures in their queues: RSA and elliptic curves apart, what this machine asks before what its peers ask.
//!
//! The road: [`Signer::sign`] checks the deadline; P-256 is signed on the caller's thread (20 us: handing
//! over and back costs a third of that) as long as a core is free of it, a peer's only with half of the cores free; whoever
//! signs a peer's so also signs a few of what waits meanwhile, in its order; everything else waits in a lane for a worker,
//! one for each core and kind. Law: a full lane refuses at once, what is past its deadline or has nobody waiting is dropped
//! unsigned, and no signature by RSA ever runs on the runtime's threads.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cinnabar_daemon::Clock;
use cinnabar_edge_api::refusal::RefusalCode;
use cinnabar_edge_api::{Input, Refusal, Scheme};
use metrics::Histogram;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::key::{KeyError, SigningKey};
use super::metrics::SignMetrics;
use crate::limits::{
    ANSWERS_AT_ONCE, ANSWERS_HELD_ABOVE, EC_BATCH, EC_QUEUE_PER_CORE, RSA_QUEUE_PER_CORE, SIGNER_CORES_MAX,
};

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// This machine's own.
    Local,
    /// A peer's: after every local one.
    Forwarded,
}

/// A signature to be made.
#[derive(Debug)]
pub struct Work {
    /// By which key.
    pub key: Arc<SigningKey>,
    /// How.
    pub scheme: Scheme,
    /// Of what.
    pub input: Input,
    /// When nobody wants it any more.
    pub deadline: Instant,
    /// For whom.
    pub lane: Lane,
}

impl Work {
    fn sign(&self) -> Result<Vec<u8>, Refusal> {
        self.key.sign(self.scheme, &self.input).map_err(|error| match error {
            KeyError::Scheme => Refusal::new(RefusalCode::BadScheme, error.to_string()),
            KeyError::Malformed | KeyError::Library => Refusal::new(RefusalCode::Internal, error.to_string()),
        })
    }

    /// Cheap enough for the thread that asks.
    fn is_cheap(&self) -> bool {
        matches!(*self.key, SigningKey::P256(_))
    }
}

/// See the module. Dropping it ends the workers after what they are doing; what waits is refused.
pub struct Signer {
    clock: Arc<dyn Clock>,
    rsa: Arc<Pool>,
    ec: Arc<Pool>,
    on_the_spot: AtomicUsize,
    cores: usize,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("rsa_waiting", &self.rsa.waiting())
            .field("ec_waiting", &self.ec.waiting())
            .finish()
    }
}

impl Signer {
    /// Starts the workers: one for each core (1 to 64) and kind.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub fn start(cores: usize, clock: Arc<dyn Clock>, metrics: &SignMetrics) -> io::Result<Self> {
        let cores = cores.clamp(1, SIGNER_CORES_MAX);
        let rsa = Pool::new(cores * RSA_QUEUE_PER_CORE, 1, clock.clone(), metrics.rsa_queued.clone());
        let ec = Pool::new(cores * EC_QUEUE_PER_CORE, EC_BATCH, clock.clone(), metrics.ec_queued.clone());
        // Before any thread: should one not start, dropping this ends the others.
        let signer = Self { clock, rsa, ec, on_the_spot: AtomicUsize::new(0), cores };
        for n in 0..cores {
            signer.rsa.start(format!("sign-rsa-{n}"))?;
            signer.ec.start(format!("sign-ec-{n}"))?;
        }
        Ok(signer)
    }

    /// Has a signature made.
    ///
    /// # Errors
    /// `OVERLOADED` when its lane is full, `DEADLINE` when its time passed before a worker came to it, `BAD_SCHEME`,
    /// `INTERNAL`.
    pub async fn sign(&self, work: Work) -> Result<Vec<u8>, Refusal> {
        let now = self.clock.now();
        if now >= work.deadline {
            return Err(late());
        }
        let place = if work.is_cheap() { self.place_on_the_spot(work.lane) } else { None };
        if place.is_some() && work.lane == Lane::Local {
            return work.sign();
        }
        let pool = if work.key.is_rsa() { &self.rsa } else { &self.ec };
        let draining = place.as_ref().map(|_| pool.drain());
        // A peer's goes before nothing that waits.
        if let Some((draining, 0)) = &draining {
            let signature = work.sign();
            draining.sign();
            return signature;
        }
        let (answer, answered) = oneshot::channel();
        pool.push(Job { work, queued: now, answer })?;
        if let Some((draining, _)) = draining {
            draining.sign();
        }
        drop(place);
        answered.await.unwrap_or_else(|_| Err(Refusal::new(RefusalCode::Overloaded, "the signer is stopping")))
    }

    fn place_on_the_spot(&self, lane: Lane) -> Option<Place<'_>> {
        let most = if lane == Lane::Local { self.cores } else { self.cores.div_ceil(2) };
        let place = Place(&self.on_the_spot);
        // Taken before it is looked at; a place that is one too many is given back by its drop.
        (self.on_the_spot.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.rsa.close();
        self.ec.close();
    }
}

struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn late() -> Refusal {
    Refusal::new(RefusalCode::Deadline, "its time passed before it was signed")
}

struct Job {
    work: Work,
    queued: Instant,
    answer: oneshot::Sender<Result<Vec<u8>, Refusal>>,
}

/// A signature on its way.
struct Made {
    answer: Result<Vec<u8>, Refusal>,
    to: oneshot::Sender<Result<Vec<u8>, Refusal>>,
}

impl Made {
    fn send(self) {
        // Nobody may be waiting any more.
        let _ = self.to.send(self.answer);
    }
}

// === impl Pool ===

/// Two lanes and those who work them off.
struct Pool {
    lanes: Mutex<Lanes>,
    more: Condvar,
    lane_max: usize,
    batch: usize,
    clock: Arc<dyn Clock>,
    waited: Histogram,
}

#[derive(Default)]
struct Lanes {
    local: VecDeque<Job>,
    forwarded: VecDeque<Job>,
    idle: usize,
    /// Callers that will look before they go.
    draining: usize,
    closed: bool,
}

/// A caller that signs what waits while it is there.
struct Draining<'a>(&'a Pool);

impl Draining<'_> {
    /// Signs what waits, as much as a worker takes at once; nothing that is costly.
    fn sign(&self) {
        for _ in 0..self.0.batch {
            let Some(job) = self.0.lanes.lock().next_cheap() else { return };
            self.0.make(job).into_iter().for_each(Made::send);
        }
    }
}

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        let mut lanes = self.0.lanes.lock();
        lanes.draining -= 1;
        // Whoever pushed meanwhile relied on us.
        let wake = lanes.idle > 0 && lanes.waiting() > 0;
        drop(lanes);
        if wake {
            self.0.more.notify_one();
        }
    }
}

impl Pool {
    fn new(lane_max: usize, batch: usize, clock: Arc<dyn Clock>, waited: Histogram) -> Arc<Self> {
        Arc::new(Self { lanes: Mutex::default(), more: Condvar::new(), lane_max, batch, clock, waited })
    }

    fn start(self: &Arc<Self>, name: String) -> io::Result<()> {
        let pool = self.clone();
        thread::Builder::new().name(name).spawn(move || pool.work()).map(drop)
    }

    fn waiting(&self) -> usize {
        self.lanes.lock().waiting()
    }

    /// Begins to work beside the workers; says how many wait.
    fn drain(&self) -> (Draining<'_>, usize) {
        let mut lanes = self.lanes.lock();
        lanes.draining += 1;
        (Draining(self), lanes.waiting())
    }

    fn push(&self, job: Job) -> Result<(), Refusal> {
        let mut lanes = self.lanes.lock();
        let lane = match job.work.lane {
            Lane::Local => &mut lanes.local,
            Lane::Forwarded => &mut lanes.forwarded,
        };
        if lane.len() >= self.lane_max {
            return Err(Refusal::new(RefusalCode::Overloaded, format!("{} signatures wait already", self.lane_max)));
        }
        let left_to_callers = job.work.lane == Lane::Forwarded && job.work.is_cheap() && lane.len() < self.batch;
        lane.push_back(job);
        let wake = lanes.idle > 0 && !(left_to_callers && lanes.draining > 0);
        drop(lanes);
        // Whoever is at work looks again before it sleeps: a wake-up costs more than a signature on a curve.
        if wake {
            self.more.notify_one();
        }
        Ok(())
    }

    fn close(&self) {
        let mut lanes = self.lanes.lock();
        lanes.closed = true;
        // Their senders' end is the refusal.
        lanes.local.clear();
        lanes.forwarded.clear();
        drop(lanes);
        self.more.notify_all();
    }

    fn work(&self) {
        let (mut batch, mut made) = (Vec::with_capacity(self.batch), Vec::with_capacity(ANSWERS_AT_ONCE));
        while self.take(&mut batch, made.is_empty()) {
            let nothing = batch.is_empty();
            made.extend(batch.drain(..).filter_map(|job| self.make(job)));
            // Each wake-up of a caller takes this thread's core for a while: where many wait, some are woken together.
            if nothing || made.len() >= ANSWERS_AT_ONCE || self.waiting() < ANSWERS_HELD_ABOVE {
                made.drain(..).for_each(Made::send);
            }
        }
        made.drain(..).for_each(Made::send);
    }

    /// Signs, unless nobody waits or it is too late.
    fn make(&self, job: Job) -> Option<Made> {
        if job.answer.is_closed() {
            return None;
        }
        let now = self.clock.now();
        self.waited.record(now.saturating_duration_since(job.queued).as_secs_f64());
        let answer = if now >= job.work.deadline { Err(late()) } else { job.work.sign() };
        Some(Made { answer, to: job.answer })
    }

    /// Takes some work, none when there is none and `wait` is not set; false at the end.
    fn take(&self, batch: &mut Vec<Job>, wait: bool) -> bool {
        let mut lanes = self.lanes.lock();
        loop {
            if lanes.closed {
                return false;
            }
            while batch.len() < self.batch
                && let Some(job) = lanes.next()
            {
                batch.push(job);
            }
            if !batch.is_empty() || !wait {
                return true;
            }
            lanes.idle += 1;
            self.more.wait(&mut lanes);
            lanes.idle -= 1;
        }
    }
}

impl Lanes {
    fn waiting(&self) -> usize {
        self.local.len() + self.forwarded.len()
    }

    /// The next one, unless it is costly: that is a worker's.
    fn next_cheap(&mut self) -> Option<Job> {
        let first = self.local.front().or_else(|| self.forwarded.front())?;
        if first.work.is_cheap() { self.next() } else { None }
    }

    fn next(&mut self) -> Option<Job> {
        self.local.pop_front().or_else(|| self.forwarded.pop_front())
    }
}
