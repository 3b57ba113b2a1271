//! How far this machine's copy of the store is to be believed, and what it may do by that.
//!
//! Two ages: of the newest checkpoint that a voter signed (is this machine cut off from the store?) and of the newest
//! head that the authority signed (is the authority away?). Law: the table of docs/edge.md: local signatures go on
//! whatever is old, signatures for others end after [`Staleness`].

use std::sync::atomic::Ordering;

use cinnabar_authority_api::records::{Head, Mode};

use super::kept::{Kept, KeptHead};
use super::standing::KeyHash;
use super::{Directory, Inner, Unusable};
use crate::limits::{FRESH_MS, REFUSED_MAX};

/// Nothing is used.
pub(super) const SHUT: u8 = 0;
/// Records are used.
pub(super) const OPEN: u8 = 1;
/// The authority signed another history.
pub(super) const FORKED: u8 = 2;
/// More records were refused than can be remembered.
pub(super) const OVERRUN: u8 = 3;

/// How long signatures for others go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staleness {
    /// Oldest head, in milliseconds.
    pub head_max_ms: u64,
    /// Oldest checkpoint, in milliseconds.
    pub remote_stale_max_ms: u64,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// Age of the newest head, in milliseconds; the largest number when there was none.
    pub head_age_ms: u64,
    /// Age of the newest checkpoint, in milliseconds; the largest number when there was none.
    pub checkpoint_age_ms: u64,
    /// Is there a copy that may be read?
    pub serving: bool,
    /// Has a head covered the copy?
    pub covered: bool,
    /// Did a head contradict it?
    pub forked: bool,
    /// Were more records refused than can be remembered?
    pub overrun: bool,
    /// Is the system a demonstration, by its signed record?
    pub demo: bool,
    /// The generation that encrypts; 0 for none.
    pub generation: u32,
}

impl Trust {
    /// May this machine sign for its own services?
    pub fn may_sign_local(&self) -> bool {
        self.serving && self.covered && !self.forked
    }

    /// May it sign for its peers?
    pub fn may_sign_for_others(&self, limits: &Staleness) -> bool {
        let recent = self.head_age_ms <= limits.head_max_ms && self.checkpoint_age_ms <= limits.remote_stale_max_ms;
        self.may_sign_local() && recent
    }

    /// `ready`, `stale`, `starting` or `refusing`.
    pub fn word(&self) -> &'static str {
        match self {
            _ if self.forked || self.overrun => "refusing",
            _ if !self.may_sign_local() => "starting",
            _ if self.checkpoint_age_ms > FRESH_MS => "stale",
            _ => "ready",
        }
    }

    /// What an operator should look at.
    pub fn alarms(&self, limits: &Staleness) -> Vec<String> {
        let mut alarms = Vec::new();
        let mut say = |wrong: bool, what: &str| {
            if wrong {
                alarms.push(what.to_owned());
            }
        };
        say(!self.serving, "there is no copy of the store that may be read");
        say(self.forked, "the authority signed another history than this copy of the store has: nothing is used");
        say(
            self.overrun,
            "more records were refused than can be remembered: somebody writes the store anew; nothing is used",
        );
        say(
            self.serving && !self.covered && !self.forked && !self.overrun,
            "no signed head covers the copy yet: nothing is used",
        );
        say(self.head_age_ms > FRESH_MS, "the authority is away: its newest head is old");
        say(self.checkpoint_age_ms > FRESH_MS, "this machine is cut off from the store");
        let ended = self.may_sign_local() && !self.may_sign_for_others(limits);
        say(ended, "too long cut off: nothing is signed for others");
        alarms
    }
}

