//! Secret bytes as a type: wiped on drop, compared in constant time, never printed, never copied by accident.

use std::fmt;

use zeroize::Zeroizing;

/// Secret bytes of any length. The length itself is not secret.
///
/// Not `Clone` and not serialisable on purpose; [`SecretBytes::expose`] marks every place that reads them.
pub struct SecretBytes(pub(crate) Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes over a buffer; it is wiped when this value is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves. Do not copy them into anything that is not wiped.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes, redacted)", self.len())
    }
}

/// Gives a secret type constant-time equality over bytes that say all that it holds (not over their number).
macro_rules! constant_time_eq {
    ($type:ident, $value:ident => $bytes:expr) => {
        impl subtle::ConstantTimeEq for $type {
            fn ct_eq(&self, other: &Self) -> subtle::Choice {
                let [own, others] = [self, other].map(|$value| $bytes);
                subtle::ConstantTimeEq::ct_eq(AsRef::<[u8]>::as_ref(&own), AsRef::<[u8]>::as_ref(&others))
            }
        }

        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                subtle::ConstantTimeEq::ct_eq(self, other).into()
            }
        }

        impl Eq for $type {}
    };
}
pub(crate) use constant_time_eq;

/// Gives a secret type a `Debug` that prints its name and nothing of it.
macro_rules! redacted_debug {
    ($type:ident) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($type), "(redacted)"))
            }
        }
    };
}
pub(crate) use redacted_debug;

constant_time_eq!(SecretBytes, secret => secret.expose());
