//! The control socket: an operator on the authority's own machine unseals, reseals, and asks how it stands.
//!
//! One request and one answer a connection, each a line of JSON. Law: only the process's own user and root are answered;
//! a passphrase travels over this socket and nowhere else, and its line is wiped.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cinnabar_abe::SecretBytes;
use cinnabar_abe::seal::OperatorSecretKey;
use cinnabar_daemon::{Env, Shutdown};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use zeroize::{Zeroize, Zeroizing};

use crate::audit::{Audit, Entry};
use crate::custody::{Custody, CustodyError, Opener, Status};
use crate::issue::{Wanted, issue};

/// Name of the socket in the data folder.
pub const SOCKET_FILE: &str = "control.sock";
/// Bytes of one request or answer.
pub const LINE_BYTES_MAX: u64 = 8 * 1024;
/// Longest that one connection may take; opening a sealed key takes seconds.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Request {
    /// How does the authority stand?
    Status,
    /// Open the system secret keys for so many seconds.
    Unseal {
        /// What they are sealed to.
        with: With,
        /// Seconds.
        seconds: u64,
    },
    /// Seal them again, now.
    Reseal,
    /// Issue a certificate with a new key.
    Issue {
        /// The passphrase that the CA's key is sealed to.
        passphrase: Hidden,
        /// What is wanted.
        wanted: Wanted,
    },
}

/// What opens a sealed key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum With {
    /// A passphrase.
    Passphrase(Hidden),
    /// The text of an operator's secret key.
    OperatorKey(Hidden),
}

/// A passphrase or a private key on its way; wiped when it is dropped.
pub struct Hidden(Zeroizing<String>);

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl Hidden {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Takes over a text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(redacted)")
    }
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Empty when it was done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The cluster.
    pub cluster: String,
    /// `production` or `demo`.
    pub mode: String,
    /// `sealed` or `unsealed`.
    pub system_keys: String,
    /// Seconds until they are sealed again; 0 when they are.
    pub seals_in_s: u64,
    /// Last line of the audit log, `seq:hash`.
    pub audit_head: String,
    /// What was issued, when that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<IssuedPem>,
}

/// A certificate with its key, on its way to the operator.
#[derive(Debug, Serialize, Deserialize)]
pub struct IssuedPem {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: Hidden,
    /// The CA's certificate.
    pub ca: String,
}

/// Serves the socket.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    custody: Arc<Custody>,
    audit: Arc<Audit>,
    env: Env,
}

