//! What a ciphertext under a policy will weigh, to the byte, before any of it is made.
//!
//! Wires cost the same whatever they say, but two habits cost extra: every *repeat* of a label needs four more points
//! of G2, and every *negation* three more of G1. Source: `docs/formats.md#sizes`.

use super::error::{PolicyError, PolicyErrorKind, Span};
use super::formula::GATE_BYTES;
use super::{Policy, Wire};
use crate::hash::{HASH_BYTES, SEED_BYTES};
use crate::limits::Limits;

/// `u16 length || u16 rows || u16 columns`, before a matrix's entries.
const MATRIX_HEADER_BYTES: usize = 6;
/// c1 and each c2: four points of G2.
const G2_COLUMN_BYTES: usize = MATRIX_HEADER_BYTES + 4 * 192;
/// Each c3 and each c3neg that is there: three points of G1.
const G1_COLUMN_BYTES: usize = MATRIX_HEADER_BYTES + 3 * 96;
/// The length 0 of a c3neg that is not there.
const ABSENT_BYTES: usize = 2;

fn wire_bytes(wire: &Wire) -> usize {
    2 + (2 + wire.label.len()) + (2 + wire.value.len()) + (2 + 32) + 1
}

/// Bytes of the encoded policy.
pub fn policy_bytes(policy: &Policy) -> usize {
    let formula = 2 + (2 + GATE_BYTES * policy.formula.gates().len());
    formula + 2 + policy.wires.iter().map(wire_bytes).sum::<usize>()
}

/// Bytes of the header C1 that carries the policy.
pub fn header_bytes(policy: &Policy) -> usize {
    let augmented = policy.wires.len() + 1;
    let repeats = policy.indexes.depth;
    let negations = policy.wires.iter().filter(|wire| !wire.positive).count();
    let negative = negations * (G1_COLUMN_BYTES - ABSENT_BYTES);
    (2 + policy_bytes(policy))
        + G2_COLUMN_BYTES
        + (2 + repeats * G2_COLUMN_BYTES)
        + (2 + augmented * G1_COLUMN_BYTES)
        + augmented * ABSENT_BYTES
        + negative
}

/// Bytes of a whole ciphertext in the v1.3.8 framing; `None` when the sum leaves the machine's range.
pub fn ciphertext_bytes(policy: &Policy, plaintext_bytes: usize) -> Option<usize> {
    let id = 2 + HASH_BYTES;
    let mac_data = 4 + (4 + header_bytes(policy)) + 4 + SEED_BYTES;
    (6 + id + mac_data + 2 + HASH_BYTES).checked_add(plaintext_bytes)
}

/// Refuses a policy whose ciphertext would pass the limit, and names what costs most.
pub fn check(policy: &Policy, plaintext_bytes: usize, limits: &Limits, text: &str) -> Result<(), PolicyError> {
    let bytes = ciphertext_bytes(policy, plaintext_bytes);
    let fits_length = policy_bytes(policy) <= usize::from(u16::MAX);
    if fits_length && bytes.is_some_and(|bytes| bytes <= limits.ciphertext_bytes) {
        return Ok(());
    }
    if !fits_length {
        let hint = format!("it takes {} bytes itself, and the format has room for 65535", policy_bytes(policy));
        let span = Span { start: 0, end: text.trim_end().len() };
        return Err(PolicyError::new(PolicyErrorKind::TooLarge, span, text).with_hint(hint));
    }
    let size = bytes.map_or_else(|| "beyond all bounds".to_owned(), |bytes| format!("{bytes} bytes"));
    let mut hint = format!("it would be {size}, the most is {}", limits.ciphertext_bytes);
    for cost in [costliest_repeat(policy), negations(policy)].into_iter().flatten() {
        hint.push_str("; ");
        hint.push_str(&cost);
    }
    if plaintext_bytes > 0 {
        hint.push_str(&format!("; the plaintext is {plaintext_bytes} bytes of it"));
    }
    let span = Span { start: 0, end: text.trim_end().len() };
    Err(PolicyError::new(PolicyErrorKind::TooLarge, span, text).with_hint(hint))
}

fn costliest_repeat(policy: &Policy) -> Option<String> {
    let counts = policy.attribute_value_pairs();
    let (label, count) = counts.iter().map(|(label, values)| (label, values.len())).max_by_key(|(_, count)| *count)?;
    (count > 1).then(|| {
        let bytes = (count - 1) * G2_COLUMN_BYTES;
        format!("label `{label}` stands in {count} conditions, and its repeats cost {bytes} bytes")
    })
}

fn negations(policy: &Policy) -> Option<String> {
    let count = policy.wires.iter().filter(|wire| !wire.positive).count();
    (count > 0).then(|| {
        let bytes = count * (G1_COLUMN_BYTES - ABSENT_BYTES);
        format!("{count} negated conditions cost {bytes} bytes more than plain ones")
    })
}
