//! A whole cluster on this machine: certificates, voters, a tree of replicas, and the network between them.
//!
//! The road: [`Cluster::new`] writes certificates and configuration files, [`Cluster::start_all`] starts what is down,
//! [`Cluster::init`] makes the voters one cluster; [`Cluster::running`] does all three. Voters are called `voter1`,
//! `voter2` and so on, replicas as the test likes. Faults go through [`Cluster::cut`] and its like, whatever the network
//! is made of; what only one kind can do goes through [`Cluster::wiring`].
//!
//! Law: every wait has a bound, and what a node wrote is shown when one is missed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value as Json;
use toml::{Table, Value as Toml};

use super::deadline::{eventually, poll};
use super::http::{self, Answer};
use super::load::LocalCopy;
use super::netns::Net;
use super::ports::{Folder, free_address};
use super::process::{BINARY, Child, Failed, Program, run};
use super::proxy::{Flow, Link, Mesh};
use super::socket_owner::Owners;

/// Name of every test's cluster.
pub const CLUSTER: &str = "test";
/// Name of the test's own process among those that dial, and of its namespace.
pub const TEST: &str = "test";
/// Longest a node may take to start, to catch up or to end, and a cluster to elect.
pub const NODE_MAX: Duration = Duration::from_secs(30);
/// Longest that nodes may take to become the same once nothing is written any more.
pub const SAME_MAX: Duration = Duration::from_secs(90);
/// Longest a command of an operator may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// Exit code of a command that no node answered in time.
const UNREACHABLE: i32 = 3;
/// Exit code of a command that something else came before.
const CONFLICT: i32 = 5;
/// Longest a node may take to describe itself; one that is paused never does.
const STATUS_MAX: Duration = Duration::from_secs(3);
/// Port of every node in a network of namespaces, where each has an address of its own.
const PORT: u16 = 7_400;
/// Port of the administrative interface there.
const ADMIN_PORT: u16 = 7_401;

/// What the network is made of.
pub enum Wiring {
    /// Loopback and a proxy before each node.
    Mesh(Mesh),
    /// Network namespaces.
    Net(Net),
}

/// Paths of a certificate, its key, and its issuer's certificate.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The issuer's certificate.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// One node, running or not.
pub struct Node {
    /// Where others reach it.
    pub advertise: SocketAddr,
    /// Its gRPC socket.
    pub socket: PathBuf,
    /// Its RESP socket.
    pub resp_socket: PathBuf,
    /// What it keeps.
    pub data: PathBuf,
    voter: bool,
    copy: LocalCopy,
    /// Where it tells how it is; in a network of namespaces only inside its own.
    admin: SocketAddr,
    program: Program,
    child: Option<Child>,
}

/// A cluster. Dropped, its processes end, then its network and its folder go.
pub struct Cluster {
    nodes: BTreeMap<String, Node>,
    /// The network.
    pub wiring: Wiring,
    owners: Owners,
    operator: Credentials,
    folder: Folder,
}

// === building ===

impl Cluster {
    /// Prepares this many voters on loopback, behind proxies whose jitter follows from the seed. Starts nothing.
    pub fn new(voters: usize, seed: u64) -> Self {
        let owners = Owners::new();
        Self::wired(voters, Wiring::Mesh(Mesh::new(owners.clone(), seed)), owners)
    }

    /// Prepares this many voters in namespaces of their own. Starts nothing.
    pub fn in_namespaces(voters: usize, mut net: Net) -> Self {
        net.join(TEST);
        Self::wired(voters, Wiring::Net(net), Owners::new())
    }

    /// Prepares, starts and initialises this many voters on loopback, and waits for their leader.
    pub fn running(voters: usize, seed: u64) -> Self {
        let mut cluster = Self::new(voters, seed);
        cluster.start_all();
        cluster.init();
        cluster
    }

    fn wired(voters: usize, wiring: Wiring, owners: Owners) -> Self {
        let folder = Folder::new();
        must(Command::new(BINARY).args(["pki", "init", "--cluster", CLUSTER, "--out"]).arg(folder.join("ca")));
        fs::create_dir(folder.join("certs")).unwrap();
        let operator = issue(&folder, "operator", "operator", None);
        let mut cluster = Self { nodes: BTreeMap::new(), wiring, owners, operator, folder };
        for number in 1..=voters {
            cluster.prepare(&format!("voter{number}"), None);
        }
        cluster
    }

