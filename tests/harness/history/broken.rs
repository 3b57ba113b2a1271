//! Histories written by hand: each broken one must be refused under the name of its law, each sound one accepted.

use super::{Action, History, Law, NEVER, Operation, Outcome, Record, Recorder, Tick, Value, index_order, search};

/// One operation: client, moment sent, moment answered, what was asked, what was answered.
type Line = (u32, Tick, Tick, Action, Outcome);

const GET: Action = Action::Get;
const DELETE: Action = Action::Write { expected: None, value: None };

fn put(value: &str) -> Action {
    Action::Write { expected: None, value: Some(Value::of(value.as_bytes())) }
}

fn put_if(expected: u64, value: &str) -> Action {
    Action::Write { expected: Some(expected), value: Some(Value::of(value.as_bytes())) }
}

fn at(index: u64) -> Outcome {
    Outcome::Written { index }
}

fn saw(value: &str, mod_index: u64) -> Outcome {
    Outcome::Read { record: Some(Record { value: Value::of(value.as_bytes()), mod_index }), applied: 0 }
}

fn saw_stamped(value: &str, mod_index: u64, applied: u64) -> Outcome {
    Outcome::Read { record: Some(Record { value: Value::of(value.as_bytes()), mod_index }), applied }
}

const SAW_NOTHING: Outcome = Outcome::Read { record: None, applied: 0 };

fn history(lines: &[Line]) -> History {
    let mut operations: Vec<Operation> = lines
        .iter()
        .map(|&(client, invoked, returned, action, outcome)| Operation {
            client,
            key: 0,
            action,
            outcome,
            invoked,
            returned,
        })
        .collect();
    operations.sort_by_key(|operation| operation.invoked);
    History { keys: vec!["k".to_owned()], operations }
}

/// Both judges refuse it, the first one under this name, and the second one knows where it went wrong.
fn refused_by_both(lines: &[Line], law: Law) {
    refused_by_log(lines, law);
    let history = history(lines);
    let violation = search::check(&history).expect_err("no register could answer so");
    assert_eq!(violation.law, Law::NotLinearizable, "{violation}");
    assert!(violation.operations.len() <= history.operations.len() && !violation.operations.is_empty(), "{violation}");
}

/// The judge that believes the log refuses it under this name; values alone do not contradict it.
fn refused_by_log(lines: &[Line], law: Law) {
    let history = history(lines);
    let violation = index_order::check(&history).expect_err("the log's order is broken");
    assert_eq!(violation.law, law, "{violation}");
    assert_eq!(history.check().expect_err("one judge refuses").law, law);
}

