//! A caller that presents whatever it likes, trusts whoever answers, and calls by path with any bytes.

use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use cinnabar_daemon::mtls::uds_channel;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use crate::fixture::{Credentials, soon};

/// Bytes that a channel made here lets a stream have under way: a reader that does not read holds no more.
const WINDOW_BYTES: u32 = 64 * 1024;

/// Believes every server.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn config(presents: Option<&Credentials>) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    let mut config = match presents {
        Some(credentials) => {
            let pem = credentials.certificate_pem.as_bytes();
            let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// One TLS connection; gives the certificate that the server showed.
pub async fn server_certificate(address: &str, presents: &Credentials) -> Vec<u8> {
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("any.invalid").unwrap();
    let stream = TlsConnector::from(config(Some(presents))).connect(name, socket).await.unwrap();
    stream.get_ref().1.peer_certificates().expect("a server shows one")[0].to_vec()
}

/// A channel of its own connection.
pub fn channel(address: &str, presents: Option<&Credentials>) -> Channel {
    let (config, address) = (config(presents), address.to_owned());
    let connector = tower::service_fn(move |_: Uri| {
        let (config, address) = (config.clone(), address.clone());
        async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let name = ServerName::try_from("any.invalid").expect("a DNS name");
            TlsConnector::from(config).connect(name, socket).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://any.invalid")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect_with_connector_lazy(connector)
}

/// A channel over a Unix socket.
pub fn local(path: &Path) -> Channel {
    uds_channel(path)
}

/// Bytes as they are.
#[derive(Debug, Default, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

/// Calls a path with one message; gives the first message of the answer. On the wire every kind of call begins so.
pub async fn call(channel: Channel, path: &str, request: Request<Bytes>) -> Result<Bytes, Status> {
    let path = PathAndQuery::try_from(path).unwrap();
    let calling = async {
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let mut answers = grpc.server_streaming(request, path, Raw).await?.into_inner();
        Ok(answers.message().await?.unwrap_or_default())
    };
    soon("an answer", calling).await
}

/// A failure of the connection itself: nothing that a server answers has a source.
pub fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Was the caller turned away, by the handshake or by the table?
pub fn is_refused(answer: &Result<Bytes, Status>) -> bool {
    match answer {
        Ok(_) => false,
        Err(status) => is_transport(status) || status.code() == Code::PermissionDenied,
    }
}

/// Was the caller let in, whatever the call itself came to?
pub fn is_admitted(answer: &Result<Bytes, Status>) -> bool {
    match answer {
        Ok(_) => true,
        Err(status) => {
            !is_transport(status) && !matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
        }
    }
}
