//! A third judge, too slow for anything but a handful of operations and too plain to be wrong: it tries every order.
//! The other two are held against it on thousands of tiny histories, sound and spoiled.

use std::collections::HashSet;

use super::simulated::{Shape, simulate};
use super::{Action, History, NEVER, Operation, Outcome, Record, Tick, Value, index_order, search};
use crate::harness::random::Random;

/// Every other history has lost answers.
const TINY: [Shape; 2] = [
    Shape { clients: 3, keys: 1, operations: 7, lost: 150, copies: 0 },
    Shape { clients: 3, keys: 1, operations: 7, lost: 0, copies: 0 },
];
const HISTORIES: u64 = 30_000;
/// Distance of two moments, for others in between.
const ROOM: Tick = 1 << 20;

/// Value and index; an unknown write that nobody names has no index.
type State = Option<(Value, Option<u64>)>;

struct Orders<'a> {
    operations: &'a [Operation],
    /// Entries must also be in the order of their indexes.
    by_log: bool,
}

impl Orders<'_> {
    fn exist(&self) -> bool {
        self.from(&mut vec![false; self.operations.len()], None, 0)
    }

    fn from(&self, placed: &mut Vec<bool>, state: State, last: u64) -> bool {
        let left = || self.operations.iter().enumerate().filter(|(at, _)| !placed[*at]);
        let first_answer = left().map(|(_, operation)| operation.returned).min().unwrap_or(NEVER);
        if first_answer == NEVER {
            return true;
        }
        let next: Vec<usize> = left().filter(|(_, o)| o.invoked < first_answer).map(|(at, _)| at).collect();
        next.into_iter().any(|at| {
            placed[at] = true;
            let found = self.after(&self.operations[at], state, last).into_iter().any(|(s, l)| self.from(placed, s, l));
            placed[at] = false;
            found
        })
    }

    /// Every state that an operation may lead to, with the last index by then.
    fn after(&self, operation: &Operation, state: State, last: u64) -> Vec<(State, u64)> {
        let index = state.map_or(Some(0), |(_, index)| index);
        let later = |index: u64| !self.by_log || index > last;
        match (operation.action, operation.outcome) {
            (_, Outcome::Read { record, .. }) => {
                let found = record.map(|record| (record.value, Some(record.mod_index)));
                if found == state { vec![(state, last)] } else { vec![] }
            }
            (Action::Write { expected, .. }, Outcome::Refused { actual, index: own }) => {
                let true_to_itself = expected != Some(actual) && index == Some(actual);
                let in_order = own == 0 || later(own);
                if true_to_itself && in_order { vec![(state, last.max(own))] } else { vec![] }
            }
            (Action::Write { expected: Some(expected), .. }, _) if index != Some(expected) => vec![],
            (Action::Write { value, .. }, Outcome::Written { index }) => {
                let state = value.map(|value| (value, Some(index)));
                if later(index) { vec![(state, index)] } else { vec![] }
            }
            (Action::Write { value: None, .. }, _) => vec![(None, last)],
            (Action::Write { value: Some(value), .. }, _) => {
                let indexes = self.indexes_of(value).into_iter().map(Some).chain([None]);
                let fits = indexes.filter(|index| index.is_none_or(later));
                fits.map(|index| (Some((value, index)), index.unwrap_or(last))).collect()
            }
            other => unreachable!("{other:?}"),
        }
    }

    /// Indexes that an unknown write of this value may have: those that a reader saw it at, and those nobody explains.
    fn indexes_of(&self, value: Value) -> HashSet<u64> {
        let (mut own, mut others, mut free) = (HashSet::new(), HashSet::new(), HashSet::new());
        for operation in self.operations {
            match (operation.action, operation.outcome) {
                (_, Outcome::Read { record: Some(record), .. }) if record.value == value => {
                    own.insert(record.mod_index)
                }
                (_, Outcome::Read { record: Some(record), .. }) => others.insert(record.mod_index),
                (_, Outcome::Written { index }) => others.insert(index),
                _ => false,
            };
            match (operation.action, operation.outcome) {
                (_, Outcome::Refused { actual, .. }) => free.insert(actual),
                (Action::Write { expected: Some(expected), .. }, _) => free.insert(expected),
                _ => false,
            };
        }
        own.extend(free.into_iter().filter(|index| *index > 0 && !others.contains(index)));
        own
    }
}

