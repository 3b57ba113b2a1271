//! The judge that believes values only: looks for an order of the operations on one key that a register obeys.
//!
//! The road: [`check`] takes key after key (keys are independent, so a history is linearizable when each key's part is);
//! [`Steps`] turns operations into steps; [`Search`] walks Wing and Gong's tree. A configuration is the set of steps
//! already placed and the register's state. It is visited once, remembered as 128 bits: the set as an exclusive or of one
//! random number per step, so that a set of any size costs the same and the chance to confuse two is below 2^-80.
//!
//! What keeps the tree small, none of which loses an order:
//! - a step that only looks, and sees the state, is placed at once and nothing else is tried;
//! - a state is not left while a step that must see it is still to come (each value is written once, so it never returns);
//! - an unknown write that somebody saw must be placed before the first who saw it was answered; one that nobody saw is
//!   left out, since only a write that overwrites it could follow; unknown deletes are alike, so the oldest goes first;
//! - where everything before was answered before anything after was sent, and the state there is certain, nothing before
//!   matters any more, and all memory of it is dropped.
//!
//! Sources: Wing and Gong, "Testing and verifying concurrent objects", 1993; Lowe, "Testing for linearizability", 2017.

use std::collections::{HashMap, HashSet};

use super::{Action, History, Law, NEVER, Operation, Outcome, Tick, Value, Violation};
use crate::harness::random::Random;

/// Most configurations remembered at once, about 35 bytes each.
const VISITED_MAX: usize = 4_000_000;
/// Mod index of a record whose write was never answered and never named.
const UNNAMED: u64 = u64::MAX;

/// Decides on a whole history; returns how many configurations were visited.
///
/// # Errors
/// [`Law::NotLinearizable`] with the shortest part that has no order, [`Law::Undecided`] when memory ran out.
pub fn check(history: &History) -> Result<usize, Box<Violation>> {
    let mut visited = 0;
    for (key, operations) in history.by_key().iter().enumerate() {
        match decide(operations, NEVER) {
            Answer::Order { configurations } => visited += configurations,
            Answer::NoOrder => {
                let key = u32::try_from(key).expect("keys are numbered in 32 bits");
                return Err(refusal(history, key, operations));
            }
            Answer::OutOfMemory => {
                let key = u32::try_from(key).expect("keys are numbered in 32 bits");
                let because = format!("{VISITED_MAX} configurations of {} operations visited", operations.len());
                return Err(history.violation(Law::Undecided, Some(key), [], because));
            }
        }
    }
    Ok(visited)
}

/// Finds the first answer after which no order is left. A longer part of a history allows no more orders than a shorter
/// one, so it can be halved down to.
fn refusal(history: &History, key: u32, operations: &[Operation]) -> Box<Violation> {
    let mut answers: Vec<Tick> = operations.iter().map(|o| o.returned).filter(|tick| *tick != NEVER).collect();
    answers.sort_unstable();
    let (mut low, mut high) = (0, answers.len() - 1);
    while low < high {
        let middle = usize::midpoint(low, high);
        match decide(operations, answers[middle]) {
            Answer::Order { .. } => low = middle + 1,
            Answer::NoOrder | Answer::OutOfMemory => high = middle,
        }
    }
    let last = answers[low];
    let part: Vec<Operation> = operations.iter().filter(|o| o.invoked < last).copied().collect();
    let because = format!("no order of these explains the answer at {last}");
    history.violation(Law::NotLinearizable, Some(key), part, because)
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Order { configurations: usize },
    NoOrder,
    OutOfMemory,
}

/// Decides on the part of one key's operations that had happened when the answer at `until` came.
fn decide(operations: &[Operation], until: Tick) -> Answer {
    Search::new(Steps::new(operations, until)).run()
}

/// What the register holds: a record, or nothing (value 0, index 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    value: u32,
    index: u64,
}

const ABSENT: State = State { value: 0, index: 0 };

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Found this state.
    Looks(State),
    /// Found that the record's index is this one, 0 for none.
    LooksAtIndex(u64),
    /// Sets this state; only on a record with the index `expected`, when there is one.
    Writes { expected: Option<u64>, state: State },
    /// An answer that contradicts itself: no state allows it.
    Absurd,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    invoked: Tick,
    /// [`NEVER`]: may be placed anywhere later, or not at all.
    returned: Tick,
    kind: Kind,
    /// Where to look first: the log index, when it was told. Orders the tree, decides nothing.
    hint: u64,
}

/// What answers of others tell about writes that were not answered.
struct Evidence {
    /// The record that holds a value, and when the first who saw it was answered.
    seen: HashMap<Value, (u64, Tick)>,
    /// Indexes that are named, but no known write's: an unnamed record may turn out to have one of them.
    loose: HashSet<u64>,
}

