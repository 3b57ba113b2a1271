//! What a replica believes: a frame whose checkpoint a voter of its cluster signed, for its store, not older than the
//! newest that it has seen, over a chain that goes on from its own head.

use std::sync::Arc;

use cinnabar_daemon::{Clock, Tls};
use cinnabar_kv_api::limits::CHECKPOINT_AHEAD_MS_MAX;
use cinnabar_kv_api::{Checkpoint, Frame, SignedCheckpoint, StoreId};
use parking_lot::Mutex;

use crate::log::{LogEntry, LogPoint};

/// Why a frame or snapshot is not believed. Nothing of it is applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Disbelief {
    /// It does not follow its format.
    #[error(transparent)]
    Malformed(#[from] cinnabar_kv_api::Error),
    /// Its checkpoint is not signed by a voter of this cluster.
    #[error("the checkpoint's signature: {0}")]
    Signature(String),
    /// It is of another cluster or store.
    #[error("it is of {what}, this node follows {ours}")]
    Foreign {
        /// Theirs.
        what: String,
        /// Ours.
        ours: String,
    },
    /// The entries do not lead from this node's chain head to the checkpoint's.
    #[error("the chain after entry {after} does not reach the signed head at entry {index}")]
    Chain {
        /// This node's last entry.
        after: u64,
        /// The checkpoint's.
        index: u64,
    },
    /// It is older than the newest checkpoint seen.
    #[error("entry {index} of {unix_ms} ms is older than entry {seen}, which was seen before")]
    Old {
        /// The checkpoint's.
        index: u64,
        /// Its time.
        unix_ms: u64,
        /// The newest seen.
        seen: u64,
    },
    /// Two voters swear differently about one entry.
    #[error("two signed checkpoints differ at entry {0}")]
    Fork(u64),
    /// Its time is ahead of this node's clock.
    #[error("the checkpoint is {0} ms ahead of this node's clock")]
    Ahead(u64),
}

impl Disbelief {
    /// The value of the metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Signature(_) | Self::Ahead(_) => "signature",
            Self::Foreign { .. } => "foreign",
            Self::Chain { .. } | Self::Fork(_) => "chain",
            Self::Old { .. } => "old",
        }
    }
}

/// Checks signatures and remembers the newest checkpoint.
pub struct Verifier {
    tls: Arc<Tls>,
    clock: Arc<dyn Clock>,
    newest: Mutex<Option<Checkpoint>>,
    follow: Mutex<Option<StoreId>>,
}

impl Verifier {
    /// A verifier that has seen `newest` before and follows `follow`, or else the first store that it meets.
    pub fn new(tls: Arc<Tls>, clock: Arc<dyn Clock>, newest: Option<Checkpoint>, follow: Option<StoreId>) -> Self {
        Self { tls, clock, newest: Mutex::new(newest), follow: Mutex::new(follow) }
    }

    /// The store that is followed.
    pub fn store_id(&self) -> Option<StoreId> {
        *self.follow.lock()
    }

    /// The newest checkpoint that was verified.
    pub fn newest(&self) -> Option<Checkpoint> {
        self.newest.lock().clone()
    }

    /// Checks signature, cluster, store and age of a checkpoint.
    ///
    /// # Errors
    /// [`Disbelief`].
    pub fn checkpoint(&self, signed: &SignedCheckpoint) -> Result<Checkpoint, Disbelief> {
        self.checkpoint_at(signed, signed.decode_body()?, self.clock.unix_ms())
    }

    /// As [`Verifier::checkpoint`], but its certificate must have held when it was signed, not now: for a backup, which
    /// outlives the certificates of its time. Whoever steals a key that has expired could make one, so a replica never
    /// asks this; an operator who restores a file chose it.
    ///
    /// # Errors
    /// [`Disbelief`].
    pub fn old_checkpoint(&self, signed: &SignedCheckpoint) -> Result<Checkpoint, Disbelief> {
        let checkpoint = signed.decode_body()?;
        let at = checkpoint.unix_ms.min(self.clock.unix_ms());
        self.checkpoint_at(signed, checkpoint, at)
    }

