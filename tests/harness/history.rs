//! What clients asked and what they were told, and whether one register per key could have told them so.
//!
//! The road: a client calls [`Recorder::invoke`] before it sends and [`Pending::end`] after it heard; [`Recorder::finish`]
//! gives the [`History`]; [`History::check`] asks two judges that share no reasoning. [`search`] looks for an order of the
//! operations that a register obeys (Wing and Gong 1993, with Lowe's memoisation, 2017). [`index_order`] takes the order
//! from the log indexes in the answers and looks for one that contradicts real time, a value or a condition.
//!
//! Law: an operation without an answer is unknown, not failed: it may take effect at any time after it was sent, or never.

pub mod index_order;
pub mod search;

mod broken;
mod exhaustive;
mod simulated;

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most operations of one history; about 130 bytes each.
const OPERATIONS_MAX: usize = 4_000_000;
/// Most operations that a printed violation lists.
const PRINTED_MAX: usize = 40;
/// First bytes of a value that are kept for printing.
const HEAD_BYTES: usize = 12;

/// A position in the recorder's own time: every call and every answer takes the next one.
pub type Tick = u64;

/// The answer of an operation that has none.
pub const NEVER: Tick = Tick::MAX;

/// Stands for the bytes of a value: equal bytes give equal values, different bytes different ones but for 2^-64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value {
    hash: u64,
    bytes: usize,
    head: [u8; HEAD_BYTES],
}

impl Value {
    /// Takes the print of a value's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let mut head = [0; HEAD_BYTES];
        let kept = bytes.len().min(HEAD_BYTES);
        head[..kept].copy_from_slice(&bytes[..kept]);
        Self { hash: hasher.finish(), bytes: bytes.len(), head }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head[..self.bytes.min(HEAD_BYTES)].escape_ascii();
        if self.bytes > HEAD_BYTES {
            write!(f, "{head}..({} bytes, {:016x})", self.bytes, self.hash)
        } else {
            write!(f, "{head}")
        }
    }
}

/// What a read found.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// The value.
    pub value: Value,
    /// Log index of the entry that wrote it.
    pub mod_index: u64,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.value, self.mod_index)
    }
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A linearizable read.
    Get,
    /// A read of one node's own copy. `copy` names the copy's life: a wiped node takes a new number.
    GetLocal { copy: u32 },
    /// Sets the value, or removes the record when there is none; with `expected` only when the record's mod_index is
    /// that, 0 meaning that the key is absent.
    Write { expected: Option<u64>, value: Option<Value> },
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A read's answer. `applied` is the index up to which the answering node had applied, 0 when it did not say.
    Read { record: Option<Record>, applied: u64 },
    /// The write was applied as entry `index`.
    Written { index: u64 },
    /// The condition did not hold: the record's mod_index was `actual`. `index` is the refused entry's own, or 0.
    Refused { actual: u64, index: u64 },
    /// It had and will have no effect: it never left this process, or was turned away before it could enter the log.
    Failed,
    /// No answer, or one that leaves it open, as a timeout does.
    Unknown,
}

/// One operation of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// The client; it has at most one operation at a time.
    pub client: u32,
    /// Position of the key in the history's list of keys.
    pub key: u32,
    /// What was asked.
    pub action: Action,
    /// What was answered.
    pub outcome: Outcome,
    /// When it was sent, at the earliest.
    pub invoked: Tick,
    /// When the answer was there, at the latest; [`NEVER`] when the outcome is unknown.
    pub returned: Tick,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {:<3} ", self.client)?;
        match self.returned {
            NEVER => write!(f, "[{} .. ", self.invoked)?,
            returned => write!(f, "[{} .. {returned}] ", self.invoked)?,
        }
        match self.action {
            Action::Get => write!(f, "get")?,
            Action::GetLocal { copy } => write!(f, "get from copy {copy}")?,
            Action::Write { expected, value } => {
                match value {
                    Some(value) => write!(f, "put {value:?}")?,
                    None => write!(f, "delete")?,
                }
                if let Some(expected) = expected {
                    write!(f, " if at {expected}")?;
                }
            }
        }
        match self.outcome {
            Outcome::Read { record: Some(record), applied } => write!(f, " -> {record:?}, applied {applied}"),
            Outcome::Read { record: None, applied } => write!(f, " -> absent, applied {applied}"),
            Outcome::Written { index } => write!(f, " -> written @{index}"),
            Outcome::Refused { actual, index } => write!(f, " -> refused, is at {actual} (entry {index})"),
            Outcome::Failed => write!(f, " -> failed"),
            Outcome::Unknown => write!(f, " -> unknown"),
        }
    }
}

