//! What a terminator is configured with: one TOML file, every key documented here, unknown keys refused.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use cinnabar_daemon::config::DurationMs;
pub use cinnabar_daemon::config::Invalid;
pub use cinnabar_daemon::telemetry::LogConfig;
use cinnabar_edge_api::limits::{BUDGET_MAX, STREAM_OPEN_MAX};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits;

/// Configuration of `cinnabar terminate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminatorConfig {
    /// Where TLS is served; 1 to 16.
    pub listen: Vec<SocketAddr>,
    /// The edge node's Unix socket.
    pub edge_socket: PathBuf,
    /// Where plain connections go. Left out only with `demo_responder`.
    #[serde(default)]
    pub upstream: Option<Upstream>,
    /// Does the upstream read a PROXY protocol header, version 2?
    #[serde(default)]
    pub proxy_protocol: bool,
    /// Protocols that are offered, the preferred one first.
    #[serde(default = "alpn")]
    pub alpn: Vec<String>,
    /// Answer requests here, in place of an upstream; only where the system's mode is demo.
    #[serde(default)]
    pub demo_responder: bool,
    /// Whom to become when started by root, a name or a number.
    #[serde(default)]
    pub user: Option<String>,
    /// Loopback address of `/livez`, `/readyz` and `/metrics`.
    #[serde(default)]
    pub admin_listen: Option<SocketAddr>,
    /// How the log on standard error looks and what is in it.
    #[serde(default)]
    pub log: LogConfig,
    /// Bounds.
    #[serde(default)]
    pub limits: LimitsConfig,
}

/// Bounds that an operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Longest handshake; 100 ms to 30 s.
    pub handshake_time: DurationMs,
    /// Handshakes under way at once; more wait in the kernel's backlog.
    pub handshakes: usize,
    /// Connections open at once, handshakes included; more wait in the kernel's backlog.
    pub connections: usize,
    /// Connections that wait out the delay after a suspicious error; one more is cut at once.
    pub blinded: usize,
    /// Longest such delay, whole seconds up to 30 s.
    pub blinding_time: DurationMs,
    /// Longest silence in both directions of an open connection.
    pub idle_time: DurationMs,
    /// Server names whose configuration is kept.
    pub names: usize,
    /// How long a ticket key makes tickets; it reads them as long again.
    pub ticket_key_life: DurationMs,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            handshake_time: DurationMs(limits::HANDSHAKE_TIME_MS),
            handshakes: limits::HANDSHAKES,
            connections: limits::CONNECTIONS,
            blinded: limits::BLINDED,
            blinding_time: DurationMs(u64::from(limits::BLINDING_SECONDS_MAX) * 1000),
            idle_time: DurationMs(limits::IDLE_TIME_MS),
            names: limits::NAMES,
            ticket_key_life: DurationMs(limits::TICKET_KEY_LIFE_MS),
        }
    }
}

impl LimitsConfig {
    /// The longest delay after a suspicious error, in seconds.
    pub fn blinding_seconds(&self) -> u32 {
        u32::try_from(self.blinding_time.0 / 1000).unwrap_or(limits::BLINDING_SECONDS_MAX)
    }
}

fn alpn() -> Vec<String> {
    vec!["http/1.1".to_owned()]
}

/// Where plain connections go: `host:port` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// TCP, `host:port`.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Upstream {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("`unix:` lacks the path") } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or("write `host:port` or `unix:PATH`")?;
        if host.is_empty() || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err("write `host:port` or `unix:PATH`; the port is 1 to 65535");
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Upstream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> Result<(), Invalid> {
    Err(Invalid::new(field, problem))
}

fn within(field: &'static str, value: DurationMs, least: u64, most: u64) -> Result<(), Invalid> {
    if (least..=most).contains(&value.0) {
        return Ok(());
    }
    invalid(field, format!("is {value}, must be {} to {}", DurationMs(least), DurationMs(most)))
}

