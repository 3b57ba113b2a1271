//! Single operations of the curve, for benchmarks: what a figure is made of and how near its floor it is.

use std::hint::black_box;

use crate::curve::msm::{Comb, Recoded, Table, sum_of_products, tables};
use crate::curve::{G1, G1Affine, G2, G2Affine, Gt, Scalar, final_exponentiation, miller_loop};

/// Points, scalars and tables to run single operations on. Every method runs its operation once.
pub struct Units {
    scalar: Scalar,
    recoded: Recoded,
    g1: G1,
    g2: G2,
    pairs: Vec<(G1Affine, G2Affine)>,
    unreduced: Gt,
    gt: Gt,
    points: [G1Affine; 6],
    tables: Vec<Table>,
    comb: Comb,
}

impl Units {
    /// Prepares inputs that are the same in every run.
    pub fn new() -> Self {
        let scalar = crate::hash::hash_value(b"a scalar for benchmarks");
        let g1 = G1::hash(b"a point for benchmarks", b"benchmark").mul(&scalar);
        let g2 = G2::generator().mul(&scalar);
        let point = |n: u64| g1.mul(&Scalar::from_u64(n)).to_affine();
        let pairs: Vec<_> = (1..=11).map(|n| (point(n), g2.mul(&Scalar::from_u64(n)).to_affine())).collect();
        let unreduced = miller_loop(&pairs);
        let points = std::array::from_fn(|n| point(n as u64 + 2));
        Self {
            scalar,
            recoded: Recoded::new(&scalar),
            g1,
            g2,
            unreduced,
            gt: final_exponentiation(&unreduced),
            points,
            tables: tables(&points),
            comb: Comb::new(&points[0]),
            pairs,
        }
    }

    /// The Miller loop of one pair.
    pub fn miller_loop(&self) {
        black_box(miller_loop(black_box(&self.pairs[..1])));
    }

    /// The Miller loop of eleven pairs in one: what a decryption without repeated labels runs.
    pub fn miller_loop_11(&self) {
        black_box(miller_loop(black_box(&self.pairs)));
    }

    /// The final exponentiation.
    pub fn final_exp(&self) {
        black_box(final_exponentiation(black_box(&self.unreduced)));
    }

    /// blst's constant-time product of a point of G1 and a scalar.
    pub fn g1_mult(&self) {
        black_box(black_box(&self.g1).mul(&self.scalar));
    }

    /// blst's constant-time product of a point of G2 and a scalar.
    pub fn g2_mult(&self) {
        black_box(black_box(&self.g2).mul(&self.scalar));
    }

    /// The subgroup check of a point of G1.
    pub fn in_g1(&self) {
        black_box(black_box(&self.points[1]).in_subgroup());
    }

    /// The subgroup check of a point of G2.
    pub fn in_g2(&self) {
        black_box(black_box(&self.pairs[1].1).in_subgroup());
    }

    /// One hash to G1; a label's oracle takes twelve.
    pub fn hash_to_g1(&self) {
        black_box(G1::hash(black_box(b"k17"), b"a matrix entry [0, 0]").to_affine());
    }

    /// The tables of six points seen once: one wire of an encryption.
    pub fn g1_tables_6(&self) {
        black_box(tables(black_box(&self.points)));
    }

    /// A constant-time sum of two products with tables at hand: one row of a wire.
    pub fn g1_sum_2(&self) {
        let scalars = [&self.recoded, &self.recoded];
        black_box(sum_of_products(&[&self.tables[0], &self.tables[1]], black_box(&scalars)));
    }

    /// A constant-time sum of three products with tables at hand: one column of a key part.
    pub fn g1_sum_3(&self) {
        let scalars = [&self.recoded, &self.recoded, &self.recoded];
        black_box(sum_of_products(&[&self.tables[0], &self.tables[1], &self.tables[2]], black_box(&scalars)));
    }

    /// A constant-time product with the comb of a fixed point.
    pub fn g1_comb(&self) {
        black_box(self.comb.add_product(G1::IDENTITY, black_box(&self.recoded)));
    }

    /// A product of two powers in GT.
    pub fn gt_exp_2(&self) {
        black_box(Gt::multi_exp(black_box(&[(&self.gt, &self.scalar), (&self.gt, &self.scalar)])));
    }
}

impl Default for Units {
    fn default() -> Self {
        Self::new()
    }
}
