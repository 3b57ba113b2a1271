//! Runs what must be constant time on secrets made from a seed: `constant_time SEED`. `scripts/constant-time` counts the
//! instructions of several seeds and compares.

use std::convert::Infallible;

use cinnabar_abe::{Attributes, Policy, setup};
use rand_core::{TryCryptoRng, TryRng};

/// SplitMix64. Scalars are never drawn twice: how often a draw is refused depends on refused bytes only, and would hide
/// what is looked for.
struct Seeded(u64);

impl TryRng for Seeded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ mixed >> 31)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..chunk.len()]);
        }
        for scalar in out.as_chunks_mut::<32>().0 {
            scalar[0] &= 0x3f;
        }
        Ok(())
    }
}

impl TryCryptoRng for Seeded {}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seed: u64 = std::env::args().nth(1).ok_or("usage: constant_time SEED")?.parse()?;
    let mut rng = Seeded(seed);
    let (public, secret) = setup(&mut rng)?;
    let policy = Policy::parse("a: 1 and not b: 2 and c: 3")?;
    let attributes = Attributes::new([("a", "1"), ("c", "3")])?;
    // The first use of a label and the second take different roads.
    for _ in 0..2 {
        public.encrypt(&mut rng, &policy, b"secret")?;
        secret.keygen(&mut rng, &attributes)?;
    }
    Ok(())
}
