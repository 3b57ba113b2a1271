//! Decapsulation: a key and a set of wires to the key K in GT, in one product of pairings.
//!
//! With `P = sum` of the used wires' c3 parts and `Q_j` the key parts of the wires with repetition index j:
//! `K = prod_j e(Q_j, c2[j]) e(P, k1)^-1 e(k2, c1)`, each `e` of two columns being the product over their rows: at most
//! `4 d + 7` pairings in one Miller loop with one final exponentiation.
//!
//! # Group checks and why checking sums of G1 is enough
//!
//! Every point of G2 is checked for the subgroup of order r, one by one: the pairing is bilinear only there. Of the
//! points of G1 in a ciphertext, every one is checked to be on the curve, and the three rows of P, the only values made
//! of them that meet a pairing, are checked for the subgroup. Let a used point be `c = g + t`, g of order r and t of
//! cofactor order (every point of the curve splits so, uniquely). All that happens to points before P is addition and
//! multiplication by public scalars, both of which keep the two parts apart; so `P = P_g + P_t` where P_g is what the
//! g-parts alone give, and the check passes only if `P_t = 0`. (blst's batched sums have incomplete formulas. They fail
//! for equal, opposite and identity points, which they look for, and for multiples that vanish, which takes a point of
//! order 8 or less; the curve's only ones are (0, 2) and (0, -2) of order 3, which reading refuses.) What enters the pairing is then exactly P_g, the value of
//! an honest ciphertext whose points are the g-parts. Nothing of the key meets t: key parts Q_j are sums of the key's
//! own points, all checked when the key was read. So an attacker learns nothing from t that it would not learn from a
//! ciphertext without it; what it can do is make a ciphertext with t in unused wires, or cancelling in the sum, that
//! this mode opens and the reference refuses, and only if it could make the honest one too (the tag covers all bytes).
//! One random combination of the points would not do better: the cofactor has factors 3 and 11, so a combination misses
//! with probability 1/3. [`PointChecks::Every`] checks each point, three per condition, which triples the
//! price of a decryption under 50 (figures: `docs/performance.md`).
//!
//! # Timing
//!
//! Attribute values, policies and ids are public, so which wires are used and by which scalars points are multiplied
//! may show. The key's points are secret: they pass only through additions and pairings, whose time does not depend on
//! coordinates but in the negligible case of equal or opposite points.

use zeroize::{Zeroize, Zeroizing};

use super::keys::{AttributeKey, KeyPart};
use crate::attributes::Value;
use crate::ciphertext::Ciphertext;
use crate::curve::msm::{Recoded, SUMMANDS_MAX};
use crate::curve::{G1, G1Affine, G2Affine, Gt, Scalar, final_exponentiation, miller_loop};
use crate::error::Error;

/// Which of a ciphertext's points of G1 are checked for their subgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PointChecks {
    /// The sums that enter a pairing: sound, and the default. See `docs/formats.md#group-checks` for the argument.
    #[default]
    Sums,
    /// Every point, as the reference does: three times the price for 50 conditions.
    Every,
}

/// What one wire adds: `P += c3 * c3[wire] + c3neg * c3neg[wire]` and `Q_index += k3 * part.k3 + part.k3wild`.
pub struct Term<'k> {
    pub wire: usize,
    pub index: usize,
    pub part: &'k KeyPart,
    pub c3: Scalar,
    pub c3neg: Option<Scalar>,
    pub k3: Scalar,
    /// The factor of k3wild, for parts that have one.
    pub k3wild: Scalar,
}

