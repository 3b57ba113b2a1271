//! The edge node and what its machine asks it: `edge`, `edge enrol`, `explain`, `secret get`.

use std::path::{Path, PathBuf};

use cinnabar_daemon::{Env, file};
use cinnabar_edge::app;
use cinnabar_edge::config::EdgeConfig;
use cinnabar_edge::identity::Sealing;
use cinnabar_edge::identity::enrol::Enrolment;
use cinnabar_edge_api::client::EdgeClient;
use cinnabar_edge_api::proto;
use clap::Subcommand;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::VERSION;
use super::authority;
use super::connect::block_on;
use super::error::CliError;
use super::files::{Destination, Secrecy};
use super::report::{Format, behind_ms, print, print_text};
use super::store::{self, Process};

/// Where an edge node listens for the services of its machine unless told otherwise.
const SOCKET: &str = "/run/cinnabar/edge.sock";
/// Largest token file, in bytes.
const TOKEN_BYTES_MAX: usize = 4 * 1024;

/// `cinnabar edge`
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Edge {
    #[command(flatten)]
    process: Option<Process>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// `cinnabar edge ...`
#[derive(Subcommand)]
enum Command {
    /// Let this machine in with an operator's token: makes its keys here and writes them where the configuration says.
    Enrol {
        #[command(flatten)]
        process: Process,
        /// File with the token that `cinnabar machine token` printed.
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
        /// The authority's HTTPS address, such as `https://keys.example`.
        #[arg(long, value_name = "URL")]
        authority: String,
        /// Certificates that its HTTPS is trusted by, instead of the system's.
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
    },
}

/// Where the edge node of this machine is.
#[derive(clap::Args, Debug, Clone)]
pub struct Local {
    /// Unix socket of the edge node.
    #[arg(long = "edge-socket", value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
}

impl Local {
    /// Its client.
    pub fn client(&self) -> EdgeClient {
        EdgeClient::new(&self.socket)
    }
}

/// `cinnabar explain`
#[derive(clap::Args)]
pub struct Explain {
    /// The name, as TLS clients send it.
    hostname: String,
    #[command(flatten)]
    local: Local,
}

/// Runs `edge`.
pub fn run(edge: Edge, format: Format) -> Result<(), CliError> {
    match (edge.command, edge.process) {
        (Some(Command::Enrol { process, token_file, authority, ca }), _) => {
            enrol(&process, &token_file, authority, ca, format)
        }
        (None, Some(process)) => {
            let conf: EdgeConfig = store::load(&process)?;
            block_on(async { app::run(Env::system(), conf, VERSION).await.map_err(store::process_error) })
        }
        (None, None) => Err(CliError::Usage("--config FILE is missing".to_owned())),
    }
}

fn enrol(
    process: &Process,
    token_file: &Path,
    url: String,
    ca: Option<PathBuf>,
    format: Format,
) -> Result<(), CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let conf: EdgeConfig = store::load(process)?;
    conf.check().map_err(|error| store::process_error(cinnabar_daemon::ProcessError::config(error)))?;
    let token = file::read_bounded(token_file, TOKEN_BYTES_MAX).map(Zeroizing::new);
    let token = token.map_err(|error| CliError::file(token_file, error))?;
    let token = std::str::from_utf8(&token).map_err(|_| CliError::file(token_file, "not a token"))?;
    let enrolment = Enrolment::begin(token, &conf).map_err(|error| failed(&error))?;
    let env = Env::system();
    let sealing = match &conf.machine.sealing_key {
        Some(path) => Sealing::load_or_make(path, &*env.rng).map_err(|error| failed(&error))?,
        None => Sealing::Plain,
    };
    let body: Value = serde_json::from_str(&enrolment.body()).map_err(|error| failed(&error))?;
    let answer = authority::enrol(url, ca, body)?;
    let pins = enrolment.finish(&answer, &conf, &sealing, &env).map_err(|error| failed(&error))?;
    let report = json!({
        "machine": pins.machine.to_string(), "cluster": pins.cluster.to_string(),
        "certificate": conf.replica.tls.cert.display().to_string(), "pins": conf.trust().display().to_string(),
    });
    print(format, &report, None)
}

