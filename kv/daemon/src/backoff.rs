//! How long to wait before trying again: doubling, bounded, jittered.
//!
//! Law: a delay lies between half its step and its whole step, so that many nodes that lost one upstream at one
//! moment do not come back at one moment, and none comes back at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::env::Rng;

/// First step, unless the caller has a reason for another.
pub const FIRST_DEFAULT: Duration = Duration::from_millis(50);
/// Largest step, unless the caller has a reason for another.
pub const MAX_DEFAULT: Duration = Duration::from_secs(5);

/// The delays between attempts at one thing.
pub struct Backoff {
    first: Duration,
    max: Duration,
    step: Duration,
    rng: Arc<dyn Rng>,
}

impl Backoff {
    /// Steps of `first`, twice `first`, and so on up to `max`.
    ///
    /// # Panics
    /// If `first` is zero or above `max`: that is a bug of the caller.
    #[must_use]
    pub fn new(first: Duration, max: Duration, rng: Arc<dyn Rng>) -> Self {
        assert!(!first.is_zero() && first <= max, "steps grow from above zero to the largest");
        Self { first, max, step: first, rng }
    }

    /// [`FIRST_DEFAULT`] to [`MAX_DEFAULT`].
    #[must_use]
    pub fn with_defaults(rng: Arc<dyn Rng>) -> Self {
        Self::new(FIRST_DEFAULT, MAX_DEFAULT, rng)
    }

    /// The delay before the next attempt: between half the current step and all of it.
    pub fn next_delay(&mut self) -> Duration {
        let step = self.step;
        self.step = step.saturating_mul(2).min(self.max);
        let mut random = [0; 4];
        // Without random bytes the whole step is still a bounded delay.
        let share = self.rng.fill(&mut random).map_or(u32::MAX, |()| u32::from_le_bytes(random));
        step / 2 + (step - step / 2).mul_f64(f64::from(share) / f64::from(u32::MAX))
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.step = self.first;
    }
}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoff").field("step", &self.step).field("max", &self.max).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{RngError, SystemRng};

    /// Fills with one byte.
    struct Constant(u8);

    impl Rng for Constant {
        fn fill(&self, out: &mut [u8]) -> Result<(), RngError> {
            out.fill(self.0);
            Ok(())
        }
    }

    fn delays(byte: u8) -> Vec<u128> {
        let mut backoff =
            Backoff::new(Duration::from_millis(100), Duration::from_millis(500), Arc::new(Constant(byte)));
        (0..5).map(|_| backoff.next_delay().as_millis()).collect()
    }

    #[test]
    fn delays_double_up_to_the_bound_and_lie_in_the_upper_half() {
        assert_eq!(delays(0xff), [100, 200, 400, 500, 500]);
        assert_eq!(delays(0), [50, 100, 200, 250, 250]);
    }

    #[test]
    fn a_success_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), Arc::new(Constant(0xff)));
        for _ in 0..200 {
            backoff.next_delay();
        }
        assert_eq!(backoff.next_delay().as_secs(), 60);
        backoff.reset();
        assert_eq!(backoff.next_delay().as_secs(), 1);
    }

    #[test]
    fn two_nodes_do_not_wait_equally_long() {
        let mut all: Vec<_> =
            (0..8).map(|_| Backoff::with_defaults(Arc::new(SystemRng)).next_delay().as_nanos()).collect();
        all.sort_unstable();
        all.dedup();
        assert!(all.len() > 1);
    }
}
