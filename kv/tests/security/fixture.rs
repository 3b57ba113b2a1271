//! A certificate authority, voters and replicas of one cluster in this process, and the waits of tests.
//!
//! Every node has its own folder and its own ephemeral port. All run on the test's thread, so that a recorder set for
//! that thread counts this test alone.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::pki::{CertificateAuthority, Validity};
use cinnabar_daemon::{Env, Identity, Role, Shutdown, Tls, TlsFiles};
use cinnabar_kv::limits::{CACHE_BYTES_DEFAULT, ENGINE_CACHE_BYTES_DEFAULT};
use cinnabar_kv::local::{CheckpointFile, Local, LocalOptions};
use cinnabar_kv::log::{Log, LogOptions, LogPoint};
use cinnabar_kv::metrics::Metrics;
use cinnabar_kv::milestones::Milestones;
use cinnabar_kv::node::{Core, Node, NodeParts};
use cinnabar_kv::raft::Timing;
use cinnabar_kv::replica::{Parts, Replica, TailEnd};
use cinnabar_kv::server;
use cinnabar_kv::snapshot_files::SnapshotFiles;
use cinnabar_kv::state::Point;
use cinnabar_kv_api::limits::MESSAGE_BYTES_MAX;
use cinnabar_kv_api::proto::cluster_client::ClusterClient;
use cinnabar_kv_api::proto::kv_client::KvClient;
use cinnabar_kv_api::proto::replication_client::ReplicationClient;
use cinnabar_kv_api::proto::{InitRequest, TailRequest};
use cinnabar_kv_api::{Client, ClientConfig, Frame, Key, Op, SignedCheckpoint, StoreId, Target, WriteOutcome};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// Longest wait for anything that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The cluster of every fixture.
pub const CLUSTER: &str = "prod";
/// Quick, since everything is in one process.
const TIMING: Timing = Timing { heartbeat_ms: 100, election_ms_min: 400, election_ms_max: 800 };

/// Waits for a condition.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Bounds a wait.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// An authority and a folder for what it issues.
pub struct Pki {
    pub authority: CertificateAuthority,
    pub folder: TempDir,
    pub env: Env,
}

impl Pki {
    pub fn new() -> Self {
        Self::of(CLUSTER)
    }

    /// An authority whose certificate began to hold a year ago, so that it can have issued one that is over.
    pub fn of(cluster: &str) -> Self {
        let env = Env::system();
        let now_s = env.clock.unix_ms() / 1000;
        let validity = Validity { not_before_s: now_s - 400 * 86_400, not_after_s: now_s + 400 * 86_400 };
        let authority = CertificateAuthority::create(&cluster.parse().unwrap(), validity, &*env.rng).unwrap();
        let folder = tempfile::tempdir().unwrap();
        authority.write(&folder.path().join("ca.pem"), &folder.path().join("ca.key"), false).unwrap();
        Self { authority, folder, env }
    }

    fn identity(&self, role: Role, name: &str) -> Identity {
        format!("spiffe://{}/{role}/{name}", self.authority.cluster()).parse().unwrap()
    }

    fn valid(&self) -> Validity {
        Validity::days(1, self.env.clock.unix_ms())
    }

    pub fn issue_for(&self, role: Role, name: &str, validity: Validity) -> Credentials {
        let issued = self.authority.issue(&self.identity(role, name), &[], validity, &*self.env.rng).unwrap();
        Credentials { certificate_pem: issued.certificate_pem.clone(), key_pem: issued.key_pem.to_string() }
    }

    pub fn issue(&self, role: Role, name: &str) -> Credentials {
        self.issue_for(role, name, self.valid())
    }

    /// One that ended yesterday.
    pub fn issue_expired(&self, role: Role, name: &str) -> Credentials {
        let now_s = self.env.clock.unix_ms() / 1000;
        let validity = Validity { not_before_s: now_s - 3 * 86_400, not_after_s: now_s - 86_400 };
        self.issue_for(role, name, validity)
    }

    /// Writes a new certificate where [`Pki::tls`] reads it.
    pub fn place(&self, role: Role, name: &str) -> TlsFiles {
        let path = |end: &str| self.folder.path().join(format!("{role}-{name}.{end}"));
        let issued = self.authority.issue(&self.identity(role, name), &[], self.valid(), &*self.env.rng).unwrap();
        issued.write(&path("pem"), &path("key"), true).unwrap();
        TlsFiles { ca: self.folder.path().join("ca.pem"), cert: path("pem"), key: path("key") }
    }

