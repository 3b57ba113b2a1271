//! A request for a signature, within its bounds.
//!
//! Law: the one way from a message to a [`SignRequest`]; the length of a digest is the scheme's, before anybody asks
//! whose key it is for.

use std::time::Duration;

use bytes::Bytes;

use crate::limits::{BUDGET_DEFAULT, BUDGET_MAX, INPUT_BYTES_MAX, SPKI_SHA256_BYTES, TRACEPARENT_BYTES};
use crate::proto;
use crate::refusal::{Refusal, RefusalCode};
use crate::scheme::Scheme;

/// What is to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The digest by the scheme's hash, of its length.
    Digest(Bytes),
    /// What is to be hashed first; at most 16 KiB.
    Message(Bytes),
}

/// A request within its bounds. Names are checked for length alone: who looks them up parses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignRequest {
    /// Named again in the answer.
    pub id: u64,
    /// The certificate's zone.
    pub zone: String,
    /// The certificate's id.
    pub certificate: String,
    /// SHA-256 of the SubjectPublicKeyInfo that the client is shown.
    pub spki_sha256: [u8; SPKI_SHA256_BYTES],
    /// How to sign.
    pub scheme: Scheme,
    /// What to sign.
    pub input: Input,
    /// What is left of the caller's deadline.
    pub budget: Duration,
    /// W3C Trace Context; empty for none.
    pub traceparent: String,
}

/// Bytes of a zone's name.
const ZONE_BYTES_MAX: usize = 63;
/// Bytes of a certificate's id.
const CERTIFICATE_BYTES: usize = 32;

fn malformed(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Malformed, message)
}

fn bad_scheme(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::BadScheme, message)
}

fn input(scheme: Scheme, input: Option<proto::sign_request::Input>) -> Result<Input, Refusal> {
    match input {
        Some(proto::sign_request::Input::Digest(digest)) => match scheme.hash().bytes() {
            Some(bytes) if bytes == digest.len() => Ok(Input::Digest(digest)),
            Some(bytes) => Err(bad_scheme(format!("digest: {} bytes, {scheme} takes {bytes}", digest.len()))),
            None => Err(bad_scheme(format!("digest: {scheme} signs the message itself"))),
        },
        Some(proto::sign_request::Input::Message(message)) if message.len() <= INPUT_BYTES_MAX => {
            Ok(Input::Message(message))
        }
        Some(proto::sign_request::Input::Message(message)) => {
            Err(malformed(format!("message: {} bytes, at most {INPUT_BYTES_MAX}", message.len())))
        }
        None => Err(malformed("neither digest nor message")),
    }
}

impl TryFrom<proto::SignRequest> for SignRequest {
    type Error = Refusal;

    fn try_from(message: proto::SignRequest) -> Result<Self, Refusal> {
        let scheme = Scheme::from_code(message.scheme)
            .ok_or_else(|| bad_scheme(format!("scheme: {:#06x} is none that is made here", message.scheme)))?;
        if message.zone.is_empty() || message.zone.len() > ZONE_BYTES_MAX {
            return Err(malformed("zone: 1 to 63 characters"));
        }
        if message.certificate.len() != CERTIFICATE_BYTES {
            return Err(malformed("certificate: 32 hexadecimal digits"));
        }
        let spki_sha256 = message.spki_sha256.as_ref().try_into().map_err(|_| malformed("spki_sha256: 32 bytes"))?;
        let traceparent = message.traceparent;
        if !traceparent.is_empty() && !is_traceparent(&traceparent) {
            return Err(malformed("traceparent: not as W3C Trace Context has it"));
        }
        let budget = match message.budget_ms {
            0 => BUDGET_DEFAULT,
            ms => Duration::from_millis(ms.into()).min(BUDGET_MAX),
        };
        Ok(Self {
            id: message.id,
            zone: message.zone,
            certificate: message.certificate,
            spki_sha256,
            scheme,
            input: input(scheme, message.input)?,
            budget,
            traceparent,
        })
    }
}

impl From<SignRequest> for proto::SignRequest {
    fn from(request: SignRequest) -> Self {
        let input = match request.input {
            Input::Digest(digest) => proto::sign_request::Input::Digest(digest),
            Input::Message(message) => proto::sign_request::Input::Message(message),
        };
        Self {
            id: request.id,
            zone: request.zone,
            certificate: request.certificate,
            spki_sha256: Bytes::copy_from_slice(&request.spki_sha256),
            scheme: request.scheme.code().into(),
            input: Some(input),
            // At least 1: nothing left is not "take the default".
            budget_ms: u32::try_from(request.budget.as_millis()).unwrap_or(u32::MAX).max(1),
            traceparent: request.traceparent,
        }
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, W3C Trace Context section 3.2.2; later versions may be longer and are not taken.
fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == TRACEPARENT_BYTES
        && bytes.iter().enumerate().all(|(n, byte)| match n {
            2 | 35 | 52 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message() -> proto::SignRequest {
        proto::SignRequest {
            id: 7,
            zone: "shop".to_owned(),
            certificate: "00112233445566778899aabbccddeeff".to_owned(),
            spki_sha256: Bytes::from_static(&[1; 32]),
            scheme: Scheme::RsaPssRsaeSha384.code().into(),
            input: Some(proto::sign_request::Input::Digest(Bytes::from_static(&[2; 48]))),
            budget_ms: 1500,
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        }
    }

    #[test]
    fn a_request_within_its_bounds_reads_back() {
        let request = SignRequest::try_from(message()).unwrap();
        assert_eq!(request.budget, Duration::from_millis(1500));
        assert_eq!(proto::SignRequest::from(request), message());
        let none = SignRequest::try_from(proto::SignRequest { budget_ms: 0, ..message() }).unwrap();
        assert_eq!(none.budget, BUDGET_DEFAULT);
    }

    #[test]
    fn what_is_outside_is_refused_and_the_field_named() {
        use proto::sign_request::Input::{Digest, Message};
        let code = |change: &dyn Fn(&mut proto::SignRequest)| {
            let mut changed = message();
            change(&mut changed);
            SignRequest::try_from(changed).unwrap_err().code
        };
        for bytes in [0, 32, 47, 49, 64] {
            let digest = Bytes::from(vec![0; bytes]);
            assert_eq!(code(&|m| m.input = Some(Digest(digest.clone()))), RefusalCode::BadScheme, "{bytes}");
        }
        assert_eq!(code(&|m| m.scheme = Scheme::Ed25519.code().into()), RefusalCode::BadScheme);
        assert_eq!(code(&|m| m.scheme = 0x0201), RefusalCode::BadScheme);
        assert_eq!(code(&|m| m.input = None), RefusalCode::Malformed);
        assert_eq!(code(&|m| m.input = Some(Message(vec![0; INPUT_BYTES_MAX + 1].into()))), RefusalCode::Malformed);
        assert_eq!(code(&|m| m.zone.clear()), RefusalCode::Malformed);
        assert_eq!(code(&|m| m.certificate.push('0')), RefusalCode::Malformed);
        assert_eq!(code(&|m| m.spki_sha256 = Bytes::from_static(&[0; 31])), RefusalCode::Malformed);
        assert_eq!(code(&|m| m.traceparent.push('0')), RefusalCode::Malformed);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_a_refusal(bytes: Vec<u8>) {
            if let Ok(message) = <proto::SignRequest as prost::Message>::decode(bytes.as_slice()) {
                let _ = SignRequest::try_from(message);
            }
        }
    }
}
