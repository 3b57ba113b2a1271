//! `cinnabar-authority`: the central authority's own binary, so that no edge carries its code.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no authority runs here, 64 configuration.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cinnabar_abe::SecretBytes;
use cinnabar_abe::seal::{OperatorPublicKey, OperatorSecretKey, PassphraseCost, Recipient, SECRET_TEXT_BYTES};
use cinnabar_authority::app::{self, AUDIT_FILE};
use cinnabar_authority::audit::{self, AuditHead};
use cinnabar_authority::config::AuthorityConfig;
use cinnabar_authority::control::{self, Answer, Hidden, Request, With};
use cinnabar_authority::custody::{CaSource, Custody, NewSystem, Opener, UNSEAL_USUAL};
use cinnabar_authority::issue::{self, Wanted};
use cinnabar_authority::passphrase::Source;
use cinnabar_authority_api::records::Mode;
use cinnabar_daemon::config::{DurationMs, ENV_PREFIX, load};
use cinnabar_daemon::pki::{CertificateAuthority, Validity};
use cinnabar_daemon::random::generator;
use cinnabar_daemon::{Allocator, ClusterId, Env, Identity, NodeName, ProcessError, Role, file, memory};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Years that a cluster's CA holds.
const CA_DAYS: u32 = 3650;
/// Days that an issued certificate holds unless told otherwise.
const CERTIFICATE_DAYS: u32 = 7;
/// Exit code when no authority runs over the folder.
const EXIT_UNREACHABLE: u8 = 3;

/// Owns the system's secrets: issues machines' keys, mints policy keys, takes uploads, signs records.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    /// How results are printed.
    #[arg(short = 'o', long, global = true, default_value = "text", value_parser = ["text", "json"])]
    output: String,
    #[command(subcommand)]
    command: Command,
}

/// Where a passphrase comes from: a file, a descriptor, or else the terminal. Never the command line.
#[derive(Args)]
struct PassphraseArgs {
    /// File with the passphrase, readable by its owner alone.
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_fd")]
    passphrase_file: Option<PathBuf>,
    /// Open descriptor with the passphrase.
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<u32>,
}

