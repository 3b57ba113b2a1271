//! A process of the store, from its configuration to its exit: what `cinnabar voter` and `cinnabar replica` run.
//!
//! Order of a start: configuration, identity, folder, ports, copy, servers. Order of an end: not ready, leadership
//! handed over, nothing new taken, what is in flight finished, the state on disk.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::health::{self, Health};
use cinnabar_daemon::shutdown::Drained;
use cinnabar_daemon::{Admin, Env, Hangup, ProcessError, Shutdown, Tls, telemetry};
use tokio::net::{TcpListener, UnixListener};

use crate::config::{NodeConfig, ReplicaConfig, VoterConfig};
use crate::limits::{DISK_RESERVE_BYTES, FLUSH_EVERY_MS, LOG_KEEP_BYTES_MIN, LOG_KEEP_PART, PURGE_EVERY_MS};
use crate::local::{CheckpointFile, Local};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::milestones::Milestones;
use crate::node::{Core, EXIT_DISK, Node, NodeParts, log_options};
use crate::raft::Timing;
use crate::replica::{Parts, Replica, TailEnd};
use crate::server;
use crate::snapshot_files::SnapshotFiles;

/// Longest wait for another voter to take over at a shutdown.
const HANDOVER_WAIT: Duration = Duration::from_secs(5);

fn config(error: impl std::fmt::Display) -> ProcessError {
    ProcessError::config(error)
}

fn failed(error: impl std::fmt::Display) -> ProcessError {
    ProcessError::failed(error)
}

/// What both processes have before they have a copy.
struct Started {
    /// The signals: begun first, so that this node says that it is not ready before it stops serving.
    asked: Shutdown,
    node: Arc<Node>,
    tcp: TcpListener,
    unix: Option<UnixListener>,
    resp: Option<UnixListener>,
    hangup: Hangup,
}

async fn start(
    env: Env,
    conf: &NodeConfig,
    version: &str,
    in_memory: bool,
    timing: Timing,
    more_checks: impl FnOnce(&Health),
) -> Result<Started, ProcessError> {
    telemetry::init_log(conf.log.format, &conf.log.filter).map_err(config)?;
    let hangup = Hangup::new().map_err(failed)?;
    let asked = Shutdown::from_signals().map_err(failed)?;
    let shutdown = Shutdown::new();
    // Before anything is counted: what was counted earlier, TLS among it, would be lost.
    let prometheus = telemetry::install_metrics(&shutdown).map_err(failed)?;
    let tls = Tls::load(&conf.tls, &conf.cluster, env.clock.clone()).map_err(config)?;
    let ours = &tls.identity().name;
    if let Some(name) = conf.name.as_ref().filter(|name| *name != ours) {
        return Err(config(format!("name: is {name}, the certificate in tls.cert says {ours}")));
    }
    let metrics = Metrics::new();
    let node = Node::new(NodeParts {
        env: env.clone(),
        tls: tls.clone(),
        metrics,
        shutdown: shutdown.clone(),
        advertise: conf.advertise.clone(),
        version: version.to_owned(),
        data_dir: conf.data_dir.clone(),
        in_memory,
        cache_bytes: conf.cache_bytes,
        engine_cache_bytes: conf.engine_cache_bytes,
        timing,
    })
    .map_err(failed)?;
    let listen = |what, error: std::io::Error, at: &dyn std::fmt::Display| config(format!("{what}: {at}: {error}"));
    let tcp = env.net.listen(conf.listen).map_err(|error| listen("listen", error, &conf.listen))?;
    let bind = |what, path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map(|path| server::bind_unix(path).map_err(|error| listen(what, error, &path.display())))
            .transpose()
    };
    let unix = bind("socket", &conf.socket)?;
    let resp = bind("resp_socket", &conf.resp_socket)?;
    let health = Health::new(asked.clone());
    // Before anybody can ask: without a check it is ready.
    check_health(&node, &health);
    more_checks(&health);
    if let Some(address) = conf.admin_listen {
        let admin = Admin::bind(address, &*env.net).map_err(config)?;
        tokio::spawn(admin.serve(health::router(health, prometheus)));
    }
    shutdown.spawn(tls.watch(shutdown.clone()));
    Ok(Started { asked, node, tcp, unix, resp, hangup })
}

