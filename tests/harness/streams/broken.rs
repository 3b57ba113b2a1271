//! Streams written by hand: each broken one must be refused under the name of its law, each sound one accepted.

use super::{Event, Ledger, StreamLaw, Tail, TailItem, Value, Watch, WatchItem, check_tails};
use crate::harness::history::{Action, Outcome, Recorder};

fn event(key: &str, value: &str) -> Event {
    Event { key: key.to_owned(), value: Some(Value::of(value.as_bytes())) }
}

/// Entries 3, 5 and 8 under `a/`, 4 elsewhere, 6 in both; the log's other entries are its own.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new();
    ledger.commit(3, vec![event("a/1", "x3")]);
    ledger.commit(4, vec![event("b/1", "x4")]);
    ledger.commit(5, vec![event("a/2", "x5")]);
    ledger.commit(6, vec![event("a/1", "x6"), event("b/2", "x6"), event("a/3", "x6")]);
    ledger.commit(8, vec![Event { key: "a/1".to_owned(), value: None }]);
    ledger
}

fn open(after: u64) -> WatchItem {
    WatchItem::Opened { after }
}

fn progress(applied: u64) -> WatchItem {
    WatchItem::Progress { applied }
}

/// An entry of [`ledger`] as it should come.
fn entry(index: u64) -> WatchItem {
    let events = super::under(&ledger().entries[&index].events, "a/");
    WatchItem::Changes { index, events }
}

fn watch(items: &[WatchItem]) -> Watch {
    Watch { name: "watcher".to_owned(), prefix: "a/".to_owned(), items: items.to_vec() }
}

fn accepted(items: &[WatchItem]) {
    ledger().check_watches(&[watch(items)], 9).unwrap_or_else(|fault| panic!("{fault}"));
}

/// Refused under this name, at this message.
fn refused(items: &[WatchItem], law: StreamLaw, item: usize) {
    let fault = ledger().check_watches(&[watch(items)], 9).expect_err("the stream is broken");
    assert_eq!((fault.law, fault.item), (law, item), "{fault}");
}

#[test]
fn sound_watches_are_accepted() {
    accepted(&[open(0), entry(3), entry(5), entry(6), entry(8)]);
    accepted(&[
        open(0),
        progress(2),
        entry(3),
        progress(4),
        progress(4),
        entry(5),
        entry(6),
        progress(7),
        entry(8),
        progress(9),
    ]);
    accepted(&[open(5), entry(6), entry(8)]);
    accepted(&[open(8)]);
    // Resumed at a node that is behind.
    accepted(&[open(0), entry(3), entry(5), open(5), progress(4), progress(5), entry(6), entry(8)]);
}

#[test]
fn a_watch_resumes_where_it_was_or_earlier() {
    accepted(&[open(0), entry(3), open(3), entry(5), progress(5), open(5), entry(6), entry(8)]);
    accepted(&[open(0), entry(3), entry(5), open(3), entry(5), entry(6), entry(8)]);
    refused(&[open(0), entry(3), open(3), entry(6), entry(8)], StreamLaw::Gap, 3);
    refused(&[open(0), entry(3), entry(5), open(5), entry(5), entry(6), entry(8)], StreamLaw::Repeated, 4);
    refused(&[open(0), entry(3), entry(5), open(5), entry(3), entry(6), entry(8)], StreamLaw::Repeated, 4);
}

#[test]
#[should_panic(expected = "resumed after 5")]
fn a_watcher_that_skips_by_itself_is_told_so() {
    accepted(&[open(0), entry(3), open(5), entry(6), entry(8)]);
}

#[test]
fn an_entry_left_out_is_refused() {
    refused(&[open(0), entry(3), entry(6), entry(8)], StreamLaw::Gap, 2);
    refused(&[open(0), entry(5), entry(6), entry(8)], StreamLaw::Gap, 1);
    refused(&[open(0), entry(3), entry(5), entry(6)], StreamLaw::Unfinished, 4);
}

