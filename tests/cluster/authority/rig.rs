//! An authority beside a running cluster: its folder, its configuration, its process.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::harness::cluster::{CLUSTER, Cluster, Credentials};
use crate::harness::deadline::eventually;
use crate::harness::http::{self, Answer};
use crate::harness::ports::{Folder, free_address};
use crate::harness::process::{BINARY, Child, Failed, Program, run};

/// The passphrase of every test's authority: a canary, looked for everywhere.
pub const PASSPHRASE: &str = "canary-passphrase-93d1f0";
/// Longest that the authority may take to be ready; opening its keys takes seconds.
pub const READY_MAX: Duration = Duration::from_secs(60);
/// Longest that one command may take.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// Data centres and machines of the tests.
pub const INVENTORY: &str = r#"
[[data_center]]
id = "fra"
country = "DE"
place = { latitude = 50.1, longitude = 8.7 }
attributes = { region = ["WEUR"], tier = "highest" }
[[data_center]]
id = "ams"
country = "NL"
place = { latitude = 52.4, longitude = 4.9 }
attributes = { region = ["WEUR"] }
[[data_center]]
id = "cdg"
country = "FR"
place = { latitude = 48.9, longitude = 2.4 }
attributes = { region = ["WEUR"] }
[[data_center]]
id = "iad"
country = "US"
place = { latitude = 38.9, longitude = -77.5 }
attributes = { region = ["ENAM"] }
[[machine]]
id = "fra-1"
data_center = "fra"
[[machine]]
id = "ams-1"
data_center = "ams"
[[machine]]
id = "cdg-1"
data_center = "cdg"
[[machine]]
id = "iad-1"
data_center = "iad"
"#;

/// What an authority is made with.
pub struct Setup<'a> {
    /// Is the system a demonstration?
    pub demo: bool,
    /// Data centres and machines.
    pub inventory: &'a str,
    /// The attribute schema; none takes the usual one.
    pub schema: Option<&'a str>,
}

/// An authority, running or not, and the cluster that it writes to.
pub struct Rig {
    /// The store.
    pub cluster: Cluster,
    /// Everything of the authority's.
    pub folder: Folder,
    /// Where machines and operators are served.
    pub listen: SocketAddr,
    /// An operator's certificate.
    pub operator: Credentials,
    /// Where customers are served.
    pub customers: SocketAddr,
    admin: SocketAddr,
    program: Program,
    child: Option<Child>,
}

/// The authority's binary: cargo puts the workspace's binaries beside each other.
pub fn authority_binary() -> PathBuf {
    let path = Path::new(BINARY).with_file_name("cinnabar-authority");
    assert!(path.exists(), "{} is missing: `cargo test --workspace` builds it", path.display());
    path
}

impl Rig {
    /// Starts three voters and an authority over them, and waits until it is ready.
    pub fn running(seed: u64) -> Self {
        let mut rig = Self::prepared(Cluster::running(3, seed));
        rig.start();
        rig
    }

    /// Makes the authority's keys and configuration with the usual inventory; starts nothing.
    pub fn prepared(cluster: Cluster) -> Self {
        Self::prepared_with(cluster, &Setup { demo: false, inventory: INVENTORY, schema: Some("") })
    }