fn accepted(lines: &[Line]) {
    let history = history(lines);
    history.check().unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn a_stale_read_is_refused() {
    let lines = [
        (1, 1, 2, put("a"), at(5)),
        (1, 3, 4, put("b"), at(6)),
        (2, 5, 6, GET, saw("a", 5)),
        (3, 7, 8, GET, saw("b", 6)),
    ];
    refused_by_both(&lines, Law::StaleRead);
}

#[test]
fn a_lost_write_is_refused() {
    let lines = [
        (1, 1, 2, put("a"), at(5)),
        (1, 3, 4, put("b"), at(6)),
        (2, 5, 6, GET, saw("a", 5)),
        (3, 7, 8, GET, saw("a", 5)),
    ];
    refused_by_both(&lines, Law::LostWrite);
    refused_by_both(&[(1, 1, 2, put("a"), at(5)), (2, 3, 4, GET, SAW_NOTHING)], Law::LostWrite);
}

#[test]
fn a_value_that_nobody_wrote_is_refused() {
    refused_by_both(&[(1, 1, 2, put("a"), at(5)), (2, 3, 4, GET, saw("z", 6))], Law::PhantomValue);
}

#[test]
fn a_failed_write_that_is_seen_is_refused() {
    refused_by_both(&[(1, 1, 2, put("a"), Outcome::Failed), (2, 3, 4, GET, saw("a", 5))], Law::FailedWriteSeen);
    let refused = Outcome::Refused { actual: 5, index: 6 };
    let lines = [(1, 1, 2, put("a"), at(5)), (1, 3, 4, put_if(4, "b"), refused), (2, 5, 6, GET, saw("b", 6))];
    refused_by_both(&lines, Law::FailedWriteSeen);
}

#[test]
fn a_record_mixed_of_two_writes_is_refused() {
    let lines = [(1, 1, 2, put("a"), at(5)), (1, 3, 4, put("b"), at(6)), (2, 5, 6, GET, saw("b", 5))];
    refused_by_both(&lines, Law::MixedRecord);
}

#[test]
fn a_condition_that_succeeded_on_a_wrong_index_is_refused() {
    let lines = [(1, 1, 2, put("a"), at(5)), (1, 3, 4, put("b"), at(6)), (2, 5, 6, put_if(5, "c"), at(7))];
    refused_by_both(&lines, Law::ConditionOnWrongIndex);
    refused_by_both(&[(1, 1, 2, put("a"), at(5)), (2, 3, 4, put_if(3, "c"), at(7))], Law::ConditionOnWrongIndex);
    refused_by_both(&[(1, 1, 2, put("a"), at(5)), (2, 3, 4, put_if(0, "c"), at(7))], Law::ConditionOnWrongIndex);
}

#[test]
fn two_conditions_that_succeeded_on_one_index_are_refused() {
    let lines = [(1, 1, 2, put("a"), at(5)), (1, 3, 5, put_if(5, "b"), at(6)), (2, 4, 6, put_if(5, "c"), at(7))];
    refused_by_both(&lines, Law::ConditionHeldTwice);
}

#[test]
fn a_refusal_of_a_condition_that_held_is_refused() {
    let refused = Outcome::Refused { actual: 5, index: 0 };
    refused_by_both(&[(1, 1, 2, put("a"), at(5)), (1, 3, 4, put_if(5, "b"), refused)], Law::RefusedWithoutCause);
}

#[test]
fn a_refusal_that_names_an_index_nobody_wrote_is_refused() {
    let refused = Outcome::Refused { actual: 4, index: 0 };
    refused_by_both(&[(1, 1, 2, put("a"), at(5)), (1, 3, 4, put_if(3, "b"), refused)], Law::IndexNeverWritten);
}

#[test]
fn a_read_that_goes_back_in_time_between_two_clients_is_refused() {
    let lines = [
        (1, 1, 2, put("a"), at(5)),
        (1, 3, 9, put("b"), at(6)),
        (2, 4, 5, GET, saw("b", 6)),
        (3, 6, 7, GET, saw("a", 5)),
    ];
    refused_by_both(&lines, Law::ReadWentBack);
}

#[test]
fn a_removed_record_that_reappears_is_refused() {
    let lines = [
        (1, 1, 2, put("a"), at(5)),
        (1, 3, 4, DELETE, at(6)),
        (2, 5, 6, GET, SAW_NOTHING),
        (2, 7, 8, GET, saw("a", 5)),
    ];
    refused_by_both(&lines, Law::Resurrected);
}

#[test]
fn an_effect_before_its_write_was_sent_is_refused() {
    refused_by_both(&[(2, 1, 2, GET, saw("a", 5)), (1, 3, 4, put("a"), at(5))], Law::EffectOutOfTime);
}

#[test]
fn a_log_that_contradicts_real_time_is_refused() {
    refused_by_log(&[(1, 1, 2, put("a"), at(7)), (2, 3, 4, put("b"), at(5))], Law::EffectOutOfTime);
    let mut two_keys = history(&[(1, 1, 2, put("a"), at(7)), (2, 3, 4, put("b"), at(5))]);
    two_keys.keys.push("l".to_owned());
    two_keys.operations[1].key = 1;
    assert_eq!(two_keys.check().unwrap_err().law, Law::EffectOutOfTime);
}

#[test]
fn an_unknown_write_that_was_seen_and_then_unseen_is_refused() {
    let unknown = (2, 3, NEVER, put("b"), Outcome::Unknown);
    let lines = [(1, 1, 2, put("a"), at(5)), unknown, (3, 4, 5, GET, saw("b", 6)), (3, 6, 7, GET, saw("a", 5))];
    refused_by_both(&lines, Law::UnknownSeenThenUnseen);
    // Nobody read it, but a condition met it.
    let met = (3, 4, 5, put_if(4, "c"), Outcome::Refused { actual: 6, index: 0 });
    let lines = [(1, 1, 2, put("a"), at(5)), unknown, met, (3, 6, 7, GET, saw("a", 5))];
    refused_by_both(&lines, Law::UnknownSeenThenUnseen);
}

#[test]
fn a_retried_write_that_took_effect_twice_is_refused() {
    let lines = [(1, 1, 2, put("a"), at(5)), (2, 3, 4, put("b"), at(6)), (3, 5, 6, GET, saw("a", 7))];
    refused_by_both(&lines, Law::DuplicateEffect);
    let unknown = (1, 1, NEVER, put("a"), Outcome::Unknown);
    let lines = [unknown, (3, 2, 3, GET, saw("a", 5)), (2, 4, 5, put("b"), at(6)), (3, 6, 7, GET, saw("a", 7))];
    refused_by_both(&lines, Law::DuplicateEffect);
}

#[test]
fn two_writes_in_one_entry_are_refused() {
    refused_by_log(&[(1, 1, 2, put("a"), at(5)), (2, 3, 4, put("b"), at(5))], Law::TwoWritesOneIndex);
}

#[test]
fn a_stamp_that_the_answer_contradicts_is_refused() {
    let lines = [(1, 1, 4, put("a"), at(5)), (1, 5, 9, put("b"), at(6)), (2, 6, 8, GET, saw_stamped("a", 5, 6))];
    refused_by_log(&lines, Law::WrongStamp);
    refused_by_log(&[(1, 1, 4, put("a"), at(5)), (2, 5, 8, GET, saw_stamped("a", 5, 4))], Law::WrongStamp);
}

#[test]
fn a_stamp_that_goes_back_is_refused() {
    let mut lines = vec![
        (1, 1, 2, put("a"), at(5)),
        (1, 3, 4, GET, saw_stamped("a", 5, 9)),
        (2, 5, 6, GET, saw_stamped("a", 5, 8)),
    ];
    refused_by_log(&lines, Law::StampWentBack);
    for line in &mut lines[1..] {
        line.3 = Action::GetLocal { copy: 1 };
    }
    refused_by_log(&lines, Law::StampWentBack);
    // Another copy may be behind.
    lines[2].3 = Action::GetLocal { copy: 2 };
    accepted(&lines);
}

#[test]
fn a_copy_may_be_behind_but_shows_the_state_of_its_stamp() {
    let local = Action::GetLocal { copy: 1 };
    let written = [(1, 1, 2, put("a"), at(5)), (1, 3, 4, put("b"), at(6))];
    accepted(&[written[0], written[1], (2, 5, 6, local, saw_stamped("a", 5, 5))]);
    refused_by_log(&[written[0], written[1], (2, 5, 6, local, saw_stamped("a", 5, 6))], Law::WrongStamp);
}

#[test]
fn writes_that_overlap_may_be_seen_in_either_order() {
    let writes = [(1, 1, 9, put("a"), at(5)), (2, 2, 8, put("b"), at(6))];
    accepted(&[writes[0], writes[1], (3, 3, 4, GET, SAW_NOTHING), (3, 10, 11, GET, saw("b", 6))]);
    accepted(&[writes[0], writes[1], (3, 3, 4, GET, saw("a", 5)), (3, 5, 6, GET, saw("b", 6))]);
    // By values either order is possible; the log has decided.
    refused_by_log(&[writes[0], writes[1], (3, 10, 11, GET, saw("a", 5))], Law::LostWrite);
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never() {
    let unknown = (2, 1, NEVER, put("b"), Outcome::Unknown);
    let before = [unknown, (1, 2, 3, put("a"), at(5)), (1, 4, 5, GET, saw("a", 5))];
    accepted(&before);
    accepted(&[before[0], before[1], before[2], (1, 6, 7, GET, saw("b", 6)), (1, 8, 9, put_if(6, "c"), at(7))]);
    let met = (1, 6, 7, put_if(5, "c"), Outcome::Refused { actual: 6, index: 8 });
    accepted(&[before[0], before[1], before[2], met, (1, 8, 9, put_if(6, "d"), at(9))]);
}

#[test]
fn an_unknown_delete_explains_one_absence_and_not_two() {
    let unknown = (2, 3, NEVER, DELETE, Outcome::Unknown);
    let mut lines = vec![(1, 1, 2, put("a"), at(5)), unknown, (3, 4, 5, GET, saw("a", 5)), (3, 6, 7, GET, SAW_NOTHING)];
    accepted(&lines);
    lines.extend([(1, 8, 9, put_if(0, "b"), at(8)), (3, 10, 11, GET, SAW_NOTHING)]);
    let violation = history(&lines).check().unwrap_err();
    assert_eq!(violation.law, Law::NotLinearizable, "{violation}");
    lines.push((4, 9, NEVER, DELETE, Outcome::Unknown));
    accepted(&lines);
}

#[test]
fn an_index_that_only_conditions_name_is_one_unknown_write_sent_before() {
    let refused = |actual| Outcome::Refused { actual, index: 0 };
    let mut lines = vec![
        (1, 1, 2, put("a"), at(5)),
        (2, 3, NEVER, put("b"), Outcome::Unknown),
        (3, 4, 20, put_if(4, "x"), refused(9)),
        (4, 5, 8, put_if(4, "y"), refused(6)),
    ];
    refused_by_both(&lines, Law::IndexNeverWritten);
    lines.push((5, 21, NEVER, put("c"), Outcome::Unknown));
    refused_by_both(&lines, Law::IndexNeverWritten);
    // Sent in time, it is entry 9, and the one before is entry 6, although 9 was asked about first.
    lines[4].1 = 10;
    accepted(&lines);
}

#[test]
fn a_condition_without_an_answer_may_have_held_on_an_unknown_write() {
    let unknown = [(2, 3, NEVER, put("b"), Outcome::Unknown), (3, 4, NEVER, put_if(6, "c"), Outcome::Unknown)];
    accepted(&[(1, 1, 2, put("a"), at(5)), unknown[0], unknown[1], (4, 5, 6, GET, saw("c", 8))]);
    refused_by_both(&[(1, 1, 2, put("a"), at(5)), unknown[1], (4, 5, 6, GET, saw("c", 8))], Law::ConditionOnWrongIndex);
}

#[test]
fn an_absence_must_fit_between_entries_that_are_not_its_neighbours_too() {
    // Entry 6 was answered, so entry 5 is there as well, although its own answer is still out.
    let lines = [(1, 1, 30, put("a"), at(5)), (2, 2, 3, put("b"), at(6)), (3, 4, 10, GET, SAW_NOTHING)];
    refused_by_both(&lines, Law::LostWrite);
    // Entry 6 cannot be there yet, since entry 5 was not even sent.
    let removal = [(1, 3, 30, DELETE, at(6)), (2, 12, 25, put("b"), at(5))];
    refused_by_log(&[(1, 1, 2, put("a"), at(3)), removal[0], removal[1], (3, 4, 10, GET, SAW_NOTHING)], Law::LostWrite);
}

#[test]
fn a_deleted_key_may_be_written_anew() {
    let lines = [
        (1, 1, 2, put_if(0, "a"), at(5)),
        (1, 3, 4, DELETE, at(6)),
        (1, 5, 6, put_if(0, "b"), at(7)),
        (2, 7, 8, GET, saw("b", 7)),
    ];
    accepted(&lines);
    let refused = Outcome::Refused { actual: 7, index: 9 };
    accepted(&[lines[0], lines[1], lines[2], lines[3], (3, 9, 10, put_if(5, "c"), refused)]);
}

#[test]
fn the_shortest_part_without_an_order_is_shown() {
    let mut lines = vec![(1, 1, 2, put("a"), at(5)), (1, 3, 4, put("b"), at(6)), (2, 5, 6, GET, saw("a", 5))];
    for round in 0..100u32 {
        let tick = 10 + 2 * Tick::from(round);
        lines.push((3, tick, tick + 1, GET, saw("b", 6)));
    }
    let violation = search::check(&history(&lines)).unwrap_err();
    assert_eq!(violation.operations, history(&lines[..3]).operations, "{violation}");
}

#[test]
#[should_panic(expected = "one value, two writes")]
fn a_test_that_writes_a_value_twice_is_told_so() {
    let _ = history(&[(1, 1, 2, put("a"), at(5)), (1, 3, 4, put("a"), at(6))]).check();
}

#[test]
fn an_operation_that_is_dropped_is_unknown() {
    let recorder = Recorder::new();
    drop(recorder.invoke(1, "k", put("a")));
    recorder.invoke(1, "k", put("b")).end(Outcome::Unknown);
    recorder.invoke(2, "k", GET).end(saw("a", 5));
    let history = recorder.finish();
    let known: Vec<bool> = history.operations.iter().map(|operation| operation.returned != NEVER).collect();
    assert_eq!(known, [false, false, true]);
    let report = history.check().unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!((report.operations, report.answered, report.unknown, report.keys), (3, 1, 2, 1));
}

#[test]
#[should_panic(expected = "a read that answers as a write")]
fn an_answer_of_another_kind_is_refused_when_it_is_recorded() {
    Recorder::new().invoke(1, "k", GET).end(at(5));
}
