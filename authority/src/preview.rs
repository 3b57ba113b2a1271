//! Who holds a key under a policy, what that survives, and what it costs new connections elsewhere.
//!
//! Holders are counted by the attributes that live machines were *issued*, never by the inventory, so that the preview is
//! what decryption will do. The wait is estimated from coordinates unless it was measured; the answer says which.
//! Source of the estimate: round trips between sites of public networks, 13.4 ms + 0.01726 ms/km, and 0.3 ms +
//! 0.0157 ms/km below 1,000 km.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cinnabar_abe::{Attributes, Policy};
use cinnabar_authority_api::schema::{REGION, compiled_label};
use cinnabar_authority_api::{DataCenterId, Generation};
use serde::Serialize;

use crate::directory::Directory;
use crate::inventory::{Inventory, Place};

/// Below this distance, in km, sites share a region's network.
const NEAR_KM: f64 = 1_000.0;
/// Round trip at no distance and per km, in ms: near, far.
const NEAR_MS: (f64, f64) = (0.3, 0.0157);
const FAR_MS: (f64, f64) = (13.4, 0.01726);
/// Mean radius of the earth, in km.
const EARTH_KM: f64 = 6_371.0;

/// The data centres that hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holders {
    /// How many.
    pub count: usize,
    /// Of how many with live machines.
    pub of: usize,
    /// Their countries.
    pub countries: Vec<String>,
    /// Their names.
    pub data_centers: Vec<DataCenterId>,
}

/// What may be lost with the key still held somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Survives {
    /// Whichever data centre it is.
    pub any_one_data_center: bool,
    /// Whichever country it is.
    pub any_one_country: bool,
}

/// Added wait of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Wait {
    /// Half of the data centres wait at most this, in ms.
    pub p50: f64,
    /// 95 % of them.
    pub p95: f64,
}

/// The wait in one region.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionWait {
    /// The region.
    pub region: String,
    /// Data centres in it that hold the key.
    pub local: usize,
    /// Data centres in it.
    pub of: usize,
    /// Added wait.
    pub extra_ms: Wait,
}

/// Added waits; only first connections have them, resumed ones do not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// `measured` where every round trip was, else `estimated`.
    pub basis: &'static str,
    /// By region.
    pub regions: Vec<RegionWait>,
    /// Over all data centres.
    pub global: Option<Wait>,
    /// Data centres without coordinates and reports: not counted.
    pub unknown: usize,
}

/// The whole preview.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preview {
    /// Who holds.
    pub holders: Holders,
    /// What that survives.
    pub survives: Survives,
    /// What it costs.
    pub latency: Latency,
}

/// Round trips that were measured, in ms.
pub type RoundTrips = HashMap<(DataCenterId, DataCenterId), f64>;

/// Kilometres between two places, along the great circle.
fn distance_km(a: Place, b: Place) -> f64 {
    let (phi_a, phi_b) = (a.latitude.to_radians(), b.latitude.to_radians());
    let half_phi = (phi_b - phi_a) / 2.0;
    let half_lambda = (b.longitude - a.longitude).to_radians() / 2.0;
    let h = half_phi.sin().powi(2) + phi_a.cos() * phi_b.cos() * half_lambda.sin().powi(2);
    2.0 * EARTH_KM * h.clamp(0.0, 1.0).sqrt().asin()
}

/// A round trip between two places, in ms.
pub fn estimated_ms(a: Place, b: Place) -> f64 {
    let km = distance_km(a, b);
    let (base, per_km) = if km < NEAR_KM { NEAR_MS } else { FAR_MS };
    base + per_km * km
}

/// The attribute sets of live machines in a generation, and the data centres that have each.
pub fn live_sets(directory: &Directory, generation: Generation) -> Vec<(Arc<Attributes>, BTreeSet<DataCenterId>)> {
    let mut sets: HashMap<*const Attributes, (Arc<Attributes>, BTreeSet<DataCenterId>)> = HashMap::new();
    for (_, machine) in directory.live() {
        if let Some(attributes) = machine.attributes(generation) {
            let entry = sets.entry(Arc::as_ptr(attributes)).or_insert_with(|| (attributes.clone(), BTreeSet::new()));
            if !entry.1.contains(&machine.data_center) {
                entry.1.insert(machine.data_center.clone());
            }
        }
    }
    sets.into_values().collect()
}

