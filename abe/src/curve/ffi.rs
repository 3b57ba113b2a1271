//! The one door to blst: scalars, points and pairings as plain safe values.
//!
//! Everything `unsafe` in this crate is in this file, and all of it has the same shape: a C function that reads
//! fixed-size structs through pointers that come from live Rust references, writes one fixed-size struct, keeps no
//! pointer, and allocates nothing. Each block says what else it leans on. The wrapped types are plain integers in C
//! layout, so every bit pattern is a valid value for Rust; whether it is a point of the subgroup is for those who read
//! points to check.
//!
//! Law: nothing here branches on a scalar or a coordinate unless its name ends in `_vartime`, but for telling the
//! identity, which an honest secret point is with negligible probability. blst's `p1_mult`, `p2_mult`, additions named
//! `add_or_double`, `fr_inverse` and `to_affine` are constant time; its Pippenger and its batched sums are not.
//!
//! Source: blst 0.3.17 (`bindings/blst.h`); curve constants and hash-to-curve as in RFC 9380 §8.8.1.
#![allow(unsafe_code)]

use blst::{
    BLST_ERROR, blst_bendian_from_fp, blst_final_exp, blst_fp, blst_fp_cneg, blst_fp_from_bendian, blst_fp_mul,
    blst_fp12, blst_fp12_cyclotomic_sqr, blst_fp12_in_group, blst_fp12_is_one, blst_fp12_mul, blst_fp12_one, blst_fr,
    blst_fr_add, blst_fr_cneg, blst_fr_from_scalar, blst_fr_from_uint64, blst_fr_inverse, blst_fr_mul, blst_fr_sub,
    blst_hash_to_g1, blst_miller_loop_n, blst_p1, blst_p1_add_or_double, blst_p1_add_or_double_affine, blst_p1_affine,
    blst_p1_affine_in_g1, blst_p1_affine_is_inf, blst_p1_affine_serialize, blst_p1_deserialize, blst_p1_double,
    blst_p1_from_affine, blst_p1_generator, blst_p1_mult, blst_p1_to_affine, blst_p1s_add, blst_p1s_mult_pippenger,
    blst_p1s_mult_pippenger_scratch_sizeof, blst_p1s_to_affine, blst_p2, blst_p2_add_or_double, blst_p2_affine,
    blst_p2_affine_in_g2, blst_p2_affine_is_inf, blst_p2_affine_serialize, blst_p2_deserialize, blst_p2_from_affine,
    blst_p2_generator, blst_p2_mult, blst_p2_to_affine, blst_scalar, blst_scalar_fr_check, blst_scalar_from_be_bytes,
    blst_scalar_from_fr, blst_scalar_from_lendian,
};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{DefaultIsZeroes, Zeroize};

/// Bytes of a scalar on the wire, big-endian.
pub const SCALAR_BYTES: usize = 32;
/// Bytes of an uncompressed G1 point: `x || y`.
pub const G1_BYTES: usize = 96;
/// Bytes of an uncompressed G2 point: `x.c1 || x.c0 || y.c1 || y.c0`.
pub const G2_BYTES: usize = 192;
/// Bytes of a GT element: twelve coefficients, highest first at every level of the tower.
pub const GT_BYTES: usize = 576;
/// Bits of the group order r.
const SCALAR_BITS: usize = 255;

// === Scalar ===

/// An integer mod r, kept in blst's Montgomery form (R = 2^256).
#[derive(Clone, Copy, Default)]
pub struct Scalar(blst_fr);

impl Scalar {
    /// Zero.
    pub const ZERO: Self = Self(blst_fr { l: [0; 4] });

    /// The scalar `value * 2^-256 mod r`: the limbs (little-endian) are taken as the Montgomery form itself.
    pub const fn from_montgomery_limbs(limbs: [u64; 4]) -> Self {
        Self(blst_fr { l: limbs })
    }

    /// A small number.
    pub fn from_u64(value: u64) -> Self {
        let limbs = [value, 0, 0, 0];
        let mut out = blst_fr::default();
        // SAFETY: reads four limbs from an array of four, writes one blst_fr.
        unsafe { blst_fr_from_uint64(&mut out, limbs.as_ptr()) };
        Self(out)
    }

