//! Every key of the store that is the authority's: built and parsed here and nowhere else.
//!
//! | key | record |
//! |---|---|
//! | `system/<generation>` | [`crate::records::System`] |
//! | `schema/<version>` | [`crate::records::SchemaRecord`] |
//! | `zone/<zone>` | [`crate::records::Zone`] |
//! | `policy/<policy id>/<version>` | [`crate::records::PolicyRecord`] |
//! | `policy/<policy id>/<version>/<generation>` | [`crate::records::PolicyCiphertext`] |
//! | `cert/<zone>/<certificate id>` | [`crate::records::Cert`] |
//! | `secret/<zone>/<name>` | [`crate::records::Secret`] |
//! | `sni/<hostname>` | [`crate::records::Sni`] |
//! | `machine/<machine>` | [`crate::records::Machine`] |
//! | `revoked/<machine>` | [`crate::records::Revoked`] |
//! | `token/<token id>` | [`crate::records::Token`] |
//! | `head` | [`crate::records::Head`] |
//!
//! Numbers are ten decimal digits, so that they stand in their order; policy ids 64 hexadecimal ones. Law: a key has one
//! spelling; what [`RecordKey::parse`] takes, [`RecordKey::to_bytes`] writes again, byte by byte.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use bytes::Bytes;
use cinnabar_abe::PolicyId;

use crate::names::{
    CertId, Generation, Hostname, MachineId, NameError, PolicyKeyVersion, SchemaVersion, SecretName, ZoneId,
};

/// Digits of a number in a key: all of 32 bits.
const NUMBER_DIGITS: usize = 10;

/// What a record is about, and so its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKey {
    /// A generation of the system key pair.
    System(Generation),
    /// A version of the attribute schema.
    Schema(SchemaVersion),
    /// A zone.
    Zone(ZoneId),
    /// A version of a policy's key.
    Policy(PolicyId, PolicyKeyVersion),
    /// The private half of a policy's key under one generation.
    PolicyCiphertext(PolicyId, PolicyKeyVersion, Generation),
    /// A certificate.
    Cert(ZoneId, CertId),
    /// Another secret.
    Secret(ZoneId, SecretName),
    /// Which certificates serve a hostname.
    Sni(Hostname),
    /// A machine.
    Machine(MachineId),
    /// A machine that may do nothing any more.
    Revoked(MachineId),
    /// A token's digest and scope.
    Token(CertId),
    /// How far the store is, as the authority sees it.
    Head,
}

/// What kind of record a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the kinds are the rows of the table above")]
pub enum Kind {
    System,
    Schema,
    Zone,
    Policy,
    PolicyCiphertext,
    Cert,
    Secret,
    Sni,
    Machine,
    Revoked,
    Token,
    Head,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::System,
        Self::Schema,
        Self::Zone,
        Self::Policy,
        Self::PolicyCiphertext,
        Self::Cert,
        Self::Secret,
        Self::Sni,
        Self::Machine,
        Self::Revoked,
        Self::Token,
        Self::Head,
    ];

    /// The word of metrics, logs and the start of the key.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Schema => "schema",
            Self::Zone => "zone",
            Self::Policy => "policy",
            Self::PolicyCiphertext => "policy_ciphertext",
            Self::Cert => "cert",
            Self::Secret => "secret",
            Self::Sni => "sni",
            Self::Machine => "machine",
            Self::Revoked => "revoked",
            Self::Token => "token",
            Self::Head => "head",
        }
    }

    /// What all keys of the kind begin with; the whole key for [`Kind::Head`]. Policies and their ciphertexts share one.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::System => "system/",
            Self::Schema => "schema/",
            Self::Zone => "zone/",
            Self::Policy | Self::PolicyCiphertext => "policy/",
            Self::Cert => "cert/",
            Self::Secret => "secret/",
            Self::Sni => "sni/",
            Self::Machine => "machine/",
            Self::Revoked => "revoked/",
            Self::Token => "token/",
            Self::Head => "head",
        }
    }
}

/// Why bytes are no key of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not text, no known prefix, or parts missing or left over.
    #[error("`{}` is the key of no record", .0.escape_debug())]
    Unknown(String),
    /// A name in it is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A number or policy id in it is none, or not in its one spelling.
    #[error("`{}` holds no {what}", key.escape_debug())]
    Number {
        /// The key.
        key: String,
        /// What was expected.
        what: &'static str,
    },
}

impl RecordKey {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::System(_) => Kind::System,
            Self::Schema(_) => Kind::Schema,
            Self::Zone(_) => Kind::Zone,
            Self::Policy(..) => Kind::Policy,
            Self::PolicyCiphertext(..) => Kind::PolicyCiphertext,
            Self::Cert(..) => Kind::Cert,
            Self::Secret(..) => Kind::Secret,
            Self::Sni(_) => Kind::Sni,
            Self::Machine(_) => Kind::Machine,
            Self::Revoked(_) => Kind::Revoked,
            Self::Token(_) => Kind::Token,
            Self::Head => Kind::Head,
        }
    }

    /// The store's key.
    pub fn to_bytes(&self) -> Bytes {
        self.to_string().into()
    }

    /// Reads a store's key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let unknown = || KeyError::Unknown(String::from_utf8_lossy(bytes).chars().take(64).collect());
        let text = std::str::from_utf8(bytes).map_err(|_| unknown())?;
        let parts: Vec<&str> = text.splitn(5, '/').collect();
        let number = |part: &str, what| number(part).ok_or_else(|| KeyError::Number { key: text.to_owned(), what });
        let policy = |part: &str| policy_id(part).ok_or(KeyError::Number { key: text.to_owned(), what: "policy id" });
        Ok(match parts.as_slice() {
            ["system", generation] => Self::System(Generation(number(generation, "generation")?)),
            ["schema", version] => Self::Schema(SchemaVersion(number(version, "version")?)),
            ["zone", zone] => Self::Zone(zone.parse()?),
            ["policy", id, version] => Self::Policy(policy(id)?, PolicyKeyVersion(number(version, "version")?)),
            ["policy", id, version, generation] => Self::PolicyCiphertext(
                policy(id)?,
                PolicyKeyVersion(number(version, "version")?),
                Generation(number(generation, "generation")?),
            ),
            ["cert", zone, id] => Self::Cert(zone.parse()?, id.parse()?),
            ["secret", zone, name] => Self::Secret(zone.parse()?, name.parse()?),
            ["sni", hostname] => Self::Sni(hostname.parse()?),
            ["machine", id] => Self::Machine(id.parse()?),
            ["revoked", id] => Self::Revoked(id.parse()?),
            ["token", id] => Self::Token(id.parse()?),
            ["head"] => Self::Head,
            _ => return Err(unknown()),
        })
    }
}

