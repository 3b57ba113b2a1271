//! `cinnabar`: the one binary; each command is a file in `cli/`.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 4 not permitted (attributes do not satisfy the policy), 6 policy refused.
#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::try_parse() {
        Ok(cli) => cli::run(cli),
        Err(error) => cli::usage(&error),
    }
}
