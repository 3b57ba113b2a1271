//! Snapshot files that a node serves, and the one that it fetches.
//!
//! A file is made once and given to everyone who asks within a minute. A fetch goes on from where it was cut, also
//! after a restart; what it fetched is worth nothing until the importer has computed its hash and a voter's checkpoint
//! covers it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cinnabar_daemon::Clock;
use cinnabar_kv_api::limits::{MESSAGE_BYTES_MAX, SNAPSHOT_CHUNK_BYTES};
use cinnabar_kv_api::proto::replication_client::ReplicationClient;
use cinnabar_kv_api::proto::{SnapshotChunk, SnapshotRequest};
use cinnabar_kv_api::{SignedCheckpoint, StoreId};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::limits::{SNAPSHOT_FILES_MAX, SNAPSHOT_IDLE_MS_MAX, SNAPSHOT_REUSE_MS, UPSTREAM_SILENT_MS_MAX};
use crate::local::Local;
use crate::snapshot::SnapshotError;
use crate::state::Point;

const SUFFIX: &str = "snap";
const PART_SUFFIX: &str = "part";
/// Longest wait for the first chunk: the file may have to be made first, in milliseconds.
const FIRST_CHUNK_MS_MAX: u64 = 10 * 60 * 1000;
/// Times that a cut fetch is resumed before the upstream is left.
const RESUMES_MAX: usize = 5;

/// A voter's word for a point of the state, if it can be given now.
pub type Witness = dyn Fn(&Point) -> Option<SignedCheckpoint> + Send + Sync;

#[derive(Debug, Clone)]
struct Made {
    index: u64,
    path: PathBuf,
    bytes: u64,
    at_ms: u64,
}

/// The files of one node.
pub struct SnapshotFiles {
    dir: PathBuf,
    local: Arc<Local>,
    clock: Arc<dyn Clock>,
    witness: Box<Witness>,
    made: tokio::sync::Mutex<Vec<Made>>,
}

/// An open file that is being served.
pub struct Serving {
    file: File,
    hasher: blake3::Hasher,
    /// Log index of its state.
    pub index: u64,
    offset: u64,
    total: u64,
}

fn io_status(error: &io::Error) -> Status {
    Status::internal(format!("snapshot file: {error}"))
}

impl SnapshotFiles {
    /// Files in `dir`; what an earlier process left there is removed, but for a fetch that can go on.
    ///
    /// # Errors
    /// The system's.
    pub fn open(
        dir: PathBuf,
        local: Arc<Local>,
        clock: Arc<dyn Clock>,
        witness: Box<Witness>,
    ) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension != PART_SUFFIX) {
                fs::remove_file(path)?;
            }
        }
        Ok(Arc::new(Self { dir, local, clock, witness, made: tokio::sync::Mutex::default() }))
    }

    /// Removes files that nobody asked for in a long time: each is as large as the live records.
    pub fn remove_idle(&self) {
        let now = self.clock.unix_ms();
        // While one is being made there will be another turn.
        let Ok(mut made) = self.made.try_lock() else { return };
        made.retain(|made| {
            let keep = now.saturating_sub(made.at_ms) < SNAPSHOT_IDLE_MS_MAX;
            if !keep && let Err(error) = fs::remove_file(&made.path) {
                tracing::warn!(%error, path = %made.path.display(), "cannot remove an old snapshot file");
            }
            keep
        });
    }

    /// Opens a file for a reader: the one it names, or a fresh one whose state is at `least` or later.
    ///
    /// # Errors
    /// `NOT_FOUND` when the named one is gone, `UNAVAILABLE` when there is nothing to take one of.
    pub async fn serve(&self, index: u64, offset: u64, least: u64) -> Result<Serving, Status> {
        let mut made = self.made.lock().await;
        let now = self.clock.unix_ms();
        let fresh = |made: &&Made| now.saturating_sub(made.at_ms) < SNAPSHOT_REUSE_MS && made.index >= least;
        let found = if index > 0 {
            let named = made.iter_mut().find(|made| made.index == index);
            let named = named.ok_or_else(|| Status::not_found(format!("no snapshot at entry {index} any more")))?;
            named.at_ms = now;
            named.clone()
        } else if let Some(found) = made.iter().filter(fresh).max_by_key(|made| made.index) {
            found.clone()
        } else {
            let fresh = self.make().await.map_err(|error| Status::unavailable(error.to_string()))?;
            made.retain(|made| made.index != fresh.index);
            made.push(fresh.clone());
            while made.len() > SNAPSHOT_FILES_MAX {
                // Readers that have it open keep reading it.
                let _ = fs::remove_file(made.remove(0).path);
            }
            fresh
        };
        drop(made);
        Serving::open(&found, offset).map_err(|error| io_status(&error))
    }

    async fn make(&self) -> Result<Made, SnapshotError> {
        let (dump, checkpoint) = self.local.open_dump(|point| (self.witness)(point))?;
        let checkpoint = checkpoint.ok_or_else(|| io::Error::other("this node has no checkpoint of its state yet"))?;
        let index = dump.point.applied.index;
        let path = self.dir.join(format!("{index:020}.{SUFFIX}"));
        let to = path.clone();
        let started = self.clock.now();
        let written = tokio::task::spawn_blocking(move || dump.write(&to, Some(checkpoint)));
        written.await.map_err(io::Error::other)??;
        let bytes = fs::metadata(&path)?.len();
        let took_ms = u64::try_from(self.clock.now().duration_since(started).as_millis()).unwrap_or(u64::MAX);
        tracing::info!(index, bytes, took_ms, "snapshot file made");
        Ok(Made { index, path, bytes, at_ms: self.clock.unix_ms() })
    }
}

