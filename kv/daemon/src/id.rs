//! Who a process is: cluster, role and name, written `spiffe://<cluster>/<role>/<name>`.
//!
//! The road: `pki` writes an [`Identity`] into a certificate, `mtls` reads it out of a verified one, services compare
//! roles. Law: one spelling per identity. Parsing takes exactly what `Display` writes, nothing shorter, longer, in
//! another case or percent-encoded, so that comparing identities is comparing strings.
//! Source: SPIFFE-ID specification, section 2 (our names are a subset of what it allows).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest [`ClusterId`] in bytes.
pub const CLUSTER_BYTES_MAX: usize = 63;
/// Longest [`NodeName`] in bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest [`Identity`] in its text form, in bytes.
pub const IDENTITY_BYTES_MAX: usize = SCHEME.len() + CLUSTER_BYTES_MAX + 1 + ROLE_BYTES_MAX + 1 + NAME_BYTES_MAX;

const SCHEME: &str = "spiffe://";
const ROLE_BYTES_MAX: usize = "authority".len();

/// Why a text is not an identity or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Empty or too long.
    #[error("{what} is {actual} bytes long, allowed are 1 to {max}")]
    Length {
        /// Which part.
        what: &'static str,
        /// Its length in bytes.
        actual: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// A character outside the alphabet, or a separator where none may stand.
    #[error("{what} at byte {at}: {problem}")]
    Character {
        /// Which part.
        what: &'static str,
        /// Offset in bytes from the start of that part.
        at: usize,
        /// The rule that is broken.
        problem: &'static str,
    },
    /// Not one of the roles.
    #[error("unknown role; one of voter, replica, edge, authority, operator is expected")]
    Role,
    /// Not `spiffe://` and exactly three parts.
    #[error("not of the form spiffe://<cluster>/<role>/<name>")]
    Form,
}

/// Name of a cluster: 1 to 63 bytes of `[a-z0-9-]`, not starting or ending with `-`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(Arc<str>);

impl ClusterId {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        check("cluster", text, CLUSTER_BYTES_MAX, false)?;
        Ok(Self(text.into()))
    }
}

/// Name of a process in its cluster and role: 1 to 63 bytes of `[a-z0-9-.]`, neither `-` nor `.` first or last, no
/// `..`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        check("name", text, NAME_BYTES_MAX, true)?;
        Ok(Self(text.into()))
    }
}

/// What a certificate's holder is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Role {
    /// Member of the raft group.
    Voter,
    /// Full copy outside the raft group.
    Replica,
    /// Edge host: terminates TLS, signs.
    Edge,
    /// Issues keys and writes records.
    Authority,
    /// A person or a script at the administrative interface.
    Operator,
}

impl Role {
    /// Every role, in declaration order.
    pub const ALL: [Self; 5] = [Self::Voter, Self::Replica, Self::Edge, Self::Authority, Self::Operator];

    /// The lower-case word that stands in identities.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Replica => "replica",
            Self::Edge => "edge",
            Self::Authority => "authority",
            Self::Operator => "operator",
        }
    }
}

impl FromStr for Role {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(IdError::Role)
    }
}

/// Who a process is. `Display` writes `spiffe://<cluster>/<role>/<name>`, parsing takes exactly that.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    /// The cluster it belongs to; nothing crosses clusters.
    pub cluster: ClusterId,
    /// What it is there for.
    pub role: Role,
    /// Which one of its role it is.
    pub name: NodeName,
}

impl FromStr for Identity {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut parts = text.strip_prefix(SCHEME).ok_or(IdError::Form)?.split('/');
        let (Some(cluster), Some(role), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdError::Form);
        };
        Ok(Self { cluster: cluster.parse()?, role: role.parse()?, name: name.parse()? })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.cluster, self.role, self.name)
    }
}

