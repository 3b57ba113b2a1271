//! A customer's program: one connection that stays open, one request after the other.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_daemon::Env;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::sync::Mutex;

use crate::Fallible;

/// See the module.
pub struct Https {
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

/// What such a client trusts.
pub fn trusting(certificate: &Path) -> Fallible<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    Ok(Arc::new(builder.with_no_client_auth()))
}

impl Https {
    /// Connects when it is first used.
    pub fn new(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> Self {
        Self { address, config, connection: Mutex::new(None) }
    }

    async fn connect(&self) -> Fallible<SendRequest<Full<Bytes>>> {
        let tcp = Env::system().net.dial(&self.address.to_string()).await?;
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let stream = connector.connect(ServerName::from(self.address.ip()), tcp).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Posts JSON; anything but success is an error that holds the answer.
    pub async fn post(&self, path: &str, token: &str, body: Bytes) -> Result<Bytes, String> {
        let mut place = self.connection.lock().await;
        if place.as_ref().is_none_or(SendRequest::is_closed) {
            *place = Some(self.connect().await.map_err(|error| error.to_string())?);
        }
        let request = Request::post(path)
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let sender = place.as_mut().ok_or("connected above")?;
        let sent = async {
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        match sent.await {
            Ok((status, bytes)) if status.is_success() => Ok(bytes),
            Ok((status, bytes)) => Err(format!("{status}: {}", String::from_utf8_lossy(&bytes))),
            Err(error) => {
                *place = None;
                Err(error.to_string())
            }
        }
    }
}
