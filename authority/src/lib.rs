//! The authority: who owns a name, who may hold a key, and a record signed for each.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod facade;
pub mod fields;
pub mod hostname;
pub mod limits;
pub mod problem;
pub mod timestamp;
