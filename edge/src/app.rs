//! The edge node's process, from its configuration to its exit: the only place that knows all of its parts.
//!
//! Order of a start: memory, configuration, pins, the embedded copy, its records, keys, servers; the copy follows the
//! store last, so that what was known is known before anything new comes. Order of an end: the embedded copy's.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use cinnabar_authority_api::client::MachineClient;
use cinnabar_authority_api::{DataCenterId, MachineId, Verifier};
use cinnabar_daemon::health::Health;
use cinnabar_daemon::{Env, ProcessError, Role, Shutdown, Tls, memory};
use cinnabar_kv::node::Node;
use cinnabar_kv::process::EmbeddedReplica;
use cinnabar_kv::replica::Replica;
use cinnabar_kv::server::bind_unix;
use tokio::net::{TcpListener, UnixListener};
use tonic::service::Routes as Grpc;

use crate::config::EdgeConfig;
use crate::directory::{Directory, Parts, Staleness};
use crate::distance::{Distances, DistantNet};
use crate::glue::Glue;
use crate::identity::{Identity, KeyFile, Pins, Sealing, open_tls_key};
use crate::keyring::{Keyring, MachineKeys};
use crate::limits::{LOOK_EVERY, PLACE_LOOK_EVERY};
use crate::metrics;
use crate::reports::Reports;
use crate::router::{Router, RouterConfig};
use crate::server::agent::{AgentParts, AgentService};
use crate::server::local::users;
use crate::server::rates::{Rates, SignRates};
use crate::server::sign::{SignParts, SignService};
use crate::server::{serve_local, serve_peers, signer};
use crate::signer::{SignMetrics, Signer};

fn config(error: impl std::fmt::Display) -> ProcessError {
    ProcessError::config(error)
}

fn failed(error: impl std::fmt::Display) -> ProcessError {
    ProcessError::failed(error)
}

/// Serves until it is told to stop.
///
/// # Errors
/// [`ProcessError`] with its exit code.
pub async fn run(env: Env, mut conf: EdgeConfig, version: &str) -> Result<(), ProcessError> {
    let protected = memory::protect();
    conf.check().map_err(config)?;
    let pins =
        Pins::load(&conf.trust()).map_err(|error| config(format!("{error}; run `cinnabar edge enrol` first")))?;
    let sealing = sealing(&conf)?;
    // The key of its certificate is in clear in memory alone; whoever reads the file reads that.
    let key = open_tls_key(&conf.replica.tls.key, &sealing, &pins.cluster);
    let key = key.map_err(|error| config(format!("replica.tls.key: {error}")))?;
    conf.replica.tls.key = key.path();
    let begun = Begun::default();
    let checks = |health: &Health| check_health(health, &begun, conf.staleness());
    let replica = EmbeddedReplica::start(env.clone(), &conf.replica, version, checks).await?;
    metrics::describe();
    if protected.is_complete() {
        tracing::info!(%protected, "memory");
    } else {
        tracing::warn!(%protected, "memory is protected in part only");
    }
    let me = who(&conf, &pins, replica.tls())?;
    let directory = open_directory(&conf, &pins, &replica, &env, me).await?;
    let keys = MachineKeys::default();
    let keyring = Keyring::new(directory.clone(), keys.clone());
    let channel = replica.tls().channel(&conf.authority.address, &[Role::Authority], None, env.net.clone());
    let authority = MachineClient::new(channel);
    let shutdown = replica.shutdown().clone();

    let routing = start_signing(&conf, &replica, &env, (&directory, &keyring), version)?;
    let _ = begun.set((directory.clone(), keyring.clone()));
    shutdown.spawn(directory.clone().run(shutdown.clone()));
    shutdown.spawn(keyring.clone().run(shutdown.clone()));
    let identity = Identity {
        directory: directory.clone(),
        keys,
        file: KeyFile::new(&conf.replica.data_dir, sealing, env.rng.clone()),
        authority: authority.clone(),
        tls: replica.tls().clone(),
        files: conf.replica.tls.clone(),
        env: env.clone(),
    };
    shutdown.spawn(identity.run(shutdown.clone()));
    let reports = Reports {
        authority,
        directory: directory.clone(),
        keyring: keyring.clone(),
        address: conf.address(),
        version: version.to_owned(),
        round_trips: Arc::new(move || routing.get().map_or_else(BTreeMap::new, |router| router.round_trips())),
    };
    shutdown.spawn(reports.run(shutdown.clone()));
    shutdown.spawn(look(conf, directory, keyring, replica.node().clone(), shutdown.clone()));
    let ended = replica.run().await;
    drop(key);
    ended
}