    fn checkpoint_at(
        &self,
        signed: &SignedCheckpoint,
        checkpoint: Checkpoint,
        now: u64,
    ) -> Result<Checkpoint, Disbelief> {
        signed.check_signature(&self.tls, now).map_err(|error| Disbelief::Signature(error.to_string()))?;
        let ours = &self.tls.identity().cluster;
        if checkpoint.cluster != *ours {
            return Err(Disbelief::Foreign { what: checkpoint.cluster.to_string(), ours: ours.to_string() });
        }
        let follow = self.follow.lock().filter(|follow| *follow != checkpoint.store_id);
        if let Some(follow) = follow {
            return Err(Disbelief::Foreign { what: checkpoint.store_id.to_string(), ours: follow.to_string() });
        }
        if checkpoint.unix_ms > now + CHECKPOINT_AHEAD_MS_MAX {
            return Err(Disbelief::Ahead(checkpoint.unix_ms - now));
        }
        Ok(checkpoint)
    }

    /// Refuses a checkpoint below the newest one, or one that swears differently about the same entry.
    ///
    /// # Errors
    /// [`Disbelief::Old`], [`Disbelief::Fork`].
    pub fn not_older(&self, checkpoint: &Checkpoint) -> Result<(), Disbelief> {
        let newest = self.newest.lock();
        let Some(seen) = newest.as_ref().filter(|seen| seen.store_id == checkpoint.store_id) else { return Ok(()) };
        if checkpoint.index < seen.index {
            return Err(Disbelief::Old { index: checkpoint.index, unix_ms: checkpoint.unix_ms, seen: seen.index });
        }
        if checkpoint.index == seen.index
            && (checkpoint.chain_head, checkpoint.state_hash) != (seen.chain_head, seen.state_hash)
        {
            return Err(Disbelief::Fork(checkpoint.index));
        }
        Ok(())
    }

    /// Checks a frame against this node's last point; gives its checkpoint and its entries with their points.
    ///
    /// # Errors
    /// [`Disbelief`]; nothing of it may be applied then.
    pub fn frame(&self, frame: &Frame, from: &LogPoint) -> Result<(Checkpoint, Vec<LogEntry>), Disbelief> {
        let checkpoint = self.checkpoint(&frame.checkpoint)?;
        let chain = || Disbelief::Chain { after: from.index, index: checkpoint.index };
        if frame.after_index != from.index || frame.last_index() != checkpoint.index {
            return Err(chain());
        }
        let mut last = *from;
        let mut entries = Vec::with_capacity(frame.entries.len());
        for entry in &frame.entries {
            let index = last.index + 1;
            let head = last.head.next(index, entry.term, &entry.payload);
            last = LogPoint { index, term: entry.term, head };
            entries.push(LogEntry { point: last, payload: entry.payload.clone() });
        }
        if last.head != checkpoint.chain_head || last.term != checkpoint.term {
            return Err(chain());
        }
        // A node that catches up is given places below the newest that it has seen: they are old, not wrong, when the
        // chain over them goes on from its own head. A heartbeat must not be older.
        match self.not_older(&checkpoint) {
            Err(Disbelief::Old { .. }) if !frame.entries.is_empty() => {}
            result => result?,
        }
        Ok((checkpoint, entries))
    }

    /// Takes note of an applied checkpoint; says whether it is the newest.
    pub fn accept(&self, checkpoint: &Checkpoint) -> bool {
        let mut follow = self.follow.lock();
        if follow.is_none() {
            *follow = Some(checkpoint.store_id);
        }
        let mut newest = self.newest.lock();
        let newer = newest.as_ref().is_none_or(|seen| {
            seen.store_id != checkpoint.store_id || (checkpoint.index, checkpoint.unix_ms) > (seen.index, seen.unix_ms)
        });
        if newer {
            *newest = Some(checkpoint.clone());
        }
        newer
    }
}
