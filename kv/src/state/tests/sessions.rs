//! A retry is never a second write, and what is remembered for that is bounded, alike on every node.

use cinnabar_kv_api::limits::{SESSION_ANSWERS_MAX, SESSIONS_MAX};

use super::super::sessions::Session;
use super::*;

fn write_as(who: u64, sequence: u64, answered_below: u64, ops: Vec<Op>) -> Bytes {
    command(&Command::Write(Write { client: client(who), sequence, answered_below, conditions: Vec::new(), ops }))
}

fn one(writer: &mut StateWriter, tape: &mut Tape, payload: Bytes) -> Outcome {
    writer.apply_range(&[tape.entry(payload)]).unwrap().outcomes.remove(0)
}

#[test]
fn a_retry_gets_the_first_answer_and_changes_nothing() {
    let engine = memory();
    let (state, mut writer, mut tape) = named(&engine);
    let condition = Condition { key: key("a"), mod_index: 99 };
    let unmet = Write { conditions: vec![condition], ..write_of(2, vec![put("a", "3")]) };
    let payloads = [write_as(0, 1, 0, vec![put("a", "1")]), command(&Command::Write(unmet))];
    let first: Vec<_> = payloads.iter().map(|payload| one(&mut writer, &mut tape, payload.clone())).collect();
    assert!(matches!(first[1], Outcome::Unmet { index: 3, condition: 0, actual: 2 }));
    one(&mut writer, &mut tape, write_as(1, 1, 0, vec![put("a", "other")]));
    let hash = state.point().state_hash;
    for _ in 0..2 {
        let again = one(&mut writer, &mut tape, payloads[1].clone());
        assert_eq!(again, first[1]);
    }
    // The second write said that the first was answered, so a retry of that one can only be late.
    let late = one(&mut writer, &mut tape, payloads[0].clone());
    assert!(matches!(late, Outcome::Refused { refusal: Refusal::AnsweredBefore, .. }));
    assert_eq!(state.point().state_hash, hash);
    assert_eq!(state.get(b"a").unwrap().record.unwrap().value, &b"other"[..]);
    // All of it over a restart.
    state.make_durable().unwrap();
    drop((state, writer));
    let (state, mut writer) = open(&engine);
    assert_eq!(one(&mut writer, &mut tape, payloads[1].clone()), first[1]);
    assert_eq!(state.point().state_hash, hash);
}

#[test]
fn a_retry_within_one_range_is_known_too() {
    let (state, mut writer, mut tape) = named(&memory());
    let payload = write_as(0, 1, 0, vec![put("a", "1")]);
    let range = writer.apply_range(&tape.entries(&[payload.clone(), payload])).unwrap();
    assert_eq!(range.outcomes, [Outcome::Written { index: 2 }, Outcome::Written { index: 2 }]);
    assert_eq!(range.changes.len(), 1);
    assert_eq!(state.get(b"a").unwrap().record.unwrap().mod_index, 2);
}

#[test]
fn as_many_answers_as_the_bound_are_kept_and_an_older_one_is_refused() {
    let (_state, mut writer, mut tape) = named(&memory());
    let many = SESSION_ANSWERS_MAX as u64;
    let payloads: Vec<_> = (1..=many).map(|n| write_as(0, n, 0, vec![put("a", "1")])).collect();
    let first = writer.apply_range(&tape.entries(&payloads)).unwrap().outcomes;
    assert_eq!(one(&mut writer, &mut tape, payloads[0].clone()), first[0]);
    one(&mut writer, &mut tape, write_as(0, many + 1, 0, vec![put("a", "2")]));
    let forgotten = one(&mut writer, &mut tape, payloads[0].clone());
    assert!(matches!(forgotten, Outcome::Refused { refusal: Refusal::AnsweredBefore, .. }));
    assert_eq!(one(&mut writer, &mut tape, payloads[1].clone()), first[1]);
}

#[test]
fn the_client_that_wrote_longest_ago_is_forgotten_first() {
    let engine = memory();
    let (state, mut writer, mut tape) = named(&engine);
    let clients = SESSIONS_MAX as u64;
    let mut payloads: Vec<_> =
        (0..clients).map(|who| write_as(who, 5, 5, vec![put("a", who.to_be_bytes().to_vec())])).collect();
    // Client 0 writes again, so client 1 is now the one that wrote longest ago.
    payloads.push(write_as(0, 6, 6, vec![put("a", "again")]));
    for range in tape.entries(&payloads).chunks(256) {
        writer.apply_range(range).unwrap();
    }
    let kept = |writer: &StateWriter| {
        let (id, _, sessions) = writer.open_dump().unwrap();
        state.close_scan(id);
        sessions.into_iter().map(|(client, _)| client).collect::<Vec<_>>()
    };
    assert_eq!(kept(&writer).len(), SESSIONS_MAX);
    one(&mut writer, &mut tape, write_as(clients, 1, 1, vec![put("b", "1")]));
    let expected: Vec<_> = (0..=clients).filter(|who| *who != 1).map(client).collect();
    assert_eq!(kept(&writer), expected);
    // A forgotten client starts anew, also when it is forgotten and comes back within one range.
    let back = [write_as(clients + 1, 1, 1, vec![put("b", "2")]), write_as(2, 5, 5, vec![put("b", "3")])];
    let outcomes = writer.apply_range(&tape.entries(&back)).unwrap().outcomes;
    assert_eq!(outcomes[1], Outcome::Written { index: tape.last.index });
    let (id, point, sessions) = writer.open_dump().unwrap();
    state.close_scan(id);
    assert_eq!(sessions.len(), SESSIONS_MAX);
    assert_eq!(point.state_hash, recomputed(&contents(&state), &sessions));
    state.make_durable().unwrap();
    let reopened = open(&engine).0.point();
    assert_eq!(reopened, state.point());
}

#[test]
fn the_largest_session_can_be_read_back() {
    let mut session = Session::default();
    for sequence in 0..2 * SESSION_ANSWERS_MAX as u64 {
        let index = u64::MAX - sequence;
        let outcome = Outcome::Unmet { index, condition: u32::MAX, actual: u64::MAX };
        session.answer(index, u64::MAX - 600 + sequence, 0, outcome);
    }
    assert_eq!(session.answers.len(), SESSION_ANSWERS_MAX);
    assert_eq!(Session::decode(&session.encode()).unwrap(), session);
    let refused = [&session.encode()[..], &[0]].concat();
    assert!(Session::decode(&refused).is_err());
}