/// Has signing begin as soon as a record says where this machine stands; the router is in what it gives from then on.
fn start_signing(
    conf: &EdgeConfig,
    replica: &EmbeddedReplica,
    env: &Env,
    (directory, keyring): (&Directory, &Keyring),
    version: &str,
) -> Result<Routing, ProcessError> {
    let routing = Routing::default();
    let here = Here {
        distances: load_distances(conf)?,
        env: env.clone(),
        directory: directory.clone(),
        keyring: keyring.clone(),
        replica: replica.replica().clone(),
        tls: replica.tls().clone(),
        routing: routing.clone(),
        version: version.to_owned(),
        shutdown: replica.shutdown().clone(),
        conf: conf.clone(),
    };
    let peers = env.net.listen(conf.signer.listen);
    let peers = peers.map_err(|error| config(format!("signer.listen: {}: {error}", conf.signer.listen)))?;
    let local = bind_local(&conf.local.socket)?;
    replica.shutdown().spawn(async move {
        if let Err(error) = here.start(peers, local).await {
            tracing::error!(error = %error.message, "this process ends");
            std::process::exit(i32::from(error.code));
        }
    });
    Ok(routing)
}

fn sealing(conf: &EdgeConfig) -> Result<Sealing, ProcessError> {
    match &conf.machine.sealing_key {
        Some(path) => Sealing::load(path).map_err(|error| config(format!("machine.sealing_key: {error}"))),
        None => Ok(Sealing::Plain),
    }
}

/// This machine, if certificate, pins and configuration agree on it.
fn who(conf: &EdgeConfig, pins: &Pins, tls: &Tls) -> Result<MachineId, ProcessError> {
    let us = tls.identity();
    if us.role != Role::Edge {
        return Err(config(format!("replica.tls.cert is of {us}; role edge is needed")));
    }
    if pins.cluster != us.cluster || pins.machine.as_str() != us.name.as_str() {
        let path = conf.trust();
        let pinned = format!("{} of {}", pins.machine, pins.cluster);
        return Err(config(format!("{}: is for {pinned}, the certificate for {us}", path.display())));
    }
    Ok(pins.machine.clone())
}

async fn open_directory(
    conf: &EdgeConfig,
    pins: &Pins,
    replica: &EmbeddedReplica,
    env: &Env,
    me: MachineId,
) -> Result<Directory, ProcessError> {
    let key = pins.record_key().map_err(|problem| config(format!("{}: {problem}", conf.trust().display())))?;
    let log = replica.log().clone();
    let parts = Parts {
        verifier: Verifier::new(pins.cluster.clone(), key),
        local: replica.local().clone(),
        chain: Box::new(move |index| log.head_at(index)),
        clock: env.clock.clone(),
        me,
        dir: (!conf.replica.in_memory).then(|| conf.replica.data_dir.clone()),
    };
    tokio::task::spawn_blocking(move || Directory::open(parts)).await.map_err(failed)?.map_err(failed)
}

/// What a demonstration alone may have.
fn refuse_demo_only(conf: &EdgeConfig) -> Result<(), ProcessError> {
    let refused = |field: &str| {
        let problem = "is for demonstrations; this system's signed record says that it is none";
        Err(config(format!("{field}: {problem}")))
    };
    if conf.machine.insecure_machine_key {
        return refused("machine.insecure_machine_key");
    }
    if conf.router.distance.is_some() {
        return refused("router.distance");
    }
    Ok(())
}

/// Records and keys, once they are here.
type Begun = Arc<OnceLock<(Directory, Keyring)>>;

fn check_health(health: &Health, begun: &Begun, limits: Staleness) {
    const READING: &str = "the copy's records are being read";
    let known = begun.clone();
    health.check_ready("records", move || {
        let trust = known.get().ok_or(READING)?.0.trust();
        let remark = trust.alarms(&limits).join("; ");
        if trust.may_sign_local() { Ok(remark) } else { Err(remark) }
    });
    let known = begun.clone();
    health.check_ready("policies", move || {
        let keyring = &known.get().ok_or(READING)?.1;
        let open = keyring.open_policies();
        if keyring.has_looked() { Ok(format!("{open} open")) } else { Err(format!("{open} open, others to come")) }
    });
}

