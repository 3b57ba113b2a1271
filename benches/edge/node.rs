//! A node in a process of its own: the edge node's signer, router and servers, with records and keys that it is given.
//!
//! It is asked one JSON object a line. What it lacks of an edge node is the store and the agent's decryptions; what a
//! terminator asks of the agent, certificates by name and whether it is there, it answers itself.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cinnabar_authority_api::{CertId, MachineId, ZoneId};
use cinnabar_daemon::{Env, Shutdown, telemetry};
use cinnabar_edge::directory::{CertRef, CertView, Holder, Holders, MachineView};
use cinnabar_edge::distance::{Distances, DistantNet};
use cinnabar_edge::router::{Peers, Router, RouterConfig};
use cinnabar_edge::server::rates::{Rates, SignRates};
use cinnabar_edge::server::sign::{Keys, Records, SignParts, SignService};
use cinnabar_edge::server::{serve_local, serve_peers, signer};
use cinnabar_edge::signer::{SignMetrics, Signer, SigningKey};
use cinnabar_edge_api::Refusal;
use cinnabar_edge_api::client::EdgeClient;
use cinnabar_edge_api::proto::agent_server::{Agent, AgentServer};
use cinnabar_edge_api::proto::{self, Certificate, CertificatesRequest, CertificatesResponse};
use cinnabar_edge_api::refusal::RefusalCode;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::Fallible;
use crate::child::Helper;
use crate::machine::cpus;
use crate::material::{FAR, Material};

/// Signatures a second that no benchmark reaches.
const UNBOUND: u32 = 1_000_000_000;

/// Longest wait for a connection to the other node.
const CONNECTED_MAX: Duration = Duration::from_secs(20);

/// A node, as the benchmark sees it.
pub struct Node {
    helper: Helper,
    /// Of its signer, for peers.
    pub address: String,
    /// Its Unix socket.
    pub socket: PathBuf,
}

impl Node {
    /// Starts one; it holds the keys that are its own in [`crate::material::CUSTOMERS`].
    pub async fn start(material: &Material, name: &str) -> Fallible<Self> {
        let helper = Helper::start()?;
        let answer = helper.ask(json!({ "start": name, "folder": material.folder })).await?;
        let text = |field: &str| answer[field].as_str().map(str::to_owned).ok_or("an answer without a place");
        Ok(Self { address: text("address")?, socket: text("socket")?.into(), helper })
    }

    /// Says where the other node is, and how far, in microseconds; returns once it is connected and measured.
    pub async fn knows(&self, other: &Self, round_trip_us: u32) -> Fallible<()> {
        let question = json!({ "far": other.address, "round_trip_us": round_trip_us });
        self.helper.ask(question).await.map(drop)
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> EdgeClient {
        EdgeClient::new(&self.socket)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.helper.id()
    }
}

// === inside the process ===

/// Answers questions until there are no more.
pub fn serve() -> Fallible<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(cpus()).enable_all().build()?;
    let mut running = None;
    for line in std::io::stdin().lock().lines() {
        let question: Value = serde_json::from_str(&line?)?;
        let answer = answer(&runtime, &mut running, &question);
        let answer = answer.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}

fn answer(runtime: &Runtime, running: &mut Option<Inside>, question: &Value) -> Fallible<Value> {
    let text = |field: &str| question[field].as_str().ok_or(format!("{field} is missing"));
    if let Ok(name) = text("start") {
        let material = Material::load(Path::new(text("folder")?))?;
        let inside = runtime.block_on(async { Inside::start(&material, name) })?;
        let answer = json!({ "address": inside.address, "socket": inside.socket });
        *running = Some(inside);
        return Ok(answer);
    }
    let inside = running.as_ref().ok_or("not started")?;
    let micros = question["round_trip_us"].as_u64().ok_or("round_trip_us is missing")?;
    runtime.block_on(inside.knows(text("far")?, u32::try_from(micros)?))?;
    Ok(json!({}))
}

/// A running node.
struct Inside {
    address: String,
    socket: PathBuf,
    facts: Arc<Facts>,
    router: Arc<Router>,
    distances: Arc<Distances>,
}

impl Inside {
    fn start(material: &Material, name: &str) -> Fallible<Self> {
        let shutdown = Shutdown::new();
        // As a node counts: before anything takes its handles.
        telemetry::install_metrics(&shutdown)?;
        let (system, metrics) = (Env::system(), SignMetrics::new());
        let distances = Arc::new(Distances::default());
        let net = Arc::new(DistantNet::new(system.net.clone(), distances.clone(), system.clock.clone()));
        let env = Env { net, ..system };
        let held = material.customers.iter().filter(|customer| customer.held_by == name);
        let facts = Arc::new(Facts {
            certs: material.certs()?,
            machines: material.machines()?,
            holders: RwLock::default(),
            keys: held.map(|held| Ok((held.shown.id.parse()?, held.key.clone()))).collect::<Fallible<_>>()?,
        });
        let (me, data_center, tls) = (name.parse::<MachineId>()?, name.parse()?, material.tls(name)?);
        let who = (me.clone(), data_center);
        let times = RouterConfig::default();
        let router = Router::new(times, who.clone(), tls.clone(), env.clone(), facts.clone(), metrics.clone());
        let service = SignService::new(SignParts {
            me,
            data_center: who.1,
            records: facts.clone(),
            keys: facts.clone(),
            signer: Arc::new(Signer::start(cpus(), env.clock.clone(), &metrics)?),
            router: router.clone(),
            // A benchmark is one peer with one key: the bounds of one would be what it measures.
            rates: Rates::new(
                SignRates { peer_per_second: UNBOUND, zone_per_second: UNBOUND, key_per_second: UNBOUND },
                env.clock.clone(),
            ),
            uids: vec![rustix::process::getuid().as_raw()],
            clock: env.clock.clone(),
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
        });
        let listener = env.net.listen(([127, 0, 0, 1], 0).into())?;
        let address = listener.local_addr()?.to_string();
        tokio::spawn(serve_peers(service.clone(), tls, listener, metrics.clone(), shutdown.clone()));
        let socket = material.folder.join(format!("{name}-{}.sock", std::process::id()));
        let shown = material.customers.iter().map(|customer| (customer.hostname, customer.shown.clone())).collect();
        let routes = Routes::new(signer(service)).add_service(AgentServer::new(Names { me: name.to_owned(), shown }));
        tokio::spawn(serve_local(routes, UnixListener::bind(&socket)?, metrics, shutdown.clone()));
        tokio::spawn(router.clone().run(shutdown));
        Ok(Self { address, socket, facts, router, distances })
    }

