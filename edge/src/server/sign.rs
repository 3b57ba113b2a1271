//! Requests for signatures, from this machine's services and from peers.
//!
//! The road: [`SignService`] sees who calls by the connection; each request of a stream is a task of its own and answers
//! when it is done; a service's request goes to the signer or, when this machine holds no key, to the router; a peer's
//! goes to the signer or is refused. Order of a peer's checks: who it is, not revoked, its own rate, our copy believed; `served_by`; the
//! shape (public key, scheme); rates; the key. Law: all of them for every request, also inside a stream; no key is opened
//! for a scheme that does not fit it; nothing of a peer's is ever passed on (one hop); every peer's request is logged.

#[cfg(test)]
mod tests;

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use cinnabar_authority_api::records::KeyType;
use cinnabar_authority_api::{CertId, DataCenterId, MachineId, ZoneId};
use cinnabar_daemon::{Clock, PeerInfo, Role, Shutdown};
use cinnabar_edge_api::limits::STREAM_OPEN_MAX;
use cinnabar_edge_api::proto::sign_answer::Outcome;
use cinnabar_edge_api::proto::signer_server::Signer as SignerRpc;
use cinnabar_edge_api::proto::{self, ProbeResponse, SignAnswer, Signature};
use cinnabar_edge_api::refusal::RefusalCode;
use cinnabar_edge_api::{Refusal, Scheme, SignRequest};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::local::check_user;
use super::rates::Rates;
use crate::directory::{CertRef, CertView, Holders, MachineView};
use crate::limits::REQUESTS_OPEN_MAX;
use crate::router::Router;
use crate::signer::metrics::{SIGNED, Where};
use crate::signer::{Lane, SignMetrics, Signer, SigningKey, Work};

/// What the service asks of the records.
pub trait Records: Send + Sync + 'static {
    /// A usable certificate.
    ///
    /// # Errors
    /// `UNKNOWN_CERTIFICATE`.
    fn cert(&self, zone: &ZoneId, id: &CertId) -> Result<CertRef, Refusal>;
    /// A machine that has a record and is not revoked.
    fn machine(&self, id: &MachineId) -> Option<Arc<MachineView>>;
    /// Is there a record that it is?
    fn is_revoked(&self, id: &MachineId) -> bool;
    /// Who holds a certificate's key.
    fn holders(&self, cert: &CertView) -> Arc<Holders>;
    /// May this node sign for its own services?
    ///
    /// # Errors
    /// `STALE`.
    fn may_sign_local(&self) -> Result<(), Refusal>;
    /// May it sign for peers?
    ///
    /// # Errors
    /// `STALE`.
    fn may_sign_for_others(&self) -> Result<(), Refusal>;
}

/// What the service asks of the keyring.
pub trait Keys: Send + Sync + 'static {
    /// A certificate's key.
    ///
    /// # Errors
    /// `NOT_PERMITTED` when this machine's attributes do not satisfy the key's policy; anything else is a fault of the
    /// record or the node.
    fn key<'a>(&'a self, cert: &'a CertRef) -> BoxFuture<'a, Result<Arc<SigningKey>, Refusal>>;
}

/// What a [`SignService`] is made of.
#[allow(missing_docs, reason = "the names are the types'")]
pub struct SignParts {
    pub me: MachineId,
    pub data_center: DataCenterId,
    pub records: Arc<dyn Records>,
    pub keys: Arc<dyn Keys>,
    pub signer: Arc<Signer>,
    pub router: Arc<Router>,
    pub rates: Rates,
    /// Users of this machine who may ask, by number.
    pub uids: Vec<u32>,
    pub clock: Arc<dyn Clock>,
    pub metrics: SignMetrics,
    pub shutdown: Shutdown,
}

/// Signatures since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SignCounts {
    /// For this machine, by it.
    pub here: u64,
    /// For this machine, by others.
    pub elsewhere: u64,
    /// For others.
    pub for_others: u64,
}

/// See the module.
pub struct SignService {
    itself: Weak<Self>,
    parts: SignParts,
    open_local: Semaphore,
    open_peers: Semaphore,
    here: AtomicU64,
    elsewhere: AtomicU64,
    for_others: AtomicU64,
}

