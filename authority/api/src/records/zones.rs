//! Zones, their tokens, and the policies that their keys are under.

use std::fmt;

use bytes::Bytes;
use cinnabar_abe::envelope::{PolicyPublicKey, X25519_BYTES};
use cinnabar_abe::limits::CIPHERTEXT_BYTES_MAX;
use cinnabar_abe::{Policy, PolicyId};
use cinnabar_daemon::id::ClusterId;
use serde::{Deserialize, Serialize};

use super::{Content, PolicyIdField, State, bounded};
use crate::keyspace::{Kind, RecordKey};
use crate::limits::{ID_BYTES_MAX, POLICY_TEXT_BYTES_MAX, ZONE_DOMAINS_MAX};
use crate::names::{CertId, Generation, Hostname, MachineId, PolicyKeyVersion, SchemaVersion, ZoneId};

/// A customer's name space: the domain names it owns, and what it may do with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Which one.
    pub id: ZoneId,
    /// Its domains, each with everything below it. No two zones overlap.
    pub domains: Vec<Hostname>,
    /// What it may do.
    pub limits: ZoneLimits,
}

/// What a zone may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneLimits {
    /// Fewest data centres that a key of it should be held by; fewer must be acknowledged.
    pub data_centers_min: u16,
    /// Most certificates and secrets.
    pub keys_max: u32,
    /// Changes a minute.
    pub changes_per_minute: u32,
}

impl Content for Zone {
    const KIND: Kind = Kind::Zone;
    const ENDS: bool = true;

    fn key(&self) -> RecordKey {
        RecordKey::Zone(self.id.clone())
    }

    fn check(&self, _: &ClusterId) -> Result<(), String> {
        bounded("domains", 1, ZONE_DOMAINS_MAX, self.domains.len())?;
        for (n, domain) in self.domains.iter().enumerate() {
            if domain.is_wildcard() {
                return Err(format!("domain {domain}: a domain holds all names below it, without `*`"));
            }
            if let Some(other) = self.domains[..n].iter().find(|other| overlap(domain, other)) {
                return Err(format!("domains {other} and {domain} overlap"));
            }
        }
        Ok(())
    }
}

/// Is one domain the other or below it?
pub fn overlap(a: &Hostname, b: &Hostname) -> bool {
    a.is_inside(b) || b.is_inside(a)
}

/// A version of a policy's key: what the policy is, and the public half that customers' keys are wrapped to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// The policy: equal for all texts that mean the same.
    pub id: PolicyIdField,
    /// Version of its key.
    pub version: PolicyKeyVersion,
    /// The text of the customer who used it first; empty for "everywhere".
    pub text: String,
    /// The text in its one form.
    pub canonical: String,
    /// The schema that it was compiled under.
    pub schema: SchemaVersion,
    /// The compiled policy, as [`Policy`] prints it: what the ciphertexts say too.
    pub compiled: String,
    /// X25519 public key.
    pub public_key: [u8; X25519_BYTES],
    /// Where the key stands.
    pub state: State,
}

impl PolicyRecord {
    /// The compiled policy.
    ///
    /// # Errors
    /// As [`Policy::parse_with`], under the bounds of the printed form.
    pub fn policy(&self) -> Result<Policy, cinnabar_abe::PolicyError> {
        Policy::parse_with(&self.compiled, &cinnabar_abe::limits::Limits::FORMAT)
    }
}

impl Content for PolicyRecord {
    const KIND: Kind = Kind::Policy;
    const ENDS: bool = false;

    fn key(&self) -> RecordKey {
        RecordKey::Policy(self.id.0, self.version)
    }

    fn check(&self, cluster: &ClusterId) -> Result<(), String> {
        bounded("text", 0, POLICY_TEXT_BYTES_MAX, self.text.len())?;
        bounded("canonical", 1, 2 * POLICY_TEXT_BYTES_MAX, self.canonical.len())?;
        bounded("compiled", 1, 4 * POLICY_TEXT_BYTES_MAX, self.compiled.len())?;
        let policy = self.policy().map_err(|error| format!("compiled: {error}"))?;
        if policy.id(cluster.as_str().as_bytes()) != self.id.0 {
            return Err("the compiled policy has another id".to_owned());
        }
        PolicyPublicKey::from_bytes(self.public_key).map(drop).map_err(|error| format!("public key: {error}"))
    }
}

/// The private half of a policy's key, for all who satisfy the policy in one generation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCiphertext {
    /// The policy.
    pub id: PolicyIdField,
    /// Version of its key.
    pub version: PolicyKeyVersion,
    /// The system's generation.
    pub generation: Generation,
    /// ABE ciphertext of the private half.
    pub ciphertext: Bytes,
}

impl fmt::Debug for PolicyCiphertext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicyCiphertext({}, {} bytes)", self.key(), self.ciphertext.len())
    }
}

impl Content for PolicyCiphertext {
    const KIND: Kind = Kind::PolicyCiphertext;
    const ENDS: bool = true;

    fn key(&self) -> RecordKey {
        RecordKey::PolicyCiphertext(self.id.0, self.version, self.generation)
    }

    fn check(&self, cluster: &ClusterId) -> Result<(), String> {
        bounded("ciphertext", 1, CIPHERTEXT_BYTES_MAX, self.ciphertext.len())?;
        let policy = Policy::extract(&self.ciphertext).map_err(|error| format!("ciphertext: {error}"))?;
        let id: PolicyId = policy.id(cluster.as_str().as_bytes());
        if id == self.id.0 { Ok(()) } else { Err("the ciphertext is under another policy".to_owned()) }
    }
}

/// What a token lets its holder do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenScope {
    /// Change the keys of a zone.
    Zone(ZoneId),
    /// Enrol one machine, once.
    Machine(MachineId),
    /// Do what an operator may, under the token's name.
    Operator,
}

/// A token: only its digest is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public part.
    pub id: CertId,
    /// SHA-256 of the whole token.
    pub digest: [u8; 32],
    /// What for.
    pub scope: TokenScope,
    /// What its owner calls it.
    pub name: String,
    /// Last moment, in milliseconds since 1970; 0 when it does not end.
    pub expires_ms: u64,
}

impl Content for Token {
    const KIND: Kind = Kind::Token;
    const ENDS: bool = true;

    fn key(&self) -> RecordKey {
        RecordKey::Token(self.id.clone())
    }

    fn check(&self, _: &ClusterId) -> Result<(), String> {
        // Who acts by an operator's token is known by that name.
        let least = usize::from(self.scope == TokenScope::Operator);
        bounded("name", least, ID_BYTES_MAX, self.name.len())
    }
}
