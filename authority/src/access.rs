//! Who may call what over gRPC: one table of calls and roles. What is not in it is refused.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use cinnabar_authority_api::MachineId;
use cinnabar_daemon::grpc::{AccessLayer, Rule, rule};
use cinnabar_daemon::{PeerInfo, Role};
use tonic::Status;
use tonic::codegen::http::{Request, Response};
use tower::layer::util::Stack;
use tower::{Layer, Service};

use crate::metrics;

const MACHINES: &[Role] = &[Role::Edge];

/// The table.
pub const ACCESS: &[Rule] = &[
    rule("/cinnabar.authority.v1.Machine/Renew", MACHINES, false),
    rule("/cinnabar.authority.v1.Machine/Keys", MACHINES, false),
    rule("/cinnabar.authority.v1.Machine/Report", MACHINES, false),
];

/// A call's name: the end of its path.
fn call(rule: &Rule) -> &'static str {
    rule.path.rsplit('/').next().unwrap_or(rule.path)
}

/// The names of the table's calls.
pub fn calls() -> impl Iterator<Item = &'static str> {
    ACCESS.iter().map(call)
}

/// See [`guard`].
pub type Guard = Stack<CountLayer, AccessLayer<fn(&'static str, String) -> Status>>;

/// Puts the table before a service, and counts what is refused and what is answered.
pub fn guard() -> Guard {
    Stack::new(CountLayer, AccessLayer::new(ACCESS, refuse))
}

fn refuse(_: &'static str, problem: String) -> Status {
    metrics::machine_call("none", false).increment(1);
    Status::permission_denied(problem)
}

/// Counts the calls of a service by their names and by how they ended.
#[derive(Debug, Clone, Copy)]
pub struct CountLayer;

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Count<S> {
        Count { inner }
    }
}

/// See [`CountLayer`].
#[derive(Debug, Clone)]
pub struct Count<S> {
    inner: S,
}

impl<S, B, A> Service<Request<B>> for Count<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let call = ACCESS.iter().find(|rule| rule.path == path).map_or("none", call);
        let answering = self.inner.call(request);
        Box::pin(async move {
            let answered = answering.await;
            // A refusal's status stands in the head of its answer.
            let refused = answered.as_ref().map_or(Some(tonic::Code::Unknown), |answer| {
                Status::from_header_map(answer.headers()).map(|status| status.code())
            });
            metrics::machine_call(call, refused.is_none_or(|code| code == tonic::Code::Ok)).increment(1);
            answered
        })
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
    use cinnabar_daemon::grpc::allowed;

    use super::*;

    #[test]
    fn machines_call_what_is_theirs_and_nobody_else_calls_anything() {
        for method in ["Renew", "Keys", "Report"] {
            let path = format!("/cinnabar.authority.v1.Machine/{method}");
            for role in Role::ALL {
                assert_eq!(allowed(ACCESS, &path, Some(role)), role == Role::Edge, "{role:?} {path}");
            }
            assert!(!allowed(ACCESS, &path, None));
        }
        assert_eq!(ACCESS.len(), 3);
        for path in ["", "/", "/cinnabar.authority.v1.Machine/Enrol", "/cinnabar.kv.v1.Kv/Write"] {
            assert!(!allowed(ACCESS, path, Some(Role::Edge)), "{path}");
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
