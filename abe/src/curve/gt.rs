//! Products of powers in GT with secret exponents.

use zeroize::Zeroizing;

use super::ffi::{Gt, Scalar};
use super::msm::mask_if_equal;

/// Bits of one window: tables of 16 powers, 9 KiB each.
const WINDOW_BITS: usize = 4;
const POWERS: usize = 1 << WINDOW_BITS;

impl Gt {
    /// `prod base_i ^ exponent_i`, squarings shared, constant time. The bases must be members of GT.
    pub fn multi_exp(terms: &[(&Self, &Scalar)]) -> Self {
        let tables: Vec<[Self; POWERS]> = terms.iter().map(|(base, _)| powers(base)).collect();
        let exponents: Vec<Zeroizing<[u8; 32]>> =
            terms.iter().map(|(_, exponent)| Zeroizing::new(exponent.to_be_bytes())).collect();
        let mut product = Self::one();
        for nibble in 0..64 {
            for _ in 0..WINDOW_BITS {
                product = product.cyclotomic_square();
            }
            for (table, exponent) in tables.iter().zip(&exponents) {
                let digit = exponent[nibble / 2] >> (4 * (1 - nibble % 2)) & 0xf;
                product = product.mul(&select(table, digit));
            }
        }
        product
    }
}

fn powers(base: &Gt) -> [Gt; POWERS] {
    let mut powers = [Gt::one(); POWERS];
    for n in 1..POWERS {
        powers[n] = powers[n - 1].mul(base);
    }
    powers
}

/// `table[digit]`, reading every entry.
fn select(table: &[Gt; POWERS], digit: u8) -> Gt {
    let mut out = Gt::zeroed();
    for (n, entry) in (0u64..).zip(table) {
        out.mask_assign(entry, mask_if_equal(n, u64::from(digit)));
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::curve::{G1, G2, Gt, Scalar, final_exponentiation, miller_loop};

    #[test]
    fn powers_agree_with_the_pairing() {
        let (g1, g2) = (G1::generator(), G2::generator());
        let pair = |k: &Scalar| final_exponentiation(&miller_loop(&[(g1.mul(k).to_affine(), g2.to_affine())]));
        let one = Scalar::from_u64(1);
        let gt = pair(&one);
        for (a, b) in [(0, 0), (1, 0), (0, 15), (16, 17), (0xffff_ffff_ffff, 0x1234_5678_9abc)] {
            let (a, b) = (Scalar::from_u64(a).neg(), Scalar::from_u64(b));
            assert!(Gt::multi_exp(&[(&gt, &a), (&gt, &b)]) == pair(&a.add(b)));
        }
    }
}
