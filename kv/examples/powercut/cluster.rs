//! Three voters and a replica as real processes, their folders on one disk.
//!
//! Law: a term that a voter has shown never goes back, a term has one leader, and the newest checkpoint that a replica
//! has on disk never goes back, whatever is cut.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::{Env, Tls, TlsFiles};
use cinnabar_kv_api::proto::{GetRequest, ScanRequest, StatusResponse};
use cinnabar_kv_api::{Client, ClientConfig, SignedCheckpoint, Target};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::disk::must;
use crate::ledger::{PREFIX, Slot};
use crate::{Rng, Step, problem};

/// Voters.
pub const VOTERS: usize = 3;
/// Ports are taken from here up, below those that the system gives to whoever dials.
const PORT_FIRST: u16 = 20_000;
/// Longest that one question may take.
const ASK: Duration = Duration::from_millis(700);
/// Lines of a process's log that are shown when it ended too early.
const TAIL_LINES: usize = 12;

/// One process.
pub struct Node {
    /// Its name.
    pub name: String,
    role: &'static str,
    data: PathBuf,
    config: PathBuf,
    log: PathBuf,
    /// Bytes of its log file when the newest cut was done.
    log_seen: u64,
    child: Option<Child>,
    client: Client,
    term: u64,
    first_log_index: u64,
}

/// All of them.
pub struct Cluster {
    /// The voters, then the replica.
    pub nodes: Vec<Node>,
    binary: PathBuf,
    /// A library that takes the sync calls away, for the control.
    preload: Option<PathBuf>,
    addresses: Vec<String>,
    tls: Arc<Tls>,
    credentials: [PathBuf; 3],
    leaders: BTreeMap<u64, String>,
    /// Times that a voter was seen to have purged its log.
    pub purges: u64,
    /// The replica's checkpoints: the last one seen, and the one before, which was synced before it.
    checkpoints: [(u64, u64); 2],
    /// Longest wait for a leader and for equal states.
    pub patience: Duration,
}

fn free_port(rng: &mut Rng) -> Step<u16> {
    let ports = (0..200).map(|_| PORT_FIRST + rng.below(10_000) as u16);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.into_iter().find(free).ok_or_else(|| problem("no free port"))
}

fn client(addresses: Vec<String>, tls: &Arc<Tls>, deadline: Duration) -> Step<Client> {
    let config = ClientConfig { target: Target::Tcp { addresses, tls: tls.clone() }, env: Env::system(), deadline };
    Client::new(config).map_err(problem)
}

impl Cluster {
    /// Writes certificates and configuration into `dir`; the data will be on `disk`.
    pub fn new(binary: &Path, preload: Option<&Path>, dir: &Path, disk: &Path, rng: &mut Rng) -> Step<Self> {
        fs::create_dir_all(dir)?;
        let ca = dir.join("ca");
        must(Command::new(binary).args(["pki", "init", "--cluster", "powercut", "--out"]).arg(&ca))?;
        let issue = |role: &str, name: &str| -> Step<[PathBuf; 3]> {
            let out = dir.join(name);
            let mut command = Command::new(binary);
            command.args(["pki", "issue", "--role", role, "--name", name, "--ca"]).arg(&ca).arg("--out").arg(&out);
            must(&mut command)?;
            Ok([ca.join("ca.pem"), out.with_extension("pem"), out.with_extension("key")])
        };
        let credentials = issue("operator", "operator")?;
        let [ca_file, cert, key] = credentials.clone();
        let tls = Tls::load_client(&TlsFiles { ca: ca_file, cert, key }, Env::system().clock).map_err(problem)?;
        let ports: Vec<u16> = (0..=VOTERS).map(|_| free_port(rng)).collect::<Step<_>>()?;
        let addresses: Vec<String> = ports[..VOTERS].iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut nodes = Vec::new();
        for (n, port) in ports.iter().enumerate() {
            let (role, name) =
                if n < VOTERS { ("voter", format!("voter{}", n + 1)) } else { ("replica", "replica".to_owned()) };
            let [ca, cert, key] = issue(role, &name)?.map(|path| path.display().to_string());
            let data = disk.join(&name);
            let mut text = format!("cluster = \"powercut\"\nlisten = \"127.0.0.1:{port}\"\ndata_dir = {data:?}\n");
            let extra = match role {
                "replica" => format!("upstreams = {addresses:?}\n"),
                _ => "[raft]\nheartbeat = \"60ms\"\nelection_min = \"250ms\"\nelection_max = \"500ms\"\n".to_owned(),
            };
            text += &format!("{extra}[tls]\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n[log]\nfilter = \"info\"\n");
            let config = dir.join(format!("{name}.toml"));
            fs::write(&config, text)?;
            let log = dir.join(format!("{name}.log"));
            let client = client(vec![format!("127.0.0.1:{port}")], &tls, ASK)?;
            nodes.push(Node {
                name,
                role,
                data,
                config,
                log,
                log_seen: 0,
                child: None,
                client,
                term: 0,
                first_log_index: 1,
            });
        }
        let (binary, preload) = (binary.to_owned(), preload.map(Path::to_owned));
        let (leaders, checkpoints, patience) = (BTreeMap::new(), [(0, 0); 2], Duration::from_secs(60));
        Ok(Self { nodes, binary, preload, addresses, tls, credentials, leaders, purges: 0, checkpoints, patience })
    }