impl Serving {
    fn open(made: &Made, offset: u64) -> io::Result<Self> {
        let mut file = File::open(&made.path)?;
        let mut hasher = blake3::Hasher::new();
        let offset = offset.min(made.bytes);
        hasher.update_reader(file.by_ref().take(offset))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, hasher, index: made.index, offset, total: made.bytes })
    }

    /// The next chunk, or none at the end.
    ///
    /// # Errors
    /// The file's.
    pub fn next_chunk(&mut self) -> Result<Option<SnapshotChunk>, Status> {
        if self.offset >= self.total {
            return Ok(None);
        }
        let left = usize::try_from(self.total - self.offset).unwrap_or(usize::MAX);
        let mut data = vec![0; left.min(SNAPSHOT_CHUNK_BYTES)];
        self.file.read_exact(&mut data).map_err(|error| io_status(&error))?;
        self.hasher.update(&data);
        let chunk = SnapshotChunk {
            index: self.index,
            offset: self.offset,
            total_bytes: self.total,
            running_hash: Bytes::copy_from_slice(self.hasher.finalize().as_bytes()),
            data: data.into(),
        };
        self.offset += chunk.data.len() as u64;
        Ok(Some(chunk))
    }
}

/// A fetch into a folder, which goes on where an earlier one was cut.
pub struct Fetch {
    dir: PathBuf,
    index: u64,
    offset: u64,
    hasher: blake3::Hasher,
    file: Option<File>,
}

