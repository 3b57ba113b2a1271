//! Operators' keys: X25519 pairs that sealed files are closed to, kept by people away from the authority.
//!
//! Law: one spelling per key. A text is a prefix that says which half it is, the 32 bytes in lower-case hexadecimal and
//! four bytes of checksum; nothing shorter, longer or in another case is read. Layout: `docs/formats.md#operator-key`.

use std::fmt;
use std::str::FromStr;

use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey as X25519PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::envelope::{X25519_BYTES, check_x25519_public, length_prefixed};
use crate::error::Error;
use crate::secret::{SecretBytes, constant_time_eq, redacted_debug};

const PUBLIC_PREFIX: &str = "cinnabar-operator-";
const SECRET_PREFIX: &str = "cinnabar-operator-secret-";
const CHECKSUM_BYTES: usize = 4;
const CHECKSUM_DOMAIN: &[u8] = b"cinnabar operator key text v1";
const FINGERPRINT_DOMAIN: &[u8] = b"cinnabar operator key fingerprint v1";
/// Bytes of a public key's fingerprint: enough that nobody makes a second key with it.
pub const FINGERPRINT_BYTES: usize = 16;
/// Bytes of a secret key's text.
pub const SECRET_TEXT_BYTES: usize = SECRET_PREFIX.len() + 2 * (X25519_BYTES + CHECKSUM_BYTES);
/// Bytes of a public key's text.
pub const PUBLIC_TEXT_BYTES: usize = PUBLIC_PREFIX.len() + 2 * (X25519_BYTES + CHECKSUM_BYTES);

// === Public half ===

/// The public half of an operator's key. `Display` writes its one text form, parsing takes exactly that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperatorPublicKey([u8; X25519_BYTES]);

impl OperatorPublicKey {
    /// Reads a public key.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a number that is not below 2^255 - 19 and for points of low order.
    pub fn from_bytes(bytes: [u8; X25519_BYTES]) -> Result<Self, Error> {
        check_x25519_public(&bytes, "operator public key")?;
        Ok(Self(bytes))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; X25519_BYTES] {
        &self.0
    }

    /// What people compare: 16 bytes of a hash of the key.
    pub fn fingerprint(&self) -> Fingerprint {
        let hash = Sha256::digest(length_prefixed(&[FINGERPRINT_DOMAIN, &self.0]));
        Fingerprint(hash[..FINGERPRINT_BYTES].try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl FromStr for OperatorPublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::from_bytes(*read_text(text.as_bytes(), PUBLIC_PREFIX, "operator public key")?)
    }
}

impl fmt::Display for OperatorPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = write_text(&self.0, PUBLIC_PREFIX);
        f.write_str(std::str::from_utf8(&text).expect("prefix and digits are ASCII"))
    }
}

impl fmt::Debug for OperatorPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorPublicKey({self})")
    }
}

/// The fingerprint of an operator's public key; `Display` writes 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

impl Fingerprint {
    /// The fingerprint's bytes.
    pub fn as_bytes(&self) -> &[u8; FINGERPRINT_BYTES] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

// === Secret half ===

/// The secret half of an operator's key. Zeroised on drop; not `Clone`; equality is constant time.
pub struct OperatorSecretKey(StaticSecret);

impl OperatorSecretKey {
    /// Makes a new key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; X25519_BYTES]);
        rng.fill_bytes(&mut *bytes);
        Self::from_bytes(&bytes)
    }

    /// Takes the key's 32 bytes; every value is a key.
    pub fn from_bytes(bytes: &[u8; X25519_BYTES]) -> Self {
        Self(StaticSecret::from(*bytes))
    }

    /// The key's 32 bytes.
    pub fn to_bytes(&self) -> SecretBytes {
        SecretBytes::new(self.0.as_bytes().to_vec())
    }

    /// Reads the text form, without a line end.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything but what [`OperatorSecretKey::to_text`] writes; it says no byte of the text.
    pub fn from_text(text: &SecretBytes) -> Result<Self, Error> {
        Ok(Self::from_bytes(&*read_text(text.expose(), SECRET_PREFIX, "operator secret key")?))
    }

