//! Clients that write until the power goes, and note what they were told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cinnabar_kv_api::{Client, Condition, Key, Op, WriteOutcome};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ledger::{Attempt, Ledger, Share, Slot};
use crate::{Rng, Step, problem};

/// Keys that take half of a writer's writes.
const HOT_KEYS: u64 = 16;
/// Keys of the largest write.
const BATCH_KEYS_MAX: u64 = 4;
/// Bytes of each value of the share that fills the log.
const FILL_BYTES: usize = 60 * 1024;
/// Further ahead than any log of ours gets: a condition on an entry that does not exist.
const NEVER: u64 = 1 << 40;

/// Writers at work.
pub struct Load {
    told: Arc<Told>,
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<(Share, Vec<String>)>>,
}

#[derive(Default)]
struct Told {
    acks: AtomicU64,
    filled: AtomicBool,
    writes: AtomicU64,
    indexes: parking_lot::Mutex<BTreeSet<u64>>,
}

struct Writer {
    client: Client,
    told: Arc<Told>,
    share: Share,
    rng: Rng,
    wrong: Vec<String>,
}

impl Load {
    /// Takes the ledger's shares and begins. The last share's writer first writes `fill` bytes, as fast as it can, all
    /// its keys at once; with 0 it does nothing.
    pub fn start(client: &Client, ledger: &mut Ledger, fill: u64, rng: &mut Rng) -> Self {
        let (stop, stopped) = watch::channel(false);
        let told = Arc::new(Told::default());
        let mut shares = std::mem::take(&mut ledger.shares);
        let last = shares.pop();
        let mut writer = |share| {
            let (client, told, rng) = (client.clone(), told.clone(), Rng::new(rng.draw()));
            Writer { client, told, share, rng, wrong: Vec::new() }
        };
        let mut writers: Vec<_> =
            shares.into_iter().map(|share| tokio::spawn(writer(share).run(stopped.clone()))).collect();
        writers.extend(last.map(|share| tokio::spawn(writer(share).fill(fill, stopped))));
        Self { told, stop, writers }
    }

    /// Acknowledged writes.
    pub fn acks(&self) -> u64 {
        self.told.acks.load(Ordering::Relaxed)
    }

    /// Has the last share's writer written what it should?
    pub fn filled(&self) -> bool {
        self.told.filled.load(Ordering::Relaxed)
    }

