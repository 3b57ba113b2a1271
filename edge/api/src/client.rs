//! What a local service uses: certificates by name, and one stream that many signatures share.
//!
//! The road: [`EdgeClient::sign`] sends over the stream and waits for the answer with its id; one task reads answers.
//! Law: every wait has an end. A stream that broke fails what was open on it and is opened anew by the next request.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cinnabar_daemon::mtls::uds_channel;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::limits::{MESSAGE_BYTES_MAX, STREAM_OPEN_MAX};
use crate::proto::agent_client::AgentClient;
use crate::proto::sign_answer::Outcome;
use crate::proto::signer_client::SignerClient;
use crate::proto::{self, SignAnswer, Signature};
use crate::refusal::{Refusal, RefusalCode};
use crate::request::SignRequest;

/// What a wait has beyond the request's budget before its answer is given up.
const GRACE: Duration = Duration::from_millis(250);
/// Longest wait for anything but a signature.
pub const CALL_MAX: Duration = Duration::from_secs(5);

type Open = Arc<Mutex<HashMap<u64, oneshot::Sender<SignAnswer>>>>;

struct Stream {
    requests: mpsc::Sender<proto::SignRequest>,
    open: Open,
    broken: Arc<AtomicBool>,
}

/// A local service's client. Clones share connection and stream.
#[derive(Clone)]
pub struct EdgeClient {
    channel: Channel,
    stream: Arc<tokio::sync::Mutex<Option<Arc<Stream>>>>,
    next_id: Arc<AtomicU64>,
}

impl std::fmt::Debug for EdgeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeClient").finish_non_exhaustive()
    }
}

impl EdgeClient {
    /// A client of the edge node that listens on this Unix socket; it connects when first used.
    pub fn new(socket: &Path) -> Self {
        Self::over(uds_channel(socket))
    }

    /// A client over any channel.
    pub fn over(channel: Channel) -> Self {
        Self { channel, stream: Arc::default(), next_id: Arc::new(AtomicU64::new(1)) }
    }

    /// The calls that are for local services only.
    pub fn agent(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn signer(&self) -> SignerClient<Channel> {
        SignerClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The certificates that serve a name; none when nothing does.
    ///
    /// # Errors
    /// The node's, or that it does not answer within [`CALL_MAX`].
    pub async fn certificates(&self, hostname: &str) -> Result<Vec<proto::Certificate>, Status> {
        let mut agent = self.agent();
        let call = agent.certificates(proto::CertificatesRequest { hostname: hostname.to_owned() });
        match tokio::time::timeout(CALL_MAX, call).await {
            Ok(answer) => Ok(answer?.into_inner().certificates),
            Err(_) => Err(Status::deadline_exceeded("the edge node does not answer")),
        }
    }

    /// Has a signature made by one call of its own; [`EdgeClient::sign`] costs less.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn sign_once(&self, request: SignRequest) -> Result<Signature, Refusal> {
        let wait = request.budget + GRACE;
        let mut signer = self.signer();
        match tokio::time::timeout(wait, signer.sign(proto::SignRequest::from(request))).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(Refusal::new(RefusalCode::Deadline, "the edge node does not answer")),
        }
    }

    /// Has a signature made, over the stream. The request's id is chosen here.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn sign(&self, mut request: SignRequest) -> Result<Signature, Refusal> {
        let wait = request.budget + GRACE;
        request.id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // The stream's opening is within the time, too: it may have to wait for another's.
        let answer = match tokio::time::timeout(wait, self.exchange(request)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Refusal::new(RefusalCode::Deadline, "the edge node does not answer")),
        };
        match answer.outcome {
            Some(Outcome::Signature(signature)) => Ok(signature),
            Some(Outcome::Refusal(refusal)) => Err(refusal.into()),
            None => Err(Refusal::new(RefusalCode::Internal, "an answer without an outcome")),
        }
    }

    /// Opens the stream when it is not open, so that no request waits for it.
    ///
    /// # Errors
    /// As [`EdgeClient::sign`].
    pub async fn open(&self) -> Result<(), Refusal> {
        self.stream().await.map(drop)
    }

    async fn exchange(&self, request: SignRequest) -> Result<SignAnswer, Refusal> {
        let id = request.id;
        let stream = self.stream().await?;
        let (answered, answer) = oneshot::channel();
        {
            let mut open = lock(&stream.open);
            if open.len() >= STREAM_OPEN_MAX {
                return Err(Refusal::new(RefusalCode::Overloaded, "too many requests are open on the stream"));
            }
            open.insert(id, answered);
            // The reader clears what is open after it says that the stream broke: nothing is left waiting.
            if stream.broken.load(Ordering::Acquire) {
                open.remove(&id);
                return Err(lost());
            }
        }
        // Forgotten also when the caller goes away.
        let _forget = Forget { open: &stream.open, id };
        stream.requests.send(request.into()).await.map_err(|_| lost())?;
        answer.await.map_err(|_| lost())
    }

    /// The stream, opened when there is none or the last one broke.
    async fn stream(&self) -> Result<Arc<Stream>, Refusal> {
        let mut current = self.stream.lock().await;
        if let Some(stream) = current.as_ref().filter(|stream| !stream.broken.load(Ordering::Acquire)) {
            return Ok(stream.clone());
        }
        let (requests, outgoing) = mpsc::channel(STREAM_OPEN_MAX);
        let mut signer = self.signer();
        let opened = tokio::time::timeout(CALL_MAX, signer.sign_stream(ReceiverStream::new(outgoing))).await;
        let mut answers = match opened {
            Ok(opened) => opened?.into_inner(),
            Err(_) => return Err(Refusal::new(RefusalCode::Deadline, "the edge node does not answer")),
        };
        let open = Open::default();
        let broken = Arc::new(AtomicBool::new(false));
        let stream = Arc::new(Stream { requests, open: open.clone(), broken: broken.clone() });
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                if let Some(waiting) = lock(&open).remove(&answer.id) {
                    let _ = waiting.send(answer);
                }
            }
            broken.store(true, Ordering::Release);
            // What is still open learns of it by its sender's end.
            lock(&open).clear();
        });
        *current = Some(stream.clone());
        Ok(stream)
    }
}

/// As a status that no node made: nobody answered.
fn lost() -> Refusal {
    Refusal::new(RefusalCode::NoHolder, "the stream to the edge node broke")
}

fn lock(open: &Open) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<SignAnswer>>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Forget<'a> {
    open: &'a Open,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.open).remove(&self.id);
    }
}
