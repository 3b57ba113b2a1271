//! TLS connections of the world, without a key: certificates and signatures come from the machine's edge node.
//!
//! The road of a connection: [`app`] accepts it, [`acceptor`] negotiates with s2n-tls, [`resolver`] finds what serves
//! its name, [`private_key`] has the handshake signed, [`tickets`] lets it resume, [`upstream`] passes the bytes on.
//! Law: this crate depends on the edge node's contract and the process kit alone, so that there is no key to hold; every
//! wait has an end, every number of connections a bound, and no bytes of a client end the process.
#![forbid(unsafe_code)]

pub mod acceptor;
pub mod app;
pub mod config;
pub mod demo;
pub mod limits;
pub mod metrics;
pub mod private_key;
pub mod resolver;
pub mod tickets;
pub mod upstream;
pub mod user;

pub use app::run_process;
pub use config::TerminatorConfig;
