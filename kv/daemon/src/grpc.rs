//! What the gRPC servers between processes have in common: the bounds of a connection, and the table of who may call what.
//!
//! Law: a call that is not in a server's table is refused, before any service sees it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Server;
use tower::{Layer, Service};

use crate::id::Role;
use crate::mtls::PeerInfo;

/// Streams of one connection.
pub const STREAMS_MAX: u32 = 1024;
/// Bytes that one stream may have under way.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes that one connection may have under way.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Silence after which a connection is probed, and the longest wait for the answer.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Streams that a peer reset and that are not cleaned up yet (CVE-2023-44487).
pub const PENDING_RESETS_MAX: usize = 64;
/// Bytes of a request's headers.
pub const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// A server with every bound set.
pub fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
}

/// A call: its callers over TCP, by the role in their certificate, and whether a local caller over a Unix socket may, too.
pub struct Rule {
    /// The call's path.
    pub path: &'static str,
    /// Roles that may call it.
    pub roles: &'static [Role],
    /// May a local caller without a certificate?
    pub local: bool,
}

/// A row of a table.
pub const fn rule(path: &'static str, roles: &'static [Role], local: bool) -> Rule {
    Rule { path, roles, local }
}

/// May this caller make this call? `caller` is none for a local one.
pub fn allowed(table: &[Rule], path: &str, caller: Option<Role>) -> bool {
    let found = table.iter().find(|rule| rule.path == path);
    found.is_some_and(|rule| match caller {
        Some(role) => rule.roles.contains(&role),
        None => rule.local,
    })
}

/// Puts a table before every service. `refuse` gets the caller's role, `none` where there is none, and what is to be said;
/// it counts, and makes the answer.
#[derive(Clone)]
pub struct AccessLayer<F> {
    table: &'static [Rule],
    refuse: F,
}

impl<F: Fn(&'static str, String) -> Status + Clone> AccessLayer<F> {
    /// Lets through what the table allows.
    pub fn new(table: &'static [Rule], refuse: F) -> Self {
        Self { table, refuse }
    }
}

impl<S, F: Clone> Layer<S> for AccessLayer<F> {
    type Service = Access<S, F>;

    fn layer(&self, inner: S) -> Access<S, F> {
        Access { inner, layer: self.clone() }
    }
}

/// See [`AccessLayer`].
#[derive(Clone)]
pub struct Access<S, F> {
    inner: S,
    layer: AccessLayer<F>,
}

impl<S, F> Service<Request<Body>> for Access<S, F>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    F: Fn(&'static str, String) -> Status,
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
            Some(Some(role)) => allowed(self.layer.table, path, Some(role)),
            Some(None) => false,
            None => allowed(self.layer.table, path, None),
        };
        if admitted {
            return Box::pin(self.inner.call(request));
        }
        let role = caller.flatten().map_or("none", Role::as_str);
        tracing::warn!(path, role, "a call was refused");
        let status = (self.layer.refuse)(role, format!("role {role} may not call {path}"));
        Box::pin(async move { Ok(status.into_http()) })
    }
}
