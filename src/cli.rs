//! The command tree, and how a command reports: text for people or JSON for programs, and one exit code a kind of error.

mod abe;
mod authority;
mod backup;
mod bench;
mod connect;
mod demo;
mod edge;
mod error;
mod files;
mod kv;
mod pki;
mod report;
mod sign;
mod store;
mod terminate;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use error::CliError;
use report::Format;

/// Version and commit of this binary.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("CINNABAR_COMMIT"), ")");

/// Carries customers' encrypted TLS keys to every machine, so that only the machines a policy allows can use them.
#[derive(Parser)]
#[command(version = VERSION, propagate_version = true)]
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
    /// Run a voter: a member of the Raft core.
    Voter(store::Process),
    /// Run a replica: a full copy outside Raft that others can follow.
    Replica(store::Process),
    /// Run an edge node: a full copy, the keys that this machine may open, signatures for this machine and its peers.
    Edge(edge::Edge),
    /// Ask this machine's edge node who may hold a name's keys, who does, and why not here.
    Explain(edge::Explain),
    /// Terminate TLS with keys that this machine's edge node signs by.
    Terminate(store::Process),
    /// Have this machine's edge node make one signature, as a terminator would.
    Sign(sign::Sign),
    /// Make a cluster and change its members.
    Cluster {
        #[command(flatten)]
        connect: connect::Connect,
        #[command(subcommand)]
        command: store::Cluster,
    },
    /// Show nodes: role, health, how far behind, who feeds them.
    Status {
        #[command(flatten)]
        connect: connect::Connect,
    },
    /// Read and write records.
    Kv {
        #[command(flatten)]
        connect: connect::Connect,
        #[command(subcommand)]
        command: kv::Command,
    },
    /// Make a cluster's certificate authority and certificates.
    #[command(subcommand)]
    Pki(pki::Command),
    /// Check what a policy would mean.
    Policy {
        #[command(flatten)]
        at: authority::At,
        #[command(subcommand)]
        command: authority::Policy,
    },
    /// Store, replace and delete certificates with their keys.
    Cert {
        #[command(flatten)]
        at: authority::At,
        #[command(subcommand)]
        command: authority::Cert,
    },
    /// Store, replace and delete other secrets.
    Secret {
        #[command(flatten)]
        at: authority::At,
        #[command(subcommand)]
        command: authority::Secret,
    },
    /// Say who owns which names.
    Zone {
        #[command(flatten)]
        at: authority::At,
        #[command(subcommand)]
        command: authority::Zone,
    },
    /// Make and end customers' tokens.
    Token {
        #[command(flatten)]
        at: authority::At,
        #[command(subcommand)]
        command: authority::Token,
    },
    /// Let machines in, and revoke them.
    Machine {
        #[command(flatten)]
        at: authority::At,
        #[command(subcommand)]
        command: authority::Machine,
    },
    /// Drain data centres and take them back.
    Dc {
        #[command(flatten)]
        at: authority::At,
        #[command(subcommand)]
        command: authority::DataCenter,
    },
    /// Show and check the attribute schema.
    Schema {
        #[command(flatten)]
        at: authority::At,
        #[command(subcommand)]
        command: authority::Schema,
    },
    /// Name an authority and who asks there, so that commands need no options.
    #[command(subcommand)]
    Context(authority::Context),
    /// Show the whole system at work on this machine, and end it.
    #[command(subcommand)]
    Demo(demo::Demo),
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
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
        Command::Voter(process) => store::voter(&process),
        Command::Replica(process) => store::replica(&process),
        Command::Edge(edge) => edge::run(edge, cli.output),
        Command::Explain(command) => edge::explain(&command, cli.output),
        Command::Cluster { connect, command } => store::cluster(command, &connect, cli.output),
        Command::Status { connect } => store::status(&connect, cli.output),
        Command::Kv { connect, command } => kv::run(command, &connect, cli.output),
        Command::Pki(command) => pki::run(command, cli.output),
        Command::Policy { at, command } => authority::run(authority::Command::Policy(command), &at, cli.output),
        Command::Cert { at, command } => authority::run(authority::Command::Cert(command), &at, cli.output),
        Command::Secret { at, command } => authority::run(authority::Command::Secret(command), &at, cli.output),
        Command::Zone { at, command } => authority::run(authority::Command::Zone(command), &at, cli.output),
        Command::Token { at, command } => authority::run(authority::Command::Token(command), &at, cli.output),
        Command::Machine { at, command } => authority::run(authority::Command::Machine(command), &at, cli.output),
        Command::Dc { at, command } => authority::run(authority::Command::DataCenter(command), &at, cli.output),
        Command::Schema { at, command } => authority::run(authority::Command::Schema(command), &at, cli.output),
        Command::Context(command) => authority::context(command, cli.output),
        Command::Terminate(process) => terminate::terminate(&process),
        Command::Sign(command) => sign::sign(&command, cli.output),
        Command::Demo(command) => demo::run(command, cli.output),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "cinnabar", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print(cli.output);
            error.exit_code()
        }
    }
}
