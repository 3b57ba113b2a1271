//! What openraft is told about our types, and how its indexes map to ours: openraft counts entries from 0, everything
//! else here from 1, so that 0 can mean "none".

use std::fmt;

use bytes::Bytes;
use cinnabar_kv_api::{Entry as Wire, codec};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use crate::limits::RAFT_MESSAGE_BYTES_MAX;
use crate::log::LogEntry;
use crate::state::Outcome;

const MEMBERSHIP_FORMAT: u8 = 1;

/// A voter or learner as the others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Node {
    /// The name in its certificate.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// A proposed command: the payload of a log entry, kind byte first.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    /// openraft with one leader a term, as the Raft paper has it.
    pub Types:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = Node,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

/// The aliases that are used here.
pub type LogId = openraft::alias::LogIdOf<Types>;
/// openraft's, with our types.
pub type Entry = openraft::alias::EntryOf<Types>;
/// openraft's, with our types.
pub type Vote = openraft::alias::VoteOf<Types>;
/// openraft's, with our types.
pub type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
/// openraft's, with our types.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;

/// Our index of an openraft index.
pub fn to_index(raft_index: u64) -> u64 {
    raft_index + 1
}

/// The openraft log id of one of our entries; none for index 0.
pub fn to_log_id(index: u64, term: u64) -> Option<LogId> {
    let leader = openraft::impls::leader_id_std::LeaderId { term, voted_for: 0 }.to_committed();
    index.checked_sub(1).map(|index| LogId::new(leader, index))
}

/// The payload of a log entry.
pub fn to_payload(entry: &Entry) -> Bytes {
    match &entry.payload {
        EntryPayload::Blank => Bytes::from_static(&[Wire::BLANK]),
        EntryPayload::Normal(proposal) => proposal.0.clone(),
        EntryPayload::Membership(membership) => {
            let mut out = vec![Wire::MEMBERSHIP];
            out.extend_from_slice(&codec::encode(MEMBERSHIP_FORMAT, membership));
            out.into()
        }
    }
}

/// Index, term and payload of an openraft entry.
pub fn to_wire(entry: &Entry) -> (u64, u64, Bytes) {
    let id = entry.log_id();
    (to_index(id.index), id.leader_id.term, to_payload(entry))
}

/// An openraft entry from one of the log.
///
/// # Errors
/// When its payload is a membership that does not follow its format.
pub fn from_log(entry: &LogEntry) -> Result<Entry, cinnabar_kv_api::Error> {
    let malformed = |problem: &str| cinnabar_kv_api::Error::Malformed { what: "entry", problem: problem.to_owned() };
    let id = to_log_id(entry.point.index, entry.point.term).ok_or_else(|| malformed("index 0"))?;
    let payload = match entry.payload.first() {
        Some(&Wire::BLANK) => EntryPayload::Blank,
        Some(&Wire::COMMAND) => EntryPayload::Normal(Proposal(entry.payload.clone())),
        Some(&Wire::MEMBERSHIP) => EntryPayload::Membership(membership(&entry.payload[1..])?),
        _ => return Err(malformed("unknown kind")),
    };
    Ok(Entry { log_id: id, payload })
}

/// The body of a membership of one voter: what a restored store begins with.
pub fn single_membership(id: u64, node: Node) -> Bytes {
    let voters = std::collections::BTreeSet::from([id]);
    let nodes = std::collections::BTreeMap::from([(id, node)]);
    match openraft::Membership::<u64, Node>::new(vec![voters], nodes) {
        Ok(membership) => codec::encode(MEMBERSHIP_FORMAT, &membership).into(),
        Err(error) => unreachable!("one voter with its node is a membership: {error}"),
    }
}

/// Reads a membership's body.
///
/// # Errors
/// When it does not follow its format.
pub fn membership(body: &[u8]) -> Result<openraft::Membership<u64, Node>, cinnabar_kv_api::Error> {
    codec::decode::<_, RAFT_MESSAGE_BYTES_MAX>("membership", MEMBERSHIP_FORMAT, body)
}
