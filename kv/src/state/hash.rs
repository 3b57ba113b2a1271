//! The state hash: LtHash over the live records.
//!
//! A record's digest is `BLAKE3(domain || space || key length u16 || key || mod index u64 || value)`; the digest expands
//! to 1,024 numbers of 16 bits (BLAKE3 in extendable output); the sum of those vectors, number by number modulo 2^16,
//! is the hash. It does not depend on order, changes in the time of one record, and finding two sets with one sum is as
//! hard as a short-vector problem (Bellare and Micciancio, 1997; Lewi, Kim, Maykov, Weis, eprint 2019/227, which sets
//! these sizes for 200 bits). What is compared and signed is BLAKE3 of the sum and of the number of records.

use std::sync::LazyLock;

use cinnabar_kv_api::StateHash;

/// Numbers in the sum.
const LANES: usize = 1024;
/// Bytes of the sum.
pub const SUM_BYTES: usize = LANES * 2;
const RECORD_DOMAIN: &str = "cinnabar 2026 kv state record v1";
const EXPAND_DOMAIN: &str = "cinnabar 2026 kv state expand v1";
const SUM_DOMAIN: &str = "cinnabar 2026 kv state sum v1";

/// Digest of one record.
pub type Digest = [u8; 32];

/// What kind of record a digest is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// A client's record.
    Record = b'k' as isize,
    /// What is remembered of a client's writes.
    Session = b's' as isize,
}

/// Digests a record.
pub fn digest(space: Space, key: &[u8], mod_index: u64, value: &[u8]) -> Digest {
    // BLAKE3 derives a key from the domain first; that part is the same for all records.
    static HASHER: LazyLock<blake3::Hasher> = LazyLock::new(|| blake3::Hasher::new_derive_key(RECORD_DOMAIN));
    let length = u16::try_from(key.len()).expect("keys are bounded");
    let mut hasher = HASHER.clone();
    hasher.update(&[space as u8]);
    hasher.update(&length.to_le_bytes());
    hasher.update(key);
    hasher.update(&mod_index.to_le_bytes());
    hasher.update(value);
    *hasher.finalize().as_bytes()
}

/// The running sum.
#[derive(Clone, PartialEq, Eq)]
pub struct Sum {
    lanes: Box<[u16; LANES]>,
}

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sum({:04x}..)", self.lanes[0])
    }
}

/// Key of the expansion: BLAKE3's derived key of its domain, computed once.
static EXPAND_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| blake3::derive_key(EXPAND_DOMAIN, b""));

fn expand(digest: &Digest) -> [u8; SUM_BYTES] {
    let mut bytes = [0; SUM_BYTES];
    let mut hasher = blake3::Hasher::new_keyed(&EXPAND_KEY);
    hasher.update(digest);
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

impl Default for Sum {
    fn default() -> Self {
        Self { lanes: Box::new([0; LANES]) }
    }
}

impl Sum {
    /// Adds a record.
    pub fn add(&mut self, digest: &Digest) {
        let vector = expand(digest);
        for (lane, bytes) in self.lanes.iter_mut().zip(vector.as_chunks::<2>().0) {
            *lane = lane.wrapping_add(u16::from_le_bytes(*bytes));
        }
    }

    /// Takes a record away.
    pub fn remove(&mut self, digest: &Digest) {
        let vector = expand(digest);
        for (lane, bytes) in self.lanes.iter_mut().zip(vector.as_chunks::<2>().0) {
            *lane = lane.wrapping_sub(u16::from_le_bytes(*bytes));
        }
    }

    /// The sum's bytes, for the store.
    pub fn to_bytes(&self) -> [u8; SUM_BYTES] {
        let mut out = [0; SUM_BYTES];
        for (bytes, lane) in out.as_chunks_mut::<2>().0.iter_mut().zip(&*self.lanes) {
            *bytes = lane.to_le_bytes();
        }
        out
    }

    /// Reads what [`Sum::to_bytes`] made; `None` when the length is another.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != SUM_BYTES {
            return None;
        }
        let mut sum = Self::default();
        for (lane, bytes) in sum.lanes.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *lane = u16::from_le_bytes(*bytes);
        }
        Some(sum)
    }

    /// The state hash of this sum over `records` records.
    pub fn hash(&self, records: u64) -> StateHash {
        let mut hasher = blake3::Hasher::new_derive_key(SUM_DOMAIN);
        hasher.update(&records.to_le_bytes());
        hasher.update(&self.to_bytes());
        StateHash(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_forgets_order_and_what_was_removed() {
        let digests: Vec<Digest> = (0..50u64).map(|n| digest(Space::Record, &n.to_be_bytes(), n, b"value")).collect();
        let mut forward = Sum::default();
        digests.iter().for_each(|d| forward.add(d));
        let mut backward = Sum::default();
        digests.iter().rev().for_each(|d| backward.add(d));
        let extra = digest(Space::Session, b"client", 1, b"");
        backward.add(&extra);
        assert_ne!(forward.hash(50), backward.hash(50));
        backward.remove(&extra);
        assert_eq!(forward.hash(50), backward.hash(50));
        assert_ne!(forward.hash(50), forward.hash(49));
        assert_eq!(Sum::from_bytes(&forward.to_bytes()), Some(forward));
    }

    #[test]
    fn every_part_of_a_record_is_in_its_digest() {
        let base = digest(Space::Record, b"ab", 7, b"c");
        for other in [
            digest(Space::Session, b"ab", 7, b"c"),
            digest(Space::Record, b"a", 7, b"bc"),
            digest(Space::Record, b"ab", 8, b"c"),
            digest(Space::Record, b"ab", 7, b"d"),
        ] {
            assert_ne!(base, other);
        }
    }
}
