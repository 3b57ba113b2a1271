//! The Redis protocol, RESP2 and RESP3, for reading: whatever has a Redis client can read this node's copy.
//!
//! The road of a `GET`: `connection.rs` reads bytes, `parser.rs` finds the command in them, `session.rs` answers it
//! from a [`Source`] through `reply.rs`, and `connection.rs` sends the answer. Nothing here takes a lock on that road
//! or, once the buffers are warm, memory. `greeting.rs` and `info.rs` answer what client libraries ask before;
//! `cursors.rs` and `glob.rs` serve `SCAN`; `limits.rs` names every bound.
//!
//! Law: nothing is written through it; what a client sends costs bounded memory and work. Who may connect is the file
//! system's to say: the socket's permissions are the only gate, and every password of the user `default` is right.
//! Reads are counted one by one; one of 16 is timed, since looking at a clock twice costs about as much as a read.
//!
//! What differs from Redis: `MGET` reads each key at its own index; `SCAN` gives keys in their order, each once; a key
//! of no bytes, or more than 512, is an error; `CINNABAR.GET key [ATLEAST index]` also tells the index of the record's
//! last write and the one at which it was read, and waits up to a second for an index.

mod commands;
mod connection;
mod cursors;
mod failure;
mod glob;
mod greeting;
mod info;
pub mod limits;
mod parser;
mod reply;
mod session;

#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::{Clock, Shutdown};
use cinnabar_kv_api::limits::SCAN_BYTES_MAX;
use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::connection::Connection;
use self::cursors::Cursors;
pub use self::info::Info;
use self::limits::CONNECTIONS_MAX;
pub use self::parser::{Args, Parser, ProtocolError};
use self::session::Session;
use crate::local::{Local, ReadError};
use crate::metrics::Metrics;
use crate::state::Read;
use crate::state::scan::ScanError;

/// The version of Redis whose commands these are, for clients that look at it.
pub const REDIS_VERSION: &str = "7.2.0";
/// Times that a page is read again when too many writes ended its scan.
const PAGE_TRIES: usize = 3;
/// Wait after the system could not give a connection, for one of them to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a source does not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A record, or the state as a whole.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A page.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The process is ending.
    #[error("this process is ending")]
    Ended,
}

/// Some keys, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    /// They begin with the prefix that was asked for.
    pub keys: Vec<Bytes>,
    /// The key to go on after; none when nothing follows.
    pub next: Option<Bytes>,
}

/// What the endpoint answers from. Cheap to clone.
pub trait Source: Clone + Send + Sync + 'static {
    /// Reads a key. Seldom waits for the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    fn get(&self, key: &[u8]) -> Result<Read, ReadError>;

    /// Waits until an index is applied.
    ///
    /// # Errors
    /// [`ReadError::Behind`] when that takes longer than `wait`.
    fn wait(&self, index: u64, wait: Duration) -> impl Future<Output = Result<(), ReadError>> + Send;

    /// Counts the live records.
    ///
    /// # Errors
    /// [`ReadError`] without a state.
    fn count(&self) -> Result<u64, ReadError>;

    /// Gives keys after `after` that begin with `prefix`: at most `keys_max`, fewer when they or their values are long,
    /// but one at least unless nothing follows. May wait for the disk.
    ///
    /// # Errors
    /// [`SourceError`].
    fn page(&self, prefix: &[u8], after: &Bytes, keys_max: usize) -> Result<Keys, SourceError>;

    /// Tells of itself, with or without a state.
    fn info(&self) -> Info;

    /// The clock by which reads are timed and cursors forgotten.
    fn clock(&self) -> &dyn Clock;
}

/// A node's own copy.
#[derive(Clone)]
pub struct LocalSource {
    /// The copy.
    pub local: Arc<Local>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Age of what the copy shows, in milliseconds; the largest number while it is not known.
    pub behind_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Source for LocalSource {
    fn get(&self, key: &[u8]) -> Result<Read, ReadError> {
        self.local.get(key)
    }

    async fn wait(&self, index: u64, wait: Duration) -> Result<(), ReadError> {
        self.local.wait_for(index, wait).await
    }

    fn count(&self) -> Result<u64, ReadError> {
        self.local.check_serving()?;
        Ok(self.local.point().records)
    }

    /// Each page is a scan of its own, so nothing stays open for a client that goes away. A key that is there during
    /// all pages is in one of them, because they follow the order of keys and none is skipped.
    fn page(&self, prefix: &[u8], after: &Bytes, keys_max: usize) -> Result<Keys, SourceError> {
        self.local.check_serving()?;
        // A place before the prefix is its begin.
        let after = if after[..] < *prefix { Bytes::new() } else { after.clone() };
        let state = self.local.state();
        let mut tries = PAGE_TRIES;
        let page = loop {
            let now_ms = self.clock.unix_ms();
            let scan = state.open_scan(now_ms)?;
            let page = state.scan_page(scan, now_ms, prefix, &after, keys_max, SCAN_BYTES_MAX);
            state.close_scan(scan);
            tries -= 1;
            match page {
                Err(ScanError::Lost) if tries > 0 => {}
                page => break page?,
            }
        };
        let keys: Vec<Bytes> = page.records.into_iter().map(|(key, _)| key).collect();
        let next = if page.done { None } else { keys.last().cloned() };
        Ok(Keys { keys, next })
    }

    fn info(&self) -> Info {
        let point = self.local.point();
        Info {
            applied_index: point.applied.index,
            committed_index: self.local.committed(),
            behind_ms: Some((self.behind_ms)()).filter(|behind| *behind < u64::MAX),
            records: point.records,
            record_bytes: point.record_bytes,
            stale: self.local.is_stale(),
            serving: self.local.check_serving().is_ok(),
        }
    }

    fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

/// What all connections share.
struct Endpoint<S> {
    source: S,
    metrics: Metrics,
    cursors: Mutex<Cursors>,
    begun: Instant,
    connections: AtomicUsize,
}

impl<S: Source> Endpoint<S> {
    fn new(source: S, metrics: Metrics) -> Self {
        let (begun, unix_ms) = (source.clock().now(), source.clock().unix_ms());
        let cursors = Mutex::new(Cursors::new(unix_ms));
        Self { source, metrics, cursors, begun, connections: AtomicUsize::new(0) }
    }
}

/// Serves clients until the shutdown, at most [`CONNECTIONS_MAX`] at once; idle ones may stay.
///
/// At the shutdown every connection ends where it waits for its client: an answer is sent or not, and the client's
/// library asks again elsewhere.
pub async fn serve<S: Source>(listener: UnixListener, source: S, metrics: Metrics, shutdown: Shutdown) {
    let endpoint = Arc::new(Endpoint::new(source, metrics));
    let mut connections = JoinSet::new();
    let mut id = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.wait() => break,
            Some(_) = connections.join_next() => {
                endpoint.connections.store(connections.len(), Ordering::Relaxed);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a Redis client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if connections.len() >= CONNECTIONS_MAX {
            refuse(stream);
            continue;
        }
        id += 1;
        let connection = Connection::new(stream, Session::new(endpoint.clone(), id));
        connections.spawn(async move {
            if let Err(error) = connection.run().await {
                tracing::debug!(%error, client = id, "a Redis client's connection ended");
            }
        });
        endpoint.connections.store(connections.len(), Ordering::Relaxed);
    }
    drop(listener);
    connections.shutdown().await;
}

/// Tells a client that there are too many, as far as that goes without waiting for it.
fn refuse(stream: UnixStream) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write_all(b"-ERR max number of clients reached\r\n");
    }
}
