//! The process: what `cinnabar terminate` runs. The only place that knows all parts.
//!
//! Order of a start: configuration, ports, another user, runtime, edge node. Order of an end: not ready, nothing new
//! taken, what is open finished within its bound.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cinnabar_daemon::env::BoxIo;
use cinnabar_daemon::health::{self, Health};
use cinnabar_daemon::mtls::is_of_the_peer;
use cinnabar_daemon::shutdown::Drained;
use cinnabar_daemon::{Admin, Env, ProcessError, Shutdown, telemetry};
use cinnabar_edge_api::client::{CALL_MAX, EdgeClient};
use cinnabar_edge_api::proto::{StatusRequest, StatusResponse};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::acceptor::{Accepted, Blinding, Failed, S2n, TlsServer, UnderWay};
use crate::config::{TerminatorConfig, Upstream};
use crate::demo::{self, Place};
use crate::limits::{ACCEPT_PAUSE, LOG_EVERY, STATUS_EVERY};
use crate::metrics::{Counted, Metrics};
use crate::upstream;
use crate::user::become_user;

fn failed(error: impl std::fmt::Display) -> ProcessError {
    ProcessError::failed(error)
}

/// Runs a terminator until it is told to stop, in a runtime of its own with this many threads: as root it listens,
/// becomes the configured user, and only then has more than one thread. Call it before any other thread is started.
///
/// # Errors
/// [`ProcessError`] with its exit code.
pub fn run_process(mut conf: TerminatorConfig, version: &str, threads: usize) -> Result<(), ProcessError> {
    conf.check().map_err(ProcessError::config)?;
    let env = Env::system();
    let mut listeners = Vec::new();
    {
        // It has no thread of its own and is gone before the user changes.
        let early = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let _inside = early.enter();
        for listener in listen(&conf, &env)? {
            listeners.push(listener.into_std().map_err(failed)?);
        }
    }
    let user = conf.user.take();
    let changed = match &user {
        Some(user) => become_user(user).map_err(ProcessError::config)?,
        None => false,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let listeners: Result<Vec<TcpListener>, _> = listeners.into_iter().map(TcpListener::from_std).collect();
        let started = Terminator::start(conf, env, listeners.map_err(failed)?)?;
        if changed {
            tracing::info!(user, "no longer root");
        }
        started.run(version).await
    })
}

fn listen(conf: &TerminatorConfig, env: &Env) -> Result<Vec<TcpListener>, ProcessError> {
    let one = |address: &SocketAddr| {
        env.net.listen(*address).map_err(|error| ProcessError::config(format!("listen: {address}: {error}")))
    };
    conf.listen.iter().map(one).collect()
}

/// Whether the edge node answers, and what it last said of itself.
#[derive(Default)]
struct Edge {
    answers: AtomicBool,
    status: Mutex<Option<StatusResponse>>,
}

/// A terminator that listens.
struct Terminator {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    client: EdgeClient,
    asked: Shutdown,
}

/// What every connection needs.
struct Shared {
    conf: TerminatorConfig,
    env: Env,
    tls: Box<dyn TlsServer>,
    blinding: Blinding,
    metrics: Metrics,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    edge: Edge,
    shutdown: Shutdown,
    logged: Mutex<Option<Instant>>,
}

impl Terminator {
    fn start(conf: TerminatorConfig, env: Env, listeners: Vec<TcpListener>) -> Result<Self, ProcessError> {
        telemetry::init_log(conf.log.format, &conf.log.filter).map_err(ProcessError::config)?;
        let asked = Shutdown::from_signals().map_err(failed)?;
        let shutdown = Shutdown::new();
        // Before anything is counted: what was counted earlier would be lost.
        let prometheus = telemetry::install_metrics(&shutdown).map_err(failed)?;
        let metrics = Metrics::new();
        let client = EdgeClient::new(&conf.edge_socket);
        let blinding = Blinding::new(&conf, metrics.clone());
        let tls = S2n::new(&conf, client.clone(), env.clone(), metrics.clone(), blinding.clone())
            .map_err(|error| failed(format!("TLS: {error}")))?;
        let shared = Arc::new(Shared {
            tls: Box::new(tls),
            blinding,
            metrics,
            connections: Arc::new(Semaphore::new(conf.limits.connections)),
            handshakes: Arc::new(Semaphore::new(conf.limits.handshakes)),
            edge: Edge::default(),
            shutdown,
            logged: Mutex::new(None),
            conf,
            env,
        });
        let health = Health::new(asked.clone());
        let of_check = shared.clone();
        health.check_ready("edge", move || {
            let answers = of_check.edge.answers.load(Ordering::Relaxed);
            if answers {
                Ok("the edge node answers".to_owned())
            } else {
                Err("the edge node does not answer".to_owned())
            }
        });
        if let Some(address) = shared.conf.admin_listen {
            let admin = Admin::bind(address, &*shared.env.net).map_err(ProcessError::config)?;
            tokio::spawn(admin.serve(health::router(health, prometheus)));
        }
        Ok(Self { shared, listeners, client, asked })
    }

