//! A visitor: real HTTPS to a data centre, timed. `curl` where it is installed, else the client in this file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::Env;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::cli::connect::block_on;
use crate::cli::error::CliError;

/// Longest that a visit may take.
const VISIT_MAX: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What a visitor saw.
#[derive(Debug, Clone, Default)]
pub struct Visit {
    /// Data centre that signed; empty when the session was resumed.
    pub signed_by: String,
    /// How long the signature took, as the terminator saw it, in milliseconds.
    pub signature_ms: f64,
    /// From the end of the TCP handshake to the end of the TLS handshake, in milliseconds.
    pub handshake_ms: f64,
}

/// Who visits, and whom it trusts.
#[derive(Clone)]
pub struct Visitor {
    ca: PathBuf,
    curl: bool,
    config: Arc<ClientConfig>,
    roots: Arc<RootCertStore>,
}

/// TLS 1.3 by this provider.
fn config(provider: CryptoProvider, roots: Arc<RootCertStore>) -> Result<Arc<ClientConfig>, CliError> {
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Is there a curl?
pub fn has_curl() -> bool {
    Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.trim())
}

fn visit(head: &str, handshake_ms: f64) -> Result<Visit, String> {
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("answered {:?}", head.lines().next().unwrap_or_default()));
    }
    let signed_by = header(head, "x-cinnabar-signed-by").ok_or("no x-cinnabar-signed-by")?;
    let micros = header(head, "x-cinnabar-signature-us").and_then(|text| text.parse::<f64>().ok());
    // `data centre/machine`.
    let data_center = signed_by.split('/').next().unwrap_or_default();
    let signed_by = if signed_by == "resumed" { String::new() } else { data_center.to_owned() };
    Ok(Visit { signed_by, signature_ms: micros.unwrap_or(0.0) / 1000.0, handshake_ms })
}

impl Visitor {
    /// Trusts this CA.
    pub fn new(ca: &Path, curl: bool) -> Result<Self, CliError> {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(ca).map_err(|error| CliError::file(ca, error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| CliError::file(ca, error))?;
            roots.add(certificate).map_err(|error| CliError::file(ca, error))?;
        }
        let roots = Arc::new(roots);
        let config = config(rustls::crypto::aws_lc_rs::default_provider(), roots.clone())?;
        Ok(Self { ca: ca.to_owned(), curl, config, roots })
    }

    /// Does it visit by curl?
    pub fn uses_curl(&self) -> bool {
        self.curl
    }

    /// The call, as a person would type it.
    pub fn shown(&self, host: &str, at: SocketAddr) -> String {
        format!(
            "curl --cacert {} --resolve {host}:{}:{} https://{host}:{}/",
            self.ca.display(),
            at.port(),
            at.ip(),
            at.port()
        )
    }

    /// Visits twice over two connections, the second of which may resume the first's session.
    pub fn twice(&self, host: &str, at: SocketAddr, rsa: bool) -> Result<(Visit, Visit), String> {
        if self.curl { self.curl_twice(host, at, rsa) } else { self.built_in_twice(host, at, rsa) }
    }

    fn curl_twice(&self, host: &str, at: SocketAddr, rsa: bool) -> Result<(Visit, Visit), String> {
        const MARK: &str = "\n#handshake ";
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--include", "--http1.1", "--header", "Connection: close"]);
        command.args(["--max-time", &VISIT_MAX.as_secs().to_string(), "--cacert"]).arg(&self.ca);
        command.args(["--resolve", &format!("{host}:{}:{}", at.port(), at.ip())]);
        command.args(["--write-out", &format!("{MARK}%{{time_connect}} %{{time_appconnect}}\n")]);
        if rsa {
            // What a client without elliptic signatures can do: it is shown the RSA certificate.
            command.args(["--tlsv1.2", "--tls-max", "1.2", "--ciphers", "ECDHE-RSA-AES128-GCM-SHA256"]);
        }
        let url = format!("https://{host}:{}/", at.port());
        let output = command.args([&url, &url]).output().map_err(|error| format!("curl: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let mut visits = text.split_inclusive(MARK).zip(text.split(MARK).skip(1)).map(|(head, times)| {
            let mut times = times.split_whitespace().filter_map(|time| time.parse::<f64>().ok());
            let (connected, done) = (times.next().ok_or("no times")?, times.next().ok_or("no times")?);
            let head = head.find("HTTP/1.1").map_or("", |at| &head[at..]);
            visit(head, (done - connected) * 1000.0)
        });
        match (visits.next(), visits.next()) {
            (Some(first), Some(second)) => Ok((first?, second?)),
            _ => Err("curl made fewer than two visits".to_owned()),
        }
    }

    fn built_in_twice(&self, host: &str, at: SocketAddr, rsa: bool) -> Result<(Visit, Visit), String> {
        let visitor = if rsa { self.only_rsa().map_err(|error| error.to_string())? } else { self.clone() };
        let both = block_on(async {
            let first = visitor.once(host, at).await;
            let second = visitor.once(host, at).await;
            Ok::<_, CliError>((first, second))
        });
        let (first, second) = both.map_err(|error| error.to_string())?;
        Ok((first?, second?))
    }

    /// One visit by the client in this file; sessions are resumed among clones of one visitor.
    pub async fn once(&self, host: &str, at: SocketAddr) -> Result<Visit, String> {
        match tokio::time::timeout(VISIT_MAX, self.visit(host, at)).await {
            Ok(visited) => visited,
            Err(_) => Err(format!("no answer within {} s", VISIT_MAX.as_secs())),
        }
    }

    /// A visitor like this one that verifies handshakes' RSA signatures alone, and so is shown the RSA certificate.
    fn only_rsa(&self) -> Result<Self, CliError> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        let known = provider.signature_verification_algorithms.mapping;
        // They stand together, and last.
        let is_rsa = |scheme: SignatureScheme| format!("{scheme:?}").starts_with("RSA_");
        let first = known.iter().position(|(scheme, _)| is_rsa(*scheme)).unwrap_or(known.len());
        provider.signature_verification_algorithms.mapping = &known[first..];
        Ok(Self { config: config(provider, self.roots.clone())?, ..self.clone() })
    }

    /// A visitor like this one that remembers no session.
    pub fn fresh(&self) -> Self {
        let mut config = (*self.config).clone();
        config.resumption = rustls::client::Resumption::disabled();
        Self { config: Arc::new(config), ..self.clone() }
    }

    async fn visit(&self, host: &str, at: SocketAddr) -> Result<Visit, String> {
        let env = Env::system();
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let socket = env.net.dial(&at.to_string()).await.map_err(|error| text(&error))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| text(&error))?;
        let begun = env.clock.now();
        let mut tls =
            TlsConnector::from(self.config.clone()).connect(name, socket).await.map_err(|error| text(&error))?;
        let handshake_ms = begun.elapsed().as_secs_f64() * 1000.0;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await.map_err(|error| text(&error))?;
        let mut answer = Vec::new();
        tls.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.map_err(|error| text(&error))?;
        visit(&String::from_utf8_lossy(&answer), handshake_ms)
    }
}
