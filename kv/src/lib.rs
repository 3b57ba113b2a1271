//! The replicated store: a durable Raft core, a tree of replicas that follow its log, and local reads.
//!
//! The road of a write: `server/kv.rs` decodes and checks it -> `raft.rs` gets it a place in the log -> `log.rs` has it
//! on a quorum's disks -> `raft/state_machine.rs` applies it with [`state`] -> `feed.rs` ships it in a signed frame ->
//! `replica.rs` verifies the frame, applies it, and passes it on. Reads are answered by
//! [`replica::Reader`] from memory.
//!
//! Law: kv keeps order and durability, and proves what it ships; it never knows what a value means.
#![forbid(unsafe_code)]

pub mod changes;
pub mod config;
pub mod feed;
pub mod files;
pub mod limits;
pub mod local;
pub mod log;
pub mod metrics;
pub mod milestones;
pub mod node;
pub mod process;
pub mod raft;
pub mod replica;
pub mod restore;
pub mod server;
pub mod snapshot;
pub mod snapshot_files;
pub mod state;
pub mod store;
