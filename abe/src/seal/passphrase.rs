//! From a passphrase to a key: Argon2id, with a floor that a reader insists on and a ceiling that it stops at.
//!
//! Law: no file makes its reader take less work than [`PassphraseCost::LEAST`], or more than
//! [`ARGON2_WORK_MAX`](crate::limits::ARGON2_WORK_MAX); the memory is wiped. Source: RFC 9106, version 0x13, one lane.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::limits::{
    ARGON2_MEMORY_KIB_MAX, ARGON2_MEMORY_KIB_MIN, ARGON2_PASSES_MAX, ARGON2_PASSES_MIN, PASSPHRASE_BYTES_MAX,
    PASSPHRASE_BYTES_MIN,
};
use crate::secret::SecretBytes;

/// Bytes of a salt.
pub(super) const SALT_BYTES: usize = 32;
/// One: attackers have more cores than we, and what runs on one here runs on one there.
const LANES: u32 = 1;

/// What one guess at a passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    memory_kib: u32,
    passes: u32,
}

impl PassphraseCost {
    /// The least that is written or read: 64 MiB, three passes.
    pub const LEAST: Self = Self { memory_kib: ARGON2_MEMORY_KIB_MIN, passes: ARGON2_PASSES_MIN };
    /// What a new file gets unless asked otherwise: 256 MiB, three passes; about half a second.
    pub const USUAL: Self = Self { memory_kib: 256 * 1024, passes: 3 };

    /// A cost of `memory_kib` KiB and `passes` passes.
    ///
    /// # Errors
    /// [`Error::Sealing`] outside the bounds of [`crate::limits`].
    pub fn new(memory_kib: u32, passes: u32) -> Result<Self, Error> {
        let cost = Self { memory_kib, passes };
        cost.check().map_err(|problem| Error::Sealing { what: "cost of a passphrase", problem })?;
        Ok(cost)
    }

    /// A cost as it was read, and what is wrong with it.
    pub(super) fn read(memory_kib: u32, passes: u32) -> Result<Self, &'static str> {
        let cost = Self { memory_kib, passes };
        cost.check()?;
        Ok(cost)
    }

    fn check(self) -> Result<(), &'static str> {
        match (self.memory_kib, self.passes) {
            (..ARGON2_MEMORY_KIB_MIN, _) => Err("Argon2 with too little memory"),
            (_, ..ARGON2_PASSES_MIN) => Err("Argon2 with too few passes"),
            (memory_kib, _) if memory_kib > ARGON2_MEMORY_KIB_MAX => Err("Argon2 with too much memory"),
            (_, passes) if passes > ARGON2_PASSES_MAX => Err("Argon2 with too many passes"),
            _ => Ok(()),
        }
    }

    /// Memory in KiB.
    pub fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn passes(self) -> u32 {
        self.passes
    }

    /// KiB that are written in all.
    pub(super) fn work(self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }

    /// The key of a passphrase under a salt.
    pub(super) fn derive(
        self,
        passphrase: &SecretBytes,
        salt: &[u8; SALT_BYTES],
    ) -> Result<Zeroizing<[u8; 32]>, Error> {
        check_passphrase(passphrase)?;
        let params = Params::new(self.memory_kib, self.passes, LANES, Some(32)).expect("the cost is within bounds");
        let blocks = params.block_count();
        let no_memory = |_| Error::NoMemory { kib: self.memory_kib };
        let mut memory: Zeroizing<Vec<Block>> = Zeroizing::new(Vec::new());
        memory.try_reserve_exact(blocks).map_err(no_memory)?;
        memory.resize(blocks, Block::new());
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(passphrase.expose(), salt, &mut *key, &mut memory[..])
            .expect("lengths and memory are within Argon2's bounds");
        Ok(key)
    }
}

impl Default for PassphraseCost {
    fn default() -> Self {
        Self::USUAL
    }
}

/// Whether a passphrase has a length that is used at all.
///
/// # Errors
/// [`Error::TooShort`], [`Error::TooLong`].
pub fn check_passphrase(passphrase: &SecretBytes) -> Result<(), Error> {
    let (what, actual) = ("passphrase", passphrase.len());
    if actual < PASSPHRASE_BYTES_MIN {
        return Err(Error::TooShort { what, actual, min: PASSPHRASE_BYTES_MIN });
    }
    if actual > PASSPHRASE_BYTES_MAX {
        return Err(Error::TooLong { what, actual, max: PASSPHRASE_BYTES_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argon2_is_the_algorithm_that_the_format_names() {
        // From OpenSSL's implementation: ARGON2ID with lanes 1, memcost 65536, iter 3, size 32.
        let passphrase = SecretBytes::new(b"correct horse battery staple".to_vec());
        let key = PassphraseCost::LEAST.derive(&passphrase, b"0123456789abcdef0123456789abcdef").unwrap();
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "d12ac228e1566ecd9f80cf05621657ee1b5b34e40133438917d7ed334641f455");
    }

    #[test]
    fn costs_outside_their_bounds_are_refused() {
        for (memory_kib, passes) in [
            (ARGON2_MEMORY_KIB_MIN - 1, ARGON2_PASSES_MIN),
            (ARGON2_MEMORY_KIB_MIN, ARGON2_PASSES_MIN - 1),
            (ARGON2_MEMORY_KIB_MAX + 1, ARGON2_PASSES_MIN),
            (ARGON2_MEMORY_KIB_MIN, ARGON2_PASSES_MAX + 1),
            (0, 0),
            (u32::MAX, u32::MAX),
        ] {
            assert!(PassphraseCost::new(memory_kib, passes).is_err(), "{memory_kib} {passes}");
        }
        assert!(PassphraseCost::new(ARGON2_MEMORY_KIB_MAX, ARGON2_PASSES_MAX).is_ok());
    }
}
