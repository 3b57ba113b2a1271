//! Tokens: what customers and machines that enrol prove themselves with.
//!
//! The road: [`mint`] makes a text, given away once, and the record with its digest; [`Presented::parse`] reads what
//! somebody sent, [`Presented::record`] finds the record that it opens. Law: the text is kept nowhere; a text has one
//! spelling and carries 256 random bits; digests are compared in constant time; what the holder may do is in the record.
//!
//! Text: `cin_`, id (32 hexadecimal digits), `_`, secret (64), `_`, CRC-32C of all before the last `_` (8). The checksum
//! tells a mistyped token from a refused one and lets scanners for leaked secrets be sure; it protects nothing.

use std::fmt;

use cinnabar_abe::signature::RecordVerifyingKey;
use cinnabar_authority_api::enrolment::EnrolmentToken;
use cinnabar_authority_api::limits::CERT_ID_BYTES;
use cinnabar_authority_api::records::{Token, TokenScope};
use cinnabar_authority_api::{CertId, MachineId, ZoneId};
use cinnabar_daemon::Rng;
use cinnabar_daemon::env::RngError;
use cinnabar_daemon::id::ClusterId;
use zeroize::Zeroizing;

use crate::digest::sha256;
use crate::directory::Directory;
use crate::problem::{Code, Problem};

/// What every token begins with.
pub const PREFIX: &str = "cin_";
/// How long an enrolment token holds, in milliseconds: 1 h.
pub const ENROLMENT_MS: u64 = 60 * 60 * 1000;

const SECRET_BYTES: usize = 32;
const CHECKSUM_DIGITS: usize = 8;
const SECRET_AT: usize = PREFIX.len() + CERT_ID_BYTES + 1;
const CHECKSUM_AT: usize = SECRET_AT + 2 * SECRET_BYTES + 1;
/// Bytes of a token's text.
pub const TEXT_BYTES: usize = CHECKSUM_AT + CHECKSUM_DIGITS;

/// A token's text, or an enrolment token's. `Debug` does not show it; it is wiped when dropped.
pub struct TokenText(Zeroizing<String>);

impl TokenText {
    /// The text. Give it to whom it is for, and to nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(redacted)")
    }
}

/// Why a text is no token. Nothing of the text is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not of the form `cin_…`.
    #[error("not a token")]
    Form,
    /// Its checksum is another: mistyped or cut.
    #[error("a mistyped token")]
    Checksum,
}

/// Makes a token. `expires_ms` is its last moment, in milliseconds since 1970; 0 when it does not end.
///
/// # Errors
/// [`RngError`].
pub fn mint(rng: &dyn Rng, scope: TokenScope, name: &str, expires_ms: u64) -> Result<(TokenText, Token), RngError> {
    let mut id = [0; CERT_ID_BYTES / 2];
    rng.fill(&mut id)?;
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    rng.fill(&mut *secret)?;
    let id = hex::encode(id);
    let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES));
    text.push_str(PREFIX);
    text.push_str(&id);
    text.push('_');
    for byte in secret.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("four bits are a digit"));
        }
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("_{checksum:08x}"));
    let id = id.parse().expect("16 bytes are 32 hexadecimal digits");
    let token = Token { id, digest: sha256(text.as_bytes()), scope, name: name.to_owned(), expires_ms };
    Ok((TokenText(text), token))
}

/// A token as somebody sent it: its id and digest, no longer its secret.
#[derive(Clone)]
pub struct Presented {
    id: CertId,
    digest: [u8; 32],
}

