//! What an edge node is configured with: one TOML file, every key documented here, unknown keys refused.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cinnabar_daemon::config::{DurationMs, Invalid};
use cinnabar_kv::config::ReplicaConfig;
use serde::{Deserialize, Serialize};

use crate::directory::Staleness;
use crate::limits::{ATTEMPT_TIMEOUT, DEADLINE_MS_MAX, FRESH_MS, ROUTE_DEADLINE, UIDS_MAX};

/// Configuration of `cinnabar edge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeConfig {
    /// The embedded copy of the store: every key of `cinnabar replica`.
    pub replica: ReplicaConfig,
    /// What this machine signs for its peers.
    pub signer: SignerConfig,
    /// What it does for the services of this machine.
    pub local: LocalConfig,
    /// Who this machine is.
    #[serde(default)]
    pub machine: MachineConfig,
    /// Where the authority is.
    pub authority: AuthorityConfig,
    /// How long signatures for others go on when something is old.
    #[serde(default)]
    pub staleness: StalenessConfig,
    /// How signatures are had from peers.
    #[serde(default)]
    pub router: RouterConfig,
}

/// `[signer]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerConfig {
    /// Where peers are served, over mutual TLS.
    pub listen: SocketAddr,
    /// `host:port` under which peers reach it; left out, `listen`.
    #[serde(default)]
    pub advertise: Option<String>,
}

/// `[local]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalConfig {
    /// Unix socket for services of this machine: certificates and signatures.
    pub socket: PathBuf,
    /// Users whose processes may have signatures made; left out, this process's own.
    #[serde(default)]
    pub allow_uids: Vec<u32>,
    /// Users whose processes may read secrets (`cinnabar secret get`), and set distances in a demonstration; left out, this process's own.
    #[serde(default)]
    pub secret_uids: Vec<u32>,
}

/// `[machine]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineConfig {
    /// What `cinnabar edge enrol` pinned; left out, `trust.toml` in `replica.data_dir`.
    pub trust: Option<PathBuf>,
    /// The key that this machine's attribute keys are sealed to, in a file that is not on the data folder's disk: a file
    /// on another mount, or one that systemd-creds unseals by the TPM (under `$CREDENTIALS_DIRECTORY`).
    pub sealing_key: Option<PathBuf>,
    /// Keep attribute keys in a plain file. Refused unless the system is a demonstration.
    pub insecure_machine_key: bool,
}

/// `[authority]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityConfig {
    /// `host:port` where the authority serves machines.
    pub address: String,
}

/// `[staleness]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StalenessConfig {
    /// Age of the authority's newest head up to which others' signatures are made.
    pub head_max: DurationMs,
    /// Age of the store's newest checkpoint up to which others' signatures are made.
    pub remote_stale_max: DurationMs,
}

impl Default for StalenessConfig {
    fn default() -> Self {
        Self { head_max: DurationMs(3 * 86_400_000), remote_stale_max: DurationMs(12 * 3_600_000) }
    }
}

/// `[router]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterConfig {
    /// Longest that a signature elsewhere may take, all attempts together, whatever the request says; one that says nothing has 3 s.
    pub deadline: DurationMs,
    /// Longest that one attempt may take.
    pub attempt: DurationMs,
    /// Simulated distances to other data centres. Refused unless the system is a demonstration.
    pub distance: Option<PathBuf>,
}

impl Default for RouterConfig {
    fn default() -> Self {
        let ms = |time: Duration| DurationMs(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Self { deadline: ms(ROUTE_DEADLINE), attempt: ms(ATTEMPT_TIMEOUT), distance: None }
    }
}

fn invalid<T>(field: &'static str, problem: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid::new(field, problem))
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) && !text.contains(char::is_whitespace)
    })
}

