//! What a voter and a replica are configured with: one TOML file each, every key documented here, unknown keys refused.

use std::net::SocketAddr;
use std::path::PathBuf;

pub use cinnabar_daemon::config::Invalid;
use cinnabar_daemon::config::{Bytes, DurationMs};
use cinnabar_daemon::{ClusterId, LogFormat, NodeName, TlsFiles};
use cinnabar_kv_api::StoreId;
use serde::{Deserialize, Serialize};

use crate::limits::{CACHE_BYTES_DEFAULT, ENGINE_CACHE_BYTES_DEFAULT, LOG_KEEP_BYTES_DEFAULT, UPSTREAMS_MAX};
use crate::raft::Timing;

macro_rules! node_config {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The cluster; must be the one in the certificate.
            pub cluster: ClusterId,
            /// The node's name; must be the one in the certificate. Left out, the certificate's.
            #[serde(default)]
            pub name: Option<NodeName>,
            /// Where gRPC over mutual TLS is served.
            pub listen: SocketAddr,
            /// `host:port` under which others reach it; left out, `listen`.
            #[serde(default)]
            pub advertise: Option<String>,
            /// The folder for log, state and snapshots; made when missing, for this process alone.
            pub data_dir: PathBuf,
            /// Unix socket for local readers, gRPC.
            #[serde(default)]
            pub socket: Option<PathBuf>,
            /// Unix socket for local readers, RESP.
            #[serde(default)]
            pub resp_socket: Option<PathBuf>,
            /// Loopback address of `/livez`, `/readyz` and `/metrics`.
            #[serde(default)]
            pub admin_listen: Option<SocketAddr>,
            /// Certificate authority, certificate and key.
            pub tls: TlsFiles,
            /// How the log on standard error looks and what is in it.
            #[serde(default)]
            pub log: LogConfig,
            /// Bytes of the read cache.
            #[serde(default = "cache_bytes")]
            pub cache_bytes: Bytes,
            /// Bytes of pages that the engine may keep in memory.
            #[serde(default = "engine_cache_bytes")]
            pub engine_cache_bytes: Bytes,
            /// Bytes of log that are kept for those that fall behind; older ones take a snapshot.
            #[serde(default = "log_keep_bytes")]
            pub log_keep_bytes: Bytes,
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $name {
            /// What both processes are configured with.
            pub fn node(&self) -> NodeConfig {
                NodeConfig {
                    cluster: self.cluster.clone(),
                    name: self.name.clone(),
                    listen: self.listen,
                    advertise: self.advertise.clone().unwrap_or_else(|| self.listen.to_string()),
                    data_dir: self.data_dir.clone(),
                    socket: self.socket.clone(),
                    resp_socket: self.resp_socket.clone(),
                    admin_listen: self.admin_listen,
                    tls: self.tls.clone(),
                    log: self.log.clone(),
                    cache_bytes: self.cache_bytes.0,
                    engine_cache_bytes: self.engine_cache_bytes.0,
                    log_keep_bytes: self.log_keep_bytes.0,
                }
            }
        }
    };
}

node_config! {
    /// Configuration of `cinnabar voter`.
    VoterConfig {
        /// Heartbeats and elections.
        #[serde(default)]
        raft: RaftConfig,
    }
}

node_config! {
    /// Configuration of `cinnabar replica`.
    ReplicaConfig {
        /// Whom to follow, `host:port`, the preferred one first; 1 to 16.
        upstreams: Vec<String>,
        /// Follow this store from now on, whatever was followed before. Set it after a restore, then take it out again.
        #[serde(default)]
        follow_store: Option<String>,
        /// Keep the state in memory: it does not outlive the process. What is passed on to others, and fetched, is in
        /// `data_dir` all the same. For tests and experiments.
        #[serde(default)]
        in_memory: bool,
    }
}

/// What both processes are configured with, defaults filled in. The fields are those of [`VoterConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NodeConfig {
    pub cluster: ClusterId,
    pub name: Option<NodeName>,
    pub listen: SocketAddr,
    pub advertise: String,
    pub data_dir: PathBuf,
    pub socket: Option<PathBuf>,
    pub resp_socket: Option<PathBuf>,
    pub admin_listen: Option<SocketAddr>,
    pub tls: TlsFiles,
    pub log: LogConfig,
    pub cache_bytes: u64,
    pub engine_cache_bytes: u64,
    pub log_keep_bytes: u64,
}

/// How the log looks: as `telemetry`'s, but for what it says unless told otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A level, or `target=level` pairs.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: LOG_FILTER_DEFAULT.to_owned() }
    }
}

/// Heartbeats and elections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftConfig {
    /// Time between two heartbeats of the leader.
    pub heartbeat: DurationMs,
    /// Shortest time after which a voter that heard none asks for votes.
    pub election_min: DurationMs,
    /// Longest such time.
    pub election_max: DurationMs,
}

impl Default for RaftConfig {
    fn default() -> Self {
        let timing = Timing::default();
        Self {
            heartbeat: DurationMs(timing.heartbeat_ms),
            election_min: DurationMs(timing.election_ms_min),
            election_max: DurationMs(timing.election_ms_max),
        }
    }
}

/// What a node logs unless told otherwise: the consensus core speaks of every vote and every connection.
const LOG_FILTER_DEFAULT: &str = "info,openraft=warn,sled=warn";

fn cache_bytes() -> Bytes {
    Bytes(CACHE_BYTES_DEFAULT)
}

fn engine_cache_bytes() -> Bytes {
    Bytes(ENGINE_CACHE_BYTES_DEFAULT)
}

fn log_keep_bytes() -> Bytes {
    Bytes(LOG_KEEP_BYTES_DEFAULT)
}

impl VoterConfig {
    /// Heartbeats and elections, in milliseconds.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub fn timing(&self) -> Result<Timing, Invalid> {
        let RaftConfig { heartbeat, election_min, election_max } = self.raft;
        let invalid = |field, problem: &str| Err(Invalid { field, problem: problem.to_owned() });
        if heartbeat.0 == 0 || heartbeat.0.saturating_mul(3) > election_min.0 {
            return invalid("raft.election_min", "must be at least three times raft.heartbeat, which must not be 0");
        }
        if election_min.0 >= election_max.0 {
            return invalid("raft.election_max", "must be more than raft.election_min");
        }
        Ok(Timing { heartbeat_ms: heartbeat.0, election_ms_min: election_min.0, election_ms_max: election_max.0 })
    }
}

impl ReplicaConfig {
    /// The store to follow, when the operator names one.
    ///
    /// # Errors
    /// When it is no store id, or the list of upstreams is empty or too long.
    pub fn follow(&self) -> Result<Option<StoreId>, Invalid> {
        if self.upstreams.is_empty() || self.upstreams.len() > UPSTREAMS_MAX {
            let problem = format!("has {} entries, must have 1 to {UPSTREAMS_MAX}", self.upstreams.len());
            return Err(Invalid { field: "upstreams", problem });
        }
        let parse = |text: &String| {
            text.parse().map_err(|_| Invalid {
                field: "follow_store",
                problem: "is not a store id: 32 hexadecimal digits, as `cinnabar status` shows it".to_owned(),
            })
        };
        self.follow_store.as_ref().map(parse).transpose()
    }
}