    /// The text form: ASCII of [`SECRET_TEXT_BYTES`] bytes, without a line end.
    pub fn to_text(&self) -> SecretBytes {
        SecretBytes(write_text(self.0.as_bytes(), SECRET_PREFIX))
    }

    /// The public half.
    pub fn public_key(&self) -> OperatorPublicKey {
        OperatorPublicKey(X25519PublicKey::from(&self.0).to_bytes())
    }

    pub(super) fn expose(&self) -> &[u8; X25519_BYTES] {
        self.0.as_bytes()
    }
}

constant_time_eq!(OperatorSecretKey, key => key.0.as_bytes());
redacted_debug!(OperatorSecretKey);

// === Text ===

fn checksum(key: &[u8; X25519_BYTES], prefix: &str) -> Zeroizing<[u8; CHECKSUM_BYTES]> {
    let input = Zeroizing::new(length_prefixed(&[CHECKSUM_DOMAIN, prefix.as_bytes(), key]));
    let hash = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(&*input)));
    Zeroizing::new(hash[..CHECKSUM_BYTES].try_into().expect("SHA-256 has 32 bytes"))
}

fn write_text(key: &[u8; X25519_BYTES], prefix: &str) -> Zeroizing<Vec<u8>> {
    let checksum = checksum(key, prefix);
    // Reserved whole, so that no part is left behind in a buffer that was outgrown.
    let mut text = Zeroizing::new(Vec::with_capacity(prefix.len() + 2 * (key.len() + checksum.len())));
    text.extend_from_slice(prefix.as_bytes());
    for byte in key.iter().chain(checksum.iter()) {
        text.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    text
}

fn read_text(text: &[u8], prefix: &str, what: &'static str) -> Result<Zeroizing<[u8; X25519_BYTES]>, Error> {
    let malformed = |at, problem| Error::Malformed { what, at, problem };
    let digits = text.strip_prefix(prefix.as_bytes()).ok_or_else(|| malformed(0, "it does not begin as one"))?;
    if digits.len() != 2 * (X25519_BYTES + CHECKSUM_BYTES) {
        return Err(malformed(prefix.len(), "expected are 72 hexadecimal digits and nothing more"));
    }
    let mut bytes = Zeroizing::new([0; X25519_BYTES + CHECKSUM_BYTES]);
    let mut wrong = 0;
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [(high, high_wrong), (low, low_wrong)] = [value(pair[0]), value(pair[1])];
        *byte = high << 4 | low;
        wrong |= high_wrong | low_wrong;
    }
    if wrong != 0 {
        return Err(malformed(prefix.len(), "a character that is no lower-case hexadecimal digit"));
    }
    let (key, found) = bytes.split_at(X25519_BYTES);
    let key = Zeroizing::new(<[u8; X25519_BYTES]>::try_from(key).expect("36 bytes are 32 and 4"));
    if !bool::from(checksum(&key, prefix).as_slice().ct_eq(found)) {
        return Err(malformed(prefix.len(), "the checksum is wrong: a character was lost or changed"));
    }
    Ok(key)
}

/// The digit of a value below 16, without a table or a branch that would tell it.
fn digit(value: u8) -> u8 {
    // All ones when the value is above nine.
    let letter = 9_u8.wrapping_sub(value) >> 7;
    b'0' + value + letter * (b'a' - b'0' - 10)
}

/// The value of a digit, and a number that is not 0 when it is none; without a branch.
fn value(digit: u8) -> (u8, u8) {
    let (number, letter) = (digit.wrapping_sub(b'0'), digit.wrapping_sub(b'a'));
    let is_number = below(number, 10);
    let is_letter = below(letter, 6);
    ((number * is_number) | (letter.wrapping_add(10) * is_letter), 1 ^ (is_number | is_letter))
}

/// 1 when `a < b`, else 0.
fn below(a: u8, b: u8) -> u8 {
    (u16::from(a).wrapping_sub(u16::from(b)) >> 15) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_hexadecimal_and_no_others() {
        for byte in 0..=255_u8 {
            let expected = char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
            let (found, wrong) = value(byte);
            assert_eq!((wrong == 0).then_some(u32::from(found)), expected, "{byte}");
        }
        let digits: Vec<u8> = (0..16).map(digit).collect();
        assert_eq!(digits, b"0123456789abcdef");
    }
}
