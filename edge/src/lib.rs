//! The edge node: a full copy of the store, the agent that opens what this machine's attributes satisfy, the signer, and
//! the router that has the rest signed by the nearest data centre that may.
//!
//! The road of a signature: `server/sign.rs` takes the request, [`directory`] gives the verified record, the keyring the
//! key if this machine satisfies, [`signer`] signs; otherwise the router asks a peer's `server/sign.rs`, once.
//!
//! Law: nothing is used that the authority did not sign; no key leaves this process; no key is on disk in clear.
#![forbid(unsafe_code)]

pub mod app;
pub mod config;
pub mod directory;
pub mod distance;
#[cfg(test)]
pub(crate) mod fixture;
pub mod glue;
pub mod identity;
pub mod keyring;
pub mod limits;
pub mod metrics;
pub mod reports;
pub mod router;
pub mod server;
pub mod signer;
#[cfg(test)]
mod testing;
