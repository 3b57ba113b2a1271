//! What the kernel knows: which processor this is, whose processor time is whose, what takes how much memory and disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

use crate::Fallible;
use crate::child::run;
use crate::cinnabar::BINARY;

/// The kernel counts processor time in hundredths of a second, on every machine it tells user space about.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processor's name.
pub fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or("unknown", |(_, name)| name.trim()).to_owned()
}

/// How many processors there are.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The commit from which the measured binary was built, as it says itself; `-dirty` when files differed from it.
pub fn commit() -> Fallible<String> {
    let version = run(Path::new(BINARY), &["--version"])?;
    let commit = version.rsplit_once('(').and_then(|(_, rest)| rest.split_once(')'));
    Ok(commit.ok_or("the binary does not say its commit")?.0.to_owned())
}

/// Nanoseconds of a clock that all processes of this machine share.
pub fn now_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Nanoseconds of processor time that this thread has used.
pub fn thread_ns() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// MiB of memory that a process has; 0 once it is gone.
pub fn rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0);
    (kib / 1024.0).round()
}

/// MiB that a folder takes on its disk.
pub fn disk_mib(folder: &Path) -> f64 {
    let (mut bytes, mut folders) = (0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes += found.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    (bytes as f64 / f64::from(1 << 20) * 10.0).round() / 10.0
}

/// Seconds of processor time that a process has used, its own and the kernel's for it; 0 once it is gone.
pub fn process_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold anything; what follows its closing bracket is numbers. utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(14) + ticks(15)) / TICKS_PER_SECOND
}

/// Seconds of processor time that the whole machine has used.
pub fn machine_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq: all but the two idle ones.
    fields.iter().take(7).enumerate().filter(|(n, _)| *n != 3 && *n != 4).map(|(_, ticks)| ticks).sum::<f64>()
        / TICKS_PER_SECOND
}

/// Processor time of servers, of this process and of everybody else, between two moments.
pub struct Usage {
    pids: Vec<u32>,
    servers: Vec<f64>,
    own: f64,
    machine: f64,
}

/// What passed between two moments, in seconds of processor time.
#[derive(Debug, Clone)]
pub struct Used {
    /// Each server, in the order in which they were given.
    pub servers: Vec<f64>,
    /// This process: the clients.
    pub own: f64,
    /// Everything else on the machine.
    pub others: f64,
}

impl Usage {
    /// From now on.
    pub fn begin(pids: &[u32]) -> Self {
        let servers = pids.iter().map(|pid| process_seconds(*pid)).collect();
        Self { pids: pids.to_vec(), servers, own: process_seconds(std::process::id()), machine: machine_seconds() }
    }

    /// Until now.
    pub fn end(&self) -> Used {
        let now = Self::begin(&self.pids);
        let servers: Vec<f64> = now.servers.iter().zip(&self.servers).map(|(now, then)| now - then).collect();
        let own = now.own - self.own;
        let others = now.machine - self.machine - own - servers.iter().sum::<f64>();
        Used { servers, own, others: others.max(0.0) }
    }
}
