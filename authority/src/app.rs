//! The authority's process, from its configuration to its exit: the only place that knows all of its parts.
//!
//! Order of a start: memory, configuration, identity, secrets, ports, the store, what the store lacks, servers. Order of
//! an end: not ready, nothing new taken, what is in flight finished, secrets wiped.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cinnabar_abe::SecretBytes;
use cinnabar_authority_api::records::{Mode, SchemaRecord, State, System};
use cinnabar_authority_api::{Generation, Schema, SchemaVersion, Verifier};
use cinnabar_daemon::health::{self, Health};
use cinnabar_daemon::pki::CertificateAuthority;
use cinnabar_daemon::shutdown::Drained;
use cinnabar_daemon::{
    Acceptor, AcceptorLimits, Admin, Env, Hangup, ProcessError, Role, Shutdown, Tls, file, memory, telemetry,
};
use cinnabar_kv_api::{Client, ClientConfig, Target};
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower::ServiceBuilder;
use tower::util::MapRequest;

use crate::access::guard;
use crate::audit::Audit;
use crate::config::{AuthorityConfig, VOTERS_MAX};
use crate::control::Control;
use crate::custody::{Custody, Opener, Status};
use crate::directory::Directory;
use crate::follow::{Follower, Progress};
use crate::inventory::{INVENTORY_BYTES_MAX, Inventory};
use crate::machine_service::MachineService;
use crate::machines::{self, Machines};
use crate::policies::Policies;
use crate::preview::RoundTrips;
use crate::publisher::{Plan, PublishError, Publisher};
use crate::reports::Reports;
use crate::server::https::{self, Https, HttpsFiles};
use crate::server::{self, Api};
use crate::uploads::Uploads;
use crate::zones::Zones;
use crate::{head, metrics};

/// Name of the audit log in the data folder.
pub const AUDIT_FILE: &str = "audit.log";
/// Largest schema file, in bytes.
const SCHEMA_BYTES_MAX: usize = 1024 * 1024;
/// Longest that one call of the store may take, retries included.
const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// Longest wait for the store at a start before it is said.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// How often the first head is looked for.
const HEAD_POLL: Duration = Duration::from_millis(20);
/// Oldest word of the store with which the authority is ready.
const STORE_SILENT_MAX: Duration = Duration::from_secs(10);

fn config(error: impl std::fmt::Display) -> ProcessError {
    ProcessError::config(error)
}

fn failed(error: impl std::fmt::Display) -> ProcessError {
    ProcessError::failed(error)
}

/// What runs, for the servers.
pub struct App {
    /// Writes and reads records.
    pub publisher: Arc<Publisher>,
    /// Decides about policies.
    pub policies: Arc<Policies>,
    /// Takes uploads.
    pub uploads: Arc<Uploads>,
    /// The sealed secrets.
    pub custody: Arc<Custody>,
    /// The audit log.
    pub audit: Arc<Audit>,
    /// The inventory in use.
    pub inventory: Arc<ArcSwap<Inventory>>,
    /// Round trips that machines reported.
    pub measured: Arc<ArcSwap<RoundTrips>>,
    /// Who we are.
    pub tls: Arc<Tls>,
    /// The seams.
    pub env: Env,
    conf: AuthorityConfig,
}

/// Reads schema and inventory as the configuration names them.
///
/// # Errors
/// [`ProcessError::config`], naming the file and the fault.
pub fn read_inventory(conf: &AuthorityConfig) -> Result<(Schema, Inventory), ProcessError> {
    let text = |path: &Path, most| {
        let bytes = file::read_bounded(path, most).map_err(|error| config(format!("{}: {error}", path.display())))?;
        String::from_utf8(bytes).map_err(|_| config(format!("{}: not UTF-8", path.display())))
    };
    let schema = match &conf.schema {
        None => Schema::default(),
        Some(path) => Schema::from_toml(&text(path, SCHEMA_BYTES_MAX)?)
            .map_err(|error| config(format!("{}: {error}", path.display())))?,
    };
    let inventory = Inventory::from_toml(&text(&conf.inventory, INVENTORY_BYTES_MAX)?, &schema, &conf.cluster)
        .map_err(|error| config(format!("{}: {error}", conf.inventory.display())))?;
    Ok((schema, inventory))
}

