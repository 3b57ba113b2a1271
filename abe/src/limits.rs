//! Every bound of this crate, by name, with its unit last.
//!
//! Two kinds: what the *format* cannot carry (fixed), and what this implementation chooses to accept when it *writes*
//! ([`Limits`], which callers may raise up to the format's own bounds). Reading is bounded by the format: the work and
//! the memory of every decoder are linear in the bytes the caller already holds.

/// Most bytes of a policy text.
pub const POLICY_TEXT_BYTES_MAX: usize = 4 * 1024;
/// Most open parentheses and `not`s at one place, counting the top level as one: the reference's bound.
pub const POLICY_DEPTH_MAX: usize = 64;
/// Most conditions (`label: value`) in one policy.
pub const POLICY_WIRES_MAX: usize = 128;
/// Most bytes of an encoded ciphertext that this crate writes, so that a record holding one stays under 64 KiB.
pub const CIPHERTEXT_BYTES_MAX: usize = 60 * 1024;

/// Most bytes that a field behind a 16-bit length can hold.
pub const FIELD_BYTES_MAX: usize = u16::MAX as usize;
/// Most wires that fit in an encoded policy at all: a policy sits behind a 16-bit length and a wire takes at least
/// 50 bytes with its gate (formula 7, lengths 8, label 1, value 1, scalar 32, polarity 1).
pub const FORMAT_WIRES_MAX: usize = FIELD_BYTES_MAX / 50;
/// Most bytes of a ciphertext of any origin: what a 32-bit reader of the format can index.
pub const FORMAT_CIPHERTEXT_BYTES_MAX: usize = i32::MAX as usize;

/// Labels whose twelve oracle points a key keeps: 1,152 bytes each.
pub const CACHED_LABELS_MAX: usize = 1024;
/// (label, value) pairs whose six points a key keeps: 576 bytes each.
pub const CACHED_VALUES_MAX: usize = 4096;

/// Most bytes of a customer secret that [`crate::envelope`] wraps: an RSA-8192 key in PKCS #8 and room to spare.
pub const SECRET_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of one name (cluster, zone, secret) in an envelope's context.
pub const NAME_BYTES_MAX: usize = 255;
/// Most bytes of a record that [`crate::signature`] signs or verifies.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// Most bytes of a secret that [`crate::seal`] seals: two attribute keys of 256 labels.
pub const SEALED_SECRET_BYTES_MAX: usize = 320 * 1024;
/// Most bytes of a sealed file's purpose.
pub const SEALED_PURPOSE_BYTES_MAX: usize = 64;
/// Most recipients of a sealed file.
pub const SEALED_RECIPIENTS_MAX: usize = 16;
/// Fewest bytes of a passphrase.
pub const PASSPHRASE_BYTES_MIN: usize = 12;
/// Most bytes of a passphrase.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Least memory of Argon2id, in KiB: what RFC 9106 section 4 asks of machines with little memory.
pub const ARGON2_MEMORY_KIB_MIN: u32 = 64 * 1024;
/// Most memory of Argon2id, in KiB: a file of somebody else's making must not take the machine's.
pub const ARGON2_MEMORY_KIB_MAX: u32 = 1024 * 1024;
/// Fewest passes of Argon2id.
pub const ARGON2_PASSES_MIN: u32 = 3;
/// Most passes of Argon2id.
pub const ARGON2_PASSES_MAX: u32 = 16;
/// Most of memory in KiB times passes over all recipients of one file: seconds, not hours, until a wrong passphrase is
/// refused.
pub const ARGON2_WORK_MAX: u64 = 16 * 1024 * 1024;

/// How often a draw from the random number generator may be refused before it is called broken. A scalar is refused
/// once in eleven draws, so an honest generator gets here with probability 2^-436.
pub const DRAW_ATTEMPTS_MAX: usize = 128;

/// What a policy and its ciphertext may cost. The default is right for a store that carries them to every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of the policy text. Default [`POLICY_TEXT_BYTES_MAX`].
    pub policy_text_bytes: usize,
    /// Most open parentheses and `not`s at one place, the top level counting as one. Default [`POLICY_DEPTH_MAX`].
    pub policy_depth: usize,
    /// Most conditions in one policy. Default [`POLICY_WIRES_MAX`].
    pub policy_wires: usize,
    /// Most bytes of the encoded ciphertext, computed before any group operation. Default [`CIPHERTEXT_BYTES_MAX`].
    pub ciphertext_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            policy_text_bytes: POLICY_TEXT_BYTES_MAX,
            policy_depth: POLICY_DEPTH_MAX,
            policy_wires: POLICY_WIRES_MAX,
            ciphertext_bytes: CIPHERTEXT_BYTES_MAX,
        }
    }
}

impl Limits {
    /// The format's own bounds: whatever can be encoded at all.
    pub const FORMAT: Self = Self {
        policy_text_bytes: FORMAT_CIPHERTEXT_BYTES_MAX,
        policy_depth: FORMAT_CIPHERTEXT_BYTES_MAX,
        policy_wires: FORMAT_WIRES_MAX,
        ciphertext_bytes: FORMAT_CIPHERTEXT_BYTES_MAX,
    };
}

const _: () = assert!(POLICY_WIRES_MAX <= FORMAT_WIRES_MAX);
// One recipient may be as dear as it can be, and a full file holds nothing but passphrases at the least cost.
const _: () = assert!(ARGON2_MEMORY_KIB_MAX as u64 * ARGON2_PASSES_MAX as u64 <= ARGON2_WORK_MAX);
const _: () =
    assert!(SEALED_RECIPIENTS_MAX as u64 * ARGON2_MEMORY_KIB_MIN as u64 * ARGON2_PASSES_MIN as u64 <= ARGON2_WORK_MAX);
const _: () = assert!(CIPHERTEXT_BYTES_MAX <= FORMAT_CIPHERTEXT_BYTES_MAX);
// A policy inside the default bounds always fits behind its 16-bit length: the text bounds labels and values together.
const _: () = assert!(POLICY_TEXT_BYTES_MAX + POLICY_WIRES_MAX * 50 <= FIELD_BYTES_MAX);
