//! Setup: a new authority's public key and system secret key.

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::dot;
use super::keys::{PublicKey, SystemSecretKey};
use crate::curve::msm::{Comb, Recoded};
use crate::curve::{G1, G2, Gt, Scalar, final_exponentiation, miller_loop};
use crate::error::Error;
use crate::hash::random_scalar;
use crate::limits::DRAW_ATTEMPTS_MAX;

/// Makes a new pair of public key and system secret key.
///
/// Constant time in everything drawn, but for the negligible case of a matrix that has to be drawn again. The order of
/// the draws is the reference's, so a seeded generator reproduces its keys bit for bit.
///
/// # Errors
/// [`Error::BrokenRng`] when the generator's output cannot be used.
pub fn setup(rng: &mut impl CryptoRng) -> Result<(PublicKey, SystemSecretKey), Error> {
    for _ in 0..DRAW_ATTEMPTS_MAX {
        if let Some(pair) = try_setup(rng)? {
            return Ok(pair);
        }
    }
    Err(Error::BrokenRng { attempts: DRAW_ATTEMPTS_MAX })
}

fn try_setup(rng: &mut impl CryptoRng) -> Result<Option<(PublicKey, SystemSecretKey)>, Error> {
    let a = Zeroizing::new([random_scalar(rng)?, random_scalar(rng)?]);
    let b_bar = matrix::<4, 4>(rng)?;
    let w = matrix::<3, 4>(rng)?;
    let k = Zeroizing::new(matrix::<1, 4>(rng)?[0]);
    let mut prf_key = Zeroizing::new([0; 16]);
    rng.fill_bytes(&mut *prf_key);

    let Some(inverse) = invert(&b_bar) else { return Ok(None) };
    // T = (Bbar^T)^-1 is the transpose of the inverse, so B* and B*12 are its rows as columns.
    let b_star = from_fn(|row, column| inverse[column][row]);
    let b_star12 = from_fn(|row, column| inverse[column + 2][row]);
    // A = [[A00, 0], [0, A11], [1, 1]], so W^T A is this sum of W's rows.
    let wt_a = from_fn::<4>(|row, column| w[column][row].mul(a[column]).add(w[2][row]));

    let b_column = |column: usize| Zeroizing::new(std::array::from_fn::<_, 4, _>(|row| b_bar[row][column]));
    let (b0, b1) = (b_column(0), b_column(1));
    let b2 = std::array::from_fn(|row| [b0[row], b1[row]].map(|scalar| G2::generator().mul(&scalar).to_affine()));
    let wb1 = std::array::from_fn(|row| {
        [dot(&w[row], &b0), dot(&w[row], &b1)]
            .map(|scalar| Comb::generator().add_product(G1::IDENTITY, &Recoded::new(&scalar)).to_affine())
    });
    let gt = final_exponentiation(&miller_loop(&[(G1::generator().to_affine(), G2::generator().to_affine())]));
    let btk = [&b0, &b1].map(|column| Gt::multi_exp(&[(&gt, &dot(column, &k))]));

    let public = PublicKey::from_parts(b2, wb1, btk);
    let secret = SystemSecretKey::from_parts(*a, *wt_a, *b_star, *b_star12, *k, *prf_key);
    Ok(Some((public, secret)))
}

fn from_fn<const ROWS: usize>(entry: impl Fn(usize, usize) -> Scalar) -> Zeroizing<[[Scalar; 2]; ROWS]> {
    Zeroizing::new(std::array::from_fn(|row| std::array::from_fn(|column| entry(row, column))))
}

/// A random matrix, drawn row by row.
fn matrix<const R: usize, const C: usize>(rng: &mut impl CryptoRng) -> Result<Zeroizing<[[Scalar; C]; R]>, Error> {
    let mut out = Zeroizing::new([[Scalar::ZERO; C]; R]);
    for row in out.iter_mut() {
        for entry in row.iter_mut() {
            *entry = random_scalar(rng)?;
        }
    }
    Ok(out)
}

/// The inverse by Gauss-Jordan elimination; `None` when a pivot is zero, which a random matrix shows with probability
/// 2^-253: pivoting would only add branches on secrets.
fn invert(matrix: &[[Scalar; 4]; 4]) -> Option<Zeroizing<[[Scalar; 4]; 4]>> {
    let mut left = Zeroizing::new(*matrix);
    let mut right = Zeroizing::new([[Scalar::ZERO; 4]; 4]);
    for (i, row) in right.iter_mut().enumerate() {
        row[i] = Scalar::from_u64(1);
    }
    for pivot in 0..4 {
        if left[pivot][pivot].is_zero() {
            return None;
        }
        let inverse = left[pivot][pivot].invert();
        for column in 0..4 {
            left[pivot][column] = left[pivot][column].mul(inverse);
            right[pivot][column] = right[pivot][column].mul(inverse);
        }
        for row in (0..4).filter(|row| *row != pivot) {
            let factor = left[row][pivot];
            for column in 0..4 {
                left[row][column] = left[row][column].sub(factor.mul(left[pivot][column]));
                right[row][column] = right[row][column].sub(factor.mul(right[pivot][column]));
            }
        }
    }
    Some(right)
}
