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

/// Round trips that were measured, in ms: from a data centre to others.
pub type RoundTrips = HashMap<DataCenterId, HashMap<DataCenterId, f64>>;

/// A place on a globe of radius 1. Of two places, the nearer one along the globe is the nearer one through it, too: so the
/// nearest of hundreds is found without a sine each.
#[derive(Debug, Clone, Copy)]
struct Point([f64; 3]);

impl Point {
    fn new(place: Place) -> Self {
        let ((sin_phi, cos_phi), lambda) = (place.latitude.to_radians().sin_cos(), place.longitude.to_radians());
        Self([cos_phi * lambda.cos(), cos_phi * lambda.sin(), sin_phi])
    }

    /// Square of the straight way through the globe.
    fn apart(self, other: Self) -> f64 {
        self.0.iter().zip(other.0).map(|(a, b)| (a - b).powi(2)).sum()
    }
}

/// Kilometres along the great circle, from [`Point::apart`].
fn km(apart: f64) -> f64 {
    2.0 * EARTH_KM * (apart.sqrt() / 2.0).clamp(0.0, 1.0).asin()
}

/// A round trip over that many kilometres, in ms; it grows with them.
fn estimated_ms(km: f64) -> f64 {
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

/// The data centres of each region, by what their machines were issued.
pub type Regions = BTreeMap<String, BTreeSet<DataCenterId>>;

/// The regions of these machines.
pub fn regions(sets: &[(Arc<Attributes>, BTreeSet<DataCenterId>)]) -> Regions {
    let mut members = Regions::new();
    for (attributes, centers) in sets {
        for label in attributes.labels() {
            let region = label.strip_prefix(REGION).and_then(|rest| rest.strip_prefix('_')).map(str::to_owned);
            if let Some(region) = region.filter(|region| attributes.has(&compiled_label(REGION, region), "1")) {
                members.entry(region).or_default().extend(centers.iter().cloned());
            }
        }
    }
    members
}

/// Previews a compiled policy over live machines.
pub fn preview(
    policy: &Policy,
    sets: &[(Arc<Attributes>, BTreeSet<DataCenterId>)],
    inventory: &Inventory,
    measured: &RoundTrips,
) -> Preview {
    preview_in(policy, sets, &regions(sets), inventory, measured)
}

/// [`preview`], with the machines' regions known already.
pub fn preview_in(
    policy: &Policy,
    sets: &[(Arc<Attributes>, BTreeSet<DataCenterId>)],
    regions: &Regions,
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
        latency: latency(regions, &all, &holders, inventory, measured),
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
    regions: &Regions,
    all: &BTreeSet<&DataCenterId>,
    holders: &BTreeSet<&DataCenterId>,
    inventory: &Inventory,
    measured: &RoundTrips,
) -> Latency {
    let point = |id: &DataCenterId| inventory.data_centers.get(id)?.place.map(Point::new);
    let holding: Vec<(&DataCenterId, Option<Point>)> = holders.iter().map(|id| (*id, point(id))).collect();
    let mut all_measured = true;
    let mut waits: BTreeMap<&DataCenterId, f64> = BTreeMap::new();
    for id in all {
        if holders.contains(id) {
            waits.insert(id, 0.0);
        } else if let Some((ms, known)) = nearest(point(id), measured.get(*id), &holding) {
            all_measured &= known;
            waits.insert(id, ms);
        }
    }
    let regions = regions.iter().filter_map(|(region, centers)| {
        let extra_ms = quantiles(centers.iter().filter_map(|id| waits.get(id)).copied())?;
        let local = centers.iter().filter(|id| holders.contains(id)).count();
        Some(RegionWait { region: region.clone(), local, of: centers.len(), extra_ms })
    });
    Latency {
        basis: if all_measured && waits.len() > holders.len() { "measured" } else { "estimated" },
        regions: regions.collect(),
        global: quantiles(waits.values().copied()),
        unknown: all.len() - waits.len(),
    }
}

/// Round trip to the nearest of these data centres, in ms, and whether it was measured; none when nothing is known.
fn nearest(
    from: Option<Point>,
    measured: Option<&HashMap<DataCenterId, f64>>,
    holding: &[(&DataCenterId, Option<Point>)],
) -> Option<(f64, bool)> {
    let (mut known, mut apart) = (f64::INFINITY, f64::INFINITY);
    for (id, to) in holding {
        match (measured.and_then(|row| row.get(*id)), from, to) {
            (Some(ms), ..) => known = known.min(*ms),
            (None, Some(from), Some(to)) => apart = apart.min(from.apart(*to)),
            _ => {}
        }
    }
    let guess = if apart.is_finite() { estimated_ms(km(apart)) } else { f64::INFINITY };
    let ms = known.min(guess);
    ms.is_finite().then_some((ms, known <= guess))
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
        let [fra, ams, syd] = [(50.1, 8.7), (52.4, 4.9), (-33.9, 151.2)]
            .map(|(latitude, longitude)| Point::new(Place { latitude, longitude }));
        let between = |a: Point, b: Point| km(a.apart(b));
        assert!((between(fra, syd) - 16_500.0).abs() < 100.0);
        assert!(estimated_ms(between(fra, ams)) < 7.0 && estimated_ms(between(fra, fra)) < 0.31);
        assert!((estimated_ms(between(fra, syd)) - 298.0).abs() < 3.0);
        // The estimate grows with the distance, also where the network changes: the nearest place has the least.
        assert!(estimated_ms(NEAR_KM - 0.1) < estimated_ms(NEAR_KM));
        // A measured way counts in place of the estimate, and a nearer one that was not measured stays an estimate.
        let ids = ["ams", "syd"].map(|id| id.parse::<DataCenterId>().unwrap());
        let holding = [(&ids[0], Some(ams)), (&ids[1], Some(syd))];
        let row = |ms: f64| HashMap::from([(ids[1].clone(), ms)]);
        assert_eq!(nearest(Some(fra), Some(&row(1.0)), &holding), Some((1.0, true)));
        assert!(nearest(Some(fra), Some(&row(290.0)), &holding).is_some_and(|(ms, known)| ms < 7.0 && !known));
        assert_eq!(nearest(None, None, &holding), None);
    }

    #[test]
    fn quantiles_are_values_that_were_there() {
        assert_eq!(quantiles([].into_iter()), None);
        assert_eq!(quantiles([5.0].into_iter()), Some(Wait { p50: 5.0, p95: 5.0 }));
        let hundred = quantiles((1..=100).map(f64::from)).unwrap();
        assert_eq!(hundred, Wait { p50: 50.0, p95: 95.0 });
    }
}
