//! Certificates for processes of the cluster other than edge machines, which enrol.

use cinnabar_daemon::pki::{CertificateAuthority, Issued, San, Validity};
use cinnabar_daemon::{Env, Identity, NodeName, Role};
use serde::{Deserialize, Serialize};

use crate::audit::{Audit, Entry};
use crate::custody::{Custody, Opener};

/// Longest that such a certificate may hold, in days.
pub const CERTIFICATE_DAYS_MAX: u32 = 397;

/// What is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// What the holder is.
    pub role: Role,
    /// Its name in the cluster.
    pub name: NodeName,
    /// Host names.
    #[serde(default)]
    pub dns: Vec<String>,
    /// Addresses.
    #[serde(default)]
    pub ip: Vec<std::net::IpAddr>,
    /// Days that it holds.
    pub days: u32,
}

/// Issues a certificate with a new key, told to the audit log before it leaves. Blocks: the CA's key is opened for it.
///
/// # Errors
/// What is wrong, for the operator.
pub fn issue(
    custody: &Custody,
    audit: &Audit,
    opener: Opener<'_>,
    actor: &str,
    wanted: &Wanted,
    env: &Env,
) -> Result<(CertificateAuthority, Issued), String> {
    if wanted.role == Role::Edge {
        return Err("edge machines enrol: `cinnabar machine token` makes what they need".to_owned());
    }
    if wanted.days == 0 || wanted.days > CERTIFICATE_DAYS_MAX {
        return Err(format!("--days {}: 1 to {CERTIFICATE_DAYS_MAX}", wanted.days));
    }
    let ca = custody.ca(opener).map_err(|error| error.to_string())?;
    let identity = Identity { cluster: ca.cluster().clone(), role: wanted.role, name: wanted.name.clone() };
    let (subject, days) = (identity.to_string(), wanted.days.to_string());
    let entry = Entry { actor, act: "issue certificate", subject: &subject, details: &[("days", &days)] };
    audit.append(&entry).map_err(|error| error.to_string())?;
    let dns = wanted.dns.iter().cloned().map(San::Dns);
    let sans: Vec<San> = dns.chain(wanted.ip.iter().copied().map(San::Ip)).collect();
    let validity = Validity::days(wanted.days, env.clock.unix_ms());
    let issued = ca.issue(&identity, &sans, validity, &*env.rng).map_err(|error| error.to_string())?;
    Ok((ca, issued))
}
