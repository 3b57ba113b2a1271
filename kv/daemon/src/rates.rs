//! The process's clock as the rate limiters of `governor` want it: they have none of their own.

use std::sync::Arc;

use governor::nanos::Nanos;
use tokio::time::Instant;

use crate::env::Clock;

/// Time since it was made. Cheap to clone.
#[derive(Clone)]
pub struct LimiterClock {
    clock: Arc<dyn Clock>,
    start: Instant,
}

impl LimiterClock {
    /// Begins now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let start = clock.now();
        Self { clock, start }
    }

    /// The clock's own time.
    pub fn instant(&self) -> Instant {
        self.clock.now()
    }
}

impl governor::clock::Clock for LimiterClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.clock.now().duration_since(self.start))
    }
}
