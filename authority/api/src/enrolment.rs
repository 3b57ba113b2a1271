//! The enrolment token: what an operator carries to a machine once, so that each of the two knows the other.
//!
//! The road: the authority makes it for one machine id, the machine reads it, pins what is in it, and sends back
//! [`EnrolmentToken::secret`] alone with its request for a certificate. Law: a machine trusts no authority but the one
//! whose CA and record-signing key are in its token; the token has one spelling.
//!
//! Text: `cinenrol_` and, in base64url without padding, `format (1) | cluster, machine (texts) | SHA-256 of the CA's DER
//! certificate 32 | record-verifying key 32 | secret (text) | CRC-32C of all before it (4)`. Layout:
//! `docs/formats.md#tokens`.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use cinnabar_abe::signature::RecordVerifyingKey;
use cinnabar_daemon::codec;
use cinnabar_daemon::id::ClusterId;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::names::MachineId;

/// What the text begins with.
pub const PREFIX: &str = "cinenrol_";
/// Most bytes of the text.
pub const ENROLMENT_TOKEN_BYTES_MAX: usize = 1024;
/// Most bytes of the secret in it.
const SECRET_BYTES_MAX: usize = 256;

const FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

/// See the module. `Debug` does not show the secret; it is wiped when dropped.
pub struct EnrolmentToken {
    /// The cluster.
    pub cluster: ClusterId,
    /// The machine that it is for.
    pub machine: MachineId,
    /// SHA-256 of the cluster CA's certificate, DER.
    pub ca_sha256: [u8; 32],
    /// The key that verifies the authority's records.
    pub record_key: RecordVerifyingKey,
    /// What the machine sends back, once: the token that the authority knows by its digest.
    pub secret: Zeroizing<String>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    cluster: ClusterId,
    machine: MachineId,
    ca_sha256: [u8; 32],
    record_key: [u8; 32],
    secret: SecretField,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
struct SecretField(String);

/// Why a text is no enrolment token. Nothing of the text is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enrolment token: {0}")]
pub struct EnrolmentTokenError(&'static str);

impl EnrolmentToken {
    /// The text.
    pub fn to_text(&self) -> Zeroizing<String> {
        let body = Body {
            cluster: self.cluster.clone(),
            machine: self.machine.clone(),
            ca_sha256: self.ca_sha256,
            record_key: self.record_key.to_bytes(),
            secret: SecretField(self.secret.to_string()),
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(ENROLMENT_TOKEN_BYTES_MAX));
        bytes.push(FORMAT);
        codec::encode_into(&mut bytes, &body);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + Base64UrlUnpadded::encoded_len(&bytes)));
        text.push_str(PREFIX);
        text.push_str(&Zeroizing::new(Base64UrlUnpadded::encode_string(&bytes)));
        text
    }

    /// Reads a text; spaces and line ends around it do not matter.
    ///
    /// # Errors
    /// [`EnrolmentTokenError`].
    pub fn parse(text: &str) -> Result<Self, EnrolmentTokenError> {
        let refused = EnrolmentTokenError;
        let text = text.trim();
        if text.len() > ENROLMENT_TOKEN_BYTES_MAX {
            return Err(refused("it is too long"));
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(refused("it does not begin with `cinenrol_`"))?;
        let bytes = Base64UrlUnpadded::decode_vec(encoded).map_err(|_| refused("a character is wrong or missing"))?;
        let bytes = Zeroizing::new(bytes);
        let body = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(refused("it is cut"))?;
        let (body, checksum) = bytes.split_at(body);
        if crc32c::crc32c(body).to_le_bytes() != *checksum {
            return Err(refused("it was mistyped or cut: its checksum is another"));
        }
        let body = codec::decode::<Body, ENROLMENT_TOKEN_BYTES_MAX>("enrolment token", FORMAT, body);
        let body = body.map_err(|_| refused("another format"))?;
        if body.secret.0.is_empty() || body.secret.0.len() > SECRET_BYTES_MAX {
            return Err(refused("its secret has a wrong length"));
        }
        let record_key = RecordVerifyingKey::from_bytes(&body.record_key).map_err(|_| refused("its key is none"))?;
        let secret = Zeroizing::new(body.secret.0.clone());
        let read = Self {
            cluster: body.cluster.clone(),
            machine: body.machine.clone(),
            ca_sha256: body.ca_sha256,
            record_key,
            secret,
        };
        if read.to_text().as_str() == text { Ok(read) } else { Err(refused("not in its one spelling")) }
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrolmentToken({} in {})", self.machine, self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use cinnabar_abe::signature::RecordSigningKey;
    use proptest::prelude::*;

    use super::*;

    fn token() -> EnrolmentToken {
        EnrolmentToken {
            cluster: "acme".parse().unwrap(),
            machine: "fra-1".parse().unwrap(),
            ca_sha256: [3; 32],
            record_key: RecordSigningKey::from_bytes(&[7; 32]).verifying_key(),
            secret: Zeroizing::new("cin_secret".to_owned()),
        }
    }

    #[test]
    fn a_token_is_read_back_and_pins_what_was_put_in() {
        let text = token().to_text();
        assert!(text.len() < ENROLMENT_TOKEN_BYTES_MAX && text.starts_with(PREFIX));
        let read = EnrolmentToken::parse(&format!(" {}\n", *text)).unwrap();
        assert_eq!(
            (read.cluster.as_str(), read.machine.as_str(), read.secret.as_str()),
            ("acme", "fra-1", "cin_secret")
        );
        assert_eq!((read.ca_sha256, read.record_key), (token().ca_sha256, token().record_key));
        assert!(!format!("{read:?}").contains("secret"));
    }

    #[test]
    fn no_changed_or_cut_text_is_taken() {
        let text = token().to_text();
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(EnrolmentToken::parse(std::str::from_utf8(&changed).unwrap()).is_err(), "changed at {at}");
            assert!(EnrolmentToken::parse(&text[..at]).is_err(), "cut at {at}");
        }
        assert!(EnrolmentToken::parse(&format!("{}A", *text)).is_err());
        assert!(EnrolmentToken::parse(&"A".repeat(2000)).is_err());
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in "(cinenrol_)?\\PC*") {
            let _ = EnrolmentToken::parse(&text);
        }
    }
}