    async fn run(self, version: &str) -> Result<(), ProcessError> {
        let Self { shared, listeners, client, asked } = self;
        let mut accepting = Vec::new();
        for listener in listeners {
            let listening = listener.local_addr().map_err(failed)?;
            tracing::info!(%listening, edge_socket = %shared.conf.edge_socket.display(), version, "terminating TLS");
            accepting.push(tokio::spawn(accept(shared.clone(), listener, listening)));
        }
        let watching = watch(shared.clone(), client);
        let outcome = tokio::select! {
            () = asked.wait() => Ok(()),
            refused = watching => Err(refused),
        };
        accepting.iter().for_each(tokio::task::JoinHandle::abort);
        if let Drained::TimedOut { left } = shared.shutdown.drain().await {
            tracing::warn!(left, "connections were cut at shutdown");
        }
        outcome
    }
}

/// Asks the edge node how it is. Returns when the demo's responder is configured where the mode is not demo.
async fn watch(shared: Arc<Shared>, client: EdgeClient) -> ProcessError {
    loop {
        let mut agent = client.agent();
        let status = match timeout(CALL_MAX, agent.status(StatusRequest {})).await {
            Ok(Ok(status)) => Some(status.into_inner()),
            Ok(Err(_)) | Err(_) => None,
        };
        let answers = status.is_some();
        if shared.edge.answers.swap(answers, Ordering::Relaxed) != answers {
            tracing::info!(answers, "edge node");
        }
        if let Some(status) = status {
            if shared.conf.demo_responder && !status.demo {
                return ProcessError::config(
                    "demo_responder: the edge node's system is not in mode demo; set `upstream`",
                );
            }
            *shared.edge.status.lock() = Some(status);
        }
        sleep(STATUS_EVERY).await;
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, local: SocketAddr) {
    loop {
        // Places first: what we have no room for stays in the kernel's backlog.
        let (Ok(open), Ok(permit)) =
            (shared.connections.clone().acquire_owned().await, shared.handshakes.clone().acquire_owned().await)
        else {
            return; // Nobody closes these semaphores.
        };
        match listener.accept().await {
            Ok((socket, peer)) => {
                let local = socket.local_addr().unwrap_or(local);
                let under_way = UnderWay { permit, counted: Counted::new(&shared.metrics.handshakes_open) };
                shared.shutdown.spawn(shared.clone().connection(socket, peer, local, open, under_way));
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Shared {
    async fn connection(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        _open: OwnedSemaphorePermit,
        under_way: UnderWay,
    ) {
        let _counted = Counted::new(&self.metrics.connections_open);
        // Small records must not wait for the peer's acknowledgement.
        if socket.set_nodelay(true).is_err() {
            return;
        }
        let begun = self.env.clock.now();
        match self.tls.accept(Box::new(socket) as BoxIo, under_way).await {
            Ok(accepted) => {
                self.metrics.handshake_seconds.record(self.env.clock.now().saturating_duration_since(begun));
                self.metrics.done(accepted.session.version, accepted.session.resumed);
                self.serve(accepted, peer, local).await;
            }
            Err(failed) => {
                self.metrics.failed(failed.result);
                self.log(peer, &failed);
            }
        }
    }

    async fn serve(&self, accepted: Accepted, peer: SocketAddr, local: SocketAddr) {
        let Accepted { mut stream, session } = accepted;
        let idle = self.conf.limits.idle_time.as_duration();
        match &self.conf.upstream {
            Some(upstream) => self.pass_on(upstream, &mut stream, &session, peer, local).await,
            None => {
                // Bound before the await: the lock is no asynchronous one.
                let status = self.edge.status.lock().clone();
                if let Some(status) = status.filter(|status| status.demo) {
                    let place = Place { data_center: status.data_center, machine: status.machine };
                    if let Err(error) = demo::respond(&mut stream, &place, &session, idle).await {
                        tracing::debug!(%peer, %error, "the demo's answer was not taken");
                    }
                }
            }
        }
        self.blinding.close(stream).await;
    }

    async fn pass_on(
        &self,
        upstream: &Upstream,
        stream: &mut Box<dyn crate::acceptor::Plain>,
        session: &crate::acceptor::Session,
        peer: SocketAddr,
        local: SocketAddr,
    ) {
        let header = self.conf.proxy_protocol.then(|| upstream::proxy_header(peer, local, session));
        let far = match upstream::connect(upstream, &self.env, header.as_deref()).await {
            Ok(far) => far,
            Err(error) => {
                self.metrics.upstream_failures.increment(1);
                self.log(peer, &Failed { result: "upstream", message: format!("{upstream}: {error}") });
                return;
            }
        };
        let idle = self.conf.limits.idle_time.as_duration();
        if let Err(error) = upstream::relay(stream, far, idle, &self.env, &self.shutdown).await {
            tracing::debug!(%peer, %error, "a connection was cut");
        }
    }

    fn log(&self, peer: SocketAddr, failed: &Failed) {
        let now = self.env.clock.now();
        let mut logged = self.logged.lock();
        if logged.is_none_or(|last| now.saturating_duration_since(last) >= LOG_EVERY) {
            *logged = Some(now);
            tracing::warn!(%peer, result = failed.result, error = %failed.message, "a connection failed");
        }
    }
}
