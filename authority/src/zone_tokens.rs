//! The text of a zone's token: what a customer's program sends to prove that it acts for a zone.
//!
//! `cin_` id `_` secret: 32 hexadecimal digits that may be shown, and 32 random bytes as 43 characters of base64url. Only
//! SHA-256 of the whole text is kept; the text has 256 bits that nobody can guess, so the digest needs no salt and no
//! slow hash. Law: a text is compared with a digest in constant time, and is wiped when it is dropped.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64ct::{Base64UrlUnpadded, Encoding};
use cinnabar_authority_api::CertId;
use cinnabar_authority_api::limits::CERT_ID_BYTES;
use cinnabar_daemon::Rng;
use cinnabar_daemon::env::RngError;
use zeroize::Zeroizing;

use crate::directory::sha256;
use crate::fields::SecretText;
use crate::uploads::hex;

/// What every token begins with, so that scanners of repositories find one that leaked.
pub const PREFIX: &str = "cin_";
/// Random bytes of a token.
const SECRET_BYTES: usize = 32;
/// Characters of them.
const SECRET_CHARS: usize = 43;
/// Bytes of a token's text.
pub const TOKEN_BYTES: usize = PREFIX.len() + CERT_ID_BYTES + 1 + SECRET_CHARS;

/// A token that was just made.
pub struct Minted {
    /// Its public part.
    pub id: CertId,
    /// The whole text: shown once, never kept.
    pub text: SecretText,
    /// SHA-256 of the text.
    pub digest: [u8; 32],
}

/// Makes a token.
///
/// # Errors
/// [`RngError`] without randomness.
pub fn mint(rng: &dyn Rng) -> Result<Minted, RngError> {
    let mut id = [0; CERT_ID_BYTES / 2];
    rng.fill(&mut id)?;
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    rng.fill(&mut *secret)?;
    let id: CertId = hex(&id).parse().expect("hexadecimal digits of 16 bytes");
    let mut encoded = Zeroizing::new([0; SECRET_CHARS]);
    let encoded = Base64UrlUnpadded::encode(&*secret, &mut *encoded).expect("43 characters hold 32 bytes");
    let mut text = String::with_capacity(TOKEN_BYTES);
    for part in [PREFIX, id.as_str(), "_", encoded] {
        text.push_str(part);
    }
    assert_eq!(text.len(), TOKEN_BYTES);
    Ok(Minted { id, digest: sha256(text.as_bytes()), text: SecretText::new(text) })
}

/// The public part of a text that looks like a token.
pub fn id(text: &str) -> Option<CertId> {
    if text.len() != TOKEN_BYTES || !text.is_ascii() {
        return None;
    }
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    if secret.len() != SECRET_CHARS {
        return None;
    }
    id.parse().ok()
}

/// Is this the text of that digest? Constant time in both.
pub fn matches(text: &str, digest: &[u8; 32]) -> bool {
    verify_slices_are_equal(&sha256(text.as_bytes()), digest).is_ok()
}

#[cfg(test)]
mod tests {
    use cinnabar_daemon::env::SystemRng;

    use super::*;

    #[test]
    fn a_token_is_known_by_its_id_and_believed_by_its_digest() {
        let (one, two) = (mint(&SystemRng).unwrap(), mint(&SystemRng).unwrap());
        assert_eq!(id(one.text.expose()), Some(one.id.clone()));
        assert!(matches(one.text.expose(), &one.digest) && !matches(two.text.expose(), &one.digest));
        assert!(one.id != two.id && one.text.expose().len() == TOKEN_BYTES);
        assert!(!format!("{:?}", one.text).contains(PREFIX));
    }

    #[test]
    fn what_only_looks_like_a_token_has_no_id() {
        let good = mint(&SystemRng).unwrap();
        let good = good.text.expose();
        for bad in ["", "cin_", &good[1..], &good.to_uppercase(), &format!("{good}x"), &good.replace('_', "-")] {
            assert_eq!(id(bad), None, "{bad}");
        }
        // A changed secret keeps the id and fails at the digest.
        let digest = sha256(good.as_bytes());
        let last = if good.ends_with('A') { 'B' } else { 'A' };
        let changed = format!("{}{last}", &good[..TOKEN_BYTES - 1]);
        assert!(id(&changed).is_some() && !matches(&changed, &digest));
    }
}
