//! Certificates, other secrets, and which certificate serves a name.

use std::fmt;

use bytes::Bytes;
use cinnabar_abe::Policy;
use cinnabar_abe::envelope::{Context, Kind as SecretKind, WrappedSecret};
use cinnabar_abe::limits::Limits;
use cinnabar_daemon::id::ClusterId;
use serde::{Deserialize, Serialize};

use super::{Content, PolicyIdField, bounded};
use crate::keyspace::{Kind, RecordKey};
use crate::limits::{
    CERT_HOSTNAMES_MAX, CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX, POLICY_TEXT_BYTES_MAX, SNI_CERTS_MAX,
};
use crate::names::{CertId, Hostname, PolicyKeyVersion, SecretName, ZoneId};

/// The kind of a certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeyType {
    /// RSA, with its bits.
    Rsa(u16),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
}

impl KeyType {
    /// RSA or elliptic.
    pub fn kind(self) -> KeyKind {
        match self {
            Self::Rsa(_) => KeyKind::Rsa,
            Self::P256 | Self::P384 => KeyKind::Ecdsa,
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA-{bits}"),
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
        }
    }
}

/// The policy key that a secret is wrapped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRef {
    /// The policy.
    pub id: PolicyIdField,
    /// Version of its key.
    pub version: PolicyKeyVersion,
}

/// A certificate, and its private key under a policy.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cert {
    /// The zone that owns its names.
    pub zone: ZoneId,
    /// Its id; kept when it is replaced.
    pub id: CertId,
    /// DER, the leaf first.
    pub chain: Vec<Bytes>,
    /// Names of the leaf.
    pub hostnames: Vec<Hostname>,
    /// Kind of its key.
    pub key_type: KeyType,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// The policy key that the private key is wrapped to.
    pub policy: PolicyRef,
    /// The policy's text as this customer wrote it; empty for "everywhere".
    pub policy_text: String,
    /// The private key, PKCS #8, wrapped.
    pub wrapped_key: Bytes,
    /// Who may ask for signatures: a compiled policy over machines; none lets every machine.
    pub served_by: Option<String>,
    /// First upload, in milliseconds since 1970.
    pub created_ms: u64,
}

impl fmt::Debug for Cert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cert({}, {:?}, {})", self.key(), self.hostnames, self.key_type)
    }
}

impl Cert {
    /// What its private key is bound to.
    pub fn context<'a>(&'a self, cluster: &'a ClusterId) -> Context<'a> {
        Context {
            cluster: cluster.as_str().as_bytes(),
            kind: SecretKind::Certificate,
            zone: self.zone.as_str(),
            name: self.id.as_str(),
            spki_sha256: Some(self.spki_sha256),
            policy: self.policy.id.0,
            policy_key_version: self.policy.version.0,
        }
    }
}

impl Content for Cert {
    const KIND: Kind = Kind::Cert;
    const ENDS: bool = true;

    fn key(&self) -> RecordKey {
        RecordKey::Cert(self.zone.clone(), self.id.clone())
    }

    fn check(&self, _: &ClusterId) -> Result<(), String> {
        bounded("chain", 1, CHAIN_CERTIFICATES_MAX, self.chain.len())?;
        bounded("chain bytes", 1, CHAIN_BYTES_MAX, self.chain.iter().map(Bytes::len).sum())?;
        bounded("hostnames", 1, CERT_HOSTNAMES_MAX, self.hostnames.len())?;
        bounded("policy text", 0, POLICY_TEXT_BYTES_MAX, self.policy_text.len())?;
        if let Some(served_by) = &self.served_by {
            bounded("served_by", 1, POLICY_TEXT_BYTES_MAX, served_by.len())?;
            Policy::parse_with(served_by, &Limits::FORMAT).map_err(|error| format!("served_by: {error}"))?;
        }
        WrappedSecret::from_bytes(&self.wrapped_key).map(drop).map_err(|error| format!("wrapped key: {error}"))
    }
}

/// A secret that is no certificate's key, under a policy.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The zone that owns it.
    pub zone: ZoneId,
    /// Its name there.
    pub name: SecretName,
    /// The policy key that it is wrapped to.
    pub policy: PolicyRef,
    /// The policy's text as this customer wrote it; empty for "everywhere".
    pub policy_text: String,
    /// The secret, wrapped.
    pub wrapped: Bytes,
    /// When it was first put, in milliseconds since 1970.
    pub created_ms: u64,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, {} bytes)", self.key(), self.wrapped.len())
    }
}

impl Secret {
    /// What it is bound to.
    pub fn context<'a>(&'a self, cluster: &'a ClusterId) -> Context<'a> {
        Context {
            cluster: cluster.as_str().as_bytes(),
            kind: SecretKind::Secret,
            zone: self.zone.as_str(),
            name: self.name.as_str(),
            spki_sha256: None,
            policy: self.policy.id.0,
            policy_key_version: self.policy.version.0,
        }
    }
}

impl Content for Secret {
    const KIND: Kind = Kind::Secret;
    const ENDS: bool = true;

    fn key(&self) -> RecordKey {
        RecordKey::Secret(self.zone.clone(), self.name.clone())
    }

    fn check(&self, _: &ClusterId) -> Result<(), String> {
        bounded("policy text", 0, POLICY_TEXT_BYTES_MAX, self.policy_text.len())?;
        WrappedSecret::from_bytes(&self.wrapped).map(drop).map_err(|error| format!("wrapped: {error}"))
    }
}

/// Which certificates serve a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sni {
    /// The name.
    pub hostname: Hostname,
    /// One for each kind of key at most, in the order of kinds.
    pub certs: Vec<SniCert>,
}

/// What TLS clients tell apart in keys: of each, one certificate serves a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeyKind {
    /// On an elliptic curve.
    Ecdsa,
    /// RSA.
    Rsa,
}

/// A certificate that serves a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SniCert {
    /// The kind of its key.
    pub kind: KeyKind,
    /// Its zone.
    pub zone: ZoneId,
    /// Its id.
    pub id: CertId,
}

impl Content for Sni {
    const KIND: Kind = Kind::Sni;
    const ENDS: bool = true;

    fn key(&self) -> RecordKey {
        RecordKey::Sni(self.hostname.clone())
    }

    fn check(&self, _: &ClusterId) -> Result<(), String> {
        bounded("certificates", 1, SNI_CERTS_MAX, self.certs.len())?;
        let ordered = self.certs.windows(2).all(|pair| pair[0].kind < pair[1].kind);
        if ordered { Ok(()) } else { Err("certificates: one of each kind of key, elliptic ones first".to_owned()) }
    }
}
