//! The only file of the harness that knows the store's client library: questions in, [`Outcome`]s out.
//!
//! Law: whatever leaves open whether a write took effect is [`Outcome::Unknown`]. That is every error after the first
//! byte was sent: a refusal may be the answer to a second attempt whose first one got through.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cinnabar_daemon::{ClusterId, Env, Tls, TlsFiles};
use cinnabar_kv_api::limits::MESSAGE_BYTES_MAX;
use cinnabar_kv_api::proto::op::Kind;
use cinnabar_kv_api::proto::replication_client::ReplicationClient;
use cinnabar_kv_api::proto::watch_response::Message;
use cinnabar_kv_api::proto::{GetRequest, TailRequest, WatchRequest};
use cinnabar_kv_api::{ChainHead, Client, ClientConfig, ClientError, Condition, Frame, Key, Op, Target, WriteOutcome};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Code;

use super::cluster::{CLUSTER, Credentials};
use super::history::{Action, Outcome, Record, Recorder, Value};
use super::load::LocalCopy;
use super::streams::{Event, Tail, TailItem, Watch, WatchItem};

/// Pause before a stream is opened again.
const REOPEN: Duration = Duration::from_millis(100);

/// What to ask. Values are the bytes themselves; a workload writes each value once per key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A read that sees every write answered before it.
    Get,
    /// A read of the copy of the node that is asked; `copy` is its number in the history.
    GetLocal { copy: u32 },
    /// Sets or removes, under a condition when there is one, as [`Action::Write`] says.
    Write { expected: Option<u64>, value: Option<Vec<u8>> },
}

impl Ask {
    fn action(&self) -> Action {
        match self {
            Self::Get => Action::Get,
            Self::GetLocal { copy } => Action::GetLocal { copy: *copy },
            Self::Write { expected, value } => {
                Action::Write { expected: *expected, value: value.as_deref().map(Value::of) }
            }
        }
    }
}

/// A client of the store. Clones share their connections.
#[derive(Clone)]
pub struct Store(Client);

impl Store {
    /// Over mutual TLS; a call goes to the next node when one does not answer, until `bound`. One address pins it.
    pub fn over_tls(nodes: &[SocketAddr], credentials: &Credentials, bound: Duration) -> Self {
        let Credentials { ca, cert, key } = credentials.clone();
        let (env, cluster) = (Env::system(), CLUSTER.parse::<ClusterId>().expect("it is a name"));
        let tls = Tls::load(&TlsFiles { ca, cert, key }, &cluster, env.clock.clone());
        let tls = tls.unwrap_or_else(|error| panic!("{error}"));
        let addresses = nodes.iter().map(SocketAddr::to_string).collect();
        Self::new(Target::Tcp { addresses, tls }, env, bound)
    }

    /// Over a node's Unix socket: reads only.
    pub fn over_socket(path: &Path, bound: Duration) -> Self {
        Self::new(Target::Unix(path.to_owned()), Env::system(), bound)
    }

    fn new(target: Target, env: Env, deadline: Duration) -> Self {
        Self(Client::new(ClientConfig { target, env, deadline }).unwrap_or_else(|error| panic!("{error}")))
    }

    /// Asks, and takes down question and answer.
    pub async fn recorded(&self, tape: &Recorder, client: u32, key: &str, ask: &Ask) -> Outcome {
        let pending = tape.invoke(client, key, ask.action());
        let outcome = self.ask(key, ask).await;
        pending.end(outcome);
        outcome
    }

    /// Reads a node's own copy, and takes down question and answer. An answer that may be the next life's, for the
    /// process was started again meanwhile, counts for neither.
    pub async fn recorded_local(&self, tape: &Recorder, client: u32, key: &str, copy: &LocalCopy) -> Outcome {
        let ask = Ask::GetLocal { copy: copy.now() };
        let pending = tape.invoke(client, key, ask.action());
        let outcome = self.ask(key, &ask).await;
        if ask != (Ask::GetLocal { copy: copy.now() }) {
            return Outcome::Unknown;
        }
        pending.end(outcome);
        outcome
    }

    /// Asks.
    pub async fn ask(&self, key: &str, ask: &Ask) -> Outcome {
        let answer = match ask {
            Ask::Get => self.get(key, true).await,
            Ask::GetLocal { .. } => self.get(key, false).await,
            Ask::Write { expected, value } => self.write(key, *expected, value.as_deref()).await,
        };
        answer.unwrap_or_else(|error| match error {
            ClientError::Value(_) => Outcome::Failed,
            _ => Outcome::Unknown,
        })
    }

    async fn get(&self, key: &str, linearizable: bool) -> Result<Outcome, ClientError> {
        let request = GetRequest { linearizable, ..Client::get_request(key.to_owned()) };
        let answer = self.0.get(request).await?;
        let record = answer.found.then(|| Record { value: Value::of(&answer.value), mod_index: answer.mod_index });
        Ok(Outcome::Read { record, applied: answer.stamp.map_or(0, |stamp| stamp.applied_index) })
    }

