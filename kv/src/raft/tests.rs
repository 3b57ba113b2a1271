//! openraft's own suite, on the real log and the real state.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::{LogStore, StateMachine, Types};
use crate::local::{Local, LocalOptions};
use crate::log::{Log, LogOptions, LogPoint};
use crate::milestones::Milestones;

struct Builder {
    on_disk: bool,
}

impl StoreBuilder<Types, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions {
            sync_appends: true,
            durable: 0,
            on_fatal: Box::new(|error| panic!("the log failed: {error}")),
            on_sync: Box::new(|sync| sync()),
        };
        let log = Log::open(&dir.path().join("log"), options).unwrap();
        let milestones = Arc::new(Milestones::open(None, 0).unwrap());
        let installed = Arc::new(Mutex::new(LogPoint::default()));
        let state = self.on_disk.then(|| dir.path().join("state"));
        let local = Local::open(LocalOptions { dir: state, ..LocalOptions::default() }).unwrap();
        let store = LogStore::new(log.clone(), milestones.clone(), installed.clone()).unwrap().with_holes();
        let machine = StateMachine::new(local, log, milestones, installed).unwrap().with_holes();
        Ok((dir, store, machine))
    }
}

#[test]
fn the_stores_keep_every_law_that_openraft_asks_for() {
    for on_disk in [true, false] {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(Suite::test_all(Builder { on_disk })).unwrap();
    }
}
