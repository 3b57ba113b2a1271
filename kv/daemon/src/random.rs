//! Random numbers for the cryptography, out of the process's one source of them.
//!
//! Law: no key is made of bytes that did not come. The seam's generator can fail and the cryptography's cannot: so it is
//! tried once, with an error, and from then on a failure ends the process.

use crate::Rng;
use crate::env::RngError;
use rand_core::{TryCryptoRng, TryRng, UnwrapErr};

/// The seam as the cryptography takes it.
pub struct Seam<'a>(&'a dyn Rng);

/// The generator behind `rng`, tried once.
///
/// # Errors
/// [`RngError`] when no bytes come.
pub fn generator(rng: &dyn Rng) -> Result<UnwrapErr<Seam<'_>>, RngError> {
    rng.fill(&mut [0; 8])?;
    Ok(UnwrapErr(Seam(rng)))
}

impl TryRng for Seam<'_> {
    type Error = RngError;

    fn try_next_u32(&mut self) -> Result<u32, RngError> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, RngError> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), RngError> {
        self.0.fill(out)
    }
}

impl TryCryptoRng for Seam<'_> {}
