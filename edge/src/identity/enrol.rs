//! Enrolment: a machine that has a token and nothing else becomes one of the cluster's.
//!
//! The road: [`Enrolment::begin`] reads the token and makes key and request here; whoever carries them posts
//! [`Enrolment::body`] to the authority's `/v1/enrol`; [`Enrolment::finish`] holds the answer against the token's pins and
//! writes the files. Law: the private key never leaves this machine, and no answer is taken that is not of the CA that
//! the token names, for this machine and this key.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use cinnabar_abe::SecretBytes;
use cinnabar_authority_api::enrolment::EnrolmentToken;
use cinnabar_daemon::pki::{CertificateRequest, NewKey};
use cinnabar_daemon::{Clock, Env, Role, Tls, TlsFiles, file};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{InMemory, Pins, Sealing, TLS_PURPOSE};
use crate::config::EdgeConfig;

/// Why a machine is not enrolled. What was written before is removed again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The token is none.
    #[error(transparent)]
    Token(#[from] cinnabar_authority_api::enrolment::EnrolmentTokenError),
    /// The configuration is for another machine or cluster.
    #[error("{0}")]
    Config(String),
    /// The authority's answer is not what the token pins.
    #[error("the authority's answer: {0}")]
    Answer(String),
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The library.
    #[error("{0}")]
    Failed(String),
}

/// A token that was read, with the key that was made for it.
pub struct Enrolment {
    token: EnrolmentToken,
    key: NewKey,
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Enrolment").field(&self.token).finish()
    }
}

impl Enrolment {
    /// Reads the token, holds it against the configuration, and makes the key. Nothing is written.
    ///
    /// # Errors
    /// [`EnrolError`]; also when a file that would be written is there.
    pub fn begin(token: &str, conf: &EdgeConfig) -> Result<Self, EnrolError> {
        let token = EnrolmentToken::parse(token)?;
        let replica = &conf.replica;
        if token.cluster != replica.cluster {
            let problem = format!("replica.cluster: is {}, the token is for {}", replica.cluster, token.cluster);
            return Err(EnrolError::Config(problem));
        }
        if let Some(name) = replica.name.as_ref().filter(|name| name.as_str() != token.machine.as_str()) {
            return Err(EnrolError::Config(format!("replica.name: is {name}, the token is for {}", token.machine)));
        }
        for path in [&replica.tls.cert, &replica.tls.key, &replica.tls.ca, &conf.trust()] {
            if path.exists() {
                let problem = format!("{}: is there; a machine enrols once, into new files", path.display());
                return Err(EnrolError::Config(problem));
            }
        }
        let key = NewKey::generate().map_err(|error| EnrolError::Failed(error.to_string()))?;
        Ok(Self { token, key })
    }

    /// What is posted. It holds the token's secret.
    pub fn body(&self) -> Zeroizing<String> {
        Zeroizing::new(json!({ "token": self.token.secret.as_str(), "csr": self.key.request_pem }).to_string())
    }

    /// Checks the answer and writes certificate, key, CA and pins.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub fn finish(self, answer: &Value, conf: &EdgeConfig, sealing: &Sealing, env: &Env) -> Result<Pins, EnrolError> {
        let text = |name: &str| {
            answer.get(name).and_then(Value::as_str).ok_or_else(|| EnrolError::Answer(format!("has no `{name}`")))
        };
        let (certificate, ca) = (text("certificate")?, text("ca")?);
        let read = |what: &str, pem: &str| {
            let der = CertificateDer::from_pem_slice(pem.as_bytes());
            der.map_err(|_| EnrolError::Answer(format!("`{what}` is no PEM certificate")))
        };
        if digest(&SHA256, &read("ca", ca)?).as_ref() != self.token.ca_sha256 {
            return Err(EnrolError::Answer("`ca` is another CA than the token names".to_owned()));
        }
        let leaf = read("certificate", certificate)?;
        let own = CertificateRequest::from_bytes(&self.key.request_der);
        let own = own.map_err(|error| EnrolError::Failed(error.to_string()))?.public_key_der();
        let (_, parsed) = X509Certificate::from_der(&leaf)
            .map_err(|_| EnrolError::Answer("`certificate` is no certificate".to_owned()))?;
        if parsed.public_key().raw != own {
            return Err(EnrolError::Answer("`certificate` is for another key".to_owned()));
        }
        let pins = Pins {
            cluster: self.token.cluster.clone(),
            machine: self.token.machine.clone(),
            ca_sha256: hex::encode(self.token.ca_sha256),
            record_key: hex::encode(self.token.record_key.to_bytes()),
        };
        let files = &conf.replica.tls;
        let pinned = toml::to_string(&pins).map_err(|error| EnrolError::Failed(error.to_string()))?;
        let trust = conf.trust();
        let key = SecretBytes::new(self.key.key_pem.as_bytes().to_vec());
        let sealed = sealing.close(TLS_PURPOSE, &pins.cluster, &key, &*env.rng).map_err(EnrolError::Failed)?;
        let in_memory = InMemory::new(&key).map_err(|error| EnrolError::Failed(error.to_string()))?;
        let opened = TlsFiles { key: in_memory.path(), ..files.clone() };
        let wanted: [(&Path, &[u8]); 4] = [
            (&files.ca, ca.as_bytes()),
            (&files.key, &sealed),
            (&files.cert, certificate.as_bytes()),
            (&trust, pinned.as_bytes()),
        ];
        let written = write_all(&wanted).and_then(|()| check(&opened, &pins, env.clock.clone()));
        if written.is_err() {
            for (path, _) in wanted {
                let _ = std::fs::remove_file(path);
            }
        }
        written.map(|()| pins)
    }
}

fn write_all(files: &[(&Path, &[u8])]) -> Result<(), EnrolError> {
    for (path, bytes) in files {
        let failed = |source| EnrolError::File { path: path.to_path_buf(), source };
        if let Some(folder) = path.parent() {
            cinnabar_kv::files::create_dir(folder).map_err(failed)?;
        }
        file::write_synced(path, bytes, file::PRIVATE, false).map_err(failed)?;
    }
    Ok(())
}

/// As a start would: the chain ends in the pinned CA and names this machine as an edge of this cluster.
fn check(files: &TlsFiles, pins: &Pins, clock: std::sync::Arc<dyn Clock>) -> Result<(), EnrolError> {
    let tls = Tls::load(files, &pins.cluster, clock).map_err(|error| EnrolError::Answer(error.to_string()))?;
    let us = tls.identity();
    if us.role == Role::Edge && us.name.as_str() == pins.machine.as_str() {
        return Ok(());
    }
    Err(EnrolError::Answer(format!("the certificate is for {us}, not for machine {}", pins.machine)))
}
