//! The cluster's certificate authority on files: made once, kept off the cluster's machines.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cinnabar_daemon::pki::{CertificateAuthority, San, Validity};
use cinnabar_daemon::{ClusterId, Env, Identity, NodeName, Role, file};
use clap::Subcommand;
use serde_json::json;

use super::error::CliError;
use super::report::{Format, print};

/// Days that an authority holds unless told otherwise.
const AUTHORITY_DAYS: u32 = 3650;
/// Days that a certificate holds unless told otherwise.
const CERTIFICATE_DAYS: u32 = 7;

/// `cinnabar pki ...`
#[derive(Subcommand)]
pub enum Command {
    /// Make a cluster's certificate authority: OUT/ca.pem and OUT/ca.key.
    Init {
        /// Name of the cluster: 1 to 63 of a-z, 0-9 and '-'.
        #[arg(long)]
        cluster: ClusterId,
        /// Folder for the two files.
        #[arg(long)]
        out: PathBuf,
        /// Days that the authority holds.
        #[arg(long, default_value_t = AUTHORITY_DAYS)]
        days: u32,
        /// Overwrite what is there.
        #[arg(long)]
        force: bool,
    },
    /// Issue a certificate: OUT.pem and OUT.key.
    Issue {
        /// Folder with ca.pem and ca.key.
        #[arg(long)]
        ca: PathBuf,
        /// What the holder is: voter, replica, edge, authority or operator.
        #[arg(long)]
        role: Role,
        /// The holder's name in the cluster.
        #[arg(long)]
        name: NodeName,
        /// A host name for the certificate; may be repeated. Identities are checked, host names are not.
        #[arg(long)]
        dns: Vec<String>,
        /// An address for the certificate; may be repeated.
        #[arg(long)]
        ip: Vec<IpAddr>,
        /// Days that the certificate holds.
        #[arg(long, default_value_t = CERTIFICATE_DAYS, conflicts_with = "hours")]
        days: u32,
        /// Hours that the certificate holds, in place of days.
        #[arg(long)]
        hours: Option<u32>,
        /// Path of the two files without their endings.
        #[arg(long)]
        out: PathBuf,
        /// Overwrite what is there.
        #[arg(long)]
        force: bool,
    },
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

fn with_ending(prefix: &Path, ending: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Runs it.
pub fn run(command: Command, format: Format) -> Result<(), CliError> {
    let env = Env::system();
    let now = env.clock.unix_ms();
    match command {
        Command::Init { cluster, out, days, force } => {
            let authority =
                CertificateAuthority::create(&cluster, Validity::days(days, now), &*env.rng).map_err(failed)?;
            std::fs::create_dir_all(&out).map_err(|error| CliError::file(&out, error))?;
            let (certificate, key) = (out.join("ca.pem"), out.join("ca.key"));
            authority.write(&certificate, &key, force).map_err(failed)?;
            let report = json!({ "cluster": cluster.to_string(), "certificate": certificate.display().to_string(), "key": key.display().to_string(), "days": days });
            print(format, &report, None)
        }
        Command::Issue { ca, role, name, dns, ip, days, hours, out, force } => {
            let authority = CertificateAuthority::load(&ca.join("ca.pem"), &ca.join("ca.key")).map_err(failed)?;
            let identity = Identity { cluster: authority.cluster().clone(), role, name };
            let sans: Vec<San> = dns.into_iter().map(San::Dns).chain(ip.into_iter().map(San::Ip)).collect();
            let validity = hours.map_or_else(|| Validity::days(days, now), |hours| Validity::hours(hours, now));
            let issued = authority.issue(&identity, &sans, validity, &*env.rng).map_err(failed)?;
            let (certificate, key) = (with_ending(&out, ".pem"), with_ending(&out, ".key"));
            if let Some(dir) = out.parent() {
                std::fs::create_dir_all(dir).map_err(|error| CliError::file(dir, error))?;
            }
            issued.write(&certificate, &key, force).map_err(failed)?;
            // A folder with everything that a process needs can be handed over as it is.
            let beside = out.parent().map(|dir| dir.join("ca.pem")).filter(|path| !path.exists());
            if let Some(path) = beside {
                file::write_synced(&path, authority.certificate_pem().as_bytes(), file::PUBLIC, false)
                    .map_err(|error| CliError::file(&path, error))?;
            }
            let report = json!({ "identity": identity.to_string(), "certificate": certificate.display().to_string(), "key": key.display().to_string() });
            print(format, &report, None)
        }
    }
}
