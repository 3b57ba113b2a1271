//! Snapshot files: the whole state at one index, made while writes go on, checked record by record when it is read.
//!
//! File: `magic 8 | format u8 | header length u32 | header (bincode) | sessions | records | 0xff | BLAKE3 of all before`.
//! A session or record: `space u8 | key length u16 | mod index u64 | value length u32 | key | value`, little-endian, by
//! key. The header names the state hash; the importer computes it anew, so that a file is worth what its signed
//! checkpoint is worth, wherever it came from.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_daemon::id::ClusterId;
use cinnabar_kv_api::limits::{KEY_BYTES_MAX, RECORD_BYTES_MAX};
use cinnabar_kv_api::{ChainHead, Checkpoint, ClientId, SignedCheckpoint, StateHash, StoreId, codec};
use serde::{Deserialize, Serialize};

use crate::files::sync_dir;
use crate::limits::{SNAPSHOT_BUFFER_BYTES, SNAPSHOT_HEADER_BYTES_MAX};
use crate::log::LogPoint;
use crate::state::scan::ScanError;
use crate::state::{ImportError, Importer, Point, Record, State, StateWriter};
use crate::store::{Engine, StoreError};

const MAGIC: &[u8; 8] = b"CINNASNP";
const FORMAT: u8 = 1;
const END: u8 = 0xff;
/// Records read from the state at once.
const PAGE_RECORDS: usize = 512;
/// Bytes of records read from the state at once.
const PAGE_BYTES: usize = 1024 * 1024;

/// Why a snapshot cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file does not follow its format or its hashes. It is worth nothing.
    #[error("snapshot {}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The system's.
    #[error("snapshot file: {0}")]
    Io(#[from] io::Error),
    /// The scan's.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What stands on top of a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The cluster and the history; none before the store was named.
    pub store: Option<(ClusterId, StoreId)>,
    /// Log index of the state.
    pub index: u64,
    /// Term of the entry there.
    pub term: u64,
    /// Chain head there.
    pub chain_head: ChainHead,
    /// State hash there.
    pub state_hash: StateHash,
    /// Live records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub record_bytes: u64,
    /// Clients remembered.
    pub sessions: u64,
    /// Log point of the last membership, and its encoded body.
    pub membership: Option<(LogPoint, Bytes)>,
    /// A voter's word for all of this; none in a file made by a voter for itself.
    pub checkpoint: Option<SignedCheckpoint>,
}

impl Header {
    fn new(point: &Point, sessions: u64, checkpoint: Option<SignedCheckpoint>) -> Self {
        Self {
            store: point.store.clone(),
            index: point.applied.index,
            term: point.applied.term,
            chain_head: point.applied.head,
            state_hash: point.state_hash,
            records: point.records,
            record_bytes: point.record_bytes,
            sessions,
            membership: point.membership.clone(),
            checkpoint,
        }
    }

    /// Does a checkpoint swear to the state of this file?
    pub fn agrees_with(&self, checkpoint: &Checkpoint) -> bool {
        let claims = (self.index, self.term, self.chain_head, self.state_hash);
        claims == (checkpoint.index, checkpoint.term, checkpoint.chain_head, checkpoint.state_hash)
            && self.store == Some((checkpoint.cluster.clone(), checkpoint.store_id))
    }

    /// The log point of the state.
    pub fn point(&self) -> LogPoint {
        LogPoint { index: self.index, term: self.term, head: self.chain_head }
    }
}

/// Writes through a running hash.
struct Hashed<W> {
    inner: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Hashed<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }

    fn record(&mut self, space: u8, key: &[u8], record: &Record) -> io::Result<()> {
        let mut head = [0; 15];
        head[0] = space;
        head[1..3].copy_from_slice(&u16::try_from(key.len()).expect("keys are bounded").to_le_bytes());
        head[3..11].copy_from_slice(&record.mod_index.to_le_bytes());
        head[11..].copy_from_slice(&u32::try_from(record.value.len()).expect("values are bounded").to_le_bytes());
        self.put(&head)?;
        self.put(key)?;
        self.put(&record.value)
    }
}

/// A dump that was opened at a point, before its file is written; closes its scan when it goes.
pub struct Dump {
    state: Arc<State>,
    scan: u64,
    /// The point that the file will show.
    pub point: Arc<Point>,
    sessions: Vec<(ClientId, Record)>,
}

