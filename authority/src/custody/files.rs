//! The folder's files: their names, how all of them come to be at once, and the signatures over what is public.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cinnabar_abe::seal::{SEALED_FILE_BYTES_MAX, SealedFile};
use cinnabar_abe::signature::{RecordSigningKey, RecordVerifyingKey, SIGNATURE_BYTES};
use cinnabar_abe::{PUBLIC_KEY_BYTES, PublicKey};
use cinnabar_authority_api::Generation;
use cinnabar_authority_api::records::Mode;
use cinnabar_daemon::ClusterId;
use cinnabar_daemon::file::{PRIVATE, PUBLIC, read_bounded, write_synced};
use cinnabar_daemon::pki::PEM_BYTES_MAX;
use serde::{Deserialize, Serialize};

use super::{CustodyError, GENERATIONS_MAX, Secret};

const PUBLIC_JSON: &str = "public.json";
const CA_PEM: &str = "ca.pem";
const PUBLIC_JSON_BYTES_MAX: usize = 4 * 1024;
/// Mode of the folder: only its owner may even list it.
const FOLDER_MODE: u32 = 0o700;
const FORMAT: u8 = 1;
const PUBLIC_DOMAIN: &str = "cinnabar custody public.json v1";
const SYSTEM_PUBLIC_DOMAIN: &str = "cinnabar custody system public key v1";

/// The file of a sealed secret.
pub fn name(secret: Secret) -> String {
    match secret {
        Secret::Ca => "ca.sealed".to_owned(),
        Secret::Records => "records.sealed".to_owned(),
        Secret::System(generation) => format!("system.{generation}.sealed"),
    }
}

fn public_name(generation: Generation) -> String {
    format!("system.{generation}.public")
}

/// [`CustodyError::AlreadyThere`] for anything but an empty folder.
pub fn refuse_if_there(path: &Path) -> Result<(), CustodyError> {
    let there = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => true,
        Err(source) => return Err(CustodyError::File { path: path.to_owned(), source }),
    };
    if there { Err(CustodyError::AlreadyThere { path: path.to_owned() }) } else { Ok(()) }
}

// === Public ===

/// What `public.json` says.
#[derive(Debug, Clone)]
pub struct Public {
    pub cluster: ClusterId,
    pub mode: Mode,
    pub record_key: RecordVerifyingKey,
    signature: Vec<u8>,
}

/// The file itself. What is signed is this without `signature`, as compact JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicJson {
    format: u8,
    cluster: ClusterId,
    mode: ModeWord,
    record_verifying_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeWord {
    Production,
    Demo,
}

impl Public {
    pub fn sign(cluster: &ClusterId, mode: Mode, records: &RecordSigningKey) -> Result<Self, CustodyError> {
        let record_key = records.verifying_key();
        let mut public = Self { cluster: cluster.clone(), mode, record_key, signature: Vec::new() };
        public.signature = records.sign(PUBLIC_DOMAIN, &public.signed_bytes())?.to_vec();
        Ok(public)
    }

    fn json(&self, signature: Option<String>) -> PublicJson {
        let mode = match self.mode {
            Mode::Production => ModeWord::Production,
            Mode::Demo => ModeWord::Demo,
        };
        let record_verifying_key = hex::encode(self.record_key.to_bytes());
        PublicJson { format: FORMAT, cluster: self.cluster.clone(), mode, record_verifying_key, signature }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.json(None)).expect("texts and numbers are JSON")
    }

    fn encode(&self) -> Vec<u8> {
        let json = self.json(Some(hex::encode(&self.signature)));
        let mut bytes = serde_json::to_vec_pretty(&json).expect("texts and numbers are JSON");
        bytes.push(b'\n');
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let json: PublicJson = serde_json::from_slice(bytes).map_err(|_| "not a public.json")?;
        if json.format != FORMAT {
            return Err("another format");
        }
        let mode = match json.mode {
            ModeWord::Production => Mode::Production,
            ModeWord::Demo => Mode::Demo,
        };
        let mut key = [0; 32];
        hex::decode_to_slice(&json.record_verifying_key, &mut key).map_err(|_| "its key is no hexadecimal number")?;
        let record_key = RecordVerifyingKey::from_bytes(&key).map_err(|_| "its key is no verifying key")?;
        let signature = json.signature.ok_or("it is not signed")?;
        let signature = hex::decode(signature).map_err(|_| "its signature is no hexadecimal number")?;
        let public = Self { cluster: json.cluster, mode, record_key, signature };
        let verified = public.record_key.verify(PUBLIC_DOMAIN, &public.signed_bytes(), &public.signature);
        verified.map_err(|_| "its signature is not of its key: it was changed")?;
        Ok(public)
    }
}

