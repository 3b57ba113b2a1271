//! Handshakes through a terminator, 200 at once: with a key that its node holds, and with one 50 ms away.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::Env;
use hdrhistogram::Histogram;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use crate::child::{Child, free_ports};
use crate::cinnabar::BINARY;
use crate::load::histogram;
use crate::material::{FAR, Material, NEAR};
use crate::node::Node;
use crate::report::{hundredths, median_of, number};
use crate::{Fallible, Plan};

/// Handshakes at once.
const AT_ONCE: usize = 200;
/// The round trip to the far key, in microseconds.
const FAR_US: u32 = 50_000;
/// How many times as long as with a local key all of them may take, beside the round trip.
const TIMES_LOCAL: f64 = 1.5;
/// Longest wait for the terminator.
const READY_MAX: Duration = Duration::from_secs(20);
/// Rounds for each repeat.
const ROUNDS: usize = 4;

/// The measured binary beside a node.
struct Terminator {
    _process: Child,
    address: SocketAddr,
    visitor: TlsConnector,
}

impl Terminator {
    async fn start(material: &Material, node: &Node) -> Fallible<Self> {
        let sink = Env::system().net.listen(([127, 0, 0, 1], 0).into())?;
        let (ports, upstream) = (free_ports(2)?, sink.local_addr()?);
        // Visitors have nothing to say.
        tokio::spawn(async move { while sink.accept().await.is_ok() {} });
        let address = SocketAddr::from(([127, 0, 0, 1], ports[0]));
        let admin = format!("127.0.0.1:{}", ports[1]);
        let text = format!(
            "listen = [\"{address}\"]\nedge_socket = {:?}\nupstream = \"{upstream}\"\nadmin_listen = \"{admin}\"\n\
             [log]\nfilter = \"warn\"\n",
            node.socket.display().to_string()
        );
        let (file, log) = (material.folder.join("terminate.toml"), material.folder.join("terminate.log"));
        fs::write(&file, text)?;
        let args = ["terminate", "--config", &file.display().to_string()].map(str::to_owned);
        let mut process = Child::start(Path::new(BINARY), &args, log)?;
        let begun = Instant::now();
        while !is_ready(&admin).await {
            if begun.elapsed() > READY_MAX || !process.runs()? {
                let log = fs::read_to_string(&process.log).unwrap_or_default();
                return Err(format!("the terminator is not ready: {log}").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { _process: process, address, visitor: visitor(&material.root)? })
    }

    /// All at once: how long until the last was done, and each of them.
    async fn crowd(self: &Arc<Self>, hostname: &'static str) -> Fallible<(f64, Histogram<u64>)> {
        let (begun, mut visits, mut times) = (Instant::now(), JoinSet::new(), histogram());
        for _ in 0..AT_ONCE {
            let terminator = self.clone();
            visits.spawn(async move { visit(&terminator.visitor, terminator.address, hostname).await });
        }
        let mut last = Duration::ZERO;
        while let Some(visited) = visits.join_next().await {
            times.saturating_record(u64::try_from(visited??.as_nanos())?);
            last = begun.elapsed();
        }
        Ok((last.as_secs_f64() * 1e3, times))
    }
}

/// One handshake, verified; how long it took from the first byte of TCP.
pub async fn visit(visitor: &TlsConnector, address: SocketAddr, hostname: &str) -> Fallible<Duration> {
    let begun = Instant::now();
    let tcp = Env::system().net.dial(&address.to_string()).await?;
    let mut stream = visitor.connect(ServerName::try_from(hostname.to_owned())?, tcp).await?;
    let took = begun.elapsed();
    stream.shutdown().await?;
    Ok(took)
}

/// Does an administrative listener say that its process is ready?
pub async fn is_ready(admin: &str) -> bool {
    let Ok(mut stream) = Env::system().net.dial(admin).await else { return false };
    let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    asked.is_ok() && stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200")
}

/// Who trusts the customers' authority and keeps no sessions.
pub fn visitor(root: &[u8]) -> Fallible<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root.to_vec()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The rows of the part.
pub async fn run(plan: &Plan, material: &Material) -> Fallible<Vec<Value>> {
    let (near, far) = (Node::start(material, NEAR).await?, Node::start(material, FAR).await?);
    near.knows(&far, FAR_US).await?;
    let terminator = Arc::new(Terminator::start(material, &near).await?);
    let mut rows = Vec::new();
    for (key, names) in
        [("P-256", ["local-p256.example", "far-p256.example"]), ("RSA-2048", ["local-rsa.example", "far-rsa.example"])]
    {
        plan.progress(&format!("handshake: {key}"));
        let mut runs = Vec::new();
        for _ in 0..plan.repeats * ROUNDS {
            let mut row = json!({ "key": key });
            for (place, name) in ["local", "far"].into_iter().zip(names) {
                // The first one has the certificate fetched: the crowd measures signatures.
                visit(&terminator.visitor, terminator.address, name).await?;
                let (all, times) = terminator.crowd(name).await?;
                row[format!("{place}_ms")] = hundredths(all).into();
                for (word, quantile) in [("p50", 0.5), ("p99", 0.99)] {
                    row[format!("{place}_{word}_ms")] =
                        hundredths(times.value_at_quantile(quantile) as f64 / 1e6).into();
                }
            }
            runs.push(row);
        }
        let mut row = median_of(&runs);
        let bound = f64::from(FAR_US) / 1e3 + TIMES_LOCAL * number(&row["local_ms"]);
        row["bound_ms"] = hundredths(bound).into();
        row["required"] = format!("far_ms <= {:.0} + {TIMES_LOCAL} local_ms", f64::from(FAR_US) / 1e3).into();
        row["met"] = (number(&row["far_ms"]) <= bound).into();
        rows.push(row);
    }
    Ok(rows)
}
