//! Following the copy: every record once, then each change in its order.
//!
//! Law: a change is held against what is known of its key and must follow it directly; when changes were missed (the
//! ring moved on, a snapshot took the copy's place) everything is read again, and each record must not be older than
//! what is known. What was known and is gone was deleted by somebody who may not.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use cinnabar_authority_api::verify::AnyContent;
use cinnabar_authority_api::{Checked, Kind, RecordError, RecordKey, Verifier};
use cinnabar_daemon::Shutdown;
use cinnabar_kv::changes::After;
use cinnabar_kv::replica::Reader;
use cinnabar_kv::state::State;

use super::standing::{KeyHash, Standing, key_hash};
use super::world::World;
use super::{Directory, Inner, Unusable, count};
use crate::limits::{CHANGES_AT_ONCE, VERIFIED_AT_ONCE};

/// Longest time without a look at what is not told: whether the copy is on disk, whether it can be read again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Up to where the copy was followed; none before the first reading.
#[derive(Debug, Default)]
pub(super) struct Place {
    index: u64,
    state: Weak<State>,
    read: bool,
    /// Keys of records that were read and not verified yet.
    unverified: Vec<Bytes>,
}

/// A record as it came.
enum Taken {
    /// Verified.
    Read(Box<Checked<Option<AnyContent>>>),
    /// Not yet: its version as it claims.
    Claimed(u64),
    /// Not the authority's.
    Bad(RecordError),
    /// Gone without a tombstone.
    Deleted,
}

/// Is the kind verified as soon as it comes?
fn is_small(kind: Kind) -> bool {
    matches!(kind, Kind::System | Kind::Schema | Kind::Policy | Kind::Machine | Kind::Revoked | Kind::Head)
}

/// Is the kind of use here?
fn is_used(kind: Kind) -> bool {
    !matches!(kind, Kind::Zone | Kind::Token)
}

/// The key, if it is one that matters here.
fn parse(key: &[u8]) -> Option<RecordKey> {
    match RecordKey::parse(key) {
        Ok(key) => Some(key).filter(|key| is_used(key.kind())),
        Err(error) => {
            let ours =
                Kind::ALL.iter().any(|kind| kind.prefix().ends_with('/') && key.starts_with(kind.prefix().as_bytes()));
            if ours {
                tracing::error!(%error, "a key of the store that no record has");
                crate::metrics::rejected("unknown", "malformed").increment(1);
            }
            None
        }
    }
}

