//! `cinnabar`: the one binary; each command is a file in `cli/`.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no node answered, 4 not permitted, 5 not found or conflict, 6 policy
//! refused; a process of the store 64 for its configuration and 74 for its disk.
#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

use cinnabar_daemon::Allocator;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    match cli::Cli::try_parse() {
        Ok(cli) => cli::run(cli),
        Err(error) => cli::usage(&error),
    }
}