fn number(part: &str) -> Option<NonZeroU32> {
    let digits = part.len() == NUMBER_DIGITS && part.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| NonZeroU32::from_str(part).ok()).flatten()
}

fn policy_id(part: &str) -> Option<PolicyId> {
    let mut bytes = [0; 32];
    let lower = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if part.len() != 2 * bytes.len() || !lower {
        return None;
    }
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&part[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(PolicyId::from_bytes(bytes))
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WIDTH: usize = NUMBER_DIGITS;
        f.write_str(self.kind().prefix())?;
        match self {
            Self::System(generation) => write!(f, "{:0WIDTH$}", generation.get()),
            Self::Schema(version) => write!(f, "{:0WIDTH$}", version.get()),
            Self::Zone(zone) => write!(f, "{zone}"),
            Self::Policy(id, version) => write!(f, "{id}/{:0WIDTH$}", version.get()),
            Self::PolicyCiphertext(id, version, generation) => {
                write!(f, "{id}/{:0WIDTH$}/{:0WIDTH$}", version.get(), generation.get())
            }
            Self::Cert(zone, id) => write!(f, "{zone}/{id}"),
            Self::Secret(zone, name) => write!(f, "{zone}/{name}"),
            Self::Sni(hostname) => write!(f, "{hostname}"),
            Self::Machine(id) | Self::Revoked(id) => write!(f, "{id}"),
            Self::Token(id) => write!(f, "{id}"),
            Self::Head => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn every_kind() -> Vec<RecordKey> {
        let id = PolicyId::from_bytes([0xab; 32]);
        let (version, generation) = (PolicyKeyVersion::FIRST, Generation(NonZeroU32::MAX));
        vec![
            RecordKey::System(Generation::FIRST),
            RecordKey::Schema(SchemaVersion::FIRST),
            RecordKey::Zone("acme".parse().unwrap()),
            RecordKey::Policy(id, version),
            RecordKey::PolicyCiphertext(id, version, generation),
            RecordKey::Cert("acme".parse().unwrap(), "00112233445566778899aabbccddeeff".parse().unwrap()),
            RecordKey::Secret("acme".parse().unwrap(), "ticket-key".parse().unwrap()),
            RecordKey::Sni("*.shop.example".parse().unwrap()),
            RecordKey::Machine("fra-1".parse().unwrap()),
            RecordKey::Revoked("fra-1".parse().unwrap()),
            RecordKey::Token("00112233445566778899aabbccddeeff".parse().unwrap()),
            RecordKey::Head,
        ]
    }

    #[test]
    fn every_key_is_read_back_and_kinds_never_meet() {
        let keys = every_kind();
        assert_eq!(keys.iter().map(RecordKey::kind).collect::<Vec<_>>(), Kind::ALL);
        for key in &keys {
            assert_eq!(RecordKey::parse(&key.to_bytes()).unwrap(), *key);
            assert!(key.to_string().starts_with(key.kind().prefix()));
        }
        assert_eq!(keys.iter().map(ToString::to_string).collect::<BTreeSet<_>>().len(), keys.len());
        assert_eq!(keys[0].to_string(), "system/0000000001");
    }

    #[test]
    fn anything_but_the_one_spelling_is_refused() {
        let policy = "ab".repeat(32);
        for bad in [
            "",
            "/",
            "system",
            "system/",
            "system/1",
            "system/0000000000",
            "system/4294967296",
            "system/+000000001",
            "system/0000000001/",
            "system/0000000001/x",
            "schema/1",
            "zone/",
            "zone/A",
            "zone/a/b",
            "cert/acme",
            "cert/acme/00112233445566778899aabbccddeefF",
            "secret/acme/",
            "sni/Shop.example",
            "machine/",
            "head/",
            "heads",
            "operator/x",
            "System/0000000001",
            &format!("policy/{policy}"),
            &format!("policy/{policy}/1"),
            &format!("policy/{}/0000000001", policy.to_uppercase()),
            &format!("policy/{policy}/0000000001/0000000001/x"),
        ] {
            assert!(RecordKey::parse(bad.as_bytes()).is_err(), "{bad} was taken");
        }
        assert!(RecordKey::parse(b"machine/\xff").is_err());
    }

    #[test]
    fn every_key_fits_into_the_store() {
        let longest = format!("sni/*.{}", "a.".repeat(125) + "b");
        assert!(RecordKey::parse(longest.as_bytes()).is_ok() && longest.len() < crate::limits::KEY_BYTES_MAX);
    }
}
