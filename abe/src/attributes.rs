//! Attributes: what a key says about its machine, one value per label.
//!
//! In clear, a value is a word; in a key, only its hash to a scalar is kept. A *wild* value stands for every value of
//! its label. The Boneh-Katz transform gives every key one wild attribute of a reserved label; nothing else is ever
//! issued wild outside [`crate::danger`].

use std::collections::BTreeMap;
use std::fmt;

use crate::curve::Scalar;
use crate::error::Error;
use crate::hash::hash_value;
use crate::policy::{Policy, is_word};

/// The label that the Boneh-Katz transform adds to every key and every policy. Reserved.
pub(crate) const BONEH_KATZ_LABEL: &[u8] = b"internal-boneh-katz-transform-attribute";

/// The value of an attribute as a key knows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// Every value of the label.
    Wild,
    /// The hash of the value.
    Is(Scalar),
}

/// A set of attributes, at most one value per label, in ascending byte order of the labels. Public, not secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Attributes {
    values: BTreeMap<Vec<u8>, Value>,
}

impl Attributes {
    /// Takes (label, value) pairs. Both are words of the policy language: letters, digits and `_`, and not `and`, `or`
    /// or `not`; what is not a word could never be named by a policy.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a label or value that is not a word, a label given twice, or the reserved label.
    pub fn new<L: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (L, V)>) -> Result<Self, Error> {
        let mut values = BTreeMap::new();
        for (label, value) in pairs {
            let (label, value) = (label.as_ref(), value.as_ref());
            let refuse = |problem| Err(Error::Attribute { label: printable(label.as_bytes()), problem });
            if label.as_bytes() == BONEH_KATZ_LABEL {
                return refuse("this label is reserved: choose another");
            }
            if !is_word(label.as_bytes()) {
                return refuse("a label is letters, digits and `_`, and not `and`, `or` or `not`: choose another");
            }
            if !is_word(value.as_bytes()) {
                return refuse("its value is letters, digits and `_`, and not `and`, `or` or `not`: choose another");
            }
            if values.insert(label.as_bytes().to_vec(), Value::Is(hash_value(value.as_bytes()))).is_some() {
                return refuse("the label is given twice: a key has one value per label");
            }
        }
        Ok(Self { values })
    }

    /// The labels in ascending byte order, with bytes outside printable ASCII replaced.
    pub fn labels(&self) -> impl Iterator<Item = String> {
        self.values.keys().map(|label| printable(label))
    }

    /// The labels whose value is wild. Keys that this crate issues have none; an edge refuses a key that has one.
    pub fn wildcard_labels(&self) -> impl Iterator<Item = String> {
        self.values.iter().filter(|(_, value)| **value == Value::Wild).map(|(label, _)| printable(label))
    }

    /// Whether `label` has exactly this value (a wild value has every value); false when the label is missing.
    pub fn has(&self, label: &str, value: &str) -> bool {
        match self.get(label.as_bytes()) {
            None => false,
            Some(Value::Wild) => true,
            Some(Value::Is(scalar)) => *scalar == hash_value(value.as_bytes()),
        }
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no attribute at all.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether a key with these attributes could open the ciphertext in `bytes`: false for bytes that are none. No group
    /// operation, no authenticity: as [`Policy::extract`] and [`Policy::is_satisfied_by`].
    pub fn could_decrypt(&self, bytes: &[u8]) -> bool {
        Policy::extract(bytes).is_ok_and(|policy| policy.is_satisfied_by(self))
    }

    pub(crate) fn get(&self, label: &[u8]) -> Option<&Value> {
        self.values.get(label)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Value)> {
        self.values.iter().map(|(label, value)| (label.as_slice(), value))
    }

    /// Takes any labels and values, wild ones too. For [`crate::danger`] and for keys that were read.
    pub(crate) fn from_values(values: BTreeMap<Vec<u8>, Value>) -> Self {
        Self { values }
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.labels()).finish()
    }
}

/// Bytes for people: printable ASCII as it is, everything else as `\xNN`.
pub(crate) fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
