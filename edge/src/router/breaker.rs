//! Leaves a machine alone after failures in a row, and lets one request through after a while to see.
//!
//! Law: the time alone doubles with each failed look, within a bound; one success ends it; while one request looks, the
//! machine is not offered to another (a request that chose it before may still arrive there).

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{EJECT_AFTER, EJECT_FIRST, EJECT_MAX};

/// See the module.
#[derive(Debug, Default)]
pub struct Breaker {
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, span: Duration },
    Looking { span: Duration },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// May a request go there now?
    pub fn is_usable(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, .. } => now >= until,
            State::Looking { .. } => false,
        }
    }

    /// A request goes there; true when it is the one that looks.
    pub fn enter(&mut self, now: Instant) -> bool {
        match self.state {
            State::Open { until, span } if now >= until => {
                self.state = State::Looking { span };
                true
            }
            _ => false,
        }
    }

    /// A request was answered.
    pub fn succeeded(&mut self) {
        self.state = State::default();
    }

    /// A request failed; true when the machine is left alone from now on. `looked` is what [`Breaker::enter`] said.
    pub fn failed(&mut self, looked: bool, now: Instant) -> bool {
        match self.state {
            State::Closed { failures } if failures + 1 < EJECT_AFTER => {
                self.state = State::Closed { failures: failures + 1 };
                false
            }
            State::Closed { .. } => {
                self.state = State::Open { until: now + EJECT_FIRST, span: EJECT_FIRST };
                true
            }
            State::Looking { span } if looked => {
                let span = (span * 2).min(EJECT_MAX);
                self.state = State::Open { until: now + span, span };
                true
            }
            // One that went there before, or for want of anything better.
            State::Open { .. } | State::Looking { .. } => false,
        }
    }

    /// The request that looked was given up by its caller: the next one looks.
    pub fn abandoned(&mut self, looked: bool, now: Instant) {
        if let (true, State::Looking { span }) = (looked, self.state) {
            self.state = State::Open { until: now, span };
        }
    }

    /// The machine came back by other news: the next request looks.
    pub fn came_back(&mut self, now: Instant) {
        if let State::Open { span, .. } = self.state {
            self.state = State::Open { until: now, span };
        }
    }
}

#[cfg(test)]
mod tests {
    use cinnabar_daemon::Clock;
    use cinnabar_daemon::env::SystemClock;

    use super::*;

    fn ejected(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for n in 1..=EJECT_AFTER {
            assert!(breaker.is_usable(now));
            assert_eq!(breaker.failed(false, now), n == EJECT_AFTER, "{n}");
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_eject_and_one_request_looks() {
        let now = SystemClock.now();
        let mut breaker = ejected(now);
        assert!(!breaker.is_usable(now) && !breaker.enter(now));
        let later = now + EJECT_FIRST;
        assert!(breaker.is_usable(later) && breaker.enter(later));
        assert!(!breaker.is_usable(later) && !breaker.enter(later), "one looks at a time");
        assert!(breaker.failed(true, later));
        assert!(!breaker.is_usable(later + EJECT_FIRST), "the time grows");
        let later = later + 2 * EJECT_FIRST;
        assert!(breaker.enter(later));
        breaker.abandoned(true, later);
        assert!(breaker.enter(later), "another looks when the first was given up");
        breaker.succeeded();
        assert!(breaker.is_usable(now));
        for _ in 1..EJECT_AFTER {
            assert!(!breaker.failed(false, now));
        }
        breaker.succeeded();
        assert!(!breaker.failed(false, now), "a success begins the row anew");
    }

    #[test]
    fn the_time_alone_has_a_bound_and_news_end_it() {
        let mut now = SystemClock.now();
        let mut breaker = ejected(now);
        for _ in 0..20 {
            now += EJECT_MAX;
            assert!(breaker.enter(now));
            breaker.failed(true, now);
        }
        assert!(!breaker.is_usable(now + EJECT_MAX - Duration::from_millis(1)) && breaker.is_usable(now + EJECT_MAX));
        breaker.came_back(now);
        assert!(breaker.enter(now));
    }
}
