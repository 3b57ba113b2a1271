//! Calling the authority: operators over mutual TLS with their certificate, customers over HTTPS with a token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::{Env, Role, Tls, TlsFiles, file};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tower::{Service, ServiceExt};

use super::context::Saved;
use crate::cli::connect::block_on;
use crate::cli::error::CliError;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a token's file.
const TOKEN_BYTES_MAX: usize = 4 * 1024;
/// Largest file of certificates, in bytes.
const CA_BYTES_MAX: usize = 1024 * 1024;
/// Longest that one call may take.
const CALL_MAX: Duration = Duration::from_secs(60);
/// Rows that one list may gather from its pages.
const ROWS_MAX: usize = 1_000_000;
/// What stands in a printed call where a secret would.
const REDACTED: &str = "REDACTED";

/// Where the authority is and who asks. What is left out comes from the context (`cinnabar context`).
#[derive(clap::Args, Debug, Clone, Default)]
pub struct At {
    /// Operators: the authority, host:port; needs --ca, --cert and --key.
    #[arg(long, global = true, value_name = "HOST:PORT", env = "CINNABAR_AUTHORITY")]
    authority: Option<String>,
    /// Customers: the authority, such as `https://keys.example`; needs --token-file.
    #[arg(long, global = true, value_name = "URL", env = "CINNABAR_URL", conflicts_with = "authority")]
    url: Option<String>,
    /// File with the zone's token.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates that are trusted: the cluster's CA for operators; for customers, instead of the system's.
    #[arg(long, global = true, value_name = "FILE", env = "CINNABAR_CA")]
    ca: Option<PathBuf>,
    /// Own certificate.
    #[arg(long, global = true, value_name = "FILE", env = "CINNABAR_CERT")]
    cert: Option<PathBuf>,
    /// Own private key.
    #[arg(id = "own_key", long = "key", global = true, value_name = "FILE", env = "CINNABAR_KEY")]
    key: Option<PathBuf>,
    /// The context to use instead of the current one.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Print the call as a curl command, without secrets, and do nothing.
    #[arg(long, global = true)]
    curl: bool,
}

/// A call that was answered with a problem.
#[derive(Debug)]
pub struct Refusal {
    /// Status of the answer.
    pub status: u16,
    /// The problem (RFC 9457).
    pub problem: Value,
    /// The policy's text, when the call carried one.
    pub policy: Option<String>,
}

/// One call.
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// What is sent.
    pub body: Option<Value>,
    /// Fields of the body that are secret.
    pub secrets: &'a [&'a str],
}

impl Call<'_> {
    /// A call that only asks.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, secrets: &[] }
    }

    /// A call that deletes.
    pub fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, ..Self::get(path) }
    }

    /// A call that sends something.
    pub fn send(method: Method, path: impl Into<String>, body: Value) -> Self {
        Self { method, path: path.into(), body: Some(body), secrets: &[] }
    }
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

impl At {
    /// Makes the call; gives the answer, or none when it was only printed.
    pub fn call(&self, call: &Call<'_>) -> Result<Option<Value>, CliError> {
        let place = Saved::fill(self.clone(), self.context.as_deref())?;
        if self.curl {
            crate::cli::report::print_text(&place.as_curl(call))?;
            return Ok(None);
        }
        place.answer(call).map(Some)
    }

    /// Asks for a list and for the pages that follow, and gives their rows alone; none when the call was only printed.
    /// What changes meanwhile may be missing or there twice.
    pub fn list(&self, path: &str, rows: &str) -> Result<Option<Value>, CliError> {
        let place = Saved::fill(self.clone(), self.context.as_deref())?;
        if self.curl {
            crate::cli::report::print_text(&place.as_curl(&Call::get(path)))?;
            return Ok(None);
        }
        let (mut all, mut query) = (Vec::new(), String::new());
        for page in 2_u64.. {
            let mut answer = place.answer(&Call::get(format!("{path}{query}")))?;
            let Value::Array(mut found) = answer[rows].take() else {
                return Err(CliError::Failed(format!("the authority's answer has no {rows}")));
            };
            let is_empty = found.is_empty();
            all.append(&mut found);
            // Machines go on after one of them, everything else by numbered pages.
            query = match (answer["next"].as_str(), answer["total"].as_u64()) {
                (Some(next), _) if !is_empty => format!("?after={next}"),
                (None, Some(total)) if !is_empty && (all.len() as u64) < total => format!("?page={page}"),
                _ => break,
            };
            if all.len() >= ROWS_MAX {
                return Err(CliError::Failed(format!(
                    "there are more than {ROWS_MAX} {rows}; ask for pages by --curl"
                )));
            }
        }
        Ok(Some(json!({ rows: all })))
    }