impl TerminatorConfig {
    /// Checks what the file's form cannot rule out.
    ///
    /// # Errors
    /// [`Invalid`] with the first fault.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.listen.is_empty() || self.listen.len() > limits::LISTEN_MAX {
            return invalid(
                "listen",
                format!("has {} addresses, must have 1 to {}", self.listen.len(), limits::LISTEN_MAX),
            );
        }
        match (&self.upstream, self.demo_responder) {
            (None, false) => return invalid("upstream", "is missing; write `host:port` or `unix:PATH`"),
            (Some(_), true) => {
                return invalid("demo_responder", "takes the place of `upstream`: leave one of them out");
            }
            (None, true) if self.proxy_protocol => return invalid("proxy_protocol", "needs an `upstream`"),
            _ => {}
        }
        if self.alpn.len() > limits::ALPN_MAX {
            return invalid("alpn", format!("has {} protocols, at most {}", self.alpn.len(), limits::ALPN_MAX));
        }
        // The library gives a negotiated protocol back as text that ends at its first zero byte.
        if self.alpn.iter().any(|name| name.is_empty() || name.len() > limits::ALPN_BYTES_MAX || name.contains('\0')) {
            return invalid("alpn", format!("a protocol has 1 to {} bytes, none of them zero", limits::ALPN_BYTES_MAX));
        }
        self.check_limits()
    }

    fn check_limits(&self) -> Result<(), Invalid> {
        let bounds = &self.limits;
        for (field, value) in [
            ("limits.handshakes", bounds.handshakes),
            ("limits.connections", bounds.connections),
            ("limits.blinded", bounds.blinded),
            ("limits.names", bounds.names),
        ] {
            if value == 0 || value > limits::COUNT_MAX {
                return invalid(field, format!("is {value}, must be 1 to {}", limits::COUNT_MAX));
            }
        }
        if bounds.handshakes > bounds.connections {
            return invalid("limits.handshakes", "must not be more than limits.connections");
        }
        // Each listener that waits for a connection holds a place for it: with fewer, one of them would never accept.
        if bounds.handshakes < self.listen.len() {
            let listening = self.listen.len();
            return invalid("limits.handshakes", format!("must be at least the {listening} addresses of listen"));
        }
        if bounds.handshakes > STREAM_OPEN_MAX {
            return invalid("limits.handshakes", format!("is {}, at most {STREAM_OPEN_MAX}", bounds.handshakes));
        }
        let budget = u64::try_from(BUDGET_MAX.as_millis()).unwrap_or(u64::MAX);
        within("limits.handshake_time", bounds.handshake_time, limits::HANDSHAKE_TIME_MS_MIN, budget)?;
        within("limits.blinding_time", bounds.blinding_time, 1000, u64::from(limits::BLINDING_SECONDS_MAX) * 1000)?;
        if !bounds.blinding_time.0.is_multiple_of(1000) {
            return invalid("limits.blinding_time", "must be whole seconds");
        }
        within("limits.idle_time", bounds.idle_time, limits::IDLE_TIME_MS_MIN, 24 * 3_600_000)?;
        let (least, most) = (limits::TICKET_KEY_LIFE_MS_MIN, limits::TICKET_KEY_LIFE_MS_MAX);
        within("limits.ticket_key_life", bounds.ticket_key_life, least, most)
    }

    /// The longest handshake.
    pub fn handshake_time(&self) -> Duration {
        self.limits.handshake_time.as_duration()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TerminatorConfig {
        TerminatorConfig {
            listen: vec!["127.0.0.1:8443".parse().unwrap()],
            edge_socket: "/run/edge.sock".into(),
            upstream: Some("127.0.0.1:8080".parse().unwrap()),
            proxy_protocol: true,
            alpn: alpn(),
            demo_responder: false,
            user: None,
            admin_listen: None,
            log: LogConfig::default(),
            limits: LimitsConfig::default(),
        }
    }

    #[test]
    fn what_the_form_lets_pass_is_named() {
        config().check().unwrap();
        let field = |change: &dyn Fn(&mut TerminatorConfig)| {
            let mut changed = config();
            change(&mut changed);
            changed.check().unwrap_err().field
        };
        assert_eq!(field(&|c| c.listen.clear()), "listen");
        assert_eq!(field(&|c| c.upstream = None), "upstream");
        assert_eq!(field(&|c| c.demo_responder = true), "demo_responder");
        assert_eq!(field(&|c| (c.upstream, c.demo_responder) = (None, true)), "proxy_protocol");
        assert_eq!(field(&|c| c.alpn = vec![String::new()]), "alpn");
        assert_eq!(field(&|c| c.limits.handshakes = 0), "limits.handshakes");
        assert_eq!(field(&|c| c.limits.connections = 1), "limits.handshakes");
        assert_eq!(field(&|c| (c.listen, c.limits.handshakes) = (c.listen.repeat(2), 1)), "limits.handshakes");
        assert_eq!(field(&|c| c.limits.handshake_time.0 = 31_000), "limits.handshake_time");
        assert_eq!(field(&|c| c.limits.blinding_time.0 = 1500), "limits.blinding_time");
        assert_eq!(field(&|c| c.limits.ticket_key_life.0 = 0), "limits.ticket_key_life");
    }

    #[test]
    fn an_upstream_is_an_address_or_a_socket() {
        assert_eq!("[::1]:80".parse(), Ok(Upstream::Tcp("[::1]:80".to_owned())));
        assert_eq!("unix:/run/x".parse(), Ok(Upstream::Unix("/run/x".into())));
        for bad in ["", "unix:", "host", ":80", "host:0", "host:99999"] {
            assert!(bad.parse::<Upstream>().is_err(), "{bad}");
        }
    }
}