impl Presented {
    /// Reads a text.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let bytes = text.as_bytes();
        let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if bytes.len() != TEXT_BYTES || !bytes.starts_with(PREFIX.as_bytes()) {
            return Err(TokenError::Form);
        }
        let (id, secret) = (&bytes[PREFIX.len()..SECRET_AT - 1], &bytes[SECRET_AT..CHECKSUM_AT - 1]);
        let joined = bytes[SECRET_AT - 1] == b'_' && bytes[CHECKSUM_AT - 1] == b'_';
        if !joined || !id.iter().chain(secret).chain(&bytes[CHECKSUM_AT..]).all(digit) {
            return Err(TokenError::Form);
        }
        let checksum = format!("{:08x}", crc32c::crc32c(&bytes[..CHECKSUM_AT - 1]));
        if checksum.as_bytes() != &bytes[CHECKSUM_AT..] {
            return Err(TokenError::Checksum);
        }
        let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()).ok_or(TokenError::Form)?;
        Ok(Self { id, digest: sha256(bytes) })
    }

    /// Its public part.
    pub fn id(&self) -> &CertId {
        &self.id
    }

    /// Is it the one of this record? Constant time.
    pub fn is(&self, token: &Token) -> bool {
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(&self.digest, &token.digest);
        same.is_ok() && self.id == token.id
    }

    /// The record that it opens.
    ///
    /// # Errors
    /// `unauthenticated`: unknown, ended, or past its last moment.
    pub fn record<'a>(&self, directory: &'a Directory, now_ms: u64) -> Result<&'a Token, Problem> {
        let found = directory.token(&self.id).filter(|token| self.is(token));
        let token = found.ok_or_else(|| Problem::new(Code::Unauthenticated, "The token is unknown, or was ended."))?;
        if token.expires_ms != 0 && now_ms > token.expires_ms {
            return Err(Problem::new(Code::Unauthenticated, "The token has expired.").hint("Ask for a new one."));
        }
        Ok(token)
    }

    /// The zone whose keys its holder may change.
    ///
    /// # Errors
    /// As [`Presented::record`]; `forbidden` for a machine's token.
    pub fn zone(&self, directory: &Directory, now_ms: u64) -> Result<ZoneId, Problem> {
        match &self.record(directory, now_ms)?.scope {
            TokenScope::Zone(zone) => Ok(zone.clone()),
            TokenScope::Machine(_) => Err(Problem::new(Code::Forbidden, "This token is for enrolling a machine.")),
            TokenScope::Operator => Err(Problem::new(Code::Forbidden, "This token is an operator's.")),
        }
    }

    /// The machine that its holder may enrol.
    ///
    /// # Errors
    /// As [`Presented::record`]; `forbidden` for a zone's token.
    pub fn machine(&self, directory: &Directory, now_ms: u64) -> Result<MachineId, Problem> {
        match &self.record(directory, now_ms)?.scope {
            TokenScope::Machine(machine) => Ok(machine.clone()),
            TokenScope::Zone(_) => Err(Problem::new(Code::Forbidden, "This token is a zone's.")),
            TokenScope::Operator => Err(Problem::new(Code::Forbidden, "This token is an operator's.")),
        }
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presented({})", self.id)
    }
}

/// What a machine pins when it enrols.
#[derive(Debug, Clone)]
pub struct Pins {
    /// The cluster.
    pub cluster: ClusterId,
    /// SHA-256 of the cluster CA's certificate, DER.
    pub ca_sha256: [u8; 32],
    /// The key that verifies the authority's records.
    pub record_key: RecordVerifyingKey,
}

impl Pins {
    /// The text that an operator carries to a machine.
    pub fn enrolment_text(&self, machine: &MachineId, secret: &TokenText) -> TokenText {
        let token = EnrolmentToken {
            cluster: self.cluster.clone(),
            machine: machine.clone(),
            ca_sha256: self.ca_sha256,
            record_key: self.record_key,
            secret: secret.0.clone(),
        };
        TokenText(token.to_text())
    }
}

#[cfg(test)]
mod tests {
    use cinnabar_abe::signature::RecordSigningKey;
    use cinnabar_authority_api::Verifier;
    use cinnabar_authority_api::records::{Content, Signer};
    use cinnabar_daemon::env::SystemRng;
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn zone_scope() -> TokenScope {
        TokenScope::Zone("acme".parse().unwrap())
    }

    fn machine_scope() -> TokenScope {
        TokenScope::Machine("fra-1".parse().unwrap())
    }

    fn minted(scope: TokenScope, expires_ms: u64) -> (TokenText, Token) {
        mint(&SystemRng, scope, "ci", expires_ms).unwrap()
    }

    fn directory_with(tokens: &[&Token]) -> Directory {
        let (cluster, key) = ("prod".parse().unwrap(), RecordSigningKey::from_bytes(&[7; 32]));
        let mut directory = Directory::new(Verifier::new("prod".parse().unwrap(), key.verifying_key()));
        for (n, token) in tokens.iter().enumerate() {
            let record = Signer { cluster: &cluster, key: &key }.sign((*token).clone(), 0, NOW).unwrap();
            directory.take(&token.key().to_bytes(), &record, n as u64 + 1, true).unwrap();
        }
        directory
    }