    /// Nobody in particular at the customers' address.
    pub fn openly(url: String, ca: Option<PathBuf>) -> Self {
        Self { url: Some(url), ca, ..Self::default() }
    }

    /// Makes the call as it is, without a context.
    pub fn answer(&self, call: &Call<'_>) -> Result<Value, CliError> {
        let (status, bytes) = block_on(async {
            let answered = tokio::time::timeout(CALL_MAX, self.send(call));
            answered.await.map_err(|_| CliError::Unreachable("the authority does not answer".to_owned()))?
        })?;
        let answer = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).map_err(failed)? };
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let policy = call.body.as_ref().and_then(|body| body.get("policy")?.as_str().map(str::to_owned));
        Err(CliError::Refused(Box::new(Refusal { status, problem: answer, policy })))
    }

    /// What a context keeps of it.
    pub fn parts(&mut self) -> [(&'static str, &mut Option<PathBuf>); 4] {
        [("ca", &mut self.ca), ("cert", &mut self.cert), ("key", &mut self.key), ("token_file", &mut self.token_file)]
    }

    /// The address for operators and the one for customers.
    pub fn addresses(&mut self) -> [(&'static str, &mut Option<String>); 2] {
        [("authority", &mut self.authority), ("url", &mut self.url)]
    }

    async fn send(&self, call: &Call<'_>) -> Result<(u16, Bytes), CliError> {
        match (&self.authority, &self.url) {
            (Some(address), _) => self.send_as_operator(address, call).await,
            (None, Some(url)) => self.send_as_customer(url, call).await,
            (None, None) => Err(CliError::Usage(
                "say where the authority is: --authority HOST:PORT for operators, --url https://HOST for customers, \
                 or `cinnabar context add`"
                    .to_owned(),
            )),
        }
    }

    fn request(call: &Call<'_>, origin: &str) -> Result<hyper::http::request::Builder, CliError> {
        let builder = Request::builder().method(call.method.clone()).uri(format!("{origin}{}", call.path));
        let builder = builder.header("accept", "application/json, application/problem+json");
        Ok(if call.body.is_some() { builder.header("content-type", "application/json") } else { builder })
    }

    fn body(call: &Call<'_>) -> Bytes {
        call.body.as_ref().map(|body| Bytes::from(body.to_string())).unwrap_or_default()
    }

    async fn send_as_operator(&self, address: &str, call: &Call<'_>) -> Result<(u16, Bytes), CliError> {
        let need = |file: &Option<PathBuf>, flag: &str| {
            file.clone().ok_or_else(|| {
                CliError::Usage(format!("--{flag} is missing: --authority needs --ca, --cert and --key"))
            })
        };
        let files =
            TlsFiles { ca: need(&self.ca, "ca")?, cert: need(&self.cert, "cert")?, key: need(&self.key, "key")? };
        let env = Env::system();
        let tls = Tls::load_client(&files, env.clock.clone()).map_err(failed)?;
        let mut channel = tls.channel(address, &[Role::Authority], None, env.net.clone());
        let body = tonic::body::Body::new(Full::new(Self::body(call)));
        let request = Self::request(call, "http://cinnabar.invalid")?.body(body).map_err(failed)?;
        let unreachable = |error: tonic::transport::Error| {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            CliError::Unreachable(format!("{address}: {cause}"))
        };
        let answer = channel.ready().await.map_err(unreachable)?.call(request).await.map_err(unreachable)?;
        let status = answer.status().as_u16();
        let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(failed)?.to_bytes();
        Ok((status, bytes))
    }

    async fn send_as_customer(&self, url: &str, call: &Call<'_>) -> Result<(u16, Bytes), CliError> {
        let wrong = || CliError::Usage(format!("--url {url}: write https://HOST or https://HOST:PORT"));
        let origin: hyper::Uri = url.trim_end_matches('/').parse().map_err(|_| wrong())?;
        let host = origin.host().filter(|_| origin.scheme_str() == Some("https")).ok_or_else(wrong)?;
        let address = format!("{host}:{}", origin.port_u16().unwrap_or(443));
        let unreachable = |error: &dyn std::fmt::Display| CliError::Unreachable(format!("{address}: {error}"));
        let tcp = Env::system().net.dial(&address).await.map_err(|error| unreachable(&error))?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| wrong())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.client_config()?));
        let stream = connector.connect(name, tcp).await.map_err(|error| unreachable(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
        tokio::spawn(connection);
        let mut request = Self::request(call, "")?.header("host", origin.authority().map_or(host, |at| at.as_str()));
        if let Some(path) = &self.token_file {
            request = request.header("authorization", format!("Bearer {}", token(path)?));
        }
        let request = request.body(Full::new(Self::body(call))).map_err(failed)?;
        let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        let status = answer.status().as_u16();
        let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(failed)?.to_bytes();
        Ok((status, bytes))
    }

    fn client_config(&self) -> Result<rustls::ClientConfig, CliError> {
        let mut roots = rustls::RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                let pem = file::read_bounded(path, CA_BYTES_MAX).map_err(|error| CliError::file(path, error))?;
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    let certificate = certificate.map_err(|_| CliError::file(path, "not PEM certificates"))?;
                    roots.add(certificate).map_err(|error| CliError::file(path, error))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }

    /// The call for a shell; secrets and tokens are named, not shown.
    fn as_curl(&self, call: &Call<'_>) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        let mut line = format!("curl -X {}", call.method);
        let shown = |path: &Option<PathBuf>, name: &str| {
            path.as_ref().map_or_else(|| format!("${name}"), |path| path.display().to_string())
        };
        let origin = match (&self.authority, &self.url) {
            (Some(address), _) => {
                line += &format!(" --cert {} --key {}", shown(&self.cert, "CERT"), shown(&self.key, "KEY"));
                format!("https://{address}")
            }
            (None, url) => {
                line += " -H 'Authorization: Bearer REDACTED'";
                url.clone().unwrap_or_else(|| "https://$AUTHORITY".to_owned())
            }
        };
        if let Some(ca) = &self.ca {
            line += &format!(" --cacert {}", ca.display());
        }
        if let Some(mut body) = call.body.clone() {
            for name in call.secrets {
                if let Some(field) = body.get_mut(*name) {
                    *field = REDACTED.into();
                }
            }
            line += &format!(" -H 'Content-Type: application/json' --data {}", quoted(&body.to_string()));
        }
        format!("{line} {}\n", quoted(&format!("{}{}", origin.trim_end_matches('/'), call.path)))
    }
}

