//! A network of the kernel's own: one network namespace per node, joined by a bridge in a namespace of its own, with
//! packets dropped by iptables and links narrowed by tc. What happens here happens to packets, so connections time out,
//! repeat and recover as on a real network, which no proxy can imitate.
//!
//! It needs root, `ip`, `tc` and `iptables`: [`Net::create`] says when they are missing, and the test decides what to do then.
//! Delay is not to be had (the kernel may lack netem); [`super::proxy`] has it.
//!
//! Laws: addresses exist inside these namespaces only, nothing is changed in the one that the test runs in, and all of it
//! goes when the guard is dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::Program;

/// Most nodes of one network: the last number of their address is their position from 1.
const NODES_MAX: usize = 100;
/// The tools that are needed; each is asked for its version to see that it is there.
const TOOLS: [(&str, &str); 3] = [("ip", "-V"), ("tc", "-V"), ("iptables", "--version")];

/// The namespace that holds the bridge; no node has this name.
const SWITCH: &str = "switch";

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// A network and its nodes.
#[derive(Debug)]
pub struct Net {
    /// Starts the names of its namespaces: no other test, and no other process, has the same.
    prefix: String,
    nodes: BTreeMap<String, Ipv4Addr>,
}

impl Net {
    /// Creates a network without nodes.
    ///
    /// # Errors
    /// Why this machine cannot: not root, a tool is missing, or the kernel refuses. Nothing is left behind then.
    pub fn create() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        for (tool, version) in TOOLS {
            run(Command::new(tool).arg(version))?;
        }
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let net = Self { prefix: format!("cn{}-{number}-", std::process::id()), nodes: BTreeMap::new() };
        let switch = net.namespace(SWITCH);
        run(Command::new("ip").args(["netns", "add", &switch]))?;
        run(ip(&switch).args(["link", "add", "bridge", "type", "bridge"]))?;
        run(ip(&switch).args(["link", "set", "bridge", "up"]))?;
        Ok(net)
    }

    /// Adds a node and returns its address.
    ///
    /// # Panics
    /// When the name is taken, the network is full, or the kernel refuses.
    pub fn join(&mut self, name: &str) -> IpAddr {
        assert!(self.nodes.len() < NODES_MAX && name != SWITCH, "no place for {name}");
        let number = u8::try_from(self.nodes.len() + 1).expect("there are fewer nodes");
        let (namespace, switch, port) = (self.namespace(name), self.namespace(SWITCH), format!("port{number}"));
        let address = Ipv4Addr::new(10, 77, 0, number);
        // Before the first step, so that after a failure at any step this one is cleaned up as well.
        let before = self.nodes.insert(name.to_owned(), address);
        assert!(before.is_none(), "two nodes named {name}");
        must(Command::new("ip").args(["netns", "add", &namespace]));
        let ends =
            ["link", "add", "net0", "netns", &namespace, "type", "veth", "peer", "name", &port, "netns", &switch];
        must(Command::new("ip").args(ends));
        must(ip(&switch).args(["link", "set", &port, "master", "bridge", "up"]));
        must(ip(&namespace).args(["address", "add", &format!("{address}/24"), "dev", "net0"]));
        must(ip(&namespace).args(["link", "set", "net0", "up"]));
        must(ip(&namespace).args(["link", "set", "lo", "up"]));
        IpAddr::V4(address)
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A node's address, as the others see it.
    pub fn address(&self, name: &str) -> IpAddr {
        IpAddr::V4(*self.nodes.get(name).unwrap_or_else(|| panic!("no node named {name}")))
    }

    /// What to put before a command to run it inside a node's namespace.
    pub fn prefix(&self, name: &str) -> Vec<PathBuf> {
        ["ip", "netns", "exec", &self.namespace(name)].map(PathBuf::from).to_vec()
    }

    /// The same program, run inside a node's namespace. Its process id is the program's own.
    pub fn program(&self, name: &str, program: Program) -> Program {
        let command = self.prefix(name).into_iter().chain(program.command).collect();
        Program { command, ..program }
    }

    /// Does something on a thread inside a node's namespace: what it dials or listens on belongs to the node.
    ///
    /// # Panics
    /// When it panics, or the namespace is gone.
    pub fn within<T: Send>(&self, name: &str, act: impl FnOnce() -> T + Send) -> T {
        let enter = self.entrance(name);
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter();
                act()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Like [`Net::within`], but does not wait. Threads that it starts are inside as well.
    pub fn spawn<T: Send + 'static>(&self, name: &str, act: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let enter = self.entrance(name);
        thread::spawn(|| {
            enter();
            act()
        })
    }

    /// Moves the thread that calls it into a node's namespace.
    fn entrance(&self, name: &str) -> impl FnOnce() + Send + 'static {
        let path = Path::new("/run/netns").join(self.namespace(name));
        move || {
            let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let moved = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
            moved.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// Drops every packet from one node to another.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.filter(to, &["-s", &self.address(from).to_string(), "-j", "DROP"]);
    }

    /// Drops every packet between two nodes.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Answers every TCP packet from one node to another with a reset.
    pub fn refuse(&self, from: &str, to: &str) {
        let from = self.address(from).to_string();
        self.filter(to, &["-s", &from, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"]);
    }

    /// Drops this many of 1,000 packets from one node to another, at random.
    pub fn lose(&self, from: &str, to: &str, per_mille: u32) {
        let (from, share) = (self.address(from).to_string(), format!("{:.3}", f64::from(per_mille) / 1_000.0));
        self.filter(to, &["-s", &from, "-m", "statistic", "--mode", "random", "--probability", &share, "-j", "DROP"]);
    }

    /// Lets a node send at most this many bits per second.
    pub fn narrow(&self, name: &str, bits_per_second: u64) {
        let rate = format!("{bits_per_second}bit");
        let bucket = ["tbf", "rate", &rate, "burst", "16kb", "latency", "400ms"];
        must(inside(&self.namespace(name), "tc").args(["qdisc", "replace", "dev", "net0", "root"]).args(bucket));
    }

    /// Mends and widens every link.
    pub fn heal(&self) {
        for name in self.nodes.keys() {
            let namespace = self.namespace(name);
            must(inside(&namespace, "iptables").args(["-w", "-F", "INPUT"]));
            // There is nothing to delete where nothing was narrowed.
            let _ = run(inside(&namespace, "tc").args(["qdisc", "delete", "dev", "net0", "root"]));
        }
    }

    fn filter(&self, at: &str, rule: &[&str]) {
        must(inside(&self.namespace(at), "iptables").args(["-w", "-A", "INPUT"]).args(rule));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // Deleting a namespace deletes its ends of the links; one that was not created yet is no loss.
        for name in self.nodes.keys().map(String::as_str).chain([SWITCH]) {
            let _ = run(Command::new("ip").args(["netns", "delete", &self.namespace(name)]));
        }
    }
}

fn ip(namespace: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["-n", namespace]);
    command
}

fn inside(namespace: &str, tool: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, tool]);
    command
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn must(command: &mut Command) {
    run(command).unwrap_or_else(|error| panic!("{error}"));
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    use super::super::deadline::Deadline;
    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    const SILENCE: Duration = Duration::from_millis(300);

    /// Two nodes; `None`, and a line that says why, where the machine has no such networks.
    fn pair() -> Option<Net> {
        let mut net = Net::create().inspect_err(|why| eprintln!("no network namespaces here: {why}")).ok()?;
        net.join("a");
        net.join("b");
        Some(net)
    }

    fn listen(net: &Net, name: &str) -> TcpListener {
        let address = SocketAddr::new(net.address(name), 0);
        net.within(name, || TcpListener::bind(address).unwrap())
    }

    fn dial(net: &Net, name: &str, to: SocketAddr, bound: Duration) -> Result<TcpStream, ErrorKind> {
        net.within(name, || TcpStream::connect_timeout(&to, bound)).map_err(|error| error.kind())
    }

    /// Whether a packet from one node comes to another.
    fn reaches(net: &Net, from: &str, to: &str) -> bool {
        let bind = |name: &str| net.within(name, || UdpSocket::bind((net.address(name), 0)).unwrap());
        let (sender, receiver) = (bind(from), bind(to));
        receiver.set_read_timeout(Some(SILENCE)).unwrap();
        sender.send_to(b"x", receiver.local_addr().unwrap()).unwrap();
        receiver.recv(&mut [0]).is_ok()
    }

    #[test]
    fn nodes_reach_each_other_until_they_are_cut() {
        let Some(net) = pair() else { return };
        let both = |net: &Net| (reaches(net, "a", "b"), reaches(net, "b", "a"));
        assert_eq!(both(&net), (true, true));
        net.cut("a", "b");
        assert_eq!(both(&net), (false, false));
        net.heal();
        net.cut_one_way("a", "b");
        assert_eq!(both(&net), (false, true));
        net.heal();
        net.narrow("a", 1_000_000);
        net.lose("a", "b", 1_000);
        assert_eq!(both(&net), (false, true));
        net.heal();
        net.refuse("a", "b");
        let to = listen(&net, "b").local_addr().unwrap();
        assert_eq!(dial(&net, "a", to, SOON).unwrap_err(), ErrorKind::ConnectionRefused);
        net.heal();
        assert_eq!(both(&net), (true, true));
    }

    #[test]
    fn a_narrow_node_sends_no_more_than_it_may() {
        let Some(net) = pair() else { return };
        let listener = listen(&net, "b");
        let mut caller = dial(&net, "a", listener.local_addr().unwrap(), SOON).unwrap();
        let (mut node, _) = listener.accept().unwrap();
        net.narrow("a", 8_000_000);
        let early = Deadline::after(Duration::from_millis(150));
        let sender = thread::spawn(move || caller.write_all(&[7; 200_000]));
        node.set_read_timeout(Some(SOON)).unwrap();
        node.read_exact(&mut vec![0; 200_000]).unwrap();
        assert!(early.passed(), "200 ms worth of bytes came early");
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn one_way_is_cut_alone_and_heals_without_a_loss() {
        let Some(net) = pair() else { return };
        let listener = listen(&net, "b");
        let mut caller = dial(&net, "a", listener.local_addr().unwrap(), SOON).unwrap();
        let (mut node, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), net.address("a"));
        net.cut_one_way("a", "b");
        caller.write_all(b"kept").unwrap();
        node.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        caller.set_read_timeout(Some(SOON)).unwrap();
        caller.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        node.set_read_timeout(Some(SILENCE)).unwrap();
        assert_eq!(node.read(&mut heard).unwrap_err().kind(), ErrorKind::WouldBlock);
        net.heal();
        node.set_read_timeout(Some(SOON)).unwrap();
        node.read_exact(&mut heard[..4]).unwrap();
        assert_eq!(&heard[..4], b"kept");
    }

    #[test]
    fn a_program_runs_inside_and_nothing_is_left_outside() {
        let Some(net) = pair() else { return };
        let folder = super::super::ports::Folder::new();
        let command = ["sh", "-c", "ip -4 -o address show dev net0; exec sleep 600"].map(PathBuf::from).to_vec();
        let program = Program { name: "inside".to_owned(), command, env: Vec::new(), log: folder.join("log") };
        let mut child = net.program("b", program).start();
        child.await_line("10.77.0.2", SOON);
        child.kill_9();
        let prefix = net.prefix.clone();
        drop(net);
        let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&left.stdout).contains(&prefix));
    }
}