impl Drop for Dump {
    fn drop(&mut self) {
        self.state.close_scan(self.scan);
    }
}

impl Dump {
    /// Opens a dump at the writer's tip.
    ///
    /// # Errors
    /// When too many scans are open.
    pub fn open(writer: &StateWriter) -> Result<Self, SnapshotError> {
        let (scan, point, sessions) = writer.open_dump()?;
        Ok(Self { state: writer.state().clone(), scan, point, sessions })
    }

    /// Writes the file: beside `path` first, then in its place, synced. Blocks; memory stays bounded.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing is left at `path` then.
    pub fn write(self, path: &Path, checkpoint: Option<SignedCheckpoint>) -> Result<Header, SnapshotError> {
        let header = Header::new(&self.point, self.sessions.len() as u64, checkpoint);
        let fresh = path.with_extension("making");
        let result = self.write_to(&fresh, &header);
        if let Err(error) = result {
            let _ = fs::remove_file(&fresh);
            return Err(error);
        }
        fs::rename(&fresh, path)?;
        if let Some(dir) = path.parent() {
            sync_dir(dir)?;
        }
        Ok(header)
    }

    /// Reads the state through and compares it with its own counts and hash.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when they do not agree; the store's.
    pub fn check(self) -> Result<(), StoreError> {
        let disagrees = |problem| StoreError::Damaged { what: "state", problem };
        let mut records = Importer::dry();
        let mut add = |space, key: &Bytes, record: &Record| {
            records.add(space, key.clone(), record.clone()).map_err(|error| match error {
                ImportError::Malformed(problem) => disagrees(problem),
                ImportError::Store(error) => error,
            })
        };
        for (client, record) in &self.sessions {
            add(b's', &Bytes::copy_from_slice(&client.0), record)?;
        }
        self.each_record(|key, record| Ok(add(b'k', key, record)?)).map_err(|error| match error {
            SnapshotError::Store(error) | SnapshotError::Scan(ScanError::Store(error)) => error,
            error => disagrees(error.to_string()),
        })?;
        records.check(&Header::new(&self.point, self.sessions.len() as u64, None)).map_err(disagrees)
    }

    fn each_record(
        &self,
        mut each: impl FnMut(&Bytes, &Record) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let mut after = Bytes::new();
        loop {
            let page = self.state.scan_page(self.scan, 0, b"", &after, PAGE_RECORDS, PAGE_BYTES)?;
            for (key, record) in &page.records {
                each(key, record)?;
            }
            if let Some((last, _)) = page.records.last() {
                after = last.clone();
                self.state.scan_passed(self.scan, &after);
            }
            if page.done {
                return Ok(());
            }
        }
    }

    fn write_to(&self, path: &Path, header: &Header) -> Result<(), SnapshotError> {
        let file = BufWriter::with_capacity(SNAPSHOT_BUFFER_BYTES, File::create(path)?);
        let mut out = Hashed { inner: file, hasher: blake3::Hasher::new() };
        let encoded = codec::encode(FORMAT, header);
        out.put(MAGIC)?;
        out.put(&[FORMAT])?;
        out.put(&u32::try_from(encoded.len()).expect("bounded by its fields").to_le_bytes())?;
        out.put(&encoded)?;
        for (client, record) in &self.sessions {
            out.record(b's', &client.0, record)?;
        }
        self.each_record(|key, record| Ok(out.record(b'k', key, record)?))?;
        out.put(&[END])?;
        let hash = *out.hasher.finalize().as_bytes();
        out.inner.write_all(&hash)?;
        out.inner.flush()?;
        out.inner.get_ref().sync_all()?;
        Ok(())
    }
}

/// Reads through a running hash.
struct Source {
    path: PathBuf,
    inner: BufReader<File>,
    hasher: blake3::Hasher,
}

impl Source {
    fn open(path: &Path) -> Result<Self, SnapshotError> {
        let inner = BufReader::with_capacity(SNAPSHOT_BUFFER_BYTES, File::open(path)?);
        Ok(Self { path: path.to_owned(), inner, hasher: blake3::Hasher::new() })
    }