/// The promise that a history breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Law {
    /// A read shows no record that was replaced before the read began.
    StaleRead,
    /// An answered write is there until another one replaces it.
    LostWrite,
    /// A read shows only what was written.
    PhantomValue,
    /// A write that failed has no effect.
    FailedWriteSeen,
    /// A record's value and mod_index come from the same write.
    MixedRecord,
    /// A conditional write succeeds only on the index that it names.
    ConditionOnWrongIndex,
    /// Of all writes conditional on one index, one succeeds.
    ConditionHeldTwice,
    /// A conditional write is refused only when its condition does not hold.
    RefusedWithoutCause,
    /// No client sees less than another one saw before.
    ReadWentBack,
    /// A removed record stays removed until it is written anew.
    Resurrected,
    /// A write takes effect after it was sent and before it was answered, in the order of the log.
    EffectOutOfTime,
    /// Once a write without an answer was seen, it is there for everyone.
    UnknownSeenThenUnseen,
    /// A write takes effect once, however often it was sent.
    DuplicateEffect,
    /// Two writes are two entries of the log.
    TwoWritesOneIndex,
    /// An index that the store names is the index of a write.
    IndexNeverWritten,
    /// An answer shows the store as it was at the answer's own stamp.
    WrongStamp,
    /// A linearizable read is stamped with at least every index that was answered before it began, and a copy's stamps
    /// never go back.
    StampWentBack,
    /// There is an order of the operations that agrees with real time and that a register obeys.
    NotLinearizable,
    /// The search ended within its bounds. It is no fault of the store, but nothing was proved either.
    Undecided,
}

/// A broken promise and the operations that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub law: Law,
    /// The key; empty for a law about the whole log.
    pub key: String,
    /// The operations, in the order in which they were sent.
    pub operations: Vec<Operation>,
    /// What is wrong, in a sentence.
    pub because: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} on key {:?}: {}", self.law, self.key, self.because)?;
        let hidden = self.operations.len().saturating_sub(PRINTED_MAX);
        if hidden > 0 {
            writeln!(f, "  ({hidden} earlier operations)")?;
        }
        self.operations[hidden..].iter().try_for_each(|operation| writeln!(f, "  {operation}"))
    }
}

/// What an accepted history consisted of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Operations in all.
    pub operations: usize,
    /// Keys that they touched.
    pub keys: usize,
    /// Operations with a known outcome that is not a failure: the traffic that makes a run worth something.
    pub answered: usize,
    /// Operations whose outcome stayed unknown.
    pub unknown: usize,
    /// Configurations that the search visited.
    pub visited: usize,
}

/// Every operation that clients recorded.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The keys, by position.
    pub keys: Vec<String>,
    /// The operations, in the order in which they were sent.
    pub operations: Vec<Operation>,
}

impl History {
    /// Has both judges decide.
    ///
    /// # Errors
    /// The first broken promise that was found. The judge that names laws speaks first.
    ///
    /// # Panics
    /// When a value was written to one key twice: then evidence cannot be traced to one write, and the test is at fault.
    pub fn check(&self) -> Result<Report, Box<Violation>> {
        self.refuse_repeated_values();
        index_order::check(self)?;
        let visited = search::check(self)?;
        let count = |matches: fn(&Outcome) -> bool| self.operations.iter().filter(|o| matches(&o.outcome)).count();
        Ok(Report {
            operations: self.operations.len(),
            keys: self.keys.len(),
            answered: count(|outcome| !matches!(outcome, Outcome::Failed | Outcome::Unknown)),
            unknown: count(|outcome| matches!(outcome, Outcome::Unknown)),
            visited,
        })
    }