/// Serves until it is told to stop. `passphrase` opens the CA and the record-signing key.
///
/// # Errors
/// [`ProcessError`] with its exit code.
pub async fn serve(conf: AuthorityConfig, passphrase: SecretBytes, version: &str) -> Result<(), ProcessError> {
    telemetry::init_log(conf.log.format, &conf.log.filter).map_err(config)?;
    protect_memory();
    if conf.voters.is_empty() || conf.voters.len() > VOTERS_MAX {
        return Err(config(format!("voters: name 1 to {VOTERS_MAX}")));
    }
    let env = Env::system();
    let mut hangup = Hangup::new().map_err(failed)?;
    let asked = Shutdown::from_signals().map_err(failed)?;
    let shutdown = Shutdown::new();
    // Before anything is counted: what was counted earlier, TLS among it, would be lost.
    let prometheus = telemetry::install_metrics(&shutdown).map_err(failed)?;
    let tls = Tls::load(&conf.tls, &conf.cluster, env.clock.clone()).map_err(config)?;
    if tls.identity().role != Role::Authority {
        return Err(config(format!("tls.cert is of {}; role authority is needed", tls.identity())));
    }
    let (schema, inventory) = read_inventory(&conf)?;
    let custody = Arc::new(Custody::open(&conf.data_dir, env.clock.clone()).map_err(config)?);
    if *custody.cluster() != conf.cluster {
        return Err(config(format!("cluster: is {}, the keys in data_dir are of {}", conf.cluster, custody.cluster())));
    }
    let audit = Audit::open(&conf.data_dir.join(AUDIT_FILE), &conf.cluster, env.clock.clone()).map_err(failed)?;
    let audit = Arc::new(audit);
    let records = custody.records(Opener::Passphrase(&passphrase)).map_err(failed)?;
    metrics::describe();
    let health = Health::new(asked.clone());
    // Not ready from the first probe on, until callers are served.
    let (serving, seen) = watch::channel(Err("starting".to_owned()));
    health.watch_ready("serving", seen);
    if let Some(address) = conf.admin_listen {
        let admin = Admin::bind(address, &*env.net).map_err(config)?;
        tokio::spawn(admin.serve(health::router(health.clone(), prometheus)));
    }
    let control = Control::bind(&conf.data_dir, custody.clone(), audit.clone(), env.clone()).map_err(failed)?;
    shutdown.spawn(control.serve(shutdown.clone()));
    shutdown.spawn(tls.clone().watch(shutdown.clone()));

    let ca = Arc::new(custody.ca(Opener::Passphrase(&passphrase)).map_err(failed)?);
    drop(passphrase);
    let ports = Ports::bind(&conf, &env)?;
    let https = ports.customers.as_ref().map(|(_, https)| https.clone());
    if let Some(https) = https.clone() {
        shutdown.spawn(https.watch(shutdown.clone()));
    }
    let app = assemble(conf, env, tls, custody, audit, inventory, records)?;
    let progress = follow(&app, &shutdown);
    check_health(&app, &health, progress.clone());
    let bootstrap = async {
        wait_for_store(progress.clone()).await;
        put_what_is_missing(&app, &schema).await
    };
    tokio::select! {
        done = bootstrap => done?,
        () = asked.wait() => return finish(shutdown).await,
    }
    spawn_watchers(&app, progress, &shutdown);
    tokio::select! {
        () = first_head(&app) => {},
        () = asked.wait() => return finish(shutdown).await,
    }
    serve_callers(&app, ca, ports, &shutdown)?;
    let _ = serving.send_replace(Ok(String::new()));
    tracing::info!(version, cluster = %app.conf.cluster, "the authority serves");
    until_asked(&app, &asked, &mut hangup, https).await;
    finish(shutdown).await
}

fn protect_memory() {
    let protected = memory::protect();
    if protected.is_complete() {
        tracing::info!(%protected, "memory");
    } else {
        tracing::warn!(%protected, "memory is protected in part only");
    }
}

/// Goes on until it is asked to stop; a SIGHUP has the files read again.
async fn until_asked(app: &App, asked: &Shutdown, hangup: &mut Hangup, https: Option<Arc<Https>>) {
    loop {
        tokio::select! {
            () = asked.wait() => return,
            () = hangup.recv() => {
                reload(app).await;
                if let Some(https) = https.clone() {
                    https.look(&mut String::new()).await;
                }
            }
        }
    }
}

/// Waits until a head stands in the store: changes of zones need one.
async fn first_head(app: &App) {
    while app.publisher.directory().read().head().is_none() {
        tokio::time::sleep(HEAD_POLL).await;
    }
}

