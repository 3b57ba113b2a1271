//! The command tree, and how a command reports: text for people or JSON for programs, and one exit code a kind of error.

mod abe;
mod error;
mod files;
mod report;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::CliError;
use report::Format;

/// Carries customers' encrypted TLS keys to every machine, so that only the machines a policy allows can use them.
#[derive(Parser)]
#[command(version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("CINNABAR_COMMIT"), ")"), propagate_version = true)]
pub struct Cli {
    /// How results and errors are printed.
    #[arg(short = 'o', long, global = true, value_enum, default_value = "text")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Attribute-based encryption on files: keys, ciphertexts, audit, benchmark.
    #[command(subcommand)]
    Abe(abe::Command),
}

/// Reports a command line that could not be read; `--help` and `--version` come here too.
pub fn usage(error: &clap::Error) -> ExitCode {
    // The line could not be read, so it is looked through for the option by its spellings.
    let args: Vec<_> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let asks_for_json = args.iter().any(|arg| matches!(arg.as_str(), "-ojson" | "-o=json" | "--output=json"))
        || args.windows(2).any(|pair| matches!(pair[0].as_str(), "-o" | "--output") && pair[1] == "json");
    if asks_for_json && error.use_stderr() {
        let error = CliError::Usage(error.render().to_string().trim_end().to_owned());
        error.print(Format::Json);
        return error.exit_code();
    }
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// Runs a command line; errors go to standard error.
pub fn run(cli: Cli) -> ExitCode {
    let result: Result<(), CliError> = match cli.command {
        Command::Abe(command) => abe::run(command, cli.output),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print(cli.output);
            error.exit_code()
        }
    }
}
