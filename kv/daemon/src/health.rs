//! Whether this process lives and whether it should get work, for probes and people.
//!
//! The road: services register checks with [`Health`], `main` binds an [`Admin`] listener and serves [`router`] on it:
//! `/livez`, `/readyz`, `/readyz/<name>` (with `?verbose` line by line) and `/metrics`.
//! Law: live and ready are different questions. Not live asks for a restart; not ready asks for patience. A shutdown
//! makes a process not ready at once and leaves it live. The listener is on loopback only: it has no authentication.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::EXIT_CONFIG;
use crate::env::Net;
use crate::shutdown::Shutdown;

/// Connections to the administrative listener at once; more wait in the kernel's backlog.
pub const ADMIN_CONNECTIONS_MAX: usize = 32;
/// Longest wait for a request's head, also between two requests of one connection.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest life of one administrative connection; scrapers simply connect again.
pub const ADMIN_CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// Largest request head in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most checks of one kind.
pub const CHECKS_MAX: usize = 64;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The name under which a shutdown shows among the readiness checks.
const SHUTDOWN: &str = "shutdown";

/// What a check found: a remark (may be empty) when well, the reason when not.
pub type Finding = Result<String, String>;

type Check = Arc<dyn Fn() -> Finding + Send + Sync>;

/// Why the administrative listener did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The configured address could be reached from elsewhere.
    #[error(
        "administrative address {address} is not a loopback address; use 127.0.0.1 or [::1]: it has no authentication"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("administrative address {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl AdminError {
    /// The exit code of a process that stops for this.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        EXIT_CONFIG
    }
}