/// The alphabet of names: lower-case letters, digits and inner separators.
fn check(what: &'static str, text: &str, max: usize, dots: bool) -> Result<(), IdError> {
    if text.is_empty() || text.len() > max {
        return Err(IdError::Length { what, actual: text.len(), max });
    }
    let last = text.len() - 1;
    let mut after_dot = false;
    for (at, byte) in text.bytes().enumerate() {
        let inner = at != 0 && at != last;
        let problem = match byte {
            b'a'..=b'z' | b'0'..=b'9' => None,
            b'-' if inner => None,
            b'-' => Some("`-` may not come first or last"),
            b'.' if dots && inner && !after_dot => None,
            b'.' if dots => Some("`.` may not come first, last or twice in a row"),
            b'A'..=b'Z' => Some("only lower-case letters are allowed"),
            _ if dots => Some("only a-z, 0-9, `-` and `.` are allowed"),
            _ => Some("only a-z, 0-9 and `-` are allowed"),
        };
        if let Some(problem) = problem {
            return Err(IdError::Character { what, at, problem });
        }
        after_dot = byte == b'.';
    }
    Ok(())
}

macro_rules! text_conversions {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

text_conversions!(ClusterId, NodeName, Role, Identity);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeName({self})")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_survives_the_round_trip_through_text() {
        let long = "n".repeat(NAME_BYTES_MAX);
        for role in Role::ALL {
            for name in ["a", "node-1", "ams.rack-7.host9", long.as_str()] {
                let text = format!("spiffe://prod-1/{role}/{name}");
                let identity: Identity = text.parse().unwrap();
                assert_eq!(identity.to_string(), text);
                assert_eq!((identity.cluster.as_str(), identity.role, identity.name.as_str()), ("prod-1", role, name));
                assert!(text.len() <= IDENTITY_BYTES_MAX);
            }
        }
    }

    #[test]
    fn anything_but_the_one_spelling_is_refused() {
        let long = format!("spiffe://prod/voter/{}", "n".repeat(NAME_BYTES_MAX + 1));
        let long_cluster = format!("spiffe://{}/voter/n", "c".repeat(CLUSTER_BYTES_MAX + 1));
        let bad = [
            "",
            "spiffe://",
            "spiffe://prod",
            "spiffe://prod/voter",
            "spiffe://prod/voter/",
            "spiffe://prod/voter/n/",
            "spiffe://prod/voter/n/x",
            "spiffe://prod//n",
            "spiffe:///voter/n",
            "spiffe:/prod/voter/n",
            "SPIFFE://prod/voter/n",
            "https://prod/voter/n",
            " spiffe://prod/voter/n",
            "spiffe://prod/voter/n ",
            "spiffe://prod/voter/n\n",
            "spiffe://prod/voter/n\0",
            "spiffe://Prod/voter/n",
            "spiffe://prod/Voter/n",
            "spiffe://prod/voter/N",
            "spiffe://prod/leader/n",
            "spiffe://prod.eu/voter/n",
            "spiffe://-prod/voter/n",
            "spiffe://prod-/voter/n",
            "spiffe://prod/voter/-n",
            "spiffe://prod/voter/n-",
            "spiffe://prod/voter/.",
            "spiffe://prod/voter/..",
            "spiffe://prod/voter/.n",
            "spiffe://prod/voter/n.",
            "spiffe://prod/voter/n..n",
            "spiffe://prod/voter/n_n",
            "spiffe://prod/voter/n%2fn",
            "spiffe://prod/voter/n?x=1",
            "spiffe://prod/voter/n#x",
            "spiffe://user@prod/voter/n",
            "spiffe://prod:8443/voter/n",
            "spiffe://pröd/voter/n",
            long.as_str(),
            long_cluster.as_str(),
        ];
        for text in bad {
            assert!(text.parse::<Identity>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn an_error_names_the_part_and_the_byte() {
        let error = "spiffe://prod/voter/n1_".parse::<Identity>().unwrap_err();
        assert_eq!(
            error,
            IdError::Character { what: "name", at: 2, problem: "only a-z, 0-9, `-` and `.` are allowed" }
        );
        assert_eq!("".parse::<ClusterId>(), Err(IdError::Length { what: "cluster", actual: 0, max: 63 }));
        assert_eq!("Voter".parse::<Role>(), Err(IdError::Role));
    }

    #[test]
    fn serde_goes_through_the_same_parser() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Holder {
            id: Identity,
            role: Role,
        }
        let text = "id = \"spiffe://prod/edge/e1\"\nrole = \"edge\"\n";
        let holder: Holder = toml::from_str(text).unwrap();
        assert_eq!(toml::to_string(&holder).unwrap(), text);
        assert!(toml::from_str::<Holder>(&text.replace("prod", "PROD")).is_err());
        assert!(toml::from_str::<Holder>(&text.replace("role = \"edge\"", "role = \"Edge\"")).is_err());
    }
}
