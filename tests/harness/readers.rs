//! Watchers and downstreams of real nodes, for as long as a run lasts.
//!
//! The road: [`Readers::start`] opens the streams; each is opened again where it was when a fault ends it;
//! [`Readers::finish`] says how far the log goes, waits until every stream is there, and gives what each met.

use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client::Store;
use super::cluster::Cluster;
use super::streams::{Tail, Watch};

/// Longest that one attempt to open a stream takes.
const OPEN_MAX: Duration = Duration::from_secs(2);
/// Longest that a run with streams may last.
const RUN_MAX: Duration = Duration::from_secs(4 * 60 * 60);

/// Open streams. Dropped, they are left alone.
pub struct Readers {
    until: watch::Sender<u64>,
    thread: JoinHandle<(Vec<Watch>, Vec<Tail>)>,
}

impl Readers {
    /// Watches these prefixes at these nodes, and follows the log of the others as a replica would. A watch at `*` goes to
    /// whichever voter answers, and so outlives any one of them.
    pub fn start(cluster: &Cluster, watched: &[(&str, &str)], followed: &[&str]) -> Self {
        let (operator, replica) =
            (cluster.credentials("authority", "watcher"), cluster.credentials("replica", "tailer"));
        let watches = watched.iter().map(|(node, prefix)| {
            let name = format!("of {prefix:?} at {node}");
            let (node, prefix) = ((*node).to_owned(), (*prefix).to_owned());
            (node, Watch { name, prefix, items: Vec::new() })
        });
        let voters = cluster.voter_addresses();
        let address = |node: &str| if node == "*" { voters.clone() } else { vec![cluster.node(node).advertise] };
        let watches: Vec<_> = watches.map(|(node, watch)| (address(&node), watch)).collect();
        let tails: Vec<_> = followed.iter().map(|node| (cluster.node(node).advertise, (*node).to_owned())).collect();
        let (until, goal) = watch::channel(u64::MAX);
        let thread = cluster.as_client(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                let (mut watching, mut tailing) = (JoinSet::new(), JoinSet::new());
                for (nodes, mut watch) in watches {
                    let (store, goal) = (Store::over_tls(&nodes, &operator, OPEN_MAX), goal.clone());
                    watching.spawn(async move {
                        store.watch(&mut watch, 0, &goal, RUN_MAX).await;
                        watch
                    });
                }
                for (node, name) in tails {
                    let (store, goal) = (Store::over_tls(&[node], &replica, OPEN_MAX), goal.clone());
                    tailing.spawn(async move {
                        let mut tail = Tail { name, items: Vec::new() };
                        store.tail(&mut tail, &goal, RUN_MAX).await;
                        tail
                    });
                }
                (watching.join_all().await, tailing.join_all().await)
            })
        });
        Self { until, thread }
    }

    /// Waits until every stream reached this index; returns what they met.
    ///
    /// # Panics
    /// When one could not be followed.
    pub fn finish(self, until: u64) -> (Vec<Watch>, Vec<Tail>) {
        self.until.send_replace(until);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
