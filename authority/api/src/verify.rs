//! Reading records: the only way from bytes to something that may be used.
//!
//! The road: [`Verifier::read`] checks the signature over the bytes as they came, then the format, the cluster, the key,
//! and every bound; what it gives is [`Checked`]. [`Verifier::follows`] holds a new record against the one before.
//! Law: no other way makes a [`Checked`]. A record that fails is not used, and nothing older takes its place.

use std::ops::Deref;

use cinnabar_abe::signature::{RecordVerifyingKey, SIGNATURE_BYTES};
use cinnabar_daemon::codec::{self, CodecError};
use cinnabar_daemon::id::ClusterId;

use crate::keyspace::{KeyError, Kind, RecordKey};
use crate::limits::RECORD_BYTES_MAX;
use crate::records::{
    Body, Cert, Content, DOMAIN, FORMAT, Head, Machine, PolicyCiphertext, PolicyRecord, Revoked, SchemaRecord, Secret,
    Sni, System, Token, Zone,
};

/// Why a record is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Too few or too many bytes.
    #[error("{0} bytes are no record")]
    Length(usize),
    /// The authority did not sign these bytes.
    #[error("its signature does not hold")]
    Signature,
    /// The bytes do not follow the format.
    #[error(transparent)]
    Format(#[from] CodecError),
    /// Its key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It was signed for another cluster.
    #[error("it belongs to cluster `{0}`")]
    Cluster(ClusterId),
    /// It was signed for another key: somebody moved it.
    #[error("it belongs under `{}`", .0.escape_debug())]
    Moved(String),
    /// Its versions do not follow one another, or those of the record before.
    #[error("version {version} after {previous} does not follow version {known}")]
    Version {
        /// Its version.
        version: u64,
        /// What it says it follows.
        previous: u64,
        /// The version that the reader knows, 0 for none.
        known: u64,
    },
    /// A kind that knows no tombstones, ended.
    #[error("a record of this kind cannot be ended")]
    Ended,
    /// A field is outside its bounds, or disagrees with another.
    #[error("{0}")]
    Content(String),
}

impl RecordError {
    /// One word, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Length(_) | Self::Format(_) | Self::Key(_) | Self::Content(_) => "malformed",
            Self::Signature => "signature",
            Self::Cluster(_) => "cluster",
            Self::Moved(_) => "moved",
            Self::Version { .. } => "version",
            Self::Ended => "ended",
        }
    }

    /// Every word that [`RecordError::reason`] gives.
    pub const REASONS: [&'static str; 6] = ["malformed", "signature", "cluster", "moved", "version", "ended"];
}

/// A record that the authority signed for this key and cluster, within its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked<T> {
    key: RecordKey,
    version: u64,
    previous: u64,
    time_ms: u64,
    content: T,
}

impl<T> Checked<T> {
    /// The key that it stands under.
    pub fn key(&self) -> &RecordKey {
        &self.key
    }

    /// Its version, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The version that it follows; 0 for the first.
    pub fn previous(&self) -> u64 {
        self.previous
    }

    /// When it was signed, in milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// What it says.
    pub fn into_content(self) -> T {
        self.content
    }

    fn map<U>(self, map: impl FnOnce(T) -> U) -> Checked<U> {
        let Self { key, version, previous, time_ms, content } = self;
        Checked { key, version, previous, time_ms, content: map(content) }
    }
}

impl<T> Checked<Option<T>> {
    /// The record; none for a tombstone.
    pub fn live(self) -> Option<Checked<T>> {
        let Self { key, version, previous, time_ms, content } = self;
        content.map(|content| Checked { key, version, previous, time_ms, content })
    }
}

impl Checked<AnyContent> {
    /// The machine's record, if it is one.
    pub fn machine(self) -> Option<Checked<Machine>> {
        let Self { key, version, previous, time_ms, content } = self;
        let AnyContent::Machine(content) = content else { return None };
        Some(Checked { key, version, previous, time_ms, content })
    }
}

impl<T> Deref for Checked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.content
    }
}

/// What stands in a record of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the type of its name")]
pub enum AnyContent {
    System(System),
    Schema(SchemaRecord),
    Zone(Zone),
    Policy(PolicyRecord),
    PolicyCiphertext(PolicyCiphertext),
    Cert(Cert),
    Secret(Secret),
    Sni(Sni),
    Machine(Machine),
    Revoked(Revoked),
    Token(Token),
    Head(Head),
}

