//! A terminator as its own process between real TLS clients and a real gRPC server that has the keys.
//!
//! Every test starts this program again as the terminator (see [`child`]), so that what is counted and what lies in its
//! memory is the terminator's alone.

mod bounds;
mod edge;
mod handshakes;
mod memory;
mod plain;
mod proxies;
mod tickets;
mod world;

use cinnabar_daemon::config::{self, ENV_PREFIX};

/// Names the configuration file of a child.
pub const CHILD: &str = "TERMINATOR_CHILD";

/// No test of its own: the terminator of the others.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let conf = config::load(Some(path.as_ref()), ENV_PREFIX, &[]).unwrap_or_else(|error| panic!("{error}"));
    let ended = cinnabar_terminator::run_process(conf, "test", 2);
    if let Err(error) = ended {
        eprintln!("{error}");
        std::process::exit(error.code.into());
    }
}
