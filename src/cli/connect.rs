//! How a command reaches a node: over mutual TLS with an operator's certificate, or over a Unix socket on this machine.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use cinnabar_daemon::{Env, Tls, TlsFiles};
use cinnabar_kv_api::{Client, ClientConfig, ClientError, Target};
use tonic::transport::Channel;

use super::error::CliError;

/// Where the node is and who asks.
#[derive(clap::Args, Debug, Clone)]
pub struct Connect {
    /// Node to ask, host:port; more than one are tried in turn.
    #[arg(long, global = true, value_name = "HOST:PORT", value_delimiter = ',', env = "CINNABAR_SERVER")]
    server: Vec<String>,
    /// Unix socket of a node on this machine; reads only.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Certificate of the cluster's authority.
    #[arg(long, global = true, value_name = "FILE", env = "CINNABAR_CA")]
    ca: Option<PathBuf>,
    /// Own certificate.
    #[arg(long, global = true, value_name = "FILE", env = "CINNABAR_CERT")]
    cert: Option<PathBuf>,
    /// Own private key.
    #[arg(id = "tls_key", long = "key", global = true, value_name = "FILE", env = "CINNABAR_KEY")]
    key: Option<PathBuf>,
    /// Longest that a call may take, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

impl Connect {
    /// Who asks.
    pub fn tls(&self) -> Result<std::sync::Arc<Tls>, CliError> {
        let need = |file: &Option<PathBuf>, flag: &str| {
            file.clone()
                .ok_or_else(|| CliError::Usage(format!("--{flag} is missing: --server needs --ca, --cert and --key")))
        };
        let files =
            TlsFiles { ca: need(&self.ca, "ca")?, cert: need(&self.cert, "cert")?, key: need(&self.key, "key")? };
        Tls::load_client(&files, Env::system().clock).map_err(|error| CliError::Failed(error.to_string()))
    }

    /// Was a certificate given?
    pub fn has_identity(&self) -> bool {
        self.ca.is_some() && self.cert.is_some() && self.key.is_some()
    }

    /// The nodes named.
    pub fn servers(&self) -> &[String] {
        &self.server
    }

    /// A client of the nodes named.
    pub fn client(&self) -> Result<Client, CliError> {
        match &self.socket {
            Some(path) => self.client_of(Target::Unix(path.clone())),
            None => self.client_over_tls(),
        }
    }

    fn client_over_tls(&self) -> Result<Client, CliError> {
        if self.server.is_empty() {
            return Err(CliError::Usage(
                "say which node to ask: --server HOST:PORT with --ca, --cert and --key, or --socket PATH".to_owned(),
            ));
        }
        self.client_of(Target::Tcp { addresses: self.server.clone(), tls: self.tls()? })
    }

    /// A connection to the first of the nodes named that answers; never the socket, which has reads only.
    pub async fn channel(&self) -> Result<Channel, CliError> {
        let client = self.client_over_tls()?;
        client.status().await?;
        Ok(client.current_channel())
    }

    /// A client of one address.
    pub fn client_of(&self, target: Target) -> Result<Client, CliError> {
        let config = ClientConfig { target, env: Env::system(), deadline: Duration::from_secs(self.timeout) };
        Client::new(config).map_err(CliError::from)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Unreachable { .. } => Self::Unreachable(message),
            ClientError::Value(_) => Self::Usage(message),
            ClientError::Refused(status) => Self::status(&status),
            _ => Self::Failed(message),
        }
    }
}

impl CliError {
    /// What a status means to whoever typed the command.
    pub fn status(status: &tonic::Status) -> Self {
        use tonic::Code;
        let message = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied(message),
            Code::NotFound | Code::AlreadyExists | Code::Aborted => Self::Conflict(message),
            Code::InvalidArgument => Self::Usage(message),
            Code::Unavailable | Code::DeadlineExceeded => Self::Unreachable(message),
            _ => Self::Failed(message),
        }
    }
}

/// Runs a command's work on a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start: {error}")))?;
    runtime.block_on(work)
}