fn check_health(node: &Arc<Node>, health: &Health) {
    let live = node.clone();
    health.check_live("disk", move || match live.core() {
        Some(core) if core.local.state().failed() => Err("the state cannot be written".to_owned()),
        _ => Ok("ok".to_owned()),
    });
    let ready = node.clone();
    health.check_ready("store", move || {
        let core = ready.core().ok_or("this voter belongs to no cluster yet")?;
        core.local.check_serving().map_err(|error| error.to_string())?;
        let stale = if core.local.is_stale() { ", stale: a newer state is being built" } else { "" };
        Ok(format!("at entry {}{stale}", core.local.applied_index()))
    });
    let leader = node.clone();
    health.check_ready("leader", move || match leader.core().and_then(|core| core.voter.as_ref()) {
        Some(voter) if voter.leader().is_none() => Err("no leader is known".to_owned()),
        Some(voter) if !voter.is_in_touch() => Err("no word from the leader, or from a quorum".to_owned()),
        Some(voter) => Ok(voter.leader().map_or(String::new(), |(_, node)| node.name)),
        None => Ok("not a voter".to_owned()),
    });
}

fn serve(started: Started) -> (Arc<Node>, Shutdown) {
    let Started { node, tcp, unix, resp, mut hangup, .. } = started;
    let shutdown = node.shutdown.clone();
    let (served, stop) = (node.clone(), shutdown.clone());
    shutdown.spawn(async move {
        if let Err(error) = server::serve_tcp(served, tcp, stop).await {
            tracing::error!(%error, "the TCP server ended");
        }
    });
    if let Some(listener) = unix {
        let (served, stop) = (node.clone(), shutdown.clone());
        shutdown.spawn(async move {
            if let Err(error) = server::serve_unix(served, listener, stop).await {
                tracing::error!(%error, "the Unix socket's server ended");
            }
        });
    }
    if let Some(listener) = resp {
        shutdown.spawn(server::serve_resp(node.clone(), listener, shutdown.clone()));
    }
    let tls = node.tls.clone();
    tokio::spawn(async move {
        loop {
            hangup.recv().await;
            let tls = tls.clone();
            match tokio::task::spawn_blocking(move || tls.reload()).await {
                Ok(Ok(outcome)) => tracing::info!(?outcome, "certificates looked at again"),
                Ok(Err(error)) => tracing::error!(%error, "new certificates refused, the old ones stay in use"),
                Err(_) => {}
            }
        }
    });
    (node, shutdown)
}

/// Bytes of log to keep, of those that are configured, beside so many bytes of live records.
fn worth_keeping(configured: u64, live_bytes: u64) -> u64 {
    configured.min((live_bytes / LOG_KEEP_PART).max(LOG_KEEP_BYTES_MIN))
}

/// Keeps the state durable, the log short, the gauges true, and the disk from filling up.
async fn keep(node: Arc<Node>, log_keep_bytes: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(FLUSH_EVERY_MS));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let purge_every = PURGE_EVERY_MS.div_ceil(FLUSH_EVERY_MS).max(1);
    let (mut turn, mut leader_seen) = (0u64, String::new());
    loop {
        tick.tick().await;
        let Some(core) = node.core() else { continue };
        let local = core.local.clone();
        match tokio::task::spawn_blocking(move || local.state().sync()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the state's disk failed: this process ends");
                std::process::exit(EXIT_DISK);
            }
            Err(_) => continue,
        }
        if let Some(reason) = core.voter.as_ref().and_then(|voter| voter.ended())
            && !node.shutdown.is_triggered()
        {
            tracing::error!(%reason, "the Raft core ended: this process ends");
            std::process::exit(EXIT_DISK);
        }
        turn += 1;
        if turn.is_multiple_of(purge_every) {
            core.snapshots.remove_idle();
            let log_keep_bytes = worth_keeping(log_keep_bytes, core.local.point().record_bytes);
            if let Some(voter) = &core.voter
                && let Err(error) = voter.purge(log_keep_bytes).await
            {
                tracing::error!(%error, "the Raft core failed: this process ends");
                std::process::exit(EXIT_DISK);
            }
            if let Some(replica) = &core.replica {
                replica.purge(log_keep_bytes);
            }
        }
        watch_disk(&node);
        gauges(&node, core, &mut leader_seen, turn);
    }
}

fn watch_disk(node: &Node) {
    match rustix::fs::statvfs(&node.data_dir) {
        Ok(found) => node.set_disk_full(found.f_bavail.saturating_mul(found.f_frsize) < DISK_RESERVE_BYTES),
        Err(error) => tracing::warn!(%error, "cannot measure the disk"),
    }
}

