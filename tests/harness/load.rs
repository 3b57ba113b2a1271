//! Clients at work: many at once, reading, writing, removing and swapping under conditions, every operation taken down.
//!
//! The road: [`Load::start`] puts the clients where the cluster's clients are; faults happen meanwhile; [`Load::stop`]
//! lets each end the operation that it is at. [`read_back`] then asks every key of every copy, which is what makes a lost
//! write visible.
//!
//! Laws: a value is written once per key. A key is left for a new one after some operations, so that a judge's work on
//! one key has a bound. What a copy showed is not held against the next life of its process, which starts from the disk.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::{Ask, Store};
use super::cluster::{Cluster, Credentials, NODE_MAX};
use super::deadline::eventually;
use super::history::{Outcome, Recorder};
use super::random::Random;

/// Longest a hasty client waits; an election takes longer, so its writes stay without an answer.
const HASTY_MAX: Duration = Duration::from_millis(700);
/// Longest that a client of one voter waits: a voter that is cut off must not answer from what it had.
const PINNED_MAX: Duration = Duration::from_millis(1_500);
/// Longest that a reader of one copy waits; a node that is down is found out quickly.
const LOCAL_MAX: Duration = Duration::from_millis(300);
/// Longest that reading back waits for one answer: faults are over by then.
const BACK_MAX: Duration = Duration::from_secs(30);
/// Keys that are read back at once.
const BACK_CLIENTS: u32 = 8;
/// Lives of one process that the numbers of its copies have room for.
const LIVES_MAX: u32 = 10_000;

/// The prefixes under which keys lie, for watches that see half of them each.
pub const PREFIXES: [&str; 2] = ["left/", "right/"];

/// One node's copy, to be read on this machine. Clones are the same copy.
#[derive(Debug, Clone)]
pub struct LocalCopy {
    /// Where it is read.
    pub socket: PathBuf,
    number: u32,
    life: Arc<AtomicU32>,
}

impl LocalCopy {
    /// The copy of the node with this number.
    pub fn new(socket: PathBuf, number: u32) -> Self {
        Self { socket, number, life: Arc::default() }
    }

    /// Its name in a history, until the process is started again.
    pub fn now(&self) -> u32 {
        self.number * LIVES_MAX + self.life.load(Ordering::SeqCst)
    }

    /// The process is about to be started.
    pub fn begin_life(&self) {
        let before = self.life.fetch_add(1, Ordering::SeqCst);
        assert!(before + 1 < LIVES_MAX, "a process was started {LIVES_MAX} times");
    }
}

/// What clients do.
#[derive(Debug, Clone)]
pub struct Mix {
    /// How many there are.
    pub clients: u32,
    /// Keys in use at once.
    pub slots: usize,
    /// Operations after which a key is left for a new one.
    pub turnover: u64,
    /// Bytes of values, one picked for each write.
    pub sizes: &'static [usize],
    /// Longest pause of a client after an operation.
    pub pause: Duration,
    /// Longest that a patient client waits for an answer.
    pub deadline: Duration,
    /// Whether half of the clients are not patient: every fourth is hasty, every fourth is pinned to one voter.
    pub impatient: bool,
}

impl Mix {
    /// Small values, with a large one now and then; some clients that give up early.
    pub const SMALL: Self = Self {
        clients: 20,
        slots: 48,
        turnover: 150,
        sizes: &[16, 16, 100, 100, 100, 100, 1_000, 1_000, 4_000, 20_480],
        pause: Duration::from_millis(20),
        deadline: Duration::from_secs(30),
        impatient: true,
    };
}

struct Shared {
    tape: Recorder,
    mix: Mix,
    seed: u64,
    stop: AtomicBool,
    written: AtomicU64,
    /// Operations on each slot so far.
    uses: Vec<AtomicU64>,
}

impl Shared {
    fn key(&self, random: &mut Random) -> String {
        let slot = random.below(self.uses.len());
        let turn = self.uses[slot].fetch_add(1, Ordering::Relaxed) / self.mix.turnover;
        format!("{}{slot}-{turn}", PREFIXES[slot % PREFIXES.len()])
    }
}

/// Clients at work. Dropped, they stop without being waited for.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Puts clients to work on the voters, and on the copies of all nodes that the cluster has now.
    pub fn start(cluster: &Cluster, tape: &Recorder, mix: Mix, seed: u64) -> Self {
        let uses = (0..mix.slots).map(|_| AtomicU64::new(0)).collect();
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let shared = Arc::new(Shared { tape: tape.clone(), mix, seed, stop, written, uses });
        let (voters, copies) = (cluster.voter_addresses(), cluster.copies());
        let (working, credentials) = (shared.clone(), cluster.credentials("authority", "load"));
        let thread = cluster.as_client(move || {
            runtime().block_on(async {
                let mut clients = JoinSet::new();
                for number in 0..working.mix.clients {
                    let store = client(&working.mix, number, &voters, &credentials);
                    clients.spawn(work(working.clone(), number, store, copies.clone()));
                }
                while let Some(ended) = clients.join_next().await {
                    ended.expect("a client does not panic");
                }
            });
        });
        Self { shared, thread: Some(thread) }
    }

    /// Writes that were answered so far.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Waits until this many more writes are answered.
    ///
    /// # Panics
    /// When that takes longer than a cluster may take to elect.
    pub fn await_writes(&self, more: u64) {
        let goal = self.written() + more;
        eventually(NODE_MAX, "answered writes", || (self.written() >= goal).then_some(()));
    }

    /// Lets every client end its operation.
    ///
    /// # Panics
    /// When a client did.
    pub fn stop(mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("it is stopped once").join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}