impl Fetch {
    /// Looks for a fetch to go on with.
    ///
    /// # Errors
    /// The system's.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut fetch = Self { dir: dir.to_owned(), index: 0, offset: 0, hasher: blake3::Hasher::new(), file: None };
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let digits = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if let Some(index) = digits.filter(|_| path.extension().is_some_and(|e| e == PART_SUFFIX)) {
                // No snapshot is at index 0, and none but the last fetch can be gone on with.
                if index == 0 || fetch.file.is_some() {
                    fs::remove_file(&path)?;
                    continue;
                }
                let mut file = File::options().read(true).write(true).open(&path)?;
                fetch.hasher.reset();
                fetch.hasher.update_reader(&mut file)?;
                fetch.offset = file.metadata()?.len();
                fetch.index = index;
                fetch.file = Some(file);
            }
        }
        Ok(fetch)
    }

    fn path(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{index:020}.{PART_SUFFIX}"))
    }

    /// Begins anew: what was fetched is of no use.
    pub fn restart(&mut self) {
        if self.index > 0 {
            let _ = fs::remove_file(self.path(self.index));
        }
        (self.index, self.offset, self.file) = (0, 0, None);
        self.hasher.reset();
    }

    fn take(&mut self, chunk: &SnapshotChunk) -> io::Result<()> {
        let damaged = |problem| Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        if chunk.index == 0 || chunk.data.is_empty() {
            return damaged("a chunk of no snapshot, or without bytes");
        }
        if self.file.is_none() {
            self.index = chunk.index;
            let path = self.path(chunk.index);
            self.file = Some(File::options().read(true).write(true).create(true).truncate(true).open(path)?);
        }
        if chunk.index != self.index || chunk.offset != self.offset {
            return damaged("the upstream sent another part than was asked for");
        }
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        if end > chunk.total_bytes {
            return damaged("the snapshot is longer than the upstream said");
        }
        let mut hasher = self.hasher.clone();
        hasher.update(&chunk.data);
        if hasher.finalize().as_bytes()[..] != chunk.running_hash[..] {
            return damaged("a chunk's running hash does not hold");
        }
        let file = self.file.as_ref().expect("opened above");
        file.write_all_at(&chunk.data, self.offset)?;
        self.hasher = hasher;
        self.offset = end;
        Ok(())
    }

    /// Fetches a whole file from an upstream; gives its path. It is not verified yet.
    ///
    /// # Errors
    /// The upstream's status; what was fetched stays for the next attempt.
    pub async fn run(
        &mut self,
        client: &mut ReplicationClient<Channel>,
        store_id: Option<StoreId>,
    ) -> Result<PathBuf, Status> {
        let mut last = Status::unavailable("nothing was fetched");
        for _ in 0..RESUMES_MAX {
            match self.attempt(client, store_id).await {
                Ok(path) => return Ok(path),
                Err(status) if matches!(status.code(), Code::NotFound | Code::DataLoss) => {
                    self.restart();
                    last = status;
                }
                Err(status) => {
                    last = status;
                    if self.offset == 0 {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        Err(last)
    }

    async fn attempt(
        &mut self,
        client: &mut ReplicationClient<Channel>,
        store_id: Option<StoreId>,
    ) -> Result<PathBuf, Status> {
        let store_id = store_id.map_or(Bytes::new(), |id| id.to_bytes());
        let request = SnapshotRequest { index: self.index, offset: self.offset, store_id };
        let mut wait = Duration::from_millis(FIRST_CHUNK_MS_MAX);
        let silent = |_| Status::deadline_exceeded("the upstream fell silent");
        let mut chunks = tokio::time::timeout(wait, client.snapshot(request)).await.map_err(silent)??.into_inner();
        let mut total = None;
        while let Some(chunk) = tokio::time::timeout(wait, chunks.message()).await.map_err(silent)?? {
            wait = Duration::from_millis(3 * UPSTREAM_SILENT_MS_MAX);
            if total.replace(chunk.total_bytes).is_some_and(|total| total != chunk.total_bytes) {
                return Err(Status::data_loss("the upstream named two lengths for one snapshot"));
            }
            self.take(&chunk).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => Status::data_loss(error.to_string()),
                _ => io_status(&error),
            })?;
        }
        // Bytes that came from elsewhere and that this upstream adds nothing to: nobody vouched for them on the way, and
        // one that sends them again each time would keep every other upstream's snapshot out.
        if total.is_none() && self.offset > 0 {
            return Err(Status::data_loss("nothing follows what was fetched before: it is fetched anew"));
        }
        if total.is_some_and(|total| total != self.offset) {
            return Err(Status::unavailable("the upstream ended the snapshot early"));
        }
        let Some(file) = self.file.take() else { return Err(Status::unavailable("the snapshot is empty")) };
        file.sync_all().map_err(|error| io_status(&error))?;
        let path = self.path(self.index);
        (self.index, self.offset) = (0, 0);
        self.hasher.reset();
        Ok(path)
    }
}

/// A client of an upstream's replication service.
pub fn client(channel: Channel) -> ReplicationClient<Channel> {
    ReplicationClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