/// Keeps the gauges true, and what the store's status says of this machine.
async fn look(conf: EdgeConfig, directory: Directory, keyring: Keyring, node: Arc<Node>, shutdown: Shutdown) {
    let limits = conf.staleness();
    loop {
        let trust = directory.trust();
        metrics::look(&trust, directory.refused(), keyring.open_policies());
        let word = if trust.word() == "ready" { "ok" } else { trust.word() };
        let labels = [
            ("data_center", directory.data_center().map(|center| center.to_string()).unwrap_or_default()),
            ("country", directory.country().unwrap_or_default()),
            ("generation", keyring.generation().to_string()),
            ("health", word.to_owned()),
            ("alarms", trust.alarms(&limits).join("; ")),
        ];
        node.labels.lock().extend(labels.map(|(name, value)| (name.to_owned(), value)));
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn load_distances(conf: &EdgeConfig) -> Result<Option<Arc<Distances>>, ProcessError> {
    let Some(path) = &conf.router.distance else { return Ok(None) };
    let read =
        Distances::load(path).map_err(|error| config(format!("router.distance: {}: {error}", path.display())))?;
    Ok(Some(Arc::new(read)))
}

/// Users are told apart by their numbers on this socket: whoever reaches its folder may connect.
fn bind_local(path: &Path) -> Result<UnixListener, ProcessError> {
    let named = |error| config(format!("local.socket: {}: {error}", path.display()));
    let bound = bind_unix(path).map_err(named)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(named)?;
    Ok(bound)
}

// === signing ===

/// The router, once there is something to route.
type Routing = Arc<OnceLock<Arc<Router>>>;

/// All that is needed once it is known where this machine stands.
struct Here {
    conf: EdgeConfig,
    env: Env,
    directory: Directory,
    keyring: Keyring,
    replica: Arc<Replica>,
    tls: Arc<Tls>,
    distances: Option<Arc<Distances>>,
    routing: Routing,
    version: String,
    shutdown: Shutdown,
}

impl Here {
    /// Waits until a record says where this machine stands, and signs from then on.
    async fn start(self, peers: TcpListener, local: UnixListener) -> Result<(), ProcessError> {
        let Some(data_center) = self.placed().await? else { return Ok(()) };
        let metrics = SignMetrics::new();
        let (router, service) = self.signer(data_center.clone(), &metrics)?;
        self.shutdown.spawn(router.clone().run(self.shutdown.clone()));
        // Nobody else sets it.
        let _ = self.routing.set(router.clone());
        let agent = AgentService::server(AgentParts {
            directory: self.directory.clone(),
            keyring: self.keyring.clone(),
            router,
            sign: service.clone(),
            distances: self.distances.clone(),
            replica: self.replica.clone(),
            secret_uids: users(&self.conf.local.secret_uids),
            staleness: self.conf.staleness(),
            insecure: self.conf.machine.insecure_machine_key,
            version: self.version.clone(),
        });
        let grpc = Grpc::new(signer(service.clone())).add_service(agent);
        tracing::info!(machine = %self.directory.me(), %data_center, "signing");
        let stop = self.shutdown.clone();
        let local = serve_local(grpc, local, metrics.clone(), stop.clone());
        let (local, peers) = tokio::join!(local, serve_peers(service, self.tls.clone(), peers, metrics, stop));
        local.and(peers).map_err(failed)
    }

    /// Waits for this machine's record, and refuses what only a demonstration may. None at a shutdown.
    async fn placed(&self) -> Result<Option<DataCenterId>, ProcessError> {
        loop {
            let trust = self.directory.trust();
            if trust.may_sign_local() {
                if !trust.demo {
                    refuse_demo_only(&self.conf)?;
                }
                if let Some(data_center) = self.directory.data_center() {
                    return Ok(Some(data_center));
                }
            }
            tokio::select! {
                biased;
                () = self.shutdown.wait() => return Ok(None),
                () = tokio::time::sleep(PLACE_LOOK_EVERY) => {}
            }
        }
    }

    fn signer(
        &self,
        data_center: DataCenterId,
        metrics: &SignMetrics,
    ) -> Result<(Arc<Router>, Arc<SignService>), ProcessError> {
        let clock = self.env.clock.clone();
        let env = match &self.distances {
            Some(distances) => {
                let net = DistantNet::new(self.env.net.clone(), distances.clone(), clock.clone());
                Env { net: Arc::new(net), ..self.env.clone() }
            }
            None => self.env.clone(),
        };
        let glue = Glue::new(self.directory.clone(), self.keyring.clone(), self.conf.staleness());
        let glue = Arc::new(glue);
        let times = RouterConfig {
            deadline: self.conf.router.deadline.as_duration(),
            attempt_timeout: self.conf.router.attempt.as_duration(),
            ..RouterConfig::default()
        };
        let me = self.directory.me().clone();
        let place = (me.clone(), data_center.clone());
        let router = Router::new(times, place, self.tls.clone(), env, glue.clone(), metrics.clone());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let service = SignService::new(SignParts {
            me,
            data_center,
            records: glue.clone(),
            keys: glue,
            signer: Arc::new(Signer::start(cores, clock.clone(), metrics).map_err(failed)?),
            router: router.clone(),
            rates: Rates::new(SignRates::default(), clock.clone()),
            uids: users(&self.conf.local.allow_uids),
            clock,
            metrics: metrics.clone(),
            shutdown: self.shutdown.clone(),
        });
        Ok((router, service))
    }
}
