//! Attribute-based encryption for Cinnabar.
#![deny(unsafe_code)]
#![deny(missing_docs)]

mod attributes;
mod audit;
mod ciphertext;
mod codec;
mod curve;
pub mod danger;
pub mod envelope;
mod error;
mod hash;
pub mod limits;
mod policy;
pub mod seal;
mod secret;
pub mod signature;
mod tkn20;

pub use attributes::Attributes;
pub use audit::Verdict;
pub use ciphertext::{Ciphertext, Framing};
pub use error::Error;
pub use policy::{
    ConditionPlace, Part, Places, Policy, PolicyError, PolicyErrorKind, PolicyId, Span, Truth, caret, is_word,
};
pub use secret::SecretBytes;
pub use tkn20::decapsulate::PointChecks;
pub use tkn20::keys::{AttributeKey, PUBLIC_KEY_BYTES, PublicKey, SYSTEM_SECRET_KEY_BYTES, SystemSecretKey};
pub use tkn20::setup::setup;
