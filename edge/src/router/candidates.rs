//! Whom to ask, in which order: data centres by their place, inside one the less loaded of two drawn machines.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_authority_api::{DataCenterId, MachineId};
use tokio::time::Instant;

use super::latency::Latency;
use super::pool::{Pool, Target};
use crate::directory::{Holder, Holders};

/// A data centre's place in the order.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// Which one.
    pub data_center: DataCenterId,
    /// Its machines that hold the key, this one left out.
    pub machines: usize,
    /// Of those, how many take requests as far as is known.
    pub healthy: usize,
    /// Round trip by probes; none when nobody measured it yet.
    pub round_trip: Option<Duration>,
}

/// The data centres that hold a key: those with a machine that takes requests first, this machine's own before others,
/// then by place, then by name.
pub fn order(
    holders: &Holders,
    me: &MachineId,
    own: &DataCenterId,
    pool: &Pool,
    latency: &Latency,
    now: Instant,
) -> Vec<Ranked> {
    let mut found = Vec::with_capacity(holders.data_centers.len());
    for (data_center, machines) in &holders.data_centers {
        let others = machines.iter().filter(|holder| holder.machine != *me);
        let usable = |holder: &&Holder| pool.get(holder).is_none_or(|target| target.is_usable(now));
        let ranked = Ranked {
            data_center: data_center.clone(),
            machines: others.clone().count(),
            healthy: others.filter(usable).count(),
            round_trip: latency.round_trip(data_center),
        };
        let place = if data_center == own { 0.0 } else { latency.place(data_center, now) };
        if ranked.machines > 0 {
            found.push((place, ranked));
        }
    }
    found.sort_by(|(a, one), (b, other)| {
        let health = (one.healthy == 0).cmp(&(other.healthy == 0));
        let distance = a.partial_cmp(b).unwrap_or(Ordering::Equal);
        health.then(distance).then_with(|| one.data_center.cmp(&other.data_center))
    });
    found.into_iter().map(|(_, ranked)| ranked).collect()
}

/// A machine of a data centre that was not asked yet: the less loaded of two that `random` draws from those that are
/// connected and take requests, else from all that may, else from all.
pub fn pick(
    holders: &Holders,
    data_center: &DataCenterId,
    me: &MachineId,
    asked: &[MachineId],
    pool: &Pool,
    (random, now): (u64, Instant),
) -> Option<Arc<Target>> {
    let machines = holders.data_centers.get(data_center)?;
    let left: Vec<(&Holder, Option<Arc<Target>>)> = machines
        .iter()
        .filter(|holder| holder.machine != *me && !asked.contains(&holder.machine))
        .map(|holder| (holder, pool.get(holder)))
        .collect();
    let connected = |target: &Option<Arc<Target>>| target.as_ref().is_some_and(|target| target.is_usable(now));
    let among = |keep: &dyn Fn(&Option<Arc<Target>>) -> bool| {
        let kept: Vec<&Holder> = left.iter().filter(|(_, target)| keep(target)).map(|(holder, _)| *holder).collect();
        (!kept.is_empty()).then_some(kept)
    };
    let kept = among(&connected).or_else(|| among(&Option::is_none)).or_else(|| among(&|_| true))?;
    let two = draw_two(kept.len(), random);
    let targets = two.into_iter().filter_map(|n| pool.connect(data_center, kept[n], now));
    targets.min_by_key(|target| target.pending())
}

/// Two different places below `count`, twice the same when there is but one.
fn draw_two(count: usize, random: u64) -> [usize; 2] {
    let below = |random: u64, count: usize| usize::try_from(random % count.max(1) as u64).unwrap_or(0);
    let first = below(random & 0xffff_ffff, count);
    if count < 2 {
        return [first, first];
    }
    [first, (first + 1 + below(random >> 32, count - 1)) % count]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_are_drawn_differ_and_all_are_drawn() {
        let mut seen = std::collections::BTreeSet::new();
        for random in 0..1000u64 {
            let [one, other] = draw_two(5, random.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert!(one != other && one < 5 && other < 5);
            seen.extend([one, other]);
        }
        assert_eq!(seen.len(), 5);
        assert_eq!(draw_two(1, u64::MAX), [0, 0]);
    }
}
