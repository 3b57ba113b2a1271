//! The service over a store of one process: what is written when, and what leaves when it is not.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cinnabar_abe::seal::{OperatorSecretKey, Recipient};
use cinnabar_authority_api::client::{ClientError, MachineClient};
use cinnabar_authority_api::enrolment::EnrolmentToken;
use cinnabar_authority_api::proto as machine_proto;
use cinnabar_daemon::PeerInfo;
use cinnabar_daemon::mtls::uds_channel;
use cinnabar_daemon::pki::NewKey;
use cinnabar_kv_api::proto::kv_server::{Kv, KvServer};
use cinnabar_kv_api::{Client, ClientConfig, Target, proto};
use parking_lot::{Mutex, RwLock};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::*;
use crate::access::guard;
use crate::audit::verify;
use crate::custody::{CaSource, Fresh, NewSystem, Opener};
use crate::machine_service::MachineService;

type Rows = HashMap<Bytes, (Bytes, u64)>;

/// Conditions, puts and an index: all that the publisher asks of a store.
#[derive(Clone, Default)]
struct FakeStore {
    rows: Arc<Mutex<(Rows, u64)>>,
    refuses: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Kv for FakeStore {
    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        let found = self.rows.lock().0.get(&request.into_inner().key).cloned();
        let (value, mod_index) = found.clone().unwrap_or_default();
        Ok(Response::new(proto::GetResponse { stamp: None, found: found.is_some(), value, mod_index }))
    }

    async fn write(&self, request: Request<proto::WriteRequest>) -> Result<Response<proto::WriteResponse>, Status> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Status::failed_precondition("not now"));
        }
        let request = request.into_inner();
        let (rows, index) = &mut *self.rows.lock();
        *index += 1;
        let mut answer = proto::WriteResponse { index: *index, succeeded: true, ..Default::default() };
        for (n, condition) in request.conditions.iter().enumerate() {
            let actual = rows.get(&condition.key).map_or(0, |(_, mod_index)| *mod_index);
            if actual != condition.mod_index {
                (answer.succeeded, answer.failed_condition, answer.actual_mod_index) = (false, n as u32, actual);
                return Ok(Response::new(answer));
            }
        }
        rows.extend(request.ops.into_iter().map(|op| (op.key, (op.value, *index))));
        Ok(Response::new(answer))
    }

    async fn scan(&self, _: Request<proto::ScanRequest>) -> Result<Response<proto::ScanResponse>, Status> {
        Err(Status::unimplemented("scan"))
    }

    type WatchStream = tokio_stream::Empty<Result<proto::WatchResponse, Status>>;

    async fn watch(&self, _: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusResponse>, Status> {
        Err(Status::unimplemented("status"))
    }
}

struct Running {
    machines: Arc<Machines>,
    publisher: Arc<Publisher>,
    custody: Arc<Custody>,
    store: FakeStore,
    operator: OperatorSecretKey,
    ca: Arc<CertificateAuthority>,
    record_seed: [u8; 32],
    folder: tempfile::TempDir,
}

/// The service, with a directory of what the store has now.
fn service(
    folder: &tempfile::TempDir,
    audit: &str,
    record_seed: [u8; 32],
    custody: &Arc<Custody>,
    ca: &Arc<CertificateAuthority>,
    store: &FakeStore,
) -> (Arc<Publisher>, Arc<Machines>) {
    let (env, key) = (Env::system(), RecordSigningKey::from_bytes(&record_seed));
    let mut directory = Directory::new(Verifier::new(cluster(), key.verifying_key()));
    for (key, (value, index)) in &store.rows.lock().0 {
        directory.take(key, value, *index, false).unwrap();
    }
    let target = Target::Unix(folder.path().join("kv"));
    let client = Client::new(ClientConfig { target, env: env.clone(), deadline: Duration::from_secs(2) }).unwrap();
    let publisher = Publisher::new(client, Arc::new(RwLock::new(directory)), cluster(), key, env.clone());
    let publisher = Arc::new(publisher);
    let schema = Schema::from_toml(SCHEMA).unwrap();
    let inventory = Inventory::from_toml(&inventory_text(), &schema, &cluster()).unwrap();
    let parts = Parts {
        publisher: publisher.clone(),
        inventory: Arc::new(ArcSwap::from_pointee(inventory)),
        custody: custody.clone(),
        ca: ca.clone(),
        audit: Arc::new(Audit::open(&folder.path().join(audit), &cluster(), env.clock.clone()).unwrap()),
        reports: Arc::new(Reports::new(env.clock.clone(), Arc::default())),
        env,
        cores: Arc::new(Semaphore::new(2)),
    };
    (publisher, Arc::new(Machines::new(parts).unwrap()))
}

