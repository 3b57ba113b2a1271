//! Signatures of the edge node, while the handshake waits without a thread.
//!
//! The road: s2n hands over a digest and how it shall be signed; the certificate that it chose knows its zone, id and
//! public key; [`EdgeClient::sign`] does the rest within what is left of the handshake's time.
//! Law: nothing is ever decrypted. A client that asks for RSA key exchange finds no cipher suite; were there one, the
//! operation is refused here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::Env;
use cinnabar_edge_api::client::EdgeClient;
use cinnabar_edge_api::proto::Signature;
use cinnabar_edge_api::{Input, Refusal, Scheme, SignRequest};
use parking_lot::Mutex;
use s2n_tls::callbacks::{ConnectionFuture, OperationType, PrivateKeyCallback, PrivateKeyOperation};
use s2n_tls::connection::Connection;
use s2n_tls::enums::{HashAlgorithm, SignatureAlgorithm};
use s2n_tls::error::Error;

use crate::acceptor::{Refused, Watch};
use crate::limits::DIGEST_BYTES_MAX;
use crate::metrics::Metrics;

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// The machine.
    pub machine: String,
    /// Its data centre.
    pub data_center: String,
    /// Was it another machine than ours?
    pub remote: bool,
    /// How long the handshake waited for it.
    pub waited: Duration,
}

/// What the edge node is told of a certificate; it hangs on the chain that the library chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The certificate's zone.
    pub zone: String,
    /// Its id.
    pub id: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
}

/// Has signatures made by the edge node.
pub struct RemoteKey {
    edge: EdgeClient,
    env: Env,
    metrics: Metrics,
}

impl RemoteKey {
    /// A key that only the edge node has.
    pub const fn new(edge: EdgeClient, env: Env, metrics: Metrics) -> Self {
        Self { edge, env, metrics }
    }

    fn request(
        &self,
        connection: &Connection,
        operation: &PrivateKeyOperation,
        watch: &Watch,
    ) -> Result<SignRequest, Refused> {
        let internal = |error: Error| Refused::Internal(error.to_string());
        let scheme = match operation.kind().map_err(internal)? {
            OperationType::Sign(signature, hash) => scheme(*signature, *hash)
                .ok_or_else(|| Refused::Signature(format!("{signature:?} with {hash:?} is not made")))?,
            _ => {
                self.metrics.decrypt_refused.increment(1);
                return Err(Refused::Signature("nothing is decrypted here".to_owned()));
            }
        };
        let bytes = operation.input_size().map_err(internal)?;
        if bytes > DIGEST_BYTES_MAX {
            return Err(Refused::Internal(format!("a digest of {bytes} bytes")));
        }
        let mut digest = vec![0; bytes];
        operation.input(&mut digest).map_err(internal)?;
        let none = || Refused::Internal("the library signs for a certificate that is not ours".to_owned());
        let chosen = connection.selected_cert().ok_or_else(none)?;
        let chosen = chosen.application_context::<Chosen>().ok_or_else(none)?;
        let budget = watch.deadline.saturating_duration_since(self.env.clock.now());
        Ok(SignRequest {
            id: 0,
            zone: chosen.zone.clone(),
            certificate: chosen.id.clone(),
            spki_sha256: chosen.spki_sha256,
            scheme,
            input: Input::Digest(Bytes::from(digest)),
            budget,
            traceparent: String::new(),
        })
    }
}

impl PrivateKeyCallback for RemoteKey {
    fn handle_operation(
        &self,
        connection: &mut Connection,
        operation: PrivateKeyOperation,
    ) -> Result<Option<Pin<Box<dyn ConnectionFuture>>>, Error> {
        let watch = Watch::of(connection)?;
        let request = self.request(connection, &operation, &watch).map_err(|refused| watch.refuse(refused))?;
        let (edge, env, metrics) = (self.edge.clone(), self.env.clone(), self.metrics.clone());
        let answer = async move {
            let asked = env.clock.now();
            let answer = edge.sign(request).await;
            let waited = env.clock.now().saturating_duration_since(asked);
            metrics.sign_wait_seconds.record(waited);
            answer.map(|signature| (signature, waited))
        };
        Ok(Some(Box::pin(Signing { answer: Mutex::new(Box::pin(answer)), operation: Some(operation), watch })))
    }
}

type Answer = Result<(Signature, Duration), Refusal>;

/// A signature that is on its way. The lock is never taken: it makes the future what the library wants, `Sync`.
struct Signing {
    answer: Mutex<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    operation: Option<PrivateKeyOperation>,
    watch: Arc<Watch>,
}

impl ConnectionFuture for Signing {
    fn poll(mut self: Pin<&mut Self>, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Poll::Ready(answer) = self.answer.get_mut().as_mut().poll(cx) else { return Poll::Pending };
        let (signature, waited) = match answer {
            Ok(answer) => answer,
            Err(refusal) => return Poll::Ready(Err(self.watch.refuse(Refused::Signature(refusal.to_string())))),
        };
        let Some(operation) = self.operation.take() else {
            return Poll::Ready(Err(self.watch.refuse(Refused::Internal("signed twice".to_owned()))));
        };
        let Signature { machine, data_center, remote, signature, .. } = signature;
        let _ = self.watch.signed.set(SignedBy { machine, data_center, remote, waited });
        Poll::Ready(operation.set_output(connection, &signature))
    }
}

/// The scheme of RFC 8446 section 4.2.3; in TLS 1.2 the curve is the key's, and each curve has its hash here.
const fn scheme(signature: SignatureAlgorithm, hash: HashAlgorithm) -> Option<Scheme> {
    match (signature, hash) {
        (SignatureAlgorithm::RSA_PKCS1, HashAlgorithm::SHA256) => Some(Scheme::RsaPkcs1Sha256),
        (SignatureAlgorithm::RSA_PKCS1, HashAlgorithm::SHA384) => Some(Scheme::RsaPkcs1Sha384),
        (SignatureAlgorithm::RSA_PKCS1, HashAlgorithm::SHA512) => Some(Scheme::RsaPkcs1Sha512),
        (SignatureAlgorithm::RSA_PSS_RSAE, HashAlgorithm::SHA256) => Some(Scheme::RsaPssRsaeSha256),
        (SignatureAlgorithm::RSA_PSS_RSAE, HashAlgorithm::SHA384) => Some(Scheme::RsaPssRsaeSha384),
        (SignatureAlgorithm::RSA_PSS_RSAE, HashAlgorithm::SHA512) => Some(Scheme::RsaPssRsaeSha512),
        (SignatureAlgorithm::ECDSA, HashAlgorithm::SHA256) => Some(Scheme::EcdsaSecp256r1Sha256),
        (SignatureAlgorithm::ECDSA, HashAlgorithm::SHA384) => Some(Scheme::EcdsaSecp384r1Sha384),
        _ => None,
    }
}