/// Previews a compiled policy over live machines.
pub fn preview(
    policy: &Policy,
    sets: &[(Arc<Attributes>, BTreeSet<DataCenterId>)],
    inventory: &Inventory,
    measured: &RoundTrips,
) -> Preview {
    let all: BTreeSet<&DataCenterId> = sets.iter().flat_map(|(_, centers)| centers).collect();
    let satisfied = sets.iter().filter(|(attributes, _)| policy.is_satisfied_by(attributes));
    let holders: BTreeSet<&DataCenterId> = satisfied.flat_map(|(_, centers)| centers).collect();
    let country = |id: &&DataCenterId| inventory.data_centers.get(*id).map(|center| center.country.clone());
    let countries: BTreeSet<String> = holders.iter().filter_map(country).collect();
    let survives = Survives { any_one_data_center: holders.len() > 1, any_one_country: countries.len() > 1 };
    Preview {
        latency: latency(sets, &all, &holders, inventory, measured),
        holders: Holders {
            count: holders.len(),
            of: all.len(),
            countries: countries.into_iter().collect(),
            data_centers: holders.into_iter().cloned().collect(),
        },
        survives,
    }
}

fn latency(
    sets: &[(Arc<Attributes>, BTreeSet<DataCenterId>)],
    all: &BTreeSet<&DataCenterId>,
    holders: &BTreeSet<&DataCenterId>,
    inventory: &Inventory,
    measured: &RoundTrips,
) -> Latency {
    let place = |id: &DataCenterId| inventory.data_centers.get(id).and_then(|center| center.place);
    let mut all_measured = true;
    let mut waits: BTreeMap<&DataCenterId, f64> = BTreeMap::new();
    for id in all {
        if holders.contains(id) {
            waits.insert(id, 0.0);
            continue;
        }
        let mut nearest: Option<(f64, bool)> = None;
        for holder in holders {
            let known = measured.get(&((*id).clone(), (*holder).clone())).map(|ms| (*ms, true));
            let guess = || Some((estimated_ms(place(id)?, place(holder)?), false));
            let found = known.or_else(guess);
            if let Some(found) = found.filter(|found| nearest.is_none_or(|best| found.0 < best.0)) {
                nearest = Some(found);
            }
        }
        if let Some((ms, known)) = nearest {
            all_measured &= known;
            waits.insert(id, ms);
        }
    }
    let mut members: BTreeMap<String, BTreeSet<&DataCenterId>> = BTreeMap::new();
    for (attributes, centers) in sets {
        for label in attributes.labels() {
            let region = label.strip_prefix(REGION).and_then(|rest| rest.strip_prefix('_')).map(str::to_owned);
            if let Some(region) = region.filter(|region| attributes.has(&compiled_label(REGION, region), "1")) {
                members.entry(region).or_default().extend(centers);
            }
        }
    }
    let regions = members.into_iter().filter_map(|(region, centers)| {
        let extra_ms = quantiles(centers.iter().filter_map(|id| waits.get(id)).copied())?;
        let local = centers.iter().filter(|id| holders.contains(*id)).count();
        Some(RegionWait { region, local, of: centers.len(), extra_ms })
    });
    Latency {
        basis: if all_measured && waits.len() > holders.len() { "measured" } else { "estimated" },
        regions: regions.collect(),
        global: quantiles(waits.values().copied()),
        unknown: all.len() - waits.len(),
    }
}

/// The least values that half, and 95 %, do not exceed; none of nothing.
fn quantiles(waits: impl Iterator<Item = f64>) -> Option<Wait> {
    let mut waits: Vec<f64> = waits.collect();
    waits.sort_by(f64::total_cmp);
    let at = |hundredths: usize| waits.get((waits.len() * hundredths).div_ceil(100).saturating_sub(1)).copied();
    let rounded = |ms: f64| (ms * 10.0).round() / 10.0;
    Some(Wait { p50: rounded(at(50)?), p95: rounded(at(95)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_and_round_trips_are_those_of_the_globe() {
        let [fra, ams, syd] =
            [(50.1, 8.7), (52.4, 4.9), (-33.9, 151.2)].map(|(latitude, longitude)| Place { latitude, longitude });
        assert!((distance_km(fra, syd) - 16_500.0).abs() < 100.0);
        assert!(estimated_ms(fra, ams) < 7.0 && estimated_ms(fra, fra) < 0.31);
        assert!((estimated_ms(fra, syd) - 298.0).abs() < 3.0);
    }

    #[test]
    fn quantiles_are_values_that_were_there() {
        assert_eq!(quantiles([].into_iter()), None);
        assert_eq!(quantiles([5.0].into_iter()), Some(Wait { p50: 5.0, p95: 5.0 }));
        let hundred = quantiles((1..=100).map(f64::from)).unwrap();
        assert_eq!(hundred, Wait { p50: 50.0, p95: 95.0 });
    }
}
