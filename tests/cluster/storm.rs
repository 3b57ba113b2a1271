//! SIGKILL, again and again, to every process of the store in turn, while clients write and read.
//!
//! `KILLS`, `LEADER_KILLS` and `OPERATIONS` say how many at least; `make storm` sets them.

use std::thread;
use std::time::Duration;

use crate::harness::cluster::Cluster;
use crate::harness::load::Mix;
use crate::harness::random::Random;
use crate::harness::scale::{scale, seed};
use crate::run::{Run, tree};

/// Longest that a killed process stays down.
const DOWN_MS_MAX: usize = 1_500;
/// Longest that a process runs before it is killed for the second time.
const YOUNG_MS_MAX: usize = 400;
/// Answered writes between two rounds of kills.
const WRITES_BETWEEN: u64 = 200;

/// More clients than elsewhere, since most of them wait while there is no leader.
const MIX: Mix = Mix { clients: 32, pause: Duration::from_millis(10), ..Mix::SMALL };

/// Processes that were killed.
#[derive(Default)]
struct Killed {
    all: u64,
    leaders: u64,
}

fn pause(random: &mut Random, ms_max: usize) {
    thread::sleep(Duration::from_millis(random.below(ms_max) as u64));
}

fn kill(cluster: &mut Cluster, killed: &mut Killed, name: &str) {
    // Counted by what the process says itself: another voter's word may be old.
    killed.leaders += u64::from(cluster.leads(name));
    killed.all += 1;
    cluster.kill_9(name);
}

/// Kills some processes and starts them again.
fn round(cluster: &mut Cluster, killed: &mut Killed, random: &mut Random) {
    let leader = cluster.await_leader(None);
    let (voters, replicas) = (cluster.names_of(true), cluster.names_of(false));
    let followers: Vec<String> = voters.iter().filter(|name| **name != leader).cloned().collect();
    let victims = match random.below(12) {
        0..5 => vec![leader],
        5..7 => vec![random.pick(&followers).clone()],
        7..9 => vec![random.pick(&replicas).clone()],
        9 => vec![leader, random.pick(&replicas).clone()],
        10 => vec![random.pick(&followers).clone(), random.pick(&replicas).clone()],
        _ => voters,
    };
    for name in &victims {
        kill(cluster, killed, name);
    }
    for name in &victims {
        pause(random, DOWN_MS_MAX);
        cluster.launch(name);
        if random.chance(150) {
            // In the middle of its start: of reading the log, of its first election, of taking up the stream again.
            pause(random, YOUNG_MS_MAX);
            kill(cluster, killed, name);
            cluster.launch(name);
        }
    }
    for name in &victims {
        let path = if random.chance(750) { "/readyz" } else { "/livez" };
        cluster.await_answer(name, path, 200);
    }
}

#[test]
fn no_answered_write_is_lost_however_often_processes_are_killed() {
    let (kills, leader_kills) = (scale("KILLS", 12), scale("LEADER_KILLS", 4));
    let operations = usize::try_from(scale("OPERATIONS", 8_000)).unwrap();
    let seed = seed(11);
    let cluster = tree(Cluster::new(3, seed));
    let mut run = Run::begin(cluster, MIX, &["voter1", "relay", "leaf"], seed);
    let (mut random, mut killed) = (Random::from_seed(seed), Killed::default());
    while killed.all < kills || killed.leaders < leader_kills || run.operations() < operations {
        if killed.all < kills || killed.leaders < leader_kills || random.chance(100) {
            round(&mut run.cluster, &mut killed, &mut random);
        }
        run.load.await_writes(WRITES_BETWEEN);
    }
    for name in run.cluster.names() {
        run.cluster.await_answer(&name, "/readyz", 200);
    }
    let judged = run.judge(&format!("{} kills, {} of them of the leader", killed.all, killed.leaders));
    assert!(judged.report.answered > operations / 2, "most operations must be answered: {:?}", judged.report);
    assert!(judged.changes > 0 && judged.resumed > 0, "watches must have met the kills");
}
