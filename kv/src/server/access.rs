//! Who may call what: one table of calls and roles. What is not in it is refused.

use cinnabar_daemon::grpc::{self, rule};
use cinnabar_daemon::{PeerInfo, Role};

pub use cinnabar_daemon::grpc::Rule;

const READERS: &[Role] = &Role::ALL;
const TAILERS: &[Role] = &[Role::Voter, Role::Replica, Role::Edge, Role::Authority];
const OPERATORS: &[Role] = &[Role::Voter, Role::Operator];
const VOTERS: &[Role] = &[Role::Voter];

/// The table. Writes have a second rule, by key: operators write only under `operator/` (`server/kv.rs`).
pub const ACCESS: &[Rule] = &[
    rule("/cinnabar.kv.v1.Kv/Get", READERS, true),
    rule("/cinnabar.kv.v1.Kv/Scan", READERS, true),
    rule("/cinnabar.kv.v1.Kv/Watch", READERS, true),
    rule("/cinnabar.kv.v1.Kv/Status", READERS, true),
    rule("/cinnabar.kv.v1.Kv/Write", &[Role::Voter, Role::Authority, Role::Operator], false),
    rule("/cinnabar.kv.v1.Replication/Tail", TAILERS, false),
    rule("/cinnabar.kv.v1.Replication/Snapshot", &[Role::Voter, Role::Replica, Role::Edge, Role::Operator], false),
    rule("/cinnabar.kv.v1.Cluster/Init", &[Role::Operator], false),
    rule("/cinnabar.kv.v1.Cluster/Assign", VOTERS, false),
    rule("/cinnabar.kv.v1.Cluster/AddVoter", OPERATORS, false),
    rule("/cinnabar.kv.v1.Cluster/RemoveVoter", OPERATORS, false),
    rule("/cinnabar.kv.v1.Cluster/ReplaceVoter", OPERATORS, false),
    rule("/cinnabar.kv.v1.Cluster/TransferLeader", OPERATORS, false),
    rule("/cinnabar.raft.v1.Raft/Append", VOTERS, false),
    rule("/cinnabar.raft.v1.Raft/Vote", VOTERS, false),
    rule("/cinnabar.raft.v1.Raft/PreVote", VOTERS, false),
    rule("/cinnabar.raft.v1.Raft/TransferLeader", VOTERS, false),
    rule("/cinnabar.raft.v1.Raft/Propose", VOTERS, false),
    rule("/cinnabar.raft.v1.Raft/InstallSnapshot", VOTERS, false),
];

/// May this caller make this call? `caller` is none for a local one.
pub fn allowed(path: &str, caller: Option<Role>) -> bool {
    grpc::allowed(ACCESS, path, caller)
}

/// Who calls, for the rules inside a service.
pub fn caller<T>(request: &tonic::Request<T>) -> Option<Role> {
    request.extensions().get::<PeerInfo>()?.identity.as_ref().map(|identity| identity.role)
}
