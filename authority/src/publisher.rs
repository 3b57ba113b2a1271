//! Writing records: signed, in one order, each change whole or not at all.
//!
//! The road: [`Publisher::transact`] lets a change look at the directory and name what it puts and ends, signs that, and
//! writes it as one log entry on the condition that every record it touches or rests on is still the one it saw. What was
//! written is in the directory before the caller hears of it.
//! Law: one change at a time in this process; another process's change is met by the conditions, never overwritten.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cinnabar_abe::signature::RecordSigningKey;
use cinnabar_authority_api::records::{Content, SignError, Signer};
use cinnabar_authority_api::{Checked, RecordKey};
use cinnabar_daemon::Env;
use cinnabar_daemon::id::ClusterId;
use cinnabar_kv_api::{Client, ClientError, Condition, Key, Op, WriteOutcome};
use parking_lot::RwLock;

use crate::directory::{Directory, Rejected};

/// How often a change is planned anew when something it rests on changed meanwhile.
pub const TRIES_MAX: u32 = 5;
/// Time for the tail to bring what changed.
const CATCH_UP: Duration = Duration::from_millis(200);

/// Why a change did not come to be, or may not have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A record would be outside its bounds.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The store's client. After [`ClientError::Unreachable`] the change may still come to be, whole.
    #[error(transparent)]
    Store(#[from] ClientError),
    /// Others changed the same records again and again.
    #[error("the records changed meanwhile, {TRIES_MAX} times over; try again")]
    Contended,
    /// We wrote what our own verifier refuses: we are broken.
    #[error("what was written is refused: {0}")]
    Rejected(#[from] Rejected),
    /// A key that the store does not take: we are broken.
    #[error("key: {0}")]
    Key(#[from] cinnabar_kv_api::Error),
}

type Sign = Box<dyn Fn(&Signer<'_>, u64, u64) -> Result<Bytes, SignError> + Send>;

/// What a change does.
#[derive(Default)]
pub struct Plan {
    changes: Vec<(RecordKey, Sign)>,
    rests_on: Vec<RecordKey>,
}

impl Plan {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a record.
    pub fn put<T: Content>(&mut self, content: T) -> &mut Self {
        let key = content.key();
        let sign = move |signer: &Signer<'_>, previous, time_ms| signer.sign(content.clone(), previous, time_ms);
        self.changes.push((key, Box::new(sign)));
        self
    }

    /// Ends a record.
    pub fn end<T: Content>(&mut self, key: RecordKey) -> &mut Self {
        let ended = key.clone();
        let sign = move |signer: &Signer<'_>, previous, time_ms| signer.sign_end::<T>(ended.clone(), previous, time_ms);
        self.changes.push((key, Box::new(sign)));
        self
    }

    /// Demands that a record is still what the directory says.
    pub fn rest_on(&mut self, key: RecordKey) -> &mut Self {
        self.rests_on.push(key);
        self
    }

    /// Does it change nothing?
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// See the module.
pub struct Publisher {
    client: Client,
    directory: Arc<RwLock<Directory>>,
    cluster: ClusterId,
    key: RecordSigningKey,
    env: Env,
    writing: tokio::sync::Mutex<()>,
}

impl Publisher {
    /// Writes through `client`, under the record-signing key.
    pub fn new(
        client: Client,
        directory: Arc<RwLock<Directory>>,
        cluster: ClusterId,
        key: RecordSigningKey,
        env: Env,
    ) -> Self {
        Self { client, directory, cluster, key, env, writing: tokio::sync::Mutex::new(()) }
    }

    /// The store's client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The directory that it keeps.
    pub fn directory(&self) -> &Arc<RwLock<Directory>> {
        &self.directory
    }

    /// Reads a record from the store; none when it is not there or was ended.
    ///
    /// # Errors
    /// [`PublishError::Store`]; [`PublishError::Rejected`] for a record that does not verify.
    pub async fn read<T: Content>(&self, key: &RecordKey) -> Result<Option<Checked<Option<T>>>, PublishError> {
        let bytes = key.to_bytes();
        let found = self.client.get(Client::get_request(bytes.clone())).await?;
        if !found.found {
            return Ok(None);
        }
        let verifier = self.directory.read().verifier().clone();
        let read = verifier.read::<T>(&bytes, &found.value);
        read.map(Some).map_err(|source| PublishError::Rejected(Rejected { key: key.to_string(), source }))
    }

    /// Plans a change over the directory and writes it as one log entry; gives what the plan gave, and the index (0 when
    /// there was nothing to do). `plan` may run several times.
    ///
    /// # Errors
    /// What `plan` gives; [`PublishError`].
    pub async fn transact<T, E: From<PublishError>>(
        &self,
        mut plan: impl FnMut(&Directory) -> Result<(Plan, T), E>,
    ) -> Result<(T, u64), E> {
        let _one_at_a_time = self.writing.lock().await;
        for _ in 0..TRIES_MAX {
            let (planned, given) = plan(&self.directory.read())?;
            if planned.is_empty() {
                return Ok((given, 0));
            }
            let (conditions, records) = self.sign(planned)?;
            let ops = records.iter().map(|(key, value)| Op::Put { key: key.clone(), value: value.clone() }).collect();
            match self.client.write(conditions, ops).await.map_err(PublishError::from)? {
                WriteOutcome::Written { index } => {
                    self.take(&records, index)?;
                    return Ok((given, index));
                }
                WriteOutcome::Unmet { .. } => tokio::time::sleep(CATCH_UP).await,
            }
        }
        Err(PublishError::Contended.into())
    }

    #[allow(clippy::type_complexity, reason = "conditions, and keys with their records")]
    fn sign(&self, planned: Plan) -> Result<(Vec<Condition>, Vec<(Key, Bytes)>), PublishError> {
        let signer = Signer { cluster: &self.cluster, key: &self.key };
        let now = self.env.clock.unix_ms();
        let directory = self.directory.read();
        let (mut conditions, mut records) = (Vec::new(), Vec::new());
        for (name, sign) in planned.changes {
            let standing = directory.standing(&name);
            let key = Key::new(name.to_bytes())?;
            conditions.push(Condition { key: key.clone(), mod_index: standing.mod_index });
            records.push((key, sign(&signer, standing.version, now)?));
        }
        for name in planned.rests_on {
            let mod_index = directory.standing(&name).mod_index;
            conditions.push(Condition { key: Key::new(name.to_bytes())?, mod_index });
        }
        Ok((conditions, records))
    }

    fn take(&self, records: &[(Key, Bytes)], index: u64) -> Result<(), PublishError> {
        let mut directory = self.directory.write();
        for (key, record) in records {
            directory.take(key.as_bytes(), record, index, true)?;
        }
        Ok(())
    }
}