impl Evidence {
    fn of(operations: &[Operation]) -> Self {
        let (mut seen, mut loose) = (HashMap::new(), HashSet::new());
        for operation in operations {
            match (operation.action, operation.outcome) {
                (_, Outcome::Read { record: Some(record), .. }) if operation.returned != NEVER => {
                    let first = seen.entry(record.value).or_insert((record.mod_index, NEVER));
                    first.1 = operation.returned.min(first.1);
                }
                // Without an answer too: it may have held.
                (_, Outcome::Refused { actual: index, .. }) | (Action::Write { expected: Some(index), .. }, _) => {
                    loose.insert(index);
                }
                _ => {}
            }
        }
        loose.remove(&0);
        for operation in operations {
            match (operation.action, operation.outcome) {
                (_, Outcome::Written { index }) => loose.remove(&index),
                (Action::Write { value: Some(value), .. }, Outcome::Unknown) => {
                    seen.get(&value).is_some_and(|(index, _)| loose.remove(index))
                }
                _ => false,
            };
        }
        Self { seen, loose }
    }
}

/// The operations of one key that matter, in the order in which they were sent.
struct Steps {
    steps: Vec<Step>,
    evidence: Evidence,
    values: HashMap<Value, u32>,
}

impl Steps {
    fn new(operations: &[Operation], until: Tick) -> Self {
        let part: Vec<Operation> = operations
            .iter()
            .filter(|o| o.invoked < until && o.outcome != Outcome::Failed)
            .map(|o| if o.returned > until { Operation { returned: NEVER, ..*o } } else { *o })
            .filter(|o| !matches!(o.action, Action::GetLocal { .. }))
            .collect();
        let mut steps =
            Self { steps: Vec::with_capacity(part.len()), evidence: Evidence::of(&part), values: HashMap::new() };
        for operation in &part {
            let step = match operation.action {
                Action::Write { expected, value } => steps.write(operation, expected, value),
                Action::Get | Action::GetLocal { .. } => steps.read(operation),
            };
            steps.steps.extend(step);
        }
        steps
    }

    fn state(&mut self, value: Value, index: u64) -> State {
        let next = u32::try_from(self.values.len() + 1).expect("there are fewer values than operations");
        State { value: *self.values.entry(value).or_insert(next), index }
    }

    fn read(&mut self, operation: &Operation) -> Option<Step> {
        let Operation { invoked, returned, outcome, .. } = *operation;
        let Outcome::Read { record, .. } = outcome else { return None };
        let state = record.map_or(ABSENT, |record| self.state(record.value, record.mod_index));
        // A reader without an answer proves nothing.
        (returned != NEVER).then_some(Step { invoked, returned, kind: Kind::Looks(state), hint: 0 })
    }

    fn write(&mut self, operation: &Operation, expected: Option<u64>, value: Option<Value>) -> Option<Step> {
        let Operation { invoked, mut returned, outcome, .. } = *operation;
        if let Outcome::Refused { actual, .. } = outcome {
            let kind = if expected == Some(actual) { Kind::Absurd } else { Kind::LooksAtIndex(actual) };
            return (returned != NEVER).then_some(Step { invoked, returned, kind, hint: 0 });
        }
        let told = if let Outcome::Written { index } = outcome { Some(index) } else { None };
        let seen = value.and_then(|value| self.evidence.seen.get(&value).copied());
        let state = match (value, told, seen) {
            (None, _, _) => ABSENT,
            (Some(value), Some(index), _) | (Some(value), None, Some((index, _))) => self.state(value, index),
            (Some(value), None, None) if !self.evidence.loose.is_empty() => self.state(value, UNNAMED),
            (Some(_), None, None) => return None,
        };
        returned = returned.min(seen.map_or(NEVER, |(_, first)| first));
        Some(Step { invoked, returned, kind: Kind::Writes { expected, state }, hint: told.unwrap_or(UNNAMED) })
    }

    /// Positions before which everything was answered before anything after was sent, and the state is certain.
    fn cuts(&self) -> Vec<bool> {
        let mut cuts = vec![false; self.steps.len() + 1];
        let (mut from, mut answered) = (0, 0);
        for (at, step) in self.steps.iter().enumerate() {
            if at > 0 && answered < step.invoked {
                cuts[at] = is_certain(&self.steps[from..at]);
                from = at;
            }
            answered = answered.max(step.returned);
        }
        cuts
    }
}

/// Whether the state after these steps is the same in every order of them.
fn is_certain(steps: &[Step]) -> bool {
    if let [Step { kind: Kind::Writes { state, .. }, .. }] = steps {
        return state.index != UNNAMED;
    }
    let writes = steps.iter().any(|step| matches!(step.kind, Kind::Writes { .. }));
    !writes && steps.iter().any(|step| matches!(step.kind, Kind::Looks(_)))
}

/// One node of the tree: the state there, the step that led to it, and what to try from it.
struct Node {
    state: State,
    placed: Option<usize>,
    next: Vec<usize>,
}

/// The walk over the tree, depth first.
struct Search {
    steps: Steps,
    cuts: Vec<bool>,
    /// A random number per step.
    marks: Vec<u128>,
    /// Steps that are not placed, as a list in both directions; the last position stands for its ends.
    after: Vec<usize>,
    before: Vec<usize>,
    /// How many answered steps are not placed.
    open: usize,
    placed: usize,
    /// How many readers of each value are not placed.
    readers: Vec<usize>,
    set: u128,
    visited: HashSet<u128>,
    forgotten: usize,
}

