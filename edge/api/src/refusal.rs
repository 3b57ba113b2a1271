//! Why there is no signature: one type over a call's status and a stream's answer.

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use crate::proto;
pub use crate::proto::{Attempt, RefusalCode};

/// Why there is no signature.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}: {message}", word(*code))]
pub struct Refusal {
    /// The kind.
    pub code: RefusalCode,
    /// For people.
    pub message: String,
    /// What was tried elsewhere.
    pub tried: Vec<Attempt>,
}

/// The word of metrics, logs and messages.
pub const fn word(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::Unspecified => "unspecified",
        RefusalCode::NotPermitted => "not_permitted",
        RefusalCode::NoHolder => "no_holder",
        RefusalCode::UnknownCertificate => "unknown_certificate",
        RefusalCode::Deadline => "deadline",
        RefusalCode::BadScheme => "bad_scheme",
        RefusalCode::Overloaded => "overloaded",
        RefusalCode::Stale => "stale",
        RefusalCode::Malformed => "malformed",
        RefusalCode::Internal => "internal",
    }
}

/// Every code that a node answers.
pub const CODES: [RefusalCode; 9] = [
    RefusalCode::NotPermitted,
    RefusalCode::NoHolder,
    RefusalCode::UnknownCertificate,
    RefusalCode::Deadline,
    RefusalCode::BadScheme,
    RefusalCode::Overloaded,
    RefusalCode::Stale,
    RefusalCode::Malformed,
    RefusalCode::Internal,
];

impl Refusal {
    /// A refusal without attempts.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), tried: Vec::new() }
    }

    /// The word of metrics.
    pub fn word(&self) -> &'static str {
        word(self.code)
    }
}

impl From<Refusal> for proto::Refusal {
    fn from(refusal: Refusal) -> Self {
        let Refusal { code, message, tried } = refusal;
        Self { code: code.into(), message, tried }
    }
}

impl From<proto::Refusal> for Refusal {
    fn from(message: proto::Refusal) -> Self {
        let code = message.code();
        Self { code, message: message.message, tried: message.tried }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.code {
            RefusalCode::NotPermitted => Code::PermissionDenied,
            RefusalCode::NoHolder | RefusalCode::Stale => Code::Unavailable,
            RefusalCode::UnknownCertificate => Code::NotFound,
            RefusalCode::Deadline => Code::DeadlineExceeded,
            RefusalCode::BadScheme | RefusalCode::Malformed => Code::InvalidArgument,
            RefusalCode::Overloaded => Code::ResourceExhausted,
            RefusalCode::Internal | RefusalCode::Unspecified => Code::Internal,
        };
        let message = refusal.to_string();
        let details: Bytes = proto::Refusal::from(refusal).encode_to_vec().into();
        Self::with_details(code, message, details)
    }
}

impl From<Status> for Refusal {
    /// A status that carries no refusal comes from between: nobody answered.
    fn from(status: Status) -> Self {
        if !status.details().is_empty()
            && let Ok(found) = proto::Refusal::decode(status.details())
        {
            return found.into();
        }
        let code = match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => RefusalCode::NotPermitted,
            Code::DeadlineExceeded | Code::Cancelled => RefusalCode::Deadline,
            Code::ResourceExhausted => RefusalCode::Overloaded,
            Code::InvalidArgument | Code::OutOfRange => RefusalCode::Malformed,
            Code::Unavailable => RefusalCode::NoHolder,
            _ => RefusalCode::Internal,
        };
        Self::new(code, status.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_crosses_a_status_whole() {
        for code in CODES {
            let tried = vec![Attempt { machine: "ams-1".to_owned(), code: code.into(), ..Attempt::default() }];
            let refusal = Refusal { code, message: "because".to_owned(), tried };
            assert_eq!(Refusal::from(Status::from(refusal.clone())), refusal);
        }
        assert_eq!(Refusal::from(Status::unavailable("gone")).code, RefusalCode::NoHolder);
        let damaged = Status::with_details(Code::Internal, "x", Bytes::from_static(&[0xff; 3]));
        assert_eq!(Refusal::from(damaged).code, RefusalCode::Internal);
    }
}
