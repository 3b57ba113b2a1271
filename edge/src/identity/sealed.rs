//! Where attribute keys are kept: sealed to a key that lies elsewhere, or, in a demonstration, in clear.
//!
//! File `attribute-keys` in the data folder: a sealed file (docs/formats.md) of `format (1) | (generation u32, key)*`.
//! The sealing key is an operator's key in its text form.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cinnabar_abe::limits::SEALED_SECRET_BYTES_MAX;
use cinnabar_abe::seal::{OperatorSecretKey, Recipient, SealedFile, seal};
use cinnabar_abe::{AttributeKey, SecretBytes};
use cinnabar_authority_api::Generation;
use cinnabar_authority_api::client::MachineKey;
use cinnabar_daemon::{ClusterId, Rng, codec, file, random};
use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};

use crate::limits::{IDENTITY_FILE_BYTES_MAX, KEY_FILE_BYTES_MAX};

const FILE: &str = "attribute-keys";
const PURPOSE: &str = "attribute keys";
const FORMAT: u8 = 1;

/// Why keys are not kept, or not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It does not open, or does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// How the file is closed.
#[derive(Clone)]
pub enum Sealing {
    /// To this key.
    Key(Arc<OperatorSecretKey>),
    /// Not at all: demonstrations only.
    Plain,
}

impl Sealing {
    /// Reads the sealing key.
    ///
    /// # Errors
    /// [`KeyFileError`], naming the file.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let content = |problem: String| KeyFileError::Content { path: path.to_owned(), problem };
        let bytes = file::read_bounded(path, IDENTITY_FILE_BYTES_MAX);
        let bytes = bytes.map_err(|source| KeyFileError::File { path: path.to_owned(), source })?;
        let whole = SecretBytes::new(bytes);
        let text = SecretBytes::new(whole.expose().trim_ascii_end().to_vec());
        let key = OperatorSecretKey::from_text(&text).map_err(|error| content(format!("no sealing key: {error}")))?;
        Ok(Self::Key(Arc::new(key)))
    }

    /// Makes a sealing key in a new file, and reads it; one that is there is only read.
    ///
    /// # Errors
    /// [`KeyFileError`], naming the file.
    pub fn load_or_make(path: &Path, rng: &dyn Rng) -> Result<Self, KeyFileError> {
        let content = |problem: String| KeyFileError::Content { path: path.to_owned(), problem };
        if !path.exists() {
            let mut random = random::generator(rng).map_err(|error| content(error.to_string()))?;
            let key = OperatorSecretKey::generate(&mut random);
            let text = key.to_text();
            file::write_synced(path, text.expose(), file::PRIVATE, false)
                .map_err(|source| KeyFileError::File { path: path.to_owned(), source })?;
        }
        Self::load(path)
    }
}

impl Sealing {
    /// Closes a secret as what it is for; in clear it stays as it is.
    ///
    /// # Errors
    /// What is wrong.
    pub fn close(
        &self,
        purpose: &str,
        cluster: &ClusterId,
        secret: &SecretBytes,
        rng: &dyn Rng,
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
        Ok(zeroize::Zeroizing::new(match self {
            Self::Plain => secret.expose().to_vec(),
            Self::Key(key) => {
                let to = [Recipient::Operator(key.public_key())];
                let mut random = random::generator(rng).map_err(|error| error.to_string())?;
                let sealed = seal(&mut random, purpose, cluster.as_str().as_bytes(), secret, &to);
                sealed.map_err(|error| error.to_string())?
            }
        }))
    }

    /// Opens what [`Sealing::close`] closed.
    ///
    /// # Errors
    /// What is wrong: without the sealing key nothing opens.
    pub fn open(&self, purpose: &str, cluster: &ClusterId, bytes: &[u8]) -> Result<SecretBytes, String> {
        match self {
            Self::Plain => Ok(SecretBytes::new(bytes.to_vec())),
            Self::Key(key) => {
                let sealed = SealedFile::from_bytes(bytes).map_err(|error| error.to_string())?;
                let opened = sealed.open_with_key(purpose, cluster.as_str().as_bytes(), key);
                opened.map_err(|_| "does not open with this sealing key".to_owned())
            }
        }
    }
}

/// What the private key of this machine's certificate is sealed as.
pub const TLS_PURPOSE: &str = "machine certificate key";

