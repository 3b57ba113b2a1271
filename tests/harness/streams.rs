//! What watchers and downstreams were sent, held against what was committed.
//!
//! The road: a test writes down every message of a stream as it comes, with the reconnects; when the run is over, the
//! [`Ledger`] knows the committed writes (from a [`History`], or told one by one) and [`Ledger::check_watches`] walks each
//! stream. [`check_tails`] holds streams of whole log entries against each other.
//!
//! Laws: ordered, each once, gapless, whole entries only, resumed where asked, and never a promise that nothing more is
//! to come while something is. A write without an answer is in the ledger once any watcher saw it, and then for all.

mod broken;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::history::{Action, History, Outcome, Value};

/// One change of one key; no value means that it was removed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    /// The key.
    pub key: String,
    /// The new value.
    pub value: Option<Value>,
}

/// What a watcher met, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// It asked for what comes after this index.
    Opened { after: u64 },
    /// All changes of one entry under the prefix.
    Changes { index: u64, events: Vec<Event> },
    /// Nothing at or below this index is still to come.
    Progress { applied: u64 },
    /// The stream cannot go on; a watch could start after `oldest` at the earliest.
    Resync { oldest: u64 },
}

/// One watcher and all that it met, over as many connections as it took.
#[derive(Debug, Clone)]
pub struct Watch {
    /// For messages.
    pub name: String,
    /// The watched prefix.
    pub prefix: String,
    /// What it met.
    pub items: Vec<WatchItem>,
}

/// The promise that a stream breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamLaw {
    /// Indexes only grow.
    OutOfOrder,
    /// No entry comes twice on one connection, nor one from before its start.
    Repeated,
    /// No entry is left out.
    Gap,
    /// Only what was written comes.
    Phantom,
    /// An entry comes whole and as it was written.
    WrongChanges,
    /// Nothing comes that was not asked for.
    OutsidePrefix,
    /// Progress is not told while an entry at or below it is still to come.
    ProgressAhead,
    /// Progress does not go back.
    ProgressWentBack,
    /// A stream gives up only when what it was asked for is gone, and then it ends.
    ResyncWithoutCause,
    /// It arrived at the index that the test waited for.
    Unfinished,
    /// Two streams never carry different entries at one index.
    Fork,
    /// A checkpoint covers only entries that came before it, and does not go back.
    CheckpointOutOfPlace,
}

/// A broken promise of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFault {
    /// The promise.
    pub law: StreamLaw,
    /// The stream's name.
    pub stream: String,
    /// Position of the message in what it met; its length when the end is at fault.
    pub item: usize,
    /// What is wrong.
    pub because: String,
}

impl fmt::Display for StreamFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in stream {}, message {}: {}", self.law, self.stream, self.item, self.because)
    }
}

/// An entry that a stream must or may carry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Committed {
    events: Vec<Event>,
    /// It may have changed nothing, as the removal of an absent key: then it need not come.
    optional: bool,
}

/// The writes that streams are held against.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: BTreeMap<u64, Committed>,
    /// Writes without an answer.
    unknown: Vec<Vec<Event>>,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// The single-key writes of a history.
    pub fn of(history: &History) -> Self {
        let mut ledger = Self::new();
        let mut unknown_keys: Vec<u32> = Vec::new();
        for operation in &history.operations {
            let Action::Write { value, .. } = operation.action else { continue };
            let event = Event { key: history.keys[operation.key as usize].clone(), value };
            match operation.outcome {
                Outcome::Written { index } => ledger.commit(index, vec![event]),
                Outcome::Unknown => {
                    unknown_keys.push(operation.key);
                    ledger.unknown(vec![event]);
                }
                _ => {}
            }
        }
        // Whether a removal met a record depends on what stood before it, and where a write is unknown nobody can tell.
        let uncertain: Vec<&str> = unknown_keys.iter().map(|key| history.keys[*key as usize].as_str()).collect();
        let mut present: HashMap<String, bool> = HashMap::new();
        for entry in ledger.entries.values_mut() {
            let Event { key, value } = &entry.events[0];
            let stood = present.insert(key.clone(), value.is_some()).unwrap_or(false);
            entry.optional = value.is_none() && (!stood || uncertain.contains(&key.as_str()));
        }
        ledger
    }

    /// Adds a write that was answered with an index. An entry may have several events, in the order of its operations.
    pub fn commit(&mut self, index: u64, events: Vec<Event>) {
        let before = self.entries.insert(index, Committed { events, optional: false });
        assert!(before.is_none(), "two writes at {index}");
    }

    /// Adds a write whose outcome is unknown.
    pub fn unknown(&mut self, events: Vec<Event>) {
        self.unknown.push(events);
    }

    /// Checks every watch, up to and including index `until`.
    ///
    /// # Errors
    /// The first broken promise.
    ///
    /// # Panics
    /// When a watcher resumed later than it was, which is the test's own fault.
    pub fn check_watches(mut self, watches: &[Watch], until: u64) -> Result<(), StreamFault> {
        for watch in watches {
            self.learn(watch);
        }
        watches.iter().try_for_each(|watch| Walk::new(&self, watch).check(until))
    }

    /// Takes over unknown writes that a watcher saw.
    fn learn(&mut self, watch: &Watch) {
        for item in &watch.items {
            let WatchItem::Changes { index, events } = item else { continue };
            if self.entries.contains_key(index) {
                continue;
            }
            let shown = |unknown: &Vec<Event>| under(unknown, &watch.prefix) == *events && !events.is_empty();
            if let Some(position) = self.unknown.iter().position(shown) {
                let events = self.unknown.swap_remove(position);
                self.entries.insert(*index, Committed { events, optional: false });
            }
        }
    }
}