    /// Reads 32 big-endian bytes; `None` when the number is not below r.
    pub fn from_be_bytes(bytes: &[u8; SCALAR_BYTES]) -> Option<Self> {
        let mut little = *bytes;
        little.reverse();
        let mut scalar = blst_scalar::default();
        let mut out = blst_fr::default();
        // SAFETY: reads 32 bytes from an array of 32; the other pointers are to live structs of the named types.
        let canonical = unsafe {
            blst_scalar_from_lendian(&mut scalar, little.as_ptr());
            blst_scalar_fr_check(&scalar)
        };
        little.zeroize();
        if !canonical {
            return None;
        }
        // SAFETY: both pointers are to live structs of the named types.
        unsafe { blst_fr_from_scalar(&mut out, &scalar) };
        Some(Self(out))
    }

    /// Reads a big-endian number of any size up to 64 bytes and reduces it mod r.
    pub fn from_be_bytes_reduced(bytes: &[u8]) -> Self {
        assert!(bytes.len() <= 64, "no caller reduces more than one hash");
        if bytes.is_empty() {
            return Self::ZERO;
        }
        let mut scalar = blst_scalar::default();
        let mut out = blst_fr::default();
        // SAFETY: the length passed is the length of the slice. blst reduces mod r; its result is false only for zero,
        // which is a scalar like any other here.
        unsafe {
            blst_scalar_from_be_bytes(&mut scalar, bytes.as_ptr(), bytes.len());
            blst_fr_from_scalar(&mut out, &scalar);
        }
        Self(out)
    }

    /// The canonical number, big-endian.
    pub fn to_be_bytes(self) -> [u8; SCALAR_BYTES] {
        let mut bytes = self.to_le_bytes();
        bytes.reverse();
        bytes
    }

    /// The canonical number, little-endian.
    pub fn to_le_bytes(self) -> [u8; SCALAR_BYTES] {
        let mut scalar = blst_scalar::default();
        // SAFETY: both pointers are to live structs of the named types.
        unsafe { blst_scalar_from_fr(&mut scalar, &self.0) };
        scalar.b
    }

