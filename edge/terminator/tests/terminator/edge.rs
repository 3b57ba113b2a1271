//! What stands for the edge node: the contract over a Unix socket, with real keys.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self, EcdsaKeyPair, RsaEncoding};
use bytes::Bytes;
use cinnabar_edge_api::proto::agent_server::{Agent, AgentServer};
use cinnabar_edge_api::proto::sign_answer::Outcome;
use cinnabar_edge_api::proto::signer_server::{Signer, SignerServer};
use cinnabar_edge_api::proto::{self, Certificate, KeyKind, SignAnswer, Signature};
use cinnabar_edge_api::refusal::RefusalCode;
use cinnabar_edge_api::{Hash, Input, Refusal, Scheme, SignRequest};
use rcgen::{
    CertificateParams, DnType, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
    PublicKeyData,
};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    P256,
    P384,
    Rsa,
}

enum Key {
    Ecdsa(EcdsaKeyPair, Scheme),
    Rsa(Box<signature::RsaKeyPair>),
}

/// A certificate with its key.
pub struct Held {
    key: Key,
    pub pkcs8: Vec<u8>,
    pub record: Certificate,
}

/// An authority that clients trust.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub der: Vec<u8>,
    pub pem: String,
}

impl Ca {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        Self { der: own.der().to_vec(), pem: own.pem(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for these names.
    pub fn issue(&self, id: u8, version: u64, kind: Kind, names: &[&str]) -> Held {
        let algorithm = match kind {
            Kind::P256 => &PKCS_ECDSA_P256_SHA256,
            Kind::P384 => &PKCS_ECDSA_P384_SHA384,
            Kind::Rsa => &PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&pair, &self.issuer).unwrap();
        let pkcs8 = pair.serialized_der().to_vec();
        let ecdsa = |signing, scheme| Key::Ecdsa(EcdsaKeyPair::from_pkcs8(signing, &pkcs8).unwrap(), scheme);
        let key = match kind {
            Kind::P256 => ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, Scheme::EcdsaSecp256r1Sha256),
            Kind::P384 => ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING, Scheme::EcdsaSecp384r1Sha384),
            Kind::Rsa => Key::Rsa(Box::new(signature::RsaKeyPair::from_pkcs8(&pkcs8).unwrap())),
        };
        let spki = digest::digest(&digest::SHA256, &pair.subject_public_key_info());
        let record = Certificate {
            zone: "shop".to_owned(),
            id: format!("{id:032x}"),
            version,
            kind: if kind == Kind::Rsa { KeyKind::Rsa } else { KeyKind::Ecdsa }.into(),
            chain: vec![Bytes::from(leaf.der().to_vec()), Bytes::from(self.der.clone())],
            spki_sha256: Bytes::copy_from_slice(spki.as_ref()),
            serves: String::new(),
        };
        Held { key, pkcs8, record }
    }
}

impl Key {
    fn sign(&self, request: &SignRequest) -> Result<Vec<u8>, Refusal> {
        let bad = || Refusal::new(RefusalCode::BadScheme, format!("{} does not fit the key", request.scheme));
        let Input::Digest(bytes) = &request.input else { return Err(bad()) };
        let algorithm = match request.scheme.hash() {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha384 => &digest::SHA384,
            Hash::Sha512 => &digest::SHA512,
            Hash::None => return Err(bad()),
        };
        let digest = Digest::import_less_safe(bytes, algorithm).map_err(|_| bad())?;
        match self {
            Self::Ecdsa(key, scheme) if *scheme == request.scheme => {
                Ok(key.sign_digest(&digest).unwrap().as_ref().to_vec())
            }
            Self::Ecdsa(..) => Err(bad()),
            Self::Rsa(key) => {
                let encoding: &dyn RsaEncoding = match request.scheme {
                    Scheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
                    Scheme::RsaPssRsaeSha256 => &signature::RSA_PSS_SHA256,
                    Scheme::RsaPssRsaeSha384 => &signature::RSA_PSS_SHA384,
                    Scheme::RsaPssRsaeSha512 => &signature::RSA_PSS_SHA512,
                    _ => return Err(bad()),
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign_digest(encoding, &digest, &mut signature).unwrap();
                Ok(signature)
            }
        }
    }
}

/// The state that a test changes while the server runs.
#[derive(Default)]
pub struct State {
    names: Mutex<HashMap<String, Vec<Arc<Held>>>>,
    pub signed: AtomicU64,
    pub in_flight: AtomicUsize,
    pub delay_ms: AtomicU64,
    pub demo: AtomicBool,
    pub refuse: AtomicBool,
    pub schemes: Mutex<Vec<Scheme>>,
}

impl State {
    pub fn serve(&self, name: &str, held: &[&Arc<Held>]) {
        self.names.lock().unwrap().insert(name.to_owned(), held.iter().map(|held| Arc::clone(held)).collect());
    }

