//! The hash chain over the log, and the names of what is hashed.
//!
//! `h(0)` is 32 zero bytes; `h(i) = BLAKE3(domain || h(i-1) || index || term || payload)`, numbers as 8 bytes
//! little-endian, the payload as it was received. Two logs with one head at one index are the same log.

use std::fmt;
use std::sync::LazyLock;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Separates this hash from every other use of BLAKE3.
const CHAIN_DOMAIN: &str = "cinnabar 2026 kv log chain v1";
/// Bytes of a state hash.
pub const STATE_HASH_BYTES: usize = 32;

macro_rules! hash_type {
    ($name:ident, $bytes:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// The bytes, as messages carry them.
            pub fn to_bytes(&self) -> Bytes {
                Bytes::copy_from_slice(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = crate::Error;

            fn try_from(bytes: &[u8]) -> Result<Self, crate::Error> {
                let array = bytes.try_into().map_err(|_| crate::Error::OutOfBounds {
                    what: stringify!($name),
                    least: $bytes,
                    most: $bytes,
                    actual: bytes.len(),
                })?;
                Ok(Self(array))
            }
        }
    };
}

hash_type!(ChainHead, 32, "Head of the hash chain at an index; 32 zero bytes at index 0.");
hash_type!(StateHash, STATE_HASH_BYTES, "Hash over all live records; see `docs/formats.md`, \"State hash\".");
hash_type!(StoreId, 16, "Names one history: random, new at init, at restore and at recovery from a lost quorum.");

impl ChainHead {
    /// The head before the first entry.
    pub const GENESIS: Self = Self([0; 32]);

    /// The head after one more entry.
    #[must_use]
    pub fn next(&self, index: u64, term: u64, payload: &[u8]) -> Self {
        // BLAKE3 derives a key from the domain first; that part is the same for all entries.
        static HASHER: LazyLock<blake3::Hasher> = LazyLock::new(|| blake3::Hasher::new_derive_key(CHAIN_DOMAIN));
        let mut hasher = HASHER.clone();
        hasher.update(&self.0);
        hasher.update(&index.to_le_bytes());
        hasher.update(&term.to_le_bytes());
        hasher.update(payload);
        Self(*hasher.finalize().as_bytes())
    }
}

impl std::str::FromStr for StoreId {
    type Err = crate::Error;

    /// Reads 32 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, crate::Error> {
        let malformed =
            || crate::Error::Malformed { what: "store id", problem: "not 32 hexadecimal digits".to_owned() };
        // The digits are looked at one by one: the standard parser takes a sign as well.
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        let mut id = [0; 16];
        for (n, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).map_err(|_| malformed())?;
        }
        Ok(Self(id))
    }
}