    /// Starts a voter that belongs to no cluster yet; `cluster add-voter` with its address takes it in.
    pub fn add_voter(&mut self, name: &str) {
        self.prepare(name, None);
        self.start(name);
    }

    /// Starts a voter whose folder is restored from a backup: a cluster of its own.
    pub fn add_restored(&mut self, name: &str, backup: &Path) {
        self.prepare(name, None);
        let config = self.node(name).data.with_file_name("node.toml");
        must(Command::new(BINARY).args(["kv", "restore", "--config"]).arg(config).arg(backup));
        self.start(name);
    }

    /// A place in the cluster's folder.
    pub fn place(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts a replica that follows these nodes, the first one preferred.
    pub fn add_replica(&mut self, name: &str, upstreams: &[&str]) {
        self.prepare(name, Some(upstreams));
        self.start(name);
    }

    /// Writes what a node needs; one with upstreams is a replica.
    fn prepare(&mut self, name: &str, upstreams: Option<&[&str]>) {
        assert!(!self.nodes.contains_key(name), "two nodes named {name}");
        let role = if upstreams.is_some() { "replica" } else { "voter" };
        let (listen, advertise, admin) = match &mut self.wiring {
            Wiring::Mesh(mesh) => {
                let listen = free_address();
                (listen, mesh.join(name, listen), free_address())
            }
            Wiring::Net(net) => {
                let listen = SocketAddr::new(net.join(name), PORT);
                (listen, listen, SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)))
            }
        };
        let place = self.folder.join(name);
        fs::create_dir(&place).unwrap();
        let config = place.join("node.toml");
        let (socket, number) = (place.join("kv.sock"), u32::try_from(self.nodes.len()).expect("there are few nodes"));
        let node = Node {
            advertise,
            copy: LocalCopy::new(socket.clone(), number),
            socket,
            resp_socket: place.join("resp.sock"),
            data: place.join("data"),
            voter: upstreams.is_none(),
            admin,
            program: Program::cinnabar(name, [Path::new(role), Path::new("--config"), &config], &place),
            child: None,
        };
        let upstreams = upstreams.map(|names| names.iter().map(|name| self.node(name).advertise).collect());
        let credentials = issue(&self.folder, role, name, Some(listen.ip()));
        fs::write(config, file(name, listen, &node, &credentials, upstreams)).unwrap();
        self.nodes.insert(name.to_owned(), node);
    }

    /// Makes the voters one cluster and waits for its leader.
    pub fn init(&self) -> String {
        let voters: Vec<String> = self.voters().map(|(_, node)| node.advertise.to_string()).collect();
        let args = ["cluster", "init"].into_iter().chain(voters.iter().map(String::as_str));
        let first = self.voters().next().expect("a cluster has voters").0;
        // Given again when it was cut, as by an election on a slow disk; one that came through all the same is a conflict.
        let mut cut = false;
        eventually(NODE_MAX, "cluster init", || match self.operate(first, args.clone()) {
            Ok(_) => Some(()),
            Err(failed) if cut && failed.code == Some(CONFLICT) => Some(()),
            Err(failed) => {
                assert_eq!(failed.code, Some(UNREACHABLE), "cluster init: {failed:?}");
                cut = true;
                None
            }
        });
        self.await_leader(None)
    }

    /// A client's certificate, of the role `authority`, `operator` or `edge`.
    pub fn credentials(&self, role: &str, name: &str) -> Credentials {
        issue(&self.folder, role, name, None)
    }
}

// === processes ===

impl Cluster {
    /// Starts every node that is down, and waits until all answer.
    pub fn start_all(&mut self) {
        let down = |(name, node): (&String, &Node)| node.child.is_none().then(|| name.clone());
        let down: Vec<String> = self.nodes.iter().filter_map(down).collect();
        down.iter().for_each(|name| self.launch(name));
        down.iter().for_each(|name| self.await_answer(name, "/livez", 200));
    }

    /// Starts a node that is down, and waits until it answers.
    pub fn start(&mut self, name: &str) {
        self.launch(name);
        self.await_answer(name, "/livez", 200);
    }

