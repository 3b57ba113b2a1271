//! Products of G1 points and scalars, many at a time.
//!
//! Encryption and key generation multiply the same few secret scalars (r, s, shares, rows of the system secret key)
//! into many points. Three shapes cover them all:
//!
//! - [`Recoded`]: a secret scalar, split by the curve's endomorphism into two 128-bit halves and recoded into signed
//!   5-bit digits once, used many times;
//! - [`sum_of_products`]: `k_1 P_1 + .. + k_n P_n` with doublings shared (Straus), for points seen once;
//! - [`Comb`]: every digit's multiples of one fixed point, for the public key's points and the generator.
//!
//! Law: the three run the same instructions and touch the same memory whatever the digits are: a digit selects its
//! multiple by scanning the whole table under a mask, and every addition is the complete one. [`mul_vartime`] is for
//! public scalars.
//!
//! The endomorphism: z = -0xd201000000010000 is the curve's parameter, r = z^4 - z^2 + 1, and on the subgroup of order
//! r the map (x, y) -> (beta x, -y) is multiplication by z^2 (RFC 9380 and eprint 2021/1130 use the same map for the
//! cofactor and the subgroup check). So k = k0 + k1 z^2 with both halves under 2^128. It holds in the subgroup only: no
//! point comes here that was not hashed to the subgroup or checked when its key was read.
use std::hint::black_box;
use std::sync::OnceLock;

use subtle::Choice;
use zeroize::Zeroize;

use super::ffi::{Fp, G1, G1Affine, Scalar};

/// Bits of one signed digit.
const DIGIT_BITS: usize = 5;
/// Digits of a 128-bit half: 26 x 5 = 130 bits hold it and the last carry.
const DIGITS: usize = 26;
/// Multiples 1..=16 of a point: a signed 5-bit digit is in -16..=16.
const MULTIPLES: usize = 1 << (DIGIT_BITS - 1);
/// Most points that [`Comb::summands_vartime`] gives.
pub const SUMMANDS_MAX: usize = 2 * DIGITS;
/// z^2, the eigenvalue of the endomorphism.
const Z_SQUARED: u128 = 0xac45a4010001a402_0000000100000000;
/// The cube root of unity in Fp for which `(beta x, -y)` is `z^2 (x, y)`; a test checks it against that law.
const BETA: [u8; 48] = [
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x5f, 0x19, 0x67, 0x2f, 0xdf, 0x76, 0xce, 0x51, 0xba, 0x69, 0xc6,
    0x07, 0x6a, 0x0f, 0x77, 0xea, 0xdd, 0xb3, 0xa9, 0x3b, 0xe6, 0xf8, 0x96, 0x88, 0xde, 0x17, 0xd8, 0x13, 0x62, 0x0a,
    0x00, 0x02, 0x2e, 0x01, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xfe,
];

fn beta() -> &'static Fp {
    static CELL: OnceLock<Fp> = OnceLock::new();
    CELL.get_or_init(|| Fp::from_be_bytes(&BETA))
}

// === Recoded ===

/// A scalar split and recoded for the products below. Zeroised on drop.
pub struct Recoded {
    /// Signed digits of `k0`, then of `k1`, lowest first.
    digits: [[i8; DIGITS]; 2],
}

impl Recoded {
    /// Splits in constant time; `k0 = k mod z^2`, `k1 = k div z^2`.
    pub fn new(scalar: &Scalar) -> Self {
        let mut bytes = scalar.to_le_bytes();
        let (mut low, mut high) = split(&bytes);
        let out = Self { digits: [signed_digits(low), signed_digits(high)] };
        bytes.zeroize();
        low.zeroize();
        high.zeroize();
        out
    }
}

impl Drop for Recoded {
    fn drop(&mut self) {
        self.digits.zeroize();
    }
}

/// `(k mod z^2, k div z^2)` by bitwise long division: 255 steps, no branch on the bits.
fn split(little_endian: &[u8; 32]) -> (u128, u128) {
    let (mut remainder, mut quotient) = (0u128, 0u128);
    for bit in (0..256).rev() {
        let next = u128::from(little_endian[bit / 8] >> (bit % 8) & 1);
        let carry = remainder >> 127;
        remainder = remainder << 1 | next;
        // `carry` stands for 2^128 that was shifted out, so the true value is at least z^2 then.
        let (difference, borrow) = remainder.overflowing_sub(Z_SQUARED);
        let take = black_box(carry | u128::from(!borrow)).wrapping_neg();
        remainder = remainder & !take | difference & take;
        quotient = quotient << 1 | take & 1;
    }
    (remainder, quotient)
}

/// Booth recoding: digit i reads bits `5i - 1 ..= 5i + 4` and lies in -16..=16.
fn signed_digits(value: u128) -> [i8; DIGITS] {
    let mut digits = [0; DIGITS];
    for (i, digit) in digits.iter_mut().enumerate() {
        let window = if i == 0 { (value << 1) as u32 & 0x3f } else { (value >> (DIGIT_BITS * i - 1)) as u32 & 0x3f };
        // The top bit counts -32, the lowest is the carry that the digit below borrowed.
        *digit = (((window + 1) >> 1) as i8) - ((window >> DIGIT_BITS) << DIGIT_BITS) as i8;
    }
    digits
}

