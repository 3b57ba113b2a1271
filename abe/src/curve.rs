//! BLS12-381 as the scheme uses it: scalars, G1, G2, GT and the sums of products over them.
//!
//! [`ffi`] is the door to blst and the only unsafe code; [`msm`] builds the constant-time products of points and
//! secret scalars that encryption and key generation spend their time in.
pub(crate) mod ffi;
mod gt;
pub(crate) mod msm;

pub(crate) use ffi::{
    G1, G1_BYTES, G1Affine, G2, G2_BYTES, G2Affine, GT_BYTES, Gt, SCALAR_BYTES, Scalar, final_exponentiation,
    miller_loop,
};
