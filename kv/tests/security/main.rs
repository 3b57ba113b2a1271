//! Attacks on the store, in one process: real sockets, real mutual TLS, real certificates, real disks.
//!
//! Each module is one kind of attacker: a caller without the right (`access`), a node that is not the one meant
//! (`wiped`), a relay that alters what it passes on (`frames`, `relays`, `snapshots`, `fetches`), a state that went
//! wrong (`integrity`), an old one (`rollback`), a caller that asks for too much (`limits`, `slow`), certificates
//! that are replaced (`reload`), and bytes that follow no format (`fuzzed`). `fixture`, `outsider`, `forge` and `hostile` are their tools. Law: what is refused leaves no trace.

mod access;
#[path = "../../fuzz/bodies.rs"]
mod bodies;
mod fetches;
mod fixture;
mod forge;
mod frames;
mod fuzzed;
mod hostile;
mod integrity;
mod limits;
mod outsider;
mod relays;
mod reload;
mod rollback;
#[path = "../../fuzz/seeds.rs"]
mod seeds;
mod slow;
mod snapshots;
mod wiped;
