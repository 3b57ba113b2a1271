//! Who may call what: one table of calls and roles. What is not in it is refused.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use cinnabar_daemon::{PeerInfo, Role};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::metrics::Metrics;

/// Callers over TCP, by the role in their certificate, and whether a local caller over a Unix socket may, too.
pub struct Rule {
    /// The call's path.
    pub path: &'static str,
    /// Roles that may call it.
    pub roles: &'static [Role],
    /// May a local caller without a certificate?
    pub local: bool,
}

const READERS: &[Role] = &Role::ALL;
const TAILERS: &[Role] = &[Role::Voter, Role::Replica, Role::Edge, Role::Authority];
const OPERATORS: &[Role] = &[Role::Voter, Role::Operator];
const VOTERS: &[Role] = &[Role::Voter];

const fn rule(path: &'static str, roles: &'static [Role], local: bool) -> Rule {
    Rule { path, roles, local }
}

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
    let found = ACCESS.iter().find(|rule| rule.path == path);
    found.is_some_and(|rule| match caller {
        Some(role) => rule.roles.contains(&role),
        None => rule.local,
    })
}

/// Puts the table before every service.
#[derive(Clone)]
pub struct AccessLayer {
    metrics: Metrics,
}

impl AccessLayer {
    /// Counts refusals.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { inner, metrics: self.metrics.clone() }
    }
}

/// See [`AccessLayer`].
#[derive(Clone)]
pub struct Access<S> {
    inner: S,
    metrics: Metrics,
}

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // A TLS connection has an identity always; only a Unix socket has no peer information at all.
        let peer = request.extensions().get::<PeerInfo>();
        let caller = peer.map(|peer| peer.identity.as_ref().map(|identity| identity.role));
        let path = request.uri().path();
        let admitted = match caller {
            Some(Some(role)) => allowed(path, Some(role)),
            Some(None) => false,
            None => allowed(path, None),
        };
        if admitted {
            return Box::pin(self.inner.call(request));
        }
        let role = caller.flatten().map_or("none", Role::as_str);
        self.metrics.denied(role);
        tracing::warn!(path, role, "a call was refused");
        let status = Status::permission_denied(format!("role {role} may not call {path}"));
        Box::pin(async move { Ok(status.into_http()) })
    }
}

/// Who calls, for the rules inside a service.
pub fn caller<T>(request: &tonic::Request<T>) -> Option<Role> {
    request.extensions().get::<PeerInfo>()?.identity.as_ref().map(|identity| identity.role)
}
