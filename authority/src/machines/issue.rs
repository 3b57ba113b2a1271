//! What a machine is to be given: decided from the inventory and the schema, over the records, without doing anything.
//!
//! Law: attributes come from the inventory and nowhere else, and none is ever a wildcard. Within one generation a machine's
//! attributes only grow: it keeps the key that it was given before, so another value for a label would let it open what
//! both keys open, while its record says only the newer. Such a change waits for the next generation.

use std::collections::BTreeMap;

use cinnabar_abe::{AttributeKey, Attributes};
use cinnabar_authority_api::limits::LIVE_GENERATIONS_MAX;
use cinnabar_authority_api::records::{Content, Issued, Machine, MachineState, State};
use cinnabar_authority_api::schema::Facts;
use cinnabar_authority_api::{DataCenterId, Generation, MachineId, RecordKey};
use cinnabar_daemon::id::ClusterId;

use crate::directory::{Directory, MachineInfo};
use crate::inventory::Inventory;
use crate::problem::{Code, Problem};
use crate::uploads::internal;

/// What is decided over.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The records.
    pub directory: &'a Directory,
    /// The operator's inventory.
    pub inventory: &'a Inventory,
}

/// Labels with their values, labels ascending.
pub type Pairs = Vec<(String, String)>;

/// What a machine is to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// One key for each of these generations, ascending.
    pub keys: Vec<(Generation, Pairs)>,
    /// The machine's record, which says so.
    pub record: Machine,
    /// Does the record differ from the one in the store?
    pub changed: bool,
    /// What the decision rests on.
    pub rests_on: Vec<RecordKey>,
}

impl<'a> World<'a> {
    /// What the inventory says about a machine that may do something.
    ///
    /// # Errors
    /// `machine-revoked`, `machine-unknown`.
    pub fn facts(self, id: &MachineId) -> Result<&'a Facts, Problem> {
        if self.directory.revoked().contains_key(id) {
            let detail = format!("Machine {id} was revoked.");
            return Err(Problem::new(Code::MachineRevoked, detail).hint("Give it another id and enrol it anew."));
        }
        self.inventory.machine(id).ok_or_else(|| {
            let detail = format!("There is no machine {id} in the inventory.");
            Problem::new(Code::MachineUnknown, detail).hint("Write it into the inventory and reload that.")
        })
    }

    /// The record of a machine that is enrolled and may do something.
    ///
    /// # Errors
    /// `machine-revoked`, `machine-unknown`.
    pub fn enrolled(self, id: &MachineId) -> Result<&'a MachineInfo, Problem> {
        self.facts(id)?;
        self.directory.machines().get(id).ok_or_else(|| {
            let detail = format!("Machine {id} is not enrolled.");
            Problem::new(Code::MachineUnknown, detail).hint("Run `cinnabar machine token` for it.")
        })
    }

    /// What a machine's keys are to carry today.
    ///
    /// # Errors
    /// `machine-revoked`, `machine-unknown`; `unavailable` without a schema or when the inventory does not fit it.
    pub fn pairs(self, id: &MachineId) -> Result<Pairs, Problem> {
        let facts = self.facts(id)?;
        let unready = || Problem::new(Code::Unavailable, "The store has no schema yet.");
        let (_, schema) = self.directory.schema().ok_or_else(unready)?;
        schema.attributes(self.cluster, facts).map_err(|error| {
            let detail = format!("The inventory's entry for {id} does not fit the schema: {error}.");
            Problem::new(Code::Unavailable, detail).hint("Correct the inventory and reload it.")
        })
    }

    /// The record of a machine that enrols: what was issued to it before stays said.
    ///
    /// # Errors
    /// `machine-revoked`, `machine-unknown`.
    pub fn newcomer(self, id: &MachineId) -> Result<Machine, Problem> {
        let facts = self.facts(id)?;
        if let Some(known) = self.directory.machines().get(id) {
            return Ok(known.record(id));
        }
        let (data_center, state) = (facts.data_center.clone(), state_of(self.directory, &facts.data_center));
        Ok(Machine { id: id.clone(), data_center, issued: Vec::new(), address: String::new(), state })
    }

    /// What a machine is to be given now, for every generation that is not destroyed.
    ///
    /// # Errors
    /// `machine-revoked`, `machine-unknown`, `unavailable`; `rotation-needed` when no generation is left in which the
    /// machine may hold what the inventory says.
    pub fn issue(self, id: &MachineId) -> Result<Issue, Problem> {
        let known = self.enrolled(id)?;
        let pairs = self.pairs(id)?;
        let in_use = self.directory.systems().values().filter(|system| system.state != State::Destroyed);
        let generations: Vec<Generation> = in_use.map(|system| system.generation).collect();
        if generations.is_empty() {
            return Err(Problem::new(Code::Unavailable, "The system has no generation yet."));
        }
        if generations.len() > LIVE_GENERATIONS_MAX {
            return Err(internal("more generations in use than a machine may hold", &generations.len()));
        }
        let (mut keys, mut issued, mut fault) = (Vec::new(), Vec::new(), None);
        for generation in &generations {
            let before = known.words(*generation);
            match before.and_then(|before| first_change(before, &pairs).map(|label| (before, label))) {
                None => {
                    keys.push((*generation, pairs.clone()));
                    issued.push(Issued { generation: *generation, attributes: pairs.clone() });
                }
                Some((before, label)) => {
                    fault = Some((*generation, label));
                    issued.push(Issued { generation: *generation, attributes: before.as_ref().clone() });
                }
            }
        }
        if let (true, Some((generation, label))) = (keys.is_empty(), fault) {
            let detail = format!(
                "Machine {id} holds a key of generation {generation} with another `{label}` than the inventory says."
            );
            let hint = "Run a rotation, put the inventory back as it was, or enrol the machine under another id.";
            return Err(Problem::new(Code::RotationNeeded, detail).hint(hint));
        }
        let data_center = self.facts(id)?.data_center.clone();
        let record =
            Machine { id: id.clone(), data_center, issued, address: known.address.clone(), state: known.state };
        let mut rests_on = vec![RecordKey::Revoked(id.clone())];
        rests_on.extend(generations.iter().map(|generation| RecordKey::System(*generation)));
        rests_on.extend(self.directory.schema().map(|(version, _)| RecordKey::Schema(version)));
        Ok(Issue { changed: record != known.record(id), keys, record, rests_on })
    }
}

