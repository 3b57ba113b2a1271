//! The endpoint over a map in memory, over real sockets, under a node's real copy, and with real clients.

mod clients;
mod commands;
mod local;
mod parser;
mod socket;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::env::{Clock, SystemClock};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::connection::Connection;
use super::session::Session;
use super::{Endpoint, Info, Keys, Source, SourceError};
use crate::local::ReadError;
use crate::metrics::Metrics;
use crate::state::{Read, Record};
use crate::store::StoreError;

/// A source whose every part a test can set.
#[derive(Clone, Default)]
pub(super) struct MapSource {
    records: Arc<Mutex<BTreeMap<Bytes, Record>>>,
    applied: Arc<AtomicU64>,
    empty: Arc<AtomicBool>,
    damaged: Arc<AtomicBool>,
}

impl MapSource {
    /// `records` written by entries 1, 2, and so on.
    pub(super) fn new<'a>(records: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let source = Self::default();
        records.into_iter().for_each(|(key, value)| source.put(key, value.as_bytes()));
        source
    }

    pub(super) fn put(&self, key: &str, value: &[u8]) {
        let mod_index = self.applied.fetch_add(1, Ordering::SeqCst) + 1;
        let record = Record { mod_index, value: Bytes::copy_from_slice(value) };
        self.records.lock().insert(Bytes::copy_from_slice(key.as_bytes()), record);
    }

    fn check(&self) -> Result<(), ReadError> {
        if self.empty.load(Ordering::SeqCst) {
            return Err(ReadError::NoState);
        }
        if self.damaged.load(Ordering::SeqCst) {
            let problem = "a digest is wrong".to_owned();
            return Err(ReadError::Store(StoreError::Damaged { what: "record", problem }));
        }
        Ok(())
    }
}

impl Source for MapSource {
    fn get(&self, key: &[u8]) -> Result<Read, ReadError> {
        if key.is_empty() || key.len() > cinnabar_kv_api::limits::KEY_BYTES_MAX {
            return Err(ReadError::Key(key.len()));
        }
        self.check()?;
        let record = self.records.lock().get(key).cloned();
        Ok(Read { record, applied_index: self.applied.load(Ordering::SeqCst) })
    }

    async fn wait(&self, needed: u64, wait: Duration) -> Result<(), ReadError> {
        let end = self.clock().now() + wait;
        loop {
            let applied = self.applied.load(Ordering::SeqCst);
            if applied >= needed {
                return Ok(());
            }
            if self.clock().now() >= end {
                return Err(ReadError::Behind { applied, needed });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn count(&self) -> Result<u64, ReadError> {
        self.check()?;
        Ok(self.records.lock().len() as u64)
    }

    fn page(&self, prefix: &[u8], after: &Bytes, keys_max: usize) -> Result<Keys, SourceError> {
        self.check()?;
        let records = self.records.lock();
        let from = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(after.clone()) };
        let mut found =
            records.range((from, Bound::Unbounded)).map(|(key, _)| key).filter(|key| key.starts_with(prefix));
        let keys: Vec<Bytes> = found.by_ref().take(keys_max).cloned().collect();
        let next = found.next().and(keys.last().cloned());
        Ok(Keys { keys, next })
    }

    fn info(&self) -> Info {
        let records = self.records.lock().len() as u64;
        let applied_index = self.applied.load(Ordering::SeqCst);
        let serving = self.check().is_ok();
        Info {
            applied_index,
            committed_index: applied_index + 3,
            behind_ms: Some(42),
            records,
            serving,
            ..Info::default()
        }
    }

    fn clock(&self) -> &dyn Clock {
        &SystemClock
    }
}

/// Everything that a connection answers to these bytes, until it ends.
pub(super) async fn talk<S: Source>(source: &S, bytes: &[u8]) -> Vec<u8> {
    let endpoint = Arc::new(Endpoint::new(source.clone(), Metrics::new()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let connection = tokio::spawn(Connection::new(theirs, Session::new(endpoint, 7)).run());
    let (mut read, mut write) = ours.into_split();
    let bytes = bytes.to_vec();
    let writing = tokio::spawn(async move {
        // Fails when the connection ended after a protocol error.
        let _ = write.write_all(&bytes).await;
        let _ = write.shutdown().await;
    });
    let mut answers = Vec::new();
    let _ = read.read_to_end(&mut answers).await;
    writing.await.unwrap();
    let _ = connection.await.unwrap();
    answers
}

/// A command as clients send it.
pub(super) fn encode(args: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The answer to inline commands, as text.
pub(super) async fn say(source: &MapSource, lines: &str) -> String {
    String::from_utf8(talk(source, format!("{lines}\r\n").as_bytes()).await).unwrap()
}
