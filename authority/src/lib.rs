//! The authority: who owns a name, who may hold a key, and a record signed for each.
#![forbid(unsafe_code)]

pub mod access;
pub mod acts;
pub mod app;
pub mod audit;
pub mod certificate;
pub mod config;
pub mod control;
pub mod custody;
pub mod digest;
pub mod directory;
pub mod facade;
pub mod fields;
pub mod follow;
pub mod head;
pub mod hostname;
pub mod inventory;
pub mod issue;
pub mod limits;
pub mod machine_service;
pub mod machines;
pub mod metrics;
pub mod passphrase;
pub mod policies;
pub mod preview;
pub mod problem;
pub mod publisher;
pub mod reports;
pub mod server;
pub mod timestamp;
pub mod tokens;
pub mod uploads;
pub mod zones;
