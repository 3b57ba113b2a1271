//! `cinnabar terminate`: TLS of the world beside an edge node.

use std::num::NonZero;

use cinnabar_terminator::{TerminatorConfig, run_process};

use super::VERSION;
use super::error::CliError;
use super::store::{Process, load, process_error};

/// Runs a terminator until it is told to stop. It makes its runtime itself: as root it first becomes another user.
pub fn terminate(process: &Process) -> Result<(), CliError> {
    let conf: TerminatorConfig = load(process)?;
    let threads = std::thread::available_parallelism().map_or(2, NonZero::get);
    run_process(conf, VERSION, threads).map_err(process_error)
}
