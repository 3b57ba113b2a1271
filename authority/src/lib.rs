//! The authority: who owns a name, who may hold a key, and a record signed for each.
#![forbid(unsafe_code)]

pub mod directory;
pub mod follow;
pub mod head;
pub mod inventory;
pub mod preview;
pub mod publisher;
