//! From an upload to a handshake at every edge node: the demonstration's processes, with its distances taken away.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cinnabar_edge_api::client::EdgeClient;
use cinnabar_edge_api::proto::SetDistanceRequest;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use crate::child::run as run_to_its_end;
use crate::cinnabar::BINARY;
use crate::cold;
use crate::handshake::{visit, visitor};
use crate::https::{Https, trusting};
use crate::load::histogram;
use crate::report::{hundredths, require};
use crate::{Fallible, Plan};

/// The zone that is measured with, and its domain.
const ZONE: &str = "measured";
pub const DOMAIN: &str = "measured.example";
/// The demonstration's own policy, which has its key.
pub const KNOWN: &str = "region: EU and (not country: FR)";
/// What the demonstration ended or revoked.
const GONE: [&str; 2] = ["ams", "gru"];
/// Pause between two visits of an edge node that does not serve the name yet.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Longest wait for an edge node to serve an upload.
const SERVED_MAX: Duration = Duration::from_secs(20);
/// Longest that an upload may take to every edge node, p99.
const EVERYWHERE_MS: f64 = 300.0;

/// The demonstration, ended with this.
pub struct Demo {
    /// Its folder.
    pub folder: PathBuf,
    /// What it wrote down.
    pub told: Value,
    edges: Vec<SocketAddr>,
    customers: SocketAddr,
    trust: Arc<rustls::ClientConfig>,
    token: String,
}

/// A customer's authority of certificates.
pub struct Issuer(CertifiedIssuer<'static, KeyPair>);

impl Issuer {
    fn new() -> Fallible<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "measured");
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// A request to store a new certificate of a name under a policy.
    pub fn body(&self, name: &str, policy: &str) -> Fallible<Bytes> {
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.0)?;
        let body = json!({ "certificate": leaf.pem() + &self.0.pem(), "private_key": key.serialize_pem(),
            "policy": policy, "acknowledge": ["few-holders"] });
        Ok(body.to_string().into())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let ended = run_to_its_end(Path::new(BINARY), &["demo", "down", "--dir", &self.folder.display().to_string()]);
        if let Err(error) = ended {
            eprintln!("bench-edge: {error}");
        }
    }
}

