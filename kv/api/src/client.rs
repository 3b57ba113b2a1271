//! A client of the store over gRPC: writes that are never applied twice, reads, scans, watches.
//!
//! A write keeps its sequence over every retry, so that an answer that got lost is found again. Any voter takes a write
//! and passes it to the leader; an endpoint that does not answer is left for the next one, within the deadline.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::mtls::uds_channel;
use cinnabar_daemon::{Backoff, Env, Role, Tls};
use parking_lot::Mutex;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::limits::MESSAGE_BYTES_MAX;
use crate::proto::kv_client::KvClient;
use crate::proto::{self, GetRequest, ScanRequest, WatchRequest};
use crate::{ClientId, Condition, Error, Op, Write};

/// Roles that a server of this client may have.
const SERVER_ROLES: &[Role] = &[Role::Voter, Role::Replica, Role::Edge];
/// Longest that one attempt of a call takes.
const ATTEMPT_MAX: Duration = Duration::from_secs(12);
/// Bounds of the pause between two attempts.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where a client connects to.
#[derive(Clone)]
pub enum Target {
    /// `host:port` of one or more nodes, over mutual TLS.
    Tcp {
        /// The nodes, the preferred one first.
        addresses: Vec<String>,
        /// Who we are.
        tls: Arc<Tls>,
    },
    /// A node on this machine. Reads only.
    Unix(PathBuf),
}

/// How a client behaves.
#[derive(Clone)]
pub struct ClientConfig {
    /// Where to.
    pub target: Target,
    /// Clocks, randomness, dialling.
    pub env: Env,
    /// Longest that a call takes, retries included.
    pub deadline: Duration,
}

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A value is outside the contract; nothing was sent.
    #[error(transparent)]
    Value(#[from] Error),
    /// The server's last word.
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    /// No node answered within the deadline; a write may still come to be.
    #[error("no answer within {waited_ms} ms; the last problem: {}", last.message())]
    Unreachable {
        /// How long was tried.
        waited_ms: u64,
        /// What the last attempt met.
        last: Box<Status>,
    },
    /// No random bytes for a client id.
    #[error("no randomness: {0}")]
    Randomness(String),
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It was applied by this log entry.
    Written {
        /// Log index; the records' new `mod_index`.
        index: u64,
    },
    /// A condition did not hold; nothing was written.
    Unmet {
        /// Log index.
        index: u64,
        /// Position of the condition.
        condition: u32,
        /// `mod_index` that its key had, 0 when absent.
        actual: u64,
    },
}

/// A client. Clones share its connections and its sequence.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    channels: Vec<Channel>,
    current: AtomicUsize,
    id: ClientId,
    sequence: AtomicU64,
    unanswered: Mutex<BTreeSet<u64>>,
    env: Env,
    deadline: Duration,
}

/// May the same call, sent again or elsewhere, be answered?
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled)
        || status.code() == Code::ResourceExhausted
        || status.code() == Code::Internal && std::error::Error::source(status).is_some()
}