    pub fn tls(&self, role: Role, name: &str) -> Arc<Tls> {
        let files = self.place(role, name);
        Tls::load(&files, self.authority.cluster(), self.env.clock.clone()).unwrap()
    }

    pub fn channel(&self, role: Role, address: &str) -> Channel {
        let tls = self.tls(role, &format!("caller-{role}"));
        tls.channel(address, &[Role::Voter, Role::Replica], None, self.env.net.clone())
    }

    pub fn kv(&self, role: Role, address: &str) -> KvClient<Channel> {
        KvClient::new(self.channel(role, address)).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn replication(&self, address: &str) -> ReplicationClient<Channel> {
        ReplicationClient::new(self.channel(Role::Replica, address)).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn client(&self, role: Role, address: &str) -> Client {
        let tls = self.tls(role, &format!("client-{role}"));
        let target = Target::Tcp { addresses: vec![address.to_owned()], tls };
        Client::new(ClientConfig { target, env: self.env.clone(), deadline: PATIENCE }).unwrap()
    }
}

/// Those of a replica, but for the end of the process: this one is everybody's.
fn log_options() -> LogOptions {
    LogOptions {
        sync_appends: false,
        durable: 0,
        on_fatal: Box::new(|error| eprintln!("the log of a replica failed: {error}")),
        on_sync: Box::new(|sync| sync()),
    }
}

/// What one test counts; made before the nodes whose counters it reads.
pub struct Counted {
    handle: PrometheusHandle,
    _recorder: metrics::LocalRecorderGuard<'static>,
}

impl Counted {
    /// Counts everything on this thread until it is dropped.
    pub fn here() -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let handle = recorder.handle();
        Self { handle, _recorder: metrics::set_default_local_recorder(recorder) }
    }

    /// The value of a metric, written as in the exposition: `name` or `name{label="value"}`.
    pub fn value(&self, metric: &str) -> f64 {
        let rendered = self.handle.render();
        let line = rendered.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {metric} in {rendered}")).parse().unwrap()
    }

    /// Frames that came to this result.
    pub fn frames(&self, result: &str) -> f64 {
        self.value(&format!("cinnabar_replica_frames_total{{result=\"{result}\"}}"))
    }
}

thread_local! {
    static FOLDERS: RefCell<Vec<TempDir>> = const { RefCell::new(Vec::new()) };
}

/// A folder that stays until the test's thread ends, and so after its runtime: a voter whose folder goes while it is
/// still writing ends the process, as it must, and with it everybody's tests.
fn lasting_folder() -> PathBuf {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    FOLDERS.with_borrow_mut(|folders| folders.push(folder));
    path
}

/// A node with its servers.
pub struct TestNode {
    pub node: Arc<Node>,
    pub address: String,
    pub socket: PathBuf,
    pub dir: PathBuf,
    pub tls: Arc<Tls>,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.node.shutdown.trigger();
    }
}

impl TestNode {
    /// A node without a copy: a voter before it is assigned.
    pub fn start(pki: &Pki, role: Role, name: &str) -> Self {
        let tls = pki.tls(role, name);
        let dir = lasting_folder();
        let listener = pki.env.net.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let socket = dir.join("local.sock");
        let node = Node::new(NodeParts {
            env: pki.env.clone(),
            tls: tls.clone(),
            metrics: Metrics::new(),
            shutdown: Shutdown::new(),
            advertise: address.clone(),
            version: "test".to_owned(),
            data_dir: dir.join("data"),
            in_memory: false,
            cache_bytes: CACHE_BYTES_DEFAULT,
            engine_cache_bytes: ENGINE_CACHE_BYTES_DEFAULT,
            timing: TIMING,
        })
        .unwrap();
        let (served, stop) = (node.clone(), node.shutdown.clone());
        node.shutdown.spawn(async move { server::serve_tcp(served, listener, stop).await.unwrap() });
        let unix = server::bind_unix(&socket).unwrap();
        let (served, stop) = (node.clone(), node.shutdown.clone());
        node.shutdown.spawn(async move { server::serve_unix(served, unix, stop).await.unwrap() });
        Self { node, address, socket, dir, tls }
    }

