//! How many signatures a second a peer may have, and all peers together by a zone's keys and by one key.
//!
//! Law: every count is bounded. Only what peers ask is counted, never what this machine asks.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;

use cinnabar_authority_api::{CertId, MachineId, ZoneId};
use cinnabar_daemon::rates::LimiterClock;
use cinnabar_edge_api::Refusal;
use cinnabar_edge_api::refusal::RefusalCode;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::{COUNTED_MAX, KEY_PER_SECOND, PEER_PER_SECOND, SWEEP_EVERY, ZONE_PER_SECOND};

/// Signatures a second; a second's worth may come at once. 0 lets nothing through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignRates {
    /// For one peer.
    pub peer_per_second: u32,
    /// For one zone, for all peers together.
    pub zone_per_second: u32,
    /// By one key, for all peers together.
    pub key_per_second: u32,
}

impl Default for SignRates {
    fn default() -> Self {
        Self { peer_per_second: PEER_PER_SECOND, zone_per_second: ZONE_PER_SECOND, key_per_second: KEY_PER_SECOND }
    }
}

/// None stands for all that are not counted apart.
type Limiter<K> = RateLimiter<Option<K>, HashMapStateStore<Option<K>>, LimiterClock, NoOpMiddleware<Nanos>>;

/// One count for each of what asks; while there are as many as the bound, all share one.
struct Counts<K: Hash + Eq + Clone> {
    limiter: Option<Limiter<K>>,
    swept: Mutex<Instant>,
    seam: LimiterClock,
    what: &'static str,
    per_second: u32,
}

impl<K: Hash + Eq + Clone> Counts<K> {
    fn new(what: &'static str, per_second: u32, seam: &LimiterClock) -> Self {
        let quota = NonZeroU32::new(per_second).map(Quota::per_second);
        let limiter = quota.map(|quota| RateLimiter::new(quota, HashMapStateStore::default(), seam.clone()));
        Self { limiter, swept: Mutex::new(seam.instant()), seam: seam.clone(), what, per_second }
    }

    fn take(&self, key: &K) -> Result<(), Refusal> {
        let refused = || {
            let Self { what, per_second, .. } = self;
            Refusal::new(RefusalCode::Overloaded, format!("a {what} has {per_second} signatures a second for peers"))
        };
        let limiter = self.limiter.as_ref().ok_or_else(refused)?;
        if limiter.len() >= COUNTED_MAX {
            let now = self.seam.instant();
            let mut swept = self.swept.lock();
            if now.duration_since(*swept) >= SWEEP_EVERY {
                *swept = now;
                limiter.retain_recent();
            }
        }
        let key = (limiter.len() < COUNTED_MAX).then(|| key.clone());
        limiter.check_key(&key).map_err(|_| refused())
    }
}

/// See the module.
pub struct Rates {
    peers: Counts<MachineId>,
    zones: Counts<ZoneId>,
    keys: Counts<(ZoneId, CertId)>,
}

impl std::fmt::Debug for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rates")
    }
}

impl Rates {
    /// Counts by this clock.
    pub fn new(rates: SignRates, clock: Arc<dyn cinnabar_daemon::Clock>) -> Self {
        let seam = LimiterClock::new(clock);
        Self {
            peers: Counts::new("peer", rates.peer_per_second, &seam),
            zones: Counts::new("zone", rates.zone_per_second, &seam),
            keys: Counts::new("key", rates.key_per_second, &seam),
        }
    }

    /// A peer asks for something.
    ///
    /// # Errors
    /// `OVERLOADED`.
    pub fn take_peer(&self, peer: &MachineId) -> Result<(), Refusal> {
        self.peers.take(peer)
    }

    /// A peer wants a signature by a key that it may have used.
    ///
    /// # Errors
    /// `OVERLOADED`.
    pub fn take_key(&self, zone: &ZoneId, certificate: &CertId) -> Result<(), Refusal> {
        self.zones.take(zone)?;
        self.keys.take(&(zone.clone(), certificate.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cinnabar_daemon::env::SystemClock;

    use super::*;

    fn take(rates: &Rates, peer: &MachineId, zone: &ZoneId, key: &CertId) -> Result<(), Refusal> {
        rates.take_peer(peer)?;
        rates.take_key(zone, key)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_a_zone_and_a_key_have_their_second_each() {
        let rates = SignRates { peer_per_second: 3, zone_per_second: 4, key_per_second: 2 };
        let rates = Rates::new(rates, Arc::new(SystemClock));
        let peer = |name: &str| name.parse::<MachineId>().unwrap();
        let zone = |name: &str| name.parse::<ZoneId>().unwrap();
        let key = |digit: char| digit.to_string().repeat(32).parse::<CertId>().unwrap();
        let refused = |peer: &MachineId, at: &ZoneId, by: &CertId| {
            let refusal = take(&rates, peer, at, by).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::Overloaded);
            refusal.message
        };
        for _ in 0..2 {
            take(&rates, &peer("a"), &zone("shop"), &key('1')).unwrap();
        }
        assert!(refused(&peer("b"), &zone("shop"), &key('1')).contains("key"));
        take(&rates, &peer("a"), &zone("shop"), &key('2')).unwrap();
        assert!(refused(&peer("a"), &zone("other"), &key('3')).contains("peer"));
        // The refusal by the key took its share of the zone's, too.
        assert!(refused(&peer("c"), &zone("shop"), &key('2')).contains("zone"));
        take(&rates, &peer("c"), &zone("other"), &key('3')).unwrap();
        tokio::time::advance(Duration::from_millis(600)).await;
        take(&rates, &peer("a"), &zone("shop"), &key('1')).unwrap();
        let none = Rates::new(SignRates { peer_per_second: 0, ..SignRates::default() }, Arc::new(SystemClock));
        assert!(take(&none, &peer("a"), &zone("shop"), &key('1')).is_err());
    }
}
