//! Our own processes: a cluster of voters over TLS on loopback, made the way an operator makes one.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::{Env, Tls, TlsFiles};
use cinnabar_kv_api::{Client, ClientConfig, Target};
use tokio::time::{Instant, sleep};

use crate::Fallible;
use crate::child::{Child, free_ports, run};

/// The binary that is measured.
pub const BINARY: &str = env!("CARGO_BIN_EXE_cinnabar");
/// Longest wait for a cluster to have a leader.
const START_MAX: Duration = Duration::from_secs(20);
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
}

impl Node {
    /// Starts a process whose certificate is in the folder; `more` are further lines of its configuration.
    pub fn start(folder: &Path, role: &str, name: &str, port: u16, more: &str) -> Fallible<Self> {
        let at = |ending: &str| folder.join(format!("{name}{ending}")).display().to_string();
        let address = format!("127.0.0.1:{port}");
        let mut conf = String::new();
        writeln!(conf, "cluster = \"bench\"\nlisten = \"{address}\"\ndata_dir = \"{}\"", at(".data"))?;
        writeln!(conf, "socket = \"{}\"\n{more}", at(".sock"))?;
        writeln!(conf, "[tls]\nca = \"{}\"", folder.join("ca.pem").display())?;
        writeln!(conf, "cert = \"{}\"\nkey = \"{}\"", at(".pem"), at(".key"))?;
        fs::write(at(".toml"), conf)?;
        let process = Child::start(Path::new(BINARY), &[role, "--config", &at(".toml")], at(".log").into())?;
        Ok(Self { address, process })
    }
}