/// Signs heads and keeps the gauges, until the shutdown.
fn spawn_watchers(app: &Arc<App>, progress: watch::Receiver<Option<Progress>>, shutdown: &Shutdown) {
    let signed = head::run(app.publisher.clone(), progress, app.env.clone());
    let looked = metrics::run(app.clone());
    let stop = shutdown.clone();
    shutdown.spawn(async move {
        tokio::select! {
            () = signed => {}
            () = looked => {}
            () = stop.wait() => {}
        }
    });
}

fn assemble(
    conf: AuthorityConfig,
    env: Env,
    tls: Arc<Tls>,
    custody: Arc<Custody>,
    audit: Arc<Audit>,
    inventory: Inventory,
    records: cinnabar_abe::signature::RecordSigningKey,
) -> Result<Arc<App>, ProcessError> {
    let cluster = conf.cluster.clone();
    let target = Target::Tcp { addresses: conf.voters.clone(), tls: tls.clone() };
    let client = Client::new(ClientConfig { target, env: env.clone(), deadline: STORE_DEADLINE }).map_err(failed)?;
    let verifier = Verifier::new(cluster.clone(), records.verifying_key());
    let directory = Arc::new(RwLock::new(Directory::new(verifier)));
    let publisher = Arc::new(Publisher::new(client, directory.clone(), cluster.clone(), records, env.clone()));
    let (inventory, measured) = (Arc::new(ArcSwap::from_pointee(inventory)), Arc::<ArcSwap<RoundTrips>>::default());
    let (rng, seen) = (env.rng.clone(), measured.clone());
    let policies = Arc::new(Policies::new(cluster.clone(), directory, inventory.clone(), seen, rng));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let uploads = Arc::new(Uploads {
        cluster,
        publisher: publisher.clone(),
        policies: policies.clone(),
        audit: audit.clone(),
        env: env.clone(),
        cores: Arc::new(Semaphore::new(cores)),
    });
    Ok(Arc::new(App { publisher, policies, uploads, custody, audit, inventory, measured, tls, env, conf }))
}

/// The ports, taken before anything else can fail.
struct Ports {
    operators: TcpListener,
    customers: Option<(TcpListener, Arc<Https>)>,
}

impl Ports {
    fn bind(conf: &AuthorityConfig, env: &Env) -> Result<Self, ProcessError> {
        let bound =
            |key: &str, address| env.net.listen(address).map_err(|error| config(format!("{key}: {address}: {error}")));
        let customers = conf.customers.as_ref().map(|customers| {
            let files = HttpsFiles { cert: customers.cert.clone(), key: customers.key.clone() };
            let tls = Https::load(files, env.clock.clone()).map_err(config)?;
            Ok::<_, ProcessError>((bound("customers.listen", customers.listen)?, tls))
        });
        Ok(Self { operators: bound("listen", conf.listen)?, customers: customers.transpose()? })
    }
}

/// Serves machines and operators on one port, customers on the other.
fn serve_callers(
    app: &Arc<App>,
    ca: Arc<CertificateAuthority>,
    ports: Ports,
    shutdown: &Shutdown,
) -> Result<(), ProcessError> {
    let machines = Machines::new(machines::Parts {
        publisher: app.publisher.clone(),
        inventory: app.inventory.clone(),
        custody: app.custody.clone(),
        ca,
        audit: app.audit.clone(),
        reports: Arc::new(Reports::new(app.env.clock.clone(), app.measured.clone())),
        env: app.env.clone(),
        cores: app.uploads.cores.clone(),
    });
    let machines = Arc::new(machines.map_err(|problem| failed(problem.detail()))?);
    let zones = Zones { publisher: app.publisher.clone(), audit: app.audit.clone(), env: app.env.clone() };
    let api = Api::new(app.uploads.clone(), Arc::new(zones), Some(machines.clone()));
    let router = server::router(api);
    if let Some((listener, tls)) = ports.customers {
        shutdown.spawn(https::serve_customers(listener, tls, router.clone(), shutdown.clone()));
    }
    let calls = ServiceBuilder::new().layer(guard()).service(MachineService::server(machines));
    let calls = MapRequest::new(calls, |request: axum::extract::Request| request.map(tonic::body::Body::new));
    let router = router.route_service("/cinnabar.authority.v1.Machine/{call}", calls);
    let acceptor = Acceptor::new(ports.operators, app.tls.clone(), AcceptorLimits::default());
    shutdown.spawn(https::serve_operators(acceptor, router, shutdown.clone()));
    Ok(())
}

