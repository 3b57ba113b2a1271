//! Signatures on this machine.
//!
//! The road: [`queue::Signer::sign`] signs on the spot what is cheap while there is room, else queues it for workers of
//! its own. Law: RSA never stands before elliptic curves, nor what peers ask before what this machine asks; a full queue
//! says so at once.

pub mod key;
pub mod metrics;
pub mod queue;

pub use key::{KeyError, SigningKey};
pub use metrics::SignMetrics;
pub use queue::{Lane, Signer, Work};
