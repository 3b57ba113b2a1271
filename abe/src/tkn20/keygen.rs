//! Key generation: attributes to an attribute key.
//!
//! Per label l with value y: `k3 = B* X + [B*12 x]1` with `X = (y U0 + U1)^T As` and `x = (y V0 + V1)^T As`. A wild
//! label keeps the two halves apart: k3 from (U0, V0) and k3wild from (U1, V1), so that `y k3 + k3wild` is the key part
//! for whatever y. s is the only randomness.
//!
//! Constant time in s and in the system secret key; the number of labels and their lengths show.

use std::collections::BTreeMap;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::dot;
use super::keys::{AttributeKey, KeyPart, SecretColumn, SystemSecretKey};
use super::oracle::Points;
use crate::attributes::{Attributes, BONEH_KATZ_LABEL, Value};
use crate::curve::msm::{Comb, Recoded, sum_of_products, tables};
use crate::curve::{G1, G1Affine, G2, Scalar};
use crate::error::Error;
use crate::hash::{Matrix3x2, label_prf, random_scalar};
use crate::limits::FIELD_BYTES_MAX;

impl SystemSecretKey {
    /// Issues an attribute key. No wildcard but the transform's own is ever issued here.
    ///
    /// Constant time in the secrets. Costs are in `docs/performance.md`; labels that this key has seen before cost half.
    ///
    /// # Errors
    /// [`Error::Attribute`] when `attributes` (read from another key) holds a wildcard; [`Error::TooLong`] when they do
    /// not fit the format's 16-bit length (about 1,600 labels); [`Error::BrokenRng`].
    pub fn keygen(&self, rng: &mut impl CryptoRng, attributes: &Attributes) -> Result<AttributeKey, Error> {
        if let Some(label) = attributes.wildcard_labels().next() {
            return Err(Error::Attribute { label, problem: "a wildcard is never issued: give the label a value" });
        }
        self.keygen_any(rng, attributes)
    }

    /// As [`SystemSecretKey::keygen`], wildcards and all. For [`crate::danger`].
    pub(crate) fn keygen_any(&self, rng: &mut impl CryptoRng, attributes: &Attributes) -> Result<AttributeKey, Error> {
        check_size(attributes)?;
        let s = Zeroizing::new([random_scalar(rng)?, random_scalar(rng)?]);
        let a_s = Zeroizing::new([self.a[0].mul(s[0]), self.a[1].mul(s[1]), s[0].add(s[1])]);
        let issue = Issue {
            key: self,
            a_s_recoded: a_s.map(|scalar| Recoded::new(&scalar)),
            b_star: self.b_star.map(|row| row.map(|scalar| Recoded::new(&scalar))),
            a_s,
        };
        let k1 = std::array::from_fn(|row| G2::generator().mul(&issue.a_s[row]).to_affine());
        let k2: [G1; 4] = std::array::from_fn(|row| {
            let scalar = Zeroizing::new(dot(&self.wt_a[row], &s).add(self.k[row]));
            Comb::generator().add_product(G1::IDENTITY, &Recoded::new(&scalar))
        });
        let wild = (BONEH_KATZ_LABEL, &Value::Wild);
        let parts: BTreeMap<_, _> = attributes
            .iter()
            .filter(|(label, _)| *label != BONEH_KATZ_LABEL)
            .chain([wild])
            .map(|(label, value)| (label.to_vec(), issue.part(label, value)))
            .collect();
        Ok(AttributeKey::from_parts(k1, to_affine(&k2), parts))
    }
}

/// The attribute list sits behind a 16-bit length; the reference would cut it short silently.
fn check_size(attributes: &Attributes) -> Result<(), Error> {
    let entry = |label: &[u8]| 2 + label.len() + 1 + 32;
    let bytes = 2 + entry(BONEH_KATZ_LABEL) + attributes.iter().map(|(label, _)| entry(label)).sum::<usize>();
    if bytes > FIELD_BYTES_MAX {
        return Err(Error::TooLong { what: "attribute list", actual: bytes, max: FIELD_BYTES_MAX });
    }
    Ok(())
}

/// What all parts of one key share.
struct Issue<'a> {
    key: &'a SystemSecretKey,
    a_s: Zeroizing<[Scalar; 3]>,
    a_s_recoded: [Recoded; 3],
    b_star: [[Recoded; 2]; 4],
}

impl Issue<'_> {
    fn part(&self, label: &[u8], value: &Value) -> KeyPart {
        let [v0, v1] = label_prf(&self.key.prf_key, label);
        let (v0, v1) = (Zeroizing::new(v0), Zeroizing::new(v1));
        let a_s = self.a_s_recoded.each_ref();
        match value {
            Value::Wild => {
                let [u0, u1] = &*self.key.oracle.label(label);
                let (k3, k3wild) = (self.component(&[u0], &[a_s], &v0), self.component(&[u1], &[a_s], &v1));
                KeyPart { value: *value, k3, k3wild: Some(k3wild) }
            }
            Value::Is(y) => {
                let v = Zeroizing::new(std::array::from_fn(|i| std::array::from_fn(|j| y.mul(v0[i][j]).add(v1[i][j]))));
                let k3 = match self.key.oracle.value(label, y) {
                    Points::Joined(m) => self.component(&[&m], &[a_s], &v),
                    Points::Apart(points) => {
                        let [u0, u1] = &*points;
                        let y_a_s = self.a_s.map(|entry| Recoded::new(&Zeroizing::new(entry.mul(*y))));
                        self.component(&[u0, u1], &[y_a_s.each_ref(), a_s], &v)
                    }
                };
                KeyPart { value: *value, k3, k3wild: None }
            }
        }
    }

    /// `B* X + [B*12 (V^T As)]1` with `X = M_1^T s_1 + M_2^T s_2 + ..`.
    fn component(
        &self,
        matrices: &[&Matrix3x2<G1Affine>],
        scalars: &[[&Recoded; 3]],
        v: &Matrix3x2<Scalar>,
    ) -> SecretColumn {
        let m_tables: Vec<_> = matrices.iter().map(|m| tables(m.as_flattened())).collect();
        let x: [G1; 2] = [0, 1].map(|column| {
            let of_column: Vec<_> =
                m_tables.iter().flat_map(|tables| [0, 1, 2].map(|row| &tables[row * 2 + column])).collect();
            sum_of_products(&of_column, scalars.as_flattened())
        });
        let x_tables = Zeroizing::new(tables(&to_affine(&x)));
        let x_scalars =
            Zeroizing::new([0, 1].map(|column| dot(&[v[0][column], v[1][column], v[2][column]], &self.a_s)));
        let rows: [G1; 4] = std::array::from_fn(|row| {
            let point = sum_of_products(&[&x_tables[0], &x_tables[1]], &self.b_star[row].each_ref());
            let scalar = Zeroizing::new(dot(&self.key.b_star12[row], &x_scalars));
            Comb::generator().add_product(point, &Recoded::new(&scalar))
        });
        SecretColumn::new(to_affine(&rows))
    }
}

fn to_affine<const N: usize>(points: &[G1; N]) -> [G1Affine; N] {
    let mut out = [G1Affine::IDENTITY; N];
    G1::batch_to_affine(points, &mut out);
    out
}