    pub fn local(&self) -> &Arc<Local> {
        &self.node.core().expect("it has a copy").local
    }

    pub fn point(&self) -> Arc<Point> {
        self.local().point()
    }

    pub fn store_id(&self) -> StoreId {
        self.point().store.as_ref().expect("the store has its name").1
    }
}

/// A cluster of unassigned voters that were made one by an operator's init.
pub async fn cluster(pki: &Pki, names: &[&str]) -> Vec<TestNode> {
    let nodes: Vec<_> = names.iter().map(|name| TestNode::start(pki, Role::Voter, name)).collect();
    let addresses = nodes.iter().map(|node| node.address.clone()).collect();
    let mut operator = ClusterClient::new(pki.channel(Role::Operator, &nodes[0].address));
    soon("the cluster", operator.init(InitRequest { addresses })).await.unwrap();
    for node in &nodes {
        until("the store has its name", || node.node.core().is_some_and(|core| core.local.point().store.is_some()))
            .await;
    }
    nodes
}

/// A cluster of one voter.
pub async fn voter(pki: &Pki, name: &str) -> TestNode {
    cluster(pki, &[name]).await.remove(0)
}

pub fn put(key: &str, value: impl Into<Bytes>) -> Op {
    Op::Put { key: Key::new(key.as_bytes().to_vec()).unwrap(), value: value.into() }
}

/// Writes a record; gives its index.
pub async fn write(client: &Client, key: &str, value: impl Into<Bytes>) -> u64 {
    match client.write(Vec::new(), vec![put(key, value)]).await.unwrap() {
        WriteOutcome::Written { index } => index,
        unmet @ WriteOutcome::Unmet { .. } => panic!("{unmet:?}"),
    }
}

/// Writes `count` records, one entry each.
pub async fn write_many(client: &Client, prefix: &str, count: usize) -> u64 {
    let mut last = 0;
    for n in 0..count {
        last = write(client, &format!("{prefix}/{n:04}"), format!("value {n} of {prefix}")).await;
    }
    last
}

/// Follows a node from the start and keeps every frame that it sends, heartbeats too.
pub struct Recording {
    frames: Arc<parking_lot::Mutex<Vec<Bytes>>>,
    task: JoinHandle<()>,
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Recording {
    pub async fn start(pki: &Pki, address: &str) -> Self {
        let mut client = pki.replication(address);
        let mut stream = soon("a tail", client.tail(TailRequest::default())).await.unwrap().into_inner();
        let frames = Arc::<parking_lot::Mutex<Vec<Bytes>>>::default();
        let kept = frames.clone();
        let task = tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                kept.lock().push(message.frame);
            }
        });
        Self { frames, task }
    }

    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().iter().map(|bytes| Frame::decode(bytes).unwrap()).collect()
    }

    /// The frames that bring entries, once they reach an index.
    pub async fn up_to(&self, index: u64) -> Vec<Frame> {
        until("the recorded frames", || self.frames().iter().any(|frame| frame.last_index() >= index)).await;
        self.frames().into_iter().filter(|frame| !frame.entries.is_empty()).collect()
    }

    /// A heartbeat at an index.
    pub async fn heartbeat(&self, index: u64) -> Frame {
        let at = |frame: &Frame| frame.entries.is_empty() && frame.last_index() == index;
        until("a recorded heartbeat", || self.frames().iter().any(at)).await;
        self.frames().into_iter().find(at).expect("just seen")
    }
}

/// Where a replica keeps its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    InMemory,
    OnDisk,
}

/// A replica that is driven by hand or follows upstreams.
pub struct TestReplica {
    pub replica: Arc<Replica>,
    pub local: Arc<Local>,
    pub shutdown: Shutdown,
    pub name: String,
    running: Option<JoinHandle<Result<(), TailEnd>>>,
}