fn under(events: &[Event], prefix: &str) -> Vec<Event> {
    events.iter().filter(|event| event.key.starts_with(prefix)).cloned().collect()
}

/// The walk along one watch.
struct Walk<'a> {
    ledger: &'a Ledger,
    watch: &'a Watch,
    /// Everything at or below was delivered or ruled out on this connection.
    position: u64,
    /// The last entry, or where this connection started.
    last_event: u64,
    /// The last entry on this connection, 0 before the first one.
    last_sent: u64,
    last_progress: u64,
    opened: bool,
    resync: bool,
}

impl<'a> Walk<'a> {
    fn new(ledger: &'a Ledger, watch: &'a Watch) -> Self {
        Self { ledger, watch, position: 0, last_event: 0, last_sent: 0, last_progress: 0, opened: false, resync: false }
    }

    fn check(mut self, until: u64) -> Result<(), StreamFault> {
        for (at, item) in self.watch.items.iter().enumerate() {
            assert!(self.opened || matches!(item, WatchItem::Opened { .. }), "{}: not opened", self.watch.name);
            if self.resync && !matches!(item, WatchItem::Opened { .. }) {
                return Err(self.fault(StreamLaw::ResyncWithoutCause, at, "the stream went on after it".to_owned()));
            }
            match item {
                WatchItem::Opened { after } => self.open(*after),
                WatchItem::Changes { index, events } => self.changes(at, *index, events)?,
                WatchItem::Progress { applied } => self.progress(at, *applied)?,
                WatchItem::Resync { oldest } => {
                    if self.position >= *oldest {
                        let because = format!("at {}, where a watch could start after {oldest}", self.position);
                        return Err(self.fault(StreamLaw::ResyncWithoutCause, at, because));
                    }
                    self.resync = true;
                }
            }
        }
        let end = self.watch.items.len();
        if let Some(missing) = self.missing(until) {
            return Err(self.fault(StreamLaw::Unfinished, end, format!("{missing} did not come")));
        }
        Ok(())
    }

    fn fault(&self, law: StreamLaw, item: usize, because: String) -> StreamFault {
        StreamFault { law, stream: self.watch.name.clone(), item, because }
    }

    fn open(&mut self, after: u64) {
        let known = !self.opened || self.resync || after <= self.position;
        assert!(known, "{}: resumed after {after}, but was at {} only", self.watch.name, self.position);
        (self.opened, self.resync) = (true, false);
        (self.position, self.last_event, self.last_sent, self.last_progress) = (after, after, 0, 0);
    }

    /// The first entry over the position, at or below `until`, that had to come.
    fn missing(&self, until: u64) -> Option<u64> {
        let range = self.position.saturating_add(1)..=until.max(self.position.saturating_add(1));
        let required = |committed: &Committed| {
            !committed.optional && committed.events.iter().any(|event| event.key.starts_with(&self.watch.prefix))
        };
        self.ledger
            .entries
            .range(range)
            .find(|(index, committed)| **index <= until && required(committed))
            .map(|(index, _)| *index)
    }

