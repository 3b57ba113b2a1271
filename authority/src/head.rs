//! The head: the authority's own word on how far the store is, every ten seconds and after each change.
//!
//! Law: a head repeats what voters swore and the authority verified; it never goes back.

use std::sync::Arc;
use std::time::Duration;

use cinnabar_authority_api::records::Head;
use cinnabar_daemon::Env;
use tokio::sync::watch;

use crate::follow::Progress;
use crate::publisher::{Plan, PublishError, Publisher};

/// Longest time between two heads.
pub const HEAD_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two heads: changes that come fast share one.
pub const HEAD_GAP: Duration = Duration::from_millis(500);

/// Signs heads until it is dropped.
pub async fn run(publisher: Arc<Publisher>, mut progress: watch::Receiver<Option<Progress>>, env: Env) {
    let mut covered = 0;
    let mut due = env.clock.now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            changed = progress.wait_for(|found| found.as_ref().is_some_and(|found| found.changed > covered)) => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let found = progress.borrow_and_update().clone();
        due = env.clock.now() + HEAD_EVERY;
        let Some(found) = found else {
            // Nothing was verified yet.
            due = env.clock.now() + HEAD_GAP;
            continue;
        };
        match sign(&publisher, &found, env.clock.unix_ms()).await {
            Ok(()) => covered = found.changed.max(covered),
            Err(error) => tracing::warn!(%error, "no head was signed"),
        }
        tokio::time::sleep(HEAD_GAP).await;
    }
}

async fn sign(publisher: &Publisher, found: &Progress, time_ms: u64) -> Result<(), PublishError> {
    let checkpoint = &found.checkpoint;
    let head = Head {
        index: checkpoint.index,
        chain_head: checkpoint.chain_head.0,
        state_hash: checkpoint.state_hash.0,
        time_ms,
    };
    let planned = publisher.transact::<(), PublishError>(|directory| {
        let mut plan = Plan::new();
        if directory.head().is_none_or(|old| old.index <= head.index && old.time_ms < head.time_ms) {
            plan.put(head.clone());
        }
        Ok((plan, ()))
    });
    planned.await.map(drop)
}