impl Drop for TestReplica {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

/// Everything that an attack must leave as it was.
#[derive(Debug, PartialEq)]
pub struct Traces {
    point: Point,
    log: LogPoint,
    purged: LogPoint,
    follows: Option<StoreId>,
    passes_on: Option<SignedCheckpoint>,
    wrong: bool,
    serves: bool,
}

impl TestReplica {
    pub fn open(pki: &Pki, name: &str, dir: &Path, keeps: Keeps, upstreams: &[&str], follow: Option<StoreId>) -> Self {
        // A store that was just closed lets go of its folder when its last thread has ended.
        for _ in 0..500 {
            match Self::try_open(pki, name, dir, keeps, upstreams, follow) {
                Ok(replica) => return replica,
                Err(error) if error.to_string().contains("lock") => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the folder stays locked");
    }

    fn try_open(
        pki: &Pki,
        name: &str,
        dir: &Path,
        keeps: Keeps,
        upstreams: &[&str],
        follow: Option<StoreId>,
    ) -> std::io::Result<Self> {
        let metrics = Metrics::new();
        let on_disk = keeps == Keeps::OnDisk;
        let local = Local::open(LocalOptions { dir: on_disk.then(|| dir.join("state")), ..LocalOptions::default() });
        let local = local.map_err(std::io::Error::other)?;
        let log_dir = dir.join("log");
        let log = Log::open(&log_dir, log_options()).map_err(std::io::Error::other)?;
        let milestones = Arc::new(Milestones::open(Some(&log_dir), log.last().index)?);
        let replica = Replica::open(Parts {
            local: local.clone(),
            log,
            milestones,
            fetch_dir: dir.join("fetch"),
            checkpoint_file: CheckpointFile::new(on_disk.then(|| dir.to_owned())),
            follow,
            upstreams: upstreams.iter().map(ToString::to_string).collect(),
            env: pki.env.clone(),
            tls: pki.tls(Role::Replica, name),
            metrics,
        })?;
        let (shutdown, name) = (Shutdown::new(), name.to_owned());
        Ok(Self { replica, local, shutdown, name, running: None })
    }

    /// Has it follow its upstreams.
    pub fn run(&mut self) {
        self.running = Some(tokio::spawn(self.replica.clone().run(self.shutdown.clone())));
    }

    /// Stops it and lets go of its folder.
    pub async fn stop(mut self) {
        self.local.make_durable().unwrap();
        self.shutdown.drain().await;
        if let Some(running) = self.running.take() {
            running.await.unwrap().unwrap();
        }
    }

    pub fn index(&self) -> u64 {
        self.local.applied_index()
    }

    pub fn traces(&self) -> Traces {
        let point = Point::clone(&self.local.point());
        Traces {
            log: self.replica.log().last(),
            purged: self.replica.log().purged(),
            follows: self.replica.store_id(),
            passes_on: self.replica.witness(&point),
            wrong: self.local.is_wrong(),
            serves: self.local.check_serving().is_ok(),
            point,
        }
    }

    pub fn value(&self, key: &str) -> Option<Bytes> {
        self.local.get(key.as_bytes()).unwrap().record.map(|record| record.value)
    }

    /// Waits until its state is another node's.
    pub async fn reaches(&self, node: &TestNode) {
        let same = || {
            let (ours, theirs) = (self.local.point(), node.point());
            ours.applied == theirs.applied && ours.state_hash == theirs.state_hash
        };
        let waiting = async {
            while !same() || self.local.check_serving().is_err() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(reached.is_ok(), "at {} of {}: {:?}", self.index(), node.point().applied.index, self.upstreams());
    }

    /// What became of each upstream.
    pub fn upstreams(&self) -> Vec<(bool, String)> {
        let upstreams = self.replica.upstreams().describe();
        upstreams.into_iter().map(|upstream| (upstream.current, upstream.problem)).collect()
    }

    /// Gives it servers, so that others can follow it.
    pub async fn serve(&self, pki: &Pki) -> TestNode {
        let served = TestNode::start(pki, Role::Replica, &self.name);
        let witness = self.replica.clone();
        let snapshots = SnapshotFiles::open(
            served.dir.join("snapshots"),
            self.local.clone(),
            pki.env.clock.clone(),
            Box::new(move |point| witness.witness(point)),
        )
        .unwrap();
        served.node.set_core(Core {
            local: self.local.clone(),
            feed: self.replica.feed().clone(),
            snapshots,
            log: self.replica.log().clone(),
            voter: None,
            replica: Some(self.replica.clone()),
        });
        served
    }
}