// === System public keys ===

/// A generation's public key and the signature over cluster, generation and key.
pub fn sign_system_public(
    cluster: &ClusterId,
    generation: Generation,
    public: &PublicKey,
    records: &RecordSigningKey,
) -> Result<Vec<u8>, CustodyError> {
    let mut bytes = public.to_bytes();
    let signature = records.sign(SYSTEM_PUBLIC_DOMAIN, &system_public_bytes(cluster, generation, &bytes))?;
    bytes.extend_from_slice(&signature);
    Ok(bytes)
}

fn system_public_bytes(cluster: &ClusterId, generation: Generation, key: &[u8]) -> Vec<u8> {
    let length = u8::try_from(cluster.as_str().len()).expect("a cluster id has 63 bytes at most");
    [&[FORMAT, length], cluster.as_str().as_bytes(), &generation.0.get().to_le_bytes(), key].concat()
}

// === Folder ===

/// Where the files lie.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Writes all files into a folder beside, then moves it in place: there is the whole or nothing.
    pub fn create(
        path: &Path,
        public: &Public,
        ca_pem: &str,
        system_public: (Generation, &[u8]),
        sealed: &[(String, Vec<u8>)],
    ) -> Result<Self, CustodyError> {
        let failed = |source| CustodyError::File { path: path.to_owned(), source };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let temporary = parent.join(format!(".{}.{}.init", name.to_string_lossy(), std::process::id()));
        let made = (|| {
            DirBuilder::new().mode(FOLDER_MODE).create(&temporary)?;
            for (name, bytes) in sealed {
                write_synced(&temporary.join(name), bytes, PRIVATE, false)?;
            }
            write_synced(&temporary.join(public_name(system_public.0)), system_public.1, PUBLIC, false)?;
            write_synced(&temporary.join(CA_PEM), ca_pem.as_bytes(), PUBLIC, false)?;
            write_synced(&temporary.join(PUBLIC_JSON), &public.encode(), PUBLIC, false)?;
            // Takes the place of an empty folder and of nothing else: that is the check, made in one step.
            fs::rename(&temporary, path)?;
            File::open(parent)?.sync_all()
        })();
        made.map_err(|source| {
            // Sealed files only; whoever finds what could not be taken away can do nothing with it.
            let _ = fs::remove_dir_all(&temporary);
            match source.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                    CustodyError::AlreadyThere { path: path.to_owned() }
                }
                _ => failed(source),
            }
        })?;
        Ok(Self(path.to_owned()))
    }

    pub fn path(&self, secret: Secret) -> PathBuf {
        self.0.join(name(secret))
    }

    pub fn damaged(&self, secret: Secret, problem: &'static str) -> CustodyError {
        CustodyError::Damaged { path: self.path(secret), problem }
    }

    fn read(&self, name: &str, bytes_max: usize) -> Result<Vec<u8>, CustodyError> {
        let path = self.0.join(name);
        read_bounded(&path, bytes_max).map_err(|source| CustodyError::File { path, source })
    }

    pub fn read_public(&self) -> Result<Public, CustodyError> {
        let bytes = self.read(PUBLIC_JSON, PUBLIC_JSON_BYTES_MAX)?;
        Public::decode(&bytes).map_err(|problem| CustodyError::Damaged { path: self.0.join(PUBLIC_JSON), problem })
    }

    pub fn read_ca_certificate(&self) -> Result<String, CustodyError> {
        let bytes = self.read(CA_PEM, PEM_BYTES_MAX)?;
        let problem = "not text";
        String::from_utf8(bytes).map_err(|_| CustodyError::Damaged { path: self.0.join(CA_PEM), problem })
    }

    pub fn read_system_public(&self, generation: Generation, public: &Public) -> Result<PublicKey, CustodyError> {
        let name = public_name(generation);
        let damaged = |problem| CustodyError::Damaged { path: self.0.join(&name), problem };
        let bytes = self
            .read(&name, PUBLIC_KEY_BYTES + SIGNATURE_BYTES)
            .map_err(|error| absent_means(error, CustodyError::NoGeneration(generation)))?;
        let (key, signature) = bytes.split_at_checked(PUBLIC_KEY_BYTES).ok_or_else(|| damaged("too short"))?;
        let signed = system_public_bytes(&public.cluster, generation, key);
        let verified = public.record_key.verify(SYSTEM_PUBLIC_DOMAIN, &signed, signature);
        verified.map_err(|_| damaged("not signed as this generation's key"))?;
        PublicKey::from_bytes(key).map_err(|_| damaged("it holds no system public key"))
    }

    pub fn read_sealed(&self, secret: Secret, cluster: &ClusterId) -> Result<SealedFile, CustodyError> {
        let bytes = self.read(&name(secret), SEALED_FILE_BYTES_MAX).map_err(|error| match secret {
            Secret::System(generation) => absent_means(error, CustodyError::NoGeneration(generation)),
            _ => error,
        })?;
        let file = SealedFile::from_bytes(&bytes).map_err(|_| self.damaged(secret, "not a sealed file"))?;
        // Opening refuses these too, without a word of why.
        if file.purpose() != secret.to_string() {
            return Err(self.damaged(secret, "it holds another secret"));
        }
        if file.cluster() != cluster.as_str().as_bytes() {
            return Err(self.damaged(secret, "it is another cluster's"));
        }
        Ok(file)
    }

    pub fn replace_sealed(&self, secret: Secret, bytes: &[u8]) -> Result<(), CustodyError> {
        let path = self.path(secret);
        write_synced(&path, bytes, PRIVATE, true).map_err(|source| CustodyError::File { path, source })
    }

    pub fn remove_sealed(&self, secret: Secret) -> Result<(), CustodyError> {
        let path = self.path(secret);
        let removed = fs::remove_file(&path).and_then(|()| File::open(&self.0)?.sync_all());
        removed.map_err(|source| match secret {
            Secret::System(generation) if source.kind() == io::ErrorKind::NotFound => {
                CustodyError::NoGeneration(generation)
            }
            _ => CustodyError::File { path, source },
        })
    }

    /// The sealed file comes last: a generation is there when its secret is.
    pub fn write_generation(
        &self,
        generation: Generation,
        signed_key: &[u8],
        sealed: &[u8],
    ) -> Result<(), CustodyError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CustodyError::File { path, source }
        };
        let (public, secret) = (self.0.join(public_name(generation)), self.path(Secret::System(generation)));
        write_synced(&public, signed_key, PUBLIC, false).map_err(failed(&public))?;
        write_synced(&secret, sealed, PRIVATE, false).map_err(failed(&secret))
    }

    pub fn generations(&self) -> Result<Vec<Generation>, CustodyError> {
        let found = self.numbers("sealed")?;
        if found.len() > GENERATIONS_MAX { Err(CustodyError::TooManyGenerations) } else { Ok(found) }
    }

    /// The one after the highest that ever was here. Numbers are not used again: not that of a destroyed one, whose public
    /// key stays, and not that of a run that died before its secret was written.
    pub fn next_generation(&self) -> Result<Generation, CustodyError> {
        if self.generations()?.len() >= GENERATIONS_MAX {
            return Err(CustodyError::TooManyGenerations);
        }
        let last = self.numbers("public")?.into_iter().chain(self.numbers("sealed")?).max();
        last.map_or(Some(Generation::FIRST), Generation::next).ok_or(CustodyError::TooManyGenerations)
    }

    /// The numbers N of files `system.N.END`, ascending.
    fn numbers(&self, end: &str) -> Result<Vec<Generation>, CustodyError> {
        let failed = |source| CustodyError::File { path: self.0.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_prefix("system.")?.strip_suffix(end)?.strip_suffix('.'));
            // One spelling: no sign, no zeros in front.
            let number = number.and_then(|text| text.parse::<NonZeroU32>().ok().filter(|n| n.to_string() == text));
            found.extend(number.map(Generation));
        }
        found.sort_unstable();
        Ok(found)
    }
}

fn absent_means(error: CustodyError, instead: CustodyError) -> CustodyError {
    match error {
        CustodyError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => instead,
        other => other,
    }
}
