//! Processes whose clock is ahead of the machine's.
//!
//! The binary reads the machine's clock and nothing else, so this program starts itself again as the voter or the edge
//! node: the same function as the binary's, on the same configuration file, with another [`Clock`] in its [`Env`].

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::config::{self, ENV_PREFIX};
use cinnabar_daemon::env::SystemClock;
use cinnabar_daemon::{Clock, Env};
use cinnabar_edge::app;
use cinnabar_kv::process;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::harness::process::Program;

/// The role of a process that this program is started as: `voter` or `edge`.
const ROLE: &str = "AHEAD_ROLE";
/// Its configuration file.
const CONFIG: &str = "AHEAD_CONFIG";
/// By how many milliseconds its clock is ahead.
const BY_MS: &str = "AHEAD_BY_MS";

struct Ahead {
    by_ms: u64,
}

impl Clock for Ahead {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn unix_ms(&self) -> u64 {
        SystemClock.unix_ms() + self.by_ms
    }
}

/// Has the next starts of a voter or an edge node be with a clock that is ahead.
pub fn ahead(program: &mut Program, by: Duration) {
    let [_, role, _, file] = &program.command[..] else { panic!("no role with a configuration: {program:?}") };
    let shown = |path: &Path| path.to_str().expect("a plain name").to_owned();
    let by_ms = by.as_millis().to_string();
    program.env = vec![(ROLE.to_owned(), shown(role)), (CONFIG.to_owned(), shown(file)), (BY_MS.to_owned(), by_ms)];
    let ours = ["--exact", "edge::clock::process", "--nocapture"].map(PathBuf::from);
    program.command = [env::current_exe().unwrap()].into_iter().chain(ours).collect();
}

fn load<T: DeserializeOwned>(path: &str) -> T {
    config::load(Some(path.as_ref()), ENV_PREFIX, &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// No test of its own: a process of the others.
#[test]
fn process() {
    let Ok(role) = env::var(ROLE) else { return };
    let (file, by_ms) = (env::var(CONFIG).unwrap(), env::var(BY_MS).unwrap().parse().unwrap());
    let env = Env { clock: Arc::new(Ahead { by_ms }), ..Env::system() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        match role.as_str() {
            "voter" => process::run_voter(env, load(&file), "test").await,
            "edge" => app::run(env, load(&file), "test").await,
            _ => panic!("no role {role}"),
        }
    });
    if let Err(error) = ended {
        eprintln!("{error}");
        std::process::exit(error.code.into());
    }
}