impl Running {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FakeStore::default();
        let socket = folder.path().join("kv");
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        tokio::spawn(Server::builder().add_service(KvServer::new(store.clone())).serve_with_incoming(incoming));
        let env = Env::system();
        let operator = OperatorSecretKey::generate(&mut generator(&SystemRng).unwrap());
        let to = [Recipient::Operator(operator.public_key())];
        let new = NewSystem {
            cluster: &cluster(),
            mode: Mode::Demo,
            ca_source: CaSource::New(Validity::days(100, env.clock.unix_ms())),
            ca: &to,
            records: &to,
            system: &to,
        };
        let Fresh { custody, ca, records, system_public } =
            Custody::init(&folder.path().join("custody"), &new, &SystemRng, env.clock.clone()).unwrap();
        let (custody, ca) = (Arc::new(custody), Arc::new(ca));
        let record_seed = records.to_bytes().expose().try_into().unwrap();
        let (publisher, machines) = service(&folder, "audit", record_seed, &custody, &ca, &store);
        let running = Self { machines, publisher, custody, store, operator, ca, record_seed, folder };
        let public_key = system_public.to_bytes().into();
        let first = System { generation: Generation::FIRST, public_key, state: State::Active, mode: Mode::Demo };
        running.put(first).await;
        running.put(SchemaRecord { version: SchemaVersion::FIRST, schema: Schema::from_toml(SCHEMA).unwrap() }).await;
        running
    }

    /// Another process over the same store, which knows what is there now and hears of nothing later.
    fn second(&self, audit: &str) -> Arc<Machines> {
        service(&self.folder, audit, self.record_seed, &self.custody, &self.ca, &self.store).1
    }

    async fn put<T: Content>(&self, content: T) {
        let written = self.publisher.transact(|_| {
            let mut plan = Plan::new();
            plan.put(content.clone());
            Ok::<_, crate::publisher::PublishError>((plan, ()))
        });
        written.await.unwrap();
    }

    /// The secret of a new enrolment token.
    async fn secret(&self, machine: &str) -> String {
        let grant = self.machines.token("operator", &id(machine)).await.unwrap();
        EnrolmentToken::parse(grant.text.expose()).unwrap().secret.to_string()
    }

    async fn enrol(&self, machine: &str) -> Certificate {
        let request = NewKey::generate().unwrap().request_der;
        self.machines.enrol(&self.secret(machine).await, &request).await.unwrap()
    }

    fn unseal(&self) {
        self.custody.unseal(Opener::Operator(&self.operator), Duration::from_secs(60)).unwrap();
    }

    fn index(&self) -> u64 {
        self.store.rows.lock().1
    }

    fn audit(&self) -> String {
        std::fs::read_to_string(self.audit_path()).unwrap()
    }

    fn audit_path(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    fn record(&self, machine: &str) -> cinnabar_authority_api::records::Machine {
        self.publisher.directory().read().machines()[&id(machine)].record(&id(machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_enrols_its_machine_once_whoever_is_first() {
    let running = Running::start().await;
    let grant = running.machines.token("operator", &id("fra-1")).await.unwrap();
    let token = EnrolmentToken::parse(grant.text.expose()).unwrap();
    let request = NewKey::generate().unwrap().request_der;
    // A request that cannot be used costs no token.
    let refused = running.machines.enrol(&token.secret, &request[1..]).await.unwrap_err();
    assert_eq!(refused.code(), Code::RequestUnusable);
    let tries = (0..4).map(|_| {
        let (machines, secret, request) = (running.machines.clone(), token.secret.to_string(), request.clone());
        tokio::spawn(async move { machines.enrol(&secret, &request).await })
    });
    let mut outcomes = Vec::new();
    for attempt in tries.collect::<Vec<_>>() {
        outcomes.push(attempt.await.unwrap());
    }
    let (given, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((given.len(), refused.len()), (1, 3));
    assert!(refused.iter().all(|refused| refused.as_ref().unwrap_err().code() == Code::Unauthenticated));
    let certificate = given.into_iter().next().unwrap().unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(certificate.certificate_pem.as_bytes()).unwrap();
    let names = block.parse_x509().unwrap().subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert_eq!(names, [x509_parser::extensions::GeneralName::URI("spiffe://prod/edge/fra-1")]);
    let (_, ca) = x509_parser::pem::parse_x509_pem(certificate.ca_pem.as_bytes()).unwrap();
    assert_eq!((sha256(&ca.contents), token.cluster), (token.ca_sha256, cluster()));
    assert!(running.record("fra-1").issued.is_empty());
    assert!(running.audit().contains("enrol machine") && !running.audit().contains(token.secret.as_str()));
    verify(&running.audit_path(), None).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_has_not_heard_of_an_enrolment_does_not_repeat_it() {
    let running = Running::start().await;
    let secret = running.secret("fra-1").await;
    let behind = running.second("audit-2");
    let request = NewKey::generate().unwrap().request_der;
    running.machines.enrol(&secret, &request).await.unwrap();
    let before = running.record("fra-1");
    assert_eq!(behind.enrol(&secret, &request).await.unwrap_err().code(), Code::Conflict);
    // Nor does it give keys to a machine that was revoked meanwhile.
    let behind = running.second("audit-3");
    running.unseal();
    let which = Selection::Ids(vec![id("fra-1")]);
    running.machines.revoke("operator", &which, "lost", false).await.unwrap();
    assert_eq!(behind.keys(&id("fra-1")).await.unwrap_err().code(), Code::Conflict);
    assert_eq!(running.record("fra-1"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_machine_a_guess_and_an_old_one_enrol_nothing() {
    let running = Running::start().await;
    let first = running.secret("fra-1").await;
    let second = running.secret("fra-1").await;
    let request = NewKey::generate().unwrap().request_der;
    let stranger = mint(&SystemRng, TokenScope::Machine(id("fra-1")), "fra-1", 0).unwrap().0;
    for token in ["", "cin_", first.as_str(), stranger.expose()] {
        let refused = running.machines.enrol(token, &request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token}");
    }
    running.machines.enrol(&second, &request).await.unwrap();
    assert_eq!(running.machines.token("operator", &id("nobody")).await.unwrap_err().code(), Code::MachineUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_leave_only_unsealed_told_and_written() {
    let running = Running::start().await;
    running.enrol("fra-1").await;
    let (before, machine) = (running.index(), id("fra-1"));
    assert_eq!(running.machines.keys(&machine).await.unwrap_err().code(), Code::Sealed);
    assert!(running.index() == before && !running.audit().contains("issue machine keys"));
    running.unseal();
    running.store.refuses.store(true, Ordering::Relaxed);
    assert_eq!(running.machines.keys(&machine).await.unwrap_err().code(), Code::Unavailable);
    assert!(running.audit().contains("issue machine keys") && running.record("fra-1").issued.is_empty());
    running.store.refuses.store(false, Ordering::Relaxed);
    let keys = running.machines.keys(&machine).await.unwrap();
    let record = running.record("fra-1");
    assert_eq!((keys.len(), record.issued.len(), running.index()), (1, 1, before + 1));
    let key = AttributeKey::from_bytes(keys[0].key.expose()).unwrap();
    assert_eq!(*key.attributes(), record.issued[0].attributes().unwrap());
    // Asking again writes nothing, and asking on and on is refused.
    running.machines.keys(&machine).await.unwrap();
    assert_eq!(running.index(), before + 1);
    let mut last = Ok(Vec::new());
    for _ in 0..5 {
        last = running.machines.keys(&machine).await;
    }
    assert_eq!(last.unwrap_err().code(), Code::RateLimited);
    assert_eq!(running.machines.keys(&id("fra-2")).await.unwrap_err().code(), Code::MachineUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_machine_is_answered_no_more() {
    let running = Running::start().await;
    running.unseal();
    for machine in ["led-1", "svo-1", "fra-1"] {
        running.enrol(machine).await;
        running.machines.keys(&id(machine)).await.unwrap();
    }
    let open = running.secret("led-2").await;
    let before = running.index();
    let which = Selection::Where("country: RU".to_owned());
    let dry = running.machines.revoke("operator", &which, "sold", true).await.unwrap();
    assert_eq!((dry.machines.len(), dry.index, running.index()), (4, 0, before));
    let done = running.machines.revoke("operator", &which, "sold", false).await.unwrap();
    assert_eq!((&done.machines, done.index, running.index()), (&dry.machines, before + 1, before + 1));
    let request = NewKey::generate().unwrap().request_der;
    assert_eq!(running.machines.keys(&id("led-1")).await.unwrap_err().code(), Code::MachineRevoked);
    assert_eq!(running.machines.renew(&id("svo-1"), &request).await.unwrap_err().code(), Code::MachineRevoked);
    assert_eq!(running.machines.enrol(&open, &request).await.unwrap_err().code(), Code::MachineRevoked);
    assert_eq!(running.machines.token("operator", &id("led-1")).await.unwrap_err().code(), Code::MachineRevoked);
    let report = Report::default();
    assert_eq!(running.machines.report(&id("led-1"), report).await.unwrap_err().code(), Code::MachineRevoked);
    running.machines.renew(&id("fra-1"), &request).await.unwrap();
    let again = running.machines.revoke("operator", &which, "sold", false).await.unwrap();
    assert_eq!((again.machines.len(), again.already.len(), again.index), (0, 4, 0));
    let line = running.audit().lines().find(|line| line.contains("revoke machines")).unwrap().to_owned();
    assert!(line.contains("led-1 led-2 svo-1 svo-2") && line.contains("sold"), "{line}");
    assert_eq!(running.machines.revoke("operator", &which, "", false).await.unwrap_err().code(), Code::InvalidField);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_holder_is_drained_only_when_it_is_meant() {
    let running = Running::start().await;
    running.unseal();
    for machine in ["zrh-1", "fra-1"] {
        running.enrol(machine).await;
        running.machines.keys(&id(machine)).await.unwrap();
    }
    let mut fixture = Fixture::new();
    let policy = fixture.put_key(1, "dc: zrh");
    let record = fixture.directory.active_policy(&policy).unwrap().record.clone();
    let limits = ZoneLimits { data_centers_min: 3, keys_max: 10, changes_per_minute: 60 };
    running.put(Zone { id: zone(), domains: vec!["shop.example".parse().unwrap()], limits }).await;
    running.put(record).await;
    let wrapped = wrap(
        &mut generator(&SystemRng).unwrap(),
        &PolicySecretKey::generate(&mut generator(&SystemRng).unwrap()).public_key(),
        &cinnabar_abe::envelope::Context {
            cluster: b"prod",
            kind: cinnabar_abe::envelope::Kind::Secret,
            zone: "acme",
            name: "s1",
            spki_sha256: None,
            policy,
            policy_key_version: PolicyKeyVersion::FIRST.0,
        },
        b"secret",
    );
    running
        .put(Secret {
            zone: zone(),
            name: "s1".parse().unwrap(),
            policy: PolicyRef { id: PolicyIdField(policy), version: PolicyKeyVersion::FIRST },
            policy_text: "dc: zrh".to_owned(),
            wrapped: wrapped.unwrap().as_bytes().to_vec().into(),
            created_ms: NOW,
        })
        .await;
    let (machines, zrh) = (&running.machines, dc("zrh"));
    let shown = machines.drain("operator", &zrh, false, true).await.unwrap();
    assert_eq!((shown.machines, shown.index, shown.effects.len()), (1, 0, 1));
    assert_eq!(machines.drain("operator", &zrh, false, false).await.unwrap_err().code(), Code::LastHolders);
    assert_eq!(running.record("zrh-1").state, MachineState::Live);
    machines.drain("operator", &dc("fra"), false, false).await.unwrap();
    let drained = machines.drain("operator", &zrh, true, false).await.unwrap();
    assert_eq!((drained.effects[0].before, drained.effects[0].after, drained.index), (1, 0, running.index()));
    assert_eq!(running.record("zrh-1").state, MachineState::Draining);
    assert_eq!(running.record("zrh-1").issued.len(), 1, "a drained machine keeps its keys");
    let back = machines.undrain("operator", &zrh, false).await.unwrap();
    assert_eq!((back.effects[0].before, back.effects[0].after), (0, 1));
    assert_eq!(running.record("zrh-1").state, MachineState::Live);
    assert_eq!(machines.drain("operator", &dc("xyz"), false, false).await.unwrap_err().code(), Code::NotFound);
}

/// A client whose calls arrive as if a certificate of this identity had come with them.
async fn client_as(running: &Running, name: &str, identity: Option<&str>) -> MachineClient {
    let socket = running.folder.path().join(name);
    let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let peer = PeerInfo { identity: identity.map(|text| text.parse().unwrap()), ..PeerInfo::default() };
    let with_peer = tower::util::MapRequestLayer::new(move |mut request: tonic::codegen::http::Request<_>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let mut server = Server::builder().layer(with_peer).layer(guard());
    tokio::spawn(server.add_service(MachineService::server(running.machines.clone())).serve_with_incoming(incoming));
    MachineClient::new(uds_channel(&socket))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_calls_for_itself_and_others_call_nothing() {
    let running = Running::start().await;
    running.enrol("fra-1").await;
    let client = client_as(&running, "fra", Some("spiffe://prod/edge/fra-1")).await;
    let refused = client.keys().await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { code, .. } if code == "sealed"), "{refused}");
    running.unseal();
    let keys = client.keys().await.unwrap();
    let key = AttributeKey::from_bytes(keys[0].key.expose()).unwrap();
    assert!(key.attributes().has("dc", "fra"));
    let new = NewKey::generate().unwrap();
    let renewed = client.renew(new.request_der).await.unwrap();
    assert!(renewed.certificate_pem.contains("BEGIN CERTIFICATE"));
    let report = |address: &str| machine_proto::ReportRequest {
        applied_index: 9,
        address: address.to_owned(),
        version: "0.1.0".to_owned(),
        ..Default::default()
    };
    let malformed = client.report(report("nowhere")).await.unwrap_err();
    assert!(matches!(malformed, ClientError::Refused { .. }));
    let before = running.index();
    client.report(report("fra-1.example:7000")).await.unwrap();
    assert_eq!((running.record("fra-1").address.as_str(), running.index()), ("fra-1.example:7000", before + 1));
    assert!(
        matches!(client.report(report("")).await, Err(ClientError::Refused { code, .. }) if code == "rate-limited")
    );
    let view = running.machines.status(&id("fra-1")).unwrap();
    assert_eq!((view.report.unwrap().applied_index, view.state, view.issued), (9, "live", vec![1]));

    for (name, identity) in [
        ("operator", Some("spiffe://prod/operator/fra-1")),
        ("voter", Some("spiffe://prod/voter/fra-1")),
        ("nobody", None),
    ] {
        let client = client_as(&running, name, identity).await;
        assert!(matches!(client.keys().await, Err(ClientError::Refused { code, .. }) if code.is_empty()), "{name}");
    }
}

#[tokio::test]
async fn a_certificate_says_on_how_many_of_its_holders_it_has_arrived() {
    let running = Running::start().await;
    running.unseal();
    for machine in ["fra-1", "fra-2", "iad-1"] {
        running.enrol(machine).await;
        running.machines.keys(&id(machine)).await.unwrap();
    }
    let (policy, cert, _) = Fixture::new().key_records(1, "region: EU");
    let (zone, cert_id) = (cert.zone.clone(), cert.id.clone());
    running.put(policy).await;
    running.put(cert).await;
    let index = running.index();
    let active = || running.machines.active_on(&zone, &cert_id).map(|active| (active.machines, active.of));
    assert_eq!(active(), Some((0, 2)), "who does not hold the key does not count");
    let report = async |machine: &str, applied_index| {
        let report = machine_proto::ReportRequest { applied_index, version: "0.1.0".to_owned(), ..Default::default() };
        running.machines.report(&id(machine), report.try_into().unwrap()).await.unwrap();
    };
    report("fra-1", index - 1).await;
    report("iad-1", index).await;
    assert_eq!(active(), Some((0, 2)), "one is a step behind, the other holds nothing");
    report("fra-2", index).await;
    assert_eq!(active(), Some((1, 2)));
    let lost = Selection::Ids([id("fra-2")].into());
    running.machines.revoke("operator", &lost, "lost", false).await.unwrap();
    assert_eq!(active(), Some((0, 1)), "a revoked machine is no holder");
    assert_eq!(running.machines.active_on(&zone, &"f".repeat(32).parse().unwrap()).map(|active| active.of), None);
}