    async fn knows(&self, far: &str, round_trip_us: u32) -> Fallible<()> {
        let data_center: cinnabar_authority_api::DataCenterId = FAR.parse()?;
        self.distances.place(far, data_center.clone())?;
        self.distances.set(data_center.clone(), round_trip_us)?;
        let holder = Holder { machine: FAR.parse()?, address: far.to_owned() };
        let holders = Holders { data_centers: [(data_center.clone(), vec![holder])].into() };
        *self.facts.holders.write().map_err(|_| "poisoned")? = Arc::new(holders);
        let measured = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let trip = self.router.round_trips().get(&data_center).copied();
                // What was measured before the distance changed fades.
                let near = trip.is_some_and(|trip| trip.abs_diff(round_trip_us) < 5_000 + round_trip_us / 5);
                if near && self.router.health(&data_center).healthy > 0 {
                    return;
                }
            }
        };
        Ok(tokio::time::timeout(CONNECTED_MAX, measured).await.map_err(|_| "the nodes do not reach each other")?)
    }
}

/// Records and keys.
struct Facts {
    certs: HashMap<CertId, CertRef>,
    machines: HashMap<MachineId, Arc<MachineView>>,
    keys: HashMap<CertId, Arc<SigningKey>>,
    holders: RwLock<Arc<Holders>>,
}

impl Records for Facts {
    fn cert(&self, _: &ZoneId, id: &CertId) -> Result<CertRef, Refusal> {
        self.certs.get(id).cloned().ok_or_else(|| Refusal::new(RefusalCode::UnknownCertificate, "none"))
    }

    fn machine(&self, id: &MachineId) -> Option<Arc<MachineView>> {
        self.machines.get(id).cloned()
    }

    fn is_revoked(&self, _: &MachineId) -> bool {
        false
    }

    fn holders(&self, _: &CertView) -> Arc<Holders> {
        self.holders.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn may_sign_local(&self) -> Result<(), Refusal> {
        Ok(())
    }

    fn may_sign_for_others(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Peers for Facts {
    fn all_peers(&self) -> Arc<Holders> {
        self.holders.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Keys for Facts {
    fn key<'a>(&'a self, cert: &'a CertRef) -> BoxFuture<'a, Result<Arc<SigningKey>, Refusal>> {
        let held = self.keys.get(&cert.cert.id).cloned();
        Box::pin(async { held.ok_or_else(|| Refusal::new(RefusalCode::NotPermitted, "not held here")) })
    }
}

/// What a terminator asks beside signatures.
struct Names {
    me: String,
    shown: HashMap<&'static str, Certificate>,
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("a node of the benchmark"))
}

#[tonic::async_trait]
impl Agent for Names {
    async fn certificates(
        &self,
        request: Request<CertificatesRequest>,
    ) -> Result<Response<CertificatesResponse>, Status> {
        let found = self.shown.get(request.into_inner().hostname.as_str());
        Ok(Response::new(CertificatesResponse { certificates: found.into_iter().cloned().collect() }))
    }

    async fn secret(&self, _: Request<proto::SecretRequest>) -> Result<Response<proto::SecretResponse>, Status> {
        not_here()
    }

    async fn explain(&self, _: Request<proto::ExplainRequest>) -> Result<Response<proto::ExplainResponse>, Status> {
        not_here()
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusResponse>, Status> {
        let (machine, data_center) = (self.me.clone(), self.me.clone());
        Ok(Response::new(proto::StatusResponse { machine, data_center, ..Default::default() }))
    }

    async fn set_distance(
        &self,
        _: Request<proto::SetDistanceRequest>,
    ) -> Result<Response<proto::SetDistanceResponse>, Status> {
        not_here()
    }
}
