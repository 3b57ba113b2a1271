//! The contract of the authority: what it signs and everyone else reads.
//!
//! - [`client`], [`report`], [`proto`]: what machines ask of the authority, over mutual TLS.
//! - [`enrolment`]: what a machine is given before it can ask.
//! - [`limits`]: every bound of the contract, by name.
//! - [`keyspace`]: every key and prefix in the store, built and parsed in one place.
//! - [`records`]: what stands under each kind of key, and how it is signed.
//! - [`verify`]: the only way from bytes to a record that may be used.
//! - [`schema`]: which labels there are and what they may say.
//! - [`compile`]: from a customer's policy text to the policy that is encrypted under, and what is wrong with a text.
//!
//! Law: bytes become values only through [`verify::Verifier`]; names are correct from the moment they exist.
#![forbid(unsafe_code)]

pub mod client;
pub mod compile;
pub mod enrolment;
pub mod keyspace;
pub mod limits;
pub mod names;
pub mod records;
pub mod report;
pub mod schema;
pub mod verify;

/// The generated gRPC messages, clients and servers.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    tonic::include_proto!("cinnabar.authority.v1");
}

pub use keyspace::{Kind, RecordKey};
pub use names::{
    CertId, DataCenterId, Generation, Hostname, MachineId, NameError, PolicyKeyVersion, SchemaVersion, SecretName,
    ZoneId,
};
pub use schema::Schema;
pub use verify::{Checked, RecordError, Verifier};
