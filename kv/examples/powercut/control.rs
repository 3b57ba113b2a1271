//! The control that must fail: an append-only log in plain sled, acknowledged after `flush()`, cut the same way.
//!
//! [`store`] and [`read`] run in processes of their own, so that they can be killed, and so that a database that cannot
//! be opened any more takes only them down.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::disk::{Cut, Disk, must};
use crate::{Rng, Step, problem};

/// MiB of the control's disk.
const DISK_MIB: u64 = 2048;
/// Time until everything is synced once, and how long it may then go on until the cut.
const RUN_MS: (u64, u64) = (150, 600);

/// What the control lost.
#[derive(Debug, Default, Clone, Copy)]
pub struct Lost {
    /// Cuts.
    pub cuts: u64,
    /// Acknowledged writes.
    pub acked: u64,
    /// Of them, those that were gone or wrong.
    pub lost: u64,
    /// Cuts after which the database did not open.
    pub closed: u64,
}

fn open(dir: &Path) -> Step<sled::Db> {
    sled::Config::new().path(dir).flush_every_ms(None).open().map_err(problem)
}

/// Bytes of one entry, so that a reader knows what must be there.
fn value(index: u64) -> Vec<u8> {
    let mut rng = Rng::new(index);
    let bytes = [100, 1024, 4096][rng.below(3) as usize];
    (0..bytes).map(|_| rng.draw() as u8).collect()
}

/// Appends, flushes, and says on standard output up to where.
pub fn store(dir: &Path) -> Step<()> {
    let db = open(dir)?;
    let mut out = std::io::stdout().lock();
    let mut rng = Rng::new(1);
    let mut index = 0u64;
    loop {
        for _ in 0..=rng.below(4) {
            index += 1;
            db.insert(index.to_be_bytes(), value(index)).map_err(problem)?;
        }
        db.flush().map_err(problem)?;
        writeln!(out, "{index}")?;
        out.flush()?;
    }
}

/// Says up to where every entry is there.
pub fn read(dir: &Path) -> Step<()> {
    let db = open(dir)?;
    let mut index = 0u64;
    while let Some(found) = db.get((index + 1).to_be_bytes()).map_err(problem)? {
        if found != value(index + 1) {
            break;
        }
        index += 1;
    }
    println!("{index}");
    Ok(())
}

fn child(verb: &str, dir: &Path) -> Step<Child> {
    let own = std::env::current_exe()?;
    let mut command = Command::new(own);
    Ok(command.arg(verb).arg(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

/// Cuts plain sled this often.
pub fn run(dir: &Path, cuts: u64, rng: &mut Rng, tell: &mut impl FnMut(String)) -> Step<Lost> {
    let mut disk = Disk::new(dir, "control", DISK_MIB)?;
    let mut sum = Lost::default();
    for cut in 1..=cuts {
        disk.mount("defaults")?;
        let place: PathBuf = disk.folder().join(cut.to_string());
        let mut writer = child("store", &place)?;
        let told = writer.stdout.take().ok_or_else(|| problem("no standard output"))?;
        let last = thread::spawn(move || {
            let lines = BufReader::new(told).lines().map_while(Result::ok);
            lines.filter_map(|line| line.parse::<u64>().ok()).last().unwrap_or_default()
        });
        // The database itself is on disk first: what is lost then is only what `flush()` left in the kernel.
        thread::sleep(Duration::from_millis(RUN_MS.0));
        must(Command::new("sync").arg("-f").arg(disk.folder()))?;
        thread::sleep(Duration::from_millis(rng.below(RUN_MS.1)));
        disk.cut(Cut::Shutdown).or_else(|_| disk.cut(Cut::Copy))?;
        let _ = writer.kill();
        let _ = writer.wait();
        let acked = last.join().map_err(|_| problem("the control's reader panicked"))?;
        disk.settle(Cut::Shutdown)?;
        disk.mount("defaults")?;
        let out = child("read", &place)?.wait_with_output()?;
        let found = String::from_utf8_lossy(&out.stdout).trim().parse::<u64>().ok();
        let lost = acked.saturating_sub(found.unwrap_or_default());
        tell(format!("control {cut:3}: {acked} acknowledged by plain sled, found {found:?}, lost {lost}"));
        sum.cuts += 1;
        sum.acked += acked;
        sum.lost += lost;
        sum.closed += u64::from(found.is_none());
        // Its folder only takes room from the next.
        let _ = fs::remove_dir_all(&place);
        disk.settle(Cut::Shutdown)?;
    }
    Ok(sum)
}
