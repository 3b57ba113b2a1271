//! What this machine tells the authority every ten seconds.
//!
//! Law: a report changes nothing here. When the authority is away the next one is sent in its time; none waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_authority_api::client::MachineClient;
use cinnabar_authority_api::report::{ROUND_TRIP_US_MAX, ROUND_TRIPS_MAX, VERSION_BYTES_MAX};
use cinnabar_authority_api::{DataCenterId, proto};
use cinnabar_daemon::Shutdown;

use crate::directory::Directory;
use crate::keyring::Keyring;
use crate::metrics;

/// Time between two reports.
pub const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Round trips to other data centres, in microseconds, as the router measures them.
pub type RoundTrips = Arc<dyn Fn() -> BTreeMap<DataCenterId, u32> + Send + Sync>;

/// What reports are made of.
pub struct Reports {
    /// The authority.
    pub authority: MachineClient,
    /// The copy and its records.
    pub directory: Directory,
    /// The keys.
    pub keyring: Keyring,
    /// `host:port` of this machine's signer.
    pub address: String,
    /// Version of the program.
    pub version: String,
    /// What the router measured.
    pub round_trips: RoundTrips,
}

impl Reports {
    fn report(&self) -> proto::ReportRequest {
        let trips = (self.round_trips)().into_iter().filter(|(_, micros)| *micros <= ROUND_TRIP_US_MAX);
        let trips =
            trips.map(|(center, micros)| proto::RoundTrip { data_center: center.to_string(), micros: micros.max(1) });
        let visible = |c: &char| c.is_ascii_graphic() || *c == ' ';
        proto::ReportRequest {
            applied_index: self.directory.local().applied_index(),
            generation: self.keyring.generation(),
            schema: self.directory.schema().map_or(0, |(version, _)| version.get()),
            version: self.version.chars().filter(visible).take(VERSION_BYTES_MAX).collect(),
            address: self.address.clone(),
            round_trips: trips.take(ROUND_TRIPS_MAX).collect(),
        }
    }

    /// Sends until the shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let mut tick = tokio::time::interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut away = false;
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                _ = tick.tick() => {}
            }
            let sent = tokio::select! {
                () = shutdown.wait() => return,
                sent = self.authority.report(self.report()) => sent,
            };
            metrics::reported(sent.is_ok());
            match sent {
                Ok(()) => away = false,
                Err(error) if !away => {
                    away = true;
                    tracing::warn!(%error, "no report was sent");
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cinnabar_authority_api::records::Mode;
    use cinnabar_authority_api::report::Report;
    use cinnabar_daemon::{Env, mtls};

    use super::*;
    use crate::fixture::World;
    use crate::keyring::MachineKeys;

    #[tokio::test]
    async fn a_report_keeps_the_contract_whatever_the_router_says() {
        let mut world = World::new(Mode::Production);
        world.store.cover();
        let directory = world.store.directory(None);
        let _ = Env::system();
        let trips: BTreeMap<DataCenterId, u32> = (0..100)
            .map(|n| (format!("dc{n}").parse().unwrap(), if n == 0 { 0 } else { ROUND_TRIP_US_MAX - 50 + n }))
            .collect();
        let reports = Reports {
            authority: MachineClient::new(mtls::uds_channel(std::path::Path::new("/nowhere"))),
            keyring: Keyring::new(directory.clone(), MachineKeys::default()),
            directory,
            address: "[::1]:7001".to_owned(),
            version: format!("0.1.0\u{7f} {}", "x".repeat(100)),
            round_trips: Arc::new(move || trips.clone()),
        };
        let report = Report::try_from(reports.report()).unwrap();
        assert_eq!(report.applied_index(), world.store.local.applied_index());
        assert_eq!(report.round_trips().len(), 51, "one of 0, and those up to the bound");
        assert_eq!(report.address(), "[::1]:7001");
    }
}
