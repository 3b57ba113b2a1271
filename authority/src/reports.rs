//! What machines report: kept in memory, for `status` and for estimates of latency.
//!
//! The road: [`Reports::take`] keeps a machine's newest report and one sample of each round trip that it measured; every
//! [`PUBLISH_MS`] the medians of each pair of data centres take the place of the ones before. Law: everything here is
//! bounded whatever machines say; one machine has one voice in a median, and an old voice falls silent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cinnabar_authority_api::report::Report;
use cinnabar_authority_api::{DataCenterId, MachineId};
use cinnabar_daemon::Clock;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::inventory::MACHINES_MAX;
use crate::preview::RoundTrips;
use crate::problem::{Code, Problem};

/// Least time between two reports of a machine, in ms; they come every 10 s.
pub const REPORT_INTERVAL_MS: u64 = 5_000;
/// Least time between two changes of a machine's address in the store, in ms.
pub const ADDRESS_INTERVAL_MS: u64 = 60_000;
/// Keys and certificates that a machine may have issued in a row, and how long until it may have one more, in ms.
pub const ISSUES_BURST: u32 = 5;
/// See [`ISSUES_BURST`].
pub const ISSUE_INTERVAL_MS: u64 = 60_000;
/// How often medians are made, in ms.
pub const PUBLISH_MS: u64 = 10_000;
/// Age from which on a sample no longer counts, in ms.
pub const SAMPLE_AGE_MS: u64 = 10 * 60 * 1000;
/// Samples of one pair of data centres, each of another machine.
pub const SAMPLES_MAX: usize = 15;
/// Pairs of data centres; later ones are not measured but estimated.
pub const PAIRS_MAX: usize = 100_000;

/// A machine's newest report.
#[derive(Debug, Clone)]
pub struct Reported {
    /// The report.
    pub report: Arc<Report>,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
}

#[derive(Default)]
struct Held {
    reported: Option<(Reported, Instant)>,
    address_at: Option<Instant>,
    /// When the burst is whole again.
    issues_until: Option<Instant>,
}

struct Sample {
    machine: MachineId,
    micros: u32,
    at: Instant,
}

#[derive(Default)]
struct Inner {
    machines: HashMap<MachineId, Held>,
    pairs: HashMap<(DataCenterId, DataCenterId), Vec<Sample>>,
    published: Option<Instant>,
}

/// See the module.
pub struct Reports {
    clock: Arc<dyn Clock>,
    measured: Arc<ArcSwap<RoundTrips>>,
    inner: Mutex<Inner>,
}

fn too_often(what: &str) -> Problem {
    Problem::new(Code::RateLimited, format!("{what} too often.")).hint("Wait a minute.")
}

impl Reports {
    /// Publishes medians into `measured`.
    pub fn new(clock: Arc<dyn Clock>, measured: Arc<ArcSwap<RoundTrips>>) -> Self {
        Self { clock, measured, inner: Mutex::default() }
    }

    /// Takes a machine's report. `is_known` tells the data centres of the inventory; round trips to others are dropped.
    ///
    /// # Errors
    /// `rate-limited`.
    pub fn take(
        &self,
        machine: &MachineId,
        data_center: &DataCenterId,
        report: Report,
        is_known: impl Fn(&DataCenterId) -> bool,
    ) -> Result<(), Problem> {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        let held = inner.held(machine)?;
        let interval = Duration::from_millis(REPORT_INTERVAL_MS);
        if held.reported.as_ref().is_some_and(|(_, at)| now.duration_since(*at) < interval) {
            return Err(too_often("This machine reports"));
        }
        let report = Arc::new(report);
        held.reported = Some((Reported { report: report.clone(), at_ms: self.clock.unix_ms() }, now));
        for (other, micros) in report.round_trips() {
            if other != data_center && is_known(other) {
                let pair = (data_center.clone(), other.clone());
                inner.sample(pair, Sample { machine: machine.clone(), micros: *micros, at: now });
            }
        }
        let due = inner.published.is_none_or(|at| now.duration_since(at) >= Duration::from_millis(PUBLISH_MS));
        if due {
            inner.published = Some(now);
            self.measured.store(Arc::new(inner.medians(now)));
        }
        Ok(())
    }