/// A secret in a file that is in memory alone, under a path that this process can read, as long as this lives.
#[derive(Debug)]
pub struct InMemory {
    file: File,
}

impl InMemory {
    /// Puts it there.
    ///
    /// # Errors
    /// The system's.
    pub fn new(secret: &SecretBytes) -> io::Result<Self> {
        let file = memfd_create("machine.key", MemfdFlags::CLOEXEC)?;
        fchmod(&file, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        file.write_all(secret.expose())?;
        Ok(Self { file })
    }

    /// Where this process reads it; no other user can.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// Reads the sealed private key of this machine's certificate into memory.
///
/// # Errors
/// [`KeyFileError`], naming the file.
pub fn open_tls_key(path: &Path, sealing: &Sealing, cluster: &ClusterId) -> Result<InMemory, KeyFileError> {
    let failed = |source| KeyFileError::File { path: path.to_owned(), source };
    let bytes = file::read_bounded(path, IDENTITY_FILE_BYTES_MAX).map_err(failed)?;
    let bytes = zeroize::Zeroizing::new(bytes);
    let opened = sealing.open(TLS_PURPOSE, cluster, &bytes);
    let opened = opened.map_err(|problem| KeyFileError::Content { path: path.to_owned(), problem })?;
    InMemory::new(&opened).map_err(failed)
}

/// See the module.
#[derive(Clone)]
pub struct KeyFile {
    path: PathBuf,
    sealing: Sealing,
    rng: Arc<dyn Rng>,
}

impl KeyFile {
    /// The file in this folder.
    pub fn new(dir: &Path, sealing: Sealing, rng: Arc<dyn Rng>) -> Self {
        Self { path: dir.join(FILE), sealing, rng }
    }

    /// Would the keys lie in clear?
    pub fn is_plain(&self) -> bool {
        matches!(self.sealing, Sealing::Plain)
    }

    fn content(&self, problem: impl std::fmt::Display) -> KeyFileError {
        KeyFileError::Content { path: self.path.clone(), problem: problem.to_string() }
    }

    /// Replaces what is kept.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn store(&self, cluster: &ClusterId, keys: &[MachineKey]) -> Result<(), KeyFileError> {
        let list: Vec<(u32, &[u8])> = keys.iter().map(|key| (key.generation.get(), key.key.expose())).collect();
        // Room for all of it, so that no part stays behind in a buffer that was outgrown.
        let room = 64 + list.iter().map(|(_, key)| key.len() + 16).sum::<usize>();
        let mut plain = Vec::with_capacity(room);
        plain.push(FORMAT);
        codec::encode_into(&mut plain, &list);
        let plain = SecretBytes::new(plain);
        let sealed = self.sealing.close(PURPOSE, cluster, &plain, &*self.rng);
        let sealed = sealed.map_err(|problem| self.content(problem))?;
        let written = file::write_synced(&self.path, &sealed, file::PRIVATE, true);
        written.map_err(|source| KeyFileError::File { path: self.path.clone(), source })
    }

    /// Reads what is kept; nothing when there is no file.
    ///
    /// # Errors
    /// [`KeyFileError`]: without the sealing key nothing opens.
    pub fn load(&self, cluster: &ClusterId) -> Result<BTreeMap<Generation, AttributeKey>, KeyFileError> {
        let bytes = match file::read_bounded(&self.path, KEY_FILE_BYTES_MAX) {
            Ok(bytes) => zeroize::Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(source) => return Err(KeyFileError::File { path: self.path.clone(), source }),
        };
        let plain = self.sealing.open(PURPOSE, cluster, &bytes).map_err(|problem| self.content(problem))?;
        let list = codec::decode::<Vec<(u32, Vec<u8>)>, SEALED_SECRET_BYTES_MAX>(PURPOSE, FORMAT, plain.expose());
        let list = list.map_err(|error| self.content(error))?;
        let keys = list.into_iter().map(|(number, key)| {
            let key = SecretBytes::new(key);
            let number = NonZeroU32::new(number).ok_or_else(|| self.content("generation 0"))?;
            Ok(MachineKey { generation: Generation(number), key })
        });
        let keys: Vec<MachineKey> = keys.collect::<Result<_, KeyFileError>>()?;
        super::parse(&keys).map_err(|problem| self.content(problem))
    }
}