// === Table ===

/// The multiples 1..=16 of one point.
pub type Table = [G1Affine; MULTIPLES];

/// Tables of several points, with one inversion for all of them.
pub fn tables(points: &[G1Affine]) -> Vec<Table> {
    let mut multiples = Vec::with_capacity(points.len() * MULTIPLES);
    for point in points {
        multiples_into(&G1::from(*point), point, &mut multiples);
    }
    let out = to_tables(&multiples);
    multiples.zeroize();
    out
}

fn multiples_into(point: &G1, affine: &G1Affine, out: &mut Vec<G1>) {
    let first = out.len();
    out.push(*point);
    for n in 2..=MULTIPLES {
        let next = if n % 2 == 0 { out[first + n / 2 - 1].double() } else { out[first + n - 2].add_affine(affine) };
        out.push(next);
    }
}

fn to_tables(multiples: &[G1]) -> Vec<Table> {
    let mut tables = vec![[G1Affine::IDENTITY; MULTIPLES]; multiples.len() / MULTIPLES];
    G1::batch_to_affine(multiples, tables.as_flattened_mut());
    tables
}

/// All ones where the numbers are equal, else zero.
///
/// The barrier stands behind the mask, not before it: a compiler that sees where a mask comes from makes a branch of it
/// (it did). `make constant-time` counts instructions to see that it has not.
#[inline]
pub fn mask_if_equal(a: u64, b: u64) -> u64 {
    let difference = a ^ b;
    black_box(((difference | difference.wrapping_neg()) >> 63).wrapping_sub(1))
}

/// `digit * P` from the table of P, reading every entry.
#[inline]
fn select(table: &Table, digit: i8) -> G1Affine {
    let sign = digit >> 7;
    let magnitude = u64::from(((digit ^ sign) - sign) as u8);
    let mut out = G1Affine::IDENTITY;
    for (n, entry) in (1u64..).zip(table) {
        out.mask_assign(entry, mask_if_equal(n, magnitude));
    }
    out.conditional_neg(Choice::from(sign as u8 & 1))
}

/// `digit * z^2 P` from the table of P.
#[inline]
fn select_endomorphism(table: &Table, digit: i8) -> G1Affine {
    select(table, -digit).scale_x(beta())
}

/// `sum scalars[i] * P_i`, doublings shared; constant time in the scalars and the points.
pub fn sum_of_products(tables: &[&Table], scalars: &[&Recoded]) -> G1 {
    assert_eq!(tables.len(), scalars.len(), "one scalar per point");
    let mut sum = G1::IDENTITY;
    for i in (0..DIGITS).rev() {
        if i != DIGITS - 1 {
            for _ in 0..DIGIT_BITS {
                sum = sum.double();
            }
        }
        for (table, scalar) in tables.iter().zip(scalars) {
            sum = sum.add_affine(&select(table, scalar.digits[0][i]));
            sum = sum.add_affine(&select_endomorphism(table, scalar.digits[1][i]));
        }
    }
    sum
}

// === Comb ===

/// Multiples of one fixed point for every digit position, 40 KiB: a product costs 52 additions and no doubling.
pub struct Comb(Box<[Table]>);

impl Comb {
    /// Builds the tables: as dear as a dozen products. Constant time in the point.
    pub fn new(point: &G1Affine) -> Self {
        let mut multiples = Vec::with_capacity(DIGITS * MULTIPLES);
        let mut base = G1::from(*point);
        for _ in 0..DIGITS {
            multiples_into(&base, &base.to_affine(), &mut multiples);
            base = multiples[multiples.len() - 1].double();
        }
        let tables = to_tables(&multiples).into_boxed_slice();
        multiples.zeroize();
        Self(tables)
    }

    /// The comb of the standard generator, built once per process.
    pub fn generator() -> &'static Self {
        static CELL: OnceLock<Comb> = OnceLock::new();
        CELL.get_or_init(|| Self::new(&G1::generator().to_affine()))
    }

    /// `sum + scalar * P`, constant time in the scalar.
    pub fn add_product(&self, mut sum: G1, scalar: &Recoded) -> G1 {
        for (i, table) in self.0.iter().enumerate() {
            sum = sum.add_affine(&select(table, scalar.digits[0][i]));
            sum = sum.add_affine(&select_endomorphism(table, scalar.digits[1][i]));
        }
        sum
    }
}

// === Public scalars ===

impl Comb {
    /// The points whose sum is `scalar * P`, at most [`SUMMANDS_MAX`]: for a sum of many points at once. Variable time in the scalar.
    pub fn summands_vartime(&self, scalar: &Recoded) -> impl Iterator<Item = G1Affine> {
        self.0.iter().enumerate().flat_map(|(i, table)| {
            [entry_vartime(table, scalar.digits[0][i], false), entry_vartime(table, scalar.digits[1][i], true)]
                .into_iter()
                .flatten()
        })
    }
}