    /// Waits for this many.
    pub async fn reach(&self, acks: u64, wait: Duration) -> Step<()> {
        let reached = async {
            while self.acks() < acks {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let late = |_| problem(format!("{} of {acks} writes acknowledged in {wait:?}", self.acks()));
        tokio::time::timeout(wait, reached).await.map_err(late)
    }

    /// Stops the writers, and gives the shares back; also what was wrong already.
    pub async fn end(self, ledger: &mut Ledger) -> Step<(u64, Vec<String>)> {
        let _ = self.stop.send(true);
        let mut all = Vec::new();
        for writer in self.writers {
            let (share, wrong) = writer.await.map_err(|error| problem(format!("a writer: {error}")))?;
            ledger.shares.push(share);
            all.extend(wrong);
        }
        Ok((self.told.acks.load(Ordering::Relaxed), all))
    }
}

impl Writer {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> (Share, Vec<String>) {
        while !*stopped.borrow() {
            let places = self.places();
            if places.is_empty() {
                // Everything waits for an answer that will not come.
                let _ = stopped.changed().await;
                break;
            }
            let values = places.iter().map(|_| self.value()).collect();
            self.write(&places, values, &mut stopped).await;
        }
        (self.share, self.wrong)
    }

    async fn fill(mut self, bytes: u64, mut stopped: watch::Receiver<bool>) -> (Share, Vec<String>) {
        let places: Vec<usize> = (0..self.share.len()).collect();
        for _ in 0..bytes.div_ceil((places.len() * FILL_BYTES) as u64) {
            let values = places.iter().map(|_| Some(self.value_of(FILL_BYTES))).collect();
            self.write(&places, values, &mut stopped).await;
            if *stopped.borrow() || self.share.iter().any(|entry| entry.attempt.is_some()) {
                return (self.share, self.wrong);
            }
        }
        self.told.filled.store(true, Ordering::Relaxed);
        (self.share, self.wrong)
    }

    /// Keys of the next write, none of which waits for an answer.
    fn places(&mut self) -> Vec<usize> {
        let count = if self.rng.below(10) == 0 { 2 + self.rng.below(BATCH_KEYS_MAX - 1) } else { 1 };
        let keys = self.share.len() as u64;
        let mut places = BTreeSet::new();
        for _ in 0..20 * count {
            let among = if self.rng.below(2) == 0 { HOT_KEYS.min(keys) } else { keys };
            let place = self.rng.below(among) as usize;
            if self.share[place].attempt.is_none() {
                places.insert(place);
            }
            if places.len() as u64 == count {
                break;
            }
        }
        places.into_iter().collect()
    }

    /// A value, or none for a deletion.
    fn value(&mut self) -> Option<Vec<u8>> {
        if self.rng.below(12) == 0 {
            return None;
        }
        let bytes = match self.rng.below(10) {
            0..4 => 100,
            4..7 => 1024,
            7..9 => 20 * 1024,
            _ => 60 * 1024,
        };
        Some(self.value_of(bytes))
    }

    fn value_of(&mut self, bytes: usize) -> Vec<u8> {
        let mut value = vec![0; bytes];
        for chunk in value.chunks_mut(8) {
            chunk.copy_from_slice(&self.rng.draw().to_le_bytes()[..chunk.len()]);
        }
        value
    }

    async fn write(&mut self, places: &[usize], values: Vec<Option<Vec<u8>>>, stopped: &mut watch::Receiver<bool>) {
        let write = self.told.writes.fetch_add(1, Ordering::Relaxed);
        let mut ops = Vec::new();
        for (place, value) in places.iter().zip(values) {
            let key = key(&self.share[*place].key);
            let slot = value.as_ref().map_or(Slot::Absent, |value| Slot::of(value, 0));
            let op = match value {
                Some(value) => Op::Put { key, value: value.into() },
                None => Op::Delete { key },
            };
            ops.push(op);
            let entry = &mut self.share[*place];
            entry.attempt = Some(Attempt { slot, write, keys: places.len() });
            entry.touched = true;
        }
        // What we were told last must hold; one condition in four is on what cannot be.
        let first = &self.share[places[0]];
        let (expected, must_fail) = match self.rng.below(16) {
            0..3 => (Some(first.acked.index()), false),
            3 => (Some(first.acked.index() + NEVER), true),
            _ => (None, false),
        };
        let conditions = expected.map(|mod_index| Condition { key: key(&first.key), mod_index });
        let outcome = tokio::select! {
            biased;
            outcome = self.client.write(conditions.into_iter().collect(), ops) => outcome.ok(),
            _ = stopped.changed() => None,
        };
        match outcome {
            Some(WriteOutcome::Written { index }) => self.acknowledged(places, index, must_fail),
            Some(WriteOutcome::Unmet { index, actual, .. }) => self.unmet(places, index, actual, must_fail),
            // It may still come to be, unless its condition forbids that.
            None if must_fail => self.forget(places),
            None => {}
        }
    }

    fn forget(&mut self, places: &[usize]) {
        places.iter().for_each(|place| self.share[*place].attempt = None);
    }

    fn acknowledged(&mut self, places: &[usize], index: u64, must_fail: bool) {
        for place in places {
            let entry = &mut self.share[*place];
            let Some(attempt) = entry.attempt.take() else { continue };
            if must_fail || index <= entry.acked_at {
                let (was, at) = (entry.acked, entry.acked_at);
                self.wrong.push(format!("{}: written at {index} although it was {was} at {at}", entry.key));
            }
            (entry.acked, entry.acked_at) = (attempt.slot.at(index), index);
        }
        if !self.told.indexes.lock().insert(index) {
            self.wrong.push(format!("two writes were acknowledged at entry {index}"));
        }
        self.told.acks.fetch_add(1, Ordering::Relaxed);
    }

    fn unmet(&mut self, places: &[usize], index: u64, actual: u64, must_fail: bool) {
        let first = &self.share[places[0]];
        if !must_fail || actual != first.acked.index() {
            let (was, at) = (first.acked, first.acked_at);
            self.wrong.push(format!("{}: was {was} at {at}, at {index} its entry is {actual}", first.key));
        }
        self.forget(places);
    }
}

fn key(text: &str) -> Key {
    Key::new(text.as_bytes().to_vec()).expect("the ledger's keys are short")
}
