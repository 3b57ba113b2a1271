//! The judge that believes the log: every write names its entry, every read names the entry that it shows.
//!
//! The road: [`check_log`] holds all entries of all keys against real time; [`KeyLog`] rebuilds the entries of one key
//! (traces unknown writes by the values that readers saw), then asks of every condition what stood before it, and of
//! every read whether it fits between its entry and the next one in real time.
//!
//! Law: no false alarm. With an order given, an entry can lie anywhere after everything that must come before it began
//! (`started`) and before anything that must come after it was known (`known`); a history is refused only when that
//! room is empty. A read of an absent key, and a delete without an answer, leave open which entry is meant: where they
//! do, this judge passes and [`super::search`] decides.

use std::collections::{BTreeMap, HashMap};

use super::{Action, History, Law, NEVER, Operation, Outcome, Record, Tick, Value, Violation};

type Verdict = Result<(), Box<Violation>>;

/// Decides on a whole history.
///
/// # Errors
/// The first broken promise.
pub fn check(history: &History) -> Verdict {
    for (key, operations) in history.by_key().iter().enumerate() {
        let key = u32::try_from(key).expect("keys are numbered in 32 bits");
        let mut log = KeyLog::new(history, key, operations);
        log.take_known_entries()?;
        log.trace_reads()?;
        log.trace_conditions()?;
        log.check_conditions()?;
        let timeline = log.timeline();
        log.check_real_time(&timeline)?;
        log.check_absences(&timeline)?;
        log.check_stamps()?;
    }
    check_log(history)?;
    check_stamps_go_forward(history)
}

/// The log's order and real time agree over all keys.
fn check_log(history: &History) -> Verdict {
    let mut entries: Vec<(u64, &Operation)> = history
        .operations
        .iter()
        .filter_map(|operation| match operation.outcome {
            Outcome::Written { index } | Outcome::Refused { index, .. } if index > 0 => Some((index, operation)),
            _ => None,
        })
        .collect();
    entries.sort_by_key(|(index, _)| *index);
    for pair in entries.windows(2) {
        if pair[0].0 == pair[1].0 {
            let because = format!("both are entry {}", pair[0].0);
            return Err(history.violation(Law::TwoWritesOneIndex, None, [*pair[0].1, *pair[1].1], because));
        }
    }
    let mut done: Option<(u64, &Operation)> = None;
    for (index, operation) in entries.into_iter().rev() {
        if let Some((later, other)) = done.filter(|(_, other)| other.returned < operation.invoked) {
            let because = format!("entry {later} was answered before entry {index} was sent");
            return Err(history.violation(Law::EffectOutOfTime, None, [*operation, *other], because));
        }
        if done.is_none_or(|(_, other)| operation.returned < other.returned) {
            done = Some((index, operation));
        }
    }
    Ok(())
}

/// What was answered once is below every later linearizable read's stamp; a copy's own stamps never go back.
fn check_stamps_go_forward(history: &History) -> Verdict {
    let index_of = |operation: &Operation| match operation.outcome {
        Outcome::Read { applied, .. } => applied,
        Outcome::Written { index } | Outcome::Refused { index, .. } => index,
        Outcome::Failed | Outcome::Unknown => 0,
    };
    let mut answered: Vec<&Operation> = history.operations.iter().filter(|o| o.returned != NEVER).collect();
    answered.sort_by_key(|operation| operation.returned);
    let mut answered = answered.into_iter().peekable();
    let mut highest: Option<&Operation> = None;
    let mut copies: HashMap<u32, &Operation> = HashMap::new();
    for operation in &history.operations {
        while let Some(before) = answered.next_if(|before| before.returned < operation.invoked) {
            if highest.is_none_or(|other| index_of(other) < index_of(before)) {
                highest = Some(before);
            }
            if let Action::GetLocal { copy } = before.action {
                let last = copies.entry(copy).or_insert(before);
                if index_of(last) < index_of(before) {
                    *last = before;
                }
            }
        }
        let bound = match operation.action {
            Action::Get => highest,
            Action::GetLocal { copy } => copies.get(&copy).copied(),
            Action::Write { .. } => None,
        };
        let stamp = index_of(operation);
        if let Some(before) = bound.filter(|before| stamp != 0 && stamp < index_of(before)) {
            let because = format!("stamp {stamp} after {} was answered", index_of(before));
            return Err(history.violation(Law::StampWentBack, Some(operation.key), [*before, *operation], because));
        }
    }
    Ok(())
}

