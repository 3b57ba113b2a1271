//! `make bench-edge`: signatures of the edge node, from one processor to handshakes with a far key; one table a part, one
//! JSON for all.
//!
//! Nodes are processes of this program (`--helper`) made of the edge node's own parts; the terminator is the measured
//! binary. Ratios are of one run; between machines figures do not compare.
#![forbid(unsafe_code)]

#[path = "../kv/child.rs"]
#[allow(dead_code, reason = "shared with benches/kv, which uses all of it")]
mod child;
#[path = "../kv/cinnabar.rs"]
#[allow(dead_code, reason = "as above")]
mod cinnabar;
mod cold;
mod handshake;
#[path = "../authority/https.rs"]
mod https;
#[path = "../../src/cli/bench/load.rs"]
#[allow(dead_code, reason = "as above")]
mod load;
#[path = "../kv/machine.rs"]
#[allow(dead_code, reason = "as above")]
mod machine;
mod material;
mod node;
mod remote;
#[path = "../kv/report.rs"]
#[allow(dead_code, reason = "as above")]
mod report;
mod sign;
mod stream;
mod tables;
mod upload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cinnabar_daemon::Allocator;
use clap::Parser;
use serde_json::{Value, json};

/// The same as the binary's.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// What a part fails with; whoever runs a benchmark reads it.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures the edge node and its terminator.
#[derive(Parser)]
struct Args {
    /// Where the JSON goes; parts that are not run keep what is there from before.
    #[arg(long, default_value = "target/bench/edge.json")]
    out: PathBuf,
    /// Parts to run; left out, all.
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Shorter and fewer runs: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Repeats of each point; medians are reported.
    #[arg(long)]
    repeats: Option<usize>,
    /// Seconds of one run.
    #[arg(long)]
    seconds: Option<f64>,
    /// Is a node of another process of this benchmark.
    #[arg(long, hide = true)]
    helper: bool,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Sign,
    Stream,
    Remote,
    Handshake,
    Upload,
}

/// How this run measures.
struct Plan {
    quick: bool,
    repeats: usize,
    length: Duration,
}

impl Plan {
    /// Tells whoever waits, beside the report.
    fn progress(&self, line: &str) {
        eprintln!("{line}");
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match if args.helper { node::serve() } else { run(&args) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-edge: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Fallible<()> {
    let plan = Plan {
        quick: args.quick,
        repeats: args.repeats.unwrap_or(if args.quick { 1 } else { 5 }).max(1),
        length: Duration::from_secs_f64(args.seconds.unwrap_or(if args.quick { 1.0 } else { 4.0 }).max(0.1)),
    };
    let parent = args.out.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let folder = tempfile::Builder::new().prefix("edge-").tempdir_in(parent.canonicalize()?)?;
    let mut report = read(&args.out);
    report["cpu"] = machine::cpu_model().into();
    report["cpus"] = machine::cpus().into();
    report["commit"] = machine::commit()?.into();
    report["quick"] = args.quick.into();
    println!("{}, {} processors, commit {}", machine::cpu_model(), machine::cpus(), machine::commit()?);
    let mut done = |part: &str, rows: Vec<Value>| -> Fallible<()> {
        print!("{}", tables::part(part, &rows));
        report[part] = rows.into();
        // After each part: a later one that fails takes nothing with it.
        Ok(std::fs::write(&args.out, format!("{report:#}\n"))?)
    };
    let wanted = |part| args.parts.is_empty() || args.parts.contains(&part);
    if wanted(Part::Sign) {
        plan.progress("sign: in process, by the second of processor");
        done("sign", sign::run(&plan)?)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let material = material::Material::create(folder.path())?;
        if wanted(Part::Stream) {
            done("stream", stream::run(&plan, &material).await?)?;
        }
        if wanted(Part::Remote) {
            done("remote", remote::run(&plan, &material).await?)?;
        }
        if wanted(Part::Handshake) {
            done("handshake", handshake::run(&plan, &material).await?)?;
        }
        if wanted(Part::Upload) {
            let (upload, cold) = upload::run(&plan, folder.path()).await?;
            done("upload", upload)?;
            done("cold", cold)?;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    println!("\n{}", args.out.display());
    Ok(())
}

fn read(path: &Path) -> Value {
    let before = std::fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok());
    before.filter(Value::is_object).unwrap_or_else(|| json!({}))
}
