//! Following the store: every record once, then each change, over a chain that voters signed for.
//!
//! The road: a scan at one index fills the directory; `Tail` goes on from a chain head that the first checkpoint must
//! confirm. Entries carry commands, not outcomes: a write of ours came to be when its conditions, which are over our
//! own records only, held. Law: no entry is taken before the chain over it ends in a head that a voter of this cluster
//! signed; what does not verify is counted, logged, and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use cinnabar_authority_api::{Kind, RecordKey};
use cinnabar_daemon::{Backoff, Env, Tls};
use cinnabar_kv_api::limits::{CHECKPOINT_AHEAD_MS_MAX, MESSAGE_BYTES_MAX};
use cinnabar_kv_api::proto::replication_client::ReplicationClient;
use cinnabar_kv_api::proto::{ScanRequest, TailRequest};
use cinnabar_kv_api::{ChainHead, Checkpoint, Client, ClientError, Command, Frame, Op, StoreId};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::directory::Directory;

/// Longest silence of a tail; a heartbeat comes each second.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Longest that one page of the scan waits for the node to catch up with itself, in milliseconds.
const SCAN_WAIT_MS: u32 = 5_000;
/// Bounds of the pause between two attempts.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why following stopped; it begins anew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The store's client.
    #[error(transparent)]
    Store(#[from] ClientError),
    /// The stream ended or was refused.
    #[error("tail: {}", .0.message())]
    Tail(Box<tonic::Status>),
    /// No frame for too long.
    #[error("no frame for {} s", SILENCE_MAX.as_secs())]
    Silent,
    /// What came does not follow its format.
    #[error(transparent)]
    Malformed(#[from] cinnabar_kv_api::Error),
    /// A checkpoint that is not to be believed, or a chain that does not reach it.
    #[error("{0}")]
    Disbelief(String),
}

/// How far the store is: what a voter swore last.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The newest verified checkpoint.
    pub checkpoint: Checkpoint,
    /// The last entry that changed a record other than the head.
    pub changed: u64,
}

/// See the module.
pub struct Follower {
    /// Reads go through it.
    pub client: Client,
    /// Who we are; verifies voters' signatures.
    pub tls: Arc<Tls>,
    /// Clocks and randomness.
    pub env: Env,
    /// What is kept.
    pub directory: Arc<RwLock<Directory>>,
    /// Told of each verified checkpoint.
    pub progress: watch::Sender<Option<Progress>>,
}

/// The last entry of the chain that was followed.
#[derive(Debug, Clone, Copy)]
struct Point {
    index: u64,
    head: ChainHead,
    store_id: StoreId,
}

impl Follower {
    /// Follows until it is dropped.
    pub async fn run(self) {
        let mut point: Option<Point> = None;
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX, self.env.rng.clone());
        loop {
            let error = match self.follow(&mut point, &mut backoff).await {
                Err(error) => error,
                Ok(()) => FollowError::Silent,
            };
            // A chain that was not confirmed, or is gone, is not gone on with: everything is read again.
            let purged = matches!(&error, FollowError::Tail(status) if status.code() != tonic::Code::Unavailable);
            if purged || matches!(error, FollowError::Disbelief(_)) {
                point = None;
            }
            tracing::warn!(%error, "following the store begins again");
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn follow(&self, point: &mut Option<Point>, backoff: &mut Backoff) -> Result<(), FollowError> {
        let mut last = match *point {
            Some(last) => last,
            None => self.scan().await?,
        };
        let channel = self.client.current_channel();
        let mut tail = ReplicationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = TailRequest {
            store_id: last.store_id.to_bytes(),
            after_index: last.index,
            chain_head: if last.index == 0 { Default::default() } else { last.head.to_bytes() },
        };
        let refused = |status| FollowError::Tail(Box::new(status));
        let mut frames = tail.tail(request).await.map_err(refused)?.into_inner();
        loop {
            let next = tokio::time::timeout(SILENCE_MAX, frames.message()).await;
            let Some(message) = next.map_err(|_| FollowError::Silent)?.map_err(refused)? else {
                return Err(FollowError::Silent);
            };
            let frame = Frame::decode(&message.frame)?;
            last = self.take(&frame, last)?;
            *point = Some(last);
            *backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX, self.env.rng.clone());
        }
    }