/// What an entry did to the key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Put,
    Removed,
    /// The entry of a refused write.
    Nothing,
}

struct Entry {
    /// Position of its write among the key's operations; none when only its index was ever named.
    writer: Option<usize>,
    change: Change,
}

/// The first moment that something is certain, or the last moment that it began, and the operation that shows it.
#[derive(Clone, Copy)]
struct Mark {
    tick: Tick,
    shown_by: Option<usize>,
    /// The entry that `shown_by` saw; none when it wrote.
    saw: Option<u64>,
}

/// The entries of one key by index, each with the room that real time leaves it.
struct Timeline {
    indexes: Vec<u64>,
    changes: Vec<Change>,
    started: Vec<Mark>,
    known: Vec<Mark>,
    /// The highest index that anyone saw.
    seen_max: u64,
}

impl Timeline {
    /// Position of the next entry after `position` that changes the key.
    fn next_change(&self, position: usize) -> Option<usize> {
        (position..self.indexes.len()).find(|next| self.changes[*next] != Change::Nothing)
    }
}

struct KeyLog<'a> {
    history: &'a History,
    key: u32,
    operations: &'a [Operation],
    entries: BTreeMap<u64, Entry>,
    /// Index of each unknown write that a reader saw, by its position.
    traced: HashMap<usize, u64>,
    /// When the first delete without an answer was sent: from then on an absence may have a cause that left no trace.
    removed_from: Tick,
}

impl<'a> KeyLog<'a> {
    fn new(history: &'a History, key: u32, operations: &'a [Operation]) -> Self {
        let silent = |operation: &&Operation| {
            operation.outcome == Outcome::Unknown && matches!(operation.action, Action::Write { value: None, .. })
        };
        let removed_from = operations.iter().find(silent).map_or(NEVER, |operation| operation.invoked);
        Self { history, key, operations, entries: BTreeMap::new(), traced: HashMap::new(), removed_from }
    }

    fn broken(&self, law: Law, shown_by: impl IntoIterator<Item = usize>, because: String) -> Box<Violation> {
        let operations: Vec<Operation> = shown_by.into_iter().map(|position| self.operations[position]).collect();
        self.history.violation(law, Some(self.key), operations, because)
    }

    fn take_known_entries(&mut self) -> Verdict {
        for (position, operation) in self.operations.iter().enumerate() {
            let Action::Write { value, .. } = operation.action else { continue };
            let (index, change) = match operation.outcome {
                Outcome::Written { index } => (index, if value.is_some() { Change::Put } else { Change::Removed }),
                Outcome::Refused { index, .. } if index > 0 => (index, Change::Nothing),
                _ => continue,
            };
            let before = self.entries.insert(index, Entry { writer: Some(position), change });
            if let Some(other) = before.and_then(|entry| entry.writer) {
                let because = format!("both are entry {index}");
                return Err(self.broken(Law::TwoWritesOneIndex, [other, position], because));
            }
        }
        Ok(())
    }

