//! Applying is total and deterministic: random entries, cut into ranges in different ways, over both engines and over
//! restarts, always give what a model of maps gives.

use cinnabar_kv_api::limits::{
    BATCH_CONDITIONS_MAX, BATCH_OPS_MAX, KEY_BYTES_MAX, RECORD_BYTES_MAX, SESSION_ANSWERS_MAX, SESSIONS_MAX,
};
use proptest::prelude::*;

use super::super::sessions::Session;
use super::*;
use crate::limits::{BATCH_RECORDS, INLINE_BYTES_MAX, PIECE_BYTES};
use crate::state::meta::MEMBERSHIP_BYTES_MAX;

#[derive(Debug, Clone, Default)]
struct Model {
    named: bool,
    membership: Option<(LogPoint, Bytes)>,
    records: BTreeMap<Bytes, Record>,
    sessions: BTreeMap<ClientId, Session>,
}

impl Model {
    fn apply(&mut self, entry: &LogEntry) -> Outcome {
        let index = entry.point.index;
        let refused = |refusal| Outcome::Refused { index, refusal };
        match entry.payload.first() {
            Some(&Entry::BLANK) => return Outcome::Done { index },
            Some(&Entry::MEMBERSHIP) if entry.payload.len() - 1 <= MEMBERSHIP_BYTES_MAX => {
                self.membership = Some((entry.point, entry.payload.slice(1..)));
                return Outcome::Done { index };
            }
            Some(&Entry::COMMAND) => {}
            _ => return refused(Refusal::Malformed),
        }
        match Command::decode(&entry.payload[1..]) {
            Err(_) => refused(Refusal::Malformed),
            Ok(Command::Genesis { .. }) if self.named => refused(Refusal::SecondGenesis),
            Ok(Command::Genesis { .. }) => {
                self.named = true;
                Outcome::Done { index }
            }
            Ok(_) if !self.named => refused(Refusal::NoGenesis),
            Ok(Command::AllocateNode) => Outcome::Done { index },
            Ok(Command::Write(write)) => self.write(index, write),
        }
    }

    fn write(&mut self, index: u64, write: Write) -> Outcome {
        if let Some(session) = self.sessions.get(&write.client) {
            if let Some(answer) = session.answers.get(&write.sequence) {
                return answer.clone();
            }
            if write.sequence < session.answered_below {
                return Outcome::Refused { index, refusal: Refusal::AnsweredBefore };
            }
        }
        let actual = |key: &Key| self.records.get(key.as_bytes()).map_or(0, |record| record.mod_index);
        let unmet = (0..).zip(&write.conditions).find(|(_, c)| actual(&c.key) != c.mod_index);
        let unmet = unmet.map(|(condition, c)| Outcome::Unmet { index, condition, actual: actual(&c.key) });
        let outcome = unmet.unwrap_or_else(|| {
            for op in &write.ops {
                match op {
                    Op::Put { key, value } => {
                        self.records.insert(key.to_bytes(), Record { mod_index: index, value: value.clone() })
                    }
                    Op::Delete { key } => self.records.remove(key.as_bytes()),
                };
            }
            Outcome::Written { index }
        });
        let session = self.sessions.entry(write.client).or_default();
        session.last_index = index;
        session.answers.insert(write.sequence, outcome.clone());
        let below = session.answered_below.max(write.answered_below.min(write.sequence));
        session.answered_below = below;
        session.answers.retain(|sequence, _| *sequence >= below);
        if session.answers.len() > SESSION_ANSWERS_MAX {
            let (oldest, _) = session.answers.pop_first().unwrap();
            session.answered_below = oldest + 1;
        }
        if self.sessions.len() > SESSIONS_MAX {
            let oldest = *self.sessions.iter().min_by_key(|(_, session)| session.last_index).unwrap().0;
            self.sessions.remove(&oldest);
        }
        outcome
    }