    /// Reads every record at one index; gives a point at or below it from which the tail goes on.
    async fn scan(&self) -> Result<Point, FollowError> {
        let status = self.client.status().await?;
        let malformed = |what| FollowError::Disbelief(format!("status: {what} of a wrong length"));
        let point = Point {
            index: status.applied_index,
            head: ChainHead(status.chain_head[..].try_into().map_err(|_| malformed("chain head"))?),
            store_id: StoreId(status.store_id[..].try_into().map_err(|_| malformed("store id"))?),
        };
        let mut prefixes: Vec<&str> = Kind::ALL.iter().map(|kind| kind.prefix()).collect();
        prefixes.dedup();
        for prefix in prefixes {
            let mut token = bytes::Bytes::new();
            loop {
                let request = ScanRequest {
                    prefix: prefix.as_bytes().to_vec().into(),
                    token: token.clone(),
                    at_least: point.index,
                    wait_ms: SCAN_WAIT_MS,
                    ..ScanRequest::default()
                };
                let page = self.client.scan(request).await?;
                let mut directory = self.directory.write();
                for record in &page.records {
                    if let Err(error) = directory.take(&record.key, &record.value, record.mod_index, false) {
                        tracing::error!(%error, "a record of the store is not ours");
                    }
                }
                drop(directory);
                token = page.next_token;
                if token.is_empty() {
                    break;
                }
            }
        }
        Ok(point)
    }

    fn take(&self, frame: &Frame, from: Point) -> Result<Point, FollowError> {
        let checkpoint = self.verified(frame)?;
        let broken = |problem: &str| FollowError::Disbelief(format!("frame after {}: {problem}", from.index));
        if checkpoint.store_id != from.store_id {
            return Err(broken("it is of another store"));
        }
        if frame.after_index != from.index || frame.last_index() != checkpoint.index {
            return Err(broken("it does not go on where the last one ended"));
        }
        let mut last = from;
        for entry in &frame.entries {
            let index = last.index + 1;
            last = Point { index, head: last.head.next(index, entry.term, &entry.payload), ..last };
        }
        if last.head != checkpoint.chain_head {
            return Err(broken("its chain does not reach the signed head"));
        }
        let mut changed = self.progress.borrow().as_ref().map_or(0, |progress| progress.changed);
        for (index, entry) in (from.index + 1..).zip(&frame.entries) {
            if let Some(command) = entry.command()
                && let Command::Write(write) = Command::decode(command)?
                && self.apply(&write, index)
            {
                changed = index;
            }
        }
        self.progress.send_replace(Some(Progress { checkpoint, changed }));
        Ok(last)
    }

    /// Takes a write's records if it came to be; says whether it changed one other than the head.
    fn apply(&self, write: &cinnabar_kv_api::Write, index: u64) -> bool {
        let ours = |key: &[u8]| RecordKey::parse(key).ok();
        let mut directory = self.directory.write();
        // A node may have been scanned at a later index than the tail began at: what stands there is newer.
        let held = write.conditions.iter().all(|condition| {
            ours(condition.key.as_bytes()).is_some_and(|key| directory.standing(&key).mod_index == condition.mod_index)
        });
        let mut changed = false;
        for op in &write.ops {
            let Some(key) = ours(op.key().as_bytes()) else { continue };
            if directory.standing(&key).mod_index >= index {
                // Our own write, taken when it was answered, or what the scan brought.
                changed |= key != RecordKey::Head;
                continue;
            }
            let taken = match op {
                Op::Put { value, .. } if held => directory.take(op.key().as_bytes(), value, index, true),
                Op::Put { .. } => continue,
                Op::Delete { .. } => {
                    tracing::error!(%key, index, "a record was deleted from the store: records are only ever ended");
                    continue;
                }
            };
            match taken {
                Ok(taken) => changed |= taken && key != RecordKey::Head,
                Err(error) => tracing::error!(%error, index, "a record of the store is not ours"),
            }
        }
        changed
    }

    fn verified(&self, frame: &Frame) -> Result<Checkpoint, FollowError> {
        let signed = &frame.checkpoint;
        let now = self.env.clock.unix_ms();
        let verified = signed.check_signature(&self.tls, now);
        verified.map_err(|error| FollowError::Disbelief(format!("checkpoint: {error}")))?;
        let checkpoint = signed.decode_body()?;
        if checkpoint.cluster != self.tls.identity().cluster || checkpoint.unix_ms > now + CHECKPOINT_AHEAD_MS_MAX {
            return Err(FollowError::Disbelief("checkpoint of another cluster, or from the future".to_owned()));
        }
        let seen = self.progress.borrow();
        let newest = seen.as_ref().map(|progress| &progress.checkpoint);
        if newest.is_some_and(|newest| newest.store_id == checkpoint.store_id && checkpoint.index < newest.index) {
            return Err(FollowError::Disbelief("checkpoint older than the newest that was seen".to_owned()));
        }
        Ok(checkpoint)
    }
}