    /// May a machine's new address be written now? True at most once in [`ADDRESS_INTERVAL_MS`].
    pub fn may_move(&self, machine: &MachineId) -> bool {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        let Ok(held) = inner.held(machine) else { return false };
        let interval = Duration::from_millis(ADDRESS_INTERVAL_MS);
        let free = held.address_at.is_none_or(|at| now.duration_since(at) >= interval);
        if free {
            held.address_at = Some(now);
        }
        free
    }

    /// Counts one issue of keys or of a certificate to a machine.
    ///
    /// # Errors
    /// `rate-limited`.
    pub fn count_issue(&self, machine: &MachineId) -> Result<(), Problem> {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        let held = inner.held(machine)?;
        let one = Duration::from_millis(ISSUE_INTERVAL_MS);
        let until = held.issues_until.filter(|until| *until > now).unwrap_or(now) + one;
        if until.duration_since(now) > one * ISSUES_BURST {
            return Err(too_often("Keys are issued to this machine"));
        }
        held.issues_until = Some(until);
        Ok(())
    }

    /// How many of these machines have said that they applied entry `index`.
    pub fn count_at<'a>(&self, machines: impl IntoIterator<Item = &'a MachineId>, index: u64) -> usize {
        let inner = self.inner.lock();
        let said = |machine: &&MachineId| {
            let held = inner.machines.get(*machine).and_then(|held| held.reported.as_ref());
            held.is_some_and(|(reported, _)| reported.report.applied_index() >= index)
        };
        machines.into_iter().filter(said).count()
    }

    /// A machine's newest report.
    pub fn of(&self, machine: &MachineId) -> Option<Reported> {
        self.inner.lock().machines.get(machine)?.reported.as_ref().map(|(reported, _)| reported.clone())
    }

    /// Forgets what a machine said.
    pub fn forget(&self, machine: &MachineId) {
        let mut inner = self.inner.lock();
        inner.machines.remove(machine);
        inner.pairs.retain(|_, samples| {
            samples.retain(|sample| sample.machine != *machine);
            !samples.is_empty()
        });
    }
}

impl Inner {
    fn held(&mut self, machine: &MachineId) -> Result<&mut Held, Problem> {
        // Callers are machines of the inventory, which has the same bound.
        if self.machines.len() >= MACHINES_MAX && !self.machines.contains_key(machine) {
            return Err(too_often("Machines report"));
        }
        Ok(self.machines.entry(machine.clone()).or_default())
    }

    fn sample(&mut self, pair: (DataCenterId, DataCenterId), sample: Sample) {
        if self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(&pair) {
            return;
        }
        let samples = self.pairs.entry(pair).or_default();
        samples.retain(|other| other.machine != sample.machine);
        if samples.len() >= SAMPLES_MAX {
            // In the order in which they came.
            samples.remove(0);
        }
        samples.push(sample);
    }

    fn medians(&mut self, now: Instant) -> RoundTrips {
        let age = Duration::from_millis(SAMPLE_AGE_MS);
        self.pairs.retain(|_, samples| {
            samples.retain(|sample| now.duration_since(sample.at) < age);
            !samples.is_empty()
        });
        let median = |samples: &Vec<Sample>| {
            let mut micros: Vec<u32> = samples.iter().map(|sample| sample.micros).collect();
            micros.sort_unstable();
            f64::from(micros[(micros.len() - 1) / 2]) / 1000.0
        };
        let mut medians = RoundTrips::new();
        for ((from, to), samples) in &self.pairs {
            medians.entry(from.clone()).or_default().insert(to.clone(), median(samples));
        }
        medians
    }
}

#[cfg(test)]
mod tests {
    use cinnabar_authority_api::proto;
    use cinnabar_daemon::env::SystemClock;

    use super::*;

