//! `make bench-kv`: the store beside its peers, inside one run, as one table and one JSON.
//!
//! Each part starts what it measures in a folder of its own and ends it again. Peers are compared where they are
//! installed. Figures of one run compare with each other; between machines they do not.
#![forbid(unsafe_code)]

mod child;
mod cinnabar;
mod etcd;
#[path = "../../src/cli/bench/load.rs"]
mod load;
mod machine;
mod puts;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

/// What a part fails with; whoever runs a benchmark reads it.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures the store beside its peers.
#[derive(Parser)]
struct Args {
    /// Where the JSON goes; parts that are not run keep what is there from before.
    #[arg(long, default_value = "target/bench/kv.json")]
    out: PathBuf,
    /// Parts to run; left out, all.
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Fewer points, shorter and fewer runs: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Repeats of each point; medians are reported.
    #[arg(long)]
    repeats: Option<usize>,
    /// Seconds of one run.
    #[arg(long)]
    seconds: Option<u64>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Puts,
}

/// How this run measures.
struct Plan {
    quick: bool,
    repeats: usize,
    length: Duration,
    /// Where etcd is, if it is installed.
    etcd: Option<PathBuf>,
}

impl Plan {
    /// Tells whoever waits, beside the report.
    fn progress(&self, line: &str) {
        eprintln!("{line}");
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-kv: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Fallible<()> {
    let plan = Plan {
        quick: args.quick,
        repeats: args.repeats.unwrap_or(if args.quick { 1 } else { 3 }).max(1),
        length: Duration::from_secs(args.seconds.unwrap_or(if args.quick { 3 } else { 5 })),
        etcd: child::installed("etcd"),
    };
    let parent = args.out.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    // Beside the report: on a disk, which a folder for temporary files need not be.
    let folder = tempfile::Builder::new().prefix("run-").tempdir_in(parent.canonicalize()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let wanted = |part| args.parts.is_empty() || args.parts.contains(&part);
    let mut report = read(&args.out);
    report["cpu"] = machine::cpu_model().into();
    report["cpus"] = machine::cpus().into();
    report["commit"] = machine::commit().into();
    report["quick"] = plan.quick.into();
    report["etcd"] = match &plan.etcd {
        Some(program) => etcd::Etcd::version(program)?.into(),
        None => Value::Null,
    };
    println!("{}, {} processors, commit {}", machine::cpu_model(), machine::cpus(), machine::commit());
    if wanted(Part::Puts) {
        let rows = runtime.block_on(puts::run(&plan, folder.path()))?;
        print_puts(&plan, &report, &rows);
        report["puts"] = rows.into();
    }
    std::fs::write(&args.out, format!("{report:#}\n"))?;
    println!("\n{}", args.out.display());
    Ok(())
}

fn read(path: &Path) -> Value {
    let before = std::fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok());
    before.filter(Value::is_object).unwrap_or_else(|| json!({}))
}

fn print_puts(plan: &Plan, report: &Value, rows: &[Value]) {
    let title = match &report["etcd"] {
        Value::String(version) => format!(
            "Puts at the leader: 3 voters with TLS, beside 3 nodes of etcd {version} without TLS; 8 connections, 50,000 random keys, medians of {} runs of {} s",
            plan.repeats,
            plan.length.as_secs(),
        ),
        _ => "Puts at the leader: 3 voters with TLS; etcd is not installed".to_owned(),
    };
    let columns = [
        ("value_bytes", "value B"),
        ("clients", "clients"),
        ("system", "system"),
        ("per_second", "puts/s"),
        ("p50_us", "p50 us"),
        ("p99_us", "p99 us"),
        ("p999_us", "p99.9 us"),
        ("cpu_us_per_op", "server CPU us"),
        ("leader_cpu_us_per_op", "leader's"),
        ("follower_cpu_us_per_op", "a follower's"),
        ("client_cpu_us_per_op", "client CPU us"),
        ("others_share", "others' share"),
        ("errors", "errors"),
    ];
    print!("{}", report::table(&title, rows, &columns));
    let columns = [
        ("value_bytes", "value B"),
        ("clients", "clients"),
        ("per_second", "puts/s"),
        ("p50_us", "p50"),
        ("p99_us", "p99"),
        ("cpu_us_per_op", "server CPU"),
    ];
    let ratios = report::ratios(rows, "etcd", &["value_bytes", "clients"]);
    if !ratios.is_empty() {
        print!("{}", report::table("Ours over etcd's", &ratios, &columns));
    }
}
