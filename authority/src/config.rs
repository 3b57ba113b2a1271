//! What the authority is configured with: one TOML file, every key documented here, unknown keys refused.

use std::net::SocketAddr;
use std::path::PathBuf;

use cinnabar_daemon::telemetry::LogConfig;
use cinnabar_daemon::{ClusterId, TlsFiles};
use serde::{Deserialize, Serialize};

/// Most voters that may be named.
pub const VOTERS_MAX: usize = 16;

/// The authority's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityConfig {
    /// The cluster; must be the one in the certificate and the one that `init` named.
    pub cluster: ClusterId,
    /// The folder that `init` made: sealed keys, audit log, control socket.
    pub data_dir: PathBuf,
    /// `host:port` of voters of the store, the preferred one first.
    pub voters: Vec<String>,
    /// Where machines and operators are served, over mutual TLS.
    pub listen: SocketAddr,
    /// Where customers are served; left out, they are not.
    #[serde(default)]
    pub customers: Option<CustomersConfig>,
    /// Loopback address of `/livez`, `/readyz` and `/metrics`.
    #[serde(default)]
    pub admin_listen: Option<SocketAddr>,
    /// Certificate authority, certificate (role `authority`) and key.
    pub tls: TlsFiles,
    /// The inventory: data centres and machines. Read again on SIGHUP.
    pub inventory: PathBuf,
    /// The attribute schema; left out, the default one. Read again on SIGHUP.
    #[serde(default)]
    pub schema: Option<PathBuf>,
    /// How the log on standard error looks and what is in it.
    #[serde(default)]
    pub log: LogConfig,
}

/// Where and as whom customers are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomersConfig {
    /// Where HTTPS is served.
    pub listen: SocketAddr,
    /// The certificate that customers see, PEM, with its chain.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}