    fn reports() -> (Reports, Arc<ArcSwap<RoundTrips>>) {
        let measured = Arc::new(ArcSwap::from_pointee(RoundTrips::new()));
        (Reports::new(Arc::new(SystemClock), measured.clone()), measured)
    }

    fn report(to: &str, micros: u32) -> Report {
        let round_trips = vec![proto::RoundTrip { data_center: to.to_owned(), micros }];
        proto::ReportRequest { applied_index: 7, round_trips, ..Default::default() }.try_into().unwrap()
    }

    fn id(name: &str) -> MachineId {
        name.parse().unwrap()
    }

    fn dc(name: &str) -> DataCenterId {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_machine_has_one_voice_and_an_old_voice_falls_silent() {
        let (reports, measured) = reports();
        let say = |machine: &str, micros| reports.take(&id(machine), &dc("fra"), report("ams", micros), |_| true);
        let between = |from: &str, to: &str| measured.load().get(&dc(from)).and_then(|row| row.get(&dc(to)).copied());
        for _ in 0..4 {
            // A liar among three, however often it speaks.
            say("fra-1", 1).unwrap();
            say("fra-2", 6_000).unwrap();
            say("fra-3", 7_000).unwrap();
            tokio::time::advance(Duration::from_millis(PUBLISH_MS)).await;
        }
        say("fra-1", 1).unwrap();
        assert_eq!(between("fra", "ams"), Some(6.0));
        reports.forget(&id("fra-2"));
        tokio::time::advance(Duration::from_millis(SAMPLE_AGE_MS)).await;
        reports.take(&id("ams-1"), &dc("ams"), report("fra", 5_000), |_| true).unwrap();
        assert_eq!(measured.load().len(), 1);
        assert_eq!(between("ams", "fra"), Some(5.0));
    }

    #[tokio::test(start_paused = true)]
    async fn reports_come_no_faster_than_their_interval() {
        let (reports, _) = reports();
        let say = || reports.take(&id("fra-1"), &dc("fra"), report("ams", 1), |_| true);
        say().unwrap();
        assert_eq!(say().unwrap_err().code(), Code::RateLimited);
        tokio::time::advance(Duration::from_millis(REPORT_INTERVAL_MS)).await;
        say().unwrap();
        assert_eq!(reports.of(&id("fra-1")).unwrap().report.applied_index(), 7);
        assert!(reports.of(&id("fra-2")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn issues_and_moves_are_counted_by_machine() {
        let (reports, _) = reports();
        for _ in 0..ISSUES_BURST {
            reports.count_issue(&id("fra-1")).unwrap();
        }
        assert_eq!(reports.count_issue(&id("fra-1")).unwrap_err().code(), Code::RateLimited);
        reports.count_issue(&id("fra-2")).unwrap();
        tokio::time::advance(Duration::from_millis(ISSUE_INTERVAL_MS)).await;
        reports.count_issue(&id("fra-1")).unwrap();
        assert!(reports.count_issue(&id("fra-1")).is_err());
        assert!(reports.may_move(&id("fra-1")) && !reports.may_move(&id("fra-1")));
        tokio::time::advance(Duration::from_millis(ADDRESS_INTERVAL_MS)).await;
        assert!(reports.may_move(&id("fra-1")));
    }

    #[tokio::test(start_paused = true)]
    async fn samples_have_a_bound_and_unknown_data_centres_none() {
        let (reports, measured) = reports();
        for n in 0..100 {
            reports.take(&id(&format!("fra-{n}")), &dc("fra"), report("ams", n + 1), |_| true).unwrap();
            reports
                .take(&id(&format!("lon-{n}")), &dc("lon"), report("nowhere", 1), |to| to.as_str() != "nowhere")
                .unwrap();
        }
        tokio::time::advance(Duration::from_millis(PUBLISH_MS)).await;
        reports.take(&id("fra-99"), &dc("fra"), report("ams", 100), |_| true).unwrap();
        // The last 15: 86 to 100 us, of which the middle is 93.
        assert_eq!(*measured.load().as_ref(), RoundTrips::from([(dc("fra"), HashMap::from([(dc("ams"), 0.093)]))]));
    }
}
