//! Policy ids: one name for all policies that are equal up to order, parentheses, double negation and repetition.
//!
//! The normal form has negation at the leaves (circuits have it there already) and one n-ary node where gates of one
//! class meet; children are a sorted set, and a set of one is its member. Absorption (`a or a and b`) is not attempted:
//! deciding equality in general is as hard as satisfiability, and ids need only never join *different* policies.
//!
//! Every node is hashed over its children's hashes, so the work is linear in the policy however deep it is.

use std::collections::BTreeSet;
use std::fmt;

use sha2::{Digest, Sha256};

use super::formula::GateClass;
use super::{Policy, Wire};

/// Domain separation: what is hashed, and the version of the normal form.
const DOMAIN: &[u8] = b"cinnabar policy id v1";

type Hash = [u8; 32];

/// The name of a policy within one cluster: 32 bytes, SHA-256 over domain, cluster id and normal form.
///
/// Layout: `docs/formats.md#policy-id`. Equal ids mean equal policies (by collision resistance); policies that differ
/// by more than order, parentheses, double negation or repetition have different ids even where logic makes them equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(Hash);

impl PolicyId {
    /// Takes the 32 bytes of an id read from a record.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The id's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id of `policy` in the cluster named by `cluster` (any bytes; empty outside a cluster).
    pub(super) fn of(policy: &Policy, cluster: &[u8]) -> Self {
        Self(hash(b"policy", &[cluster, &root(policy).hash()]))
    }
}

impl fmt::Display for PolicyId {
    /// Sixty-four lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicyId({self})")
    }
}

/// A node of the normal form.
enum Node {
    Leaf(Hash),
    Gate(GateClass, BTreeSet<Hash>),
}

impl Node {
    fn leaf(wire: &Wire) -> Self {
        let sign: &[u8] = if wire.positive { b"is" } else { b"not" };
        Self::Leaf(hash(b"leaf", &[sign, wire.label.as_bytes(), wire.value.as_bytes()]))
    }

    /// Joins two nodes under a gate: members of the gate's own class come up, two equal children become one.
    fn join(class: GateClass, left: Self, right: Self) -> Self {
        match (left.members_of(class), right.members_of(class)) {
            (Ok(left), Ok(right)) => {
                // Smaller into larger, so that a chain costs n log n.
                let (mut larger, smaller) = if left.len() < right.len() { (right, left) } else { (left, right) };
                larger.extend(smaller);
                Self::Gate(class, larger)
            }
            (Ok(mut set), Err(other)) | (Err(other), Ok(mut set)) => {
                set.insert(other.hash());
                Self::Gate(class, set)
            }
            (Err(left), Err(right)) if left.hash() == right.hash() => left,
            (Err(left), Err(right)) => Self::Gate(class, BTreeSet::from([left.hash(), right.hash()])),
        }
    }

    /// The members when this is a gate of `class`, else the node itself.
    fn members_of(self, class: GateClass) -> Result<BTreeSet<Hash>, Self> {
        match self {
            Self::Gate(inner, members) if inner == class => Ok(members),
            other => Err(other),
        }
    }

    fn hash(&self) -> Hash {
        match self {
            Self::Leaf(hash) => *hash,
            Self::Gate(class, members) => {
                let kind: &[u8] = match class {
                    GateClass::And => b"and",
                    GateClass::Or => b"or",
                };
                let parts: Vec<&[u8]> = members.iter().map(<[u8; 32]>::as_slice).collect();
                hash(kind, &parts)
            }
        }
    }
}

fn root(policy: &Policy) -> Node {
    let mut nodes: Vec<Option<Node>> = policy.wires.iter().map(|wire| Some(Node::leaf(wire))).collect();
    nodes.resize_with(policy.formula.output() + 1, || None);
    for gate in policy.formula.in_order() {
        let left = nodes[usize::from(gate.in0)].take().expect("inputs come before their gate");
        let right = nodes[usize::from(gate.in1)].take().expect("inputs come before their gate");
        nodes[usize::from(gate.out)] = Some(Node::join(gate.class, left, right));
    }
    nodes[policy.formula.output()].take().expect("the last gate writes the output")
}

/// SHA-256 over the domain, the kind of node and the number and length of every part.
fn hash(kind: &[u8], parts: &[&[u8]]) -> Hash {
    let mut state = Sha256::new();
    for part in [DOMAIN, kind] {
        state.update((part.len() as u64).to_le_bytes());
        state.update(part);
    }
    state.update((parts.len() as u64).to_le_bytes());
    for part in parts {
        state.update((part.len() as u64).to_le_bytes());
        state.update(part);
    }
    state.finalize().into()
}