    /// Makes the authority's keys and configuration; starts nothing.
    pub fn prepared_with(cluster: Cluster, setup: &Setup<'_>) -> Self {
        let folder = Folder::new();
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        write("passphrase", PASSPHRASE);
        fs::set_permissions(folder.join("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
        write("inventory.toml", setup.inventory);
        write("schema.toml", setup.schema.unwrap_or_default());
        let us = cluster.credentials("authority", "authority");
        let ca = us.ca.parent().unwrap();
        let mut init = Command::new(authority_binary());
        init.arg("init")
            .args(setup.demo.then_some("--demo"))
            .args(["--cluster", CLUSTER, "--dir"])
            .arg(folder.join("data"))
            .arg("--passphrase-file");
        run(init.arg(folder.join("passphrase")).arg("--ca").arg(ca), COMMAND_MAX).unwrap();
        let [listen, customers, admin] = [free_address(), free_address(), free_address()];
        let web = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        write("web.pem", &web.cert.pem());
        write("web.key", &web.signing_key.serialize_pem());
        let voters: Vec<String> = cluster.voter_addresses().iter().map(|at| format!("{:?}", at.to_string())).collect();
        let shown = |path: &Path| format!("{:?}", path.display().to_string());
        let schema = setup.schema.map(|_| format!("schema = {}\n", shown(&folder.join("schema.toml"))));
        write(
            "authority.toml",
            &format!(
                "cluster = \"{CLUSTER}\"\ndata_dir = {}\nvoters = [{}]\nlisten = \"{listen}\"\nadmin_listen = \"{admin}\"\n\
                 inventory = {}\n{}[tls]\nca = {}\ncert = {}\nkey = {}\n\
                 [customers]\nlisten = \"{customers}\"\ncert = {}\nkey = {}\n",
                shown(&folder.join("data")),
                voters.join(", "),
                shown(&folder.join("inventory.toml")),
                schema.unwrap_or_default(),
                shown(&us.ca),
                shown(&us.cert),
                shown(&us.key),
                shown(&folder.join("web.pem")),
                shown(&folder.join("web.key")),
            ),
        );
        let command = [authority_binary(), "serve".into(), "--config".into(), folder.join("authority.toml")];
        let command = command.into_iter().chain(["--passphrase-file".into(), folder.join("passphrase")]).collect();
        let program =
            Program { name: "authority".to_owned(), command, env: Vec::new(), log: folder.join("authority.log") };
        let operator = cluster.credentials("operator", "carol");
        Self { cluster, folder, listen, operator, customers, admin, program, child: None }
    }

    /// Starts the authority and waits until it is ready.
    pub fn start(&mut self) {
        self.launch();
        let admin = self.admin;
        let ready = || http::get(admin, "/readyz").is_ok_and(|answer| answer.status == 200);
        eventually(READY_MAX, "the authority is ready", || ready().then_some(()));
    }

    /// Starts the authority.
    pub fn launch(&mut self) {
        self.child = Some(self.program.start());
    }

    /// Asks it to end; gives its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.child.take().expect("the authority runs").terminate(READY_MAX)
    }

    /// Has it read its inventory and its schema again; gives what it logs about that.
    pub fn reload(&mut self) -> String {
        let child = self.child.as_mut().expect("the authority runs");
        let before = child.output().len();
        child.signal(Signal::HUP);
        child.await_that("what came of the reload", READY_MAX, |child| {
            let line = child.output()[before..].lines().find(|line| line.contains("inventory and schema"))?.to_owned();
            Some(line)
        })
    }

    /// Kills it.
    pub fn kill_9(&mut self) {
        self.child.take().expect("the authority runs").kill_9();
    }

    /// Asks its administrative listener.
    pub fn ask(&self, path: &str) -> Answer {
        http::get(self.admin, path).unwrap()
    }

    /// Runs one of its own commands over its folder; gives the JSON that it prints.
    pub fn command(&self, args: &[&str]) -> Result<Json, Failed> {
        let mut command = Command::new(authority_binary());
        command.args(args).arg("--dir").arg(self.folder.join("data")).args(["-o", "json"]);
        Ok(serde_json::from_str(&run(&mut command, COMMAND_MAX)?).unwrap())
    }

    /// Runs `cinnabar` as an operator of the authority; gives the JSON that it prints.
    pub fn operate(&self, args: &[&str]) -> Result<Json, Failed> {
        let us = &self.operator;
        let mut command = Command::new(BINARY);
        command.args(args).args(["-o", "json", "--authority", &self.listen.to_string(), "--ca"]).arg(&us.ca);
        command.arg("--cert").arg(&us.cert).arg("--key").arg(&us.key);
        Ok(serde_json::from_str(&run(&mut command, COMMAND_MAX)?).unwrap_or(Json::Null))
    }

    /// The command line of a customer with this token.
    pub fn customer(&self, args: &[&str], token: &Path) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).args(["--url", &format!("https://{}", self.customers), "--ca"]);
        command.arg(self.folder.join("web.pem")).arg("--token-file").arg(token);
        command
    }

    /// Runs a customer's command; gives what it prints.
    pub fn ask_as_customer(&self, args: &[&str], token: &Path) -> Result<String, Failed> {
        run(&mut self.customer(args, token), COMMAND_MAX)
    }

    /// Opens the system secret keys for the test's time.
    pub fn unseal(&self) {
        self.command(&["unseal", "--passphrase-file", &self.passphrase()]).unwrap();
    }

    /// Posts JSON to the customers' port, without credentials.
    pub fn post(&self, path: &str, body: &Json) -> Result<Json, Failed> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "-H", "Content-Type: application/json", "--cacert"]);
        command.arg(self.folder.join("web.pem")).args(["--data", &body.to_string()]);
        let told = run(command.arg(format!("https://{}{path}", self.customers)), COMMAND_MAX)?;
        Ok(serde_json::from_str(&told).unwrap())
    }

    /// Posts JSON to the facade that existing tools speak, with a customer's token.
    pub fn facade(&self, path: &str, token: &str, body: &Json) -> Result<Json, Failed> {
        let file = self.folder.join("body.json");
        fs::write(&file, body.to_string()).unwrap();
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "-H", "Content-Type: application/json", "--cacert"]);
        command.arg(self.folder.join("web.pem")).args(["-H", &format!("Authorization: Bearer {token}")]);
        command.args(["--data", &format!("@{}", file.display())]);
        let told = run(command.arg(format!("https://{}/client/v4/{path}", self.customers)), COMMAND_MAX)?;
        Ok(serde_json::from_str(&told).unwrap())
    }

    /// A record of the store.
    pub fn record(&self, key: &str) -> Option<Vec<u8>> {
        let found = self.cluster.get_local("voter1", key).ok()?;
        let text = found["value_hex"].as_str()?;
        let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        (0..text.len()).step_by(2).map(byte).collect()
    }

    /// The passphrase's file.
    pub fn passphrase(&self) -> String {
        self.folder.join("passphrase").display().to_string()
    }
}
