//! Our own processes: a cluster of voters over TLS on loopback, made the way an operator makes one.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::{Env, Tls, TlsFiles};
use cinnabar_kv_api::{Client, ClientConfig, Target};
use tokio::time::{Instant, sleep, timeout};

use crate::Fallible;
use crate::child::{Child, free_ports, run};

/// The binary that is measured.
pub const BINARY: &str = env!("CARGO_BIN_EXE_cinnabar");
/// Longest wait for a cluster to have a leader.
const START_MAX: Duration = Duration::from_secs(20);
/// Longest wait for an answer of a process that may still be starting.
const PROBE_MAX: Duration = Duration::from_millis(500);
/// Longest that a call of a client may take.
const CALL_MAX: Duration = Duration::from_secs(20);

/// A running cluster.
pub struct Cluster {
    folder: PathBuf,
    voters: Vec<Node>,
    tls: Arc<Tls>,
}

/// One process of it.
pub struct Node {
    /// Where its gRPC is.
    pub address: String,
    /// The process.
    pub process: Child,
    /// What its files begin with.
    base: PathBuf,
    role: &'static str,
}

fn cinnabar(args: &[&str]) -> Fallible<String> {
    run(Path::new(BINARY), args)
}

impl Cluster {
    /// Starts `voters` voters in a folder and makes them a cluster.
    pub async fn start(folder: &Path, voters: usize) -> Fallible<Self> {
        fs::create_dir_all(folder)?;
        let text = |path: &Path| path.display().to_string();
        cinnabar(&["pki", "init", "--cluster", "bench", "--out", &text(&folder.join("ca"))])?;
        let issue = |role: &str, name: &str| {
            let (ca, out) = (text(&folder.join("ca")), text(&folder.join(name)));
            cinnabar(&["pki", "issue", "--ca", &ca, "--role", role, "--name", name, "--out", &out])
        };
        issue("operator", "operator")?;
        let mut nodes = Vec::new();
        for (n, port) in free_ports(voters)?.into_iter().enumerate() {
            let name = format!("voter-{n}");
            issue("voter", &name)?;
            nodes.push(Node::start(folder, "voter", &name, port, "")?);
        }
        let files =
            TlsFiles { ca: folder.join("ca.pem"), cert: folder.join("operator.pem"), key: folder.join("operator.key") };
        let tls = Tls::load_client(&files, Env::system().clock)?;
        let cluster = Self { folder: folder.to_owned(), voters: nodes, tls };
        let (ca, cert, key) = (text(&files.ca), text(&files.cert), text(&files.key));
        let mut args = vec!["--ca", &ca, "--cert", &cert, "--key", &key, "init"];
        args.insert(0, "cluster");
        args.extend(cluster.voters.iter().map(|node| node.address.as_str()));
        let until = Instant::now() + START_MAX;
        // The processes may not listen yet.
        while let Err(error) = cinnabar(&args) {
            if Instant::now() > until {
                return Err(error);
            }
            sleep(Duration::from_millis(100)).await;
        }
        cluster.leader().await?;
        Ok(cluster)
    }

    /// A client of one address.
    pub fn client(&self, address: &str) -> Fallible<Client> {
        let target = Target::Tcp { addresses: vec![address.to_owned()], tls: self.tls.clone() };
        Ok(Client::new(ClientConfig { target, env: Env::system(), deadline: CALL_MAX })?)
    }