/// Runs `explain`.
pub fn explain(command: &Explain, format: Format) -> Result<(), CliError> {
    let request = proto::ExplainRequest { hostname: command.hostname.clone() };
    let answer = block_on(async {
        let mut agent = command.local.client().agent();
        let answer = agent.explain(request).await.map_err(|status| CliError::status(&status))?;
        Ok(answer.into_inner())
    })?;
    match format {
        Format::Json => print(format, &explained(&answer), None)?,
        Format::Text => print_text(&explained_text(&command.hostname, &answer))?,
    }
    if answer.certificates.is_empty() { Err(CliError::Conflict(answer.problem)) } else { Ok(()) }
}

fn explained(answer: &proto::ExplainResponse) -> Value {
    let certificates: Vec<Value> = answer
        .certificates
        .iter()
        .map(|cert| {
            let holders: Vec<Value> = cert
                .holders
                .iter()
                .map(|holder| {
                    json!({
                        "data_center": holder.data_center, "machines": holder.machines, "healthy": holder.healthy,
                        "round_trip_us": holder.round_trip_us, "rank": holder.rank,
                    })
                })
                .collect();
            json!({
                "zone": cert.zone, "id": cert.id, "version": cert.version, "key_type": cert.key_type,
                "policy": cert.policy, "compiled": cert.compiled, "here": cert.here, "why": cert.why,
                "holders": holders,
            })
        })
        .collect();
    json!({
        "certificates": certificates, "problem": answer.problem, "head_age_ms": behind_ms(answer.head_age_ms),
        "checkpoint_age_ms": behind_ms(answer.checkpoint_age_ms), "applied_index": answer.applied_index,
    })
}

fn seconds(ms: u64) -> String {
    if ms == u64::MAX { "never".to_owned() } else { format!("{:.1} s", ms as f64 / 1000.0) }
}

fn explained_text(hostname: &str, answer: &proto::ExplainResponse) -> String {
    let mut out = format!("{hostname}\n");
    for cert in &answer.certificates {
        let policy = if cert.policy.is_empty() { "everywhere" } else { &cert.policy };
        out += &format!("\n{}  {}/{} version {}\n", cert.key_type, cert.zone, cert.id, cert.version);
        out += &format!("  policy   {policy}\n");
        let here = if cert.here { "yes".to_owned() } else { format!("no: {}", cert.why) };
        out += &format!("  here     {here}\n");
        for (n, holder) in cert.holders.iter().enumerate() {
            let title = if n == 0 { "holders" } else { "" };
            let trip = match holder.round_trip_us {
                0 => "not measured".to_owned(),
                us => format!("{:.1} ms", f64::from(us) / 1000.0),
            };
            out += &format!("  {title:<8} {}: {} machines, {trip}\n", holder.data_center, holder.machines);
        }
        if cert.holders.is_empty() {
            out += "  holders  none\n";
        }
    }
    if !answer.problem.is_empty() {
        out += &format!("  {}\n", answer.problem);
    }
    let (head, checkpoint) = (seconds(answer.head_age_ms), seconds(answer.checkpoint_age_ms));
    out + &format!("\nentry {}, head {head} old, checkpoint {checkpoint} old\n", answer.applied_index)
}

/// Runs `secret get`.
pub fn secret(zone: String, name: String, local: &Local, to: &Destination) -> Result<(), CliError> {
    let secret = block_on(async {
        let mut agent = local.client().agent();
        let answer = agent.secret(proto::SecretRequest { zone, name }).await;
        Ok(answer.map_err(|status| CliError::status(&status))?.into_inner().secret)
    })?;
    to.write(&secret, Secrecy::Secret, false)
}