    fn hash(&self) -> StateHash {
        let record = |session: &Session| Record { mod_index: session.last_index, value: session.encode() };
        let sessions: Vec<_> = self.sessions.iter().map(|(client, session)| (*client, record(session))).collect();
        recomputed(&self.records, &sessions)
    }

    fn check(&self, state: &State, writer: &StateWriter) {
        let point = state.point();
        let found = contents(state);
        assert_eq!(found, self.records);
        for (key, record) in &self.records {
            assert_eq!(state.get(key).unwrap().record.as_ref(), Some(record));
        }
        for absent in [&b"absent"[..], b"k", b"m", b"s", b"\0"] {
            assert_eq!(state.get(absent).unwrap().record.as_ref(), self.records.get(absent));
        }
        assert_eq!(point.state_hash, self.hash());
        let (id, dump_point, sessions) = writer.open_dump().unwrap();
        state.close_scan(id);
        assert_eq!(dump_point, point);
        assert_eq!(point.state_hash, recomputed(&found, &sessions));
        assert_eq!(point.records, self.records.len() as u64);
        let bytes: usize = self.records.iter().map(|(key, record)| key.len() + record.value.len()).sum();
        assert_eq!(point.record_bytes, bytes as u64);
        assert_eq!(point.membership, self.membership);
        assert_eq!(point.store.is_some(), self.named);
        assert_eq!(state.applied_index(), point.applied.index);
    }
}

/// What the model says after each entry, the empty model first.
fn run_model(entries: &[LogEntry]) -> (Vec<Model>, Vec<Outcome>) {
    let mut models = vec![Model::default()];
    let mut outcomes = Vec::new();
    for entry in entries {
        let mut model = models.last().unwrap().clone();
        outcomes.push(model.apply(entry));
        models.push(model);
    }
    (models, outcomes)
}

/// Applies entries in ranges of these lengths, again and again; gives the ends of ranges too.
fn apply(
    writer: &mut StateWriter,
    entries: &[LogEntry],
    lengths: &[usize],
) -> Result<(Vec<Outcome>, Vec<u64>), StoreError> {
    let (mut outcomes, mut ends) = (Vec::new(), vec![entries.first().map_or(0, |entry| entry.point.index - 1)]);
    let mut rest = entries;
    for length in lengths.iter().cycle() {
        let (range, after) = rest.split_at((*length).min(rest.len()));
        let Some(last) = range.last() else { break };
        outcomes.extend(writer.apply_range(range)?.outcomes);
        ends.push(last.point.index);
        rest = after;
    }
    Ok((outcomes, ends))
}

// === What entries may hold ===

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (0..6u8).prop_map(|n| vec![b'a' + n]),
        2 => (0..3u8).prop_map(|n| vec![b'a', n]),
        1 => Just(vec![0]),
        1 => Just(vec![0xff; KEY_BYTES_MAX]),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    let edges = [
        0,
        1,
        INLINE_BYTES_MAX,
        INLINE_BYTES_MAX + 1,
        PIECE_BYTES,
        PIECE_BYTES + 1,
        2 * PIECE_BYTES,
        20 * 1024,
        RECORD_BYTES_MAX - KEY_BYTES_MAX,
    ];
    let length = prop_oneof![3 => 0..100usize, 2 => proptest::sample::select(edges.to_vec())];
    (length, any::<u8>()).prop_map(|(length, fill)| vec![fill; length].into())
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![3 => (name(), value()).prop_map(|(n, v)| put(n, v)), 1 => name().prop_map(delete)]
}

fn a_write() -> impl Strategy<Value = Bytes> {
    let condition = (name(), prop_oneof![1 => Just(0), 2 => 1..40u64])
        .prop_map(|(name, mod_index)| Condition { key: key(name), mod_index });
    let conditions = prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(condition, 1..3)];
    let ops = proptest::collection::vec(op(), 1..5);
    (0..4u64, 1..20u64, 0..20u64, conditions, ops).prop_map(|(who, sequence, answered_below, conditions, ops)| {
        command(&Command::Write(Write { client: client(who), sequence, answered_below, conditions, ops }))
    })
}

