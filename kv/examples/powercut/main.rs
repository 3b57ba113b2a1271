//! The power-cut rig: three voters and a replica on one disk lose power together, again and again, and what clients
//! were told must still hold. `make powercut CUTS=200` runs it; it needs root, for the loop device.
//!
//! The road of a cut: `rig` starts the store (`cluster`), lets clients write (`load`), cuts the power (`disk`), starts
//! it again, and compares it with what was acknowledged (`ledger`). Two controls must lose writes, or the rig proves
//! nothing: plain sled as a log (`control`), and our voters without their sync calls.
//!
//! Usage: `powercut run BINARY FOLDER LOG CUTS SEED [LIBRARY]`, the library being the one that takes the sync calls away.

mod cluster;
mod control;
mod disk;
mod ledger;
mod load;
mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use disk::Cut;
use rig::{Kind, Rig};
use tokio::time::Instant;

/// What stops a run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Problem(String);

/// What a step of the rig gives.
pub type Step<T> = Result<T, Problem>;

/// A [`Problem`] that says this.
pub fn problem(what: impl std::fmt::Display) -> Problem {
    Problem(what.to_string())
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// splitmix64: what a run does follows from its seed, but for the scheduling of its processes.
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

/// Cuts of the voters without sync calls, at most.
const PLANTED_CUTS_MAX: u64 = 5;

struct Run {
    binary: PathBuf,
    dir: PathBuf,
    log: fs::File,
    cuts: u64,
    seed: u64,
    library: Option<PathBuf>,
}

#[derive(Default)]
struct Sum {
    cuts: u64,
    acks: u64,
    copies: u64,
    starts: u64,
    wrong: Vec<String>,
    stale: usize,
    late: u64,
    purges: u64,
    terms: usize,
    kinds: BTreeMap<Kind, u64>,
    stages: BTreeMap<&'static str, u64>,
}

impl Run {
    fn tell(&mut self, line: &str) {
        println!("{}", line.chars().take(400).collect::<String>());
        let _ = writeln!(self.log, "{line}");
    }
}

fn kind(rng: &mut Rng) -> Kind {
    match rng.below(20) {
        0..7 => Kind::Plain,
        7..10 => Kind::Purge,
        10..14 => Kind::Snapshot,
        14..17 => Kind::Vote,
        _ => Kind::Start,
    }
}

/// The cuts of the real store.
async fn cut_store(run: &mut Run, rng: &mut Rng) -> Step<Sum> {
    let mut sum = Sum::default();
    let mut rig = Rig::new(&run.binary, None, &run.dir, rng).await?;
    let mut now = Kind::Plain;
    for cut in 1..=run.cuts {
        let begun = Instant::now();
        let next = kind(rng);
        let outcome = match rig.round(now).await {
            Ok(round) => rig.restore(now, next).await.map(|found| (round, found)),
            Err(error) => Err(error),
        };
        let took = begun.elapsed().as_millis();
        match outcome {
            Ok((round, found)) => {
                let line = format!(
                    "cut {cut:4}: {:?} by {:?}, {} acknowledged, snapshot {}, then mounted with {}, {took} ms, {} lost, {} stale, {} late",
                    round.kind,
                    round.cut,
                    round.acks,
                    round.stage,
                    round.options,
                    found.lost.len(),
                    found.stale.len(),
                    found.late
                );
                run.tell(&line);
                sum.cuts += 1;
                sum.acks += round.acks;
                sum.copies += u64::from(round.cut == Cut::Copy);
                sum.starts += u64::from(now == Kind::Start);
                *sum.kinds.entry(round.kind).or_default() += 1;
                *sum.stages.entry(round.stage).or_default() += 1;
                found.stale.iter().for_each(|stale| run.tell(&format!("STALE: {stale}")));
                sum.stale += found.stale.len();
                sum.late += found.late;
                sum.wrong = found.lost;
            }
            Err(error) => sum.wrong.push(format!("cut {cut} ({now:?}): {error}")),
        }
        if !sum.wrong.is_empty() {
            let kept = run.dir.join("failed.img");
            rig.cluster.kill_all();
            let _ = rig.disk.keep(&kept);
            run.tell(&format!("the image after the failure: {}", kept.display()));
            break;
        }
        now = next;
    }
    (sum.purges, sum.terms) = (rig.cluster.purges, rig.cluster.terms());
    Ok(sum)
}

/// Our voters without their sync calls: says what went wrong with them.
async fn cut_planted(run: &mut Run, library: &Path, rng: &mut Rng) -> Step<Option<String>> {
    let mut rig = Rig::new(&run.binary, Some(library), &run.dir, rng).await?;
    rig.cluster.patience = Duration::from_secs(15);
    for cut in 1..=PLANTED_CUTS_MAX {
        let round = rig.round(Kind::Plain).await?;
        let found = match rig.restore(Kind::Plain, Kind::Plain).await {
            Ok(found) if found.lost.is_empty() => None,
            Ok(found) => Some(format!("{} times a node lacked what was acknowledged", found.lost.len())),
            Err(error) => Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
        };
        let told = found.as_deref().unwrap_or("nothing lost");
        run.tell(&format!("planted {cut:3}: no sync calls, {} acknowledged: {told}", round.acks));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

async fn run(mut run: Run) -> Step<bool> {
    let mut rng = Rng::new(run.seed);
    let begun = Instant::now();
    run.tell(&format!("powercut: {} cuts, seed {}", run.cuts, run.seed));
    let controls = (run.cuts / 10).clamp(5, 20);
    let mut lines = Vec::new();
    let control = control::run(&run.dir, controls, &mut rng, &mut |line| lines.push(line))?;
    lines.iter().for_each(|line| run.tell(line));
    let planted = match run.library.clone() {
        Some(library) => Some(cut_planted(&mut run, &library, &mut rng).await?),
        None => None,
    };
    let sum = cut_store(&mut run, &mut rng).await?;
    for wrong in &sum.wrong {
        run.tell(&format!("WRONG: {wrong}"));
    }
    let blind = control.lost == 0 || planted == Some(None);
    let few = sum.cuts < run.cuts || sum.acks < sum.cuts * rig::ACKS_MIN;
    let bound = 3.0 / sum.cuts.max(1) as f64 * 100.0;
    let (cuts, acks, wrong, seconds) = (sum.cuts, sum.acks, sum.wrong.len(), begun.elapsed().as_secs());
    run.tell(&format!(
        "cuts {cuts} of {} (and {} in a start), {} by copy; {acks} acknowledged writes, {wrong} lost; {seconds} s",
        run.cuts, sum.starts, sum.copies
    ));
    run.tell(&format!(
        "linearizable reads right after a start: {} stale, {} before a write without an answer came to be",
        sum.stale, sum.late
    ));
    run.tell(&format!(
        "kinds {:?}; snapshots at the cut {:?}; {} logs purged; {} terms seen, one leader each",
        sum.kinds, sum.stages, sum.purges, sum.terms
    ));
    let control = format!(
        "{} of {} acknowledged writes in {} cuts, {} times it did not open",
        control.lost, control.acked, control.cuts, control.closed
    );
    run.tell(&format!("control, plain sled: lost {control}"));
    run.tell(&format!(
        "control, our voters without syncs: {}",
        planted.map_or("not run".to_owned(), |found| found.unwrap_or("LOST NOTHING".to_owned()))
    ));
    run.tell(&format!(
        "seed {}; with 0 failures the chance that a cut loses something is under {bound:.2} % (95 %, 3/n)",
        run.seed
    ));
    let passed = wrong == 0 && sum.stale == 0 && !blind && !few;
    let verdict = match (passed, blind) {
        (true, _) => "PASSED",
        (false, true) => "FAILED: a control lost nothing, so this proves nothing",
        (false, false) => "FAILED",
    };
    run.tell(&format!("powercut: {verdict}"));
    Ok(passed)
}

fn parse(args: &[String]) -> Step<Run> {
    let [binary, dir, log, cuts, seed, rest @ ..] = args else {
        return Err(problem("usage: powercut run BINARY FOLDER LOG CUTS SEED [LIBRARY]"));
    };
    let number = |text: &String| text.parse::<u64>().map_err(|error| problem(format!("{text}: {error}")));
    Ok(Run {
        binary: binary.into(),
        dir: dir.into(),
        log: fs::File::create(log)?,
        cuts: number(cuts)?,
        seed: number(seed)?,
        library: rest.first().map(PathBuf::from),
    })
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["store", dir] => control::store(Path::new(dir)).map(|()| true),
        ["read", dir] => control::read(Path::new(dir)).map(|()| true),
        ["run", ..] => parse(&args[1..]).and_then(|conf| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(run(conf))
        }),
        _ => Err(problem("usage: powercut run BINARY FOLDER LOG CUTS SEED [LIBRARY]")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("powercut: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