    /// The voter that leads, as its position.
    pub async fn leader(&self) -> Fallible<usize> {
        let until = Instant::now() + START_MAX;
        while Instant::now() < until {
            for (n, node) in self.voters.iter().enumerate() {
                if self.client(&node.address)?.status().await.is_ok_and(|status| status.role == "leader") {
                    return Ok(n);
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(format!("no leader; the logs are in {}", self.folder.display()).into())
    }

    /// The voters.
    pub fn voters(&self) -> &[Node] {
        &self.voters
    }

    /// One of them, to end and start it.
    pub fn voter_mut(&mut self, n: usize) -> &mut Node {
        &mut self.voters[n]
    }

    /// Process ids of the voters, the leader's first.
    pub async fn pids(&self) -> Fallible<Vec<u32>> {
        let mut pids: Vec<u32> = self.voters.iter().map(|node| node.process.id()).collect();
        pids.swap(0, self.leader().await?);
        Ok(pids)
    }

    /// Issues a certificate into the cluster's folder.
    pub fn issue(&self, role: &str, name: &str) -> Fallible<TlsFiles> {
        let text = |path: PathBuf| path.display().to_string();
        let (ca, out) = (text(self.folder.join("ca")), text(self.folder.join(name)));
        cinnabar(&["pki", "issue", "--ca", &ca, "--role", role, "--name", name, "--out", &out])?;
        let file = |ending: &str| self.folder.join(format!("{name}{ending}"));
        Ok(TlsFiles { ca: self.folder.join("ca.pem"), cert: file(".pem"), key: file(".key") })
    }

    /// Starts a replica that follows these nodes; `more` are further lines of its configuration.
    pub fn replica(&self, name: &str, upstreams: &[&str], more: &str) -> Fallible<Node> {
        self.issue("replica", name)?;
        let port = free_ports(1)?[0];
        Node::start(&self.folder, "replica", name, port, &format!("upstreams = {upstreams:?}\n{more}"))
    }
}

impl Node {
    /// Starts a process whose certificate is in the folder; `more` are further lines of its configuration.
    pub fn start(folder: &Path, role: &'static str, name: &str, port: u16, more: &str) -> Fallible<Self> {
        let base = folder.join(name);
        let at = |ending: &str| format!("{}{ending}", base.display());
        let address = format!("127.0.0.1:{port}");
        let mut conf = String::new();
        writeln!(conf, "cluster = \"bench\"\nlisten = \"{address}\"\ndata_dir = \"{}\"", at(".data"))?;
        writeln!(conf, "socket = \"{}\"\nresp_socket = \"{}\"\n{more}", at(".sock"), at(".resp"))?;
        writeln!(conf, "[tls]\nca = \"{}\"", folder.join("ca.pem").display())?;
        writeln!(conf, "cert = \"{}\"\nkey = \"{}\"", at(".pem"), at(".key"))?;
        fs::write(at(".toml"), conf)?;
        let process = launch(&base, role)?;
        Ok(Self { address, process, base, role })
    }

    /// One of its files.
    pub fn file(&self, ending: &str) -> PathBuf {
        format!("{}{ending}", self.base.display()).into()
    }

    /// Starts it once more, after its end.
    pub fn again(&mut self) -> Fallible<()> {
        self.process = launch(&self.base, self.role)?;
        Ok(())
    }

    /// A client of its Unix socket.
    pub fn client(&self) -> Fallible<Client> {
        let target = Target::Unix(self.file(".sock"));
        Ok(Client::new(ClientConfig { target, env: Env::system(), deadline: CALL_MAX })?)
    }

    /// Waits until it has applied an entry and says that it is well.
    pub async fn reach(&self, index: u64, within: Duration) -> Fallible<()> {
        let until = Instant::now() + within;
        let mut last = "it does not answer".to_owned();
        while Instant::now() < until {
            // A new connection each time: one that failed waits before it dials again.
            match timeout(PROBE_MAX, self.client()?.status()).await {
                Ok(Ok(status)) if status.applied_index >= index && status.health == "ok" => return Ok(()),
                Ok(Ok(status)) => last = format!("it is at entry {} and {}", status.applied_index, status.health),
                _ => {}
            }
            sleep(Duration::from_millis(5)).await;
        }
        Err(format!("{} is not at entry {index}: {last}", self.base.display()).into())
    }
}

fn launch(base: &Path, role: &str) -> Fallible<Child> {
    let at = |ending: &str| format!("{}{ending}", base.display());
    Child::start(Path::new(BINARY), &[role, "--config", &at(".toml")], at(".log").into())
}
