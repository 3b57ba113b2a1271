//! What tests build nodes of: real keys, signed records, certificates and sockets; the records' and keys' owners are small.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use bytes::Bytes;
use cinnabar_abe::Policy;
use cinnabar_abe::signature::RecordSigningKey;
use cinnabar_authority_api::keyspace::RecordKey;
use cinnabar_authority_api::records::{
    Cert, Content, Issued, KeyType, Machine, MachineState, PolicyIdField, PolicyRef, Signer as RecordSigner,
};
use cinnabar_authority_api::{
    CertId, Checked, DataCenterId, Generation, MachineId, PolicyKeyVersion, Verifier, ZoneId,
};
use cinnabar_daemon::env::{SystemClock, SystemRng};
use cinnabar_daemon::pki::{CertificateAuthority, Validity};
use cinnabar_daemon::{Clock, Env, Net, Role, Shutdown, Tls, TlsFiles};
use cinnabar_edge_api::client::EdgeClient;
use cinnabar_edge_api::limits::BUDGET_DEFAULT;
use cinnabar_edge_api::proto::Signature;
use cinnabar_edge_api::refusal::RefusalCode;
use cinnabar_edge_api::{Input, Refusal, Scheme, SignRequest};
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Channel;

use crate::directory::{CertRef, CertView, Holder, Holders, MachineView};
use crate::router::{Peers, Router, RouterConfig};
use crate::server::rates::{Rates, SignRates};
use crate::server::sign::{Keys, Records, SignParts, SignService};
use crate::server::{serve_local, serve_peers, signer};
use crate::signer::{SignMetrics, Signer, SigningKey};

/// Id of the certificate with a P-256 key.
pub const EC: &str = "0000000000000000000000000000000e";
/// Id of the one with an RSA key.
pub const RSA: &str = "0000000000000000000000000000000a";
/// What is signed.
pub const DIGEST: [u8; 32] = [7; 32];

pub fn digest() -> Digest {
    Digest::import_less_safe(&DIGEST, &SHA256).unwrap()
}

/// An authority of certificates and records, and two customers' keys.
pub struct Cluster {
    folder: TempDir,
    pki: CertificateAuthority,
    records: RecordSigningKey,
    keys: HashMap<&'static str, (KeyType, Arc<SigningKey>)>,
}

impl Cluster {
    pub fn new() -> Self {
        let now = SystemClock.unix_ms();
        let pki = CertificateAuthority::create(&"acme".parse().unwrap(), Validity::days(9, now), &SystemRng).unwrap();
        let folder = tempfile::tempdir().unwrap();
        pki.write(&folder.path().join("ca.pem"), &folder.path().join("ca.key"), false).unwrap();
        let rsa = RsaKey::generate(KeySize::Rsa2048).unwrap();
        let rsa = AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
        let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &aws_lc_rs::rand::SystemRandom::new());
        let key = |kind, pkcs8: &[u8]| (kind, Arc::new(SigningKey::from_pkcs8(pkcs8, kind).unwrap()));
        let keys = HashMap::from([
            (EC, key(KeyType::P256, p256.unwrap().as_ref())),
            (RSA, key(KeyType::Rsa(2048), rsa.as_ref())),
        ]);
        Self { folder, pki, records: RecordSigningKey::from_bytes(&[7; 32]), keys }
    }

    pub fn key(&self, certificate: &str) -> &SigningKey {
        &self.keys[certificate].1
    }

    fn checked<T: Content>(&self, content: T) -> Checked<T> {
        static VERSION: AtomicU64 = AtomicU64::new(1);
        let cluster = "acme".parse().unwrap();
        let key: RecordKey = content.key();
        let signer = RecordSigner { cluster: &cluster, key: &self.records };
        let bytes = signer.sign(content, VERSION.fetch_add(1, Ordering::Relaxed), 1_800_000_000_000).unwrap();
        let verifier = Verifier::new(cluster, self.records.verifying_key());
        verifier.read::<T>(&key.to_bytes(), &bytes).unwrap().live().unwrap()
    }

    fn certificate(&self, id: &'static str, served_by: Option<&str>) -> CertRef {
        let policy = Policy::parse("country: DE").unwrap();
        let wrapped_key = wrapped();
        let cert = Cert {
            zone: "shop".parse().unwrap(),
            id: id.parse().unwrap(),
            chain: vec![Bytes::from_static(b"leaf")],
            hostnames: vec!["shop.example".parse().unwrap()],
            key_type: self.keys[id].0,
            spki_sha256: spki(id),
            policy: PolicyRef { id: PolicyIdField(policy.id(b"acme")), version: PolicyKeyVersion::FIRST },
            policy_text: String::new(),
            wrapped_key,
            served_by: served_by.map(str::to_owned),
            created_ms: 1,
        };
        let served_by = served_by.map(|text| Policy::parse(text).unwrap());
        Arc::new(CertView { cert: self.checked(cert), policy, served_by })
    }

    pub fn request(&self, certificate: &str, scheme: Scheme) -> SignRequest {
        SignRequest {
            id: 0,
            zone: "shop".to_owned(),
            certificate: certificate.to_owned(),
            spki_sha256: spki(certificate),
            scheme,
            input: Input::Digest(Bytes::copy_from_slice(&DIGEST)),
            budget: BUDGET_DEFAULT,
            traceparent: String::new(),
        }
    }

    pub fn tls(&self, identity: &str) -> Arc<Tls> {
        let validity = Validity::days(1, SystemClock.unix_ms());
        let issued = self.pki.issue(&identity.parse().unwrap(), &[], validity, &SystemRng).unwrap();
        let stem = identity.rsplit('/').next().unwrap();
        let path = |end: &str| self.folder.path().join(format!("{stem}.{end}"));
        issued.write(&path("pem"), &path("key"), true).unwrap();
        let files = TlsFiles { ca: self.folder.path().join("ca.pem"), cert: path("pem"), key: path("key") };
        Tls::load(&files, &"acme".parse().unwrap(), Arc::new(SystemClock)).unwrap()
    }

    pub fn channel(&self, identity: &str, node: &Node) -> Channel {
        let name = node.machine.as_str().parse().unwrap();
        self.tls(identity).channel(&node.address, &[Role::Edge], Some(name), Env::system().net)
    }

    pub fn peer(&self, identity: &str, node: &Node) -> EdgeClient {
        EdgeClient::over(self.channel(identity, node))
    }

    /// A node that holds both keys, not started yet.
    pub fn node<'a>(&'a self, machine: &str, data_center: &str) -> Build<'a> {
        Build {
            cluster: self,
            machine: machine.parse().unwrap(),
            data_center: data_center.parse().unwrap(),
            uids: vec![rustix::process::getuid().as_raw()],
            rates: SignRates::default(),
            served_by: None,
            holds: true,
            net: Env::system().net,
            config: RouterConfig::default(),
        }
    }
}