    fn changes(&mut self, at: usize, index: u64, events: &[Event]) -> Result<(), StreamFault> {
        if index <= self.last_event {
            let again = index == self.last_event || self.met_before(at, index);
            let law = if again { StreamLaw::Repeated } else { StreamLaw::OutOfOrder };
            return Err(self.fault(law, at, format!("{index} after {}", self.last_event)));
        }
        if index <= self.last_progress {
            let because = format!("{index} after progress {}", self.last_progress);
            return Err(self.fault(StreamLaw::ProgressAhead, at, because));
        }
        if let Some(missing) = self.missing(index - 1) {
            return Err(self.fault(StreamLaw::Gap, at, format!("{missing} did not come before {index}")));
        }
        if let Some(event) = events.iter().find(|event| !event.key.starts_with(&self.watch.prefix)) {
            let because = format!("{} is not under {:?}", event.key, self.watch.prefix);
            return Err(self.fault(StreamLaw::OutsidePrefix, at, because));
        }
        let Some(committed) = self.ledger.entries.get(&index) else {
            return Err(self.fault(StreamLaw::Phantom, at, format!("nobody wrote {events:?} at {index}")));
        };
        let whole = under(&committed.events, &self.watch.prefix);
        if whole != events {
            return Err(self.fault(StreamLaw::WrongChanges, at, format!("{index} is {whole:?}, came as {events:?}")));
        }
        (self.position, self.last_event, self.last_sent) = (index, index, index);
        Ok(())
    }

    /// Whether an entry at or below the last one came earlier on this connection, or lies before its start.
    fn met_before(&self, at: usize, index: u64) -> bool {
        for item in self.watch.items[..at].iter().rev() {
            match item {
                WatchItem::Changes { index: other, .. } if *other == index => return true,
                WatchItem::Opened { after } => return index <= *after,
                _ => {}
            }
        }
        false
    }

    fn progress(&mut self, at: usize, applied: u64) -> Result<(), StreamFault> {
        // A node that is behind may say so to a watcher that saw more elsewhere; behind its own words it may not be.
        let before = self.last_progress.max(self.last_sent);
        if applied < before {
            return Err(self.fault(StreamLaw::ProgressWentBack, at, format!("{applied} after {before}")));
        }
        if let Some(missing) = self.missing(applied) {
            return Err(self.fault(StreamLaw::ProgressAhead, at, format!("{applied}, but {missing} did not come")));
        }
        self.position = self.position.max(applied);
        self.last_progress = applied;
        Ok(())
    }
}

/// What a downstream of the log met, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailItem {
    /// It asked for what comes after this index.
    Opened { after: u64 },
    /// One entry; `content` stands for its bytes.
    Entry { index: u64, content: Value },
    /// Everything up to this index was signed for.
    Checkpoint { index: u64 },
}

/// One downstream and all that it met, over as many connections as it took.
#[derive(Debug, Clone)]
pub struct Tail {
    /// For messages.
    pub name: String,
    /// What it met.
    pub items: Vec<TailItem>,
}

/// Checks that every tail is one and the same log without holes, up to and including index `until`.
///
/// # Errors
/// The first broken promise.
///
/// # Panics
/// When a downstream resumed later than it was, which is the test's own fault.
pub fn check_tails(tails: &[Tail], until: u64) -> Result<(), StreamFault> {
    let mut log: HashMap<u64, (Value, &str)> = HashMap::new();
    for tail in tails {
        let (mut position, mut signed, mut opened) = (0, 0, false);
        let fault = |law, item, because| Err(StreamFault { law, stream: tail.name.clone(), item, because });
        for (at, item) in tail.items.iter().enumerate() {
            assert!(opened || matches!(item, TailItem::Opened { .. }), "{}: not opened", tail.name);
            match *item {
                TailItem::Opened { after } => {
                    assert!(!opened || after <= position, "{}: resumed after {after}, was at {position}", tail.name);
                    (position, signed, opened) = (after, 0, true);
                }
                TailItem::Entry { index, .. } if index > position + 1 => {
                    return fault(StreamLaw::Gap, at, format!("{index} after {position}"));
                }
                TailItem::Entry { index, .. } if index <= position => {
                    return fault(StreamLaw::Repeated, at, format!("{index} after {position}"));
                }
                TailItem::Entry { index, content } => {
                    let (other, name) = log.entry(index).or_insert((content, &tail.name));
                    if *other != content {
                        return fault(StreamLaw::Fork, at, format!("{index} is {content:?}, in {name} {other:?}"));
                    }
                    position = index;
                }
                TailItem::Checkpoint { index } => {
                    if index > position || index < signed {
                        let because = format!("{index} at {position}, after {signed}");
                        return fault(StreamLaw::CheckpointOutOfPlace, at, because);
                    }
                    signed = index;
                }
            }
        }
        if position < until {
            return fault(StreamLaw::Unfinished, tail.items.len(), format!("ends at {position}, not at {until}"));
        }
    }
    Ok(())
}