fn gauges(node: &Arc<Node>, core: &Arc<Core>, leader_seen: &mut String, turn: u64) {
    let metrics = &node.metrics;
    let point = core.local.point();
    metrics.applied_index.set(point.applied.index as f64);
    let committed = core.voter.as_ref().map_or(0, |voter| voter.committed()).max(core.local.committed());
    metrics.behind_entries.set(committed.saturating_sub(point.applied.index) as f64);
    let behind_ms = server::behind_ms(node, &core.local);
    metrics.behind_seconds.set(if behind_ms == u64::MAX { f64::INFINITY } else { behind_ms as f64 / 1000.0 });
    metrics.records.set(point.records as f64);
    metrics.live_bytes.set(point.record_bytes as f64);
    let state = core.local.state();
    metrics.pending_bytes.set(state.pending_bytes() as f64);
    metrics.cache_misses.absolute(state.cache_misses());
    metrics.log_bytes.set(core.log.disk_bytes() as f64);
    // Measuring the folder walks it: seldom.
    if turn % 10 == 1 {
        metrics.store_bytes.set(state.engine().disk_bytes() as f64);
    }
    if let Some(voter) = &core.voter {
        let leader = voter.leader().map_or(String::new(), |(_, node)| node.name);
        metrics.is_leader.set(f64::from(u8::from(voter.leads())));
        metrics.has_leader.set(f64::from(u8::from(!leader.is_empty() && voter.is_in_touch())));
        if !leader.is_empty() && leader != *leader_seen {
            metrics.leader_changes.increment(1);
            *leader_seen = leader;
        }
    }
}

async fn finish(node: Arc<Node>, shutdown: Shutdown) -> Result<(), ProcessError> {
    if let Drained::TimedOut { left } = shutdown.drain().await {
        tracing::warn!(left, "tasks were cut at shutdown");
    }
    if let Some(core) = node.core().cloned() {
        if let Some(voter) = &core.voter {
            voter.stop().await;
        }
        let durable = tokio::task::spawn_blocking(move || core.local.make_durable()).await;
        let index = durable
            .map_err(failed)?
            .map_err(|error| ProcessError { message: error.to_string(), code: u8::try_from(EXIT_DISK).unwrap_or(1) })?;
        tracing::info!(index, "stopped, everything is on disk");
    }
    Ok(())
}

/// Runs a voter until it is told to stop.
///
/// # Errors
/// [`ProcessError`] with its exit code.
pub async fn run_voter(env: Env, conf: VoterConfig, version: &str) -> Result<(), ProcessError> {
    let timing = conf.timing().map_err(config)?;
    let common = conf.node();
    let started = start(env, &common, version, false, timing, |_| {}).await?;
    let node = started.node.clone();
    if let Some(assignment) = node.assignment().map_err(failed)? {
        node.start_voter(&assignment).await.map_err(failed)?;
        tracing::info!(node_id = assignment.node_id, store_id = %assignment.store_id, "voter started");
    } else {
        tracing::info!("voter started; it waits for `cinnabar cluster init` or `cluster add-voter`");
    }
    let listening = started.tcp.local_addr().unwrap_or(common.listen);
    announce(&node, listening);
    let asked = started.asked.clone();
    let (node, shutdown) = serve(started);
    tokio::spawn(keep(node.clone(), common.log_keep_bytes));
    // Leadership is handed over before the servers stop taking calls, so that a write in flight finds the next leader.
    asked.wait().await;
    if let Some(voter) = node.core().and_then(|core| core.voter.clone())
        && voter.leads()
        && let Err(error) = voter.transfer_leader(None, HANDOVER_WAIT).await
    {
        tracing::warn!(%error, "leadership was not handed over");
    }
    shutdown.trigger();
    finish(node, shutdown).await
}

fn announce(node: &Node, listening: SocketAddr) {
    tracing::info!(name = %node.name(), cluster = %node.cluster(), %listening, advertise = %node.advertise, "serving");
}

/// Opens a replica's copy and log. A power cut may leave a state that its engine cannot read, for the engine orders its
/// writes by what the kernel has, not by what the disk has; what a replica holds is others' too, so it begins anew.
fn open_copy(node: &Node, data_dir: &Path, log_dir: &Path) -> Result<(Arc<Local>, Log), ProcessError> {
    let local = match Local::open(node.local_options()) {
        Err(error) if error.is_damage() => {
            tracing::error!(%error, "the state on this disk is damaged: it is removed, another is fetched");
            remove_folder(&data_dir.join("state"))?;
            Local::open(node.local_options()).map_err(failed)?
        }
        opened => opened.map_err(failed)?,
    };
    let open_log = || Log::open(log_dir, log_options(&node.metrics, false)).map_err(failed);
    let log = open_log()?;
    // A log that begins after the state leads nowhere.
    if log.purged().index <= local.applied_index() {
        return Ok((local, log));
    }
    tracing::warn!(
        state = local.applied_index(),
        log = log.purged().index,
        "the log begins after the state: it is removed"
    );
    drop(log);
    remove_folder(log_dir)?;
    Ok((local, open_log()?))
}

