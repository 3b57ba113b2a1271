//! A machine's client of the authority: certificates renewed, attribute keys fetched, reports sent.
//!
//! Law: every call has a deadline and every message a bound. What comes back is checked by the caller: a certificate
//! against its own key, an attribute key against the signed `machine/` record.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use cinnabar_abe::SecretBytes;
use tonic::Status;
use tonic::transport::Channel;

use crate::names::Generation;
use crate::proto;
use crate::proto::machine_client::MachineClient as Grpc;

/// Largest message of the contract, in bytes: two keys of 256 attributes, with room.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Longest that a call takes: issuing keys is work, and waits for its turn.
pub const CALL_MAX: Duration = Duration::from_secs(30);
/// Where a refusal has its code.
pub const CODE_METADATA: &str = "cinnabar-code";

/// Why the authority did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// It refused. The code is one of docs/errors.md, and empty when something between refused.
    #[error("the authority refused: {message} [{code}]")]
    Refused {
        /// Stable, for programs.
        code: String,
        /// For people.
        message: String,
    },
    /// It did not answer. Ask again.
    #[error("the authority does not answer: {0}")]
    Unreachable(String),
    /// It answered what no honest authority answers.
    #[error("the authority's answer: {0}")]
    Malformed(&'static str),
}

/// A certificate as the authority issues it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The cluster's CA, PEM.
    pub ca_pem: String,
    /// Last second of the certificate, since 1970.
    pub not_after_s: u64,
}

/// An attribute key of one generation, encoded.
#[derive(Debug)]
pub struct MachineKey {
    /// The generation.
    pub generation: Generation,
    /// The key's encoding.
    pub key: SecretBytes,
}

/// See the module. Clones share the connection.
#[derive(Clone)]
pub struct MachineClient {
    channel: Channel,
}

impl MachineClient {
    /// Calls over this channel, which proves who we are and that the other end is the authority.
    pub fn new(channel: Channel) -> Self {
        Self { channel }
    }

    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Has a new certificate issued for the key of a request (PKCS #10, DER).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn renew(&self, certificate_request: Vec<u8>) -> Result<Certificate, ClientError> {
        let mut grpc = self.grpc();
        let answer = in_time(grpc.renew(proto::RenewRequest { certificate_request })).await?;
        let proto::RenewResponse { certificate_pem, ca_pem, not_after_s } = answer;
        Ok(Certificate { certificate_pem, ca_pem, not_after_s })
    }

    /// Has this machine's attribute keys issued, in ascending generations.
    ///
    /// # Errors
    /// [`ClientError`]; the code `sealed` means that an operator must unseal first.
    pub async fn keys(&self) -> Result<Vec<MachineKey>, ClientError> {
        let mut grpc = self.grpc();
        let answer = in_time(grpc.keys(proto::KeysRequest {})).await?;
        let keys = answer.keys.into_iter().map(|key| {
            // Wrapped first: wiped also when its number is wrong.
            let (number, key) = (key.generation, SecretBytes::new(key.key));
            let generation = NonZeroU32::new(number).ok_or(ClientError::Malformed("generation 0"))?;
            Ok(MachineKey { generation: Generation(generation), key })
        });
        let keys = keys.collect::<Result<Vec<_>, ClientError>>()?;
        if keys.is_empty() || !keys.windows(2).all(|pair| pair[0].generation < pair[1].generation) {
            return Err(ClientError::Malformed("generations do not ascend"));
        }
        Ok(keys)
    }

    /// Sends a report.
    ///
    /// # Errors
    /// [`ClientError`]; `rate-limited` when the last one was a moment ago.
    pub async fn report(&self, report: proto::ReportRequest) -> Result<(), ClientError> {
        let mut grpc = self.grpc();
        in_time(grpc.report(report)).await.map(drop)
    }
}

async fn in_time<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, ClientError> {
    match tokio::time::timeout(CALL_MAX, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refusal(&status)),
        Err(_) => Err(ClientError::Unreachable("no answer in time".to_owned())),
    }
}

fn refusal(status: &Status) -> ClientError {
    let code = status.metadata().get(CODE_METADATA).and_then(|code| code.to_str().ok());
    match (code, status.code()) {
        (None, tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Unknown) => {
            ClientError::Unreachable(status.message().to_owned())
        }
        (code, _) => {
            ClientError::Refused { code: code.unwrap_or_default().to_owned(), message: status.message().to_owned() }
        }
    }
}

impl fmt::Debug for MachineClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineClient").finish_non_exhaustive()
    }
}

/// Without the key.
impl fmt::Debug for proto::MachineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineKey(generation {}, {} bytes)", self.generation, self.key.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_printed() {
        let key = proto::MachineKey { generation: 1, key: vec![0xab; 40] };
        let answer = proto::KeysResponse { keys: vec![key] };
        assert_eq!(format!("{answer:?}"), "KeysResponse { keys: [MachineKey(generation 1, 40 bytes)] }");
    }

    #[test]
    fn a_refusal_keeps_its_code_and_silence_is_told_apart() {
        let mut status = Status::unavailable("the system secret keys are sealed");
        assert!(matches!(refusal(&status), ClientError::Unreachable(_)));
        status.metadata_mut().insert(CODE_METADATA, "sealed".parse().unwrap());
        assert!(matches!(refusal(&status), ClientError::Refused { code, .. } if code == "sealed"));
        assert!(matches!(refusal(&Status::permission_denied("no")), ClientError::Refused { .. }));
    }
}
