//! Six data centres, two zones with a token each, and the interface over them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use bytes::Bytes;
use cinnabar_abe::seal::{OperatorSecretKey, Recipient};
use cinnabar_abe::signature::RecordSigningKey;
use cinnabar_authority_api::records::{
    Content, Head, Issued, Machine, MachineState, Mode, SchemaRecord, Signer, State, System, Zone,
};
use cinnabar_authority_api::schema::Facts;
use cinnabar_authority_api::{Generation, Hostname, Schema, SchemaVersion, Verifier};
use cinnabar_daemon::env::{SystemClock, SystemRng};
use cinnabar_daemon::pki::Validity;
use cinnabar_daemon::{Clock, ClusterId, Env, PeerInfo, Rng};
use cinnabar_kv_api::{Client, ClientConfig, Target};
use parking_lot::RwLock;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::ServiceExt;

use super::store::Store;
use crate::audit::Audit;
use crate::custody::{CaSource, Custody, NewSystem};
use crate::directory::Directory;
use crate::inventory::Inventory;
use crate::machines::{Machines, Parts};
use crate::policies::Policies;
use crate::publisher::Publisher;
use crate::reports::Reports;
use crate::server::{Api, router};
use crate::uploads::Uploads;
use crate::zones::{LIMITS_DEFAULT, LimitsChange, Zones};
use cinnabar_daemon::random::generator;

/// 2027-01-15T08:00:00Z.
pub const NOW_S: u64 = 1_800_000_000;
pub const DAY_S: u64 = 24 * 3600;

/// A clock that stands still on the wall, and can be broken.
#[derive(Default)]
pub struct TestClock {
    pub broken: AtomicBool,
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn unix_ms(&self) -> u64 {
        assert!(!self.broken.load(Ordering::Relaxed), "the clock is broken");
        NOW_S * 1_000
    }
}

pub struct World {
    pub api: Arc<Api>,
    pub router: Router,
    pub store: Store,
    pub clock: Arc<TestClock>,
    pub audit: Arc<Audit>,
    /// Tokens of the zones `shop` and `other`.
    pub shop: String,
    pub other: String,
    /// An operator's.
    pub robot: String,
    key_bytes: [u8; 32],
    folder: tempfile::TempDir,
}

/// Who calls.
#[derive(Clone, Copy)]
pub enum Who<'a> {
    Nobody,
    Token(&'a str),
    Operator,
    Edge,
}