fn token(path: &Path) -> Result<String, CliError> {
    let bytes = file::read_bounded(path, TOKEN_BYTES_MAX).map_err(|error| CliError::file(path, error))?;
    let text = String::from_utf8(bytes).map_err(|_| CliError::file(path, "not a token"))?;
    Ok(text.trim().to_owned())
}

impl Refusal {
    /// The problem's code.
    pub fn code(&self) -> &str {
        // The facade of another product is not called from here: problems always have a code.
        self.problem.get("code").and_then(Value::as_str).unwrap_or("refused")
    }

    /// What happened, in one or two sentences.
    pub fn message(&self) -> String {
        let text = |name: &str| self.problem.get(name).and_then(Value::as_str);
        let what = text("detail").or_else(|| text("title"));
        what.map_or_else(|| format!("the authority answered with status {}", self.status), str::to_owned)
    }

    /// Policy 6, credentials 4, absence or conflict 5, an authority that cannot 3, everything else 1.
    pub fn exit_code(&self) -> u8 {
        let policy = self.problem.get("span").is_some() || matches!(self.code(), "few-holders" | "no-data-centre");
        match self.status {
            401 | 403 => 4,
            404 | 409 => 5,
            422 if policy => 6,
            503 => 3,
            _ => 1,
        }
    }

    /// The message with a caret in the policy, where there is one, and the hint.
    pub fn text(&self) -> String {
        let hint = self.problem.get("hint").and_then(Value::as_str).unwrap_or_default();
        let head = format!("error[{}]: {}", self.code(), self.message());
        let at = |name: &str| self.problem.get("span")?.get(name)?.as_u64().and_then(|at| usize::try_from(at).ok());
        if let (Some(policy), Some(start), Some(end)) = (&self.policy, at("start"), at("end")) {
            let span = cinnabar_abe::Span { start: start.min(policy.len()), end: end.min(policy.len()) };
            return format!("{head}\n{}\n", cinnabar_abe::caret(policy, span, hint));
        }
        let pointer = self.problem.get("pointer").and_then(Value::as_str);
        let place = pointer.map(|pointer| format!("  field: {pointer}\n")).unwrap_or_default();
        let hint = if hint.is_empty() { String::new() } else { format!("  hint: {hint}\n") };
        format!("{head}\n{place}{hint}")
    }
}