impl Control {
    /// Binds the socket in the data folder, over one that a dead process left.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(folder: &Path, custody: Arc<Custody>, audit: Arc<Audit>, env: Env) -> io::Result<Self> {
        let path = folder.join(SOCKET_FILE);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "an authority is running in this folder"));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path, custody, audit, env })
    }

    /// Answers until the shutdown, one connection after the other.
    pub async fn serve(self, shutdown: Shutdown) {
        loop {
            let accepted = tokio::select! {
                () = shutdown.wait() => break,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            match timeout(CONNECTION_MAX, self.answer(stream)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "control socket"),
                Err(_) => tracing::warn!("control socket: a request took too long"),
            }
        }
        let _ = std::fs::remove_file(&self.path);
    }

    async fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        if uid != rustix::process::geteuid().as_raw() && uid != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {uid} is not answered")));
        }
        let (read, mut write) = stream.into_split();
        let mut line = Zeroizing::new(Vec::new());
        BufReader::new(read.take(LINE_BYTES_MAX)).read_until(b'\n', &mut line).await?;
        let done = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => self.act(request, uid).await,
            Err(error) => Err(format!("not a request: {error}")),
        };
        line.zeroize();
        let (error, issued) = match done {
            Ok(issued) => (String::new(), issued),
            Err(error) => (error, None),
        };
        let mut answer = Zeroizing::new(serde_json::to_vec(&self.status(error, issued)).map_err(io::Error::other)?);
        answer.push(b'\n');
        write.write_all(&answer).await
    }

    async fn act(&self, request: Request, uid: u32) -> Result<Option<IssuedPem>, String> {
        let (custody, audit, env) = (self.custody.clone(), self.audit.clone(), self.env.clone());
        let actor = format!("local user {uid}");
        let acted = tokio::task::spawn_blocking(move || -> Result<Option<IssuedPem>, String> {
            let tell = |act, details: &[(&'static str, &str)]| {
                let entry = Entry { actor: &actor, act, subject: "system secret keys", details };
                audit.append(&entry).map(drop).map_err(|error| error.to_string())
            };
            match request {
                Request::Status => Ok(None),
                Request::Reseal => {
                    custody.reseal();
                    tell("reseal", &[]).map(|()| None)
                }
                Request::Issue { passphrase, wanted } => {
                    let secret = SecretBytes::new(passphrase.0.as_bytes().to_vec());
                    let opener = Opener::Passphrase(&secret);
                    let (ca, mut issued) = issue(&custody, &audit, opener, &actor, &wanted, &env)?;
                    let key = Hidden(std::mem::take(&mut issued.key_pem));
                    let ca = ca.certificate_pem().to_owned();
                    Ok(Some(IssuedPem { certificate: issued.certificate_pem.clone(), key, ca }))
                }
                Request::Unseal { with, seconds } => unseal(&custody, &with, seconds, &tell).map(|()| None),
            }
        });
        acted.await.map_err(|error| error.to_string())?
    }

    fn status(&self, error: String, issued: Option<IssuedPem>) -> Answer {
        let (system_keys, seals_in_s) = match self.custody.status() {
            Status::Sealed => ("sealed", 0),
            Status::Unsealed { remaining, .. } => ("unsealed", remaining.as_secs()),
        };
        Answer {
            error,
            cluster: self.custody.cluster().to_string(),
            mode: format!("{:?}", self.custody.mode()).to_lowercase(),
            system_keys: system_keys.to_owned(),
            seals_in_s,
            audit_head: self.audit.head().to_string(),
            issued,
        }
    }
}

/// Puts a line into the audit log: the act and its details.
type Tell<'a> = dyn Fn(&'static str, &[(&'static str, &str)]) -> Result<(), String> + 'a;

/// Opens the system secret keys, once the audit log knows who does, by what.
fn unseal(custody: &Custody, with: &With, seconds: u64, tell: &Tell<'_>) -> Result<(), String> {
    let (With::Passphrase(text) | With::OperatorKey(text)) = with;
    let secret = SecretBytes::new(text.0.as_bytes().to_vec());
    let (time, for_s) = (Duration::from_secs(seconds), seconds.to_string());
    let opened = match with {
        With::Passphrase(_) => {
            tell("unseal", &[("seconds", &for_s), ("with", "passphrase")])?;
            custody.unseal(Opener::Passphrase(&secret), time)
        }
        With::OperatorKey(_) => {
            let key = OperatorSecretKey::from_text(&secret).map_err(|error| error.to_string())?;
            let with = format!("operator key {}", key.public_key().fingerprint());
            tell("unseal", &[("seconds", &for_s), ("with", &with)])?;
            custody.unseal(Opener::Operator(&key), time)
        }
    };
    opened.map(drop).map_err(|error: CustodyError| error.to_string())
}

/// Asks the authority that runs over a data folder. Blocks.
///
/// # Errors
/// The system's; `NotFound` or `ConnectionRefused` when none runs there.
pub fn ask(folder: &Path, request: &Request) -> io::Result<Answer> {
    use std::io::{BufRead, Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(folder.join(SOCKET_FILE))?;
    stream.set_read_timeout(Some(CONNECTION_MAX))?;
    let mut line = Zeroizing::new(serde_json::to_vec(request).map_err(io::Error::other)?);
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Zeroizing::new(String::new());
    io::BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut answer)?;
    serde_json::from_str(&answer).map_err(io::Error::other)
}
