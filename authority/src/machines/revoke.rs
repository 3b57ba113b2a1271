//! Which machines a revocation means, and what they could open: decided over the records, without doing anything.
//!
//! Law: what a machine could open is judged by the attributes that it was *issued*, whatever the inventory says today; it
//! is never told as less than it is: a policy counts in whichever generation the machine satisfied it. A filter finds a
//! machine by what was issued to it and by what the inventory says: either is enough.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cinnabar_abe::{Attributes, Policy, PolicyId};
use cinnabar_authority_api::compile::{Vocabulary, compile};
use cinnabar_authority_api::{CertId, DataCenterId, Hostname, MachineId, SecretName, ZoneId};
use serde::Serialize;

use super::issue::World;
use crate::directory::Directory;
use crate::problem::{Code, Problem};

/// Most machines of one revocation: they go into the store as one write.
pub const REVOKED_AT_ONCE_MAX: usize = 1_000;
/// Bytes that the store's limit allows for the record of one of them, key and all.
const REVOKED_RECORD_BYTES_MAX: usize = 1_024;
const _: () = assert!(REVOKED_AT_ONCE_MAX * REVOKED_RECORD_BYTES_MAX <= cinnabar_kv_api::limits::BATCH_BYTES_MAX);
const _: () = assert!(REVOKED_AT_ONCE_MAX <= cinnabar_kv_api::limits::BATCH_OPS_MAX);
const _: () = assert!(REVOKED_AT_ONCE_MAX <= cinnabar_kv_api::limits::BATCH_CONDITIONS_MAX);
// The reason, the cluster, the id three times, lengths, numbers and the signature.
const _: () = assert!(
    cinnabar_authority_api::limits::REASON_BYTES_MAX + 4 * cinnabar_authority_api::limits::ID_BYTES_MAX + 160
        < REVOKED_RECORD_BYTES_MAX
);

/// Which machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These.
    Ids(Vec<MachineId>),
    /// Those that satisfy a text such as `country: RU`.
    Where(String),
}

/// A policy that the machines could open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenPolicy {
    /// Its id, hexadecimal.
    pub id: String,
    /// Its text in the one form.
    pub canonical: String,
    /// The versions of its key.
    pub versions: Vec<u32>,
    /// How many of the machines could open it.
    pub machines: usize,
}

/// A certificate whose key they could read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenCert {
    /// Its zone.
    pub zone: ZoneId,
    /// Its id.
    pub id: CertId,
    /// Its names.
    pub hostnames: Vec<Hostname>,
}

/// A secret that they could read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenSecret {
    /// Its zone.
    pub zone: ZoneId,
    /// Its name.
    pub name: SecretName,
}

/// What machines could open: to be replaced at its issuers if they are not trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BlastRadius {
    /// Policies.
    pub policies: Vec<OpenPolicy>,
    /// Certificates under them.
    pub certificates: Vec<OpenCert>,
    /// Other secrets under them.
    pub secrets: Vec<OpenSecret>,
}

/// The machines that a selection means; already revoked ones too.
///
/// # Errors
/// `machine-unknown` for an id that nobody has; `invalid-field` for an empty selection; the codes of policies for a filter.
pub fn select(world: World<'_>, selection: &Selection) -> Result<BTreeSet<MachineId>, Problem> {
    let found = match selection {
        Selection::Ids(ids) => {
            let known = |id: &MachineId| {
                world.directory.machines().contains_key(id)
                    || world.directory.revoked().contains_key(id)
                    || world.inventory.machine(id).is_some()
            };
            if let Some(stranger) = ids.iter().find(|id| !known(id)) {
                return Err(Problem::new(Code::MachineUnknown, format!("There is no machine {stranger}.")));
            }
            ids.iter().cloned().collect()
        }
        Selection::Where(text) => matching(world, text)?,
    };
    if found.is_empty() {
        return Err(Problem::new(Code::MachineUnknown, "No machine is meant by this."));
    }
    Ok(found)
}

