//! A run: a cluster, clients, watchers and downstreams at work on it, and at the end everything that they met, judged.
//!
//! Law: a run ends well only when all nodes came to the same state, every key was read back from every copy, both judges
//! of the history found no broken promise, and every stream was in order, whole, without a gap or a repeat.

use crate::harness::cluster::Cluster;
use crate::harness::deadline::Stopwatch;
use crate::harness::history::{Action, History, Outcome, Recorder, Report};
use crate::harness::load::{Load, Mix, PREFIXES, read_back};
use crate::harness::readers::Readers;
use crate::harness::streams::{Ledger, Tail, TailItem, Watch, WatchItem, check_tails};

/// See the module.
pub struct Run {
    /// The cluster.
    pub cluster: Cluster,
    /// The clients at work.
    pub load: Load,
    tape: Recorder,
    readers: Readers,
    clock: Stopwatch,
}

/// What a run was worth.
#[derive(Debug)]
pub struct Judged {
    /// What the history consisted of.
    pub report: Report,
    /// The history.
    pub history: History,
    /// Messages with changes that watchers got.
    pub changes: usize,
    /// Times that a watch had to start anew, its changes being gone.
    pub resyncs: usize,
    /// Entries that downstreams got.
    pub entries: usize,
    /// Times that a stream was taken up again.
    pub resumed: usize,
}

impl Run {
    /// Puts clients to work on a cluster that has a leader, watches at every node and at no node in particular, and
    /// follows the log at the nodes in `followed`.
    pub fn begin(cluster: Cluster, mix: Mix, followed: &[&str], seed: u64) -> Self {
        let tape = Recorder::new();
        let names = cluster.names();
        let nodes = names.iter().map(String::as_str).chain(["*", "*"]).enumerate();
        let watched: Vec<_> = nodes.map(|(turn, node)| (node, PREFIXES[turn % PREFIXES.len()])).collect();
        let readers = Readers::start(&cluster, &watched, followed);
        let load = Load::start(&cluster, &tape, mix, seed);
        Self { cluster, load, tape, readers, clock: Stopwatch::start() }
    }

    /// Operations so far.
    pub fn operations(&self) -> usize {
        self.tape.count()
    }

    /// Ends the work and judges it; `name` is for the line that says what was judged.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn judge(self, name: &str) -> Judged {
        let Self { cluster, load, tape, readers, clock } = self;
        let (written, lasted) = (load.written(), clock.elapsed());
        load.stop();
        let index = cluster.await_same();
        read_back(&cluster, &tape);
        let history = tape.finish();
        let report = history.check().unwrap_or_else(|violation| panic!("{name}: {violation}"));
        let (watches, tails) = readers.finish(index);
        let streams = Ledger::of(&history).check_watches(&watches, index).and_then(|()| check_tails(&tails, index));
        streams.unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let writes_per_second = written / lasted.as_secs().max(1);
        let judged = Judged::new(report, history, &watches, &tails);
        eprintln!(
            "{name}: judged {} operations on {} keys, {} without an answer; {writes_per_second} writes/s for {} s; index \
             {index}; {} changes watched, {} entries followed, {} streams resumed, {} started anew; no violation",
            report.operations,
            report.keys,
            report.unknown,
            lasted.as_secs(),
            judged.changes,
            judged.entries,
            judged.resumed,
            judged.resyncs,
        );
        judged
    }
}

impl Judged {
    fn new(report: Report, history: History, watches: &[Watch], tails: &[Tail]) -> Self {
        let count = |matches: fn(&WatchItem) -> bool| {
            watches.iter().map(|watch| watch.items.iter().filter(|item| matches(item)).count()).sum::<usize>()
        };
        let tailed = |matches: fn(&TailItem) -> bool| {
            tails.iter().map(|tail| tail.items.iter().filter(|item| matches(item)).count()).sum::<usize>()
        };
        let opened = count(|item| matches!(item, WatchItem::Opened { .. }))
            + tailed(|item| matches!(item, TailItem::Opened { .. }));
        Self {
            report,
            history,
            changes: count(|item| matches!(item, WatchItem::Changes { .. })),
            resyncs: count(|item| matches!(item, WatchItem::Resync { .. })),
            entries: tailed(|item| matches!(item, TailItem::Entry { .. })),
            resumed: opened - watches.len() - tails.len(),
        }
    }

    /// Writes that a client got no good answer to.
    pub fn failed_writes(&self) -> usize {
        let failed = |outcome| matches!(outcome, Outcome::Failed | Outcome::Unknown);
        let writes = self.history.operations.iter().filter(|done| matches!(done.action, Action::Write { .. }));
        writes.filter(|done| failed(done.outcome)).count()
    }
}

/// Three voters, a relay that follows them, and a leaf that follows the relay; initialised, with a leader.
pub fn tree(mut cluster: Cluster) -> Cluster {
    cluster.start_all();
    cluster.init();
    cluster.add_replica("relay", &["voter2", "voter3", "voter1"]);
    cluster.add_replica("leaf", &["relay", "voter3"]);
    for name in cluster.names() {
        cluster.await_answer(&name, "/readyz", 200);
    }
    cluster
}
