//! Encapsulation: a policy and an id to the columns of a ciphertext's header and the key K in GT.
//!
//! For wire i with label l, value v, repetition index j and share `w_i = [WB]1 share_i`:
//! positive: `c3 = (v U0 + U1) r_j + w_i`; negative: `c3 = U0 r_j - w_i` and `c3neg = U1 r_j + v w_i`.
//!
//! Constant time in r, r_j and the shares. Values and labels are public. Draws come in the reference's order: r, each
//! r_j, then one vector per AND gate from the output down.

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::keys::{PublicKey, PublicParts};
use super::oracle::Points;
use crate::attributes::BONEH_KATZ_LABEL;
use crate::ciphertext::Columns;
use crate::curve::msm::{Recoded, sum_of_products, tables};
use crate::curve::{G1, G1_BYTES, G1Affine, G2, G2_BYTES, Gt, Scalar};
use crate::error::Error;
use crate::hash::{Matrix3x2, random_scalar};
use crate::policy::Policy;
use crate::policy::formula::Share;

/// What encapsulation makes.
pub struct Encapsulation {
    pub columns: Columns,
    pub key: Zeroizing<Gt>,
}

/// A wire of the augmented policy.
struct WireRef<'a> {
    label: &'a [u8],
    value: Scalar,
    positive: bool,
    index: usize,
}

/// A secret scalar, as it is and recoded.
struct RecodedScalar {
    scalar: Zeroizing<Scalar>,
    recoded: Recoded,
}

impl RecodedScalar {
    fn new(scalar: Scalar) -> Self {
        Self { recoded: Recoded::new(&scalar), scalar: Zeroizing::new(scalar) }
    }
}

/// Encapsulates under `policy` and-ed with the Boneh-Katz wire of value `id`.
pub fn encapsulate(
    rng: &mut impl CryptoRng,
    public: &PublicKey,
    policy: &Policy,
    id: Scalar,
) -> Result<Encapsulation, Error> {
    let parts = public.parts();
    let indexes = &policy.indexes;
    let r = random_share(rng)?;
    // Reserved whole: a vector that grows leaves its old buffer behind.
    let mut r_j = Vec::with_capacity(indexes.depth);
    for _ in 0..indexes.depth {
        r_j.push(random_share(rng)?);
    }
    let shares = policy.formula.augmented().share(&r, || random_share(rng))?;

    let r_j_recoded: Vec<[RecodedScalar; 2]> =
        r_j.iter().map(|share| share.each_ref().map(|entry| RecodedScalar::new(*entry))).collect();
    let mut columns = Columns {
        c1: b2_product(parts, &r),
        c2: r_j.iter().map(|share| b2_product(parts, share)).collect(),
        c3: Vec::with_capacity(shares.len()),
        c3neg: Vec::with_capacity(shares.len()),
    };
    let users = policy.wires.iter().zip(&indexes.of_wire).map(|(wire, index)| WireRef {
        label: wire.label.as_bytes(),
        value: wire.scalar,
        positive: wire.positive,
        index: *index,
    });
    let own = WireRef { label: BONEH_KATZ_LABEL, value: id, positive: true, index: 0 };
    for (wire, share) in users.chain([own]).zip(shares.iter()) {
        let (c3, c3neg) = wire_columns(parts, &wire, &r_j_recoded[wire.index], share);
        columns.c3.push(c3);
        columns.c3neg.push(c3neg);
    }
    let key = Zeroizing::new(Gt::multi_exp(&[(&parts.btk[0], &r[0]), (&parts.btk[1], &r[1])]));
    Ok(Encapsulation { columns, key })
}

fn random_share(rng: &mut impl CryptoRng) -> Result<Zeroizing<Share>, Error> {
    Ok(Zeroizing::new([random_scalar(rng)?, random_scalar(rng)?]))
}

/// `[B]2 share`.
fn b2_product(parts: &PublicParts, share: &Share) -> [[u8; G2_BYTES]; 4] {
    parts.b2.map(|row| {
        let [first, second] = row.map(G2::from);
        first.mul(&share[0]).add(&second.mul(&share[1])).to_affine().to_bytes()
    })
}

type Column = [[u8; G1_BYTES]; 3];

fn wire_columns(
    parts: &PublicParts,
    wire: &WireRef<'_>,
    r_j: &[RecodedScalar; 2],
    share: &Share,
) -> (Column, Option<Column>) {
    if wire.positive {
        let w = wb1_product(parts, share);
        return (positive_column(parts, wire, r_j, w), None);
    }
    let [u0, u1] = *parts.oracle.label(wire.label);
    let minus_w = wb1_product(parts, &Zeroizing::new(share.map(Scalar::neg)));
    let v_w = wb1_product(parts, &Zeroizing::new(share.map(|entry| entry.mul(wire.value))));
    let scalars = [r_j.each_ref().map(|entry| &entry.recoded)];
    (column(&[&u0], &scalars, minus_w), Some(column(&[&u1], &scalars, v_w)))
}

/// `[WB]1 share`.
fn wb1_product(parts: &PublicParts, share: &Share) -> [G1; 3] {
    let recoded = share.each_ref().map(Recoded::new);
    parts
        .wb1_combs()
        .each_ref()
        .map(|row| row.iter().zip(&recoded).fold(G1::IDENTITY, |sum, (comb, scalar)| comb.add_product(sum, scalar)))
}

/// `(v U0 + U1) r_j + w`, serialised.
fn positive_column(parts: &PublicParts, wire: &WireRef<'_>, r_j: &[RecodedScalar; 2], w: [G1; 3]) -> Column {
    match parts.oracle.value(wire.label, &wire.value) {
        Points::Joined(m) => column(&[&m], &[r_j.each_ref().map(|entry| &entry.recoded)], w),
        Points::Apart(points) => {
            let [u0, u1] = &*points;
            let v_r_j = r_j.each_ref().map(|entry| Recoded::new(&Zeroizing::new(entry.scalar.mul(wire.value))));
            column(&[u0, u1], &[v_r_j.each_ref(), r_j.each_ref().map(|entry| &entry.recoded)], w)
        }
    }
}

/// `M_1 s_1 + M_2 s_2 + .. + w`, serialised.
fn column(matrices: &[&Matrix3x2<G1Affine>], scalars: &[[&Recoded; 2]], w: [G1; 3]) -> Column {
    let tables: Vec<_> = matrices.iter().map(|m| tables(m.as_flattened())).collect();
    let sums: [G1; 3] = std::array::from_fn(|row| {
        let of_row: Vec<_> = tables.iter().flat_map(|tables| &tables[2 * row..2 * row + 2]).collect();
        sum_of_products(&of_row, scalars.as_flattened()).add(&w[row])
    });
    let mut affine = [G1Affine::IDENTITY; 3];
    G1::batch_to_affine(&sums, &mut affine);
    affine.map(G1Affine::to_bytes)
}
