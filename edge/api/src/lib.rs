//! The contract of an edge node: signatures and certificates for the services of its machine and for its peers.
//!
//! - [`request`]: a request for a signature, within its bounds.
//! - [`refusal`]: why there is none, alike over a call and a stream.
//! - [`scheme`]: what can be signed.
//! - [`client`]: what a local service uses.
//! - [`limits`]: every bound, by name.
//!
//! Law: no key crosses this contract, only signatures; and nothing here can hold one.
#![forbid(unsafe_code)]

pub mod client;
pub mod limits;
pub mod refusal;
pub mod request;
pub mod scheme;

/// The generated gRPC messages, clients and servers.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    tonic::include_proto!("cinnabar.edge.v1");
}

pub use refusal::Refusal;
pub use request::{Input, SignRequest};
pub use scheme::{Hash, Scheme};