impl fmt::Debug for SignService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignService").field("me", &self.parts.me).finish_non_exhaustive()
    }
}

/// Who asks; known from the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A service of this machine.
    Local,
    /// Another edge node.
    Peer(MachineId),
}

fn refuse<T>(code: RefusalCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(code, message))
}

impl SignService {
    /// Serves with these parts.
    pub fn new(parts: SignParts) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            itself: itself.clone(),
            parts,
            open_local: Semaphore::new(REQUESTS_OPEN_MAX),
            open_peers: Semaphore::new(REQUESTS_OPEN_MAX),
            here: AtomicU64::new(0),
            elsewhere: AtomicU64::new(0),
            for_others: AtomicU64::new(0),
        })
    }

    /// Signatures since the start.
    pub fn counts(&self) -> SignCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SignCounts { here: read(&self.here), elsewhere: read(&self.elsewhere), for_others: read(&self.for_others) }
    }

    /// Who is at the other end of a request's connection.
    ///
    /// # Errors
    /// `NOT_PERMITTED`: no edge node, or no user who may ask.
    pub fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Refusal> {
        if let Some(peer) = request.extensions().get::<PeerInfo>() {
            return match &peer.identity {
                Some(identity) if identity.role == Role::Edge => match identity.name.as_str().parse() {
                    Ok(machine) => Ok(Caller::Peer(machine)),
                    Err(_) => refuse(RefusalCode::NotPermitted, "its certificate names no machine"),
                },
                _ => refuse(RefusalCode::NotPermitted, "only edge nodes may ask for signatures"),
            };
        }
        check_user(request, &self.parts.uids).map(|()| Caller::Local)
    }

    /// Makes a signature for whoever asks, or says why not. `arrived` is when the request came.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn sign_for(
        &self,
        caller: &Caller,
        message: proto::SignRequest,
        arrived: Instant,
    ) -> Result<Signature, Refusal> {
        let scheme = Scheme::from_code(message.scheme);
        let open = if *caller == Caller::Local { &self.open_local } else { &self.open_peers };
        let mut place = if *caller == Caller::Local { Where::Local } else { Where::Peer };
        let answer = match (open.try_acquire(), caller) {
            (Err(_), _) => refuse(RefusalCode::Overloaded, "too many requests are open"),
            (Ok(_open), Caller::Local) => self.sign_local(message, arrived, &mut place).await,
            (Ok(_open), Caller::Peer(peer)) => self.sign_peer(peer, message, arrived).await,
        };
        let took = self.parts.clock.now().saturating_duration_since(arrived);
        self.parts.metrics.answered(
            place,
            scheme,
            answer.as_ref().err().map(|refusal| refusal.code),
            took.as_secs_f64(),
        );
        let mut signature = answer?;
        let count = match place {
            Where::Local => &self.here,
            Where::Remote => &self.elsewhere,
            Where::Peer => &self.for_others,
        };
        count.fetch_add(1, Ordering::Relaxed);
        signature.elapsed_us = micros(took);
        Ok(signature)
    }

    async fn sign_local(
        &self,
        message: proto::SignRequest,
        arrived: Instant,
        place: &mut Where,
    ) -> Result<Signature, Refusal> {
        let request = SignRequest::try_from(message)?;
        let (zone, id) = named(&request)?;
        self.parts.records.may_sign_local()?;
        let cert = self.parts.records.cert(&zone, &id)?;
        check_shape(&cert, &request)?;
        match self.parts.keys.key(&cert).await {
            Ok(key) => self.sign_here(key, request, arrived, Lane::Local).await,
            Err(refusal) if refusal.code == RefusalCode::NotPermitted => {
                *place = Where::Remote;
                let holders = self.parts.records.holders(&cert);
                let deadline = arrived + request.budget;
                self.parts.router.sign(&request, &holders, deadline).await
            }
            Err(refusal) => Err(refusal),
        }
    }

    async fn sign_peer(
        &self,
        peer: &MachineId,
        message: proto::SignRequest,
        arrived: Instant,
    ) -> Result<Signature, Refusal> {
        // What a peer sent goes into the log only once it is what it should be.
        let certificate = message.certificate.parse::<CertId>().map_or("malformed".to_owned(), |id| id.to_string());
        let (scheme, trace) = (message.scheme, message.traceparent.get(3..35).unwrap_or_default().to_owned());
        let answer = self.sign_checked(peer, message, arrived).await;
        let result = answer.as_ref().map_or_else(|refusal| refusal.word(), |_| SIGNED);
        let scheme = Scheme::from_code(scheme).map_or("none", Scheme::as_str);
        let trace = trace.escape_default();
        tracing::info!(%peer, %certificate, scheme, result, trace_id = %trace, "a peer asked for a signature");
        answer
    }

    async fn sign_checked(
        &self,
        peer: &MachineId,
        message: proto::SignRequest,
        arrived: Instant,
    ) -> Result<Signature, Refusal> {
        let machine = self.admitted(peer)?;
        self.parts.rates.take_peer(peer)?;
        self.parts.records.may_sign_for_others()?;
        let request = SignRequest::try_from(message)?;
        let (zone, id) = named(&request)?;
        let cert = self.parts.records.cert(&zone, &id)?;
        if !Self::may_ask(&machine, &cert) {
            return refuse(RefusalCode::NotPermitted, format!("`served_by` leaves {peer} out"));
        }
        check_shape(&cert, &request)?;
        self.parts.rates.take_key(&zone, &id)?;
        // Its refusal is the answer: what a peer asks goes nowhere else.
        let key = self.parts.keys.key(&cert).await?;
        self.sign_here(key, request, arrived, Lane::Forwarded).await
    }

    /// The record of a peer that may ask at all.
    fn admitted(&self, peer: &MachineId) -> Result<Arc<MachineView>, Refusal> {
        if self.parts.records.is_revoked(peer) {
            return refuse(RefusalCode::NotPermitted, format!("{peer} is revoked"));
        }
        match self.parts.records.machine(peer) {
            Some(machine) => Ok(machine),
            None => refuse(RefusalCode::NotPermitted, format!("there is no machine {peer}")),
        }
    }

    /// Does what was issued to the machine satisfy the certificate's `served_by`? By its newest generation.
    fn may_ask(machine: &MachineView, cert: &CertView) -> bool {
        let Some(policy) = &cert.served_by else { return true };
        machine.newest().is_some_and(|attributes| policy.is_satisfied_by(attributes))
    }

    async fn sign_here(
        &self,
        key: Arc<SigningKey>,
        request: SignRequest,
        arrived: Instant,
        lane: Lane,
    ) -> Result<Signature, Refusal> {
        let SignRequest { scheme, input, budget, .. } = request;
        let work = Work { key, scheme, input, deadline: arrived + budget, lane };
        let signature = self.parts.signer.sign(work).await?;
        Ok(Signature {
            signature: signature.into(),
            machine: self.parts.me.to_string(),
            data_center: self.parts.data_center.to_string(),
            remote: false,
            elapsed_us: 0,
        })
    }

    /// Answers a peer's probe.
    ///
    /// # Errors
    /// `NOT_PERMITTED` for a caller that is no peer, or revoked.
    pub fn probe<T>(&self, request: &Request<T>) -> Result<ProbeResponse, Refusal> {
        let Caller::Peer(peer) = self.caller(request)? else {
            return refuse(RefusalCode::NotPermitted, "only edge nodes probe");
        };
        self.admitted(&peer)?;
        Ok(ProbeResponse { signs: self.parts.records.may_sign_for_others().is_ok() })
    }

    /// Reads a stream's requests until its end or the shutdown; each is a task of its own.
    async fn read(
        self: Arc<Self>,
        caller: Caller,
        mut requests: Streaming<proto::SignRequest>,
        answers: mpsc::Sender<Result<SignAnswer, Status>>,
    ) {
        let caller = Arc::new(caller);
        let open = Arc::new(Semaphore::new(STREAM_OPEN_MAX));
        let shutdown = self.parts.shutdown.clone();
        let mut stop = pin!(shutdown.wait());
        loop {
            let message = tokio::select! {
                biased;
                () = &mut stop => return,
                message = requests.message() => message,
            };
            let Ok(Some(message)) = message else { return };
            let (id, arrived) = (message.id, self.parts.clock.now());
            let Ok(place) = open.clone().try_acquire_owned() else {
                let refusal = Refusal::new(RefusalCode::Overloaded, "too many requests are open on the stream");
                if answers.send(Ok(answer(id, Err(refusal)))).await.is_err() {
                    return;
                }
                continue;
            };
            let (service, caller, answers) = (self.clone(), caller.clone(), answers.clone());
            tokio::spawn(async move {
                let outcome = service.sign_for(&caller, message, arrived).await;
                // An error means that the caller is gone.
                let _ = answers.send(Ok(answer(id, outcome))).await;
                drop(place);
            });
        }
    }
}

