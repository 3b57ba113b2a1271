//! The numbers that `SCAN` gives out, and the keys after which each goes on.
//!
//! A key does not fit into the number that clients pass back, so the endpoint remembers it. One table serves all
//! connections, because clients with a pool send each page over another one; only `SCAN` takes its lock. A scan holds
//! two entries, the newest and the one before it, so that a page whose answer was lost can be asked for again.
//! Law: an unknown cursor is an error and never a wrong place: skipping keys would break what `SCAN` promises.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::limits::{CURSOR_MS_MAX, CURSORS_MAX};

/// Cursors stay below it: some clients read them as floating point numbers.
const CURSOR_MAX: u64 = (1 << 53) - 1;
/// Cursors for each second between two starts of a process, so that one of an earlier process is unknown to the next.
const CURSORS_PER_SECOND: u64 = 1 << 21;

#[derive(Debug)]
struct Place {
    after: Bytes,
    /// The cursor that this one was the answer to.
    before: u64,
    given: Instant,
}

/// The table.
#[derive(Debug)]
pub struct Cursors {
    last: u64,
    /// By age, since numbers only grow.
    places: BTreeMap<u64, Place>,
}

impl Cursors {
    /// An empty table, in a process that starts at this wall time.
    pub fn new(unix_ms: u64) -> Self {
        Self { last: (unix_ms / 1000).wrapping_mul(CURSORS_PER_SECOND) & CURSOR_MAX, places: BTreeMap::new() }
    }

    /// The key after which a cursor goes on, empty for the begin; none when it is not known (any more).
    pub fn find(&mut self, cursor: u64, now: Instant) -> Option<Bytes> {
        if cursor == 0 {
            return Some(Bytes::new());
        }
        self.forget(now);
        self.places.get(&cursor).map(|place| place.after.clone())
    }

    /// A new cursor that goes on after a key; `before` is the one that was answered.
    pub fn give(&mut self, before: u64, after: Bytes, now: Instant) -> u64 {
        self.end(before);
        self.forget(now);
        while self.places.len() >= CURSORS_MAX {
            self.places.pop_first();
        }
        self.last = if self.last >= CURSOR_MAX { 1 } else { self.last + 1 };
        // The key is part of a larger buffer that must not stay for its sake.
        let after = Bytes::copy_from_slice(&after);
        self.places.insert(self.last, Place { after, before, given: now });
        self.last
    }

    /// Notes that a cursor's answer was the last page, or has a next: the one before it is not needed.
    pub fn end(&mut self, cursor: u64) {
        if let Some(before) = self.places.get(&cursor).map(|place| place.before) {
            self.places.remove(&before);
        }
    }

    fn forget(&mut self, now: Instant) {
        let age = Duration::from_millis(CURSOR_MS_MAX);
        while let Some(oldest) = self.places.first_entry()
            && now.saturating_duration_since(oldest.get().given) > age
        {
            oldest.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_page_can_be_asked_for_again_until_the_next_but_one() {
        let now = Instant::now();
        let mut cursors = Cursors::new(1_790_000_000_000);
        let first = cursors.give(0, key("a"), now);
        let second = cursors.give(first, key("b"), now);
        assert_eq!(cursors.find(first, now), Some(key("a")));
        assert_eq!(cursors.find(second, now), Some(key("b")));
        let third = cursors.give(second, key("c"), now);
        assert_eq!(cursors.find(first, now), None);
        assert_eq!(cursors.find(third, now), Some(key("c")));
        assert_eq!(cursors.find(0, now), Some(Bytes::new()));
        assert!(third < CURSOR_MAX);
    }

    #[test]
    fn the_table_is_bounded_in_number_and_time() {
        let now = Instant::now();
        let mut cursors = Cursors::new(0);
        let given: Vec<u64> = (0..=CURSORS_MAX).map(|_| cursors.give(0, key("k"), now)).collect();
        assert_eq!(cursors.places.len(), CURSORS_MAX);
        assert_eq!(cursors.find(given[0], now), None);
        assert!(cursors.find(given[1], now).is_some());
        let later = now + Duration::from_millis(CURSOR_MS_MAX + 1);
        assert_eq!(cursors.find(given[1], later), None);
        assert!(cursors.places.is_empty());
    }

    #[test]
    fn a_cursor_of_an_earlier_process_is_unknown() {
        let (old, new) = (Cursors::new(1_790_000_000_000), Cursors::new(1_790_000_001_000));
        assert!(old.last + CURSORS_PER_SECOND <= new.last && new.last + CURSORS_PER_SECOND < CURSOR_MAX);
    }
}
