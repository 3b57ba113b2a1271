//! `make bench-kv`: the store beside its peers, inside one run, as one table and one JSON.
//!
//! Each part starts what it measures in a folder of its own and ends it again. Peers are compared where they are
//! installed. Figures of one run compare with each other; between machines they do not.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "shared with benches/authority")]
mod child;
mod cinnabar;
mod data;
mod engines;
mod etcd;
mod fanout;
mod helper;
#[path = "../../src/cli/bench/load.rs"]
mod load;
mod machine;
mod propagation;
mod puts;
mod reads;
mod report;
mod resp;
mod restart;
mod tables;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

use crate::world::World;

/// What a part fails with; whoever runs a benchmark reads it.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Times that everything is written again before its disk is measured.
const OVERWRITES: u64 = 5;

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
    /// Records of the parts that read.
    #[arg(long)]
    keys: Option<u64>,
    /// Answers questions of another process of this benchmark.
    #[arg(long, hide = true)]
    helper: bool,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Puts,
    Reads,
    Resp,
    Propagation,
    Fanout,
    Restart,
    Disk,
}

/// How this run measures.
struct Plan {
    quick: bool,
    repeats: usize,
    length: Duration,
    /// Records of the parts that read.
    keys: u64,
    /// Times that all of them are written again.
    overwrites: u64,
    /// Where etcd is, if it is installed.
    etcd: Option<PathBuf>,
    /// Where Redis is.
    redis: Option<PathBuf>,
}

impl Plan {
    /// Tells whoever waits, beside the report.
    fn progress(&self, line: &str) {
        eprintln!("{line}");
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match if args.helper { helper::serve() } else { run(&args) } {
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
        keys: args.keys.unwrap_or(if args.quick { 50_000 } else { 1_000_000 }).max(1000),
        overwrites: OVERWRITES,
        etcd: child::installed("etcd"),
        redis: child::installed("redis-server"),
    };
    let parent = args.out.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    // Beside the report: on a disk, which a folder for temporary files need not be.
    let folder = tempfile::Builder::new().prefix("run-").tempdir_in(parent.canonicalize()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut report = read(&args.out);
    report["cpu"] = machine::cpu_model().into();
    report["cpus"] = machine::cpus().into();
    report["commit"] = machine::commit()?.into();
    report["quick"] = plan.quick.into();
    report["etcd"] = plan.etcd.as_deref().map(etcd::Etcd::version).transpose()?.into();
    report["redis"] = plan.redis.as_deref().map(resp::version).transpose()?.into();
    println!("{}, {} processors, commit {}", machine::cpu_model(), machine::cpus(), machine::commit()?);
    let mut done = |part: &str, rows: Vec<Value>| -> Fallible<()> {
        print!("{}", tables::part(part, &plan, &report, &rows));
        report[part] = rows.into();
        // After each part: a later one that fails takes nothing with it.
        Ok(std::fs::write(&args.out, format!("{report:#}\n"))?)
    };
    runtime.block_on(parts(&plan, args, folder.path(), &mut done))?;
    println!("\n{}", args.out.display());
    Ok(())
}

/// Runs the parts that are wanted; hands over the rows of each.
async fn parts(
    plan: &Plan,
    args: &Args,
    folder: &Path,
    done: &mut impl FnMut(&str, Vec<Value>) -> Fallible<()>,
) -> Fallible<()> {
    let wanted = |part| args.parts.is_empty() || args.parts.contains(&part);
    if wanted(Part::Puts) {
        done("puts", puts::run(plan, folder).await?)?;
    }
    if wanted(Part::Propagation) {
        done("propagation", propagation::run(plan, folder).await?)?;
    }
    if wanted(Part::Fanout) {
        done("fanout", fanout::run(plan, folder).await?)?;
    }
    if ![Part::Reads, Part::Resp, Part::Restart, Part::Disk].into_iter().any(wanted) {
        return Ok(());
    }
    let mut world = World::start(plan, folder).await?;
    let mut reads = if wanted(Part::Reads) { reads::run(plan, &world).await? } else { Vec::new() };
    if wanted(Part::Resp) {
        done("resp", resp::run(plan, &world).await?)?;
    }
    let (mut restart, mut disk) = (Vec::new(), Vec::new());
    if wanted(Part::Restart) {
        restart = restart::run(plan, &mut world).await?;
    }
    if wanted(Part::Disk) {
        disk = restart::overwrite(plan, &world).await?;
    }
    // The stores alone come last, when nothing else runs.
    drop(world);
    let mut alone = Vec::new();
    if [Part::Reads, Part::Restart, Part::Disk].into_iter().any(wanted) {
        let overwrites = if wanted(Part::Restart) || wanted(Part::Disk) { plan.overwrites } else { 0 };
        alone = reads::alone(plan, folder, overwrites).await?;
    }
    for rows in alone {
        reads.extend(rows.reads);
        if let Some((again, overwritten)) = rows.rest {
            restart.push(again);
            disk.push(overwritten);
        }
    }
    for (part, name, rows) in
        [(Part::Reads, "reads", reads), (Part::Restart, "restart", restart), (Part::Disk, "disk", disk)]
    {
        if wanted(part) {
            done(name, rows)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Value {
    let before = std::fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok());
    before.filter(Value::is_object).unwrap_or_else(|| json!({}))
}