impl Directory {
    /// How far the copy is to be believed now.
    pub fn trust(&self) -> Trust {
        let now = self.shared.clock.unix_ms();
        let inner = self.shared.inner.read();
        let gate = self.shared.gate.load(Ordering::Acquire);
        Trust {
            head_age_ms: inner.kept.head.map_or(u64::MAX, |head| now.saturating_sub(head.time_ms)),
            checkpoint_age_ms: self.shared.local.behind_ms(now),
            serving: self.shared.local.check_serving().is_ok(),
            covered: gate == OPEN,
            forked: gate == FORKED,
            overrun: gate == OVERRUN,
            demo: inner.world.mode() == Some(Mode::Demo),
            generation: inner.world.active_generation(),
        }
    }

    /// Asks the chain about the newest head, opens or shuts the gate, and writes what has grown. One at a time: under the
    /// lock of the place. Nothing waits for the disk, or the log, under the lock of what signatures read.
    pub(super) fn judge_and_save(&self) {
        let applied = self.shared.local.applied_index();
        let head = self.shared.inner.read().head_to_check.filter(|head| head.index <= applied);
        let found = head.and_then(|head| Some((head, (self.shared.chain)(head.index)?)));
        let next = {
            let mut inner = self.shared.inner.write();
            if let Some((head, found)) = found {
                inner.hold_against(&head, found.0 == head.chain_head);
            }
            let refused = inner.standings.to_keep();
            self.judge(&inner, refused.len(), applied);
            self.grown(&inner, refused)
        };
        let Some(next) = next else { return };
        match self.shared.file.save(&next) {
            Ok(()) => self.shared.inner.write().on_disk = next,
            Err(error) => tracing::error!(%error, "cannot keep what was seen: a restart would know less"),
        }
    }

    fn judge(&self, inner: &Inner, refused: usize, applied: u64) {
        let reached = inner.kept.head.is_some_and(|head| head.index <= applied);
        let forward = inner.world.active_generation() >= inner.kept.generation;
        let gate = match () {
            () if inner.forked => FORKED,
            () if refused > REFUSED_MAX => OVERRUN,
            () if inner.kept.covered && reached && forward => OPEN,
            () => SHUT,
        };
        let before = self.shared.gate.swap(gate, Ordering::AcqRel);
        match gate {
            _ if before == gate => {}
            OPEN => tracing::info!(applied, "records may be used"),
            OVERRUN => tracing::error!(refused, "more records are refused than can be remembered: nothing is used"),
            _ => tracing::warn!(applied, "records may not be used"),
        }
    }

    /// What is to be on disk, if that is not there: what only forbids at once, what allows once the copy itself is.
    fn grown(&self, inner: &Inner, mut refused: Vec<(KeyHash, u64)>) -> Option<Kept> {
        refused.truncate(REFUSED_MAX);
        let mut next = Kept { refused, ..inner.on_disk.clone() };
        next.covered &= inner.kept.covered;
        if self.shared.local.state().durable_index() >= inner.kept_at {
            next.head = inner.kept.head;
            next.covered = inner.kept.covered;
            next.generation = inner.kept.generation;
        }
        (next != inner.on_disk).then_some(next)
    }
}

impl Inner {
    /// Takes note of what the chain says of a head: the next one is asked about when the log begins after this, or has
    /// not got there.
    fn hold_against(&mut self, head: &KeptHead, agrees: bool) {
        if self.head_to_check == Some(*head) {
            self.head_to_check = None;
        }
        if agrees {
            self.kept.covered |= !self.forked;
        } else {
            tracing::error!(index = head.index, "the authority signed another history: nothing is used");
            self.forked = true;
            self.kept.covered = false;
        }
    }

    /// Takes a verified head that is not below the highest one.
    pub(super) fn take_head(&mut self, head: &Head, applied: u64) -> Result<(), Unusable> {
        let fresh = KeptHead { index: head.index, time_ms: head.time_ms, chain_head: head.chain_head };
        if let Some(old) = self.kept.head {
            if fresh.index < old.index || fresh.time_ms < old.time_ms {
                return Err(Unusable::Lower("a higher head was seen"));
            }
            if fresh == old {
                return Ok(());
            }
        }
        self.kept.head = Some(fresh);
        self.head_to_check = Some(fresh);
        self.kept_at = applied;
        Ok(())
    }
}