impl<'k> Term<'k> {
    /// The term of a wire of value `v` for the key part of its label.
    pub fn new(wire: usize, index: usize, positive: bool, v: Scalar, part: &'k KeyPart) -> Self {
        let one = Scalar::from_u64(1);
        if positive {
            let k3 = if part.value == Value::Wild { v } else { one };
            return Self { wire, index, part, c3: one, c3neg: None, k3, k3wild: one };
        }
        let y = match part.value {
            Value::Wild => v.add(one),
            Value::Is(y) => y,
        };
        // Zero only where the key has the negated value, so that the wire is not satisfied: nobody but an attack
        // comes here then, and may as well have the unscaled term.
        let difference = v.sub(y);
        let delta = if difference.is_zero() { one } else { difference.invert() };
        let k3 = if part.value == Value::Wild { delta.mul(y) } else { delta };
        Self { wire, index, part, c3: delta.mul(y), c3neg: Some(delta), k3, k3wild: delta }
    }
}

/// The term of one wire of the augmented policy with a key's part for it; nothing when the key lacks the label. The
/// number of conditions stands for the Boneh-Katz wire, whose value is `id`.
pub fn term<'k>(key: &'k AttributeKey, ciphertext: &Ciphertext, wire: usize, id: Scalar) -> Option<Term<'k>> {
    let policy = ciphertext.policy();
    match policy.wires.get(wire) {
        Some(own) => {
            let part = key.parts.get(own.label.as_bytes())?;
            Some(Term::new(wire, policy.indexes.of_wire[wire], own.positive, own.scalar, part))
        }
        None => Some(Term::new(wire, 0, true, id, key.boneh_katz_part())),
    }
}