    /// Starts a node that is down, and does not wait.
    pub fn launch(&mut self, name: &str) {
        let node = self.node(name);
        assert!(node.child.is_none(), "{name} is up");
        node.copy.begin_life();
        let program = match &self.wiring {
            Wiring::Mesh(_) => node.program.clone(),
            Wiring::Net(net) => net.program(name, node.program.clone()),
        };
        let child = program.start();
        self.owners.add(child.id(), name);
        self.node_mut(name).child = Some(child);
    }

    /// Sets an environment variable for the next starts of a node.
    pub fn set_env(&mut self, name: &str, variable: &str, value: &str) {
        self.node_mut(name).program.env.push((variable.to_owned(), value.to_owned()));
    }

    /// Changes what the next starts of a node start.
    pub fn change_program(&mut self, name: &str, change: impl FnOnce(&mut Program)) {
        change(&mut self.node_mut(name).program);
    }

    /// Ends a node with SIGKILL.
    pub fn kill_9(&mut self, name: &str) {
        let mut child = self.take(name);
        child.kill_9();
        self.owners.remove(child.id());
    }

    /// Ends a node with SIGTERM; returns its exit code.
    pub fn stop(&mut self, name: &str) -> Option<i32> {
        let mut child = self.take(name);
        let code = child.terminate(NODE_MAX);
        self.owners.remove(child.id());
        code
    }

    /// Kills a node and starts it again.
    pub fn restart(&mut self, name: &str) {
        self.kill_9(name);
        self.start(name);
    }

    /// The running process of a node, to pause it, to read its log or to wait for its end.
    ///
    /// # Panics
    /// When it is down.
    pub fn child(&mut self, name: &str) -> &mut Child {
        self.node_mut(name).child.as_mut().unwrap_or_else(|| panic!("{name} is down"))
    }

    fn take(&mut self, name: &str) -> Child {
        self.node_mut(name).child.take().unwrap_or_else(|| panic!("{name} is down"))
    }

    /// A node.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.get(name).unwrap_or_else(|| panic!("no node named {name}"))
    }

    fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap_or_else(|| panic!("no node named {name}"))
    }

    /// Names of all nodes.
    pub fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Names of the voters, or of the replicas.
    pub fn names_of(&self, voters: bool) -> Vec<String> {
        self.nodes.iter().filter(|(_, node)| node.voter == voters).map(|(name, _)| name.clone()).collect()
    }

    /// Where the voters are reached.
    pub fn voter_addresses(&self) -> Vec<SocketAddr> {
        self.voters().map(|(_, node)| node.advertise).collect()
    }

    /// The copies of all nodes.
    pub fn copies(&self) -> Vec<LocalCopy> {
        self.nodes.values().map(|node| node.copy.clone()).collect()
    }

    fn voters(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.voter).map(|(name, node)| (name.as_str(), node))
    }
}

// === asking ===

impl Cluster {
    /// Asks a node's administrative interface.
    ///
    /// # Errors
    /// As [`http::get`].
    pub fn ask(&self, name: &str, path: &str) -> io::Result<Answer> {
        let admin = self.node(name).admin;
        match &self.wiring {
            Wiring::Mesh(_) => http::get(admin, path),
            Wiring::Net(net) => net.within(name, || http::get(admin, path)),
        }
    }

    /// A metric of a node, as [`http::metric`] names it.
    pub fn metric(&self, name: &str, metric: &str) -> Option<f64> {
        http::metric(&self.ask(name, "/metrics").ok()?.body, metric)
    }

    /// Waits until a node answers so; `/readyz` with 200 says that it serves.
    ///
    /// # Panics
    /// When the node ends or the bound is reached before.
    pub fn await_answer(&mut self, name: &str, path: &str, status: u16) {
        // The child is taken out meanwhile, for asking needs the rest of the cluster.
        let mut child = self.take(name);
        child.await_that(&format!("{status} from {path}"), NODE_MAX, |_| {
            self.ask(name, path).ok().filter(|answer| answer.status == status)
        });
        self.node_mut(name).child = Some(child);
    }