/// Changes an answer or a moment, so that some histories stay sound and others do not.
fn spoil(history: &mut History, random: &mut Random) {
    let records: Vec<Record> = history
        .operations
        .iter()
        .filter_map(|operation| match (operation.action, operation.outcome) {
            (Action::Write { value: Some(value), .. }, Outcome::Written { index }) => {
                Some(Record { value, mod_index: index })
            }
            (Action::Write { value: Some(value), .. }, Outcome::Unknown) => Some(Record { value, mod_index: 4 }),
            (_, Outcome::Read { record, .. }) => record,
            _ => None,
        })
        .collect();
    let record = (!records.is_empty() && random.chance(900)).then(|| *random.pick(&records));
    let index = record.map_or(0, |record| record.mod_index);
    let ends: Vec<Tick> = history.operations.iter().map(|o| o.returned).filter(|tick| *tick != NEVER).collect();
    let at = random.below(history.operations.len());
    let operation = &mut history.operations[at];
    match (&mut operation.action, &mut operation.outcome) {
        (_, Outcome::Read { record: found, .. }) => *found = record,
        (_, Outcome::Refused { actual, .. }) => *actual = index,
        (Action::Write { expected, .. }, Outcome::Written { .. } | Outcome::Unknown) if expected.is_some() => {
            *expected = Some(index);
        }
        (_, Outcome::Written { .. }) if !ends.is_empty() => {
            // Moments are distinct; [`tiny`] leaves room between them.
            operation.returned = operation.invoked.max(*random.pick(&ends)) + 1 + random.bits() % (ROOM - 1);
        }
        _ => {}
    }
}

fn tiny(seed: u64) -> History {
    let mut random = Random::from_seed(seed);
    let mut history = simulate(TINY[random.below(2)], seed);
    for operation in &mut history.operations {
        operation.invoked *= ROOM;
        operation.returned = operation.returned.saturating_mul(ROOM);
    }
    for _ in 0..random.below(4) {
        spoil(&mut history, &mut random);
    }
    for operation in &mut history.operations {
        if let Outcome::Read { applied, .. } = &mut operation.outcome {
            *applied = 0;
        }
    }
    history
}

fn printed(operations: &[Operation]) -> String {
    operations.iter().map(|operation| format!("\n{operation}")).collect()
}

/// What counts in an order: neither failures nor reads without an answer.
fn relevant(history: &History) -> Vec<Operation> {
    let counts = |o: &&Operation| match o.outcome {
        Outcome::Failed => false,
        Outcome::Unknown => matches!(o.action, Action::Write { .. }),
        _ => true,
    };
    history.operations.iter().filter(counts).copied().collect()
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut sound = 0;
    for seed in 0..HISTORIES {
        let history = tiny(seed);
        let operations = relevant(&history);
        let exists = Orders { operations: &operations, by_log: false }.exist();
        let answer = search::check(&history);
        assert_eq!(answer.is_ok(), exists, "seed {seed}: {}", printed(&operations));
        sound += u64::from(exists);
    }
    assert!(sound > HISTORIES / 5 && sound < HISTORIES * 4 / 5, "{sound} sound histories are no test");
}

#[test]
fn the_judge_by_the_log_raises_no_false_alarm_and_misses_nothing_that_it_can_tell() {
    let (mut refused, mut told) = (0, 0);
    for seed in 0..HISTORIES {
        let history = tiny(seed);
        let operations = relevant(&history);
        let exists = Orders { operations: &operations, by_log: true }.exist();
        let answer = index_order::check(&history);
        assert!(answer.is_ok() || !exists, "seed {seed}: {}", answer.unwrap_err());
        refused += u64::from(answer.is_err());
        let open = |o: &Operation| match o.outcome {
            Outcome::Read { record, .. } => record.is_none(),
            Outcome::Refused { actual, index } => actual == 0 && index == 0,
            Outcome::Written { .. } | Outcome::Failed => false,
            Outcome::Unknown => true,
        };
        if !operations.iter().any(open) {
            told += 1;
            assert_eq!(answer.is_ok(), exists, "seed {seed}: {}", printed(&operations));
        }
    }
    assert!(refused > HISTORIES / 5 && told > HISTORIES / 20, "{refused} refused, {told} told: no test");
}
