//! Disks without room: writes are refused in words, reads go on, and nothing that was acknowledged is lost.
//!
//! The disks are small file systems in memory, mounted where each voter keeps its folder. Mounting needs root: elsewhere
//! these tests print SKIPPED, which is no pass.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::cluster::{Cluster, NODE_MAX};
use crate::harness::deadline::eventually;
use crate::harness::load::Mix;
use crate::harness::process::run;
use crate::harness::scale::seed;
use crate::run::Run;

/// A voter refuses writes below 64 MiB of free space, so that half of this can be filled.
const SMALL: &str = "128m";
/// After the operator made room.
const LARGE: &str = "512m";
/// Exit code of a process whose disk failed.
const EXIT_DISK: i32 = 74;
/// Longest until clients filled the disks.
const FILL_MAX: Duration = Duration::from_secs(180);
/// Longest a mount may take.
const MOUNT_MAX: Duration = Duration::from_secs(10);

const MIX: Mix = Mix {
    clients: 12,
    slots: 200,
    turnover: 60,
    sizes: &[100, 60 * 1024, 60 * 1024],
    pause: Duration::from_millis(10),
    deadline: Duration::from_secs(120),
    impatient: true,
};

/// A file system in memory. Dropped, it goes as soon as nobody uses it.
struct Disk(PathBuf);

impl Disk {
    /// Mounts one at a folder that is made for it.
    fn mount(at: &Path) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        fs::create_dir(at).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={SMALL},mode=0700"), "cinnabar-test"]).arg(at);
        run(&mut command, MOUNT_MAX).map(|_| Self(at.to_owned())).map_err(|failed| failed.told)
    }

    fn enlarge(&self) {
        let mut command = Command::new("mount");
        run(command.args(["-o", &format!("remount,size={LARGE}")]).arg(&self.0), MOUNT_MAX).unwrap();
    }

    /// Takes all the room that is left with one file.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The processes may still run; what is left lies in a folder that goes with the test.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0), MOUNT_MAX);
    }
}

/// Three voters on small disks, initialised; `None`, and a line that says why, where nothing can be mounted.
fn on_small_disks(seed: u64) -> Option<(Cluster, Vec<Disk>)> {
    let mut cluster = Cluster::new(3, seed);
    let mut disks = Vec::new();
    for voter in cluster.names_of(true) {
        match Disk::mount(&cluster.node(&voter).data) {
            Ok(disk) => disks.push(disk),
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                return None;
            }
        }
    }
    cluster.start_all();
    cluster.init();
    Some((cluster, disks))
}

fn await_health(cluster: &Cluster, name: &str, health: &str, bound: Duration) {
    eventually(bound, &format!("{name} {health}"), || (cluster.status(name).ok()?["health"] == health).then_some(()));
}

#[test]
fn full_disks_refuse_writes_in_words_and_lose_none() {
    let seed = seed(51);
    let Some((cluster, disks)) = on_small_disks(seed) else { return };
    cluster.operate("voter1", ["kv", "put", "operator/key", "kept"]).unwrap();
    let mut run = Run::begin(cluster, MIX, &["voter1"], seed);
    let voters = run.cluster.names_of(true);
    // Once the leader's disk is full nobody takes a write, and the other disks fill no further.
    let leader = run.cluster.await_leader(None);
    await_health(&run.cluster, &leader, "disk-full", FILL_MAX);
    assert_eq!(run.cluster.metric(&leader, "cinnabar_disk_full"), Some(1.0));

    for name in &voters {
        let refused = run.cluster.operate(name, ["kv", "put", "operator/key", "more", "--timeout", "2"]).unwrap_err();
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.told.contains("the disk is nearly full"), "{refused:?}");
        let read = run.cluster.operate(name, ["kv", "get", "operator/key", "--linearizable"]).unwrap();
        assert_eq!(read["value"], "kept");
        assert_eq!(run.cluster.get_local(name, "operator/key").unwrap()["value"], "kept");
    }

    disks.iter().for_each(Disk::enlarge);
    voters.iter().for_each(|name| await_health(&run.cluster, name, "ok", NODE_MAX));
    run.load.await_writes(50);
    for name in &voters {
        run.cluster.kill_9(name);
    }
    run.cluster.start_all();
    run.load.await_writes(50);
    run.judge("disks that were full");
}

#[test]
fn a_voter_whose_disk_fails_ends_and_comes_back_when_there_is_room() {
    let seed = seed(52);
    let Some((cluster, disks)) = on_small_disks(seed) else { return };
    let mix = Mix { sizes: &[1_000, 4_000], slots: 20, ..MIX };
    let mut run = Run::begin(cluster, mix, &["voter1"], seed);
    let leader = run.cluster.await_leader(None);
    let voters = run.cluster.names_of(true);
    for victim in [voters.iter().position(|name| *name != leader), voters.iter().position(|name| *name == leader)] {
        let place = victim.expect("a cluster of three has both");
        run.load.await_writes(50);
        let filler = disks[place].fill();
        let ended = run.cluster.child(&voters[place]).wait(FILL_MAX).expect("a voter without a disk ends");
        assert_eq!(ended.code(), Some(EXIT_DISK));
        run.load.await_writes(50);
        fs::remove_file(filler).unwrap();
        run.cluster.kill_9(&voters[place]);
        run.cluster.start(&voters[place]);
        run.cluster.await_answer(&voters[place], "/readyz", 200);
    }
    run.judge("voters whose disks failed");
}