#[test]
fn an_entry_twice_or_out_of_order_is_refused() {
    refused(&[open(0), entry(3), entry(3), entry(5)], StreamLaw::Repeated, 2);
    refused(&[open(0), entry(3), entry(5), entry(3)], StreamLaw::Repeated, 3);
    let late = WatchItem::Changes { index: 4, events: vec![event("a/9", "late")] };
    refused(&[open(0), entry(3), entry(5), late], StreamLaw::OutOfOrder, 3);
}

#[test]
fn an_entry_that_nobody_wrote_is_refused() {
    let phantom = WatchItem::Changes { index: 4, events: vec![event("a/9", "z")] };
    refused(&[open(0), entry(3), WatchItem::Changes { index: 9, events: vec![event("a/9", "z")] }], StreamLaw::Gap, 2);
    let mut other = ledger();
    other.entries.remove(&4);
    let fault = other.check_watches(&[watch(&[open(0), entry(3), phantom])], 9).unwrap_err();
    assert_eq!((fault.law, fault.item), (StreamLaw::Phantom, 2), "{fault}");
}

#[test]
fn part_of_an_entry_or_another_content_is_refused() {
    let half = WatchItem::Changes { index: 6, events: vec![event("a/1", "x6")] };
    refused(&[open(5), half, entry(8)], StreamLaw::WrongChanges, 1);
    let swapped = WatchItem::Changes { index: 6, events: vec![event("a/3", "x6"), event("a/1", "x6")] };
    refused(&[open(5), swapped, entry(8)], StreamLaw::WrongChanges, 1);
    let old = WatchItem::Changes { index: 5, events: vec![event("a/2", "x4")] };
    refused(&[open(3), old, entry(6)], StreamLaw::WrongChanges, 1);
}

#[test]
fn a_change_outside_the_prefix_is_refused() {
    let all = WatchItem::Changes { index: 6, events: ledger().entries[&6].events.clone() };
    refused(&[open(5), all, entry(8)], StreamLaw::OutsidePrefix, 1);
}

#[test]
fn progress_ahead_of_a_missing_event_is_refused() {
    refused(&[open(0), entry(3), progress(5), entry(5)], StreamLaw::ProgressAhead, 2);
    refused(&[open(0), progress(3), entry(3)], StreamLaw::ProgressAhead, 1);
    // An event that nobody had to expect still may not come behind the promise that none will.
    let mut other = ledger();
    other.unknown(vec![event("a/9", "u")]);
    let late = WatchItem::Changes { index: 7, events: vec![event("a/9", "u")] };
    let items = [open(6), progress(7), late, entry(8)];
    let fault = other.check_watches(&[watch(&items)], 9).unwrap_err();
    assert_eq!((fault.law, fault.item), (StreamLaw::ProgressAhead, 1), "{fault}");
}

#[test]
fn progress_that_goes_back_is_refused() {
    refused(&[open(0), entry(3), progress(4), progress(3)], StreamLaw::ProgressWentBack, 3);
    refused(&[open(0), entry(3), progress(2)], StreamLaw::ProgressWentBack, 2);
}

#[test]
fn a_watch_gives_up_only_for_cause_and_then_ends() {
    let resync = |oldest| WatchItem::Resync { oldest };
    accepted(&[open(0), resync(5), open(5), entry(6), entry(8)]);
    refused(&[open(5), resync(5)], StreamLaw::ResyncWithoutCause, 1);
    refused(&[open(0), resync(5), entry(6)], StreamLaw::ResyncWithoutCause, 2);
}

#[test]
fn an_unknown_write_that_one_watcher_saw_is_owed_to_all() {
    let mut ledger = ledger();
    ledger.unknown(vec![event("a/9", "u")]);
    let seen = WatchItem::Changes { index: 7, events: vec![event("a/9", "u")] };
    let with = watch(&[open(5), entry(6), seen.clone(), entry(8)]);
    let without = watch(&[open(5), entry(6), entry(8)]);
    ledger.clone().check_watches(&[with.clone(), with.clone()], 9).unwrap_or_else(|fault| panic!("{fault}"));
    ledger.clone().check_watches(&[without.clone(), without.clone()], 9).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(ledger.clone().check_watches(&[without, with], 9).unwrap_err().law, StreamLaw::Gap);
    // It took effect once: at a second index it is nobody's.
    let again = WatchItem::Changes { index: 9, events: vec![event("a/9", "u")] };
    let twice = watch(&[open(5), entry(6), seen, entry(8), again]);
    assert_eq!(ledger.check_watches(&[twice], 9).unwrap_err().law, StreamLaw::Phantom);
}