impl EdgeConfig {
    /// Checks what the file's form cannot rule out.
    ///
    /// # Errors
    /// [`Invalid`], naming the field and what would be right.
    pub fn check(&self) -> Result<(), Invalid> {
        let machine = &self.machine;
        match (&machine.sealing_key, machine.insecure_machine_key) {
            (None, false) => {
                return invalid(
                    "machine.sealing_key",
                    "is missing: name a file that is not on the data folder's disk; `cinnabar edge enrol` makes it",
                );
            }
            (Some(_), true) => {
                return invalid("machine.insecure_machine_key", "excludes machine.sealing_key: take one of them out");
            }
            _ => {}
        }
        if let Some(path) = &machine.sealing_key
            && path.starts_with(&self.replica.data_dir)
        {
            return invalid(
                "machine.sealing_key",
                "is inside replica.data_dir: whoever takes the folder would have the key too",
            );
        }
        let advertised = self.address();
        if !is_address(&advertised) || (self.signer.advertise.is_none() && self.signer.listen.ip().is_unspecified()) {
            return invalid("signer.advertise", "must be host:port under which peers reach this machine");
        }
        if !is_address(&self.authority.address) {
            return invalid("authority.address", "must be host:port");
        }
        for (field, uids) in
            [("local.allow_uids", &self.local.allow_uids), ("local.secret_uids", &self.local.secret_uids)]
        {
            if uids.len() > UIDS_MAX {
                return invalid(field, format!("has {} entries, may have {UIDS_MAX}", uids.len()));
            }
        }
        let StalenessConfig { head_max, remote_stale_max } = self.staleness;
        for (field, value) in [("staleness.head_max", head_max), ("staleness.remote_stale_max", remote_stale_max)] {
            if value.0 < FRESH_MS {
                return invalid(field, "must be at least 5m");
            }
        }
        let RouterConfig { deadline, attempt, .. } = &self.router;
        if !(1..=DEADLINE_MS_MAX).contains(&deadline.0) {
            return invalid("router.deadline", "must be 1ms to 10s");
        }
        if attempt.0 == 0 || attempt > deadline {
            return invalid("router.attempt", "must be more than 0 and at most router.deadline");
        }
        Ok(())
    }

    /// `host:port` that peers are told.
    pub fn address(&self) -> String {
        self.signer.advertise.clone().unwrap_or_else(|| self.signer.listen.to_string())
    }

    /// Where enrolment's pins are.
    pub fn trust(&self) -> PathBuf {
        self.machine.trust.clone().unwrap_or_else(|| self.replica.data_dir.join("trust.toml"))
    }

    /// How long signatures for others go on.
    pub fn staleness(&self) -> Staleness {
        let StalenessConfig { head_max, remote_stale_max } = self.staleness;
        Staleness { head_max_ms: head_max.0, remote_stale_max_ms: remote_stale_max.0 }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The least that must be said.
    pub const LEAST: &str = r#"
[replica]
cluster = "acme"
listen = "127.0.0.1:7000"
data_dir = "/var/lib/cinnabar"
upstreams = ["relay:7000"]
tls = { ca = "ca.pem", cert = "tls.crt", key = "tls.key" }
[signer]
listen = "127.0.0.1:7001"
[local]
socket = "/run/cinnabar/edge.sock"
[machine]
sealing_key = "/mnt/key/sealing.key"
[authority]
address = "authority:7100"
"#;

    fn problem(change: impl FnOnce(&mut EdgeConfig)) -> &'static str {
        let mut conf: EdgeConfig = toml::from_str(LEAST).unwrap();
        change(&mut conf);
        conf.check().unwrap_err().field
    }

    #[test]
    fn the_least_is_enough_and_the_defaults_are_the_tables() {
        let conf: EdgeConfig = toml::from_str(LEAST).unwrap();
        conf.check().unwrap();
        assert_eq!((conf.staleness().head_max_ms, conf.staleness().remote_stale_max_ms), (259_200_000, 43_200_000));
        assert_eq!((conf.router.deadline.0, conf.router.attempt.0), (3000, 1000));
        assert_eq!(conf.address(), "127.0.0.1:7001");
        assert_eq!(conf.trust().to_str(), Some("/var/lib/cinnabar/trust.toml"));
        assert!(toml::from_str::<EdgeConfig>(&LEAST.replace("[signer]", "[signer]\ncolour = 1")).is_err());
    }

    #[test]
    fn what_cannot_work_is_refused_and_the_field_named() {
        assert_eq!(problem(|conf| conf.machine.sealing_key = None), "machine.sealing_key");
        let inside = |conf: &mut EdgeConfig| conf.machine.sealing_key = Some("/var/lib/cinnabar/key".into());
        assert_eq!(problem(inside), "machine.sealing_key");
        assert_eq!(problem(|conf| conf.machine.insecure_machine_key = true), "machine.insecure_machine_key");
        assert_eq!(problem(|conf| conf.signer.listen = "0.0.0.0:1".parse().unwrap()), "signer.advertise");
        assert_eq!(problem(|conf| conf.signer.advertise = Some("host".to_owned())), "signer.advertise");
        assert_eq!(problem(|conf| conf.authority.address = "host:0".to_owned()), "authority.address");
        assert_eq!(problem(|conf| conf.local.secret_uids = vec![1; UIDS_MAX + 1]), "local.secret_uids");
        assert_eq!(problem(|conf| conf.staleness.head_max.0 = 1), "staleness.head_max");
        assert_eq!(problem(|conf| conf.router.deadline.0 = 20_000), "router.deadline");
        assert_eq!(problem(|conf| conf.router.attempt.0 = 5_000), "router.attempt");
    }
}
