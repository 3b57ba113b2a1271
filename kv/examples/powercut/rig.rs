//! One cut after the other on one store that ages: start, compare with what was acknowledged, write, cut.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cinnabar_kv::limits::SEGMENT_BYTES;
use cinnabar_kv_api::Client;
use cinnabar_kv_api::proto::GetRequest;
use futures::StreamExt;

use crate::cluster::{Cluster, VOTERS};
use crate::disk::{Cut, Disk, must};
use crate::ledger::{Ledger, Slot};
use crate::load::Load;
use crate::{Rng, Step, problem};

/// Least acknowledged writes before a cut.
pub const ACKS_MIN: u64 = 100;
/// How many more there may be.
const ACKS_MORE: u64 = 150;
/// Writers, and keys of each.
const WRITERS: usize = 8;
const KEYS: usize = 120;
/// MiB of the disk.
const DISK_MIB: u64 = 4096;
/// Longest wait for the acknowledgements of one round.
const LOAD_MAX: Duration = Duration::from_secs(60);
/// Keys of the writer that fills the log; they fit one write.
const FILL_KEYS: usize = 16;
/// Bytes after which a new segment of the log has begun and holds what must be kept, so that the one before goes.
const FILL_BYTES: u64 = SEGMENT_BYTES + 3 * 1024 * 1024;
/// Longest wait for the log to be purged past a stopped voter.
const PURGE_MAX: Duration = Duration::from_secs(30);

/// What the cut falls into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Writes.
    Plain,
    /// Writes while little log is kept.
    Purge,
    /// A voter, and perhaps the replica, that come back too late for the log.
    Snapshot,
    /// An election, after the leader was killed.
    Vote,
    /// A start, right after another cut.
    Start,
}

/// What one round did.
#[derive(Debug)]
pub struct Round {
    /// What the cut fell into.
    pub kind: Kind,
    /// How the power went.
    pub cut: Cut,
    /// Acknowledged writes.
    pub acks: u64,
    /// What was seen of a snapshot when the power went.
    pub stage: &'static str,
    /// How the disk was mounted.
    pub options: &'static str,
}

/// What was found after a cut.
pub struct Found {
    /// Acknowledged writes that are gone, and nodes that differ.
    pub lost: Vec<String>,
    /// Linearizable reads, right after the start, that missed an acknowledged write.
    pub stale: Vec<String>,
    /// Such reads that missed a write without an answer, which then came to be.
    pub late: u64,
}

/// The rig.
pub struct Rig {
    /// The processes.
    pub cluster: Cluster,
    /// Their disk.
    pub disk: Disk,
    ledger: Ledger,
    rng: Rng,
    keep: &'static str,
    options: &'static str,
    allow_copy: bool,
    shutdown_works: bool,
}

impl Rig {
    /// Prepares disk and cluster in `dir`; the cluster serves when this returns.
    pub async fn new(binary: &Path, preload: Option<&Path>, dir: &Path, rng: &mut Rng) -> Step<Self> {
        let mut disk = Disk::new(dir, if preload.is_some() { "planted" } else { "disk" }, DISK_MIB)?;
        let conf = dir.join(if preload.is_some() { "planted-cluster" } else { "cluster" });
        disk.mount("defaults")?;
        let mut cluster = Cluster::new(binary, preload, &conf, disk.folder(), rng)?;
        let keep = "16MiB";
        cluster.start_all(keep, rng)?;
        cluster.init().await?;
        cluster.await_leader().await?;
        cluster.await_equal().await?;
        if preload.is_some() {
            // Without syncs nothing would be left of it at the first cut.
            must(std::process::Command::new("sync").arg("-f").arg(disk.folder()))?;
        }
        let mut keys = vec![KEYS; WRITERS];
        keys.push(FILL_KEYS);
        let ledger = Ledger::new(&keys);
        let rng = Rng::new(rng.draw());
        let (options, allow_copy, shutdown_works) = ("defaults", preload.is_none(), true);
        Ok(Self { cluster, disk, ledger, rng, keep, options, allow_copy, shutdown_works })
    }

    /// Writes, then cuts in the given way. The store is off when this returns.
    pub async fn round(&mut self, kind: Kind) -> Step<Round> {
        self.cluster.mark_logs();
        let client = self.cluster.client(Duration::from_secs(20))?;
        let stopped = if kind == Kind::Snapshot { self.stop_some().await? } else { Vec::new() };
        let fill = if matches!(kind, Kind::Purge | Kind::Snapshot) { FILL_BYTES } else { 0 };
        let load = Load::start(&client, &mut self.ledger, fill, &mut self.rng);
        let target = ACKS_MIN + self.rng.below(ACKS_MORE);
        let led = self.lead_in(kind, &load, target, &stopped).await;
        let copy = !self.shutdown_works || self.allow_copy && self.rng.below(8) == 0;
        let mut cut = if copy { Cut::Copy } else { Cut::Shutdown };
        if cut == Cut::Copy {
            self.cluster.freeze();
        }
        if let Err(error) = self.disk.cut(cut) {
            if cut == Cut::Copy {
                return Err(error);
            }
            eprintln!("powercut: {error}: copying the image instead");
            (self.shutdown_works, cut) = (false, Cut::Copy);
            self.cluster.freeze();
            self.disk.cut(cut)?;
        }
        if cut == Cut::Shutdown {
            // What is acknowledged after the cut was promised, too.
            tokio::time::sleep(Duration::from_millis(self.rng.below(40))).await;
        }
        self.cluster.kill_all();
        let (acks, wrong) = load.end(&mut self.ledger).await?;
        let stage = self.stage(kind, &stopped);
        self.disk.settle(cut)?;
        led?;
        match wrong.is_empty() {
            true => Ok(Round { kind, cut, acks, stage, options: self.options }),
            false => Err(problem(format!("before the cut: {}", wrong.join("; ")))),
        }
    }

