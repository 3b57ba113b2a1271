//! `make bench-authority`: the authority's process over three voters, full of machines and certificates.
//!
//! One run starts a store, fills it (`authority/examples/bulk.rs`), starts the authority over it, and measures what
//! customers wait for: policy checks, uploads under a policy that has its key, uploads under one that gets it.
#![forbid(unsafe_code)]

#[path = "../kv/child.rs"]
#[allow(dead_code, reason = "shared with benches/kv, which uses all of it")]
mod child;
#[path = "../kv/cinnabar.rs"]
#[allow(dead_code, reason = "as above")]
mod cinnabar;
mod https;
#[path = "../../src/cli/bench/load.rs"]
#[allow(dead_code, reason = "as above")]
mod load;
#[path = "../kv/machine.rs"]
#[allow(dead_code, reason = "as above")]
mod machine;
mod material;
mod measures;
#[path = "../kv/report.rs"]
#[allow(dead_code, reason = "as above")]
mod report;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

use crate::world::World;

/// What a part fails with; whoever runs a benchmark reads it.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures the authority.
#[derive(Parser)]
struct Args {
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench/authority.json")]
    out: PathBuf,
    /// The authority's binary.
    #[arg(long)]
    authority: PathBuf,
    /// The program that fills the store.
    #[arg(long)]
    bulk: PathBuf,
    /// Shorter runs and fewer certificates: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Machines in the inventory, spread over 300 data centres.
    #[arg(long, default_value_t = 25_000)]
    machines: usize,
    /// Certificates in the store before anything is measured.
    #[arg(long)]
    certificates: Option<usize>,
    /// Seconds of one run.
    #[arg(long)]
    seconds: Option<u64>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How this run measures.
struct Plan {
    authority: PathBuf,
    bulk: PathBuf,
    machines: usize,
    certificates: usize,
    length: Duration,
    /// Certificates that are made ready for uploads.
    uploads: usize,
    /// Policies that get their key.
    policies: usize,
    /// Policy checks.
    checks: usize,
}

impl Plan {
    /// Tells whoever waits, beside the report.
    fn progress(&self, line: &str) {
        eprintln!("{line}");
    }
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-authority: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Fallible<()> {
    let length = Duration::from_secs(args.seconds.unwrap_or(if args.quick { 2 } else { 10 }));
    let plan = Plan {
        authority: args.authority,
        bulk: args.bulk,
        machines: args.machines,
        certificates: args.certificates.unwrap_or(if args.quick { 2_000 } else { 100_000 }),
        length,
        uploads: if args.quick { 3_000 } else { 20_000 },
        policies: if args.quick { 12 } else { 60 },
        checks: if args.quick { 500 } else { 4_000 },
    };
    let parent = args.out.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    // Beside the report: on a disk, which a folder for temporary files need not be.
    let folder = tempfile::Builder::new().prefix("authority-").tempdir_in(parent.canonicalize()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{}, {} processors, commit {}", machine::cpu_model(), machine::cpus(), machine::commit()?);
    let report = runtime.block_on(measured(&plan, folder.path()))?;
    let mut whole = json!({ "cpu": machine::cpu_model(), "cpus": machine::cpus(), "commit": machine::commit()?,
        "quick": args.quick, "machines": plan.machines, "data_centers": material::DATA_CENTERS,
        "certificates": plan.certificates });
    for (part, title, columns) in PARTS {
        let rows: Vec<Value> = report[part].as_array().cloned().unwrap_or_default();
        print!("{}", report::table(title, &rows, columns));
        whole[part] = rows.into();
    }
    std::fs::write(&args.out, format!("{whole:#}\n"))?;
    println!("\n{}", args.out.display());
    Ok(())
}

/// A part: its name, what stands above its table, and its columns: the field of a row, and what heads it.
type Part = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const PARTS: [Part; 4] = [
    (
        "checks",
        "policies:check over HTTPS, other policies each time",
        &[
            ("clients", "clients"),
            ("per_second", "checks/s"),
            ("p50_ms", "p50 ms"),
            ("p99_ms", "p99 ms"),
            ("cpu_ms_per_op", "authority's CPU ms"),
            ("required", "required"),
            ("met", ""),
        ],
    ),
    (
        "uploads",
        "Uploads of RSA-2048 certificates under policies that have their key; HTTPS, three voters, all here",
        &[
            ("what", "load"),
            ("clients", "clients"),
            ("per_second", "uploads/s"),
            ("p50_ms", "p50 ms"),
            ("p99_ms", "p99 ms"),
            ("cpu_ms_per_op", "authority's CPU ms"),
            ("store_cpu_ms_per_op", "voters' CPU ms"),
            ("errors", "errors"),
            ("required", "required"),
            ("met", ""),
        ],
    ),
    (
        "first_uploads",
        "The first upload under a policy beside uploads under one that has its key, in turn",
        &[
            ("what", "policy"),
            ("p50_ms", "p50 ms"),
            ("p99_ms", "p99 ms"),
            ("over_ms", "over the other's p50, ms"),
            ("required", "required"),
            ("met", ""),
        ],
    ),
    (
        "memory",
        "The authority's memory, and how long it takes to be ready",
        &[("what", "when"), ("rss_mib", "RSS MiB"), ("seconds", "start s")],
    ),
];

async fn measured(plan: &Plan, folder: &Path) -> Fallible<Value> {
    let (mut world, mut memory) = World::start(plan, folder).await?;
    plan.progress("measuring policy checks");
    let checks = measures::checks(plan, &world).await?;
    plan.progress("making certificates to upload");
    let bodies = material::uploads(plan.uploads)?;
    plan.progress("measuring uploads");
    let uploads = measures::uploads(plan, &mut world, &bodies).await?;
    let first = measures::first_uploads(plan, &world, &bodies).await?;
    memory.push(json!({ "what": "after all uploads", "rss_mib": world.rss_mib() }));
    Ok(json!({ "checks": checks, "uploads": uploads, "first_uploads": first, "memory": memory }))
}