    /// Runs an operator's command against a node; returns what it prints as JSON.
    ///
    /// # Errors
    /// Its exit code and what it wrote to standard error.
    pub fn operate<'a>(&self, at: &str, args: impl IntoIterator<Item = &'a str>) -> Result<Json, Failed> {
        let mut words = match &self.wiring {
            Wiring::Mesh(_) => Vec::new(),
            Wiring::Net(net) => net.prefix(TEST),
        };
        words.push(PathBuf::from(BINARY));
        let Credentials { ca, cert, key } = &self.operator;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(args).args(["--server", &self.node(at).advertise.to_string(), "-o", "json"]);
        command.arg("--ca").arg(ca).arg("--cert").arg(cert).arg("--key").arg(key);
        json(&mut command, COMMAND_MAX)
    }

    /// What a node says of itself, asked on this machine: no network is in the way.
    ///
    /// # Errors
    /// As [`Cluster::operate`].
    pub fn status(&self, name: &str) -> Result<Json, Failed> {
        let mut command = Command::new(BINARY);
        command.args(["status", "-o", "json", "--socket"]).arg(&self.node(name).socket);
        Ok(json(&mut command, STATUS_MAX)?["nodes"][0].take())
    }

    /// A key in a node's own copy, asked on this machine.
    ///
    /// # Errors
    /// As [`Cluster::operate`].
    pub fn get_local(&self, name: &str, key: &str) -> Result<Json, Failed> {
        let mut command = Command::new(BINARY);
        command.args(["kv", "get", key, "-o", "json", "--socket"]).arg(&self.node(name).socket);
        json(&mut command, STATUS_MAX)
    }

    /// The leader of the highest term that any running voter knows of.
    pub fn leader(&self) -> Option<String> {
        let running = self.voters().filter(|(_, node)| node.child.is_some());
        let known = running.filter_map(|(name, _)| leader_in(&self.status(name).ok()?));
        known.max_by_key(|(term, _)| *term).map(|(_, leader)| leader)
    }

    /// Waits for a leader; with `but`, for another one than that.
    pub fn await_leader(&self, but: Option<&str>) -> String {
        eventually(NODE_MAX, "a leader", || self.leader().filter(|leader| Some(leader.as_str()) != but))
    }

    /// Whether a node says itself that it leads.
    pub fn leads(&self, name: &str) -> bool {
        self.status(name).is_ok_and(|status| status["role"] == "leader")
    }

    /// Waits until every node has applied the same index with the same state and the same log; returns the index. Nothing
    /// may be written meanwhile.
    ///
    /// # Panics
    /// With what each node says, when they do not come together.
    pub fn await_same(&self) -> u64 {
        let mut said = Vec::new();
        let same = poll(SAME_MAX, || {
            said =
                self.nodes.keys().map(|name| (name.clone(), self.status(name).map(|status| point(&status)))).collect();
            let first = said[0].1.as_ref().ok()?.clone();
            said.iter().all(|(_, point)| point.as_ref() == Ok(&first)).then(|| first.0.as_u64())?
        });
        same.unwrap_or_else(|| panic!("the nodes differ after {SAME_MAX:?}: {said:#?}"))
    }

    /// Starts something where clients are: what it dials goes through the network under test. A runtime that it builds
    /// is there too; one that was built before is not.
    pub fn as_client<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        match &self.wiring {
            Wiring::Mesh(_) => thread::spawn(act),
            Wiring::Net(net) => net.spawn(TEST, act),
        }
    }
}

// === faults ===

impl Cluster {
    /// Cuts everything between two nodes: what is sent is lost.
    pub fn cut(&self, one: &str, other: &str) {
        match &self.wiring {
            Wiring::Mesh(mesh) => mesh.set_between(one, other, Link::BLACKHOLE),
            Wiring::Net(net) => net.cut(one, other),
        }
    }

    /// Cuts what one node sends to another, and leaves the other direction as it is.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        match &self.wiring {
            Wiring::Mesh(mesh) => mesh.set_one_way(from, to, Flow::Drop),
            Wiring::Net(net) => net.cut_one_way(from, to),
        }
    }

    /// Cuts every link between nodes of different groups. Nodes of no group, and the test itself, still reach everyone.
    pub fn partition(&self, groups: &[&[&str]]) {
        pairs(groups).for_each(|(one, other)| self.cut(one, other));
    }

    /// Cuts a node off from every other one; the test still reaches it.
    pub fn isolate(&self, name: &str) {
        self.nodes.keys().filter(|other| *other != name).for_each(|other| self.cut(name, other));
    }

    /// Mends every link.
    pub fn heal(&self) {
        match &self.wiring {
            Wiring::Mesh(mesh) => mesh.heal(),
            Wiring::Net(net) => net.heal(),
        }
    }
}

