//! Waiting that ends: every wait of a test has a bound, and says what it waited for when the bound is reached.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A moment after which nothing is waited for any more.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment that is this far away.
    pub fn after(bound: Duration) -> Self {
        Self(now() + bound)
    }

    /// Time left; nothing once it passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(now())
    }

    /// Whether it passed.
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }
}

/// Says how long something took; for reports, never for a verdict.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts it.
    pub fn start() -> Self {
        Self(now())
    }

    /// Time since it was started.
    pub fn elapsed(self) -> Duration {
        now().saturating_duration_since(self.0)
    }
}

/// Asks until there is an answer, or the bound is reached.
pub fn poll<T>(bound: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Deadline::after(bound);
    loop {
        // Asked once more after the bound, for on a busy machine the last pause may have been a long one.
        let passed = deadline.passed();
        match ask() {
            Some(answer) => return Some(answer),
            None if passed => return None,
            None => thread::sleep(POLL),
        }
    }
}

/// Asks until there is an answer.
///
/// # Panics
/// When there is none within the bound; the message says what was waited for.
pub fn eventually<T>(bound: Duration, what: &str, ask: impl FnMut() -> Option<T>) -> T {
    poll(bound, ask).unwrap_or_else(|| panic!("{what}: not within {bound:?}"))
}

#[expect(clippy::disallowed_methods, reason = "tests of real processes wait in real time")]
fn now() -> Instant {
    Instant::now()
}
