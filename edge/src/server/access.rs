//! Who may call what: one table of calls and callers. What is not in it is refused.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use cinnabar_daemon::{PeerInfo, Role};
use cinnabar_edge_api::Refusal;
use cinnabar_edge_api::refusal::RefusalCode;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::signer::SignMetrics;

/// Callers over TCP, by the role in their certificate, and whether a service of this machine may, over the Unix socket.
pub struct Rule {
    /// The call's path.
    pub path: &'static str,
    /// Roles that may call it.
    pub roles: &'static [Role],
    /// May a local caller without a certificate?
    pub local: bool,
}

const EDGES: &[Role] = &[Role::Edge];
const NOBODY: &[Role] = &[];

const fn rule(path: &'static str, roles: &'static [Role], local: bool) -> Rule {
    Rule { path, roles, local }
}

/// The table. Which user of this machine, and which machine for which key, is for the services to say.
pub const ACCESS: &[Rule] = &[
    rule("/cinnabar.edge.v1.Signer/Sign", EDGES, true),
    rule("/cinnabar.edge.v1.Signer/SignStream", EDGES, true),
    rule("/cinnabar.edge.v1.Peer/Probe", EDGES, false),
    rule("/cinnabar.edge.v1.Agent/Certificates", NOBODY, true),
    rule("/cinnabar.edge.v1.Agent/Secret", NOBODY, true),
    rule("/cinnabar.edge.v1.Agent/Explain", NOBODY, true),
    rule("/cinnabar.edge.v1.Agent/Status", NOBODY, true),
    rule("/cinnabar.edge.v1.Agent/SetDistance", NOBODY, true),
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
    metrics: SignMetrics,
}

impl AccessLayer {
    /// Counts refusals.
    pub fn new(metrics: SignMetrics) -> Self {
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
    metrics: SignMetrics,
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
        let refusal = Refusal::new(RefusalCode::NotPermitted, format!("role {role} may not call {path}"));
        Box::pin(async move { Ok(Status::from(refusal).into_http()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_sign_and_probe_and_nothing_else_and_nobody_else_does() {
        for rule in ACCESS {
            let peers = rule.path.contains(".Signer/") || rule.path.contains(".Peer/");
            for role in Role::ALL {
                assert_eq!(allowed(rule.path, Some(role)), peers && role == Role::Edge, "{} {role}", rule.path);
            }
            assert_eq!(allowed(rule.path, None), !rule.path.contains(".Peer/"), "{}", rule.path);
        }
        for path in ["", "/", "/cinnabar.edge.v1.Signer/Decrypt", "/cinnabar.edge.v1.Signer/sign"] {
            assert!(!allowed(path, Some(Role::Edge)) && !allowed(path, None), "{path}");
        }
    }
}
