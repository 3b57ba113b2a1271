//! What several test files need: seeded generators and hexadecimal.
#![allow(dead_code)]

use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};
use shake::Shake128;
use shake::digest::{ExtendableOutput, Update, XofReader};

/// SHAKE128 of an ASCII seed, read sequentially: the generator of the vectors.
pub struct Shake(<Shake128 as ExtendableOutput>::Reader);

impl Shake {
    pub fn new(seed: &str) -> Self {
        let mut shake = Shake128::default();
        shake.update(seed.as_bytes());
        Self(shake.finalize_xof())
    }
}

impl TryRng for Shake {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.read(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.read(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0.read(out);
        Ok(())
    }
}

impl TryCryptoRng for Shake {}

pub fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

/// A number below `n`, near enough to uniform for picking cases.
pub fn below(rng: &mut Shake, n: usize) -> usize {
    rng.try_next_u32().unwrap_or_else(|never| match never {}) as usize % n
}

/// A generator that gives these bytes and then no more.
pub struct Fixed(pub Vec<u8>);

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        let rest = self.0.split_off(out.len());
        out.copy_from_slice(&std::mem::replace(&mut self.0, rest));
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}