#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answered {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The problem's code: the last word of its type.
    pub fn code(&self) -> String {
        let problem = self.json();
        problem["type"].as_str().unwrap_or_default().trim_start_matches("/errors/").to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

fn machine(schema: &Schema, cluster: &ClusterId, dc: &str, country: &str, region: &str) -> Machine {
    let sets = BTreeMap::from([("region".to_owned(), [region.to_owned()].into())]);
    let facts = Facts { country: country.to_owned(), data_center: dc.parse().unwrap(), values: BTreeMap::new(), sets };
    let attributes = schema.attributes(cluster, &facts).unwrap();
    Machine {
        id: format!("{dc}-1").parse().unwrap(),
        data_center: dc.parse().unwrap(),
        issued: vec![Issued { generation: Generation::FIRST, attributes }],
        address: String::new(),
        state: MachineState::Live,
    }
}

const CENTERS: [(&str, &str, &str); 6] = [
    ("fra", "DE", "WEUR"),
    ("ams", "NL", "WEUR"),
    ("waw", "PL", "EEUR"),
    ("par", "FR", "WEUR"),
    ("iad", "US", "ENAM"),
    ("bom", "IN", "APAC"),
];

fn inventory(schema: &Schema, cluster: &ClusterId) -> Inventory {
    let center = |(id, country, region): &(&str, &str, &str)| {
        format!("[[data_center]]\nid = \"{id}\"\ncountry = \"{country}\"\nattributes = {{ region = [\"{region}\"] }}\n")
    };
    let machine = |(id, _, _): &(&str, &str, &str)| {
        ["1", "2"].map(|n| format!("[[machine]]\nid = \"{id}-{n}\"\ndata_center = \"{id}\"\n")).concat()
    };
    let text: String = CENTERS.iter().map(center).chain(CENTERS.iter().map(machine)).collect();
    Inventory::from_toml(&text, schema, cluster).unwrap()
}

impl World {
    pub async fn new() -> Self {
        let (folder, store, clock) = (tempfile::tempdir().unwrap(), Store::default(), Arc::new(TestClock::default()));
        let cluster: ClusterId = "acme".parse().unwrap();
        let socket = folder.path().join("kv.sock");
        store.serve(&socket);
        let env = Env { clock: clock.clone(), ..Env::system() };
        let mut random = generator(&SystemRng).unwrap();
        let mut key_bytes = [0; 32];
        SystemRng.fill(&mut key_bytes).unwrap();
        let key = RecordSigningKey::from_bytes(&key_bytes);
        let mut directory = Directory::new(Verifier::new(cluster.clone(), key.verifying_key()));
        let schema = Schema::default();
        let signer = Signer { cluster: &cluster, key: &key };
        let (public, _) = cinnabar_abe::setup(&mut random).unwrap();
        let public_key = Bytes::from(public.to_bytes());
        let system = System { generation: Generation::FIRST, public_key, state: State::Active, mode: Mode::Production };
        put(&store, &mut directory, &signer, system);
        put(&store, &mut directory, &signer, SchemaRecord { version: SchemaVersion::FIRST, schema: schema.clone() });
        let head = Head { index: 1, chain_head: [1; 32], state_hash: [2; 32], time_ms: NOW_S * 1_000 };
        put(&store, &mut directory, &signer, head);
        for (dc, country, region) in CENTERS {
            put(&store, &mut directory, &signer, machine(&schema, &cluster, dc, country, region));
        }
        for (id, domain) in [("shop", "shop.example"), ("other", "other.example")] {
            let limits = LimitsChange { changes_per_minute: Some(10_000), ..Default::default() }.over(LIMITS_DEFAULT);
            let domains: Vec<Hostname> = vec![domain.parse().unwrap()];
            put(&store, &mut directory, &signer, Zone { id: id.parse().unwrap(), domains, limits });
        }
        let directory = Arc::new(RwLock::new(directory));
        let client = ClientConfig { target: Target::Unix(socket), env: env.clone(), deadline: Duration::from_secs(10) };
        let client = Client::new(client).unwrap();
        let publisher = Arc::new(Publisher::new(client, directory.clone(), cluster.clone(), key, env.clone()));
        let inventory = Arc::new(ArcSwap::from_pointee(inventory(&schema, &cluster)));
        let policies = Policies::new(cluster.clone(), directory, inventory, Arc::default(), env.rng.clone());
        let policies = Arc::new(policies);
        let audit = Arc::new(Audit::open(&folder.path().join("audit"), &cluster, Arc::new(SystemClock)).unwrap());
        let cores = Arc::new(Semaphore::new(2));
        let zones = Arc::new(Zones { publisher: publisher.clone(), audit: audit.clone(), env: env.clone() });
        let uploads = Uploads { cluster, publisher, policies, audit: audit.clone(), env, cores };
        let api = Api::new(Arc::new(uploads), zones, None);
        let (shop, other) = (token(&api, "shop").await, token(&api, "other").await);
        let made = api.zones.create_operator_token("test", "robot", None).await.unwrap();
        let robot = made.text.expose().to_owned();
        Self { router: router(api.clone()), api, store, clock, audit, shop, other, robot, key_bytes, folder }
    }

    /// The same interface with machines served, each of the data centres having a second one that did not enrol yet.
    pub fn serve_machines(&mut self) {
        let (env, schema, cluster) = (self.api.env.clone(), Schema::default(), "acme".parse().unwrap());
        let operator = OperatorSecretKey::generate(&mut generator(&SystemRng).unwrap());
        let to = [Recipient::Operator(operator.public_key())];
        let new = NewSystem {
            cluster: &cluster,
            mode: Mode::Production,
            ca_source: CaSource::New(Validity::days(100, env.clock.unix_ms())),
            ca: &to,
            records: &to,
            system: &to,
        };
        let made = Custody::init(&self.folder.path().join("custody"), &new, &SystemRng, env.clock.clone()).unwrap();
        let machines = Machines::new(Parts {
            publisher: self.api.uploads.publisher.clone(),
            inventory: Arc::new(ArcSwap::from_pointee(inventory(&schema, &cluster))),
            custody: Arc::new(made.custody),
            ca: Arc::new(made.ca),
            audit: self.audit.clone(),
            reports: Arc::new(Reports::new(env.clock.clone(), Arc::default())),
            cores: self.api.uploads.cores.clone(),
            env,
        });
        let machines = Some(Arc::new(machines.unwrap()));
        self.api = Api::new(self.api.uploads.clone(), self.api.zones.clone(), machines);
        self.router = router(self.api.clone());
    }

    /// Zones of another process of the same authority, which has seen what the store has now and follows no further.
    pub fn rival(&self) -> Zones {
        let (cluster, key): (ClusterId, _) = ("acme".parse().unwrap(), RecordSigningKey::from_bytes(&self.key_bytes));
        let mut directory = Directory::new(Verifier::new(cluster.clone(), key.verifying_key()));
        for (key, (record, index)) in &self.store.0.lock().records {
            directory.take(key, record, *index, false).unwrap();
        }
        let env = self.api.uploads.env.clone();
        let target = Target::Unix(self.folder.path().join("kv.sock"));
        let client = Client::new(ClientConfig { target, env: env.clone(), deadline: Duration::from_secs(10) }).unwrap();
        let publisher = Publisher::new(client, Arc::new(RwLock::new(directory)), cluster, key, env.clone());
        Zones { publisher: Arc::new(publisher), audit: self.audit.clone(), env }
    }

    pub fn audit_file(&self) -> std::path::PathBuf {
        self.folder.path().join("audit")
    }

    pub async fn send(&self, request: Request) -> Answered {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 16 * 1024 * 1024).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        Answered { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    pub async fn call(&self, method: &str, path: &str, who: Who<'_>, body: impl Into<Body>) -> Answered {
        self.send(request(method, path, who, body)).await
    }

    /// A call of the zone `shop`, under its own address.
    pub async fn shop(&self, method: &str, rest: &str, body: &Value) -> Answered {
        self.call(method, &format!("/v1/zones/shop/{rest}"), Who::Token(&self.shop), body.to_string()).await
    }

    /// What must not change when nothing is done.
    pub fn touched(&self) -> (u64, usize, u64) {
        let (_, index, records) = self.store.touched();
        (index, records, self.audit.head().seq)
    }
}

async fn token(api: &Api, zone: &str) -> String {
    let made = api.zones.create_token("test", &zone.parse().unwrap(), "for tests", None).await.unwrap();
    made.text.expose().to_owned()
}

fn put<T: Content>(store: &Store, directory: &mut Directory, signer: &Signer<'_>, content: T) {
    let key = content.key().to_bytes();
    let record = signer.sign(content, 0, NOW_S * 1_000).unwrap();
    let mut inner = store.0.lock();
    inner.index += 1;
    let index = inner.index;
    inner.records.insert(key.clone(), (record.clone(), index));
    directory.take(&key, &record, index, true).unwrap();
}

pub fn request(method: &str, path: &str, who: Who<'_>, body: impl Into<Body>) -> Request {
    let mut request = Request::new(body.into());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut peer = PeerInfo { peer_addr: Some("192.0.2.1:1234".parse().unwrap()), ..PeerInfo::default() };
    match who {
        Who::Nobody => {}
        Who::Token(token) => {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Who::Operator => peer.identity = Some("spiffe://acme/operator/eve".parse().unwrap()),
        Who::Edge => peer.identity = Some("spiffe://acme/edge/fra-1".parse().unwrap()),
    }
    request.extensions_mut().insert(peer);
    request
}

// === Certificates ===

fn at(second: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(second).unwrap()).unwrap()
}

pub fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// A certificate that signed itself, and its key, as PEM.
pub fn certificate(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = new_key();
    (certificate_for(names, &key, change), key.serialize_pem())
}

pub fn certificate_for(names: &[&str], key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    (params.not_before, params.not_after) = (at(NOW_S - DAY_S), at(NOW_S + 90 * DAY_S));
    params.subject_alt_names =
        names.iter().map(|name| SanType::DnsName((*name).to_owned().try_into().unwrap())).collect();
    change(&mut params);
    params.self_signed(key).unwrap().pem()
}

/// A body that is taken.
pub fn upload(names: &[&str]) -> Value {
    let (certificate, key) = certificate(names, |_| ());
    serde_json::json!({ "certificate": certificate, "private_key": key })
}
