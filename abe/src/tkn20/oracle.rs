//! The label oracle with a memory: U0(label), U1(label), and `v U0 + U1` of a (label, value).
//!
//! Twelve hashes to the curve per label are the largest cost of a first encryption; labels repeat across encryptions
//! and keys, so both are kept, each within a bound. All of it is public: labels and hashed values.
//!
//! Joining U0 and U1 by the value costs six products and saves half of the secret ones from then on. It pays from the
//! second use, so the first use of a (label, value) gets the label's points and leaves a mark.

use std::sync::{Arc, OnceLock};

use quick_cache::sync::Cache;

use crate::attributes::BONEH_KATZ_LABEL;
use crate::curve::msm::mul_vartime;
use crate::curve::{G1, G1Affine, SCALAR_BYTES, Scalar};
use crate::hash::{Matrix3x2, label_oracle};
use crate::limits::{CACHED_LABELS_MAX, CACHED_VALUES_MAX};

/// U0 and U1 of a label.
pub type LabelPoints = [Matrix3x2<G1Affine>; 2];
/// `v U0 + U1` of a label and a value v.
pub type ValuePoints = Matrix3x2<G1Affine>;

/// A label and a hashed value.
type ValueKey = (Vec<u8>, [u8; SCALAR_BYTES]);

/// A bounded memory of oracle points. One per public key and per system secret key.
pub struct Oracle {
    labels: Cache<Vec<u8>, Arc<LabelPoints>>,
    /// `None` marks a pair that was used once.
    values: Cache<ValueKey, Option<Arc<ValuePoints>>>,
}

/// What `v U0 + U1` is to be multiplied from.
pub enum Points {
    /// U0 and U1: the caller multiplies U0 by v times its scalars.
    Apart(Arc<LabelPoints>),
    /// `v U0 + U1`.
    Joined(Arc<ValuePoints>),
}

impl Oracle {
    /// An empty memory.
    pub fn new() -> Self {
        Self { labels: Cache::new(CACHED_LABELS_MAX), values: Cache::new(CACHED_VALUES_MAX) }
    }

    /// U0(label), U1(label).
    pub fn label(&self, label: &[u8]) -> Arc<LabelPoints> {
        if label == BONEH_KATZ_LABEL {
            return boneh_katz_points();
        }
        if let Some(points) = self.labels.get(label) {
            return points;
        }
        let points = Arc::new(label_oracle(label));
        self.labels.insert(label.to_vec(), Arc::clone(&points));
        points
    }

    /// The points of `value U0(label) + U1(label)`. Variable time in the value, which is public.
    pub fn value(&self, label: &[u8], value: &Scalar) -> Points {
        // The transform's value is new in every ciphertext: keeping it would only push others out.
        if label == BONEH_KATZ_LABEL {
            return Points::Apart(boneh_katz_points());
        }
        let key = (label.to_vec(), value.to_be_bytes());
        match self.values.get(&key) {
            Some(Some(points)) => Points::Joined(points),
            Some(None) => {
                let points = Arc::new(join(&self.label(label), value));
                self.values.insert(key, Some(Arc::clone(&points)));
                Points::Joined(points)
            }
            None => {
                self.values.insert(key, None);
                Points::Apart(self.label(label))
            }
        }
    }
}

/// The reserved label's points, a constant of the scheme.
fn boneh_katz_points() -> Arc<LabelPoints> {
    static CELL: OnceLock<Arc<LabelPoints>> = OnceLock::new();
    Arc::clone(CELL.get_or_init(|| Arc::new(label_oracle(BONEH_KATZ_LABEL))))
}

fn join([u0, u1]: &LabelPoints, value: &Scalar) -> ValuePoints {
    let mut sums = mul_vartime(u0.as_flattened(), value);
    for (sum, point) in sums.iter_mut().zip(u1.as_flattened()) {
        *sum = sum.add_affine(point);
    }
    let mut out = ValuePoints::default();
    G1::batch_to_affine(&sums, out.as_flattened_mut());
    out
}