fn payload() -> impl Strategy<Value = Bytes> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
    prop_oneof![
        20 => a_write(),
        2 => (a_write(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(payload, at, byte)| {
            let mut payload = payload.to_vec();
            let at = at.index(payload.len().min(120));
            payload[at] = byte;
            payload.into()
        }),
        1 => Just(genesis()),
        1 => Just(command(&Command::AllocateNode)),
        1 => Just(Bytes::from_static(&[Entry::BLANK])),
        1 => bytes().prop_map(|body| [&[Entry::MEMBERSHIP][..], &body].concat().into()),
        1 => bytes().prop_map(|body| [&[Entry::COMMAND][..], &body].concat().into()),
        1 => bytes().prop_map(Bytes::from),
    ]
}

fn payloads() -> impl Strategy<Value = Vec<Bytes>> {
    (0..4usize, proptest::collection::vec(payload(), 1..60)).prop_map(|(before, mut payloads)| {
        // Now and then entries come before the store has its name.
        payloads.insert(before.min(payloads.len()), genesis());
        payloads
    })
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1..25usize, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn however_the_log_is_cut_into_ranges_the_state_is_the_models(payloads in payloads(), one in lengths(), other in lengths()) {
        let entries = Tape::default().entries(&payloads);
        let (models, expected) = run_model(&entries);
        let dir = tempfile::tempdir().unwrap();
        for (engine, lengths, options) in
            [(memory(), &one, SMALL_CACHE), (memory(), &other, LARGE_CACHE), (sled(dir.path()), &other, SMALL_CACHE)]
        {
            let (state, mut writer) = State::open(engine, options).unwrap();
            let (outcomes, ends) = apply(&mut writer, &entries, lengths).unwrap();
            prop_assert_eq!(&outcomes, &expected);
            prop_assert_eq!(*ends.last().unwrap(), entries.len() as u64);
            models.last().unwrap().check(&state, &writer);
        }
    }

    #[test]
    fn after_a_restart_the_state_is_the_one_that_was_made_durable(payloads in payloads(), lengths in lengths()) {
        let entries = Tape::default().entries(&payloads);
        let (models, _) = run_model(&entries);
        let dir = tempfile::tempdir().unwrap();
        for on_disk in [false, true] {
            let mut engine = if on_disk { sled(dir.path()) } else { memory() };
            let (state, mut writer) = open(&engine);
            apply(&mut writer, &entries, &lengths).unwrap();
            prop_assert_eq!(state.make_durable().unwrap(), entries.len() as u64);
            prop_assert_eq!(state.durable_index(), entries.len() as u64);
            prop_assert_eq!(state.pending_bytes(), 0);
            let point = state.point();
            drop((state, writer));
            if on_disk {
                drop(engine);
                engine = sled(dir.path());
            }
            let (state, writer) = open(&engine);
            prop_assert_eq!(state.point(), point);
            models.last().unwrap().check(&state, &writer);
        }
    }

    #[test]
    fn after_a_crash_the_state_is_an_earlier_one_and_the_log_completes_it(
        payloads in payloads(), one in lengths(), other in lengths(), commits in 0..8usize,
    ) {
        let entries = Tape::default().entries(&payloads);
        let (models, expected) = run_model(&entries);
        let dir = tempfile::tempdir().unwrap();
        for on_disk in [false, true] {
            let mut engine = if on_disk { sled(dir.path()) } else { memory() };
            let (state, mut writer) = open(&Failing::after(commits, &engine));
            let mut ends = vec![0];
            let mut rest = &entries[..];
            for length in one.iter().cycle() {
                let (range, after) = rest.split_at((*length).min(rest.len()));
                // An error means that the disk is full; what was applied until then is readable or lost.
                let Some(last) = range.last() else { break };
                ends.push(last.point.index);
                if writer.apply_range(range).is_err() {
                    break;
                }
                rest = after;
            }
            drop((state, writer));
            if on_disk {
                drop(engine);
                engine = sled(dir.path());
            }
            let (state, mut writer) = open(&engine);
            let applied = usize::try_from(state.applied_index()).unwrap();
            prop_assert!(ends.contains(&(applied as u64)), "{} is not the end of a range", applied);
            models[applied].check(&state, &writer);
            let (outcomes, _) = apply(&mut writer, &entries[applied..], &other).unwrap();
            prop_assert_eq!(&outcomes[..], &expected[applied..]);
            models.last().unwrap().check(&state, &writer);
        }
    }
}