impl Demo {
    async fn start(folder: PathBuf) -> Fallible<Self> {
        let text = folder.display().to_string();
        tokio::task::spawn_blocking(move || {
            run_to_its_end(Path::new(BINARY), &["demo", "up", "--no-curl", "--dir", &text])
        })
        .await??;
        let told: Value = serde_json::from_slice(&std::fs::read(folder.join("cluster.json"))?)?;
        let address = |value: &Value| -> Fallible<SocketAddr> { Ok(value.as_str().ok_or("no address")?.parse()?) };
        let (trust, customers) = (trusting(&folder.join("customer/ca.pem"))?, address(&told["customers"])?);
        let mut demo = Self { folder, told: told.clone(), edges: Vec::new(), customers, trust, token: String::new() };
        let centers = told["data_centers"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = centers.iter().filter_map(|center| center["data_center"].as_str()).collect();
        for center in &centers {
            let name = center["data_center"].as_str().unwrap_or_default();
            if GONE.contains(&name) {
                continue;
            }
            demo.edges.push(address(&center["visitors"])?);
            let client = EdgeClient::new(Path::new(center["sign_socket"].as_str().ok_or("no socket")?));
            for other in names.iter().filter(|other| **other != name) {
                let request = SetDistanceRequest { data_center: (*other).to_owned(), round_trip_us: 0 };
                client.agent().set_distance(request).await?;
            }
        }
        let authority = told["authority"].as_str().ok_or("no authority")?.to_owned();
        demo.token = demo.zone(&authority)?;
        Ok(demo)
    }

    /// Makes a zone that nothing holds back, and a token of it.
    fn zone(&self, authority: &str) -> Fallible<String> {
        let at = |name: &str| self.folder.join("certs").join(name).display().to_string();
        let (ca, cert, key) = (at("ca.pem"), at("operator.pem"), at("operator.key"));
        let operate = |args: &[&str]| {
            let who = ["-o", "json", "--authority", authority, "--ca", &ca, "--cert", &cert, "--key", &key];
            run_to_its_end(Path::new(BINARY), &args.iter().copied().chain(who).collect::<Vec<_>>())
        };
        let most = ["--keys-max", "100000", "--changes-per-minute", "100000"];
        operate(&[&["zone", "add", ZONE, "--domain", DOMAIN], &most[..]].concat())?;
        let made: Value = serde_json::from_str(&operate(&["token", "create", "--zone", ZONE])?)?;
        Ok(made["token"].as_str().ok_or("no token")?.to_owned())
    }

    /// A customer's connection.
    pub fn customer(&self) -> Https {
        Https::new(self.customers, self.trust.clone())
    }

    /// Uploads a certificate.
    pub async fn upload(&self, customer: &Https, body: Bytes) -> Fallible<()> {
        Ok(customer.post(&format!("/v1/zones/{ZONE}/certificates"), &self.token, body).await.map(drop)?)
    }

    /// Uploads a certificate; gives how long the answer took, and how long until every edge node had served it.
    async fn everywhere(
        &self,
        customer: &Https,
        visitor: &TlsConnector,
        name: &str,
        body: Bytes,
    ) -> Fallible<(Duration, Duration)> {
        let (begun, mut visits) = (Instant::now(), JoinSet::new());
        for edge in self.edges.clone() {
            let (visitor, name) = (visitor.clone(), name.to_owned());
            visits.spawn(async move {
                while let Err(problem) = visit(&visitor, edge, &name).await {
                    if begun.elapsed() > SERVED_MAX {
                        return Err(format!("{edge} does not serve {name}: {problem}"));
                    }
                    sleep(LOOK_EVERY).await;
                }
                Ok(begun.elapsed())
            });
        }
        self.upload(customer, body).await?;
        let (answered, mut last) = (begun.elapsed(), Duration::ZERO);
        while let Some(visited) = visits.join_next().await {
            last = last.max(visited??);
        }
        Ok((answered, last))
    }
}

/// A policy that nobody wrote before, for the same machines: which others are named, as bits.
fn unheard_of(n: usize) -> String {
    let others = ["iad", "gru", "lhr", "nrt"].iter().enumerate().filter(|(bit, _)| (n + 1) >> bit & 1 == 1);
    others.fold(KNOWN.to_owned(), |policy, (_, name)| format!("{policy} and (not dc: {name})"))
}

/// The rows of both parts that need the demonstration.
pub async fn run(plan: &Plan, folder: &Path) -> Fallible<(Vec<Value>, Vec<Value>)> {
    plan.progress("upload: starting the demonstration");
    let demo = Arc::new(Demo::start(folder.join("demo")).await?);
    let (issuer, customer) = (Arc::new(Issuer::new()?), demo.customer());
    let visitor = visitor(issuer.0.der())?;
    let mut rows = Vec::new();
    for (what, count) in [("has its key", plan.repeats * 20), ("new", (plan.repeats * 3).min(15))] {
        plan.progress(&format!("upload: the policy {what}"));
        let (mut answers, mut times) = (histogram(), histogram());
        for n in 0..count {
            let policy = if what == "new" { unheard_of(n) } else { KNOWN.to_owned() };
            let name = format!("{}{n}.{DOMAIN}", &what[..1]);
            let body = issuer.body(&name, &policy)?;
            let (answered, everywhere) = demo.everywhere(&customer, &visitor, &name, body).await?;
            answers.saturating_record(u64::try_from(answered.as_nanos())?);
            times.saturating_record(u64::try_from(everywhere.as_nanos())?);
        }
        let ms = |times: &hdrhistogram::Histogram<u64>, at| hundredths(times.value_at_quantile(at) as f64 / 1e6);
        let mut row = json!({ "policy": what, "edges": demo.edges.len(), "operations": count,
            "answered_p50_ms": ms(&answers, 0.5), "p50_ms": ms(&times, 0.5), "p99_ms": ms(&times, 0.99) });
        if what != "new" {
            require(&mut row, "p99_ms", EVERYWHERE_MS);
        }
        rows.push(row);
    }
    let cold = cold::run(plan, &demo, &issuer, &visitor).await?;
    Ok((rows, cold))
}