fn follow(app: &Arc<App>, shutdown: &Shutdown) -> watch::Receiver<Option<Progress>> {
    let (progress, seen) = watch::channel(None);
    let follower = Follower {
        client: app.publisher.client().clone(),
        tls: app.tls.clone(),
        env: app.env.clone(),
        directory: app.publisher.directory().clone(),
        progress,
    };
    let stop = shutdown.clone();
    shutdown.spawn(async move {
        tokio::select! { () = follower.run() => {}, () = stop.wait() => {} }
    });
    seen
}

async fn wait_for_store(mut progress: watch::Receiver<Option<Progress>>) {
    let known = progress.wait_for(Option::is_some);
    tokio::pin!(known);
    loop {
        match tokio::time::timeout(STORE_PATIENCE, &mut known).await {
            Ok(_) => return,
            Err(_) => tracing::warn!("still waiting for a voter of the store"),
        }
    }
}

/// Puts generation 1 and the schema into a store that lacks them, and a schema that grew.
async fn put_what_is_missing(app: &App, schema: &Schema) -> Result<(), ProcessError> {
    let public = app.custody.system_public(Generation::FIRST).map_err(failed)?;
    let (mode, public_key) = (app.custody.mode(), bytes::Bytes::from(public.to_bytes()));
    let written = app.publisher.transact(|directory| {
        let mut plan = Plan::new();
        if directory.systems().is_empty() {
            let (generation, public_key, state) = (Generation::FIRST, public_key.clone(), State::Active);
            plan.put(System { generation, public_key, state, mode });
        }
        match directory.schema() {
            None => drop(plan.put(SchemaRecord { version: SchemaVersion::FIRST, schema: schema.clone() })),
            Some((_, old)) if old == schema => {}
            Some((version, old)) => {
                schema.extends(old).map_err(config)?;
                let version = version.next().ok_or_else(|| failed("schema: no version is left"))?;
                plan.put(SchemaRecord { version, schema: schema.clone() });
            }
        }
        Ok::<_, ProcessError>((plan, directory.mode()))
    });
    let (stored, index) = written.await?;
    if stored.is_some_and(|stored| stored != mode) {
        return Err(config("the store belongs to a system of another mode"));
    }
    if index > 0 {
        tracing::info!(index, demo = mode == Mode::Demo, "system and schema are in the store");
    }
    Ok(())
}

impl From<PublishError> for ProcessError {
    fn from(error: PublishError) -> Self {
        failed(error)
    }
}

/// Reads schema and inventory again; what does not fit changes nothing.
async fn reload(app: &App) {
    let read = read_inventory(&app.conf);
    let done = match read {
        Err(error) => Err(error),
        Ok((schema, inventory)) => {
            // The schema first: the inventory may name what only the new one knows.
            let put = put_what_is_missing(app, &schema).await;
            put.map(|()| app.inventory.store(Arc::new(inventory)))
        }
    };
    match done {
        Ok(()) => tracing::info!("inventory and schema were read again"),
        Err(error) => tracing::error!(%error, "inventory and schema stay as they were"),
    }
}

fn check_health(app: &Arc<App>, health: &Health, progress: watch::Receiver<Option<Progress>>) {
    let clock = app.env.clock.clone();
    health.check_ready("store", move || {
        let progress = progress.borrow();
        let found = progress.as_ref().ok_or("no voter was heard yet")?;
        let silent_ms = clock.unix_ms().saturating_sub(found.checkpoint.unix_ms);
        if u128::from(silent_ms) > STORE_SILENT_MAX.as_millis() {
            return Err(format!("the last word of a voter is {} s old", silent_ms / 1_000));
        }
        Ok(format!("at entry {}", found.checkpoint.index))
    });
    let custody = app.custody.clone();
    health.check_ready("system_keys", move || {
        Ok(match custody.status() {
            Status::Sealed => "sealed".to_owned(),
            Status::Unsealed { remaining, .. } => format!("unsealed for another {} s", remaining.as_secs()),
        })
    });
    let publisher = app.publisher.clone();
    health.check_ready("system", move || {
        let directory = publisher.directory().read();
        let active = directory.active_system().ok_or("no generation of the system is active")?;
        Ok(format!("generation {}", active.generation))
    });
}

async fn finish(shutdown: Shutdown) -> Result<(), ProcessError> {
    match shutdown.drain().await {
        Drained::Complete => Ok(()),
        Drained::TimedOut { left } => Err(failed(format!("{left} tasks did not end in time"))),
    }
}
