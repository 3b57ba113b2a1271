//! Data centres beside a running authority: enrolled edge nodes with sealed keys, each with a terminator.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cinnabar_authority_api::Verifier;
use cinnabar_edge::identity::Pins;
use cinnabar_edge_api::client::EdgeClient;
use cinnabar_edge_api::proto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256};
use serde_json::Value as Json;

use super::visits::Visitor;
use crate::authority::rig::{Rig, Setup};
use crate::harness::cluster::{CLUSTER, Cluster};
use crate::harness::deadline::eventually;
use crate::harness::http::{self, Answer};
use crate::harness::ports::free_address;
use crate::harness::process::{BINARY, Child, Failed, Program, run};

/// Longest that a node may take to start, and a change to reach it.
pub const READY_MAX: Duration = Duration::from_secs(60);
/// Longest that one command may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// The zone of every certificate here.
pub const ZONE: &str = "shop";

/// Labels beside the usual ones.
const SCHEMA: &str = r#"
[labels.security]
values = ["high", "normal"]
default = "normal"
[labels.organization]
values = ["executive", "weapons", "none"]
default = "none"
[labels.clearance]
values = ["top_secret", "none"]
default = "none"
"#;

/// A data centre: name, country, attributes beside these, and its place on a line, in milliseconds.
type Site = (&'static str, &'static str, &'static str, u32);

const SITES: [Site; 6] = [
    ("fra", "DE", "region = [\"WEUR\"]", 0),
    ("ams", "NL", "region = [\"WEUR\"], tier = \"highest\"", 6),
    ("mad", "ES", "region = [\"WEUR\"], organization = \"executive\"", 40),
    ("cdg", "FR", "region = [\"WEUR\"], organization = \"weapons\"", 9),
    ("iad", "US", "region = [\"ENAM\"], security = \"high\"", 90),
    ("nrt", "JP", "region = [\"APAC\"], organization = \"weapons\", clearance = \"top_secret\"", 150),
];

/// One data centre: an edge node and a terminator.
pub struct Edge {
    /// The data centre; its machine is this and `-1`.
    pub id: &'static str,
    /// Everything of its own but the sealing key.
    pub dir: PathBuf,
    /// Where visitors come.
    pub visitors: SocketAddr,
    at: u32,
    store: SocketAddr,
    signer: SocketAddr,
    admin: SocketAddr,
    terminator_admin: SocketAddr,
    programs: [Program; 2],
    children: [Option<Child>; 2],
}

/// An authority, its voters, and data centres.
pub struct EdgeRig {
    /// Authority and voters.
    pub rig: Rig,
    /// By name.
    pub edges: Vec<Edge>,
    /// The customer's token.
    pub token: PathBuf,
    /// Who signs the customer's certificates.
    ca: CertifiedIssuer<'static, KeyPair>,
}

fn inventory() -> String {
    let entry = |(id, country, attributes, _): &Site| {
        format!(
            "[[data_center]]\nid = \"{id}\"\ncountry = \"{country}\"\nattributes = {{ {attributes} }}\n\
             [[machine]]\nid = \"{id}-1\"\ndata_center = \"{id}\"\n"
        )
    };
    SITES.iter().map(entry).collect()
}

fn issuer() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

// === building ===

impl EdgeRig {
    /// Starts voters, authority and these data centres, and waits until every machine is ready and has reported.
    pub fn running(seed: u64, sites: &[&str]) -> Self {
        let setup = Setup { demo: true, inventory: &inventory(), schema: Some(SCHEMA) };
        let mut rig = Rig::prepared_with(Cluster::running(3, seed), &setup);
        rig.start();
        rig.unseal();
        rig.operate(&["zone", "add", ZONE, "--domain", "shop.example"]).unwrap();
        let made = rig.operate(&["token", "create", "--zone", ZONE]).unwrap();
        let token = rig.folder.join("token");
        fs::write(&token, made["token"].as_str().unwrap()).unwrap();
        let ca = issuer();
        fs::write(rig.folder.join("shop-ca.pem"), ca.pem()).unwrap();
        let edges = SITES.iter().filter(|site| sites.contains(&site.0)).map(|site| Edge::new(&rig, site)).collect();
        let mut all = Self { rig, edges, token, ca };
        all.enrol();
        (0..all.edges.len()).for_each(|n| all.edges[n].launch());
        all.edges.iter().for_each(Edge::await_ready);
        eventually(READY_MAX, "every machine has reported", || {
            let listed = all.rig.operate(&["machine", "list"]).ok()?;
            let machines = listed["machines"].as_array()?;
            let told = |machine: &&Json| machine["address"].as_str().is_some_and(|at| !at.is_empty());
            (machines.iter().filter(told).count() == all.edges.len()).then_some(())
        });
        all
    }

    fn enrol(&self) {
        let upstreams = self.rig.cluster.voter_addresses();
        self.edges.iter().for_each(|edge| self.enrol_one(edge, &upstreams));
    }

    /// Takes in one more data centre, whose node follows these and is not started: its folder has what enrolment wrote.
    pub fn join(&mut self, id: &str, upstreams: &[SocketAddr]) {
        let site = SITES.iter().find(|site| site.0 == id).unwrap();
        let edge = Edge::new(&self.rig, site);
        self.enrol_one(&edge, upstreams);
        self.edges.push(edge);
    }

    fn enrol_one(&self, edge: &Edge, upstreams: &[SocketAddr]) {
        fs::create_dir(&edge.dir).unwrap();
        fs::write(edge.dir.join("edge.toml"), self.config(edge, upstreams)).unwrap();
        fs::write(edge.dir.join("distances.toml"), self.distances(edge)).unwrap();
        let terminator = format!(
            "listen = [\"{}\"]\nedge_socket = \"{}\"\ndemo_responder = true\nadmin_listen = \"{}\"\n",
            edge.visitors,
            edge.socket().display(),
            edge.terminator_admin
        );
        fs::write(edge.dir.join("terminate.toml"), terminator).unwrap();
        let granted = self.rig.operate(&["machine", "token", &format!("{}-1", edge.id)]).unwrap();
        let token = edge.dir.join("token");
        fs::write(&token, granted["token"].as_str().unwrap()).unwrap();
        let mut enrol = Command::new(BINARY);
        enrol.args(["edge", "enrol", "--config"]).arg(edge.dir.join("edge.toml")).arg("--token-file").arg(&token);
        enrol.args(["--authority", &format!("https://{}", self.rig.customers), "--ca"]);
        run(enrol.arg(self.rig.folder.join("web.pem")), COMMAND_MAX).unwrap();
    }

    fn config(&self, edge: &Edge, upstreams: &[SocketAddr]) -> String {
        let dir = edge.dir.display();
        let upstreams: Vec<String> = upstreams.iter().map(|at| format!("\"{at}\"")).collect();
        let upstreams = upstreams.join(", ");
        format!(
            "[replica]\ncluster = \"{CLUSTER}\"\nlisten = \"{}\"\ndata_dir = \"{dir}/data\"\nsocket = \"{dir}/kv.sock\"\n\
             admin_listen = \"{}\"\nupstreams = [{upstreams}]\n\
             tls = {{ ca = \"{dir}/ca.pem\", cert = \"{dir}/machine.pem\", key = \"{dir}/machine.key\" }}\n\
             [signer]\nlisten = \"{}\"\n[local]\nsocket = \"{dir}/sign.sock\"\n[authority]\naddress = \"{}\"\n\
             [machine]\nsealing_key = \"{}\"\n[router]\ndistance = \"{dir}/distances.toml\"\n",
            edge.store,
            edge.admin,
            edge.signer,
            self.rig.listen,
            self.sealing_key(edge.id).display(),
        )
    }

    fn distances(&self, from: &Edge) -> String {
        let others = || self.edges.iter().filter(|edge| edge.id != from.id);
        let trips = others().map(|edge| format!("{} = {}\n", edge.id, 1000 + edge.at.abs_diff(from.at) * 1000));
        let places = others().map(|edge| format!("\"{}\" = \"{}\"\n", edge.signer, edge.id));
        format!("[round_trip_us]\n{}[addresses]\n{}", trips.collect::<String>(), places.collect::<String>())
    }

    /// Where a machine's sealing key lies: not in its folder.
    pub fn sealing_key(&self, id: &str) -> PathBuf {
        self.rig.folder.join(format!("{id}.sealing"))
    }
}

// === asking ===

impl EdgeRig {
    /// A data centre.
    pub fn edge(&self, id: &str) -> &Edge {
        self.edges.iter().find(|edge| edge.id == id).unwrap()
    }

    /// A data centre, to be stopped or started.
    pub fn edge_mut(&mut self, id: &str) -> &mut Edge {
        self.edges.iter_mut().find(|edge| edge.id == id).unwrap()
    }

    /// A customer's command; gives the JSON that it prints.
    pub fn customer(&self, args: &[&str]) -> Result<Json, Failed> {
        let told = self.rig.ask_as_customer(&[args, &["-o", "json"]].concat(), &self.token)?;
        Ok(serde_json::from_str(&told).unwrap())
    }

    /// Makes a certificate for these names; gives the paths of certificate and key.
    pub fn certificate(&self, file: &str, names: &[&str], rsa: bool) -> (String, String) {
        let key = if rsa { KeyPair::generate_for(&PKCS_RSA_SHA256) } else { KeyPair::generate() }.unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let write = |ending: &str, text: &str| {
            let path = self.rig.folder.join(format!("{file}.{ending}"));
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        (write("pem", &certificate.pem()), write("key", &key.serialize_pem()))
    }

    /// Makes and uploads a certificate under a policy; gives its id.
    pub fn upload(&self, file: &str, names: &[&str], rsa: bool, policy: &str) -> String {
        let (certificate, key) = self.certificate(file, names, rsa);
        let args = ["cert", "add", ZONE, "--certificate", &certificate, "--key-file", &key, "--policy", policy];
        let stored = self.customer(&[&args[..], &["--acknowledge", "few-holders"]].concat()).unwrap();
        stored["id"].as_str().unwrap().to_owned()
    }

    /// Who trusts the customer's CA.
    pub fn visitor(&self) -> Visitor {
        Visitor::new(self.ca.der())
    }

    /// Path of the CA of the customer's certificates.
    pub fn shop_ca(&self) -> PathBuf {
        self.rig.folder.join("shop-ca.pem")
    }

    /// Waits until every data centre that runs serves a name.
    pub fn await_served(&self, host: &str) {
        for edge in self.edges.iter().filter(|edge| edge.runs()) {
            eventually(READY_MAX, &format!("{} serves {host}", edge.id), || {
                self.visitor().visit(host, edge.visitors).ok()
            });
        }
    }
}

/// Data centres in a list of JSON.
pub fn names(list: &Json) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

// === one data centre ===

impl Edge {
    fn new(rig: &Rig, (id, _, _, at): &Site) -> Self {
        let dir = rig.folder.join(id);
        let program = |role: &str, file: &str| {
            let args = [Path::new(role), Path::new("--config"), &dir.join(file)].map(Path::to_owned);
            Program::cinnabar(&format!("{id}-{role}"), args, rig.folder.path())
        };
        let [visitors, store, signer] = [free_address(), free_address(), free_address()];
        let [admin, terminator_admin] = [free_address(), free_address()];
        let programs = [program("edge", "edge.toml"), program("terminate", "terminate.toml")];
        let children = [None, None];
        Self { id, visitors, at: *at, store, signer, admin, terminator_admin, programs, children, dir }
    }

    /// Starts both processes.
    pub fn launch(&mut self) {
        for (child, program) in self.children.iter_mut().zip(&self.programs) {
            assert!(child.is_none(), "{} is up", program.name);
            *child = Some(program.start());
        }
    }

    /// Waits until both are ready.
    pub fn await_ready(&self) {
        for (role, at) in [("edge", self.admin), ("terminator", self.terminator_admin)] {
            eventually(READY_MAX, &format!("{role} of {} is ready", self.id), || {
                http::get(at, "/readyz").ok().filter(|answer| answer.status == 200)
            });
        }
    }

    /// Changes what the next starts of its edge node start.
    pub fn change_node(&mut self, change: impl FnOnce(&mut Program)) {
        change(&mut self.programs[0]);
    }

    /// What its edge node says of its readiness, line by line; nothing while it does not answer.
    pub fn readiness(&self) -> Option<Answer> {
        http::get(self.admin, "/readyz?verbose").ok()
    }

    /// The same of its terminator.
    pub fn terminator_readiness(&self) -> Option<Answer> {
        http::get(self.terminator_admin, "/readyz?verbose").ok()
    }

    /// Kills both.
    pub fn kill_9(&mut self) {
        self.children.iter_mut().for_each(|child| child.take().expect("it runs").kill_9());
    }

    /// Does it run?
    pub fn runs(&self) -> bool {
        self.children[0].is_some()
    }

    /// Its socket for services of its machine.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("sign.sock")
    }

    /// What one of `cinnabar`'s commands says that asks this machine's edge node.
    pub fn ask(&self, args: &[&str]) -> Result<String, Failed> {
        run(Command::new(BINARY).args(args).arg("--edge-socket").arg(self.socket()), COMMAND_MAX)
    }

    /// A call of its agent.
    pub fn agent<T, F>(&self, call: impl FnOnce(EdgeClient) -> F) -> T
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { call(EdgeClient::new(&self.socket())).await.unwrap().into_inner() })
    }

    /// How it says that it is.
    pub fn status(&self) -> proto::StatusResponse {
        self.agent(|client| async move { client.agent().status(proto::StatusRequest {}).await })
    }

    /// Signatures that were made for its services.
    pub fn signed(&self) -> u64 {
        let status = self.status();
        status.signed_here + status.signed_elsewhere
    }

    /// A metric, summed over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = http::get(self.admin, "/metrics").unwrap().body;
        let values = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.sum()
    }

    /// Who checks records, by what its enrolment pinned.
    pub fn verifier(&self) -> Verifier {
        let pins = Pins::load(&self.dir.join("data/trust.toml")).unwrap();
        Verifier::new(pins.cluster.clone(), pins.record_key().unwrap())
    }
}