fn matching(world: World<'_>, text: &str) -> Result<BTreeSet<MachineId>, Problem> {
    if text.trim().is_empty() {
        return Err(Problem::new(Code::InvalidField, "An empty filter would mean every machine.").at("/where"));
    }
    let unready = || Problem::new(Code::Unavailable, "The store has no schema yet.");
    let (_, schema) = world.directory.schema().ok_or_else(unready)?;
    let machines = world.directory.machines();
    let mut data_centers: BTreeSet<DataCenterId> = world.inventory.names();
    data_centers.extend(machines.values().map(|machine| machine.data_center.clone()));
    let words = Vocabulary { schema, data_centers: &data_centers, held: &|_| true };
    let compiled = compile(text, world.cluster, &words).map_err(|problem| Problem::of_policy(&problem, "/where"))?;
    let policy = &compiled.policy;
    let mut found: BTreeSet<MachineId> = BTreeSet::new();
    let mut verdicts: HashMap<*const Attributes, bool> = HashMap::new();
    for (id, machine) in machines {
        let mut holds =
            |set: &Arc<Attributes>| *verdicts.entry(Arc::as_ptr(set)).or_insert_with(|| policy.is_satisfied_by(set));
        if machine.issued.iter().any(|(_, set)| holds(set)) {
            found.insert(id.clone());
        }
    }
    let mut said: HashMap<Vec<(String, String)>, bool> = HashMap::new();
    for (id, facts) in world.inventory.machines().filter(|(id, _)| !found.contains(*id)).collect::<Vec<_>>() {
        // One that does not fit the schema is found by what was issued to it alone.
        let Ok(pairs) = schema.attributes(world.cluster, facts) else { continue };
        let holds = said.get(&pairs).copied().unwrap_or_else(|| {
            let set = Attributes::new(pairs.iter().map(|(label, value)| (label, value)));
            set.is_ok_and(|set| policy.is_satisfied_by(&set))
        });
        said.insert(pairs, holds);
        if holds {
            found.insert(id.clone());
        }
    }
    Ok(found)
}

/// What machines could open under what was issued to them.
pub fn blast_radius(directory: &Directory, machines: &BTreeSet<MachineId>) -> BlastRadius {
    // Machines with the same sets are asked once.
    let mut alike: HashMap<Vec<*const Attributes>, (Vec<Arc<Attributes>>, usize)> = HashMap::new();
    for machine in machines.iter().filter_map(|id| directory.machines().get(id)) {
        let sets: Vec<Arc<Attributes>> = machine.issued.iter().map(|(_, set)| set.clone()).collect();
        let key = sets.iter().map(Arc::as_ptr).collect();
        alike.entry(key).or_insert((sets, 0)).1 += 1;
    }
    let count = |policy: &Policy| -> usize {
        let opens = |sets: &[Arc<Attributes>]| sets.iter().any(|set| policy.is_satisfied_by(set));
        alike.values().filter(|(sets, _)| opens(sets)).map(|(_, count)| count).sum()
    };
    let mut open: BTreeMap<PolicyId, OpenPolicy> = BTreeMap::new();
    let mut closed: BTreeSet<PolicyId> = BTreeSet::new();
    for info in directory.policies() {
        let (id, version) = (info.record.id.0, info.record.version.get());
        if let Some(known) = open.get_mut(&id) {
            known.versions.push(version);
            continue;
        }
        // The verifier has read it once: it is a policy.
        let Ok(policy) = info.record.policy() else { continue };
        match if closed.contains(&id) { 0 } else { count(&policy) } {
            0 => drop(closed.insert(id)),
            machines => {
                let canonical = info.record.canonical.clone();
                open.insert(id, OpenPolicy { id: id.to_string(), canonical, versions: vec![version], machines });
            }
        }
    }
    let certs = directory.certs().iter().filter(|(_, info)| open.contains_key(&info.policy.id.0));
    let certificates = certs.map(|((zone, id), info)| {
        let (zone, id, hostnames) = (zone.clone(), id.clone(), info.hostnames.clone());
        OpenCert { zone, id, hostnames }
    });
    let secrets = directory.secrets().iter().filter(|(_, policy)| open.contains_key(&policy.id.0));
    let secrets = secrets.map(|((zone, name), _)| OpenSecret { zone: zone.clone(), name: name.clone() });
    BlastRadius {
        certificates: certificates.collect(),
        secrets: secrets.collect(),
        policies: open.into_values().collect(),
    }
}