#[test]
fn a_ledger_of_a_history_owes_what_surely_changed_something() {
    let value = |text: &str| Some(Value::of(text.as_bytes()));
    let write = |value| Action::Write { expected: None, value };
    let recorder = Recorder::new();
    recorder.invoke(1, "a/1", write(value("x"))).end(Outcome::Written { index: 3 });
    recorder.invoke(1, "a/1", write(None)).end(Outcome::Written { index: 4 });
    recorder.invoke(1, "a/1", write(None)).end(Outcome::Written { index: 5 });
    recorder.invoke(1, "a/1", write(value("never"))).end(Outcome::Failed);
    let changes = |index, value| WatchItem::Changes { index, events: vec![Event { key: "a/1".to_owned(), value }] };
    let ledger = Ledger::of(&recorder.finish());
    let all = [open(0), changes(3, value("x")), changes(4, None), changes(5, None)];
    ledger.clone().check_watches(&[watch(&all)], 5).unwrap_or_else(|fault| panic!("{fault}"));
    // The second removal met nothing, so it may be silent, but not come behind the promise that it will not; the first
    // may not be silent.
    ledger.clone().check_watches(&[watch(&all[..3])], 5).unwrap_or_else(|fault| panic!("{fault}"));
    let late = [open(0), changes(3, value("x")), changes(4, None), progress(5), changes(5, None)];
    assert_eq!(ledger.clone().check_watches(&[watch(&late)], 5).unwrap_err().law, StreamLaw::ProgressAhead);
    assert_eq!(ledger.check_watches(&[watch(&all[..2])], 5).unwrap_err().law, StreamLaw::Unfinished);
}

fn tail(name: &str, items: &[TailItem]) -> Tail {
    Tail { name: name.to_owned(), items: items.to_vec() }
}

fn carries(index: u64) -> TailItem {
    TailItem::Entry { index, content: Value::of(&index.to_be_bytes()) }
}

fn start(after: u64) -> TailItem {
    TailItem::Opened { after }
}

fn signed(index: u64) -> TailItem {
    TailItem::Checkpoint { index }
}

fn tail_refused(items: &[TailItem], law: StreamLaw, item: usize) {
    let sound = tail("sound", &[start(0), carries(1), carries(2), carries(3)]);
    let fault = check_tails(&[sound, tail("broken", items)], 3).expect_err("the tail is broken");
    assert_eq!((fault.law, fault.item, fault.stream.as_str()), (law, item, "broken"), "{fault}");
}

#[test]
fn sound_tails_are_accepted() {
    let one = tail("one", &[start(0), carries(1), signed(1), carries(2), carries(3), signed(3), signed(3)]);
    let two = tail("two", &[start(0), carries(1), start(1), carries(2), start(0), carries(1), carries(2), carries(3)]);
    check_tails(&[one, two, tail("three", &[start(2), carries(3)])], 3).unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn a_tail_with_a_hole_a_repeat_or_an_early_end_is_refused() {
    tail_refused(&[start(0), carries(1), carries(3)], StreamLaw::Gap, 2);
    tail_refused(&[start(0), carries(1), carries(1)], StreamLaw::Repeated, 2);
    tail_refused(&[start(1), carries(1)], StreamLaw::Repeated, 1);
    tail_refused(&[start(0), carries(1), carries(2)], StreamLaw::Unfinished, 3);
}

#[test]
fn two_logs_under_one_index_are_refused() {
    let other = TailItem::Entry { index: 2, content: Value::of(b"other") };
    tail_refused(&[start(0), carries(1), other], StreamLaw::Fork, 2);
}

#[test]
fn a_checkpoint_ahead_of_its_entries_or_going_back_is_refused() {
    tail_refused(&[start(0), carries(1), signed(2)], StreamLaw::CheckpointOutOfPlace, 2);
    tail_refused(&[start(0), carries(1), carries(2), signed(2), signed(1)], StreamLaw::CheckpointOutOfPlace, 4);
}