impl Drop for Comb {
    fn drop(&mut self) {
        // A comb of a key's point is as secret as the point.
        self.0.as_flattened_mut().iter_mut().for_each(Zeroize::zeroize);
    }
}

/// `scalar * P` for each point, by the recoded digits read directly: variable time in the scalar.
///
/// Points must be in the subgroup of order r.
pub fn mul_vartime(points: &[G1Affine], scalar: &Scalar) -> Vec<G1> {
    let recoded = Recoded::new(scalar);
    tables(points)
        .iter()
        .map(|table| {
            let mut sum = G1::IDENTITY;
            for i in (0..DIGITS).rev() {
                if i != DIGITS - 1 {
                    for _ in 0..DIGIT_BITS {
                        sum = sum.double();
                    }
                }
                sum = add_vartime(sum, table, recoded.digits[0][i], false);
                sum = add_vartime(sum, table, recoded.digits[1][i], true);
            }
            sum
        })
        .collect()
}

fn add_vartime(sum: G1, table: &Table, digit: i8, endomorphism: bool) -> G1 {
    entry_vartime(table, digit, endomorphism).map_or(sum, |entry| sum.add_affine(&entry))
}

/// `digit P`, or `digit z^2 P`; nothing for a zero.
fn entry_vartime(table: &Table, digit: i8, endomorphism: bool) -> Option<G1Affine> {
    let entry = table.get(usize::from(digit.unsigned_abs()).checked_sub(1)?)?;
    let entry = if endomorphism { entry.scale_x(beta()) } else { *entry };
    Some(entry.conditional_neg(Choice::from(u8::from((digit < 0) != endomorphism))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalars() -> Vec<Scalar> {
        let mut out = vec![Scalar::ZERO, Scalar::from_u64(1), Scalar::from_u64(16), Scalar::from_u64(1).neg()];
        for i in 0u8..40 {
            let hash = blake2b_simd::blake2b(&[i]);
            out.push(Scalar::from_be_bytes_reduced(hash.as_bytes()));
        }
        out.push(Scalar::from_be_bytes_reduced(&Z_SQUARED.to_be_bytes()));
        out.push(Scalar::from_be_bytes_reduced(&(Z_SQUARED - 1).to_be_bytes()));
        out
    }

    fn point(seed: u8) -> G1Affine {
        G1::hash(&[seed], b"a domain for tests").to_affine()
    }

    fn same(a: G1, b: G1) -> bool {
        a.to_affine() == b.to_affine()
    }

    #[test]
    fn the_endomorphism_is_multiplication_by_z_squared() {
        let z_squared = Scalar::from_be_bytes_reduced(&Z_SQUARED.to_be_bytes());
        let p = point(1);
        let image = p.scale_x(beta()).conditional_neg(Choice::from(1));
        assert!(same(image.into(), G1::from(p).mul(&z_squared)));
    }

    #[test]
    fn every_product_agrees_with_blst() {
        let (p, q) = (point(1), point(2));
        let table = tables(&[p, q]);
        let comb = Comb::new(&p);
        let all = scalars();
        for (k, l) in all.iter().zip(all.iter().rev()) {
            let (kp, lq) = (G1::from(p).mul(k), G1::from(q).mul(l));
            let (k_digits, l_digits) = (Recoded::new(k), Recoded::new(l));
            assert!(same(sum_of_products(&[&table[0], &table[1]], &[&k_digits, &l_digits]), kp.add(&lq)));
            assert!(same(comb.add_product(lq, &k_digits), kp.add(&lq)));
            assert!(same(mul_vartime(&[q], l)[0], lq));
            let summands: Vec<_> = comb.summands_vartime(&k_digits).collect();
            assert!(same(G1::sum_vartime(&summands), kp));
        }
    }

    #[test]
    fn opposite_and_equal_points_add_up() {
        let p = point(3);
        let opposite = p.conditional_neg(Choice::from(1));
        let table = tables(&[p, opposite, p]);
        let k = Recoded::new(&Scalar::from_u64(0x1234_5678_9abc));
        assert!(sum_of_products(&[&table[0], &table[1]], &[&k, &k]).to_affine().is_identity());
        let twice = G1::from(p).mul(&Scalar::from_u64(0x1234_5678_9abc)).double();
        assert!(same(sum_of_products(&[&table[0], &table[2]], &[&k, &k]), twice));
        // blst's batched sum has its own formulas: hold it to the same cases.
        let none = G1Affine::IDENTITY;
        for row in [vec![], vec![none], vec![p, p], vec![p, opposite], vec![p, none, opposite, p], vec![p; 101]] {
            let expected = row.iter().fold(G1::IDENTITY, |sum, point| sum.add_affine(point));
            assert!(same(G1::sum_vartime(&row), expected), "{} points", row.len());
        }
    }
}
