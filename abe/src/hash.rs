//! The hashes of the scheme: keyed BLAKE2Xb streams, BLAKE2b digests and tags, and scalars drawn from streams.
//!
//! [`draw`] is where implementations part ways silently: the integer read from the stream is taken as a Montgomery
//! form, so the scalar is `v * 2^-256 mod r`. A version without that factor agrees with itself and with nobody else.
//!
//! Source: the BLAKE2X paper (Aumasson and others, 2016) with unknown output length; `docs/formats.md#hashes`.

use blake2b_simd::Params;
use blake2b_simd::many::{HashManyJob, hash_many};
use rand_core::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use crate::curve::{G1, G1Affine, Scalar};
use crate::error::Error;
use crate::limits::DRAW_ATTEMPTS_MAX;

/// Bytes of a digest, a tag and a key of this module.
pub const HASH_BYTES: usize = 32;
/// Bytes of the seed that a ciphertext hides beside its plaintext.
pub const SEED_BYTES: usize = 72;
/// The key under which attribute values are hashed.
const VALUE_KEY: &[u8] = b"attribute value hashing";
/// BLAKE2X's marker for an output length that is not known in advance.
const XOF_LENGTH_UNKNOWN: u64 = 0xffff_ffff << 32;
const XOF_BLOCK_BYTES: usize = 64;
/// r in little-endian limbs.
const ORDER: [u64; 4] = [0xffff_ffff_0000_0001, 0x53bd_a402_fffe_5bfe, 0x3339_d808_09a1_d805, 0x73ed_a753_299d_7d48];

// === Streams ===

/// The stream `X(key, message)`; blocks of 64 bytes are made as they are read.
pub struct Stream {
    root: [u8; 64],
    block: [u8; XOF_BLOCK_BYTES],
    used: usize,
    next: u32,
}

impl Stream {
    /// `key` is at most 64 bytes.
    pub fn new(key: &[u8], message: &[u8]) -> Self {
        let mut params = root_params(key);
        let root = *params.hash(message).as_array();
        // The library keeps the key in the parameters and has no way to wipe it but an empty one.
        params.key(&[]);
        Self { root, block: [0; XOF_BLOCK_BYTES], used: XOF_BLOCK_BYTES, next: 0 }
    }

    fn refill(&mut self) {
        self.block = *block_params(self.next).hash(&self.root).as_array();
        // 2^32 blocks are 256 GiB, beyond every length that the format can state.
        self.next = self.next.wrapping_add(1);
        self.used = 0;
    }

    /// Fills `out` with the next bytes of the stream.
    pub fn read(&mut self, out: &mut [u8]) {
        self.apply(out, |byte, stream| *byte = stream);
    }

    /// Xors the next bytes of the stream into `data`.
    pub fn xor(&mut self, data: &mut [u8]) {
        self.apply(data, |byte, stream| *byte ^= stream);
    }

    fn apply(&mut self, mut data: &mut [u8], operation: impl Fn(&mut u8, u8)) {
        while !data.is_empty() {
            if self.used == XOF_BLOCK_BYTES {
                self.refill();
            }
            let n = data.len().min(XOF_BLOCK_BYTES - self.used);
            let (head, tail) = data.split_at_mut(n);
            for (byte, stream) in head.iter_mut().zip(&self.block[self.used..]) {
                operation(byte, *stream);
            }
            self.used += n;
            data = tail;
        }
    }
}

/// BLAKE2X's root hash.
fn root_params(key: &[u8]) -> Params {
    let mut params = Params::new();
    params.hash_length(64).key(key).node_offset(XOF_LENGTH_UNKNOWN);
    params
}

/// BLAKE2X's hash of the root for one block of output.
fn block_params(block: u32) -> Params {
    let mut params = Params::new();
    params.hash_length(64).fanout(0).max_depth(0).max_leaf_length(64).inner_hash_length(64);
    params.node_offset(XOF_LENGTH_UNKNOWN | u64::from(block));
    params
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.root.zeroize();
        self.block.zeroize();
    }
}

/// `S(key, data)`: the stream cipher, in place.
pub fn stream_cipher(key: &[u8; HASH_BYTES], data: &mut [u8]) {
    Stream::new(key, &[]).xor(data);
}

// === Digests ===

/// `Hash32(parts)`: unkeyed BLAKE2b-256 over the parts, one after the other.
pub fn hash32(parts: &[&[u8]]) -> Zeroizing<[u8; HASH_BYTES]> {
    keyed(&[], parts)
}

/// `MAC(key, data)`: keyed BLAKE2b-256.
pub fn mac(key: &[u8; HASH_BYTES], data: &[u8]) -> Zeroizing<[u8; HASH_BYTES]> {
    keyed(key, &[data])
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; HASH_BYTES]> {
    let mut params = Params::new();
    let mut state = params.hash_length(HASH_BYTES).key(key).to_state();
    params.key(&[]);
    for part in parts {
        state.update(part);
    }
    let mut out = Zeroizing::new([0; HASH_BYTES]);
    out.copy_from_slice(state.finalize().as_bytes());
    out
}

/// The ciphertext's identity and its authentication key, both made from the hidden seed.
pub struct ExpandedSeed {
    pub id: Zeroizing<[u8; HASH_BYTES]>,
    pub mac_key: Zeroizing<[u8; HASH_BYTES]>,
}