fn remove_folder(dir: &Path) -> Result<(), ProcessError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed(format!("{}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// Runs a replica until it is told to stop.
///
/// # Errors
/// [`ProcessError`] with its exit code.
pub async fn run_replica(env: Env, conf: ReplicaConfig, version: &str) -> Result<(), ProcessError> {
    EmbeddedReplica::start(env, &conf, version, |_| {}).await?.run().await
}

/// A replica inside a process: its own, or one that reads the copy where it lies. It has the process's log, metrics,
/// signals and administrative listener.
pub struct EmbeddedReplica {
    started: Started,
    replica: Arc<Replica>,
    local: Arc<Local>,
    log: Log,
    log_keep_bytes: u64,
}

impl EmbeddedReplica {
    /// Opens the copy and listens; nothing is followed or answered before [`EmbeddedReplica::run`]. `more_checks` are of the
    /// process around it, which is asked from the first moment on whether it is ready.
    ///
    /// # Errors
    /// [`ProcessError`] with its exit code.
    pub async fn start(
        env: Env,
        conf: &ReplicaConfig,
        version: &str,
        more_checks: impl FnOnce(&Health),
    ) -> Result<Self, ProcessError> {
        let follow = conf.follow().map_err(config)?;
        let common = conf.node();
        let started = start(env, &common, version, conf.in_memory, Timing::default(), more_checks).await?;
        let node = started.node.clone();
        let log_dir = common.data_dir.join("log");
        let (local, log) = open_copy(&node, &common.data_dir, &log_dir)?;
        let milestones = Arc::new(Milestones::open(Some(&log_dir), log.last().index).map_err(failed)?);
        let checkpoint_dir = (!conf.in_memory).then(|| common.data_dir.clone());
        let replica = Replica::open(Parts {
            local: local.clone(),
            log: log.clone(),
            milestones,
            fetch_dir: common.data_dir.join("fetch"),
            checkpoint_file: CheckpointFile::new(checkpoint_dir),
            follow,
            upstreams: conf.upstreams.clone(),
            env: node.env.clone(),
            tls: node.tls.clone(),
            metrics: node.metrics.clone(),
        })
        .map_err(failed)?;
        let witness = replica.clone();
        let snapshots = SnapshotFiles::open(
            common.data_dir.join("snapshots"),
            local.clone(),
            node.env.clock.clone(),
            Box::new(move |point| witness.witness(point)),
        )
        .map_err(failed)?;
        let (feed, own) = (replica.feed().clone(), Some(replica.clone()));
        node.set_core(Core { local: local.clone(), feed, snapshots, log: log.clone(), voter: None, replica: own });
        announce(&node, started.tcp.local_addr().unwrap_or(common.listen));
        Ok(Self { started, replica, local, log, log_keep_bytes: common.log_keep_bytes })
    }

    /// The copy.
    pub fn local(&self) -> &Arc<Local> {
        &self.local
    }

    /// The entries that are passed on: what the chain was at an index.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The replica itself: whom it follows.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// Who this process is.
    pub fn tls(&self) -> &Arc<Tls> {
        &self.started.node.tls
    }

    /// The node: its `labels` say something of this process in its status, such as its data centre.
    pub fn node(&self) -> &Arc<Node> {
        &self.started.node
    }

    /// Triggered while [`EmbeddedReplica::run`] ends: it waits for what was spawned on it.
    pub fn shutdown(&self) -> &Shutdown {
        &self.started.node.shutdown
    }

    /// Follows and serves until the process is told to stop.
    ///
    /// # Errors
    /// [`ProcessError`] with its exit code.
    pub async fn run(self) -> Result<(), ProcessError> {
        let asked = self.started.asked.clone();
        let (node, shutdown) = serve(self.started);
        tokio::spawn(keep(node.clone(), self.log_keep_bytes));
        let following = self.replica.run(shutdown.clone());
        tokio::select! {
            end = following => {
                if let Err(TailEnd::Own(problem)) = end {
                    tracing::error!(%problem, "this node's disk failed: this process ends");
                    std::process::exit(EXIT_DISK);
                }
            }
            () = asked.wait() => {}
        }
        shutdown.trigger();
        finish(node, shutdown).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_as_long_as_configured_and_no_burden_to_a_small_store() {
        const MIB: u64 = 1024 * 1024;
        for (configured, live, kept) in [(256, 0, 64), (256, 266, 66), (256, 4096, 256), (1, 4096, 1), (1, 0, 1)] {
            assert_eq!(worth_keeping(configured * MIB, live * MIB) / MIB, kept, "{configured} {live}");
        }
    }
}
