//! The contract of the store: what its clients, its replicas and its operators exchange with it.
//!
//! - [`limits`]: every bound of the contract, by name.
//! - [`Key`], [`Op`], [`Condition`], [`Write`], [`Command`]: what one log entry says.
//! - [`Entry`], [`Frame`], [`Checkpoint`]: how entries travel, chained and signed.
//! - [`codec`]: how all of these become bytes; the layouts are in `docs/formats.md`.
//! - [`Client`]: writes and reads over gRPC, following the leader.
//! - [`proto`]: the generated messages; they stay on this side of [`convert`].
//!
//! Law: bytes become values only here, under a bound, with nothing left over; values are correct by construction.
#![forbid(unsafe_code)]

mod chain;
mod client;
pub mod codec;
pub mod convert;
mod error;
mod frame;
pub mod limits;
mod op;

#[cfg(test)]
mod tests;

pub use chain::{ChainHead, STATE_HASH_BYTES, StateHash, StoreId};
pub use client::{Client, ClientConfig, ClientError, Target, WriteOutcome};
pub use error::Error;
pub use frame::{Checkpoint, Entry, Frame, SignedCheckpoint};
pub use op::{ClientId, Command, Condition, Key, NodeId, Op, Write};

/// The generated gRPC messages, clients and servers.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    tonic::include_proto!("cinnabar.kv.v1");
}
