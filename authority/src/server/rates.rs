//! How much a zone, or a source of failed authentications, may do in a minute.
//!
//! Law: every count is bounded. A valid token is never refused for its neighbours' failures: only failures are counted
//! by source, and only failures are told to wait.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_authority_api::ZoneId;
use cinnabar_daemon::rates::LimiterClock;
use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::answers::Refusal;
use super::metrics;
use crate::limits::{CHECKS_PER_MINUTE, FAILURES_PER_MINUTE, SOURCES_MAX};
use crate::problem::{Code, Problem};

/// Shortest time between two sweeps of sources that have not failed of late.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Zones whose counts are kept; above it all begin anew, which is a minute's grace.
const ZONES_MAX: usize = 65_536;

type NoOp = NoOpMiddleware<Nanos>;
type One = RateLimiter<NotKeyed, InMemoryState, LimiterClock, NoOp>;
type BySource = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, LimiterClock, NoOp>;

/// One count for each zone, under the limit that it has now.
#[derive(Default)]
struct ByZone(Mutex<HashMap<ZoneId, (u32, One)>>);

impl ByZone {
    /// Takes one; else how long to wait.
    fn take(&self, seam: &LimiterClock, zone: &ZoneId, per_minute: u32) -> Result<(), Duration> {
        let Some(quota) = NonZeroU32::new(per_minute).map(Quota::per_minute) else {
            return Err(Duration::from_secs(60));
        };
        let mut zones = self.0.lock();
        if zones.len() >= ZONES_MAX && !zones.contains_key(zone) {
            zones.clear();
        }
        let fresh = || (per_minute, One::direct_with_clock(quota, seam.clone()));
        let entry = zones.entry(zone.clone()).or_insert_with(fresh);
        if entry.0 != per_minute {
            *entry = fresh();
        }
        entry.1.check().map_err(|until| wait(&until, seam))
    }
}

fn wait(until: &NotUntil<Nanos>, seam: &LimiterClock) -> Duration {
    until.wait_time_from(seam.now())
}

/// See the module.
pub struct Rates {
    seam: LimiterClock,
    changes: ByZone,
    checks: ByZone,
    failures: BySource,
    swept: Mutex<Instant>,
}

impl Rates {
    /// Counts by this clock.
    pub fn new(clock: Arc<dyn cinnabar_daemon::Clock>) -> Self {
        let seam = LimiterClock::new(clock);
        let quota = Quota::per_minute(NonZeroU32::new(FAILURES_PER_MINUTE).expect("a constant above 0"));
        let failures = RateLimiter::new(quota, HashMapStateStore::default(), seam.clone());
        let swept = Mutex::new(seam.instant());
        Self { seam, changes: ByZone::default(), checks: ByZone::default(), failures, swept }
    }

    /// A zone wants to change something.
    ///
    /// # Errors
    /// `rate-limited`, with the time to wait.
    pub fn change(&self, zone: &ZoneId, per_minute: u32) -> Result<(), Refusal> {
        let taken = self.changes.take(&self.seam, zone, per_minute);
        taken.map_err(|wait| refused("changes", &format!("The zone may change {per_minute} things a minute."), wait))
    }

    /// A zone wants a policy checked.
    ///
    /// # Errors
    /// `rate-limited`, with the time to wait.
    pub fn check(&self, zone: &ZoneId) -> Result<(), Refusal> {
        let taken = self.checks.take(&self.seam, zone, CHECKS_PER_MINUTE);
        taken.map_err(|wait| refused("checks", &format!("A zone may have {CHECKS_PER_MINUTE} checks a minute."), wait))
    }

    /// Somebody showed credentials that are not valid.
    ///
    /// # Errors
    /// `rate-limited` when that happens too often.
    pub fn failed(&self, source: Option<IpAddr>) -> Result<(), Refusal> {
        let source = source.map_or(OTHERS, network);
        if self.failures.len() >= SOURCES_MAX {
            self.sweep();
        }
        let source = if self.failures.len() >= SOURCES_MAX { OTHERS } else { source };
        self.failures.check_key(&source).map_err(|until| {
            refused("failures", "Too many requests from there had no valid credentials.", wait(&until, &self.seam))
        })
    }

    fn sweep(&self) {
        let now = self.seam.instant();
        let mut swept = self.swept.lock();
        if now.duration_since(*swept) >= SWEEP_EVERY {
            *swept = now;
            self.failures.retain_recent();
        }
    }
}

/// Who stands for all sources that are not counted apart.
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What one subscriber has: an address of IPv4, a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

fn refused(limit: &'static str, detail: &str, wait: Duration) -> Refusal {
    metrics::count_limited(limit);
    Refusal::from(Problem::new(Code::RateLimited, detail)).retry_after(wait.as_secs() + 1)
}

#[cfg(test)]
mod tests {
    use cinnabar_daemon::env::SystemClock;

    use super::*;

    fn rates() -> Rates {
        Rates::new(Arc::new(SystemClock))
    }

    #[tokio::test(start_paused = true)]
    async fn a_zone_has_its_minute_and_no_other_zones() {
        let (rates, [a, b]) = (rates(), ["a", "b"].map(|id| id.parse::<ZoneId>().unwrap()));
        for _ in 0..3 {
            rates.change(&a, 3).unwrap();
        }
        assert_eq!(rates.change(&a, 3).unwrap_err().problem().code(), Code::RateLimited);
        rates.change(&b, 3).unwrap();
        tokio::time::advance(Duration::from_secs(21)).await;
        rates.change(&a, 3).unwrap();
        assert!(rates.change(&a, 3).is_err());
        // A new limit counts from its own beginning; none at all lets nothing through.
        rates.change(&a, 4).unwrap();
        assert!(rates.change(&a, 0).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_by_network() {
        let rates = rates();
        let [one, same, other] = ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"]
            .map(|text| Some(text.parse::<IpAddr>().unwrap()));
        for _ in 0..FAILURES_PER_MINUTE {
            rates.failed(one).unwrap();
        }
        assert!(rates.failed(same).is_err());
        rates.failed(other).unwrap();
        rates.failed(None).unwrap();
    }
}