    fn damaged(&self, problem: impl Into<String>) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), problem: problem.into() }
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        match self.inner.read_exact(bytes) {
            Ok(()) => {
                self.hasher.update(bytes);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.damaged("cut short")),
            Err(error) => Err(error.into()),
        }
    }

    fn header(&mut self) -> Result<Header, SnapshotError> {
        let mut start = [0; 13];
        self.take(&mut start)?;
        if &start[..8] != MAGIC {
            return Err(self.damaged("not a snapshot"));
        }
        if start[8] != FORMAT {
            return Err(self.damaged(format!("format {}, this version reads {FORMAT}", start[8])));
        }
        let length = u32::from_le_bytes(start[9..].try_into().expect("four bytes")) as usize;
        if length > SNAPSHOT_HEADER_BYTES_MAX {
            return Err(self.damaged(format!("a header of {length} bytes")));
        }
        let mut bytes = vec![0; length];
        self.take(&mut bytes)?;
        codec::decode::<Header, SNAPSHOT_HEADER_BYTES_MAX>("snapshot header", FORMAT, &bytes)
            .map_err(|error| self.damaged(error.to_string()))
    }

    /// The next record, or none at the end, where the file's hash must hold and nothing be left over.
    fn record(&mut self) -> Result<Option<(u8, Bytes, Record)>, SnapshotError> {
        let mut space = [0];
        self.take(&mut space)?;
        if space[0] == END {
            let expected = *self.hasher.finalize().as_bytes();
            let mut found = Vec::new();
            self.inner.by_ref().take(33).read_to_end(&mut found)?;
            return if found == expected { Ok(None) } else { Err(self.damaged("its hash does not hold")) };
        }
        let mut head = [0; 14];
        self.take(&mut head)?;
        let key_length = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let mod_index = u64::from_le_bytes(head[2..10].try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(head[10..].try_into().expect("four bytes")) as usize;
        if !(1..=KEY_BYTES_MAX).contains(&key_length) || key_length + length > RECORD_BYTES_MAX {
            return Err(self.damaged(format!("a record of {key_length} and {length} bytes")));
        }
        let mut bytes = vec![0; key_length + length];
        self.take(&mut bytes)?;
        let mut key = Bytes::from(bytes);
        let value = key.split_off(key_length);
        Ok(Some((space[0], key, Record { mod_index, value })))
    }
}

/// Reads the header alone.
///
/// # Errors
/// [`SnapshotError`].
pub fn read_header(path: &Path) -> Result<Header, SnapshotError> {
    Source::open(path)?.header()
}

/// Reads a whole file, checks it, and computes the state hash; gives the header when everything agrees. `each` is told
/// of every client's record.
///
/// # Errors
/// [`SnapshotError::Damaged`] naming what does not agree.
pub fn verify(path: &Path, each: impl FnMut(&Bytes, &Record) -> io::Result<()>) -> Result<Header, SnapshotError> {
    read(path, Importer::dry(), each).map(|(header, _)| header)
}

/// Fills an empty engine from a file; gives the header when everything agrees and is on disk.
///
/// # Errors
/// [`SnapshotError::Damaged`] naming what does not agree; the engine is worth nothing then.
pub fn import(path: &Path, engine: &Arc<dyn Engine>) -> Result<Header, SnapshotError> {
    import_as(path, engine, |_| {})
}

/// As [`import`], under a header that `rename` may change once the file was checked: a restore gives the store
/// another name and other members.
///
/// # Errors
/// As [`import`].
pub fn import_as(
    path: &Path,
    engine: &Arc<dyn Engine>,
    rename: impl FnOnce(&mut Header),
) -> Result<Header, SnapshotError> {
    let (mut header, importer) = read(path, Importer::into(engine.clone()), |_, _| Ok(()))?;
    rename(&mut header);
    importer.finish(&header)?;
    engine.make_durable()?;
    Ok(header)
}

fn read(
    path: &Path,
    mut importer: Importer,
    mut each: impl FnMut(&Bytes, &Record) -> io::Result<()>,
) -> Result<(Header, Importer), SnapshotError> {
    let mut source = Source::open(path)?;
    let header = source.header()?;
    while let Some((space, key, record)) = source.record()? {
        if record.mod_index > header.index {
            return Err(source.damaged("a record from after its index"));
        }
        if space == b'k' {
            each(&key, &record)?;
        }
        importer.add(space, key, record).map_err(|error| match error {
            ImportError::Malformed(problem) => source.damaged(problem),
            ImportError::Store(error) => error.into(),
        })?;
    }
    importer.check(&header).map_err(|problem| source.damaged(problem))?;
    Ok((header, importer))
}