    /// `self + other` mod r.
    pub fn add(self, other: Self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: all pointers are to live blst_fr values.
        unsafe { blst_fr_add(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `self - other` mod r.
    pub fn sub(self, other: Self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: all pointers are to live blst_fr values.
        unsafe { blst_fr_sub(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `self * other` mod r.
    pub fn mul(self, other: Self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: all pointers are to live blst_fr values.
        unsafe { blst_fr_mul(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `-self` mod r.
    pub fn neg(self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: all pointers are to live blst_fr values.
        unsafe { blst_fr_cneg(&mut out, &self.0, true) };
        Self(out)
    }

    /// The inverse, in constant time; zero for zero.
    pub fn invert(self) -> Self {
        let mut out = blst_fr::default();
        // SAFETY: all pointers are to live blst_fr values.
        unsafe { blst_fr_inverse(&mut out, &self.0) };
        Self(out)
    }

    /// Compares in constant time.
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl ConstantTimeEq for Scalar {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.l.ct_eq(&other.0.l)
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for Scalar {}

impl DefaultIsZeroes for Scalar {}

// === Base field (only what tables and endomorphisms need) ===

/// An integer mod p, Montgomery form.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Fp(blst_fp);

impl Fp {
    /// Reads 48 big-endian bytes and reduces them mod p.
    pub fn from_be_bytes(bytes: &[u8; 48]) -> Self {
        let mut out = blst_fp::default();
        // SAFETY: reads 48 bytes from an array of 48, writes one blst_fp.
        unsafe { blst_fp_from_bendian(&mut out, bytes.as_ptr()) };
        Self(out)
    }

    #[cfg(test)]
    fn neg(&self) -> Self {
        let mut out = blst_fp::default();
        // SAFETY: all pointers are to live blst_fp values.
        unsafe { blst_fp_cneg(&mut out, &self.0, true) };
        Self(out)
    }
}

// === G1 ===

/// A point of E(Fp) in Jacobian coordinates.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub struct G1(blst_p1);

/// A point of E(Fp) in affine coordinates; the identity is (0, 0).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct G1Affine(blst_p1_affine);

impl G1 {
    /// The identity.
    pub const IDENTITY: Self =
        Self(blst_p1 { x: blst_fp { l: [0; 6] }, y: blst_fp { l: [0; 6] }, z: blst_fp { l: [0; 6] } });

    /// The standard generator.
    pub fn generator() -> Self {
        // SAFETY: blst returns a pointer to a constant of the library, valid for ever.
        Self(unsafe { *blst_p1_generator() })
    }

    /// `self + other`, right for every pair of points, in constant time.
    pub fn add(&self, other: &Self) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: all pointers are to live blst_p1 values.
        unsafe { blst_p1_add_or_double(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `self + other`, right for every pair of points, in constant time.
    pub fn add_affine(&self, other: &G1Affine) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: all pointers are to live values of the named types.
        unsafe { blst_p1_add_or_double_affine(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `2 self`, in constant time.
    pub fn double(&self) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: all pointers are to live blst_p1 values.
        unsafe { blst_p1_double(&mut out, &self.0) };
        Self(out)
    }

    /// `scalar * self` in constant time. Uses the endomorphism, so `self` must be in the subgroup of order r.
    pub fn mul(&self, scalar: &Scalar) -> Self {
        let mut bytes = scalar.to_le_bytes();
        let mut out = blst_p1::default();
        // SAFETY: reads 255 bits from an array of 256; the other pointers are to live blst_p1 values.
        unsafe { blst_p1_mult(&mut out, &self.0, bytes.as_ptr(), SCALAR_BITS) };
        bytes.zeroize();
        Self(out)
    }

    /// The affine form, by one inversion in constant time.
    pub fn to_affine(self) -> G1Affine {
        let mut out = blst_p1_affine::default();
        // SAFETY: all pointers are to live values of the named types.
        unsafe { blst_p1_to_affine(&mut out, &self.0) };
        G1Affine(out)
    }

    /// Converts a batch with one inversion; `out` and `points` have one length.
    pub fn batch_to_affine(points: &[Self], out: &mut [G1Affine]) {
        assert_eq!(points.len(), out.len(), "one affine point per point");
        if points.is_empty() {
            return;
        }
        let list = [points.as_ptr().cast(), std::ptr::null()];
        // SAFETY: a list of one pointer and a null makes blst walk `points` as one contiguous array, which a slice of
        // transparent newtypes over blst_p1 is; `out` has room for as many points.
        unsafe { blst_p1s_to_affine(out.as_mut_ptr().cast(), list.as_ptr(), points.len()) };
    }

    /// The sum of affine points, by blst's batched affine additions. Not constant time in equal or opposite points.
    pub fn sum_vartime(points: &[G1Affine]) -> Self {
        let mut out = blst_p1::default();
        if points.is_empty() {
            return Self::IDENTITY;
        }
        let list = [points.as_ptr().cast(), std::ptr::null()];
        // SAFETY: as in `batch_to_affine`, `points` is one contiguous array of the given length.
        unsafe { blst_p1s_add(&mut out, list.as_ptr(), points.len()) };
        Self(out)
    }

    /// `sum scalars[i] * points[i]` by Pippenger's method. Variable time in the scalars: public ones only.
    pub fn msm_vartime(points: &[G1Affine], scalars: &[Scalar]) -> Self {
        assert_eq!(points.len(), scalars.len(), "one scalar per point");
        if points.is_empty() {
            return Self::IDENTITY;
        }
        let bytes: Vec<u8> = scalars.iter().flat_map(|s| s.to_le_bytes()).collect();
        let point_list = [points.as_ptr().cast(), std::ptr::null()];
        let scalar_list = [bytes.as_ptr(), std::ptr::null()];
        let mut out = blst_p1::default();
        // SAFETY: points and scalars are contiguous arrays of `points.len()` items (a scalar is 32 bytes, the stride
        // of 255 bits); the scratch has the size in bytes that blst asks for, rounded up to whole limbs.
        unsafe {
            let scratch_bytes = blst_p1s_mult_pippenger_scratch_sizeof(points.len());
            let mut scratch = vec![0u64; scratch_bytes.div_ceil(8)];
            blst_p1s_mult_pippenger(
                &mut out,
                point_list.as_ptr(),
                points.len(),
                scalar_list.as_ptr(),
                SCALAR_BITS,
                scratch.as_mut_ptr(),
            );
        }
        Self(out)
    }

    /// RFC 9380 hash_to_curve, suite `BLS12381G1_XMD:SHA-256_SSWU_RO_` with the caller's domain tag.
    pub fn hash(message: &[u8], domain: &[u8]) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: each pointer goes with the length of its slice; a null `aug` goes with length 0.
        unsafe {
            blst_hash_to_g1(
                &mut out,
                message.as_ptr(),
                message.len(),
                domain.as_ptr(),
                domain.len(),
                std::ptr::null(),
                0,
            );
        }
        Self(out)
    }
}

impl Zeroize for G1 {
    fn zeroize(&mut self) {
        self.0.x.l.zeroize();
        self.0.y.l.zeroize();
        self.0.z.l.zeroize();
    }
}

impl G1Affine {
    /// The identity.
    pub const IDENTITY: Self = Self(blst_p1_affine { x: blst_fp { l: [0; 6] }, y: blst_fp { l: [0; 6] } });

    /// Reads an uncompressed point and checks encoding and curve equation, *not* the subgroup.
    pub fn from_bytes_unchecked_subgroup(bytes: &[u8; G1_BYTES]) -> Option<Self> {
        // blst follows the compression bit into the 48-byte format; this slot never holds that.
        if bytes[0] & 0x80 != 0 {
            return None;
        }
        let mut out = blst_p1_affine::default();
        // SAFETY: reads 96 bytes (the compression bit is clear) from an array of 96, writes one blst_p1_affine.
        let status = unsafe { blst_p1_deserialize(&mut out, bytes.as_ptr()) };
        (status == BLST_ERROR::BLST_SUCCESS).then_some(Self(out))
    }

    /// The uncompressed encoding.
    pub fn to_bytes(self) -> [u8; G1_BYTES] {
        let mut out = [0; G1_BYTES];
        // SAFETY: writes 96 bytes to an array of 96.
        unsafe { blst_p1_affine_serialize(out.as_mut_ptr(), &self.0) };
        out
    }

    /// Whether the point, which is on the curve, is in the subgroup of order r.
    pub fn in_subgroup(&self) -> bool {
        // SAFETY: the pointer is to a live blst_p1_affine.
        unsafe { blst_p1_affine_in_g1(&self.0) }
    }

    /// Whether this is the identity.
    pub fn is_identity(&self) -> bool {
        // SAFETY: the pointer is to a live blst_p1_affine.
        unsafe { blst_p1_affine_is_inf(&self.0) }
    }

    /// `(factor * x, y)`: with a cube root of unity this is the curve's endomorphism.
    pub fn scale_x(&self, factor: &Fp) -> Self {
        let mut out = *self;
        // SAFETY: all pointers are to live blst_fp values.
        unsafe { blst_fp_mul(&mut out.0.x, &self.0.x, &factor.0) };
        out
    }

    /// Negates when `flag` is set, in constant time.
    pub fn conditional_neg(&self, flag: Choice) -> Self {
        let mut out = *self;
        // SAFETY: all pointers are to live blst_fp values; blst selects by mask, without a branch on the flag.
        unsafe { blst_fp_cneg(&mut out.0.y, &self.0.y, flag.unwrap_u8() == 1) };
        out
    }
}

impl From<G1Affine> for G1 {
    fn from(point: G1Affine) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: all pointers are to live values of the named types.
        unsafe { blst_p1_from_affine(&mut out, &point.0) };
        Self(out)
    }
}

impl G1Affine {
    /// Keeps what `self` holds and ors in `other` under `mask` (all ones or zero): one step of a table scan.
    #[inline]
    pub fn mask_assign(&mut self, other: &Self, mask: u64) {
        for i in 0..6 {
            self.0.x.l[i] |= other.0.x.l[i] & mask;
            self.0.y.l[i] |= other.0.y.l[i] & mask;
        }
    }
}

impl Zeroize for G1Affine {
    fn zeroize(&mut self) {
        self.0.x.l.zeroize();
        self.0.y.l.zeroize();
    }
}

// === G2 ===

/// A point of E'(Fp2) in Jacobian coordinates.
#[derive(Clone, Copy, Default)]
pub struct G2(blst_p2);

/// A point of E'(Fp2) in affine coordinates; the identity is (0, 0).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct G2Affine(blst_p2_affine);

impl G2 {
    /// The standard generator.
    pub fn generator() -> Self {
        // SAFETY: blst returns a pointer to a constant of the library, valid for ever.
        Self(unsafe { *blst_p2_generator() })
    }

    /// `self + other`, right for every pair of points, in constant time.
    pub fn add(&self, other: &Self) -> Self {
        let mut out = blst_p2::default();
        // SAFETY: all pointers are to live blst_p2 values.
        unsafe { blst_p2_add_or_double(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// `scalar * self` in constant time; `self` must be in the subgroup of order r.
    pub fn mul(&self, scalar: &Scalar) -> Self {
        let mut bytes = scalar.to_le_bytes();
        let mut out = blst_p2::default();
        // SAFETY: reads 255 bits from an array of 256; the other pointers are to live blst_p2 values.
        unsafe { blst_p2_mult(&mut out, &self.0, bytes.as_ptr(), SCALAR_BITS) };
        bytes.zeroize();
        Self(out)
    }

    /// The affine form, by one inversion in constant time.
    pub fn to_affine(self) -> G2Affine {
        let mut out = blst_p2_affine::default();
        // SAFETY: all pointers are to live values of the named types.
        unsafe { blst_p2_to_affine(&mut out, &self.0) };
        G2Affine(out)
    }
}

impl From<G2Affine> for G2 {
    fn from(point: G2Affine) -> Self {
        let mut out = blst_p2::default();
        // SAFETY: all pointers are to live values of the named types.
        unsafe { blst_p2_from_affine(&mut out, &point.0) };
        Self(out)
    }
}

impl G2Affine {
    /// Reads an uncompressed point and checks encoding, curve equation and membership in the subgroup of order r.
    pub fn from_bytes(bytes: &[u8; G2_BYTES]) -> Option<Self> {
        if bytes[0] & 0x80 != 0 {
            return None;
        }
        let mut out = blst_p2_affine::default();
        // SAFETY: reads 192 bytes (the compression bit is clear) from an array of 192, writes one blst_p2_affine.
        let status = unsafe { blst_p2_deserialize(&mut out, bytes.as_ptr()) };
        let point = Self(out);
        (status == BLST_ERROR::BLST_SUCCESS && point.in_subgroup()).then_some(point)
    }

    /// The uncompressed encoding.
    pub fn to_bytes(self) -> [u8; G2_BYTES] {
        let mut out = [0; G2_BYTES];
        // SAFETY: writes 192 bytes to an array of 192.
        unsafe { blst_p2_affine_serialize(out.as_mut_ptr(), &self.0) };
        out
    }

    /// Whether the point, which is on the curve, is in the subgroup of order r.
    pub fn in_subgroup(&self) -> bool {
        // SAFETY: the pointer is to a live blst_p2_affine.
        unsafe { blst_p2_affine_in_g2(&self.0) }
    }

    /// Whether this is the identity.
    pub fn is_identity(&self) -> bool {
        // SAFETY: the pointer is to a live blst_p2_affine.
        unsafe { blst_p2_affine_is_inf(&self.0) }
    }
}

impl Zeroize for G2Affine {
    fn zeroize(&mut self) {
        self.0.x.fp[0].l.zeroize();
        self.0.x.fp[1].l.zeroize();
        self.0.y.fp[0].l.zeroize();
        self.0.y.fp[1].l.zeroize();
    }
}

// === GT ===

/// An element of Fp12; a member of GT once [`Gt::in_group`] or a final exponentiation said so.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Gt(blst_fp12);

impl Gt {
    /// One.
    pub fn one() -> Self {
        // SAFETY: blst returns a pointer to a constant of the library, valid for ever.
        Self(unsafe { *blst_fp12_one() })
    }

    /// `self * other`.
    pub fn mul(&self, other: &Self) -> Self {
        let mut out = blst_fp12::default();
        // SAFETY: all pointers are to live blst_fp12 values.
        unsafe { blst_fp12_mul(&mut out, &self.0, &other.0) };
        Self(out)
    }

    /// The square, for members of the cyclotomic subgroup only (every member of GT is one).
    pub fn cyclotomic_square(&self) -> Self {
        let mut out = blst_fp12::default();
        // SAFETY: all pointers are to live blst_fp12 values.
        unsafe { blst_fp12_cyclotomic_sqr(&mut out, &self.0) };
        Self(out)
    }

    /// Whether this is a member of GT, the subgroup of order r.
    pub fn in_group(&self) -> bool {
        // SAFETY: the pointer is to a live blst_fp12.
        unsafe { blst_fp12_in_group(&self.0) }
    }

    /// Whether this is one.
    pub fn is_one(&self) -> bool {
        // SAFETY: the pointer is to a live blst_fp12.
        unsafe { blst_fp12_is_one(&self.0) }
    }

    /// Reads twelve coefficients, highest first at every level; `None` when one is not below p. No group check.
    pub fn from_bytes(bytes: &[u8; GT_BYTES]) -> Option<Self> {
        let mut out = blst_fp12::default();
        for (chunk, (i, j, k)) in bytes.as_chunks::<48>().0.iter().zip(gt_coefficient_order()) {
            let coefficient = Fp::from_be_bytes(chunk);
            // blst reduces silently: what does not come back as it went in was not below p.
            if fp_to_bytes(&coefficient.0) != *chunk {
                return None;
            }
            out.fp6[i].fp2[j].fp[k] = coefficient.0;
        }
        Some(Self(out))
    }

    /// Twelve coefficients, highest first at every level.
    pub fn to_bytes(self) -> [u8; GT_BYTES] {
        let mut out = [0; GT_BYTES];
        for (chunk, (i, j, k)) in out.as_chunks_mut::<48>().0.iter_mut().zip(gt_coefficient_order()) {
            *chunk = fp_to_bytes(&self.0.fp6[i].fp2[j].fp[k]);
        }
        out
    }

    /// Keeps what `self` holds and ors in `other` under `mask` (all ones or zero): one step of a table scan.
    #[inline]
    pub fn mask_assign(&mut self, other: &Self, mask: u64) {
        for (i, j, k) in gt_coefficient_order() {
            for limb in 0..6 {
                self.0.fp6[i].fp2[j].fp[k].l[limb] |= other.0.fp6[i].fp2[j].fp[k].l[limb] & mask;
            }
        }
    }

    /// All limbs zero: what a table scan starts from. Not a member of GT.
    pub fn zeroed() -> Self {
        // Not `default()`: that is one.
        let mut out = Self::one();
        out.zeroize();
        out
    }
}

impl Zeroize for Gt {
    fn zeroize(&mut self) {
        for (i, j, k) in gt_coefficient_order() {
            self.0.fp6[i].fp2[j].fp[k].l.zeroize();
        }
    }
}

fn fp_to_bytes(value: &blst_fp) -> [u8; 48] {
    let mut out = [0; 48];
    // SAFETY: writes 48 bytes to an array of 48.
    unsafe { blst_bendian_from_fp(out.as_mut_ptr(), value) };
    out
}

fn gt_coefficient_order() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..12).map(|n| (1 - n / 6, 2 - n % 6 / 2, 1 - n % 2))
}

// === Pairings ===

/// The product of Miller loops over pairs, before the final exponentiation. Pairs with an identity contribute one.
///
/// blst's loop shares squarings among up to 16 pairs and does not look for identities, so they are left out here.
pub fn miller_loop(pairs: &[(G1Affine, G2Affine)]) -> Gt {
    let met = |(p, q): &&(G1Affine, G2Affine)| !p.is_identity() && !q.is_identity();
    // Reserved whole: a vector that grows leaves its old buffer behind.
    let mut g1: Vec<G1Affine> = Vec::with_capacity(pairs.len());
    let mut g2: Vec<G2Affine> = Vec::with_capacity(pairs.len());
    g1.extend(pairs.iter().filter(met).map(|(p, _)| *p));
    g2.extend(pairs.iter().filter(met).map(|(_, q)| *q));
    if g1.is_empty() {
        return Gt::one();
    }
    let g1_list = [g1.as_ptr().cast(), std::ptr::null()];
    let g2_list = [g2.as_ptr().cast(), std::ptr::null()];
    let mut out = blst_fp12::default();
    // SAFETY: both lists name one contiguous array of `g1.len()` points (a pointer and a null: blst walks on from it) of
    // transparent newtypes.
    unsafe { blst_miller_loop_n(&mut out, g2_list.as_ptr(), g1_list.as_ptr(), g1.len()) };
    // Both sides carry points of keys.
    g1.zeroize();
    g2.zeroize();
    Gt(out)
}

/// Raises to 3 (p^12 - 1) / r: the cube of the textbook pairing, the same as the reference implementation's.
pub fn final_exponentiation(value: &Gt) -> Gt {
    let mut out = blst_fp12::default();
    // SAFETY: all pointers are to live blst_fp12 values.
    unsafe { blst_final_exp(&mut out, &value.0) };
    Gt(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_order_three_are_refused() {
        // (0, 2) and (0, -2): on the curve, and the only torsion small enough to upset blst's batched sums.
        let mut two = [0; G1_BYTES];
        two[G1_BYTES - 1] = 2;
        let mut minus_two = [0; G1_BYTES];
        minus_two[48..].copy_from_slice(&fp_to_bytes(&Fp::from_be_bytes(two[48..].try_into().unwrap()).neg().0));
        for point in [two, minus_two] {
            assert!(G1Affine::from_bytes_unchecked_subgroup(&point).is_none());
        }
        assert_eq!(minus_two[48], 0x1a, "p - 2");
    }
}
