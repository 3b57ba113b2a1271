//! The window in which the system secret keys are in memory.
//!
//! Law: past the deadline no key is given out, by the clock and not by the timer; the timer's task is there so that the
//! memory is wiped also when nobody asks. Every opening has a number, so that the timer of an earlier one closes nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_abe::SystemSecretKey;
use cinnabar_authority_api::Generation;
use cinnabar_daemon::Clock;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::CustodyError;

/// Whether the system secret keys are in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// On disk only, sealed.
    Sealed,
    /// In memory.
    Unsealed {
        /// How much longer.
        remaining: Duration,
        /// Until when by the wall clock, in milliseconds since 1970; for people, the deadline itself is monotonic.
        until_unix_ms: u64,
        /// Of which generations, ascending.
        generations: Vec<Generation>,
    },
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealed => f.write_str("sealed"),
            Self::Unsealed { remaining, .. } => write!(f, "unsealed for another {} s", remaining.as_secs()),
        }
    }
}

pub(super) struct Window {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts openings and closings.
    number: u64,
    open: Option<Open>,
}

struct Open {
    deadline: Instant,
    keys: Vec<(Generation, Arc<SystemSecretKey>)>,
    timer: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl Window {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    pub fn open(
        self: &Arc<Self>,
        keys: Vec<(Generation, SystemSecretKey)>,
        time: Duration,
        runtime: &Handle,
    ) -> Status {
        let deadline = self.clock.now() + time;
        let keys = keys.into_iter().map(|(generation, key)| (generation, Arc::new(key))).collect();
        // Weak: a custody that is dropped wipes its keys then, not when the timer ends.
        let window = Arc::downgrade(self);
        let mut state = self.state.lock();
        state.number += 1;
        let number = state.number;
        let timer = runtime.spawn(async move {
            tokio::time::sleep_until(deadline).await;
            if let Some(window) = window.upgrade() {
                window.close_if(number);
            }
        });
        state.open = Some(Open { deadline, keys, timer: timer.abort_handle() });
        drop(state);
        self.status()
    }

    pub fn close(&self) {
        let mut state = self.state.lock();
        state.number += 1;
        state.open = None;
    }

    fn close_if(&self, number: u64) {
        let mut state = self.state.lock();
        if state.number == number && state.open.take().is_some() {
            tracing::info!("the time is over: the system secret keys are sealed");
        }
    }

    pub fn forget(&self, generation: Generation) {
        if let Some(open) = &mut self.state.lock().open {
            open.keys.retain(|(other, _)| *other != generation);
        }
    }

    pub fn key(&self, generation: Generation) -> Result<Arc<SystemSecretKey>, CustodyError> {
        let mut state = self.state.lock();
        let open = state.open_at(self.clock.now()).ok_or(CustodyError::Sealed)?;
        let key = open.keys.iter().find(|(other, _)| *other == generation);
        key.map(|(_, key)| key.clone()).ok_or(CustodyError::NoGeneration(generation))
    }

    pub fn status(&self) -> Status {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let Some(open) = state.open_at(now) else { return Status::Sealed };
        let remaining = open.deadline - now;
        let remaining_ms = u64::try_from(remaining.as_millis()).expect("a window is hours at most");
        Status::Unsealed {
            remaining,
            until_unix_ms: self.clock.unix_ms().saturating_add(remaining_ms),
            generations: open.keys.iter().map(|(generation, _)| *generation).collect(),
        }
    }

    #[cfg(test)]
    pub fn holds_keys(&self) -> bool {
        self.state.lock().open.is_some()
    }
}

impl State {
    fn open_at(&mut self, now: Instant) -> Option<&Open> {
        if self.open.as_ref().is_some_and(|open| now >= open.deadline) {
            self.open = None;
        }
        self.open.as_ref()
    }
}