    /// The records that reads returned, with the positions of the reads.
    fn reads(&self) -> impl Iterator<Item = (usize, Record)> + use<'a> {
        self.operations.iter().enumerate().filter_map(|(position, operation)| match operation.outcome {
            Outcome::Read { record: Some(record), .. } => Some((position, record)),
            _ => None,
        })
    }

    /// Finds the write of every record that was read, and so the entries of unknown writes.
    fn trace_reads(&mut self) -> Verdict {
        let mut writers: HashMap<Value, usize> = HashMap::new();
        for (position, operation) in self.operations.iter().enumerate() {
            if let Action::Write { value: Some(value), .. } = operation.action {
                writers.insert(value, position);
            }
        }
        for (reader, Record { value, mod_index }) in self.reads() {
            if mod_index == 0 {
                return Err(self.broken(Law::MixedRecord, [reader], "a record that no entry wrote".to_owned()));
            }
            let Some(&writer) = writers.get(&value) else {
                return Err(self.broken(Law::PhantomValue, [reader], format!("nobody ever wrote {value:?}")));
            };
            let at_index = self.entries.get(&mod_index).and_then(|entry| entry.writer);
            if at_index == Some(writer) && self.operations[writer].outcome == (Outcome::Written { index: mod_index }) {
                continue;
            }
            let elsewhere = match self.operations[writer].outcome {
                Outcome::Failed | Outcome::Refused { .. } => {
                    let because = format!("{value:?} was not accepted, but is there");
                    return Err(self.broken(Law::FailedWriteSeen, [writer, reader], because));
                }
                Outcome::Written { index } => Some(index),
                _ => self.traced.get(&writer).copied(),
            };
            match (elsewhere, at_index) {
                (Some(index), _) if index == mod_index => {}
                (_, Some(other)) => {
                    let because = format!("entry {mod_index} is another write's");
                    return Err(self.broken(Law::MixedRecord, [other, writer, reader], because));
                }
                (Some(index), None) => {
                    let because = format!("{value:?} is entry {index}, and entry {mod_index} too");
                    return Err(self.broken(Law::DuplicateEffect, [writer, reader], because));
                }
                (None, None) => {
                    self.traced.insert(writer, mod_index);
                    self.entries.insert(mod_index, Entry { writer: Some(writer), change: Change::Put });
                }
            }
        }
        Ok(())
    }

    /// Entries that only a condition names must belong to unknown writes that nobody read, one each.
    fn trace_conditions(&mut self) -> Verdict {
        let mut named: BTreeMap<u64, usize> = BTreeMap::new();
        let mut sent: Vec<Tick> = Vec::new();
        for (position, operation) in self.operations.iter().enumerate() {
            let traced = self.traced.contains_key(&position);
            let index = match (operation.action, operation.outcome) {
                (_, Outcome::Refused { actual, .. }) => actual,
                (Action::Write { expected: Some(expected), .. }, Outcome::Written { .. }) => expected,
                (Action::Write { expected: Some(expected), .. }, Outcome::Unknown) if traced => expected,
                (Action::Write { value: Some(_), .. }, Outcome::Unknown) if !traced => {
                    sent.push(operation.invoked);
                    continue;
                }
                _ => continue,
            };
            if index > 0 && !self.entries.contains_key(&index) {
                let earliest = named.entry(index).or_insert(position);
                if self.operations[*earliest].returned > operation.returned {
                    *earliest = position;
                }
            }
        }
        let mut witnesses: Vec<(u64, usize)> = named.iter().map(|(index, position)| (*index, *position)).collect();
        witnesses.sort_by_key(|(_, position)| self.operations[*position].returned);
        for (needed, (index, position)) in witnesses.into_iter().enumerate() {
            let witness = &self.operations[position];
            if sent.partition_point(|tick| *tick < witness.returned) <= needed {
                let refused = matches!(witness.outcome, Outcome::Refused { .. });
                let law = if refused { Law::IndexNeverWritten } else { Law::ConditionOnWrongIndex };
                return Err(self.broken(law, [position], format!("no write can be entry {index}")));
            }
        }
        for index in named.into_keys() {
            self.entries.insert(index, Entry { writer: None, change: Change::Put });
        }
        Ok(())
    }

    /// What every conditional write met is what stood before it in the log.
    fn check_conditions(&self) -> Verdict {
        for (position, operation) in self.operations.iter().enumerate() {
            if let Outcome::Refused { actual, .. } = operation.outcome
                && matches!(operation.action, Action::Write { expected, .. } if expected == Some(actual))
            {
                let because = "the condition held, as its own answer says".to_owned();
                return Err(self.broken(Law::RefusedWithoutCause, [position], because));
            }
        }
        let mut stands: Option<(u64, Option<usize>)> = None;
        let mut held: HashMap<u64, usize> = HashMap::new();
        for (index, entry) in &self.entries {
            if let Some((position, met)) = self.met(entry) {
                let before = stands.map_or(0, |(index, _)| index);
                let rival = held.get(&met).copied().filter(|_| met > 0 && entry.change != Change::Nothing);
                if met != before && !(met == 0 && self.removed_from < self.operations[position].returned) {
                    let law = rival.map_or(Law::ConditionOnWrongIndex, |_| Law::ConditionHeldTwice);
                    let shown_by = [Some(position), rival, stands.and_then(|(_, writer)| writer)];
                    let because = format!("entry {index} met {met}, but before it stands {before}");
                    return Err(self.broken(law, shown_by.into_iter().flatten(), because));
                }
                if entry.change != Change::Nothing {
                    held.insert(met, position);
                }
            }
            match entry.change {
                Change::Put => stands = Some((*index, entry.writer)),
                Change::Removed => stands = None,
                Change::Nothing => {}
            }
        }
        Ok(())
    }

    /// The conditional write of an entry, and the index that it says it met.
    fn met(&self, entry: &Entry) -> Option<(usize, u64)> {
        let position = entry.writer?;
        let operation = &self.operations[position];
        let met = match (operation.action, operation.outcome) {
            (_, Outcome::Refused { actual, .. }) => Some(actual),
            (Action::Write { expected, .. }, _) => expected,
            _ => None,
        };
        met.map(|met| (position, met))
    }

    /// Everyone who saw an entry: position, index, and whether it was the newest one at that moment.
    fn sightings(&self) -> Vec<(usize, u64, bool)> {
        let mut seen: Vec<_> = Vec::new();
        for (position, operation) in self.operations.iter().enumerate() {
            match (operation.action, operation.outcome) {
                (action, Outcome::Read { record: Some(record), .. }) => {
                    seen.push((position, record.mod_index, action == Action::Get));
                }
                (_, Outcome::Refused { actual, .. }) if actual > 0 => seen.push((position, actual, true)),
                (Action::Write { expected: Some(expected), .. }, Outcome::Written { .. }) if expected > 0 => {
                    seen.push((position, expected, true));
                }
                _ => {}
            }
        }
        seen
    }

    fn timeline(&self) -> Timeline {
        let mut line = Timeline {
            indexes: self.entries.keys().copied().collect(),
            changes: self.entries.values().map(|entry| entry.change).collect(),
            started: Vec::with_capacity(self.entries.len()),
            known: Vec::with_capacity(self.entries.len()),
            seen_max: 0,
        };
        for entry in self.entries.values() {
            let (invoked, returned) = entry
                .writer
                .map_or((0, NEVER), |writer| (self.operations[writer].invoked, self.operations[writer].returned));
            line.started.push(Mark { tick: invoked, shown_by: entry.writer, saw: None });
            line.known.push(Mark { tick: returned, shown_by: entry.writer, saw: None });
        }
        for (position, index, newest) in self.sightings() {
            line.seen_max = line.seen_max.max(index);
            let at = line.indexes.binary_search(&index).expect("every index that was named has its entry");
            let Operation { invoked, returned, .. } = self.operations[position];
            if returned < line.known[at].tick {
                line.known[at] = Mark { tick: returned, shown_by: Some(position), saw: Some(index) };
            }
            if let Some(next) = line.next_change(at + 1).filter(|_| newest)
                && invoked > line.started[next].tick
            {
                line.started[next] = Mark { tick: invoked, shown_by: Some(position), saw: Some(index) };
            }
        }
        for at in 1..line.indexes.len() {
            if line.started[at - 1].tick > line.started[at].tick {
                line.started[at] = line.started[at - 1];
            }
        }
        for at in (1..line.indexes.len()).rev() {
            if line.known[at].tick < line.known[at - 1].tick {
                line.known[at - 1] = line.known[at];
            }
        }
        line
    }

    /// Real time leaves every entry some room.
    fn check_real_time(&self, line: &Timeline) -> Verdict {
        for (at, index) in line.indexes.iter().enumerate() {
            let (started, known) = (line.started[at], line.known[at]);
            if started.tick < known.tick {
                continue;
            }
            let late = started.shown_by.expect("a moment over 0 has an operation");
            if let Some(saw) = started.saw {
                return Err(self.too_old(line, late, saw));
            }
            let because = format!("by the log, entry {index} or a later one was there before this write was sent");
            return Err(self.broken(Law::EffectOutOfTime, [Some(late), known.shown_by].into_iter().flatten(), because));
        }
        Ok(())
    }

    /// Names the law that an operation broke which saw entry `saw` (0: absent) after a newer one was known.
    fn too_old(&self, line: &Timeline, late: usize, saw: u64) -> Box<Violation> {
        let began = self.operations[late].invoked;
        let certain = line.known.partition_point(|known| known.tick < began);
        let changed = (0..certain).rev().find(|at| line.changes[*at] != Change::Nothing);
        let position = changed.expect("a newer entry was found before this is asked");
        let (index, known) = (line.indexes[position], line.known[position]);
        let writer = self.entries[&index].writer;
        let answered = writer.is_some_and(|writer| self.operations[writer].returned < began);
        let unknown = writer.is_none_or(|writer| self.operations[writer].outcome == Outcome::Unknown);
        let law = match () {
            () if line.changes[position] == Change::Removed && saw > 0 => Law::Resurrected,
            () if unknown => Law::UnknownSeenThenUnseen,
            () if !answered => Law::ReadWentBack,
            () if line.seen_max < index => Law::LostWrite,
            () => Law::StaleRead,
        };
        let old = self.entries.get(&saw).and_then(|entry| entry.writer);
        let because = format!("saw {saw} after {index} was known");
        self.broken(law, [old, writer, known.shown_by, Some(late)].into_iter().flatten(), because)
    }

    /// Whoever met no record fits before the first entry or behind one that removed it.
    fn check_absences(&self, line: &Timeline) -> Verdict {
        let removals: Vec<usize> = (0..line.indexes.len()).filter(|at| line.changes[*at] == Change::Removed).collect();
        for (position, operation) in self.operations.iter().enumerate() {
            let absent = match operation.outcome {
                Outcome::Read { record: None, .. } => operation.action == Action::Get,
                Outcome::Refused { actual: 0, index } => index == 0,
                _ => false,
            };
            if !absent || self.removed_from < operation.returned {
                continue;
            }
            // Rooms are in the order of time, so the last one that began early enough is also the one open longest.
            let begun = removals.partition_point(|at| line.started[*at].tick < operation.returned);
            let after = begun.checked_sub(1).map_or(0, |last| removals[last] + 1);
            let closed = line.next_change(after).is_some_and(|next| line.known[next].tick < operation.invoked);
            if closed {
                return Err(self.too_old(line, position, 0));
            }
        }
        Ok(())
    }

    /// A read shows the last entry at or below its own stamp.
    fn check_stamps(&self) -> Verdict {
        for (position, operation) in self.operations.iter().enumerate() {
            let Outcome::Read { record, applied } = operation.outcome else { continue };
            if applied == 0 {
                continue;
            }
            let saw = record.map_or(0, |record| record.mod_index);
            let newest = self.entries.range(..=applied).rev().find(|(_, entry)| entry.change != Change::Nothing);
            let shown = newest.filter(|(_, entry)| entry.change == Change::Put).map_or(0, |(index, _)| *index);
            if saw != shown && !(saw == 0 && self.removed_from < operation.returned) {
                let because = format!("shows {saw} and says {applied} is applied, where the key is at {shown}");
                // With the next change: an answer from after its stamp is the usual cause.
                let next = self.entries.range(applied + 1..).find(|(_, entry)| entry.change != Change::Nothing);
                let entries = [newest, next].into_iter().flatten().filter_map(|(_, entry)| entry.writer);
                return Err(self.broken(Law::WrongStamp, entries.chain([position]), because));
            }
        }
        Ok(())
    }
}