    pub fn signed(&self) -> u64 {
        self.signed.load(Ordering::SeqCst)
    }

    async fn sign(&self, request: proto::SignRequest) -> Result<Signature, Refusal> {
        let request = SignRequest::try_from(request)?;
        if self.refuse.load(Ordering::SeqCst) {
            return Err(Refusal::new(RefusalCode::NoHolder, "nobody has it"));
        }
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst))).await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let held = {
            let names = self.names.lock().unwrap();
            let found = names.values().flatten().find(|held| {
                held.record.id == request.certificate && held.record.spki_sha256.as_ref() == request.spki_sha256
            });
            found.cloned().ok_or_else(|| Refusal::new(RefusalCode::UnknownCertificate, "no such key"))?
        };
        let signature = held.key.sign(&request)?;
        self.signed.fetch_add(1, Ordering::SeqCst);
        self.schemes.lock().unwrap().push(request.scheme);
        Ok(Signature {
            signature: signature.into(),
            machine: "de-1-a".to_owned(),
            data_center: "de-1".to_owned(),
            remote: true,
            elapsed_us: 1,
        })
    }
}

struct Served(Arc<State>);

#[tonic::async_trait]
impl Signer for Served {
    type SignStreamStream = ReceiverStream<Result<SignAnswer, Status>>;

    async fn sign(&self, request: Request<proto::SignRequest>) -> Result<Response<Signature>, Status> {
        Ok(Response::new(self.0.sign(request.into_inner()).await?))
    }

    async fn sign_stream(
        &self,
        request: Request<Streaming<proto::SignRequest>>,
    ) -> Result<Response<Self::SignStreamStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, outgoing) = mpsc::channel(1024);
        let state = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let (state, answers, id) = (state.clone(), answers.clone(), request.id);
                tokio::spawn(async move {
                    let outcome = match state.sign(request).await {
                        Ok(signature) => Outcome::Signature(signature),
                        Err(refusal) => Outcome::Refusal(refusal.into()),
                    };
                    let _ = answers.send(Ok(SignAnswer { id, outcome: Some(outcome) })).await;
                });
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

#[tonic::async_trait]
impl Agent for Served {
    async fn certificates(
        &self,
        request: Request<proto::CertificatesRequest>,
    ) -> Result<Response<proto::CertificatesResponse>, Status> {
        let names = self.0.names.lock().unwrap();
        let found = names.get(&request.into_inner().hostname);
        let certificates = found.into_iter().flatten().map(|held| held.record.clone()).collect();
        Ok(Response::new(proto::CertificatesResponse { certificates }))
    }

    async fn secret(&self, _: Request<proto::SecretRequest>) -> Result<Response<proto::SecretResponse>, Status> {
        Err(Status::unimplemented("secret"))
    }

    async fn explain(&self, _: Request<proto::ExplainRequest>) -> Result<Response<proto::ExplainResponse>, Status> {
        Err(Status::unimplemented("explain"))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusResponse>, Status> {
        Ok(Response::new(proto::StatusResponse {
            machine: "us-1-a".to_owned(),
            data_center: "us-1".to_owned(),
            demo: self.0.demo.load(Ordering::SeqCst),
            ..Default::default()
        }))
    }

    async fn set_distance(
        &self,
        _: Request<proto::SetDistanceRequest>,
    ) -> Result<Response<proto::SetDistanceResponse>, Status> {
        Err(Status::unimplemented("distance"))
    }
}

/// Starts the server in `folder`; its socket and its state.
pub fn start(folder: &Path) -> (PathBuf, Arc<State>) {
    let socket = folder.join("edge.sock");
    let state = Arc::new(State::default());
    let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(SignerServer::new(Served(state.clone())))
        .add_service(AgentServer::new(Served(state.clone())))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    (socket, state)
}
