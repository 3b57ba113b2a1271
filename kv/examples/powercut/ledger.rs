//! What clients were told, and whether the store still says so.
//!
//! Law: of each key there is one writer, which writes nothing more after a write without an answer; so a key holds what
//! was acknowledged last, or else that one write. A write of several keys shows up whole or not at all.

use std::collections::BTreeMap;

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Nothing.
    Absent,
    /// A value with this hash, written by this log entry (0 before the answer tells which).
    Value { hash: [u8; 32], index: u64 },
}

impl Slot {
    /// A value that was read or will be written.
    pub fn of(value: &[u8], index: u64) -> Self {
        Self::Value { hash: *blake3::hash(value).as_bytes(), index }
    }

    /// Index of the entry that wrote it, 0 for none.
    pub fn index(&self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Value { index, .. } => *index,
        }
    }

    /// The same once it is known which entry wrote it.
    pub fn at(self, written: u64) -> Self {
        match self {
            Self::Absent => Self::Absent,
            Self::Value { hash, .. } => Self::Value { hash, index: written },
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("nothing"),
            Self::Value { hash, index } => {
                write!(f, "{:02x}{:02x}{:02x}{:02x} of {index}", hash[0], hash[1], hash[2], hash[3])
            }
        }
    }
}

/// A write without an answer.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// What it would leave.
    pub slot: Slot,
    /// Which write it belongs to.
    pub write: u64,
    /// Number of keys of that write.
    pub keys: usize,
}

/// One key.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// What was acknowledged last, by the entry `acked_at`.
    pub acked: Slot,
    /// Index of the last acknowledged write, deletions too.
    pub acked_at: u64,
    /// What was acknowledged when the power went.
    pub before: Slot,
    /// A write after that, without an answer.
    pub attempt: Option<Attempt>,
    /// Written since the last [`Ledger::settle`].
    pub touched: bool,
}

/// The keys of one writer.
pub type Share = Vec<Entry>;

/// All keys, by writer.
pub struct Ledger {
    /// Of each writer.
    pub shares: Vec<Share>,
}

/// Every key begins so: operators may write here.
pub const PREFIX: &str = "operator/powercut/";

impl Ledger {
    /// Empty, for writers with this many keys each.
    pub fn new(keys: &[usize]) -> Self {
        let entry = |writer, n| Entry {
            key: format!("{PREFIX}{writer}/{n:04}"),
            acked: Slot::Absent,
            acked_at: 0,
            before: Slot::Absent,
            attempt: None,
            touched: false,
        };
        let share = |(writer, keys): (usize, &usize)| (0..*keys).map(|n| entry(writer, n)).collect();
        Self { shares: keys.iter().enumerate().map(share).collect() }
    }

    fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.shares.iter_mut().flatten()
    }

    /// Keys written since the last settlement.
    pub fn touched(&self) -> Vec<String> {
        self.shares.iter().flatten().filter(|entry| entry.touched).map(|entry| entry.key.clone()).collect()
    }

    /// Sorts linearizable reads of touched keys: gives those older than what was acknowledged, one line each, and the
    /// number of those after which a write without an answer came to be, which a dead client cannot complain of.
    pub fn judge(&self, reads: &BTreeMap<String, Slot>) -> (Vec<String>, u64) {
        let (mut stale, mut late) = (Vec::new(), 0);
        for entry in self.shares.iter().flatten() {
            let Some(read) = reads.get(&entry.key).filter(|read| **read != entry.acked) else { continue };
            if *read == entry.before {
                late += 1;
                continue;
            }
            let (acked, at) = (entry.acked, entry.acked_at);
            stale.push(format!("{}: acknowledged {acked} at {at}, a linearizable read gave {read}", entry.key));
        }
        (stale, late)
    }

    /// Takes what a node has of every touched key; gives what is lost, one line each.
    pub fn settle(&mut self, found: &BTreeMap<String, Slot>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut whole: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        for entry in self.entries_mut().filter(|entry| entry.touched) {
            let attempt = entry.attempt.take();
            entry.touched = false;
            let slot = found.get(&entry.key).copied().unwrap_or(Slot::Absent);
            entry.before = entry.acked;
            let came = attempt.filter(|attempt| {
                let later = slot == Slot::Absent || slot.index() > entry.acked_at;
                slot != entry.acked && later && attempt.slot.at(slot.index()) == slot
            });
            if let Some(attempt) = attempt {
                // A deletion of nothing leaves no trace.
                let traceless = attempt.slot == Slot::Absent && entry.acked == Slot::Absent;
                let seen = whole.entry(attempt.write).or_insert((0, attempt.keys));
                if traceless {
                    seen.1 -= 1;
                }
                seen.0 += usize::from(came.is_some());
            }
            if slot != entry.acked && came.is_none() {
                let (was, at) = (entry.acked, entry.acked_at);
                wrong.push(format!("{}: acknowledged {was} at {at}, found {slot}", entry.key));
            }
            (entry.acked, entry.acked_at) = (slot, entry.acked_at.max(slot.index()));
        }
        for (write, (came, keys)) in whole {
            if came != 0 && came != keys {
                wrong.push(format!("write {write}: {came} of its {keys} keys are there"));
            }
        }
        wrong
    }

    /// Compares everything under [`PREFIX`], as one node's scan gave it.
    pub fn compare(&self, node: &str, mut found: BTreeMap<String, Slot>) -> Vec<String> {
        let mut wrong = Vec::new();
        for entry in self.shares.iter().flatten() {
            let slot = found.remove(&entry.key).unwrap_or(Slot::Absent);
            if slot != entry.acked {
                wrong.push(format!("{}: {}, but {node} has {slot}", entry.key, entry.acked));
            }
        }
        wrong.extend(found.into_keys().map(|key| format!("{key}: never written, but {node} has it")));
        wrong
    }
}
