//! The newest changes, in memory, for watches.
//!
//! Law: a reader that asks for what follows an index gets every change after it, in order, each once, or is told that
//! they are gone. Nothing waits for a slow reader: the ring moves on and the reader is told.

use std::collections::VecDeque;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::limits::CHANGES_BYTES_MAX;
use crate::state::Changes;

/// What a read of the ring gives.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    /// The changes after the asked index, up to `applied`; perhaps none.
    Changes {
        /// In order.
        changes: Vec<std::sync::Arc<Changes>>,
        /// Nothing at or below this index is missing from them; never below the asked index.
        applied: u64,
    },
    /// Changes after the asked index are gone; `oldest` is the least index that can be asked for.
    Gone {
        /// See above.
        oldest: u64,
    },
}

#[derive(Debug, Default)]
struct Ring {
    changes: VecDeque<std::sync::Arc<Changes>>,
    bytes: usize,
    /// Changes at or below this index are not in the ring.
    after: u64,
    applied: u64,
}

/// The ring. One a node, over all states that it serves one after the other.
#[derive(Debug)]
pub struct ChangeRing {
    ring: RwLock<Ring>,
    applied: watch::Sender<u64>,
}

fn size(changes: &Changes) -> usize {
    let one = |change: &crate::state::Change| change.key.len() + change.value.as_ref().map_or(0, |v| v.len()) + 64;
    changes.changes.iter().map(one).sum::<usize>() + 64
}

impl ChangeRing {
    /// A ring that begins after an applied index.
    pub fn new(applied: u64) -> Self {
        Self {
            ring: RwLock::new(Ring { after: applied, applied, ..Ring::default() }),
            applied: watch::Sender::new(applied),
        }
    }

    /// Adds the changes of a committed range that ends at `applied`.
    pub fn push(&self, changes: Vec<Changes>, applied: u64) {
        {
            let mut ring = self.ring.write();
            for changes in changes {
                ring.bytes += size(&changes);
                ring.changes.push_back(changes.into());
            }
            while ring.bytes > CHANGES_BYTES_MAX
                && let Some(gone) = ring.changes.pop_front()
            {
                ring.bytes -= size(&gone);
                ring.after = gone.index;
            }
            ring.applied = applied;
        }
        self.applied.send_replace(applied);
    }

    /// Begins anew after an index that was reached by a snapshot: what lies between was never seen here.
    pub fn restart(&self, applied: u64) {
        *self.ring.write() = Ring { after: applied, applied, ..Ring::default() };
        self.applied.send_replace(applied);
    }

    /// Tells of each new applied index.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Reads at most `limit` entries' changes after an index.
    pub fn after(&self, index: u64, limit: usize) -> After {
        let ring = self.ring.read();
        if index < ring.after {
            return After::Gone { oldest: ring.after };
        }
        let start = ring.changes.partition_point(|changes| changes.index <= index);
        let changes: Vec<_> = ring.changes.range(start..).take(limit).cloned().collect();
        let applied = match changes.last() {
            Some(last) if changes.len() == limit => last.index,
            // A copy is read before the ring is told: who read it is ahead, and goes back no step.
            _ => ring.applied.max(index),
        };
        After::Changes { changes, applied }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::state::Change;

    fn entry(index: u64, bytes: usize) -> Changes {
        let change = Change { key: Bytes::from_static(b"k"), value: Some(vec![0; bytes].into()) };
        Changes { index, changes: vec![change] }
    }

    fn indexes(after: After) -> Vec<u64> {
        match after {
            After::Changes { changes, .. } => changes.iter().map(|changes| changes.index).collect(),
            After::Gone { oldest } => panic!("gone, oldest {oldest}"),
        }
    }

    #[test]
    fn a_reader_gets_every_change_once_or_is_told_that_they_are_gone() {
        let ring = ChangeRing::new(10);
        assert_eq!(ring.after(9, 8), After::Gone { oldest: 10 });
        ring.push(vec![entry(11, 1), entry(13, 1)], 14);
        assert_eq!(indexes(ring.after(10, 8)), [11, 13]);
        assert_eq!(indexes(ring.after(12, 8)), [13]);
        assert_eq!(ring.after(10, 1), After::Changes { changes: vec![entry(11, 1).into()], applied: 11 });
        assert_eq!(ring.after(13, 8), After::Changes { changes: vec![], applied: 14 });
        assert_eq!(ring.after(16, 8), After::Changes { changes: vec![], applied: 16 }, "a reader ahead of the ring");
        for index in 15..80 {
            ring.push(vec![entry(index, 1024 * 1024)], index);
        }
        let After::Gone { oldest } = ring.after(14, 8) else { panic!("the ring has no bound") };
        assert_eq!(indexes(ring.after(oldest, 1000)), (oldest + 1..80).collect::<Vec<_>>());
        ring.restart(100);
        assert_eq!(ring.after(99, 8), After::Gone { oldest: 100 });
    }
}