/// A label of `before` that has another value now, or none.
fn first_change(before: &[(String, String)], now: &[(String, String)]) -> Option<String> {
    let now: BTreeMap<&str, &str> = now.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
    let changed = before.iter().find(|(label, value)| now.get(label.as_str()) != Some(&value.as_str()));
    changed.map(|(label, _)| label.clone())
}

/// Does a new machine of a data centre take work? Not where all others are drained.
fn state_of(directory: &Directory, data_center: &DataCenterId) -> MachineState {
    let mut others = directory.trusted().filter(|(_, machine)| machine.data_center == *data_center).peekable();
    let drained = others.peek().is_some() && others.all(|(_, machine)| machine.state == MachineState::Draining);
    if drained { MachineState::Draining } else { MachineState::Live }
}

/// Makes the key of one generation through `keygen`, and checks that it is what was asked for.
///
/// # Errors
/// What `keygen` gives; `internal` for a key with a wildcard or with other attributes.
pub fn make_key(
    pairs: &[(String, String)],
    keygen: impl FnOnce(&Attributes) -> Result<AttributeKey, Problem>,
) -> Result<AttributeKey, Problem> {
    let attributes = Attributes::new(pairs.iter().map(|(label, value)| (label, value)))
        .map_err(|error| internal("a machine's attributes", &error))?;
    let key = keygen(&attributes)?;
    if *key.attributes() != attributes || key.attributes().wildcard_labels().next().is_some() {
        return Err(internal("a machine's key", &"it carries something else than was asked for"));
    }
    Ok(key)
}

impl Issue {
    /// The machine's record's key.
    pub fn key(&self) -> RecordKey {
        self.record.key()
    }

    /// The generations, for the audit log.
    pub fn generations(&self) -> String {
        self.keys.iter().map(|(generation, _)| generation.to_string()).collect::<Vec<_>>().join(" ")
    }
}