impl Search {
    fn new(steps: Steps) -> Self {
        let count = steps.steps.len();
        let mut random = Random::from_seed(count as u64);
        let mut readers = vec![0; steps.values.len() + 1];
        for step in &steps.steps {
            if let Kind::Looks(state) = step.kind {
                readers[state.value as usize] += 1;
            }
        }
        Self {
            cuts: steps.cuts(),
            marks: (0..count).map(|_| random.wide()).collect(),
            after: (0..=count).map(|at| (at + 1) % (count + 1)).collect(),
            before: (0..=count).map(|at| (at + count) % (count + 1)).collect(),
            open: steps.steps.iter().filter(|step| step.returned != NEVER).count(),
            placed: 0,
            readers,
            set: 0,
            visited: HashSet::new(),
            forgotten: 0,
            steps,
        }
    }

    fn run(mut self) -> Answer {
        let mut path = vec![Node { state: ABSENT, placed: None, next: self.next(ABSENT) }];
        while self.open > 0 {
            let Some(node) = path.last_mut() else { return Answer::NoOrder };
            let Some(step) = node.next.pop() else {
                let placed = node.placed;
                path.pop();
                placed.into_iter().for_each(|step| self.put_back(step));
                continue;
            };
            let left = node.state;
            let state = self.apply(step, left).expect("only steps that apply are tried");
            self.place(step);
            let lost = left.value != state.value && left != ABSENT && self.readers[left.value as usize] > 0;
            if lost || !self.visited.insert(self.set ^ Self::mark(state)) {
                self.put_back(step);
                continue;
            }
            if self.visited.len() > VISITED_MAX {
                return Answer::OutOfMemory;
            }
            if self.cuts[self.placed] {
                path.clear();
                self.forgotten += self.visited.len();
                self.visited.clear();
            }
            path.push(Node { state, placed: Some(step), next: self.next(state) });
        }
        Answer::Order { configurations: self.forgotten + self.visited.len() }
    }

    /// The state's share of a configuration's 128 bits.
    fn mark(state: State) -> u128 {
        Random::from_seed(u64::from(state.value) ^ Random::from_seed(state.index).bits()).wide()
    }

    /// The state after a step, when the step can happen here.
    fn apply(&self, step: usize, state: State) -> Option<State> {
        let may_be = |index| state.index == UNNAMED && self.steps.evidence.loose.contains(&index);
        match self.steps.steps[step].kind {
            Kind::Looks(found) => (found == state).then_some(state),
            Kind::LooksAtIndex(index) if index == state.index => Some(state),
            Kind::LooksAtIndex(index) => may_be(index).then_some(State { index, ..state }),
            Kind::Writes { expected: Some(expected), .. } if expected != state.index && !may_be(expected) => None,
            Kind::Writes { state, .. } => Some(state),
            Kind::Absurd => None,
        }
    }

    /// What can be placed now, the most promising last: steps that were sent before the first answer that is still out.
    fn next(&self, state: State) -> Vec<usize> {
        let end = self.marks.len();
        let (mut next, mut at) = (Vec::new(), self.after[end]);
        let (mut first_answer, mut removes) = (NEVER, false);
        while at != end && self.steps.steps[at].invoked < first_answer {
            let Step { returned, kind, .. } = self.steps.steps[at];
            first_answer = first_answer.min(returned);
            if let Some(after) = self.apply(at, state) {
                let looks = !matches!(kind, Kind::Writes { .. });
                if looks && after == state {
                    return vec![at];
                }
                let alike = returned == NEVER && matches!(kind, Kind::Writes { expected: None, state: ABSENT });
                let useless = returned == NEVER && after == state || alike && removes;
                removes |= alike;
                if !useless {
                    next.push(at);
                }
            }
            at = self.after[at];
        }
        next.sort_by_key(|at| std::cmp::Reverse((self.steps.steps[*at].hint, *at)));
        next
    }

    fn place(&mut self, step: usize) {
        let (before, after) = (self.before[step], self.after[step]);
        self.after[before] = after;
        self.before[after] = before;
        self.count(step, false);
    }

    /// Undoes [`Search::place`]; steps are put back in the opposite order of placing them.
    fn put_back(&mut self, step: usize) {
        let (before, after) = (self.before[step], self.after[step]);
        self.after[before] = step;
        self.before[after] = step;
        self.count(step, true);
    }

    fn count(&mut self, step: usize, back: bool) {
        let shift = |number: &mut usize| if back { *number += 1 } else { *number -= 1 };
        self.set ^= self.marks[step];
        if self.steps.steps[step].returned != NEVER {
            shift(&mut self.open);
        }
        if let Kind::Looks(state) = self.steps.steps[step].kind {
            shift(&mut self.readers[state.value as usize]);
        }
        if back { self.placed -= 1 } else { self.placed += 1 }
    }
}