impl PassphraseArgs {
    fn source(&self) -> Source {
        match (&self.passphrase_file, self.passphrase_fd) {
            (Some(path), _) => Source::File(path.clone()),
            (None, Some(number)) => Source::Descriptor(number),
            (None, None) => Source::Prompt,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Make a system: its CA, record-signing key and system key pair, each sealed apart.
    Init {
        /// Name of the cluster: 1 to 63 of a-z, 0-9 and '-'. It is in every key and record for good.
        #[arg(long)]
        cluster: ClusterId,
        /// Folder for the sealed keys; new or empty.
        #[arg(long)]
        dir: PathBuf,
        /// Mark the system as a demonstration, for good.
        #[arg(long)]
        demo: bool,
        #[command(flatten)]
        passphrase: PassphraseArgs,
        /// File with another passphrase for the system secret keys; left out, they have the first one.
        #[arg(long, value_name = "FILE")]
        system_passphrase_file: Option<PathBuf>,
        /// Operator's public key that opens everything too; may be repeated.
        #[arg(long, value_name = "KEY")]
        operator_key: Vec<OperatorPublicKey>,
        /// Folder with ca.pem and ca.key of a cluster that has its CA already; remove ca.key afterwards.
        #[arg(long, value_name = "DIR")]
        ca: Option<PathBuf>,
    },
    /// Issue a certificate of the cluster: OUT.pem, OUT.key, and ca.pem beside them.
    Issue {
        /// Folder with the sealed keys.
        #[arg(long)]
        dir: PathBuf,
        /// What the holder is: voter, replica, authority or operator. Edge machines enrol instead.
        #[arg(long)]
        role: Role,
        /// The holder's name in the cluster.
        #[arg(long)]
        name: NodeName,
        /// A host name for the certificate; may be repeated.
        #[arg(long)]
        dns: Vec<String>,
        /// An address for the certificate; may be repeated.
        #[arg(long)]
        ip: Vec<IpAddr>,
        /// Days that it holds.
        #[arg(long, default_value_t = CERTIFICATE_DAYS)]
        days: u32,
        /// Path of the files without their endings.
        #[arg(long)]
        out: PathBuf,
        /// Overwrite what is there.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// Serve machines, operators and customers.
    Serve {
        /// Configuration file (TOML); docs/configuration.md lists its keys.
        #[arg(long, value_name = "FILE", env = "CINNABAR_CONFIG")]
        config: PathBuf,
        /// Set one key over the file and the environment; may be repeated.
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// Open the system secret keys of the running authority for a while, so that it can issue machines' keys.
    Unseal {
        /// Folder with the sealed keys.
        #[arg(long)]
        dir: PathBuf,
        /// For how long, such as 15m; at most 8h.
        #[arg(long = "for", value_name = "TIME")]
        time: Option<DurationMs>,
        /// File with an operator's secret key, in place of a passphrase; readable by its owner alone.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["passphrase_file", "passphrase_fd"])]
        operator_key_file: Option<PathBuf>,
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// Make an operator's key pair: OUT.key to keep, away from the authority, and OUT.pub, whose text `init --operator-key` takes.
    OperatorKey {
        /// Path of the files without their endings.
        #[arg(long)]
        out: PathBuf,
        /// Overwrite what is there.
        #[arg(long)]
        force: bool,
    },
    /// Seal them again, now.
    Reseal {
        /// Folder with the sealed keys.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Show how the running authority stands.
    Status {
        /// Folder with the sealed keys.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Check schema and inventory files, as `serve` would.
    CheckInventory {
        /// Configuration file (TOML) that names them.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Walk through an audit log and find where it was touched.
    AuditVerify {
        /// The log.
        #[arg(long, value_name = "FILE", required_unless_present = "dir")]
        file: Option<PathBuf>,
        /// Folder with the sealed keys, whose log is meant.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// A head that was written down before, `seq:hash`.
        #[arg(long, value_name = "HEAD")]
        anchor: Option<AuditHead>,
    },
}

fn failed(error: impl std::fmt::Display) -> ProcessError {
    ProcessError::failed(error)
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let as_json = cli.output == "json";
    match run(cli.command) {
        Ok(report) => {
            print(&report, as_json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            if as_json {
                eprintln!("{}", json!({ "error": error.message, "exit_code": error.code }));
            } else {
                eprintln!("error: {}", error.message);
            }
            ExitCode::from(error.code)
        }
    }
}

fn print(report: &Value, as_json: bool) {
    let Value::Object(fields) = report else { return };
    if as_json {
        println!("{report}");
        return;
    }
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in fields {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        println!("{:width$}  {text}", name.replace('_', " "));
    }
}

fn run(command: Command) -> Result<Value, ProcessError> {
    match command {
        Command::Init { cluster, dir, demo, passphrase, system_passphrase_file, operator_key, ca } => {
            let _ = memory::protect();
            let mode = if demo { Mode::Demo } else { Mode::Production };
            init(&cluster, &dir, mode, &passphrase, system_passphrase_file, &operator_key, ca.as_deref())
        }
        Command::Issue { dir, role, name, dns, ip, days, out, force, passphrase } => {
            let _ = memory::protect();
            issue(&dir, &Wanted { role, name, dns, ip, days }, &out, force, &passphrase)
        }
        Command::Serve { config, set, passphrase } => serve(&config, &set, &passphrase),
        Command::Unseal { dir, time, operator_key_file, passphrase } => {
            let seconds = time.map_or(UNSEAL_USUAL, |time| time.as_duration()).as_secs();
            let source = operator_key_file.clone().map_or_else(|| passphrase.source(), Source::File);
            let secret = source.read("the system secret keys").map_err(failed)?;
            let text = Hidden::new(text_of(&secret)?);
            let with = if operator_key_file.is_some() { With::OperatorKey(text) } else { With::Passphrase(text) };
            ask(&dir, &Request::Unseal { with, seconds })
        }
        Command::OperatorKey { out, force } => operator_key(&out, force),
        Command::Reseal { dir } => ask(&dir, &Request::Reseal),
        Command::Status { dir } => ask(&dir, &Request::Status),
        Command::CheckInventory { config } => {
            let conf = configuration(&config, &[])?;
            let (schema, inventory) = app::read_inventory(&conf)?;
            Ok(json!({
                "labels": schema.labels().len(),
                "data_centers": inventory.data_centers.len(),
                "machines": inventory.machines().count(),
            }))
        }
        Command::AuditVerify { file, dir, anchor } => {
            let file = file.or_else(|| dir.map(|dir| dir.join(AUDIT_FILE))).unwrap_or_default();
            let verified = audit::verify(&file, anchor.as_ref()).map_err(failed)?;
            Ok(json!({ "cluster": verified.cluster, "head": verified.head.to_string(), "cuts": verified.cuts }))
        }
    }
}

fn configuration(path: &Path, set: &[String]) -> Result<AuthorityConfig, ProcessError> {
    let mut overrides = Vec::new();
    for set in set {
        let pair = set.split_once('=');
        let (key, value) =
            pair.ok_or_else(|| ProcessError { message: format!("--set {set}: write KEY=VALUE"), code: 2 })?;
        overrides.push((key.to_owned(), value.to_owned()));
    }
    load(Some(path), ENV_PREFIX, &overrides).map_err(ProcessError::config)
}

#[allow(clippy::too_many_arguments, reason = "the options of one command")]
fn init(
    cluster: &ClusterId,
    dir: &Path,
    mode: Mode,
    passphrase: &PassphraseArgs,
    system_passphrase: Option<PathBuf>,
    operators: &[OperatorPublicKey],
    ca: Option<&Path>,
) -> Result<Value, ProcessError> {
    let env = Env::system();
    let first = passphrase.source().read_new("the new system").map_err(failed)?;
    let second = system_passphrase.map(|path| Source::File(path).read("the system secret keys")).transpose();
    let second = second.map_err(failed)?;
    let existing = ca.map(|ca| CertificateAuthority::load(&ca.join("ca.pem"), &ca.join("ca.key"))).transpose();
    let existing = existing.map_err(failed)?;
    let fresh_ca = Validity::days(CA_DAYS, env.clock.unix_ms());
    let recipients = |passphrase| {
        let cost = PassphraseCost::default();
        let operators = operators.iter().map(|key| Recipient::Operator(*key));
        std::iter::once(Recipient::Passphrase { passphrase, cost }).chain(operators).collect::<Vec<_>>()
    };
    let usual: Vec<Recipient<'_>> = recipients(&first);
    let system: Vec<Recipient<'_>> = recipients(second.as_ref().unwrap_or(&first));
    let fresh = Custody::init(
        dir,
        &NewSystem {
            cluster,
            mode,
            ca_source: existing.as_ref().map_or(CaSource::New(fresh_ca), CaSource::Existing),
            ca: &usual,
            records: &usual,
            system: &system,
        },
        &*env.rng,
        env.clock.clone(),
    )
    .map_err(failed)?;
    Ok(json!({
        "cluster": cluster.to_string(),
        "mode": format!("{mode:?}").to_lowercase(),
        "folder": dir.display().to_string(),
        "record_key": hex::encode(fresh.records.verifying_key().to_bytes()),
        "generation": 1,
    }))
}

fn opened(dir: &Path, passphrase: &PassphraseArgs, env: &Env) -> Result<(Custody, SecretBytes), ProcessError> {
    let custody = Custody::open(dir, env.clock.clone()).map_err(failed)?;
    let secret = passphrase.source().read(&format!("the authority of {}", custody.cluster())).map_err(failed)?;
    Ok((custody, secret))
}

/// Asks the authority that runs over the folder, or opens the sealed key itself when none does.
fn issue(
    dir: &Path,
    wanted: &Wanted,
    out: &Path,
    force: bool,
    passphrase: &PassphraseArgs,
) -> Result<Value, ProcessError> {
    let env = Env::system();
    let (custody, secret) = opened(dir, passphrase, &env)?;
    let identity = Identity { cluster: custody.cluster().clone(), role: wanted.role, name: wanted.name.clone() };
    let text = Hidden::new(text_of(&secret)?);
    let (certificate, key, ca) = match control::ask(dir, &Request::Issue { passphrase: text, wanted: wanted.clone() }) {
        Ok(Answer { issued: Some(issued), .. }) => (issued.certificate, issued.key, issued.ca),
        Ok(answer) => return Err(failed(answer.error)),
        Err(_) => {
            let log =
                audit::Audit::open(&dir.join(AUDIT_FILE), custody.cluster(), env.clock.clone()).map_err(failed)?;
            let opener = Opener::Passphrase(&secret);
            let (ca, mut issued) = issue::issue(&custody, &log, opener, "local user", wanted, &env).map_err(failed)?;
            let key = Hidden::new(std::mem::take(&mut *issued.key_pem));
            (issued.certificate_pem.clone(), key, ca.certificate_pem().to_owned())
        }
    };
    let with = |ending: &str| with_ending(out, ending);
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wrong = |path: &Path, error: std::io::Error| failed(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(folder).map_err(|error| wrong(folder, error))?;
    let write = |path: PathBuf, text: &str, mode, force| {
        file::write_synced(&path, text.as_bytes(), mode, force).map_err(|error| wrong(&path, error))
    };
    write(with(".key"), key.expose(), file::PRIVATE, force)?;
    write(with(".pem"), &certificate, file::PUBLIC, force)?;
    if !folder.join("ca.pem").exists() {
        write(folder.join("ca.pem"), &ca, file::PUBLIC, false)?;
    }
    Ok(json!({
        "identity": identity.to_string(),
        "certificate": with(".pem").display().to_string(),
        "key": with(".key").display().to_string(),
    }))
}

fn with_ending(out: &Path, ending: &str) -> PathBuf {
    let mut path = out.as_os_str().to_owned();
    path.push(ending);
    PathBuf::from(path)
}

/// Makes an operator's key pair in two files.
fn operator_key(out: &Path, force: bool) -> Result<Value, ProcessError> {
    let _ = memory::protect();
    let key = OperatorSecretKey::generate(&mut generator(&*Env::system().rng).map_err(failed)?);
    let public = key.public_key();
    let (secret_file, public_file) = (with_ending(out, ".key"), with_ending(out, ".pub"));
    let write = |path: &Path, bytes: &[u8], mode| {
        file::write_synced(path, bytes, mode, force).map_err(|error| failed(format!("{}: {error}", path.display())))
    };
    // One line, its end with it, in memory that is wiped.
    let mut line = zeroize::Zeroizing::new(Vec::with_capacity(SECRET_TEXT_BYTES + 1));
    line.extend_from_slice(key.to_text().expose());
    line.push(b'\n');
    write(&secret_file, &line, file::PRIVATE)?;
    write(&public_file, format!("{public}\n").as_bytes(), file::PUBLIC)?;
    Ok(json!({
        "public_key": public.to_string(),
        "fingerprint": public.fingerprint().to_string(),
        "key": secret_file.display().to_string(),
    }))
}

fn text_of(secret: &SecretBytes) -> Result<String, ProcessError> {
    String::from_utf8(secret.expose().to_vec()).map_err(|_| failed("the passphrase is not text"))
}

fn serve(config: &Path, set: &[String], passphrase: &PassphraseArgs) -> Result<Value, ProcessError> {
    let conf = configuration(config, set)?;
    let secret = passphrase.source().read(&format!("the authority of {}", conf.cluster)).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(app::serve(conf, secret, env!("CARGO_PKG_VERSION")))?;
    Ok(Value::Null)
}

fn ask(dir: &Path, request: &Request) -> Result<Value, ProcessError> {
    let answer: Answer = control::ask(dir, request).map_err(|error| ProcessError {
        message: format!("no authority answers in {}: {error}", dir.display()),
        code: EXIT_UNREACHABLE,
    })?;
    if !answer.error.is_empty() {
        return Err(failed(answer.error));
    }
    serde_json::to_value(answer).map_err(failed)
}
