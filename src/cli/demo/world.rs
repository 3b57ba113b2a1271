//! The demonstration's world: its folder, its configuration files, its processes, from certificates to edge nodes.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cinnabar_daemon::{Env, file};
use serde_json::{Value, json};

use super::processes::{self, Process, Started};
use super::sites::{SITES, Site, round_trip_ms};
use crate::cli::error::CliError;

/// The cluster's name.
pub const CLUSTER: &str = "demo";
/// Longest wait for anything that a start waits for.
pub const READY_MAX: Duration = Duration::from_secs(60);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What `cluster.json` is called.
pub const FILE: &str = "cluster.json";
/// What marks a folder as a demonstration's, also after its end.
const MARK: &str = "DEMONSTRATION";

/// Where a data centre is reached.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Visitors, TLS.
    pub visitors: SocketAddr,
    /// Its copy of the store, for those that tail it and for status.
    pub store: SocketAddr,
    /// Its signer, for peers.
    pub signer: SocketAddr,
    /// Edge node's `/readyz`.
    pub admin: SocketAddr,
    /// Terminator's `/readyz`.
    pub terminator_admin: SocketAddr,
}

/// The world.
pub struct World {
    /// Its folder.
    pub dir: PathBuf,
    /// `cinnabar`.
    pub cinnabar: PathBuf,
    /// `cinnabar-authority`.
    pub authority: PathBuf,
    /// Voters' addresses.
    pub voters: Vec<SocketAddr>,
    /// The relay's.
    pub relay: SocketAddr,
    /// The authority's, for operators and machines.
    pub authority_at: SocketAddr,
    /// The authority's, for customers.
    pub customers_at: SocketAddr,
    /// In the order of [`SITES`].
    pub places: Vec<Place>,
    /// What runs.
    pub running: Vec<Started>,
}

/// Ports to choose from: below those that the system gives to outgoing connections, so that none is taken between the
/// choice and the start of the process that it is for.
const PORTS: std::ops::Range<u16> = 18_000..31_000;
/// Ports that are tried before it is given up.
const PORTS_TRIED_MAX: usize = 1_000;

/// An address of loopback that is free now, and was not given out before.
fn free() -> Result<SocketAddr, CliError> {
    static GIVEN: std::sync::Mutex<Vec<u16>> = std::sync::Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let rng = Env::system().rng;
    for _ in 0..PORTS_TRIED_MAX {
        let mut bytes = [0; 2];
        rng.fill(&mut bytes).map_err(|error| CliError::Failed(error.to_string()))?;
        let port = PORTS.start + u16::from_le_bytes(bytes) % (PORTS.end - PORTS.start);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.push(port);
            return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
        }
    }
    Err(CliError::Failed(format!("no free port of {PORTS:?} on 127.0.0.1")))
}