    /// Makes the voters one cluster.
    pub async fn init(&mut self) -> Step<()> {
        let begun = Instant::now();
        loop {
            let [ca, cert, key] = &self.credentials;
            let mut command = Command::new(&self.binary);
            command.args(["cluster", "init", "--ca"]).arg(ca).arg("--cert").arg(cert).arg("--key").arg(key);
            match must(command.args(&self.addresses)) {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > self.patience => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// A client of all voters.
    pub fn client(&self, deadline: Duration) -> Step<Client> {
        client(self.addresses.clone(), &self.tls, deadline)
    }

    /// Starts a process.
    pub fn start(&mut self, n: usize, keep: &str) -> Step<()> {
        let node = &mut self.nodes[n];
        let log = fs::File::options().create(true).append(true).open(&node.log)?;
        let mut command = Command::new(&self.binary);
        command.arg(node.role).arg("--config").arg(&node.config).args(["--set", &format!("log_keep_bytes={keep}")]);
        if let Some(preload) = &self.preload {
            command.env("LD_PRELOAD", preload);
        }
        node.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// Starts all, in a random order.
    pub fn start_all(&mut self, keep: &str, rng: &mut Rng) -> Step<()> {
        let first = rng.below(self.nodes.len() as u64) as usize;
        let count = self.nodes.len();
        (0..count).map(|n| (first + n) % count).try_for_each(|n| self.start(n, keep))
    }

    /// Ends a process at once.
    pub fn kill(&mut self, n: usize) {
        if let Some(mut child) = self.nodes[n].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends all at once.
    pub fn kill_all(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.kill();
        }
        (0..self.nodes.len()).for_each(|n| self.kill(n));
    }

    /// Stops all where they are.
    pub fn freeze(&mut self) {
        for child in self.nodes.iter().filter_map(|node| node.child.as_ref()) {
            let _ = kill_process(Pid::from_child(child), Signal::STOP);
        }
    }

    /// What a node's log has gained since the newest [`Cluster::mark_logs`].
    pub fn news(&self, n: usize) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = fs::File::open(&self.nodes[n].log)?;
            file.seek(SeekFrom::Start(self.nodes[n].log_seen))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }

    /// Counts the logs' news from here.
    pub fn mark_logs(&mut self) {
        for node in &mut self.nodes {
            node.log_seen = fs::metadata(&node.log).map_or(0, |found| found.len());
        }
    }

    /// Every process that was started must run.
    pub fn check_running(&mut self) -> Step<()> {
        for n in 0..self.nodes.len() {
            let ended = self.nodes[n].child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                let news = self.news(n);
                let lines: Vec<&str> = news.lines().collect();
                let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n    ");
                return Err(problem(format!("{} ended ({status}):\n    {tail}", self.nodes[n].name)));
            }
        }
        Ok(())
    }

    /// Asks every running node how it is.
    pub async fn statuses(&mut self) -> Step<Vec<Option<StatusResponse>>> {
        let running: Vec<_> = self.nodes.iter().map(|node| node.child.is_some().then(|| node.client.clone())).collect();
        let asked = running.into_iter().map(|client| async move {
            match client {
                Some(client) => client.status().await.ok(),
                None => None,
            }
        });
        let answers = futures::future::join_all(asked).await;
        for (node, status) in self.nodes.iter_mut().zip(&answers) {
            // Before the core has said a word its term is not known.
            let Some(status) = status.as_ref().filter(|status| node.role == "voter" && status.term > 0) else {
                continue;
            };
            if status.term < node.term {
                return Err(problem(format!("{}: term {} after it was {}", node.name, status.term, node.term)));
            }
            node.term = status.term;
            self.purges += u64::from(status.first_log_index > node.first_log_index);
            node.first_log_index = node.first_log_index.max(status.first_log_index);
            if status.role == "leader" {
                let leader = self.leaders.entry(status.term).or_insert_with(|| status.node.clone());
                if *leader != status.node {
                    return Err(problem(format!("term {} has two leaders: {leader}, {}", status.term, status.node)));
                }
            }
        }
        Ok(answers)
    }

    /// Terms in which a leader was seen.
    pub fn terms(&self) -> usize {
        self.leaders.len()
    }

    /// The voter that leads now, with its status.
    pub async fn leader(&mut self) -> Step<Option<(usize, StatusResponse)>> {
        let statuses = self.statuses().await?;
        let leading = |(n, status): (usize, Option<StatusResponse>)| Some((n, status?));
        let leading =
            statuses.into_iter().enumerate().filter_map(leading).filter(|(_, status)| status.role == "leader");
        Ok(leading.max_by_key(|(_, status)| status.term))
    }

    /// Waits until a leader answers a linearizable read; gives the index that it had applied.
    pub async fn await_leader(&mut self) -> Step<u64> {
        let begun = Instant::now();
        loop {
            self.check_running()?;
            if let Some((n, _)) = self.leader().await? {
                let read = GetRequest { linearizable: true, ..Client::get_request(format!("{PREFIX}leader")) };
                if let Ok(answer) = self.nodes[n].client.get(read).await {
                    return Ok(answer.stamp.unwrap_or_default().applied_index);
                }
            }
            if begun.elapsed() > self.patience {
                return Err(problem(format!("no leader within {:?}", self.patience)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every node has applied the same entries; their states must be equal then.
    pub async fn await_equal(&mut self) -> Step<u64> {
        let begun = Instant::now();
        loop {
            self.check_running()?;
            let statuses: Vec<StatusResponse> = self.statuses().await?.into_iter().flatten().collect();
            if let Some(wrong) = statuses.iter().find(|status| status.health == "damaged") {
                return Err(problem(format!("{}: its state is not the signed one", wrong.node)));
            }
            let mut seen: BTreeMap<u64, &StatusResponse> = BTreeMap::new();
            for status in &statuses {
                let other = seen.entry(status.applied_index).or_insert(status);
                if (&other.state_hash, &other.chain_head) != (&status.state_hash, &status.chain_head) {
                    let at = status.applied_index;
                    return Err(problem(format!("{} and {} differ at entry {at}", other.node, status.node)));
                }
            }
            if statuses.len() == self.nodes.len() && seen.len() == 1 {
                return Ok(statuses[0].applied_index);
            }
            if begun.elapsed() > self.patience {
                let at: Vec<_> =
                    statuses.iter().map(|s| format!("{} {} {}", s.node, s.health, s.applied_index)).collect();
                return Err(problem(format!("not equal within {:?}: {}", self.patience, at.join(", "))));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything that one node has under [`PREFIX`].
    pub async fn scan(&self, n: usize, at_least: u64) -> Step<BTreeMap<String, Slot>> {
        let node = &self.nodes[n];
        let mut request = ScanRequest { prefix: PREFIX.into(), at_least, wait_ms: 30_000, ..ScanRequest::default() };
        let client = client(vec![self.address(n)?], &self.tls, self.patience)?;
        let mut found = BTreeMap::new();
        loop {
            let page = client.scan(request.clone()).await;
            let page = page.map_err(|error| problem(format!("{}: scan: {error}", node.name)))?;
            for record in page.records {
                let key = String::from_utf8_lossy(&record.key).into_owned();
                found.insert(key, Slot::of(&record.value, record.mod_index));
            }
            if page.next_token.is_empty() {
                return Ok(found);
            }
            request.token = page.next_token;
        }
    }

    fn address(&self, n: usize) -> Step<String> {
        let text = fs::read_to_string(&self.nodes[n].config)?;
        let line = text.lines().find_map(|line| line.strip_prefix("listen = "));
        line.map(|line| line.trim_matches('"').to_owned()).ok_or_else(|| problem("no address"))
    }

    /// Looks at the replica's newest checkpoint on disk. One that another took the place of was synced before.
    pub fn note_checkpoint(&mut self) -> Step<()> {
        let Some(found) = self.checkpoint()? else { return Ok(()) };
        if found > self.checkpoints[0] {
            self.checkpoints = [found, self.checkpoints[0]];
        }
        Ok(())
    }

    /// After a cut: the newest checkpoint must not be older than the newest that was surely synced.
    pub fn check_checkpoint(&mut self) -> Step<()> {
        let (found, least) = (self.checkpoint()?.unwrap_or_default(), self.checkpoints[1]);
        if found < least {
            return Err(problem(format!("the replica's checkpoint went back from {least:?} to {found:?}")));
        }
        self.checkpoints = [found, found];
        Ok(())
    }

    fn checkpoint(&self) -> Step<Option<(u64, u64)>> {
        let file = self.nodes[VOTERS].data.join("checkpoint");
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(problem(format!("{}: {error}", file.display()))),
        };
        let signed = SignedCheckpoint::decode(&bytes).map_err(problem)?;
        let checkpoint = signed.decode_body().map_err(problem)?;
        Ok(Some((checkpoint.index, checkpoint.unix_ms)))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}