/// What every record's body begins with.
#[derive(serde::Deserialize)]
struct Start {
    #[allow(dead_code, reason = "stands before the version")]
    cluster: ClusterId,
    #[allow(dead_code, reason = "stands before the version")]
    key: bytes::Bytes,
    version: u64,
}

/// Checks records of one cluster, signed by one authority.
#[derive(Debug, Clone)]
pub struct Verifier {
    cluster: ClusterId,
    authority: RecordVerifyingKey,
}

impl Verifier {
    /// Trusts this authority for this cluster and nothing else.
    pub fn new(cluster: ClusterId, authority: RecordVerifyingKey) -> Self {
        Self { cluster, authority }
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Reads the record of kind `T` that the store has under `key`; none for a tombstone.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read<T: Content>(&self, key: &[u8], record: &[u8]) -> Result<Checked<Option<T>>, RecordError> {
        let body = match record.len().checked_sub(SIGNATURE_BYTES) {
            Some(end) if end > 0 && key.len() + record.len() <= RECORD_BYTES_MAX => &record[..end],
            _ => return Err(RecordError::Length(record.len())),
        };
        let signature = &record[body.len()..];
        self.authority.verify(DOMAIN, body, signature).map_err(|_| RecordError::Signature)?;
        let bytes = body;
        let body = codec::decode::<Body<T>, RECORD_BYTES_MAX>(T::KIND.as_str(), FORMAT, bytes)?;
        // Sets and maps are read in any order, and with entries twice; equal records must be equal bytes.
        if codec::encode(FORMAT, &body) != bytes {
            return Err(RecordError::Content("it is not encoded as its value is".to_owned()));
        }
        if body.cluster != self.cluster {
            return Err(RecordError::Cluster(body.cluster));
        }
        if body.key != key {
            return Err(RecordError::Moved(String::from_utf8_lossy(&body.key).into_owned()));
        }
        let (version, previous) = (body.version, body.previous);
        if previous.checked_add(1) != Some(version) {
            return Err(RecordError::Version { version, previous, known: previous });
        }
        let key = RecordKey::parse(key)?;
        match &body.content {
            None if !T::ENDS => return Err(RecordError::Ended),
            None if key.kind() != T::KIND => return Err(RecordError::Moved(key.to_string())),
            None => {}
            Some(content) if content.key() != key => return Err(RecordError::Moved(content.key().to_string())),
            Some(content) => content.check(&self.cluster).map_err(RecordError::Content)?,
        }
        Ok(Checked { key, version, previous, time_ms: body.time_ms, content: body.content })
    }

    /// Reads a record of whatever kind its key names.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read_any(&self, key: &[u8], record: &[u8]) -> Result<Checked<Option<AnyContent>>, RecordError> {
        macro_rules! read {
            ($($kind:ident => $content:ty),*) => {
                match RecordKey::parse(key)?.kind() {
                    $(Kind::$kind => self.read::<$content>(key, record)?.map(|found| found.map(AnyContent::$kind)),)*
                }
            };
        }
        Ok(read! {
            System => System, Schema => SchemaRecord, Zone => Zone, Policy => PolicyRecord,
            PolicyCiphertext => PolicyCiphertext, Cert => Cert, Secret => Secret, Sni => Sni, Machine => Machine,
            Revoked => Revoked, Token => Token, Head => Head
        })
    }

    /// The version that a record claims to have. Nothing is verified: for a reader that has too many records to verify
    /// before it needs them, and must still notice that one was replaced.
    ///
    /// # Errors
    /// [`RecordError::Format`].
    pub fn claimed_version(record: &[u8]) -> Result<u64, RecordError> {
        let start = codec::decode_start::<Start, RECORD_BYTES_MAX>("record", FORMAT, record)?;
        Ok(start.version)
    }

    /// Holds a record against the one that the reader has seen under the same key (version 0: none). A reader that sees
    /// every change demands that it follows directly; one that came by a snapshot, only that it is newer.
    ///
    /// # Errors
    /// [`RecordError::Version`].
    pub fn follows<T>(record: &Checked<T>, known: u64, gapless: bool) -> Result<(), RecordError> {
        let follows = if gapless { record.previous == known } else { record.version > known };
        if follows {
            return Ok(());
        }
        let (version, previous) = (record.version, record.previous);
        Err(RecordError::Version { version, previous, known })
    }
}
