//! Networks that break: the leader alone, one way only, halves, a follower that comes and goes, everyone alone; and a
//! leader that stands still, which looks the same from outside.
//!
//! In network namespaces, with packets dropped by the kernel, where this machine lets us; behind proxies otherwise.
//! `ROUNDS` says how often each break is made; `WIRING=mesh` asks for the proxies.

use std::env;
use std::thread;
use std::time::Duration;

use crate::harness::cluster::Cluster;
use crate::harness::load::Mix;
use crate::harness::netns::Net;
use crate::harness::random::Random;
use crate::harness::scale::{scale, seed};
use crate::run::{Run, tree};

/// How long a break lasts, an election or two.
const BREAK_MS_MIN: u64 = 2_500;
const BREAK_MS_SPREAD: usize = 2_000;
/// How long a follower that comes and goes stays in one of the two.
const FLAP: Duration = Duration::from_millis(350);
/// Comings and goings in one break.
const FLAPS: usize = 5;
/// Answered writes while a majority is whole, and after each mending.
const WRITES_DURING: u64 = 20;

/// A break of the network around the leader and the two followers.
#[derive(Debug, Clone, Copy)]
enum Break {
    /// The leader is cut off, with whoever follows it only.
    LeaderAlone,
    /// The leader hears nothing, and is heard.
    LeaderDeaf,
    /// The leader is heard by nobody, and hears.
    LeaderMute,
    /// One follower hears nothing of the others.
    FollowerDeaf,
    /// The leader and the relay on one side, the two followers and the leaf on the other.
    Halves,
    /// A follower is cut off and mended, again and again.
    Flapping,
    /// The followers do not hear each other; the leader hears both.
    Bridge,
    /// The leader's process stands still, and does not know afterwards that it did.
    LeaderPaused,
    /// Every voter is alone.
    Nobody,
}

const BREAKS: [Break; 9] = [
    Break::LeaderAlone,
    Break::LeaderDeaf,
    Break::LeaderMute,
    Break::FollowerDeaf,
    Break::Halves,
    Break::Flapping,
    Break::Bridge,
    Break::LeaderPaused,
    Break::Nobody,
];

impl Break {
    /// Whether a majority of voters can hear each other meanwhile, whoever leads.
    fn leaves_a_quorum(self) -> bool {
        !matches!(self, Self::Nobody)
    }

    fn make(self, cluster: &mut Cluster, leader: &str, followers: [&str; 2]) {
        let [one, other] = followers;
        match self {
            Self::LeaderAlone => cluster.isolate(leader),
            Self::LeaderDeaf => followers.iter().for_each(|name| cluster.cut_one_way(name, leader)),
            Self::LeaderMute => followers.iter().for_each(|name| cluster.cut_one_way(leader, name)),
            Self::FollowerDeaf => [leader, other].iter().for_each(|name| cluster.cut_one_way(name, one)),
            Self::Halves => cluster.partition(&[&[leader, "relay"], &[one, other, "leaf"]]),
            Self::Flapping => cluster.isolate(one),
            Self::Bridge => cluster.cut(one, other),
            Self::LeaderPaused => cluster.child(leader).pause(),
            Self::Nobody => cluster.partition(&[&[leader], &[one], &[other]]),
        }
    }
}

/// Three voters and their tree; the network is the best that this machine has.
fn wired(seed: u64) -> Cluster {
    if env::var("WIRING").is_ok_and(|wiring| wiring == "mesh") {
        return Cluster::new(3, seed);
    }
    match Net::create() {
        Ok(net) => Cluster::in_namespaces(3, net),
        Err(why) => {
            eprintln!("no network namespaces here, behind proxies instead: {why}");
            Cluster::new(3, seed)
        }
    }
}

fn round(run: &mut Run, random: &mut Random, how: Break) {
    let cluster = &mut run.cluster;
    let leader = cluster.await_leader(None);
    let mut followers = cluster.names_of(true);
    followers.retain(|name| *name != leader);
    followers.rotate_left(random.below(2));
    let followers = [followers[0].as_str(), followers[1].as_str()];
    eprintln!("{how:?} of {leader}");
    how.make(cluster, &leader, followers);
    if let Break::Flapping = how {
        for _ in 0..FLAPS {
            thread::sleep(FLAP);
            cluster.heal();
            thread::sleep(FLAP);
            cluster.isolate(followers[0]);
        }
    }
    thread::sleep(Duration::from_millis(BREAK_MS_MIN + random.below(BREAK_MS_SPREAD) as u64));
    if how.leaves_a_quorum() {
        run.load.await_writes(WRITES_DURING);
    }
    run.cluster.heal();
    if let Break::LeaderPaused = how {
        run.cluster.child(&leader).resume();
    }
    run.load.await_writes(WRITES_DURING);
}

#[test]
fn whatever_is_cut_answers_agree_and_all_come_together_after() {
    let (rounds, seed) = (scale("ROUNDS", 1), seed(21));
    let cluster = tree(wired(seed));
    let mut run = Run::begin(cluster, Mix::SMALL, &["voter2", "relay", "leaf"], seed);
    let mut random = Random::from_seed(seed);
    for how in (0..rounds).flat_map(|_| BREAKS) {
        round(&mut run, &mut random, how);
    }
    let judged = run.judge(&format!("{} breaks of the network", rounds as usize * BREAKS.len()));
    assert!(judged.report.unknown > 0, "clients must have met the breaks");
    assert!(judged.changes > 0 && judged.entries > 0, "streams must have gone on");
}