/// K, from the given terms, whether they satisfy the policy or not.
///
/// Returns [`Error::Malformed`] for points that are not what they must be, all of it before the first pairing.
pub fn decapsulate(
    key: &AttributeKey,
    ciphertext: &Ciphertext,
    terms: &[Term<'_>],
    checks: PointChecks,
) -> Result<Zeroizing<Gt>, Error> {
    let c3 = read_c3(ciphertext, checks)?;
    let p = sum_c3(&c3, terms);
    if !p.iter().all(G1Affine::in_subgroup) {
        return Err(Error::Malformed {
            what: "c3",
            at: ciphertext.c3(0, 0).0,
            problem: "the sum of the used wires' points is not in G1",
        });
    }
    let mut pairs = Zeroizing::new(Vec::with_capacity(4 * ciphertext.repetitions() + 7));
    for index in 0..ciphertext.repetitions() {
        let c2 = read_g2_column("c2", |row| ciphertext.c2(index, row))?;
        // An index that no used wire has pairs with nothing; its points were checked all the same.
        if terms.iter().any(|term| term.index == index) {
            pairs.extend(sum_key_parts(key, terms, index).into_iter().zip(c2));
        }
    }
    let c1 = read_g2_column("c1", |row| ciphertext.c1(row))?;
    pairs.extend(key.k2.into_iter().zip(c1));
    let minus_p = p.map(|point| point.conditional_neg(subtle::Choice::from(1)));
    pairs.extend(minus_p.into_iter().zip(key.k1));
    Ok(Zeroizing::new(final_exponentiation(&miller_loop(&pairs))))
}

/// The points of c3 and c3neg of every wire.
struct C3 {
    c3: Vec<[G1Affine; 3]>,
    c3neg: Vec<Option<[G1Affine; 3]>>,
}

fn read_c3(ciphertext: &Ciphertext, checks: PointChecks) -> Result<C3, Error> {
    let read = |what, (at, bytes): (usize, &[u8; 96])| {
        G1Affine::from_bytes_unchecked_subgroup(bytes)
            .filter(|point| checks == PointChecks::Sums || point.in_subgroup())
            .ok_or(Error::Malformed { what, at, problem: "not an uncompressed point of G1" })
    };
    let wires = ciphertext.policy().wires.len() + 1;
    let mut out = C3 { c3: Vec::with_capacity(wires), c3neg: Vec::with_capacity(wires) };
    for wire in 0..wires {
        let mut column = [G1Affine::IDENTITY; 3];
        for (row, point) in column.iter_mut().enumerate() {
            *point = read("c3", ciphertext.c3(wire, row))?;
        }
        out.c3.push(column);
        let mut column = [G1Affine::IDENTITY; 3];
        let mut present = false;
        for (row, point) in column.iter_mut().enumerate() {
            if let Some(bytes) = ciphertext.c3neg(wire, row) {
                *point = read("c3neg", bytes)?;
                present = true;
            }
        }
        out.c3neg.push(present.then_some(column));
    }
    Ok(out)
}

fn read_g2_column<'c>(
    what: &'static str,
    entry: impl Fn(usize) -> (usize, &'c [u8; 192]),
) -> Result<[G2Affine; 4], Error> {
    let mut column = [G2Affine::default(); 4];
    for (row, point) in column.iter_mut().enumerate() {
        let (at, bytes) = entry(row);
        *point = G2Affine::from_bytes(bytes).ok_or(Error::Malformed {
            what,
            at,
            problem: "not an uncompressed point of G2",
        })?;
    }
    Ok(column)
}

/// Rows of points to add up; those with a factor are multiplied first.
struct Rows<const N: usize> {
    plain: [Vec<G1Affine>; N],
    points: [Vec<G1Affine>; N],
    /// The factors of `points`, the same in every row.
    factors: Vec<Scalar>,
}

impl<const N: usize> Rows<N> {
    /// With room for `n` points a row, so that no secret is left behind in a buffer that was outgrown.
    fn new(n: usize) -> Self {
        let rows = || [(); N].map(|()| Vec::with_capacity(n));
        Self { plain: rows(), points: rows(), factors: Vec::new() }
    }

    fn push(&mut self, column: &[G1Affine; N], factor: &Scalar) {
        let one = *factor == Scalar::from_u64(1);
        let rows = if one { &mut self.plain } else { &mut self.points };
        for (row, point) in rows.iter_mut().zip(column) {
            row.push(*point);
        }
        if !one {
            self.factors.push(*factor);
        }
    }

    fn sum(&self) -> [G1Affine; N] {
        let sums: [G1; N] = std::array::from_fn(|row| {
            let plain = G1::sum_vartime(&self.plain[row]);
            if self.factors.is_empty() {
                return plain;
            }
            plain.add(&G1::msm_vartime(&self.points[row], &self.factors))
        });
        let mut out = [G1Affine::IDENTITY; N];
        G1::batch_to_affine(&sums, &mut out);
        out
    }
}

impl<const N: usize> Drop for Rows<N> {
    fn drop(&mut self) {
        // The points only: the room behind them was never used, and wiping it byte by byte costs more than the sums.
        self.plain.iter_mut().chain(&mut self.points).flatten().for_each(Zeroize::zeroize);
    }
}

/// The three rows of P. No endomorphism is used here: the points may lie outside the subgroup.
fn sum_c3(c3: &C3, terms: &[Term<'_>]) -> [G1Affine; 3] {
    let mut rows = Rows::new(2 * terms.len());
    for term in terms {
        rows.push(&c3.c3[term.wire], &term.c3);
        if let (Some(factor), Some(column)) = (&term.c3neg, &c3.c3neg[term.wire]) {
            rows.push(column, factor);
        }
    }
    rows.sum()
}

/// The four rows of Q_j.
fn sum_key_parts(key: &AttributeKey, terms: &[Term<'_>], index: usize) -> [G1Affine; 4] {
    let own = key.boneh_katz_part();
    let of_index = || terms.iter().filter(|term| term.index == index);
    let own_terms = of_index().filter(|term| std::ptr::eq(term.part, own)).count();
    let mut rows: Rows<4> = Rows::new(2 * of_index().count() + own_terms * SUMMANDS_MAX);
    for term in of_index() {
        if std::ptr::eq(term.part, own) {
            let k3 = Recoded::new(&term.k3);
            for (row, comb) in rows.plain.iter_mut().zip(key.boneh_katz_combs()) {
                row.extend(comb.summands_vartime(&k3));
            }
        } else {
            rows.push(&term.part.k3, &term.k3);
        }
        if let Some(k3wild) = &term.part.k3wild {
            rows.push(k3wild, &term.k3wild);
        }
    }
    rows.sum()
}
