//! What is remembered of clients' writes, so that a retry is never a second write.
//!
//! Bounds: `SESSIONS_MAX` clients, the one that wrote longest ago goes first; `SESSION_ANSWERS_MAX` answers a client,
//! the oldest go first. Every choice depends on the log alone, so that all nodes choose alike. A retry that comes after
//! its answer went is refused, never applied again; a client that was forgotten altogether starts anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use cinnabar_kv_api::limits::{SESSION_ANSWERS_MAX, SESSIONS_MAX};
use cinnabar_kv_api::{ClientId, Error, codec};
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::hash::{Digest, Space, digest};
use super::record::Record;

const SESSION_FORMAT: u8 = 1;
const SESSION_BYTES_MAX: usize = 64 + SESSION_ANSWERS_MAX * 64;

/// One client's memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Session {
    /// Entry of its newest write.
    pub last_index: u64,
    /// Sequences below are answered and forgotten.
    pub answered_below: u64,
    /// Answers by sequence.
    pub answers: BTreeMap<u64, Outcome>,
}

/// What a session says of a write.
pub enum Known {
    /// Not seen: apply it.
    New,
    /// Seen: this was the answer.
    Answered(Outcome),
    /// Seen, answered, and the answer is gone.
    Forgotten,
}

impl Session {
    /// Looks a sequence up.
    pub fn look_up(&self, sequence: u64) -> Known {
        match self.answers.get(&sequence) {
            Some(outcome) => Known::Answered(outcome.clone()),
            None if sequence < self.answered_below => Known::Forgotten,
            None => Known::New,
        }
    }

    /// Remembers an answer.
    pub fn answer(&mut self, index: u64, sequence: u64, answered_below: u64, outcome: Outcome) {
        self.last_index = index;
        self.answered_below = self.answered_below.max(answered_below.min(sequence));
        self.answers.insert(sequence, outcome);
        while self.answers.len() > SESSION_ANSWERS_MAX
            && let Some((oldest, _)) = self.answers.pop_first()
        {
            self.answered_below = self.answered_below.max(oldest + 1);
        }
        self.answers = self.answers.split_off(&self.answered_below);
    }

    /// Encodes: `format (1) | bincode`.
    pub fn encode(&self) -> Bytes {
        codec::encode(SESSION_FORMAT, self).into()
    }

    /// Decodes what [`Session::encode`] made.
    ///
    /// # Errors
    /// [`Error`] when the bytes do not follow the format.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        codec::decode::<Self, SESSION_BYTES_MAX>("session", SESSION_FORMAT, bytes)
    }
}

/// Digest and length of a session as stored.
pub type Stored = (Digest, usize);

#[derive(Debug, Clone, Default)]
struct Slot {
    session: Session,
    stored: Option<Stored>,
}

/// A session that changed since the last call of [`Sessions::settle`].
pub struct Changed {
    /// The client.
    pub client: ClientId,
    /// What was stored before.
    pub old: Option<Stored>,
    /// What is to be stored: the record, and its digest; none to forget the client.
    pub new: Option<(Record, Digest)>,
}

/// All sessions, by client and by age.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    by_client: HashMap<ClientId, Slot>,
    by_age: BTreeSet<(u64, ClientId)>,
    changed: BTreeMap<ClientId, Option<Stored>>,
}

impl Sessions {
    /// The session of a client.
    pub fn get(&self, client: &ClientId) -> Option<&Session> {
        self.by_client.get(client).map(|slot| &slot.session)
    }

    /// Number of clients.
    pub fn len(&self) -> usize {
        self.by_client.len()
    }

    /// Takes a session read from the store.
    pub fn load(&mut self, client: ClientId, session: Session, stored: Stored) {
        self.by_age.insert((session.last_index, client));
        self.by_client.insert(client, Slot { session, stored: Some(stored) });
    }

    /// Remembers an answer, and forgets the client that wrote longest ago when there are too many.
    pub fn answer(&mut self, client: ClientId, index: u64, sequence: u64, answered_below: u64, outcome: Outcome) {
        let slot = self.by_client.entry(client).or_default();
        self.changed.entry(client).or_insert(slot.stored);
        self.by_age.remove(&(slot.session.last_index, client));
        slot.session.answer(index, sequence, answered_below, outcome);
        self.by_age.insert((index, client));
        if self.by_client.len() > SESSIONS_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
            && let Some(slot) = self.by_client.remove(&oldest)
        {
            self.changed.entry(oldest).or_insert(slot.stored);
        }
    }

    /// Every session as a record, by client.
    pub fn records(&self) -> Vec<(ClientId, Record)> {
        let record = |(client, slot): (&ClientId, &Slot)| {
            (*client, Record { mod_index: slot.session.last_index, value: slot.session.encode() })
        };
        let mut records: Vec<_> = self.by_client.iter().map(record).collect();
        records.sort_unstable_by_key(|(client, _)| *client);
        records
    }

    /// Gives every session that changed since the last call, by client.
    pub fn settle(&mut self) -> Vec<Changed> {
        let changed = std::mem::take(&mut self.changed);
        let settle = |(client, old): (ClientId, Option<Stored>)| {
            let new = self.by_client.get_mut(&client).map(|slot| {
                let record = Record { mod_index: slot.session.last_index, value: slot.session.encode() };
                let digest = digest(Space::Session, &client.0, record.mod_index, &record.value);
                slot.stored = Some((digest, record.value.len()));
                (record, digest)
            });
            Changed { client, old, new }
        };
        changed.into_iter().map(settle).collect()
    }
}