/// `expandSeed(seed)`.
pub fn expand_seed(seed: &[u8; SEED_BYTES]) -> ExpandedSeed {
    ExpandedSeed { id: hash32(&[b"id computation hash", seed]), mac_key: hash32(&[b"key computation hash", seed]) }
}

// === Scalars ===

/// One try of `draw`: 32 bytes to a scalar, or `None` where the masked number is not below r.
fn scalar_from_draw(bytes: &[u8; 32]) -> Option<Scalar> {
    let mut limbs = [0u64; 4];
    for (limb, chunk) in limbs.iter_mut().zip(bytes.as_rchunks::<8>().1.iter().rev()) {
        *limb = u64::from_be_bytes(*chunk);
    }
    limbs[3] &= u64::MAX >> 1;
    // v - r borrows exactly when v < r. No branch on the limbs: they may be a secret.
    let mut borrow = false;
    for (limb, order) in limbs.iter().zip(ORDER) {
        let (difference, first) = limb.overflowing_sub(order);
        let (_, second) = difference.overflowing_sub(u64::from(borrow));
        borrow = first | second;
    }
    let scalar = borrow.then(|| Scalar::from_montgomery_limbs(limbs));
    limbs.zeroize();
    scalar
}

/// `draw(stream)`. The number of tries depends on the refused bytes only, which are thrown away.
pub fn draw(stream: &mut Stream) -> Scalar {
    let mut bytes = [0; 32];
    let scalar = loop {
        stream.read(&mut bytes);
        if let Some(scalar) = scalar_from_draw(&bytes) {
            break scalar;
        }
    };
    bytes.zeroize();
    scalar
}

/// A uniform scalar from the caller's generator, in the same way as [`draw`].
///
/// # Errors
/// [`Error::BrokenRng`] after [`DRAW_ATTEMPTS_MAX`] refused outputs.
pub fn random_scalar(rng: &mut impl CryptoRng) -> Result<Scalar, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    for _ in 0..DRAW_ATTEMPTS_MAX {
        rng.fill_bytes(&mut *bytes);
        if let Some(scalar) = scalar_from_draw(&bytes) {
            return Ok(scalar);
        }
    }
    Err(Error::BrokenRng { attempts: DRAW_ATTEMPTS_MAX })
}

/// `H(value)`: an attribute value as a scalar.
pub fn hash_value(value: &[u8]) -> Scalar {
    draw(&mut Stream::new(VALUE_KEY, value))
}

/// `H` of many values at once: the hash works on several inputs side by side, which is what reading a policy waits for.
pub fn hash_values<'v>(values: impl Iterator<Item = &'v [u8]>) -> Vec<Scalar> {
    let root_params = root_params(VALUE_KEY);
    let mut roots: Vec<_> = values.map(|value| HashManyJob::new(&root_params, value)).collect();
    hash_many(&mut roots);
    let roots: Vec<_> = roots.iter().map(HashManyJob::to_hash).collect();
    let block_params = block_params(0);
    let mut blocks: Vec<_> = roots.iter().map(|root| HashManyJob::new(&block_params, root.as_bytes())).collect();
    hash_many(&mut blocks);
    roots
        .iter()
        .zip(&blocks)
        .map(|(root, block)| {
            let block = block.to_hash();
            // One number in eleven is refused; the stream then goes on behind its first block.
            draw(&mut Stream { root: *root.as_array(), block: *block.as_array(), used: 0, next: 1 })
        })
        .collect()
}

/// A 3x2 matrix of anything, row by row.
pub type Matrix3x2<T> = [[T; 2]; 3];

/// `(V0, V1)(label)`: the label PRF of the system secret key. Secret.
pub fn label_prf(key: &[u8; 16], label: &[u8]) -> [Matrix3x2<Scalar>; 2] {
    [1, 2].map(|matrix| {
        entries(|i, j| {
            let message = [label, format!("m{matrix} matrix entry ({i}, {j})").as_bytes()].concat();
            draw(&mut Stream::new(key, &message))
        })
    })
}

/// `(U0, U1)(label)`: the label oracle, twelve hashes to G1. Public.
pub fn label_oracle(label: &[u8]) -> [Matrix3x2<G1Affine>; 2] {
    let points: [Matrix3x2<G1>; 2] = ["a", "b"]
        .map(|matrix| entries(|i, j| G1::hash(label, format!("{matrix} matrix entry [{i}, {j}]").as_bytes())));
    let mut out = [Matrix3x2::default(); 2];
    G1::batch_to_affine(points.as_flattened().as_flattened(), out.as_flattened_mut().as_flattened_mut());
    out
}

fn entries<T>(entry: impl Fn(usize, usize) -> T) -> Matrix3x2<T> {
    std::array::from_fn(|i| std::array::from_fn(|j| entry(i, j)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_values_hash_as_one_after_the_other() {
        // Enough of them that some are refused at their first draw.
        let values: Vec<String> =
            (0..200).map(|i| format!("value{i}")).chain([String::new(), "x".repeat(300)]).collect();
        let many = hash_values(values.iter().map(String::as_bytes));
        assert!(many.iter().zip(&values).all(|(scalar, value)| *scalar == hash_value(value.as_bytes())));
        assert_eq!(many.len(), values.len());
    }
}