    /// The operations on each key, in the order in which they were sent.
    pub(crate) fn by_key(&self) -> Vec<Vec<Operation>> {
        let mut split = vec![Vec::new(); self.keys.len()];
        for operation in &self.operations {
            split[operation.key as usize].push(*operation);
        }
        split
    }

    fn refuse_repeated_values(&self) {
        let mut seen = HashMap::new();
        for operation in &self.operations {
            if let Action::Write { value: Some(value), .. } = operation.action {
                let before = seen.insert((operation.key, value), operation);
                assert!(before.is_none(), "one value, two writes: {operation}, {}", before.expect("it is there"));
            }
        }
    }

    pub(crate) fn violation(
        &self,
        law: Law,
        key: Option<u32>,
        operations: impl IntoIterator<Item = Operation>,
        because: impl Into<String>,
    ) -> Box<Violation> {
        let key = key.map_or(String::new(), |key| self.keys[key as usize].clone());
        let mut operations: Vec<Operation> = operations.into_iter().collect();
        operations.sort_by_key(|operation| (operation.invoked, operation.returned));
        operations.dedup();
        Box::new(Violation { law, key, operations, because: because.into() })
    }
}

#[derive(Debug, Default)]
struct Tape {
    history: History,
    keys: HashMap<String, u32>,
    now: Tick,
}

impl Tape {
    fn tick(&mut self) -> Tick {
        self.now += 1;
        self.now
    }
}

/// Takes down operations from any number of clients. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Tape>>);

impl Recorder {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes down that a client is about to send an operation.
    ///
    /// # Panics
    /// When the history is full.
    pub fn invoke(&self, client: u32, key: &str, action: Action) -> Pending {
        let mut tape = self.tape();
        assert!(tape.history.operations.len() < OPERATIONS_MAX, "the history is full: {OPERATIONS_MAX} operations");
        let known = tape.keys.get(key).copied();
        let key = known.unwrap_or_else(|| {
            let next = u32::try_from(tape.keys.len()).expect("there are fewer keys than operations");
            tape.keys.insert(key.to_owned(), next);
            tape.history.keys.push(key.to_owned());
            next
        });
        let invoked = tape.tick();
        let operation = Operation { client, key, action, outcome: Outcome::Unknown, invoked, returned: NEVER };
        tape.history.operations.push(operation);
        Pending { recorder: self.clone(), position: tape.history.operations.len() - 1 }
    }

    /// Operations that were taken down so far.
    pub fn count(&self) -> usize {
        self.tape().history.operations.len()
    }

    /// The record so far; what has no answer yet is unknown in it.
    pub fn finish(&self) -> History {
        self.tape().history.clone()
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        // A client that panicked did so outside; the tape is whole after every call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation under way. Dropped without an end, as when its client is cancelled, its outcome is unknown.
#[derive(Debug)]
#[must_use = "an operation that is not ended counts as unknown"]
pub struct Pending {
    recorder: Recorder,
    position: usize,
}

impl Pending {
    /// Takes down the answer. To be called after it was heard, never before.
    ///
    /// # Panics
    /// When the outcome is not one of this action: a read cannot be written.
    pub fn end(self, outcome: Outcome) {
        let mut tape = self.recorder.tape();
        let now = tape.tick();
        let operation = &mut tape.history.operations[self.position];
        let reads = !matches!(operation.action, Action::Write { .. });
        match outcome {
            Outcome::Read { .. } => assert!(reads, "a write that answers as a read: {operation}"),
            Outcome::Written { .. } => assert!(!reads, "a read that answers as a write: {operation}"),
            Outcome::Refused { .. } => {
                let conditional = matches!(operation.action, Action::Write { expected: Some(_), .. });
                assert!(conditional, "refused without a condition: {operation}");
            }
            Outcome::Failed | Outcome::Unknown => {}
        }
        operation.outcome = outcome;
        if outcome != Outcome::Unknown {
            operation.returned = now;
        }
    }
}
