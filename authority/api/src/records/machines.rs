//! Machines: what was issued to them, and that one may do nothing any more.

use cinnabar_abe::Attributes;
use cinnabar_daemon::id::ClusterId;
use serde::{Deserialize, Serialize};

use super::{Content, bounded};
use crate::keyspace::{Kind, RecordKey};
use crate::limits::{ADDRESS_BYTES_MAX, ATTRIBUTES_MAX, LIVE_GENERATIONS_MAX, REASON_BYTES_MAX, WORD_BYTES_MAX};
use crate::names::{DataCenterId, Generation, MachineId};

/// Does a machine take work?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MachineState {
    /// It does.
    Live,
    /// It holds its keys and is asked for nothing new: its data centre is drained.
    Draining,
}

/// The attributes in the key that a machine was given in one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The generation.
    pub generation: Generation,
    /// Labels and values, compiled, in ascending order of the labels.
    pub attributes: Vec<(String, String)>,
}

impl Issued {
    /// The attributes as policies see them.
    ///
    /// # Errors
    /// [`cinnabar_abe::Error::Attribute`] for a label or value that is no word.
    pub fn attributes(&self) -> Result<Attributes, cinnabar_abe::Error> {
        Attributes::new(self.attributes.iter().map(|(label, value)| (label, value)))
    }
}

/// A machine, and what was issued to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Which one.
    pub id: MachineId,
    /// Where it stands.
    pub data_center: DataCenterId,
    /// What its keys hold, one for each live generation, in ascending order.
    pub issued: Vec<Issued>,
    /// `host:port` of its signer for its peers; empty until it reported one.
    pub address: String,
    /// Does it take work?
    pub state: MachineState,
}

impl Content for Machine {
    const KIND: Kind = Kind::Machine;
    const ENDS: bool = true;

    fn key(&self) -> RecordKey {
        RecordKey::Machine(self.id.clone())
    }

    fn check(&self, _: &ClusterId) -> Result<(), String> {
        bounded("address", 0, ADDRESS_BYTES_MAX, self.address.len())?;
        bounded("issued", 0, LIVE_GENERATIONS_MAX, self.issued.len())?;
        if !self.issued.windows(2).all(|pair| pair[0].generation < pair[1].generation) {
            return Err("issued: generations ascend".to_owned());
        }
        for issued in &self.issued {
            bounded("attributes", 1, ATTRIBUTES_MAX, issued.attributes.len())?;
            if !issued.attributes.windows(2).all(|pair| pair[0].0 < pair[1].0) {
                return Err("attributes: labels ascend".to_owned());
            }
            for (label, value) in &issued.attributes {
                bounded("label or value", 1, 2 * WORD_BYTES_MAX + 1, label.len().max(value.len()))?;
            }
            issued.attributes().map_err(|error| format!("attributes: {error}"))?;
        }
        Ok(())
    }
}

/// A machine that nobody answers any more. There is no way back: the machine gets another id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Which one.
    pub id: MachineId,
    /// Since when, in milliseconds since 1970.
    pub at_ms: u64,
    /// Why, in the operator's words.
    pub reason: String,
}

impl Content for Revoked {
    const KIND: Kind = Kind::Revoked;
    const ENDS: bool = false;

    fn key(&self) -> RecordKey {
        RecordKey::Revoked(self.id.clone())
    }

    fn check(&self, _: &ClusterId) -> Result<(), String> {
        bounded("reason", 1, REASON_BYTES_MAX, self.reason.len())
    }
}