/// Applied index, state hash and chain head in a node's status.
fn point(status: &Json) -> (Json, Json, Json) {
    (status["applied_index"].clone(), status["state_hash"].clone(), status["chain_head"].clone())
}

/// Every two names that are in different groups.
fn pairs<'a>(groups: &'a [&'a [&'a str]]) -> impl Iterator<Item = (&'a str, &'a str)> {
    groups.iter().enumerate().flat_map(move |(position, group)| {
        let others = groups[position + 1..].iter().flat_map(|other| other.iter());
        others.flat_map(move |other| group.iter().map(move |one| (*one, *other)))
    })
}

/// Term and name of the leader in a node's status; `None` when it knows of none.
fn leader_in(status: &Json) -> Option<(u64, String)> {
    let leader = status["leader"].as_str().filter(|name| !name.is_empty())?;
    Some((status["term"].as_u64()?, leader.to_owned()))
}

fn json(command: &mut Command, bound: Duration) -> Result<Json, Failed> {
    let out = run(command, bound)?;
    serde_json::from_str(&out).map_err(|error| Failed { code: Some(0), told: format!("{error} in {out:?}") })
}

fn must(command: &mut Command) {
    run(command, COMMAND_MAX).unwrap_or_else(|failed| panic!("{command:?}: {failed:?}"));
}

fn issue(folder: &Folder, role: &str, name: &str, address: Option<IpAddr>) -> Credentials {
    let (ca, to) = (folder.join("ca"), folder.join("certs").join(format!("{role}-{name}")));
    let mut command = Command::new(BINARY);
    command.args(["pki", "issue", "--role", role, "--name", name, "--ca"]).arg(&ca).arg("--out").arg(&to);
    if let Some(address) = address {
        command.args(["--ip", &address.to_string()]);
    }
    must(&mut command);
    Credentials { ca: ca.join("ca.pem"), cert: to.with_extension("pem"), key: to.with_extension("key") }
}

fn file(
    name: &str,
    listen: SocketAddr,
    node: &Node,
    credentials: &Credentials,
    upstreams: Option<Vec<SocketAddr>>,
) -> String {
    let path = |path: &Path| Toml::from(path.to_str().expect("a folder for temporary files has a plain name"));
    let mut table = Table::new();
    table.insert("cluster".to_owned(), CLUSTER.into());
    table.insert("name".to_owned(), name.into());
    table.insert("listen".to_owned(), listen.to_string().into());
    table.insert("advertise".to_owned(), node.advertise.to_string().into());
    table.insert("admin_listen".to_owned(), node.admin.to_string().into());
    table.insert("data_dir".to_owned(), path(&node.data));
    table.insert("socket".to_owned(), path(&node.socket));
    table.insert("resp_socket".to_owned(), path(&node.resp_socket));
    if let Some(upstreams) = upstreams {
        let upstreams: Vec<Toml> = upstreams.iter().map(|address| address.to_string().into()).collect();
        table.insert("upstreams".to_owned(), upstreams.into());
    }
    let mut tls = Table::new();
    tls.insert("ca".to_owned(), path(&credentials.ca));
    tls.insert("cert".to_owned(), path(&credentials.cert));
    tls.insert("key".to_owned(), path(&credentials.key));
    table.insert("tls".to_owned(), tls.into());
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_of_different_groups_are_parted() {
        let cut: Vec<_> = pairs(&[&["a"], &["b", "c"], &["d"]]).collect();
        assert_eq!(cut, [("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")]);
    }

    #[test]
    fn a_leader_is_read_out_of_a_status() {
        let status = |text: &str| leader_in(&serde_json::from_str(text).unwrap());
        assert_eq!(status(r#"{"term": 7, "leader": "voter2"}"#), Some((7, "voter2".to_owned())));
        assert_eq!(status(r#"{"term": 7, "leader": ""}"#), None);
        assert_eq!(status(r#"{"term": 7, "leader": null}"#), None);
    }
}