/// A text as TOML writes it.
fn quoted(text: impl std::fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// Runs a command to its end; gives what it printed.
pub fn run(command: &mut Command) -> Result<String, CliError> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(|error| CliError::Failed(format!("{shown}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(CliError::Failed(format!("{shown}\n{}", String::from_utf8_lossy(&output.stderr).trim_end())))
}

/// Empties the folder of an earlier demonstration. Nobody else's is touched.
fn begin_anew(dir: &Path) -> Result<(), CliError> {
    let failed = |error| CliError::file(dir, error);
    let mark = dir.join(MARK);
    if !mark.exists() && dir.exists() && fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(CliError::file(dir, "not empty, and not of a demonstration: name another folder with --dir"));
    }
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(failed)?;
    }
    fs::create_dir_all(dir).map_err(failed)?;
    fs::write(&mark, "A demonstration of cinnabar: the next one removes this folder.\n").map_err(failed)
}

impl World {
    /// Prepares a new folder.
    pub fn new(dir: &Path) -> Result<Self, CliError> {
        let cinnabar = std::env::current_exe().map_err(|error| CliError::Failed(error.to_string()))?;
        let authority = cinnabar.with_file_name("cinnabar-authority");
        if !authority.exists() {
            let problem =
                format!("{} is missing: build it with cargo build --release --workspace", authority.display());
            return Err(CliError::Failed(problem));
        }
        if dir.join(FILE).exists() {
            down(dir)?;
        }
        begin_anew(dir)?;
        fs::create_dir_all(dir.join("certs")).map_err(|error| CliError::file(dir, error))?;
        let dir = fs::canonicalize(dir).map_err(|error| CliError::file(dir, error))?;
        let mut places = Vec::new();
        for _ in &SITES {
            let [visitors, store, signer, admin, terminator_admin] = [free()?, free()?, free()?, free()?, free()?];
            places.push(Place { visitors, store, signer, admin, terminator_admin });
        }
        let (voters, relay) = (vec![free()?, free()?, free()?], free()?);
        let (authority_at, customers_at) = (free()?, free()?);
        let running = Vec::new();
        Ok(Self { dir, cinnabar, authority, voters, relay, authority_at, customers_at, places, running })
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file of the folder.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, CliError> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| CliError::file(folder, error))?;
        }
        file::write_synced(&path, text.as_bytes(), file::PRIVATE, true)
            .map_err(|error| CliError::file(&path, error))?;
        Ok(path)
    }

    /// A command of `cinnabar`, free of the caller's environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.cinnabar);
        command.args(args).current_dir(&self.dir).env("XDG_CONFIG_HOME", self.path("home"));
        processes::free_of_ours(&mut command);
        command
    }

    /// A command of the authority's own.
    fn authority_command(&self) -> Command {
        let mut command = Command::new(&self.authority);
        command.current_dir(&self.dir);
        processes::free_of_ours(&mut command);
        command
    }

    /// A command of an operator, over the authority.
    pub fn operate(&self, args: &[&str]) -> Result<Value, CliError> {
        let mut command = self.command(args);
        command.args(["-o", "json", "--authority", &self.authority_at.to_string()]);
        command.args(["--ca", "certs/ca.pem", "--cert", "certs/operator.pem", "--key", "certs/operator.key"]);
        Ok(serde_json::from_str(&run(&mut command)?).unwrap_or(Value::Null))
    }

    fn start(&mut self, name: &str, role: &str, program: &Path, args: &[&str]) -> Result<(), CliError> {
        let log = self.path(&format!("{name}/{role}.log"));
        let started = processes::start(name, role, program, args, (&self.dir, log))?;
        self.running.push(started);
        self.save(&Value::Null)
    }

    /// What is written down: first of all, so that nothing is left running that nobody knows of.
    pub fn save(&self, more: &Value) -> Result<(), CliError> {
        let processes: Vec<&Process> = self.running.iter().map(|started| &started.process).collect();
        let centers = SITES.iter().zip(&self.places).map(|(site, place)| {
            json!({
                "data_center": site.id, "city": site.city, "country": site.country, "machine": site.machine(),
                "visitors": place.visitors, "store": place.store, "signer": place.signer, "admin": place.admin,
                "socket": self.path(&format!("{}/kv.sock", site.id)),
                "resp_socket": self.path(&format!("{}/resp.sock", site.id)),
                "sign_socket": self.path(&format!("{}/sign.sock", site.id)),
            })
        });
        let mut written = json!({
            "version": 1, "cluster": CLUSTER, "processes": processes,
            "voters": self.voters, "relay": self.relay,
            "authority": self.authority_at, "customers": self.customers_at,
            "ca": self.path("certs/ca.pem"), "customer_ca": self.path("customer/ca.pem"),
            "data_centers": centers.collect::<Vec<_>>(),
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            written[name] = value.clone();
        }
        self.write(FILE, &format!("{written:#}\n")).map(drop)
    }

    /// Waits until something is so; a process that ends meanwhile ends the wait.
    pub fn wait(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) -> Result<(), CliError> {
        let clock = Env::system().clock;
        let begun = clock.now();
        while !so(self) {
            if begun.elapsed() > READY_MAX {
                return Err(CliError::Failed(format!("{what}: not within {} s", READY_MAX.as_secs())));
            }
            for started in &mut self.running {
                started.check()?;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Ends what is written down in a folder; says how many processes.
pub fn down(dir: &Path) -> Result<usize, CliError> {
    let path = dir.join(FILE);
    let text = fs::read(&path).map_err(|error| CliError::file(&path, error))?;
    let written: Value = serde_json::from_slice(&text).map_err(|error| CliError::file(&path, error))?;
    let processes: Vec<Process> =
        serde_json::from_value(written["processes"].clone()).map_err(|error| CliError::file(&path, error))?;
    let running = processes.iter().filter(|process| process.runs()).count();
    processes::end(&processes);
    fs::remove_file(&path).map_err(|error| CliError::file(&path, error))?;
    Ok(running)
}

// === the core ===

impl World {
    /// Makes the authority's keys and every certificate that is not enrolled for.
    pub fn issue(&self) -> Result<(), CliError> {
        let passphrase: String = {
            let mut bytes = [0; 24];
            let filled = Env::system().rng.fill(&mut bytes);
            filled.map_err(|error| CliError::Failed(error.to_string()))?;
            crate::cli::report::hex(&bytes)
        };
        self.write("authority/passphrase", &passphrase)?;
        let own = |args: &[&str]| {
            let mut command = self.authority_command();
            command.args(args).args(["--passphrase-file", "authority/passphrase"]);
            run(&mut command)
        };
        own(&["init", "--demo", "--cluster", CLUSTER, "--dir", "authority/keys"])?;
        let issue = |role: &str, name: &str| {
            let out = format!("certs/{name}");
            own(&["issue", "--dir", "authority/keys", "--role", role, "--name", name, "--out", &out])
        };
        for number in 1..=self.voters.len() {
            issue("voter", &format!("core{number}"))?;
        }
        issue("replica", "relay")?;
        issue("authority", "authority")?;
        issue("operator", "operator")?;
        Ok(())
    }

    fn tls(name: &str) -> String {
        format!("[tls]\nca = \"certs/ca.pem\"\ncert = \"certs/{name}.pem\"\nkey = \"certs/{name}.key\"\n")
    }

    /// Starts voters, and makes them one cluster.
    pub fn start_core(&mut self) -> Result<(), CliError> {
        let cinnabar = self.cinnabar.clone();
        for (n, listen) in self.voters.clone().into_iter().enumerate() {
            let name = format!("core{}", n + 1);
            let config = format!(
                "cluster = \"{CLUSTER}\"\nlisten = \"{listen}\"\ndata_dir = \"{name}/data\"\nsocket = \"{name}/kv.sock\"\n{}",
                Self::tls(&name)
            );
            let file = self.write(&format!("{name}/voter.toml"), &config)?.display().to_string();
            self.start(&name, "voter", &cinnabar, &["voter", "--config", &file])?;
        }
        let addresses: Vec<String> = self.voters.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(" ");
        self.wait("the voters become a cluster", move |world| {
            let mut args = vec!["cluster", "init"];
            args.extend(addresses.split(' '));
            world.store(&args).is_ok()
        })?;
        let upstreams: Vec<String> = self.voters.iter().rev().map(quoted).collect();
        let config = format!(
            "cluster = \"{CLUSTER}\"\nlisten = \"{}\"\ndata_dir = \"relay/data\"\nsocket = \"relay/kv.sock\"\nupstreams = [{}]\n{}",
            self.relay,
            upstreams.join(", "),
            Self::tls("relay")
        );
        let file = self.write("relay/replica.toml", &config)?.display().to_string();
        self.start("relay", "replica", &cinnabar, &["replica", "--config", &file])
    }

    /// A command of an operator, over the store.
    pub fn store(&self, args: &[&str]) -> Result<Value, CliError> {
        let voters: Vec<String> = self.voters.iter().map(ToString::to_string).collect();
        let mut command = self.command(args);
        command.args(["-o", "json", "--server", &voters.join(",")]);
        command.args(["--ca", "certs/ca.pem", "--cert", "certs/operator.pem", "--key", "certs/operator.key"]);
        Ok(serde_json::from_str(&run(&mut command)?).unwrap_or(Value::Null))
    }

    /// Data centres and machines, as an operator writes them.
    fn inventory() -> String {
        let mut text = String::new();
        for site in &SITES {
            let Site { id, city, country, region, latitude, longitude } = site;
            let machine = site.machine();
            text.push_str(&format!(
                "# {city}\n[[data_center]]\nid = \"{id}\"\ncountry = \"{country}\"\n\
                 place = {{ latitude = {latitude:.2}, longitude = {longitude:.2} }}\n\
                 attributes = {{ region = [\"{region}\"] }}\n[[machine]]\nid = \"{machine}\"\ndata_center = \"{id}\"\n\n"
            ));
        }
        text
    }

    /// Starts the authority and opens its system secret keys.
    pub fn start_authority(&mut self, web: (&str, &str)) -> Result<(), CliError> {
        self.write("authority/inventory.toml", &Self::inventory())?;
        self.write("authority/web.pem", web.0)?;
        self.write("authority/web.key", web.1)?;
        let voters: Vec<String> = self.voters.iter().map(quoted).collect();
        let admin = free()?;
        let config = format!(
            "cluster = \"{CLUSTER}\"\ndata_dir = \"authority/keys\"\nvoters = [{}]\nlisten = \"{}\"\n\
             admin_listen = \"{admin}\"\ninventory = \"authority/inventory.toml\"\n{}\
             [customers]\nlisten = \"{}\"\ncert = \"authority/web.pem\"\nkey = \"authority/web.key\"\n",
            voters.join(", "),
            self.authority_at,
            Self::tls("authority"),
            self.customers_at,
        );
        let file = self.write("authority/authority.toml", &config)?.display().to_string();
        let program = self.authority.clone();
        let args = ["serve", "--config", &file, "--passphrase-file", "authority/passphrase"];
        self.start("authority", "authority", &program, &args)?;
        self.wait("the authority is ready", |_| super::ready(admin))?;
        let mut unseal = self.authority_command();
        unseal.args(["unseal", "--dir", "authority/keys", "--for", "1h"]);
        run(unseal.args(["--passphrase-file", "authority/passphrase"])).map(drop)
    }
}

// === data centres ===

impl World {
    /// Simulated distances from one data centre: what its edge node adds to every connection that it makes to a signer.
    fn distances(&self, from: usize) -> String {
        let mut text = String::from("# Simulated round trips to the signers of other data centres.\n[round_trip_us]\n");
        let others =
            || SITES.iter().zip(&self.places).enumerate().filter(|(to, _)| *to != from).map(|(_, other)| other);
        for (site, _) in others() {
            text.push_str(&format!("{} = {:.0}\n", site.id, round_trip_ms(&SITES[from], site) * 1000.0));
        }
        text.push_str("[addresses]\n");
        for (site, place) in others() {
            text.push_str(&format!("\"{}\" = \"{}\"\n", place.signer, site.id));
        }
        text
    }

    fn edge_config(&self, n: usize) -> String {
        let (site, place) = (&SITES[n], &self.places[n]);
        let id = site.id;
        // Half of them follow the relay first, half a voter, so that neither is alone.
        let voter = self.voters[n % self.voters.len()];
        let upstreams = if n.is_multiple_of(2) { [self.relay, voter] } else { [voter, self.relay] };
        format!(
            "[replica]\ncluster = \"{CLUSTER}\"\nlisten = \"{}\"\ndata_dir = \"{id}/data\"\nsocket = \"{id}/kv.sock\"\n\
             resp_socket = \"{id}/resp.sock\"\nadmin_listen = \"{}\"\nupstreams = [\"{}\", \"{}\"]\n\
             tls = {{ ca = \"{id}/ca.pem\", cert = \"{id}/machine.pem\", key = \"{id}/machine.key\" }}\n\
             [signer]\nlisten = \"{}\"\n[local]\nsocket = \"{id}/sign.sock\"\n[authority]\naddress = \"{}\"\n\
             [machine]\ninsecure_machine_key = true\n[router]\ndistance = \"{id}/distances.toml\"\n",
            place.store, place.admin, upstreams[0], upstreams[1], place.signer, self.authority_at
        )
    }

    /// Lets every machine in, and starts its edge node and its terminator.
    pub fn start_edges(&mut self) -> Result<(), CliError> {
        let cinnabar = self.cinnabar.clone();
        for (n, site) in SITES.iter().enumerate() {
            let (id, place) = (site.id, self.places[n]);
            let edge = self.write(&format!("{id}/edge.toml"), &self.edge_config(n))?.display().to_string();
            self.write(&format!("{id}/distances.toml"), &self.distances(n))?;
            let granted = self.operate(&["machine", "token", &site.machine()])?;
            let token = granted["token"].as_str().unwrap_or_default();
            let token = self.write(&format!("{id}/token"), token)?.display().to_string();
            let mut enrol = self.command(&["edge", "enrol", "--config", &edge, "--token-file", &token]);
            run(enrol.args(["--authority", &format!("https://{}", self.customers_at), "--ca", "customer/ca.pem"]))?;
            fs::remove_file(&token).map_err(|error| CliError::file(Path::new(&token), error))?;
            self.start(id, "edge", &cinnabar, &["edge", "--config", &edge])?;
            let terminator = format!(
                "listen = [\"{}\"]\nedge_socket = \"{id}/sign.sock\"\ndemo_responder = true\nadmin_listen = \"{}\"\n",
                place.visitors, place.terminator_admin
            );
            let file = self.write(&format!("{id}/terminate.toml"), &terminator)?.display().to_string();
            self.start(id, "terminator", &cinnabar, &["terminate", "--config", &file])?;
        }
        for (n, site) in SITES.iter().enumerate() {
            let place = self.places[n];
            self.wait(&format!("{} is ready", site.id), |_| super::ready(place.admin))?;
            self.wait(&format!("the terminator of {} is ready", site.id), |_| super::ready(place.terminator_admin))?;
        }
        // Peers look for each other by what the authority heard of them.
        self.wait("every machine has reported", |world| {
            let listed = world.operate(&["machine", "list"]).unwrap_or(Value::Null);
            let machines = listed["machines"].as_array().cloned().unwrap_or_default();
            machines.iter().filter(|machine| machine["address"].as_str().is_some_and(|at| !at.is_empty())).count()
                == SITES.len()
        })
    }

    /// What to try next.
    pub fn hints(&self, visitor: &super::probe::Visitor) -> Result<(), CliError> {
        let status: Vec<String> = self.voters.iter().map(ToString::to_string).collect();
        let edges: Vec<String> = self.places.iter().map(|place| place.store.to_string()).collect();
        let environment = format!(
            "export CINNABAR_SERVER={},{},{}\nexport CINNABAR_CA={}\nexport CINNABAR_CERT={}\nexport CINNABAR_KEY={}\n",
            status.join(","),
            self.relay,
            edges.join(","),
            self.path("certs/ca.pem").display(),
            self.path("certs/operator.pem").display(),
            self.path("certs/operator.key").display(),
        );
        let file = self.write("env", &environment)?;
        let nrt = SITES.len() - 1;
        super::say(format!("  . {}; cinnabar status", file.display()))?;
        super::say(format!("  {}", visitor.shown(super::customer::HOST, self.places[nrt].visitors)))?;
        super::say(format!("  cinnabar explain shop.example --edge-socket {}", self.path("cdg/sign.sock").display()))?;
        super::say(format!("  redis-cli -s {} GET sni/shop.example", self.path("nrt/resp.sock").display()))?;
        super::say(format!("  {} demo down --dir {}", self.cinnabar.display(), self.dir.display()))
    }
}
