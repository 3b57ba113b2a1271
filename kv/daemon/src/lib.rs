//! What every process of the system shares: the seams to the world, identity, mutual TLS, configuration, telemetry,
//! health and the order of a shutdown.
//!
//! The road of a process: [`config`] reads its file, [`telemetry`] opens its log, [`mtls`] loads who it is,
//! [`shutdown`] listens for signals, [`health`] answers probes, [`backoff`] spaces what is tried again; every clock,
//! random byte and socket comes from [`mod@env`]. [`pki`] makes the certificates, [`mod@file`] keeps them safe on disk.
//! [`mod@codec`] turns values into bytes, [`process`] says why one ends. [`mod@allocator`] is the memory beneath,
//! [`memory`] keeps it from swap and core files; [`random`] gives random numbers to what makes keys.
//! Law: this crate knows no service. It depends on none of ours and offers nothing that only one process would use.
#![deny(unsafe_code)]

pub mod allocator;
pub mod backoff;
pub mod codec;
pub mod config;
pub mod env;
pub mod file;
pub mod grpc;
pub mod health;
pub mod id;
pub mod memory;
pub mod mtls;
pub mod pki;
pub mod process;
pub mod random;
pub mod rates;
pub mod shutdown;
pub mod telemetry;

pub use allocator::Allocator;
pub use backoff::Backoff;
pub use config::ConfigError;
pub use env::{Clock, Env, Net, Rng};
pub use health::{Admin, Health};
pub use id::{ClusterId, Identity, NodeName, Role};
pub use mtls::{Acceptor, AcceptorLimits, PeerInfo, Signature, Tls, TlsError, TlsFiles, TlsIo, VerifyError};
pub use process::ProcessError;
pub use shutdown::{Hangup, Shutdown};
pub use telemetry::LogFormat;
