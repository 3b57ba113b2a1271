//! Machines as operators see them.

use cinnabar_authority_api::records::MachineState;
use cinnabar_authority_api::{DataCenterId, MachineId};
use serde::Serialize;

use super::issue::World;
use crate::reports::Reports;

/// Most machines on one page of a list.
pub const PAGE_LEN_MAX: usize = 1_000;

/// What a machine said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportView {
    /// Log index that it has applied.
    pub applied_index: u64,
    /// Newest generation that it has a key of; 0 for none.
    pub generation: u32,
    /// Newest schema that it has seen; 0 for none.
    pub schema: u32,
    /// Version of its program.
    pub version: String,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Why and when a machine was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevokedView {
    /// In milliseconds since 1970.
    pub at_ms: u64,
    /// The operator's words.
    pub reason: String,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineView {
    /// Which one.
    pub id: MachineId,
    /// Where it stands: by its record, else by the inventory.
    pub data_center: Option<DataCenterId>,
    /// `revoked`, `not-enrolled`, `live` or `draining`.
    pub state: &'static str,
    /// Set once it was revoked.
    pub revoked: Option<RevokedView>,
    /// Generations that keys were issued in.
    pub issued: Vec<u32>,
    /// Would asking for keys now give it others than it holds?
    pub reissue: bool,
    /// `host:port` of its signer; empty when none is known.
    pub address: String,
    /// What it said last, to this process.
    pub report: Option<ReportView>,
}

/// One machine; none when neither the records nor the inventory know it.
pub fn view(world: World<'_>, reports: &Reports, id: &MachineId) -> Option<MachineView> {
    let (record, facts) = (world.directory.machines().get(id), world.inventory.machine(id));
    let revoked = world.directory.revoked().get(id);
    if record.is_none() && facts.is_none() && revoked.is_none() {
        return None;
    }
    let state = match (revoked, record.map(|record| record.state)) {
        (Some(_), _) => "revoked",
        (None, None) => "not-enrolled",
        (None, Some(MachineState::Live)) => "live",
        (None, Some(MachineState::Draining)) => "draining",
    };
    let data_center = record.map(|record| &record.data_center).or(facts.map(|facts| &facts.data_center));
    let report = reports.of(id).map(|reported| ReportView {
        applied_index: reported.report.applied_index(),
        generation: reported.report.generation(),
        schema: reported.report.schema(),
        version: reported.report.version().to_owned(),
        at_ms: reported.at_ms,
    });
    Some(MachineView {
        id: id.clone(),
        data_center: data_center.cloned(),
        state,
        revoked: revoked.map(|revoked| RevokedView { at_ms: revoked.at_ms, reason: revoked.reason.clone() }),
        issued: record.iter().flat_map(|record| &record.words).map(|(generation, _)| generation.get()).collect(),
        reissue: record.is_some() && revoked.is_none() && world.issue(id).map_or(true, |issue| issue.changed),
        address: record.map(|record| record.address.clone()).unwrap_or_default(),
        report,
    })
}

/// One page of all machines that the records or the inventory know, in order of their ids.
pub fn page(world: World<'_>, reports: &Reports, after: Option<&MachineId>, len: usize) -> Vec<MachineView> {
    let later = |id: &&MachineId| after.is_none_or(|after| **id > *after);
    let len = len.clamp(1, PAGE_LEN_MAX);
    let recorded = world.directory.machines().keys().filter(later).take(len);
    let revoked = world.directory.revoked().keys().filter(later).take(len);
    let listed = world.inventory.machines().map(|(id, _)| id).filter(later).take(len);
    let ids: std::collections::BTreeSet<&MachineId> = recorded.chain(revoked).chain(listed).collect();
    ids.into_iter().take(len).filter_map(|id| view(world, reports, id)).collect()
}