#[test]
fn changes_name_each_key_of_an_entry_once_in_the_order_of_its_last_operation() {
    let (_state, mut writer, mut tape) = named(&memory());
    let changes = |writer: &mut StateWriter, tape: &mut Tape, writes: Vec<Vec<Op>>| {
        let first = tape.last.index + 1;
        let payloads: Vec<_> = (first..).zip(writes).map(|(sequence, ops)| write(sequence, ops)).collect();
        writer.apply_range(&tape.entries(&payloads)).unwrap().changes
    };
    let change = |key: &str, value: Option<&str>| Change {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
    };
    let found = changes(
        &mut writer,
        &mut tape,
        vec![
            vec![put("a", "1"), put("b", "2"), put("a", "3"), delete("none")],
            vec![delete("none")],
            vec![delete("a"), delete("b"), put("c", "4"), put("b", "5"), delete("c"), put("a", "6"), delete("a")],
        ],
    );
    let expected = [
        Changes { index: 2, changes: vec![change("b", Some("2")), change("a", Some("3"))] },
        Changes { index: 4, changes: vec![change("b", Some("5")), change("c", None), change("a", None)] },
    ];
    assert_eq!(found, expected);
    // The same over two ranges: what the first wrote is not mistaken for what this entry wrote.
    let found = changes(&mut writer, &mut tape, vec![vec![put("b", "7"), delete("a")], vec![delete("b")]]);
    assert_eq!(
        found,
        [
            Changes { index: 5, changes: vec![change("b", Some("7"))] },
            Changes { index: 6, changes: vec![change("b", None)] },
        ]
    );
}

#[test]
fn bounds_hold_at_the_limit_and_are_refused_beyond() {
    let engine = memory();
    let (state, mut writer, mut tape) = named(&engine);
    let mut sequence = 0;
    let mut outcome = |ops: Vec<Op>, conditions: usize| {
        sequence += 1;
        let condition = Condition { key: key("absent"), mod_index: 0 };
        let write = Write { conditions: vec![condition; conditions], ..write_of(sequence, ops) };
        let entry = tape.entry(command(&Command::Write(write)));
        writer.apply_range(&[entry]).unwrap().outcomes.remove(0)
    };
    let fits = |outcome: Outcome| matches!(outcome, Outcome::Written { .. });
    let refused = |outcome: Outcome| matches!(outcome, Outcome::Refused { refusal: Refusal::Malformed, .. });
    let many = |count: usize| (0..count).map(|n| put(n.to_be_bytes(), "v")).collect::<Vec<_>>();
    let longest = vec![b'x'; KEY_BYTES_MAX];
    let largest = RECORD_BYTES_MAX - KEY_BYTES_MAX;
    assert!(fits(outcome(many(BATCH_OPS_MAX), 0)));
    assert!(refused(outcome(many(BATCH_OPS_MAX + 1), 0)));
    assert!(refused(outcome(Vec::new(), 0)));
    assert!(fits(outcome(many(1), BATCH_CONDITIONS_MAX)));
    assert!(refused(outcome(many(1), BATCH_CONDITIONS_MAX + 1)));
    assert!(fits(outcome(vec![put(&longest, vec![1; largest])], 0)));
    assert!(refused(outcome(vec![put(&longest, vec![2; largest + 1])], 0)));
    state.make_durable().unwrap();
    assert_eq!(state.get(&longest).unwrap().record.unwrap().value, vec![1; largest]);
    let membership = |length: usize| [&[Entry::MEMBERSHIP][..], &vec![3; length]].concat();
    let entries = tape.entries(&[membership(MEMBERSHIP_BYTES_MAX).into(), membership(MEMBERSHIP_BYTES_MAX + 1).into()]);
    let outcomes = writer.apply_range(&entries).unwrap().outcomes;
    assert!(matches!(outcomes[0], Outcome::Done { .. }) && refused(outcomes[1].clone()));
    state.make_durable().unwrap();
    let point = state.point();
    assert_eq!(point.membership.as_ref().unwrap().1.len(), MEMBERSHIP_BYTES_MAX);
    drop((state, writer));
    assert_eq!(open(&engine).0.point(), point, "what was accepted can be read back");
}

