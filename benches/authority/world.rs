//! What is measured: three voters, and an authority over them that is as full as one of a large network.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::child::{Child, free_ports, run};
use crate::cinnabar::{BINARY, Cluster};
use crate::https::{Https, trusting};
use crate::machine::rss_mib;
use crate::material::{DOMAIN, inventory};
use crate::report::hundredths;
use crate::{Fallible, Plan};

/// Longest that the authority may take to be ready: it reads and verifies every record.
const READY_MAX: Duration = Duration::from_secs(120);
/// The zone that is measured with.
pub const ZONE: &str = "measured";
/// Zones whose tokens take turns with policy checks: each may have 600 a minute.
const CHECKERS: usize = 8;

/// See the module.
pub struct World {
    /// The store.
    pub cluster: Cluster,
    /// A token of [`ZONE`].
    pub token: String,
    /// Tokens of other zones.
    pub checkers: Vec<String>,
    authority: Child,
    customers: SocketAddr,
    trust: Arc<rustls::ClientConfig>,
}

impl World {
    /// Starts the voters, fills them, starts the authority; gives rows about its memory as well.
    pub async fn start(plan: &Plan, folder: &Path) -> Fallible<(Self, Vec<Value>)> {
        let cluster = Cluster::start(folder, 3).await?;
        let conf = Conf::write(plan, folder, &cluster)?;
        let (mut authority, empty_seconds) = conf.launch(plan).await?;
        let mut memory = vec![json!({ "what": format!("empty store, inventory of {} machines", plan.machines),
            "rss_mib": rss_mib(authority.id()), "seconds": empty_seconds })];
        authority.end(Signal::TERM)?;
        plan.progress(&format!("filling: {} machines, {} certificates", plan.machines, plan.certificates));
        conf.fill(plan, &cluster)?;
        let (authority, seconds) = conf.launch(plan).await?;
        let what = format!("{} machines, {} certificates", plan.machines, plan.certificates);
        memory.push(json!({ "what": what, "rss_mib": rss_mib(authority.id()), "seconds": seconds }));
        let mut checkers = Vec::new();
        for n in 0..CHECKERS {
            checkers.push(conf.zone(&format!("checker-{n}"), &format!("checker-{n}.example"))?);
        }
        let (token, trust) = (conf.zone(ZONE, DOMAIN)?, trusting(&folder.join("web.pem"))?);
        Ok((Self { cluster, token, checkers, authority, customers: conf.customers, trust }, memory))
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Https {
        Https::new(self.customers, self.trust.clone())
    }

    /// The authority's process.
    pub fn pid(&self) -> u32 {
        self.authority.id()
    }

    /// Its memory.
    pub fn rss_mib(&self) -> f64 {
        rss_mib(self.pid())
    }
}

/// The authority's files.
struct Conf {
    folder: PathBuf,
    listen: String,
    admin: String,
    customers: SocketAddr,
}

impl Conf {
    fn at(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn write(plan: &Plan, folder: &Path, cluster: &Cluster) -> Fallible<Self> {
        let ports = free_ports(3)?;
        let [listen, admin, customers] = [0, 1, 2].map(|n| format!("127.0.0.1:{}", ports[n]));
        let conf = Self { folder: folder.to_owned(), listen, admin, customers: customers.parse()? };
        fs::write(conf.at("passphrase"), "of a benchmark")?;
        fs::set_permissions(conf.at("passphrase"), fs::Permissions::from_mode(0o600))?;
        fs::write(conf.at("inventory.toml"), inventory(plan.machines)?)?;
        let web = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        fs::write(conf.at("web.pem"), web.cert.pem())?;
        fs::write(conf.at("web.key"), web.signing_key.serialize_pem())?;
        cluster.issue("authority", "authority")?;
        let (data, passphrase, ca) = (conf.at("authority.data"), conf.at("passphrase"), conf.at("ca"));
        let init = ["init", "--cluster", "bench", "--dir", &data, "--passphrase-file", &passphrase, "--ca", &ca];
        run(&plan.authority, &init)?;
        let voters: Vec<&str> = cluster.voters().iter().map(|node| node.address.as_str()).collect();
        let text = format!(
            "cluster = \"bench\"\ndata_dir = {data:?}\nvoters = {voters:?}\nlisten = {:?}\nadmin_listen = {:?}\n\
             inventory = {:?}\n[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n\
             [customers]\nlisten = \"{customers}\"\ncert = {:?}\nkey = {:?}\n[log]\nfilter = \"warn\"\n",
            conf.listen,
            conf.admin,
            conf.at("inventory.toml"),
            conf.at("ca.pem"),
            conf.at("authority.pem"),
            conf.at("authority.key"),
            conf.at("web.pem"),
            conf.at("web.key"),
        );
        fs::write(conf.at("authority.toml"), text)?;
        Ok(conf)
    }

    /// Starts the authority; gives the seconds until it is ready, too.
    async fn launch(&self, plan: &Plan) -> Fallible<(Child, f64)> {
        let (config, passphrase) = (self.at("authority.toml"), self.at("passphrase"));
        let args = ["serve", "--config", &config, "--passphrase-file", &passphrase];
        let start = Instant::now();
        let mut child = Child::start(&plan.authority, &args, self.at("authority.log").into())?;
        while !self.is_ready().await {
            if start.elapsed() > READY_MAX || !child.runs()? {
                let log = fs::read_to_string(self.at("authority.log")).unwrap_or_default();
                return Err(format!("the authority is not ready: {log}").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok((child, hundredths(start.elapsed().as_secs_f64())))
    }

    async fn is_ready(&self) -> bool {
        let Ok(mut stream) = cinnabar_daemon::Env::system().net.dial(&self.admin).await else { return false };
        let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        asked.is_ok() && stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200")
    }

    fn fill(&self, plan: &Plan, cluster: &Cluster) -> Fallible<()> {
        let voters: Vec<&str> = cluster.voters().iter().map(|node| node.address.as_str()).collect();
        let (voters, certificates) = (voters.join(","), plan.certificates.to_string());
        let (data, passphrase) = (self.at("authority.data"), self.at("passphrase"));
        let (inventory, tls) = (self.at("inventory.toml"), self.at("authority"));
        let args = ["--dir", &data, "--passphrase-file", &passphrase, "--inventory", &inventory, "--tls", &tls];
        let args = args.into_iter().chain(["--voters", &voters, "--certificates", &certificates]);
        run(&plan.bulk, &args.collect::<Vec<_>>()).map(drop)
    }

    /// Makes a zone that nothing holds back, and a token of it.
    fn zone(&self, id: &str, domain: &str) -> Fallible<String> {
        let operate = |args: &[&str]| -> Fallible<Value> {
            let (ca, cert, key) = (self.at("ca.pem"), self.at("operator.pem"), self.at("operator.key"));
            let who = ["-o", "json", "--authority", &self.listen, "--ca", &ca, "--cert", &cert, "--key", &key];
            let told = run(Path::new(BINARY), &args.iter().copied().chain(who).collect::<Vec<_>>())?;
            // A token is shown as text.
            Ok(serde_json::from_str(&told).unwrap_or_else(|_| told.trim().into()))
        };
        let most = ["--keys-max", "100000", "--changes-per-minute", "100000"];
        operate(&["zone", "add", id, "--domain", domain, most[0], most[1], most[2], most[3]])?;
        let made = operate(&["token", "create", "--zone", id])?;
        let token = made.as_str().or_else(|| made["token"].as_str()).ok_or("no token")?;
        Ok(token.to_owned())
    }
}
