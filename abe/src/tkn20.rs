//! The scheme's equations, in the paper's letters.
//!
//! Tomida, Kawahara and Nishimaki's CP-ABE (eprint 2019/966), the instance under the DLIN assumption (k = 2), with the
//! Boneh-Katz transform for chosen-ciphertext security; byte for byte as `docs/formats.md` has it. One algorithm a file:
//!
//! - [`setup`]: A, B, W, k -> public key, system secret key;
//! - [`keygen`]: attributes -> k1 = \[As\]2, k2, and per label k3;
//! - [`encapsulate`]: policy, r, r_j, shares -> c1, c2\[j\], c3\[i\] and the key K in GT;
//! - [`decapsulate`]: 4d + 7 pairings in one product -> K;
//! - [`boneh_katz`]: K and a hidden seed -> id, tag and envelope, and back;
//! - [`oracle`]: the points U0, U1 of a label, cached within a bound; [`keys`]: the three keys and their bytes.
//!
//! Scalar matrices are written `[[Scalar; columns]; rows]`.

pub(crate) mod boneh_katz;
pub(crate) mod decapsulate;
pub(crate) mod encapsulate;
pub(crate) mod keygen;
pub(crate) mod keys;
pub(crate) mod oracle;
pub(crate) mod setup;

use crate::curve::Scalar;

/// `a . b`, constant time.
pub(crate) fn dot<const N: usize>(a: &[Scalar; N], b: &[Scalar; N]) -> Scalar {
    a.iter().zip(b).fold(Scalar::ZERO, |sum, (a, b)| sum.add(a.mul(*b)))
}