#[test]
fn a_range_that_was_staged_and_not_committed_ends_the_writer() {
    let (state, mut writer, mut tape) = named(&memory());
    let point = state.point();
    let staged = writer.stage(&[tape.entry(write(1, vec![put("a", "1")]))]).unwrap();
    assert_ne!(staged.point.state_hash, point.state_hash);
    assert_eq!(state.get(b"a").unwrap().record, None);
    drop(staged);
    assert!(writer.stage(&[tape.entry(write(2, vec![put("b", "1")]))]).is_err());
    assert_eq!(state.point(), point);
}

#[test]
fn once_the_engine_has_failed_nothing_is_applied_or_called_durable() {
    let engine = memory();
    let (state, mut writer) = open(&Failing::after(1, &engine));
    let mut tape = Tape::default();
    writer.apply_range(&[tape.entry(genesis())]).unwrap();
    assert_eq!(state.make_durable().unwrap(), 1);
    let _ = writer.apply_range(&[tape.entry(write(1, vec![put("a", "1")]))]);
    assert!(state.make_durable().is_err());
    assert!(state.failed());
    assert!(writer.apply_range(&[tape.entry(write(2, vec![put("a", "2")]))]).is_err());
    assert!(writer.apply_range(&[tape.entry(write(3, vec![put("a", "3")]))]).is_err());
    assert!(state.make_durable().is_err());
    assert_eq!(state.durable_index(), 1);
    drop((state, writer));
    assert_eq!(open(&engine).0.applied_index(), 1);
}

#[test]
fn a_dropped_state_leaves_its_engine_alone() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        // The folder is locked while any thread holds the engine.
        let (_state, mut writer) = open(&sled(dir.path()));
        let mut tape = Tape { last: writer.state().point().applied };
        let payload =
            if tape.last.index == 0 { genesis() } else { write(tape.last.index, vec![put("a", vec![1; 50_000])]) };
        writer.apply_range(&[tape.entry(payload)]).unwrap();
    }
}

#[test]
fn ranges_that_share_a_batch_leave_the_last_of_them() {
    let engine = memory();
    let (state, mut writer, mut tape) = named(&engine);
    // Each range alone is more than half a batch, together they are one or two; lengths of values go up and down.
    for (sequence, length) in (1..).zip([0, 60_000, 10, 20_000, 5_000, 4_096, 30_000, 1]) {
        let ops = (0..BATCH_RECORDS / 2 - 10).map(|n| put(format!("{n:03}"), vec![1; if n == 0 { length } else { 3 }]));
        writer.apply_range(&[tape.entry(write(sequence, ops.collect()))]).unwrap();
        if sequence % 3 == 0 {
            state.make_durable().unwrap();
        }
    }
    state.make_durable().unwrap();
    let pieces = engine.range(b"p", b"p", 1000).unwrap();
    assert!(pieces.is_empty(), "{} pieces of values that are gone", pieces.len());
    assert_eq!(state.get(b"000").unwrap().record.unwrap().value.len(), 1);
}