    #[test]
    fn a_token_opens_its_own_record_and_no_other() {
        let [(one, first), (_, second)] = [minted(zone_scope(), 0), minted(zone_scope(), 0)];
        assert_eq!(one.expose().len(), TEXT_BYTES);
        assert!(!format!("{one:?}").contains(&one.expose()[4..]));
        let presented = Presented::parse(one.expose()).unwrap();
        assert!(presented.is(&first) && !presented.is(&second));
        // The digest alone, under another id, is not enough.
        assert!(!presented.is(&Token { id: second.id.clone(), ..first.clone() }));
        let directory = directory_with(&[&first, &second]);
        assert_eq!(presented.zone(&directory, NOW).unwrap().as_str(), "acme");
        let without = directory_with(&[&second]);
        assert_eq!(presented.zone(&without, NOW).unwrap_err().code(), Code::Unauthenticated);
    }

    #[test]
    fn a_guess_at_the_secret_of_a_known_id_is_refused() {
        let [(one, first), (two, _)] = [minted(zone_scope(), 0), minted(zone_scope(), 0)];
        let mut guess = format!("{}{}", &one.expose()[..SECRET_AT], &two.expose()[SECRET_AT..CHECKSUM_AT - 1]);
        guess.push_str(&format!("_{:08x}", crc32c::crc32c(guess.as_bytes())));
        let presented = Presented::parse(&guess).unwrap();
        assert_eq!(*presented.id(), first.id);
        assert_eq!(presented.record(&directory_with(&[&first]), NOW).unwrap_err().code(), Code::Unauthenticated);
    }

    #[test]
    fn a_token_ends_after_its_last_moment() {
        let (text, token) = minted(machine_scope(), NOW + ENROLMENT_MS);
        let (presented, directory) = (Presented::parse(text.expose()).unwrap(), directory_with(&[&token]));
        assert!(presented.record(&directory, NOW + ENROLMENT_MS).is_ok());
        let late = presented.record(&directory, NOW + ENROLMENT_MS + 1).unwrap_err();
        assert_eq!((late.code(), late.detail()), (Code::Unauthenticated, "The token has expired."));
    }

    #[test]
    fn a_zones_token_enrols_nothing_and_a_machines_token_opens_no_zone() {
        let [(zone_text, zone), (machine_text, machine)] = [minted(zone_scope(), 0), minted(machine_scope(), 0)];
        let directory = directory_with(&[&zone, &machine]);
        let [of_zone, of_machine] = [&zone_text, &machine_text].map(|text| Presented::parse(text.expose()).unwrap());
        assert_eq!(of_zone.machine(&directory, NOW).unwrap_err().code(), Code::Forbidden);
        assert_eq!(of_machine.zone(&directory, NOW).unwrap_err().code(), Code::Forbidden);
        assert_eq!(of_machine.machine(&directory, NOW).unwrap().as_str(), "fra-1");
    }

    #[test]
    fn no_changed_or_cut_text_is_a_token() {
        let (text, _) = minted(zone_scope(), 0);
        let text = text.expose();
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert!(Presented::parse(std::str::from_utf8(&changed).unwrap()).is_err(), "changed at {at}");
            assert!(Presented::parse(&text[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(Presented::parse(&text.to_uppercase()).unwrap_err(), TokenError::Form);
        assert_eq!(Presented::parse(&format!("{text} ")).unwrap_err(), TokenError::Form);
        let mistyped = format!("{}{}", &text[..TEXT_BYTES - 1], if text.ends_with('0') { '1' } else { '0' });
        assert_eq!(Presented::parse(&mistyped).unwrap_err(), TokenError::Checksum);
    }

    #[test]
    fn an_enrolment_text_pins_what_the_authority_is() {
        let (secret, token) = minted(machine_scope(), NOW + ENROLMENT_MS);
        let record_key = RecordSigningKey::from_bytes(&[7; 32]).verifying_key();
        let pins = Pins { cluster: "prod".parse().unwrap(), ca_sha256: [9; 32], record_key };
        let text = pins.enrolment_text(&"fra-1".parse().unwrap(), &secret);
        let read = EnrolmentToken::parse(text.expose()).unwrap();
        assert_eq!((read.machine.as_str(), read.ca_sha256, read.record_key), ("fra-1", [9; 32], record_key));
        assert!(Presented::parse(&read.secret).unwrap().is(&token));
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in "(cin_)?\\PC*") {
            prop_assert!(Presented::parse(&text).is_err());
        }
    }
}