    /// What happens between the first write and the cut.
    async fn lead_in(&mut self, kind: Kind, load: &Load, target: u64, stopped: &[usize]) -> Step<()> {
        load.reach(target, LOAD_MAX).await?;
        self.cluster.statuses().await?;
        self.cluster.note_checkpoint()?;
        let pause = match kind {
            Kind::Plain | Kind::Start => self.rng.below(60),
            Kind::Purge => {
                self.await_filled(load, PURGE_MAX).await;
                self.rng.below(1500)
            }
            Kind::Snapshot => {
                self.await_purged(load).await?;
                stopped.iter().try_for_each(|n| self.cluster.start(*n, self.keep))?;
                100 + self.rng.below(900)
            }
            Kind::Vote => {
                if let Some((leader, _)) = self.cluster.leader().await? {
                    self.cluster.kill(leader);
                    tokio::time::sleep(Duration::from_millis(self.rng.below(200))).await;
                    if self.rng.below(2) == 0 {
                        self.cluster.start(leader, self.keep)?;
                    }
                }
                self.rng.below(900)
            }
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        Ok(())
    }

    /// Kills a follower, and at random the replica.
    async fn stop_some(&mut self) -> Step<Vec<usize>> {
        self.cluster.await_leader().await?;
        let leader = self.cluster.leader().await?.map_or(0, |(n, _)| n);
        let mut stopped = vec![(leader + 1 + self.rng.below(2) as usize) % VOTERS];
        if self.rng.below(2) == 0 {
            stopped.push(VOTERS);
        }
        stopped.iter().for_each(|n| self.cluster.kill(*n));
        Ok(stopped)
    }

    /// Waits until the leader has purged what the stopped ones miss, or for so long.
    async fn await_purged(&mut self, load: &Load) -> Step<()> {
        let wait = async {
            let mut first = None;
            loop {
                if let Some((_, status)) = self.cluster.leader().await? {
                    let begun = *first.get_or_insert(status.applied_index);
                    if load.filled() && status.first_log_index > begun {
                        return Ok(());
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PURGE_MAX, wait).await.unwrap_or(Ok(()))
    }

    async fn await_filled(&self, load: &Load, wait: Duration) {
        let filled = async {
            while !load.filled() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(wait, filled).await;
    }

    fn stage(&self, kind: Kind, stopped: &[usize]) -> &'static str {
        if kind != Kind::Snapshot {
            return "-";
        }
        let made = (0..VOTERS).any(|n| self.cluster.news(n).contains("snapshot file made"));
        let installed = stopped.iter().any(|n| self.cluster.news(*n).contains("snapshot installed"));
        match (made, installed) {
            (_, true) => "installed",
            (true, false) => "made",
            (false, false) => "none",
        }
    }

    /// Power on, and the comparison with all that was acknowledged.
    pub async fn restore(&mut self, kind: Kind, next: Kind) -> Step<Found> {
        self.keep = if matches!(next, Kind::Purge | Kind::Snapshot) { "1MiB" } else { "16MiB" };
        if kind == Kind::Start {
            self.power_on()?;
            tokio::time::sleep(Duration::from_millis(self.rng.below(900))).await;
            self.cluster.statuses().await?;
            let cut = if self.shutdown_works { Cut::Shutdown } else { Cut::Copy };
            if cut == Cut::Copy {
                self.cluster.freeze();
            }
            self.disk.cut(cut)?;
            self.cluster.kill_all();
            self.disk.settle(cut)?;
        }
        self.power_on()?;
        self.cluster.await_leader().await?;
        let reads = self.read_touched().await?;
        let index = self.cluster.await_equal().await?;
        let mut lost = self.ledger.settle(&self.cluster.scan(0, index).await?);
        for n in 1..self.cluster.nodes.len() {
            let found = self.cluster.scan(n, index).await?;
            lost.extend(self.ledger.compare(&self.cluster.nodes[n].name, found));
        }
        let (stale, late) = self.ledger.judge(&reads);
        Ok(Found { lost, stale, late })
    }

    fn power_on(&mut self) -> Step<()> {
        self.options = Disk::options(&mut self.rng);
        self.disk.mount(self.options)?;
        self.cluster.check_checkpoint()?;
        self.cluster.mark_logs();
        self.cluster.start_all(self.keep, &mut self.rng)
    }

    async fn read_touched(&self) -> Step<BTreeMap<String, Slot>> {
        let client = self.cluster.client(self.cluster.patience)?;
        let reads = self.ledger.touched().into_iter().map(|key| {
            let client = client.clone();
            async move {
                let request = GetRequest { linearizable: true, ..Client::get_request(key.clone()) };
                let answer = client.get(request).await.map_err(|error| problem(format!("{key}: {error}")))?;
                let slot = if answer.found { Slot::of(&answer.value, answer.mod_index) } else { Slot::Absent };
                Ok((key, slot))
            }
        });
        futures::stream::iter(reads).buffer_unordered(WRITERS * 2).collect::<Vec<Step<_>>>().await.into_iter().collect()
    }
}