fn spki(certificate: &str) -> [u8; 32] {
    let mut spki = [0; 32];
    spki.copy_from_slice(certificate.as_bytes());
    spki
}

/// A wrapped secret of the right form; nobody opens it here.
fn wrapped() -> Bytes {
    let mut bytes = vec![9; 1 + 32 + 16 + 48];
    bytes[0] = 1;
    bytes.into()
}

pub fn verify_ec(cluster: &Cluster, signature: &Signature) {
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, cluster.key(EC).public_key().to_vec());
    public.verify_digest(&digest(), &signature.signature).unwrap();
}

/// The records, as a test sets them.
pub struct TestRecords {
    certs: HashMap<CertId, CertRef>,
    machines: RwLock<HashMap<MachineId, Arc<MachineView>>>,
    revoked: RwLock<HashSet<MachineId>>,
    holders: RwLock<Arc<Holders>>,
    /// Refuses everything as stale.
    pub stale: AtomicBool,
}

impl TestRecords {
    /// Adds a machine, or replaces its record.
    pub fn add(&self, cluster: &Cluster, machine: &str, data_center: &str, attributes: &[(&str, &str)]) {
        let attributes = attributes.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        let machine = Machine {
            id: machine.parse().unwrap(),
            data_center: data_center.parse().unwrap(),
            issued: vec![Issued { generation: Generation::FIRST, attributes }],
            address: String::new(),
            state: MachineState::Live,
        };
        let id = machine.id.clone();
        let view = MachineView::new(cluster.checked(machine)).unwrap();
        self.machines.write().insert(id, Arc::new(view));
    }

    pub fn revoke(&self, machine: &str) {
        self.revoked.write().insert(machine.parse().unwrap());
    }

    pub fn set_holders(&self, nodes: &[&Node]) {
        *self.holders.write() = Arc::new(holders(nodes));
    }

    fn fresh(&self) -> Result<(), Refusal> {
        let stale = || Refusal::new(RefusalCode::Stale, "too old");
        if self.stale.load(Ordering::SeqCst) { Err(stale()) } else { Ok(()) }
    }
}

/// These nodes, by data centre.
pub fn holders(nodes: &[&Node]) -> Holders {
    let mut data_centers: BTreeMap<DataCenterId, Vec<Holder>> = BTreeMap::new();
    for node in nodes {
        let holder = Holder { machine: node.machine.clone(), address: node.address.clone() };
        data_centers.entry(node.data_center.clone()).or_default().push(holder);
    }
    Holders { data_centers }
}

impl Records for TestRecords {
    fn cert(&self, zone: &ZoneId, id: &CertId) -> Result<CertRef, Refusal> {
        let found = self.certs.get(id).filter(|cert| cert.cert.zone == *zone);
        found.cloned().ok_or_else(|| Refusal::new(RefusalCode::UnknownCertificate, "none"))
    }

    fn machine(&self, id: &MachineId) -> Option<Arc<MachineView>> {
        self.machines.read().get(id).cloned()
    }