impl Directory {
    /// Follows until the shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let mut changes = self.shared.local.changes().watch();
        loop {
            let directory = self.clone();
            match tokio::task::spawn_blocking(move || directory.catch_up()).await {
                // There is more to verify; whoever asks is served meanwhile.
                Ok(true) if !shutdown.is_triggered() => continue,
                Ok(_) => {}
                Err(_) => tracing::error!("following the copy failed; it begins again"),
            }
            tokio::select! {
                () = shutdown.wait() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Takes in everything that the copy has, and verifies some of what was not yet; true when more of that is left.
    /// Blocks.
    pub(crate) fn catch_up(&self) -> bool {
        let mut place = self.shared.place.lock();
        if self.shared.local.check_serving().is_ok() {
            loop {
                let current = self.shared.local.state();
                let replaced = !place.state.upgrade().is_some_and(|state| Arc::ptr_eq(&state, &current));
                if !place.read || replaced {
                    if !self.read_again(&mut place, &current) {
                        break;
                    }
                    continue;
                }
                match self.shared.local.changes().after(place.index, CHANGES_AT_ONCE) {
                    After::Gone { .. } => place.read = false,
                    After::Changes { changes, applied } => {
                        for entry in &changes {
                            self.take_entry(entry);
                        }
                        place.index = applied;
                        if changes.len() < CHANGES_AT_ONCE {
                            break;
                        }
                    }
                }
            }
        }
        let left = place.unverified.len().saturating_sub(VERIFIED_AT_ONCE);
        for key in place.unverified.split_off(left) {
            self.verify(&key);
        }
        self.judge_and_save();
        left > 0
    }

    /// Verifies a record that was read and not needed so far: what takes its place is held against it.
    fn verify(&self, key: &Bytes) {
        let hash = key_hash(key);
        let (known, followed) = {
            let inner = self.shared.inner.read();
            (inner.standings.get(&hash), inner.followed)
        };
        let Ok(found) = self.shared.local.get(key) else { return };
        // A newer one is following's to judge.
        let wanted = found.record.filter(|record| !known.verified && record.mod_index <= followed);
        let Some(record) = wanted else { return };
        match self.shared.verifier.read_any(key, &record.value) {
            Ok(found) => self.shared.inner.write().standings.confirm(&hash, found.version()),
            Err(error) => {
                if let Ok(key) = RecordKey::parse(key) {
                    self.refuse_late(&key, &error.into());
                }
            }
        }
    }

    fn take_entry(&self, entry: &cinnabar_kv::state::Changes) {
        let mut decides = false;
        for change in &entry.changes {
            let Some(key) = parse(&change.key) else { continue };
            let taken = match &change.value {
                None => Taken::Deleted,
                Some(record) => self.verified(&change.key, record),
            };
            decides |= self.decides(&key);
            let hash = key_hash(&change.key);
            let inner = &mut *self.shared.inner.write();
            let mut world = std::mem::take(&mut inner.world);
            inner.take(&mut world, &key, hash, taken, true, entry.index);
            inner.world = world;
            self.forget(inner, &key);
        }
        let mut inner = self.shared.inner.write();
        inner.followed = entry.index;
        if decides {
            inner.kept_generation(entry.index);
            drop(inner);
            self.shared.changed.send_modify(|count| *count += 1);
        }
    }

    /// Does the key decide over which keys this machine opens?
    fn decides(&self, key: &RecordKey) -> bool {
        match key {
            RecordKey::Machine(id) | RecordKey::Revoked(id) => *id == self.shared.me,
            _ => matches!(key.kind(), Kind::System | Kind::Schema | Kind::Policy | Kind::PolicyCiphertext),
        }
    }

    /// Takes out of the caches what a change of the key makes untrue.
    fn forget(&self, inner: &mut Inner, key: &RecordKey) {
        match key {
            RecordKey::Cert(zone, id) => drop(self.shared.certs.remove(&(zone.clone(), id.clone()))),
            RecordKey::Sni(hostname) => drop(self.shared.names.remove(hostname)),
            RecordKey::Policy(..) => self.shared.certs.clear(),
            RecordKey::System(_) | RecordKey::Machine(_) | RecordKey::Revoked(_) => inner.epoch += 1,
            _ => {}
        }
    }

    fn verified(&self, key: &[u8], record: &Bytes) -> Taken {
        match self.shared.verifier.read_any(key, record) {
            Ok(found) => Taken::Read(found.into()),
            Err(error) => Taken::Bad(error),
        }
    }

    /// Reads every record at one index; false when the copy cannot be read now.
    fn read_again(&self, place: &mut Place, current: &Arc<State>) -> bool {
        let mut found: Vec<(RecordKey, KeyHash, Taken)> = Vec::new();
        let mut unverified = Vec::new();
        let reader = Reader::new(self.shared.local.clone(), self.shared.clock.clone());
        let scanned = reader.scan(b"", |key, record| {
            if let Some(parsed) = parse(key) {
                let taken = if is_small(parsed.kind()) {
                    self.verified(key, &record.value)
                } else {
                    unverified.push(key.clone());
                    Verifier::claimed_version(&record.value).map_or_else(Taken::Bad, Taken::Claimed)
                };
                found.push((parsed, key_hash(key), taken));
            }
            true
        });
        let index = match scanned {
            Ok(index) => index,
            Err(error) => {
                tracing::warn!(%error, "the copy cannot be read; it is tried again");
                return false;
            }
        };
        let inner = &mut *self.shared.inner.write();
        if place.read && inner.forked {
            // Another copy: the head is held against it anew.
            inner.forked = false;
            inner.head_to_check = inner.kept.head;
        }
        let mut world = World::default();
        let mut seen = HashSet::with_capacity(found.len());
        for (key, hash, taken) in found {
            seen.insert(hash);
            inner.take(&mut world, &key, hash, taken, false, index);
        }
        for revoked in &inner.world.revoked {
            world.revoked.insert(revoked.clone());
        }
        for hash in inner.standings.missing(&seen) {
            crate::metrics::rejected("unknown", Unusable::Deleted.reason()).increment(1);
            inner.standings.refuse(hash, 0, Unusable::Deleted);
        }
        inner.world = world;
        inner.followed = index;
        inner.epoch += 1;
        inner.kept_generation(index);
        self.shared.certs.clear();
        self.shared.names.clear();
        self.shared.changed.send_modify(|count| *count += 1);
        *place = Place { index, state: Arc::downgrade(current), read: true, unverified };
        true
    }

    /// Remembers that a record which was asked for is not to be used.
    pub(super) fn refuse_late(&self, key: &RecordKey, why: &Unusable) {
        let hash = key_hash(&key.to_bytes());
        let mut inner = self.shared.inner.write();
        if inner.standings.refused(&hash).is_none() {
            count(key, why);
            tracing::error!(%key, %why, "a record is refused");
            inner.standings.refuse_known(hash, why.clone());
        }
    }
}

impl Inner {
    /// Holds a record against what is known of its key, and takes it in or refuses it.
    fn take(&mut self, world: &mut World, key: &RecordKey, hash: KeyHash, taken: Taken, gapless: bool, index: u64) {
        let known = self.standings.get(&hash);
        let refused = self.standings.refused(&hash).is_some();
        // Where nothing was ever verified there is nothing to follow.
        let gapless = gapless && !(refused && known.version == 0);
        let (version, outcome) = match taken {
            Taken::Deleted if known.version == 0 => return,
            Taken::Deleted => (0, Err(Unusable::Deleted)),
            Taken::Bad(error) => (0, Err(error.into())),
            Taken::Claimed(version) if version < known.version || (refused && version == known.version) => {
                let (previous, known) = (version.saturating_sub(1), known.version);
                (0, Err(RecordError::Version { version, previous, known }.into()))
            }
            Taken::Claimed(version) => {
                let verified = known.verified && known.version == version;
                self.standings.accept(hash, Standing { version, verified });
                return;
            }
            Taken::Read(found) => {
                (found.version(), self.follow(world, key, *found, known.version, refused, gapless, index))
            }
        };
        match outcome {
            Ok(()) => self.standings.accept(hash, Standing { version, verified: true }),
            Err(why) => {
                count(key, &why);
                tracing::error!(%key, %why, index, "a record is refused");
                // A head that is refused leaves the highest one standing.
                world.drop_key(key);
                self.standings.refuse(hash, version, why);
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one caller")]
    fn follow(
        &mut self,
        world: &mut World,
        key: &RecordKey,
        found: Checked<Option<AnyContent>>,
        known: u64,
        refused: bool,
        gapless: bool,
        index: u64,
    ) -> Result<(), Unusable> {
        let same = !gapless && !refused && found.version() == known;
        if !same {
            Verifier::follows(&found, known, gapless)?;
        }
        world.put(key, found).map_err(RecordError::Content)?;
        match (key, world.head.take()) {
            (RecordKey::Head, Some(head)) => self.take_head(&head, index),
            _ => Ok(()),
        }
    }

    /// Takes note of the highest generation that was active.
    fn kept_generation(&mut self, index: u64) {
        let active = self.world.active_generation();
        if active > self.kept.generation {
            self.kept.generation = active;
            self.kept_at = index;
        }
    }
}