/// The connections of a client; each one begins at another voter.
fn client(mix: &Mix, number: u32, voters: &[SocketAddr], credentials: &Credentials) -> Store {
    let mut voters = voters.to_vec();
    let (turn, kind) = (number as usize / 4 % voters.len(), number % 4);
    voters.rotate_left(turn);
    match kind {
        1 if mix.impatient => Store::over_tls(&voters, credentials, HASTY_MAX),
        2 if mix.impatient => Store::over_tls(&voters[..1], credentials, PINNED_MAX),
        _ => Store::over_tls(&voters, credentials, mix.deadline),
    }
}

/// The life of one client.
async fn work(shared: Arc<Shared>, number: u32, store: Store, copies: Vec<LocalCopy>) {
    let mut random = Random::from_seed(shared.seed ^ (u64::from(number) << 32));
    let copies: Vec<(Store, LocalCopy)> =
        copies.into_iter().map(|copy| (Store::over_socket(&copy.socket, LOCAL_MAX), copy)).collect();
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut writes = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let key = shared.key(&mut random);
        let choice = random.below(100);
        let mut value = || {
            writes += 1;
            let bytes = *random.pick(shared.mix.sizes);
            format!("{number}-{writes}-{:.>bytes$}", "").into_bytes()
        };
        let ask = match choice {
            0..30 => Ask::Get,
            30..50 => Ask::GetLocal { copy: 0 },
            50..78 => Ask::Write { expected: None, value: Some(value()) },
            78..84 => Ask::Write { expected: None, value: None },
            84..98 => Ask::Write { expected: Some(seen.get(&key).copied().unwrap_or(0)), value: Some(value()) },
            _ => Ask::Write { expected: Some(seen.get(&key).copied().unwrap_or(0)), value: None },
        };
        let outcome = if let Ask::GetLocal { .. } = ask {
            let (store, copy) = random.pick(&copies);
            store.recorded_local(&shared.tape, number, &key, copy).await
        } else {
            store.recorded(&shared.tape, number, &key, &ask).await
        };
        match outcome {
            Outcome::Written { index } => {
                shared.written.fetch_add(1, Ordering::Relaxed);
                let there = matches!(ask, Ask::Write { value: Some(_), .. });
                seen.insert(key, if there { index } else { 0 });
            }
            Outcome::Read { record, .. } => drop(seen.insert(key, record.map_or(0, |record| record.mod_index))),
            Outcome::Refused { actual, .. } => drop(seen.insert(key, actual)),
            Outcome::Failed | Outcome::Unknown => {}
        }
        sleep(shared.mix.pause.mul_f64(random.below(1_000) as f64 / 1_000.0)).await;
    }
}

/// Reads every key of a record through the log and from every copy, and takes that down as well.
///
/// # Panics
/// When a node does not answer.
pub fn read_back(cluster: &Cluster, tape: &Recorder) {
    let keys = Arc::new(tape.finish().keys);
    let (voters, copies) = (cluster.voter_addresses(), cluster.copies());
    let (tape, credentials) = (tape.clone(), cluster.credentials("authority", "back"));
    let thread = cluster.as_client(move || {
        runtime().block_on(async {
            let mut clients = JoinSet::new();
            for number in 0..BACK_CLIENTS {
                let (keys, tape, copies) = (keys.clone(), tape.clone(), copies.clone());
                let store = Store::over_tls(&voters, &credentials, BACK_MAX);
                clients.spawn(async move {
                    // Clients of the load have the numbers below.
                    let client = 1_000_000 + number;
                    let locals: Vec<Store> =
                        copies.iter().map(|copy| Store::over_socket(&copy.socket, BACK_MAX)).collect();
                    for key in keys.iter().skip(number as usize).step_by(BACK_CLIENTS as usize) {
                        let read = store.recorded(&tape, client, key, &Ask::Get).await;
                        assert!(matches!(read, Outcome::Read { .. }), "{key}: {read:?}");
                        for (store, copy) in locals.iter().zip(&copies) {
                            let read = store.recorded_local(&tape, client, key, copy).await;
                            assert!(matches!(read, Outcome::Read { .. }), "{key} of {copy:?}: {read:?}");
                        }
                    }
                });
            }
            while let Some(ended) = clients.join_next().await {
                ended.expect("every key is read");
            }
        });
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
