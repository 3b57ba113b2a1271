//! Where every key of the authority's stands: the newest version seen under it, and why it is not used if it is not.
//!
//! Law: a version that was seen is not forgotten while the process runs, and what was refused is not used again before
//! something newer than everything seen under its key comes from the authority.

use std::collections::{HashMap, HashSet};

use aws_lc_rs::digest::{SHA256, digest};
use cinnabar_authority_api::RecordError;

use super::Unusable;

/// The first half of a key's SHA-256: what is kept of it.
pub(super) type KeyHash = [u8; 16];

pub(super) fn key_hash(key: &[u8]) -> KeyHash {
    let whole = digest(&SHA256, key);
    let mut half = KeyHash::default();
    half.copy_from_slice(&whole.as_ref()[..16]);
    half
}

/// Where one key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// The newest version seen; 0 when none was.
    pub version: u64,
    /// Was that version in a record that verified, and not only claimed by one that nobody needed yet?
    pub verified: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standings {
    known: HashMap<KeyHash, Standing>,
    refused: HashMap<KeyHash, Unusable>,
}

impl Standings {
    /// Takes what an earlier process refused: under these keys nothing below the version is used.
    pub(super) fn restore(&mut self, kept: &[(KeyHash, u64)]) {
        for (hash, least) in kept {
            let version = least.saturating_sub(1);
            self.known.insert(*hash, Standing { version, verified: true });
            let why = RecordError::Version { version, previous: version.saturating_sub(1), known: version };
            self.refused.insert(*hash, Unusable::Rejected(why));
        }
    }

    pub(super) fn get(&self, hash: &KeyHash) -> Standing {
        self.known.get(hash).copied().unwrap_or(Standing { version: 0, verified: false })
    }

    /// Why the key is not used, if it is not.
    pub(super) fn refused(&self, hash: &KeyHash) -> Option<&Unusable> {
        self.refused.get(hash)
    }

    pub(super) fn refused_len(&self) -> usize {
        self.refused.len()
    }

    /// Takes note of a record that may be used.
    pub(super) fn accept(&mut self, hash: KeyHash, standing: Standing) {
        self.refused.remove(&hash);
        self.known.insert(hash, standing);
    }

    /// Takes note that a claimed version is that of a record that verified.
    pub(super) fn confirm(&mut self, hash: &KeyHash, version: u64) {
        if let Some(standing) = self.known.get_mut(hash).filter(|standing| standing.version == version) {
            standing.verified = true;
        }
    }

    /// Takes note of why a key is not used; `version` is what an authentic record under it said, 0 if none did.
    pub(super) fn refuse(&mut self, hash: KeyHash, version: u64, why: Unusable) {
        let old = self.get(&hash);
        let verified = old.verified || (version > 0 && version >= old.version);
        self.known.insert(hash, Standing { version: old.version.max(version), verified });
        self.refused.insert(hash, why);
    }

    /// The same for the record whose version is known: what only a forgery claimed binds nobody, or it would shut the
    /// name for good.
    pub(super) fn refuse_known(&mut self, hash: KeyHash, why: Unusable) {
        let old = self.get(&hash);
        let version = if old.verified { old.version } else { 0 };
        self.known.insert(hash, Standing { version, ..old });
        self.refused.insert(hash, why);
    }

    /// Refused keys with the least version that ends the refusal, where there is one to hold against.
    pub(super) fn to_keep(&self) -> Vec<(KeyHash, u64)> {
        let known = self.refused.keys().map(|hash| (*hash, self.get(hash)));
        let bound = known.filter(|(_, standing)| standing.verified && standing.version > 0);
        let mut kept: Vec<_> = bound.map(|(hash, standing)| (hash, standing.version.saturating_add(1))).collect();
        kept.sort_unstable();
        kept
    }

    /// Known keys that are used and not among these.
    pub(super) fn missing(&self, seen: &HashSet<KeyHash>) -> Vec<KeyHash> {
        let gone = |hash: &&KeyHash| !seen.contains(*hash) && !self.refused.contains_key(*hash);
        self.known.keys().filter(gone).copied().collect()
    }
}
