//! Who may call what over gRPC: one table of calls and roles. What is not in it is refused.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use cinnabar_authority_api::MachineId;
use cinnabar_daemon::{PeerInfo, Role};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::metrics;

/// A call and who may make it.
pub struct Rule {
    /// The call's path.
    pub path: &'static str,
    /// Roles of the certificates that may make it.
    pub roles: &'static [Role],
}

impl Rule {
    /// The call's name: the end of its path.
    pub fn call(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }
}

const MACHINES: &[Role] = &[Role::Edge];

/// The table.
pub const ACCESS: &[Rule] = &[
    Rule { path: "/cinnabar.authority.v1.Machine/Renew", roles: MACHINES },
    Rule { path: "/cinnabar.authority.v1.Machine/Keys", roles: MACHINES },
    Rule { path: "/cinnabar.authority.v1.Machine/Report", roles: MACHINES },
];

/// May this caller make this call? `caller` is none for one without an identity.
pub fn allowed(path: &str, caller: Option<Role>) -> bool {
    let found = ACCESS.iter().find(|rule| rule.path == path);
    found.zip(caller).is_some_and(|(rule, caller)| rule.roles.contains(&caller))
}

/// Puts the table before every service.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccessLayer;

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { inner }
    }
}

/// See [`AccessLayer`].
#[derive(Debug, Clone)]
pub struct Access<S> {
    inner: S,
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
        let peer = request.extensions().get::<PeerInfo>();
        let caller = peer.and_then(|peer| peer.identity.as_ref()).map(|identity| identity.role);
        let path = request.uri().path();
        if allowed(path, caller) {
            let call = ACCESS.iter().find(|rule| rule.path == path).map_or("none", Rule::call);
            let answering = self.inner.call(request);
            return Box::pin(async move {
                let answered = answering.await;
                // A refusal's status stands in the head of its answer.
                let refused = answered.as_ref().map_or(Some(tonic::Code::Unknown), |answer| {
                    Status::from_header_map(answer.headers()).map(|status| status.code())
                });
                metrics::machine_call(call, refused.is_none_or(|code| code == tonic::Code::Ok)).increment(1);
                answered
            });
        }
        metrics::machine_call("none", false).increment(1);
        let role = caller.map_or("none", Role::as_str);
        tracing::warn!(path, role, "a call was refused");
        let status = Status::permission_denied(format!("role {role} may not call {path}"));
        Box::pin(async move { Ok(status.into_http()) })
    }
}

/// The machine that calls, by its certificate.
///
/// # Errors
/// `permission_denied` for anybody but a machine: also where the table was forgotten.
pub fn machine<T>(request: &tonic::Request<T>) -> Result<MachineId, Status> {
    let denied = || Status::permission_denied("only a machine with its certificate may call this");
    let peer = request.extensions().get::<PeerInfo>().ok_or_else(denied)?;
    let identity = peer.require(MACHINES).map_err(|_| denied())?;
    identity.name.as_str().parse().map_err(|_| denied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_call_what_is_theirs_and_nobody_else_calls_anything() {
        for method in ["Renew", "Keys", "Report"] {
            let path = format!("/cinnabar.authority.v1.Machine/{method}");
            for role in Role::ALL {
                assert_eq!(allowed(&path, Some(role)), role == Role::Edge, "{role:?} {path}");
            }
            assert!(!allowed(&path, None));
        }
        assert_eq!(ACCESS.len(), 3);
        for path in ["", "/", "/cinnabar.authority.v1.Machine/Enrol", "/cinnabar.kv.v1.Kv/Write"] {
            assert!(!allowed(path, Some(Role::Edge)), "{path}");
        }
    }

    #[test]
    fn a_caller_is_known_by_its_certificate_alone() {
        let with = |identity: Option<&str>| {
            let mut request = tonic::Request::new(());
            let identity = identity.map(|text| text.parse().unwrap());
            request.extensions_mut().insert(PeerInfo { identity, ..PeerInfo::default() });
            machine(&request)
        };
        assert_eq!(with(Some("spiffe://prod/edge/fra-1")).unwrap().as_str(), "fra-1");
        for stranger in [None, Some("spiffe://prod/operator/fra-1"), Some("spiffe://prod/authority/fra-1")] {
            assert_eq!(with(stranger).unwrap_err().code(), tonic::Code::PermissionDenied);
        }
        assert!(machine(&tonic::Request::new(())).is_err());
    }
}