/// The named checks of a process; cheap to clone.
#[derive(Clone)]
pub struct Health {
    shutdown: Shutdown,
    live: Arc<RwLock<Vec<(&'static str, Check)>>>,
    ready: Arc<RwLock<Vec<(&'static str, Check)>>>,
}

/// The findings of all checks of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    word: &'static str,
    findings: Vec<(&'static str, Finding)>,
}

impl Health {
    /// A process that lives, and is ready until `shutdown` begins.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, live: Arc::default(), ready: Arc::default() }
    }

    /// Registers a liveness check: only what a restart repairs. Checks are called per probe and must not block.
    ///
    /// # Panics
    /// On a name twice, an empty one, or more than [`CHECKS_MAX`]: bugs of the caller.
    pub fn check_live(&self, name: &'static str, check: impl Fn() -> Finding + Send + Sync + 'static) {
        register(&self.live, name, Arc::new(check));
    }

    /// Registers a readiness check.
    ///
    /// # Panics
    /// As [`Health::check_live`].
    pub fn check_ready(&self, name: &'static str, check: impl Fn() -> Finding + Send + Sync + 'static) {
        register(&self.ready, name, Arc::new(check));
    }

    /// Registers a readiness check that is whatever was last sent on a watch; not ready once its sender is gone.
    ///
    /// # Panics
    /// As [`Health::check_live`].
    pub fn watch_ready(&self, name: &'static str, value: watch::Receiver<Finding>) {
        self.check_ready(name, move || {
            if value.has_changed().is_err() {
                return Err("stopped".to_owned());
            }
            value.borrow().clone()
        });
    }

    /// Asks every liveness check.
    #[must_use]
    pub fn live(&self) -> Report {
        Report { word: "live", findings: ask(&self.live) }
    }

    /// Asks every readiness check and the shutdown.
    #[must_use]
    pub fn ready(&self) -> Report {
        let mut findings = ask(&self.ready);
        let shutdown = if self.shutdown.is_triggered() { Err("in progress".to_owned()) } else { Ok(String::new()) };
        findings.push((SHUTDOWN, shutdown));
        Report { word: "ready", findings }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("ready", &self.ready()).finish_non_exhaustive()
    }
}

fn register(checks: &RwLock<Vec<(&'static str, Check)>>, name: &'static str, check: Check) {
    let mut checks = checks.write().unwrap_or_else(PoisonError::into_inner);
    assert!(!name.is_empty() && name != SHUTDOWN, "a check needs a name of its own");
    assert!(checks.iter().all(|(taken, _)| *taken != name), "check `{name}` is registered twice");
    assert!(checks.len() < CHECKS_MAX, "more checks than anybody reads");
    checks.push((name, check));
}

fn ask(checks: &RwLock<Vec<(&'static str, Check)>>) -> Vec<(&'static str, Finding)> {
    // Copied out, so that a slow check never keeps others from registering.
    let checks = checks.read().unwrap_or_else(PoisonError::into_inner).clone();
    checks.iter().map(|(name, check)| (*name, check())).collect()
}

impl Report {
    /// Whether every check is well.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.findings.iter().all(|(_, finding)| finding.is_ok())
    }

    /// Only the check of that name; `None` if there is none.
    #[must_use]
    pub fn only(mut self, name: &str) -> Option<Self> {
        self.findings.retain(|(have, _)| *have == name);
        (!self.findings.is_empty()).then_some(self)
    }

    /// The last line alone, or before it `[+]name ok` or `[-]name reason` for every check.
    #[must_use]
    pub fn text(&self, verbose: bool) -> String {
        let mut text = String::new();
        for (name, finding) in self.findings.iter().filter(|_| verbose) {
            match finding {
                Ok(remark) if remark.is_empty() => text += &format!("[+]{name} ok\n"),
                Ok(remark) => text += &format!("[+]{name} ok: {}\n", remark.escape_debug()),
                Err(reason) => text += &format!("[-]{name} {}\n", reason.escape_debug()),
            }
        }
        text + if self.is_ok() { "" } else { "not " } + self.word + "\n"
    }

    fn answer(&self, query: Option<&str>) -> Response {
        let verbose = query.is_some_and(|query| query.split('&').any(|part| matches!(part, "verbose" | "verbose=1")));
        let status = if self.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
        (status, headers, self.text(verbose)).into_response()
    }
}

/// `/livez`, `/readyz`, `/readyz/<name>`, `/metrics`; a process may merge routes of its own.
pub fn router(health: Health, metrics: PrometheusHandle) -> Router {
    let page = move || async move {
        // Rendering walks every metric: not on a thread that carries requests.
        let rendered = tokio::task::spawn_blocking(move || metrics.render()).await;
        let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
        rendered
            .map_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response(), |text| (headers, text).into_response())
    };
    let live =
        |State(health): State<Health>, RawQuery(query): RawQuery| async move { health.live().answer(query.as_deref()) };
    let ready = |State(health): State<Health>, RawQuery(query): RawQuery| async move {
        health.ready().answer(query.as_deref())
    };
    let one = |State(health): State<Health>, Path(name): Path<String>, RawQuery(query): RawQuery| async move {
        match health.ready().only(&name) {
            Some(report) => report.answer(query.as_deref()),
            None => (StatusCode::NOT_FOUND, "no such check\n").into_response(),
        }
    };
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/readyz/{name}", get(one))
        .with_state(health)
        .route("/metrics", get(page))
}

/// The administrative listener, bound and not yet serving.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Binds a loopback address.
    ///
    /// # Errors
    /// [`AdminError::NotLoopback`], [`AdminError::Listen`].
    pub fn bind(address: SocketAddr, net: &dyn Net) -> Result<Self, AdminError> {
        if !address.ip().is_loopback() {
            return Err(AdminError::NotLoopback { address });
        }
        let failed = |source| AdminError::Listen { address, source };
        let listener = net.listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The address that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped. It must go on through a drain, to answer "not ready": spawn it outside of
    /// [`Shutdown::spawn`] and abort it last.
    pub async fn serve(self, router: Router) {
        let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        converse(socket, router).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept administrative connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn converse(socket: TcpStream, router: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let connection = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    // A probe that goes away or dawdles is nobody's error.
    let _ = timeout(ADMIN_CONNECTION_TIME_MAX, connection).await;
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::env::SystemNet;

    struct Served {
        health: Health,
        shutdown: Shutdown,
        address: SocketAddr,
        task: tokio::task::JoinHandle<()>,
    }

    fn serve() -> Served {
        let shutdown = Shutdown::new();
        let health = Health::new(shutdown.clone());
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || metrics::counter!("test_total").increment(3));
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap(), &SystemNet).unwrap();
        let address = admin.local_addr();
        let task = tokio::spawn(admin.serve(router(health.clone(), recorder.handle())));
        Served { health, shutdown, address, task }
    }

    impl Served {
        async fn get(&self, path: &str) -> (u16, String) {
            let mut socket = TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].parse().unwrap(), body.to_owned())
        }
    }

    #[tokio::test]
    async fn a_process_is_ready_when_every_check_is_and_says_which_is_not() {
        let served = serve();
        assert_eq!(served.get("/readyz").await, (200, "ready\n".to_owned()));
        served.health.check_ready("store", || Ok(String::new()));
        let (sender, receiver) = watch::channel(Err("no leader\nyet".to_owned()));
        served.health.watch_ready("raft", receiver);
        assert_eq!(served.get("/readyz").await, (503, "not ready\n".to_owned()));
        let verbose = "[+]store ok\n[-]raft no leader\\nyet\n[+]shutdown ok\nnot ready\n";
        assert_eq!(served.get("/readyz?verbose").await, (503, verbose.to_owned()));
        assert_eq!(served.get("/readyz/store").await, (200, "ready\n".to_owned()));
        assert_eq!(served.get("/readyz/raft?verbose").await.0, 503);
        assert_eq!(served.get("/readyz/nothing").await.0, 404);
        sender.send(Ok("term 7".to_owned())).unwrap();
        let verbose = "[+]store ok\n[+]raft ok: term 7\n[+]shutdown ok\nready\n";
        assert_eq!(served.get("/readyz?verbose").await, (200, verbose.to_owned()));
        drop(sender);
        assert_eq!(served.get("/readyz/raft?verbose").await, (503, "[-]raft stopped\nnot ready\n".to_owned()));
    }

    #[tokio::test]
    async fn live_and_ready_are_different_questions() {
        let served = serve();
        served.health.check_ready("upstream", || Err("lost".to_owned()));
        assert_eq!(served.get("/livez").await, (200, "live\n".to_owned()));
        served.health.check_live("disk", || Err("failed".to_owned()));
        assert_eq!(served.get("/livez?verbose").await, (503, "[-]disk failed\nnot live\n".to_owned()));
        assert_eq!(served.get("/readyz/disk").await.0, 404);
    }

    #[tokio::test]
    async fn a_shutdown_makes_it_not_ready_and_leaves_it_live() {
        let served = serve();
        served.shutdown.trigger();
        let draining = (503, "[-]shutdown in progress\nnot ready\n".to_owned());
        assert_eq!(served.get("/readyz?verbose").await, draining);
        assert_eq!(served.get("/livez").await.0, 200);
        served.task.abort();
    }

    #[tokio::test]
    async fn metrics_are_rendered() {
        let (status, page) = serve().get("/metrics").await;
        assert_eq!(status, 200);
        assert!(page.contains("test_total 3"), "{page}");
    }

    #[tokio::test]
    async fn only_a_loopback_address_is_taken() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "[::ffff:10.0.0.1]:80"] {
            let refused = Admin::bind(address.parse().unwrap(), &SystemNet).unwrap_err();
            assert!(matches!(refused, AdminError::NotLoopback { .. }), "{address}");
            assert_eq!(refused.exit_code(), 64);
        }
        let taken = Admin::bind("127.0.0.1:0".parse().unwrap(), &SystemNet).unwrap();
        assert!(matches!(Admin::bind(taken.local_addr(), &SystemNet), Err(AdminError::Listen { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_comes_is_cut() {
        let served = serve();
        let mut socket = TcpStream::connect(served.address).await.unwrap();
        socket.write_all(b"GET /livez HT").await.unwrap();
        let before = tokio::time::Instant::now();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        assert!(before.elapsed() < HEADER_TIMEOUT * 2, "{:?}", before.elapsed());
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}