impl Client {
    /// Makes a client; it connects when it is first used.
    ///
    /// # Errors
    /// [`ClientError::Randomness`].
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        let mut id = [0; 16];
        config.env.rng.fill(&mut id).map_err(|error| ClientError::Randomness(error.to_string()))?;
        let channels = match &config.target {
            Target::Tcp { addresses, tls } => {
                let channel = |address: &String| tls.channel(address, SERVER_ROLES, None, config.env.net.clone());
                addresses.iter().map(channel).collect()
            }
            Target::Unix(path) => vec![uds_channel(path)],
        };
        Ok(Self {
            inner: Arc::new(Inner {
                channels,
                current: AtomicUsize::new(0),
                id: ClientId(id),
                sequence: AtomicU64::new(0),
                unanswered: Mutex::default(),
                env: config.env,
                deadline: config.deadline,
            }),
        })
    }

    fn channel(&self) -> (usize, Channel) {
        let n = self.inner.current.load(Ordering::Relaxed);
        (n, self.inner.channels[n % self.inner.channels.len()].clone())
    }

    fn kv(channel: Channel) -> KvClient<Channel> {
        KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Calls until an answer that stands, or the deadline.
    async fn call<T, F>(&self, call: impl Fn(KvClient<Channel>) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let clock = &self.inner.env.clock;
        let started = clock.now();
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX, self.inner.env.rng.clone());
        loop {
            let (n, channel) = self.channel();
            let left = self.inner.deadline.saturating_sub(clock.now().duration_since(started));
            let attempt = tokio::time::timeout(left.min(ATTEMPT_MAX), call(Self::kv(channel)));
            let status = match attempt.await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if !is_passing(&status) => return Err(ClientError::Refused(Box::new(status))),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("the node did not answer"),
            };
            // Another node next time; others of our calls may have moved on already.
            let next = n.wrapping_add(1);
            let _ = self.inner.current.compare_exchange(n, next, Ordering::Relaxed, Ordering::Relaxed);
            let waited = clock.now().duration_since(started);
            let pause = backoff.next_delay();
            if waited + pause >= self.inner.deadline {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                return Err(ClientError::Unreachable { waited_ms, last: Box::new(status) });
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Applies all operations if all conditions hold, as one entry; never twice, however often it is retried.
    ///
    /// # Errors
    /// [`ClientError`]. After [`ClientError::Unreachable`] the write may still come to be.
    pub async fn write(&self, conditions: Vec<Condition>, ops: Vec<Op>) -> Result<WriteOutcome, ClientError> {
        let (sequence, answered_below) = {
            let mut unanswered = self.inner.unanswered.lock();
            let sequence = self.inner.sequence.fetch_add(1, Ordering::Relaxed) + 1;
            unanswered.insert(sequence);
            (sequence, unanswered.first().copied().unwrap_or(sequence))
        };
        let write = Write { client: self.inner.id, sequence, answered_below, conditions, ops };
        let answered = Answered { client: self, sequence };
        write.check()?;
        let request = proto::WriteRequest::from(write);
        let result = self.call(|mut kv| {
            let request = request.clone();
            async move { kv.write(request).await }
        });
        let answer = result.await?;
        drop(answered);
        Ok(if answer.succeeded {
            WriteOutcome::Written { index: answer.index }
        } else {
            let (condition, actual) = (answer.failed_condition, answer.actual_mod_index);
            WriteOutcome::Unmet { index: answer.index, condition, actual }
        })
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, request: GetRequest) -> Result<proto::GetResponse, ClientError> {
        self.call(|mut kv| {
            let request = request.clone();
            async move { kv.get(request).await }
        })
        .await
    }

    /// Reads one page of a scan. All pages must come from the node that gave the first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn scan(&self, request: ScanRequest) -> Result<proto::ScanResponse, ClientError> {
        self.call(|mut kv| {
            let request = request.clone();
            async move { kv.scan(request).await }
        })
        .await
    }

    /// Opens a watch.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch(&self, request: WatchRequest) -> Result<Streaming<proto::WatchResponse>, ClientError> {
        self.call(|mut kv| {
            let request = request.clone();
            async move { kv.watch(request).await }
        })
        .await
    }

    /// Describes the node that answers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<proto::StatusResponse, ClientError> {
        self.call(|mut kv| async move { kv.status(proto::StatusRequest {}).await }).await
    }

    /// The connection that is used now, for the services beside [`KvClient`].
    pub fn current_channel(&self) -> Channel {
        self.channel().1
    }

    /// A get of one key from the node's own copy.
    pub fn get_request(key: impl Into<Bytes>) -> GetRequest {
        GetRequest { key: key.into(), ..GetRequest::default() }
    }
}

/// Ends the wait for a sequence, also when the caller goes away: nobody will ask for its answer then.
struct Answered<'a> {
    client: &'a Client,
    sequence: u64,
}

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        self.client.inner.unanswered.lock().remove(&self.sequence);
    }
}