    async fn write(&self, key: &str, expected: Option<u64>, value: Option<&[u8]>) -> Result<Outcome, ClientError> {
        let key = Key::new(key.to_owned())?;
        let conditions = expected.map(|mod_index| Condition { key: key.clone(), mod_index }).into_iter().collect();
        let op = match value {
            Some(value) => Op::Put { key, value: value.to_vec().into() },
            None => Op::Delete { key },
        };
        Ok(match self.0.write(conditions, vec![op]).await? {
            WriteOutcome::Written { index } => Outcome::Written { index },
            WriteOutcome::Unmet { index, actual, .. } => Outcome::Refused { actual, index },
        })
    }

    /// Watches until everything up to the index in `until` came, which may be set while this runs; a stream that ends is
    /// opened again where it was, and one that cannot go on starts after the index that it names.
    ///
    /// # Panics
    /// When that takes longer than `bound`.
    pub async fn watch(&self, watch: &mut Watch, after: u64, until: &Receiver<u64>, bound: Duration) {
        let end = Instant::now() + bound;
        let mut position = after;
        while position < *until.borrow() {
            let reached = timeout_at(end, self.watch_once(watch, position, until)).await;
            position = reached.unwrap_or_else(|_| panic!("{}: at {position} after {bound:?}", watch.name));
            sleep(REOPEN).await;
        }
    }

    /// One connection of a watch; returns the index that the next one starts after.
    async fn watch_once(&self, watch: &mut Watch, after: u64, until: &Receiver<u64>) -> u64 {
        let prefix = watch.prefix.clone().into_bytes().into();
        let request = WatchRequest { prefix, after_index: after, from_now: false };
        let Ok(mut stream) = self.0.watch(request).await else { return after };
        watch.items.push(WatchItem::Opened { after });
        let mut position = after;
        while position < *until.borrow() {
            let Ok(Some(message)) = stream.message().await else { break };
            match message.message.expect("a message says something") {
                Message::Changes(changes) => {
                    position = position.max(changes.index);
                    let events = changes.events.into_iter().map(|event| Event {
                        key: String::from_utf8_lossy(&event.key).into_owned(),
                        value: (event.kind() == Kind::Put).then(|| Value::of(&event.value)),
                    });
                    watch.items.push(WatchItem::Changes { index: changes.index, events: events.collect() });
                }
                Message::Progress(progress) => {
                    position = position.max(progress.applied_index);
                    watch.items.push(WatchItem::Progress { applied: progress.applied_index });
                }
                Message::Resync(resync) => {
                    watch.items.push(WatchItem::Resync { oldest: resync.oldest_index });
                    return resync.oldest_index.max(position);
                }
            }
        }
        position
    }

    /// Follows the log from its beginning, as a replica does, until everything up to the index in `until` came; a stream
    /// that ends is taken up again behind the last entry, with the chain head that its entries give.
    ///
    /// # Panics
    /// When that takes longer than `bound`, when the log forked, or when a checkpoint does not cover what came before it.
    pub async fn tail(&self, tail: &mut Tail, until: &Receiver<u64>, bound: Duration) {
        let end = Instant::now() + bound;
        let mut position = (0, ChainHead::GENESIS);
        while position.0 < *until.borrow() {
            let ended = timeout_at(end, self.tail_once(tail, &mut position, until)).await;
            ended.unwrap_or_else(|_| panic!("{}: at {} after {bound:?}", tail.name, position.0));
            sleep(REOPEN).await;
        }
    }

    /// One connection of a tail; takes the position along.
    async fn tail_once(&self, tail: &mut Tail, position: &mut (u64, ChainHead), until: &Receiver<u64>) {
        let channel = ReplicationClient::new(self.0.current_channel());
        let (after, head) = *position;
        let chain_head = if after == 0 { Default::default() } else { head.to_bytes() };
        let request = TailRequest { store_id: Default::default(), after_index: after, chain_head };
        let mut stream = match channel.max_decoding_message_size(MESSAGE_BYTES_MAX).tail(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                assert!(![Code::DataLoss, Code::OutOfRange].contains(&status.code()), "{}: {status}", tail.name);
                return;
            }
        };
        tail.items.push(TailItem::Opened { after });
        while position.0 < *until.borrow() {
            let Ok(Some(message)) = stream.message().await else { return };
            let frame = Frame::decode(&message.frame).expect("a node sends whole frames");
            for (index, entry) in (frame.after_index + 1..).zip(&frame.entries) {
                *position = (index, position.1.next(index, entry.term, &entry.payload));
                let content = [&entry.term.to_le_bytes(), &entry.payload[..]].concat();
                tail.items.push(TailItem::Entry { index, content: Value::of(&content) });
            }
            let checkpoint = frame.checkpoint.decode_body().expect("a node sends whole checkpoints");
            tail.items.push(TailItem::Checkpoint { index: checkpoint.index });
            let covered = (checkpoint.index, checkpoint.chain_head);
            assert_eq!(covered, *position, "{}: a checkpoint of another log", tail.name);
        }
    }
}
