//! How far data centres are, as probes and requests see it.
//!
//! Law: a place in the order moves only when the time behind it moved by 10 % or 5 ms, whichever is less. A probe moves the
//! smoothed round trip; a request that took longer than what is known counts at once and fades (peak EWMA), so that a
//! data centre that answers probes fast and requests slowly loses its place for as long as it does.

use std::collections::HashMap;
use std::time::Duration;

use cinnabar_authority_api::DataCenterId;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::{EWMA_WEIGHT, MOVES_BY_SHARE, MOVES_BY_US, PEAK_FADES};

/// See the module.
#[derive(Debug, Default)]
pub struct Latency {
    data_centers: Mutex<HashMap<DataCenterId, Times>>,
}

/// In microseconds.
#[derive(Debug, Clone, Copy)]
struct Times {
    probed: f64,
    peak: f64,
    peak_at: Instant,
    settled: f64,
}

impl Times {
    fn new(us: f64, now: Instant) -> Self {
        Self { probed: us, peak: us, peak_at: now, settled: us }
    }

    fn cost(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.peak_at).as_secs_f64() / PEAK_FADES.as_secs_f64();
        self.probed + (self.peak - self.probed).max(0.0) * (-age).exp()
    }
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Latency {
    /// A probe of this data centre took so long.
    pub fn probed(&self, data_center: &DataCenterId, took: Duration, now: Instant) {
        let sample = us(took);
        let mut all = self.data_centers.lock();
        match all.get_mut(data_center) {
            Some(times) => times.probed += EWMA_WEIGHT * (sample - times.probed),
            None => drop(all.insert(data_center.clone(), Times::new(sample, now))),
        }
    }

    /// A request to this data centre took so long, or was given up after so long.
    pub fn requested(&self, data_center: &DataCenterId, took: Duration, now: Instant) {
        let sample = us(took);
        // One that no probe measured stays unmeasured: what a request takes is no distance.
        if let Some(times) = self.data_centers.lock().get_mut(data_center) {
            times.peak = times.cost(now).max(sample);
            times.peak_at = now;
        }
    }

    /// The smoothed round trip by probes.
    pub fn round_trip(&self, data_center: &DataCenterId) -> Option<Duration> {
        let all = self.data_centers.lock();
        all.get(data_center).map(|times| Duration::from_secs_f64(times.probed.max(0.0) / 1e6))
    }

    /// What the order goes by, in microseconds; infinite for what nobody measured.
    pub fn place(&self, data_center: &DataCenterId, now: Instant) -> f64 {
        let mut all = self.data_centers.lock();
        let Some(times) = all.get_mut(data_center) else { return f64::INFINITY };
        let cost = times.cost(now);
        if (cost - times.settled).abs() >= MOVES_BY_US.min(times.settled * MOVES_BY_SHARE) {
            times.settled = cost;
        }
        times.settled
    }

    /// Forgets data centres that there are no longer.
    pub fn retain(&self, keep: impl Fn(&DataCenterId) -> bool) {
        self.data_centers.lock().retain(|data_center, _| keep(data_center));
    }
}

#[cfg(test)]
mod tests {
    use cinnabar_daemon::Clock;
    use cinnabar_daemon::env::SystemClock;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn dc(name: &str) -> DataCenterId {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn small_changes_move_nothing_and_large_ones_do() {
        let (latency, clock) = (Latency::default(), SystemClock);
        assert!(latency.place(&dc("fra"), clock.now()).is_infinite());
        for (millis, place) in [(100, 100_000.0), (104, 100_000.0), (97, 100_000.0), (104, 100_000.0)] {
            latency.probed(&dc("fra"), MS * millis, clock.now());
            assert_eq!(latency.place(&dc("fra"), clock.now()), place, "{millis}");
        }
        // Of a near one 10 % are less than 5 ms.
        latency.probed(&dc("ams"), MS * 10, clock.now());
        latency.probed(&dc("ams"), MS * 11, clock.now());
        assert_eq!(latency.place(&dc("ams"), clock.now()), 10_000.0);
        latency.probed(&dc("ams"), MS * 14, clock.now());
        assert!(latency.place(&dc("ams"), clock.now()) > 12_000.0);
        latency.probed(&dc("fra"), MS * 125, clock.now());
        assert!(latency.place(&dc("fra"), clock.now()) > 110_000.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_request_counts_at_once_and_fades() {
        let (latency, clock) = (Latency::default(), SystemClock);
        latency.probed(&dc("fra"), MS * 20, clock.now());
        latency.requested(&dc("fra"), MS * 1000, clock.now());
        assert!(latency.place(&dc("fra"), clock.now()) > 999_000.0);
        assert_eq!(latency.round_trip(&dc("fra")), Some(MS * 20));
        // A fast one after it does not undo it.
        latency.requested(&dc("fra"), MS * 21, clock.now());
        assert!(latency.place(&dc("fra"), clock.now()) > 999_000.0);
        tokio::time::advance(PEAK_FADES * 8).await;
        assert!(latency.place(&dc("fra"), clock.now()) < 21_000.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_order_follows_a_changed_distance_within_a_few_probes() {
        let (latency, clock) = (Latency::default(), SystemClock);
        for _ in 0..10 {
            latency.probed(&dc("fra"), MS * 6, clock.now());
            latency.probed(&dc("iad"), MS * 90, clock.now());
        }
        let nearer = |now| latency.place(&dc("iad"), now) < latency.place(&dc("fra"), now);
        assert!(!nearer(clock.now()));
        // fra moves away, then comes back: at one probe every two seconds, five are ten seconds.
        for (millis, expected) in [(175, true), (6, false)] {
            let mut probes = 0;
            while nearer(clock.now()) != expected {
                latency.probed(&dc("fra"), MS * millis, clock.now());
                probes += 1;
                assert!(probes <= 4, "{millis} ms");
            }
        }
    }
}
