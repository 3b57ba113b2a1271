//! What a drained data centre costs policies, counted over the records before anything is done.
//!
//! Law: a policy's holders are counted as uploads count them: data centres with a live machine whose *issued* attributes
//! satisfy it in the generation that encrypts. Draining one that is the last holder of a key in use is refused unless it
//! is meant.

use std::collections::{BTreeMap, BTreeSet};

use cinnabar_abe::PolicyId;
use cinnabar_authority_api::records::{Machine, MachineState};
use cinnabar_authority_api::{DataCenterId, MachineId, ZoneId};
use serde::Serialize;

use crate::directory::Directory;
use crate::preview::live_sets;

/// A policy whose holders change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// Its id, hexadecimal.
    pub policy: String,
    /// Its text in the one form.
    pub canonical: String,
    /// Data centres that hold it now.
    pub before: usize,
    /// Data centres that will.
    pub after: usize,
    /// What its zones want at least; the largest of them.
    pub least: u16,
    /// Certificates and secrets under it.
    pub keys: usize,
    /// Their zones.
    pub zones: BTreeSet<ZoneId>,
}

impl Effect {
    /// Is a key in use left without any holder?
    pub fn is_fatal(&self) -> bool {
        self.after == 0 && self.keys > 0
    }

    /// Do fewer hold it than a zone wants?
    pub fn is_below(&self) -> bool {
        self.keys > 0 && self.after < usize::from(self.least)
    }
}

#[derive(Default)]
struct Use {
    keys: usize,
    zones: BTreeSet<ZoneId>,
}

/// Which policies gain or lose a holder when all machines of a data centre get this state.
pub fn effects(directory: &Directory, data_center: &DataCenterId, to: MachineState) -> Vec<Effect> {
    let Some(generation) = directory.active_system().map(|system| system.generation) else { return Vec::new() };
    let sets = live_sets(directory, generation);
    // Live machines there once it is done: none, or all that are not revoked.
    let there = directory.trusted().filter(|(_, machine)| machine.data_center == *data_center);
    let there: Vec<_> = there.filter_map(|(_, machine)| machine.attributes(generation)).collect();
    let uses = uses(directory);
    let mut found: BTreeMap<PolicyId, Effect> = BTreeMap::new();
    for info in directory.policies() {
        let id = info.record.id.0;
        let (false, Ok(policy)) = (found.contains_key(&id), info.record.policy()) else { continue };
        let satisfied = sets.iter().filter(|(set, _)| policy.is_satisfied_by(set));
        let mut holders: BTreeSet<&DataCenterId> = satisfied.flat_map(|(_, centers)| centers).collect();
        let before = holders.len();
        let holds = to == MachineState::Live && there.iter().any(|set| policy.is_satisfied_by(set));
        if holds {
            holders.insert(data_center)
        } else {
            holders.remove(data_center)
        };
        if holders.len() != before {
            let after = holders.len();
            let used = uses.get(&id);
            let zones = used.map(|used| used.zones.clone()).unwrap_or_default();
            let wanted = zones.iter().filter_map(|zone| directory.zones().get(zone));
            let effect = Effect {
                policy: id.to_string(),
                canonical: info.record.canonical.clone(),
                before,
                after,
                least: wanted.map(|zone| zone.limits.data_centers_min).max().unwrap_or(0),
                keys: used.map_or(0, |used| used.keys),
                zones,
            };
            found.insert(id, effect);
        }
    }
    found.into_values().collect()
}

fn uses(directory: &Directory) -> BTreeMap<PolicyId, Use> {
    let mut uses: BTreeMap<PolicyId, Use> = BTreeMap::new();
    let certs = directory.certs().iter().map(|((zone, _), info)| (zone, info.policy.id.0));
    let secrets = directory.secrets().iter().map(|((zone, _), policy)| (zone, policy.id.0));
    for (zone, policy) in certs.chain(secrets) {
        let used = uses.entry(policy).or_default();
        used.keys += 1;
        used.zones.insert(zone.clone());
    }
    uses
}

/// The machines of a data centre that have another state, in pieces that one write takes.
pub fn pieces(
    directory: &Directory,
    data_center: &DataCenterId,
    to: MachineState,
    ops_max: usize,
    bytes_max: usize,
) -> Vec<Vec<MachineId>> {
    let mut pieces: Vec<Vec<MachineId>> = Vec::new();
    let mut bytes = 0;
    let other = directory.trusted().filter(|(_, machine)| machine.data_center == *data_center && machine.state != to);
    for (id, machine) in other {
        let size = size(&machine.record(id));
        match pieces.last_mut().filter(|piece| piece.len() < ops_max && bytes + size <= bytes_max) {
            Some(piece) => {
                piece.push(id.clone());
                bytes += size;
            }
            None => {
                pieces.push(vec![id.clone()]);
                bytes = size;
            }
        }
    }
    pieces
}

/// At most as many bytes as the record with its key has.
fn size(machine: &Machine) -> usize {
    let issued = machine.issued.iter().flat_map(|one| &one.attributes);
    let pairs: usize = issued.map(|(label, value)| label.len() + value.len() + 16).sum();
    pairs + machine.address.len() + 1_024
}