fn answer(id: u64, outcome: Result<Signature, Refusal>) -> SignAnswer {
    let outcome = match outcome {
        Ok(signature) => Outcome::Signature(signature),
        Err(refusal) => Outcome::Refusal(refusal.into()),
    };
    SignAnswer { id, outcome: Some(outcome) }
}

fn named(request: &SignRequest) -> Result<(ZoneId, CertId), Refusal> {
    let malformed = |error: cinnabar_authority_api::NameError| Refusal::new(RefusalCode::Malformed, error.to_string());
    Ok((request.zone.parse().map_err(malformed)?, request.certificate.parse().map_err(malformed)?))
}

/// Is the request for the key that the record is about, by a scheme of that kind of key?
fn check_shape(cert: &CertView, request: &SignRequest) -> Result<(), Refusal> {
    if cert.cert.spki_sha256 != request.spki_sha256 {
        return refuse(RefusalCode::UnknownCertificate, "the certificate has another public key now");
    }
    if fits(cert.cert.key_type, request.scheme) {
        return Ok(());
    }
    let problem = format!("scheme: {} is not for {}", request.scheme, cert.cert.key_type);
    refuse(RefusalCode::BadScheme, problem)
}

/// Does a scheme go with a kind of key? RFC 8446 section 4.2.3: a curve has one hash.
pub const fn fits(key: KeyType, scheme: Scheme) -> bool {
    use Scheme::{
        EcdsaSecp256r1Sha256, EcdsaSecp384r1Sha384, Ed25519, RsaPkcs1Sha256, RsaPkcs1Sha384, RsaPkcs1Sha512,
        RsaPssRsaeSha256, RsaPssRsaeSha384, RsaPssRsaeSha512,
    };
    match scheme {
        RsaPkcs1Sha256 | RsaPkcs1Sha384 | RsaPkcs1Sha512 | RsaPssRsaeSha256 | RsaPssRsaeSha384 | RsaPssRsaeSha512 => {
            matches!(key, KeyType::Rsa(_))
        }
        EcdsaSecp256r1Sha256 => matches!(key, KeyType::P256),
        EcdsaSecp384r1Sha384 => matches!(key, KeyType::P384),
        Ed25519 => false,
    }
}

pub(crate) fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl SignerRpc for SignService {
    async fn sign(&self, request: Request<proto::SignRequest>) -> Result<Response<Signature>, Status> {
        let arrived = self.parts.clock.now();
        let caller = self.caller(&request)?;
        Ok(Response::new(self.sign_for(&caller, request.into_inner(), arrived).await?))
    }

    type SignStreamStream = ReceiverStream<Result<SignAnswer, Status>>;

    async fn sign_stream(
        &self,
        request: Request<Streaming<proto::SignRequest>>,
    ) -> Result<Response<Self::SignStreamStream>, Status> {
        let caller = self.caller(&request)?;
        let (sender, answers) = mpsc::channel(STREAM_OPEN_MAX);
        let Some(service) = self.itself.upgrade() else {
            return Err(Refusal::new(RefusalCode::Internal, "the node is stopping").into());
        };
        self.parts.shutdown.spawn(service.read(caller, request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}
