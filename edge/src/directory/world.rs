//! The records that every decision needs, verified when they come and kept in memory: generations, schemas, machines,
//! revocations, policies. Certificates and ciphertexts stay in the store until somebody asks for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cinnabar_abe::{Attributes, Policy};
use cinnabar_authority_api::records::{Head, Machine, MachineState, Mode, PolicyRecord, PolicyRef, State, System};
use cinnabar_authority_api::verify::AnyContent;
use cinnabar_authority_api::{Checked, Generation, Kind, MachineId, RecordKey, Schema, SchemaVersion};

use super::{Holder, Holders, MachineView};

/// A version of a policy's key.
#[derive(Debug)]
pub struct PolicyView {
    /// Its record.
    pub record: PolicyRecord,
    /// The compiled policy.
    pub policy: Policy,
}

impl PolicyView {
    /// What certificates name it by.
    pub fn reference(&self) -> PolicyRef {
        PolicyRef { id: self.record.id, version: self.record.version }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct World {
    pub systems: BTreeMap<Generation, System>,
    pub schemas: BTreeMap<SchemaVersion, Arc<Schema>>,
    pub machines: BTreeMap<MachineId, Arc<MachineView>>,
    pub revoked: BTreeSet<MachineId>,
    pub policies: HashMap<PolicyRef, Arc<PolicyView>>,
    /// The newest head that came by in this reading.
    pub head: Option<Head>,
}

impl World {
    /// Takes in a verified record; an error says what of it cannot be used.
    pub(super) fn put(&mut self, key: &RecordKey, found: Checked<Option<AnyContent>>) -> Result<(), String> {
        let Some(found) = found.live() else {
            self.drop_key(key);
            return Ok(());
        };
        if key.kind() == Kind::Machine {
            // What was read under a machine's key is one.
            let machine = found.machine().ok_or("not a machine")?;
            let view = MachineView::new(machine)?;
            self.machines.insert(view.machine.id.clone(), Arc::new(view));
            return Ok(());
        }
        match found.into_content() {
            AnyContent::System(system) => drop(self.systems.insert(system.generation, system)),
            AnyContent::Schema(record) => drop(self.schemas.insert(record.version, Arc::new(record.schema))),
            AnyContent::Policy(record) => {
                let policy = record.policy().map_err(|error| format!("compiled: {error}"))?;
                let view = PolicyView { record, policy };
                self.policies.insert(view.reference(), Arc::new(view));
            }
            AnyContent::Revoked(revoked) => drop(self.revoked.insert(revoked.id)),
            AnyContent::Head(head) => self.head = Some(head),
            _ => {}
        }
        Ok(())
    }

    /// Forgets what a key said: it ended, or is not to be used.
    pub(super) fn drop_key(&mut self, key: &RecordKey) {
        match key {
            RecordKey::System(generation) => drop(self.systems.remove(generation)),
            RecordKey::Schema(version) => drop(self.schemas.remove(version)),
            RecordKey::Machine(id) => drop(self.machines.remove(id)),
            RecordKey::Policy(id, version) => {
                let id = cinnabar_authority_api::records::PolicyIdField(*id);
                self.policies.remove(&PolicyRef { id, version: *version });
            }
            // Whatever happens to a revocation, the machine stays revoked.
            RecordKey::Revoked(id) => drop(self.revoked.insert(id.clone())),
            _ => {}
        }
    }

    /// A machine that is there and not revoked.
    pub(super) fn machine(&self, id: &MachineId) -> Option<&Arc<MachineView>> {
        self.machines.get(id).filter(|_| !self.revoked.contains(id))
    }

    /// Generations that open what is under them, the newest first.
    pub(super) fn live_generations(&self) -> impl Iterator<Item = Generation> {
        self.systems.values().rev().filter(|system| system.state.decrypts()).map(|system| system.generation)
    }

    /// The newest generation that encrypts; 0 for none.
    pub(super) fn active_generation(&self) -> u32 {
        let active = self.systems.values().rev().find(|system| system.state == State::Active);
        active.map_or(0, |system| system.generation.get())
    }

    pub(super) fn mode(&self) -> Option<Mode> {
        let mut modes = self.systems.values().map(|system| system.mode);
        let first = modes.next()?;
        // Said once for good: two words for it are none, and the stricter holds.
        Some(if modes.all(|mode| mode == first) { first } else { Mode::Production })
    }

    /// Does a machine hold a key, of a generation that opens, whose attributes satisfy the policy?
    pub(super) fn satisfies(&self, machine: &MachineView, policy: &Policy) -> bool {
        let mut live = self.live_generations();
        live.any(|generation| machine.attributes(generation).is_some_and(|held| policy.is_satisfied_by(held)))
    }

    /// The machines that take work, and satisfy a policy if there is one.
    pub(super) fn holders(&self, policy: Option<&Policy>) -> Holders {
        let mut found = Holders::default();
        for (id, view) in &self.machines {
            let machine = &view.machine;
            let works = machine.state == MachineState::Live && !machine.address.is_empty();
            if !works || self.revoked.contains(id) || policy.is_some_and(|policy| !self.satisfies(view, policy)) {
                continue;
            }
            let holder = Holder { machine: id.clone(), address: machine.address.clone() };
            found.data_centers.entry(machine.data_center.clone()).or_default().push(holder);
        }
        found
    }
}

impl MachineView {
    /// Makes a verified record ready to be asked.
    ///
    /// # Errors
    /// What is wrong with the record's attributes.
    pub fn new(machine: Checked<Machine>) -> Result<Self, String> {
        let read = machine.issued.iter().map(|issued| Ok((issued.generation, issued.attributes()?)));
        let attributes: Result<Vec<(Generation, Attributes)>, cinnabar_abe::Error> = read.collect();
        let attributes = attributes.map_err(|error| format!("attributes: {error}"))?;
        Ok(Self { machine, attributes })
    }
}