    fn is_revoked(&self, id: &MachineId) -> bool {
        self.revoked.read().contains(id)
    }

    fn holders(&self, _: &CertView) -> Arc<Holders> {
        self.holders.read().clone()
    }

    fn may_sign_local(&self) -> Result<(), Refusal> {
        self.fresh()
    }

    fn may_sign_for_others(&self) -> Result<(), Refusal> {
        self.fresh()
    }
}

impl Peers for TestRecords {
    fn all_peers(&self) -> Arc<Holders> {
        self.holders.read().clone()
    }
}

/// The keys, when the node holds any; a certificate that is parked has none until it is released.
pub struct TestKeys {
    keys: RwLock<HashMap<String, Arc<SigningKey>>>,
    opened: AtomicUsize,
    parked: watch::Sender<Option<&'static str>>,
}

impl TestKeys {
    pub fn park(&self, certificate: &'static str) {
        self.parked.send_replace(Some(certificate));
    }

    pub fn forget(&self, certificate: &str) {
        self.keys.write().remove(certificate);
    }

    pub fn release(&self) {
        self.parked.send_replace(None);
    }

    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

impl Keys for TestKeys {
    fn key<'a>(&'a self, cert: &'a CertRef) -> BoxFuture<'a, Result<Arc<SigningKey>, Refusal>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let id = cert.cert.id.as_str();
            let _ = self.parked.subscribe().wait_for(|parked| *parked != Some(id)).await;
            self.keys.read().get(id).cloned().ok_or_else(|| Refusal::new(RefusalCode::NotPermitted, "not held here"))
        })
    }
}

/// What a node is started with.
pub struct Build<'a> {
    cluster: &'a Cluster,
    machine: MachineId,
    data_center: DataCenterId,
    pub uids: Vec<u32>,
    pub rates: SignRates,
    pub served_by: Option<String>,
    pub holds: bool,
    pub net: Arc<dyn Net>,
    pub config: RouterConfig,
}

/// A running node.
pub struct Node {
    pub machine: MachineId,
    pub data_center: DataCenterId,
    pub address: String,
    pub socket: PathBuf,
    pub service: Arc<SignService>,
    pub router: Arc<Router>,
    pub records: Arc<TestRecords>,
    pub keys: Arc<TestKeys>,
    pub shutdown: Shutdown,
    local: EdgeClient,
    _folder: TempDir,
}

impl Node {
    pub fn local(&self) -> &EdgeClient {
        &self.local
    }

    pub fn keys_opened(&self) -> usize {
        self.keys.opened()
    }

    /// Begins to probe.
    pub fn probe(&self) {
        tokio::spawn(self.router.clone().run(self.shutdown.clone()));
    }

    /// Ends it as a process ends: its listener and its connections are gone.
    pub async fn stop(&self) {
        self.shutdown.trigger();
        while tokio::net::TcpStream::connect(&self.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Build<'_> {
    pub async fn start(self) -> Node {
        let Self { cluster, machine, data_center, uids, rates, served_by, holds, net, config } = self;
        let env = Env { net, ..Env::system() };
        let tls = cluster.tls(&format!("spiffe://acme/edge/{machine}"));
        let metrics = SignMetrics::new();
        let certs = [EC, RSA].map(|id| (id.parse().unwrap(), cluster.certificate(id, served_by.as_deref())));
        let records = Arc::new(TestRecords {
            certs: certs.into(),
            machines: RwLock::default(),
            revoked: RwLock::default(),
            holders: RwLock::default(),
            stale: AtomicBool::new(false),
        });
        let held = cluster.keys.iter().filter(|_| holds).map(|(id, (_, key))| ((*id).to_owned(), key.clone()));
        let keys = TestKeys {
            keys: RwLock::new(held.collect()),
            opened: AtomicUsize::new(0),
            parked: watch::Sender::new(None),
        };
        let (keys, shutdown) = (Arc::new(keys), Shutdown::new());
        let who = (machine.clone(), data_center.clone());
        let router = Router::new(config, who, tls.clone(), env.clone(), records.clone(), metrics.clone());
        let service = SignService::new(SignParts {
            me: machine.clone(),
            data_center: data_center.clone(),
            records: records.clone(),
            keys: keys.clone(),
            signer: Arc::new(Signer::start(2, env.clock.clone(), &metrics).unwrap()),
            router: router.clone(),
            rates: Rates::new(rates, env.clock.clone()),
            uids,
            clock: env.clock.clone(),
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
        });
        let listener = env.net.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(serve_peers(service.clone(), tls, listener, metrics.clone(), shutdown.clone()));
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("edge.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(serve_local(Routes::new(signer(service.clone())), listener, metrics, shutdown.clone()));
        let local = EdgeClient::new(&socket);
        let _folder = folder;
        Node { machine, data_center, address, socket, service, router, records, keys, shutdown, local, _folder }
    }
}
