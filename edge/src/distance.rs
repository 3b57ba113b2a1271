//! Simulated distance between data centres that stand on one machine. For a demo only.
//!
//! The road: a connection that [`DistantNet`] dials goes through two pipes; each holds what was written for half of the
//! round trip to the data centre at that address. Law: order is kept, what is under way is bounded, and an address that
//! the table does not know is not delayed. A changed round trip is felt by open connections with the next byte.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_authority_api::DataCenterId;
use cinnabar_daemon::env::BoxIo;
use cinnabar_daemon::{Clock, Net, file};
use cinnabar_edge_api::limits::DISTANCE_MAX;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::limits::{DISTANCE_FILE_BYTES_MAX, DISTANCES_MAX, DISTANT_BYTES_MAX, DISTANT_PIECE_BYTES};

/// Pieces that may be under way in one direction.
const PIECES_MAX: usize = 4096;
/// Longest that the way back stays open after the way there was closed.
const LINGER: Duration = Duration::from_secs(5);
/// Timers tick in milliseconds and are late: waking this much before keeps the middle right.
const TIMERS_LATE: Duration = Duration::from_micros(700);

const _: () = assert!(DISTANT_PIECE_BYTES <= DISTANT_BYTES_MAX);

/// Why there are no distances.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DistanceError {
    /// The file cannot be read, or is too large.
    #[error("cannot read the distances: {0}")]
    Read(#[from] io::Error),
    /// The file is not as it should be.
    #[error("the distances are not as they should be: {0}")]
    Malformed(String),
    /// A round trip above the longest one.
    #[error("round trip to {data_center}: {micros} us, at most {}", DISTANCE_MAX.as_micros())]
    TooFar {
        /// Where to.
        data_center: DataCenterId,
        /// In microseconds.
        micros: u32,
    },
    /// More data centres or addresses than there may be.
    #[error("more than {DISTANCES_MAX} data centres or addresses")]
    TooMany,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Round trips from here, in microseconds.
    #[serde(default)]
    round_trip_us: BTreeMap<DataCenterId, u32>,
    /// Which data centre stands at an address (`host:port`).
    #[serde(default)]
    addresses: HashMap<String, DataCenterId>,
}

impl Table {
    fn check(&self) -> Result<(), DistanceError> {
        if self.round_trip_us.len() > DISTANCES_MAX || self.addresses.len() > DISTANCES_MAX {
            return Err(DistanceError::TooMany);
        }
        match self.round_trip_us.iter().find(|(_, micros)| Duration::from_micros(u64::from(**micros)) > DISTANCE_MAX) {
            Some((data_center, micros)) => {
                Err(DistanceError::TooFar { data_center: data_center.clone(), micros: *micros })
            }
            None => Ok(()),
        }
    }
}

/// How far what stands at an address is. The own data centre has no entry.
#[derive(Debug, Default)]
pub struct Distances {
    table: RwLock<Table>,
}

impl Distances {
    /// Reads a TOML file: `[round_trip_us]` by data centre, `[addresses]` with a data centre for each `host:port`.
    ///
    /// # Errors
    /// [`DistanceError`].
    pub fn load(path: &Path) -> Result<Self, DistanceError> {
        let bytes = file::read_bounded(path, DISTANCE_FILE_BYTES_MAX)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| DistanceError::Malformed(error.to_string()))?;
        let table: Table = toml::from_str(text).map_err(|error| DistanceError::Malformed(error.to_string()))?;
        table.check()?;
        Ok(Self { table: RwLock::new(table) })
    }

    /// Sets the round trip to a data centre, in microseconds; open connections follow.
    ///
    /// # Errors
    /// [`DistanceError::TooFar`], [`DistanceError::TooMany`].
    pub fn set(&self, data_center: DataCenterId, micros: u32) -> Result<(), DistanceError> {
        if Duration::from_micros(u64::from(micros)) > DISTANCE_MAX {
            return Err(DistanceError::TooFar { data_center, micros });
        }
        let mut table = self.table.write();
        if table.round_trip_us.len() >= DISTANCES_MAX && !table.round_trip_us.contains_key(&data_center) {
            return Err(DistanceError::TooMany);
        }
        table.round_trip_us.insert(data_center, micros);
        Ok(())
    }

    /// Says which data centre stands at an address (`host:port`).
    ///
    /// # Errors
    /// [`DistanceError::TooMany`].
    pub fn place(&self, address: &str, data_center: DataCenterId) -> Result<(), DistanceError> {
        let mut table = self.table.write();
        if table.addresses.len() >= DISTANCES_MAX && !table.addresses.contains_key(address) {
            return Err(DistanceError::TooMany);
        }
        table.addresses.insert(address.to_owned(), data_center);
        Ok(())
    }

    /// Half of the round trip to what stands at an address.
    pub fn one_way(&self, address: &str) -> Duration {
        let table = self.table.read();
        let micros = table.addresses.get(address).and_then(|data_center| table.round_trip_us.get(data_center));
        Duration::from_micros(micros.copied().unwrap_or(0).into()) / 2
    }
}

/// Dials through distance; listens without.
pub struct DistantNet {
    inner: Arc<dyn Net>,
    distances: Arc<Distances>,
    clock: Arc<dyn Clock>,
}

impl DistantNet {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Net>, distances: Arc<Distances>, clock: Arc<dyn Clock>) -> Self {
        Self { inner, distances, clock }
    }
}

impl Net for DistantNet {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxIo>> {
        Box::pin(async move {
            let stream = self.inner.dial(address).await?;
            // The handshake of TCP is a round trip, too.
            tokio::time::sleep(self.distances.one_way(address) * 2).await;
            let (near, far) = tokio::io::duplex(DISTANT_PIECE_BYTES);
            let way = Way {
                address: address.to_owned(),
                distances: self.distances.clone(),
                clock: self.clock.clone(),
                room: Arc::new(Semaphore::new(DISTANT_BYTES_MAX)),
            };
            let back = Way { room: Arc::new(Semaphore::new(DISTANT_BYTES_MAX)), ..way.clone() };
            let ((far_in, far_out), (stream_in, stream_out)) = (tokio::io::split(far), tokio::io::split(stream));
            tokio::spawn(async move {
                let mut back = pin!(back.carry(stream_in, far_out));
                tokio::select! {
                    // The other side may still have something to say to one that says no more.
                    () = way.carry(far_in, stream_out) => drop(tokio::time::timeout(LINGER, back).await),
                    () = &mut back => {}
                }
            });
            Ok(Box::new(near) as BoxIo)
        })
    }

    fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        self.inner.listen(address)
    }
}

/// One direction of a connection.
#[derive(Clone)]
struct Way {
    address: String,
    distances: Arc<Distances>,
    clock: Arc<dyn Clock>,
    room: Arc<Semaphore>,
}

/// What is under way, with its place in the room.
struct Piece {
    due: Instant,
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl Way {
    /// Carries everything from one side to the other until its end.
    async fn carry(self, from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin) {
        let (pieces, arriving) = mpsc::channel(PIECES_MAX);
        tokio::join!(self.take(from, pieces), deliver(arriving, to));
    }

    async fn take(&self, mut from: impl AsyncRead + Unpin, pieces: mpsc::Sender<Piece>) {
        let mut buffer = vec![0; DISTANT_PIECE_BYTES];
        let mut last = self.clock.now();
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            // A piece is smaller than 4 GiB, and the semaphore is never closed.
            let count_u32 = u32::try_from(count).unwrap_or(u32::MAX);
            let Ok(room) = self.room.clone().acquire_many_owned(count_u32).await else { return };
            // Never before what went before it, even if the way became shorter.
            last = last.max(self.clock.now() + self.distances.one_way(&self.address));
            let piece = Piece { due: last, bytes: buffer[..count].to_vec(), _room: room };
            if pieces.send(piece).await.is_err() {
                return;
            }
        }
    }
}

async fn deliver(mut arriving: mpsc::Receiver<Piece>, mut to: impl AsyncWrite + Unpin) {
    while let Some(piece) = arriving.recv().await {
        tokio::time::sleep_until(piece.due.checked_sub(TIMERS_LATE).unwrap_or(piece.due)).await;
        if to.write_all(&piece.bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use cinnabar_daemon::env::{SystemClock, SystemNet};

    use super::*;

    fn dc(name: &str) -> DataCenterId {
        name.parse().unwrap()
    }

    /// An echo, dialled through distance.
    async fn echo(distances: &Arc<Distances>) -> (String, BoxIo) {
        let listener = SystemNet.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        distances.place(&address, dc("iad")).unwrap();
        let net = DistantNet::new(Arc::new(SystemNet), distances.clone(), Arc::new(SystemClock));
        let stream = net.dial(&address).await.unwrap();
        (address, stream)
    }

    async fn round_trip(stream: &mut BoxIo) -> Duration {
        let start = SystemClock.now();
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        SystemClock.now() - start
    }

    #[tokio::test]
    async fn a_round_trip_takes_its_time_and_follows_the_table() {
        let distances = Arc::new(Distances::default());
        let (_, mut stream) = echo(&distances).await;
        assert!(round_trip(&mut stream).await < Duration::from_millis(100), "no entry, no delay");
        distances.set(dc("iad"), 300_000).unwrap();
        assert!(round_trip(&mut stream).await >= Duration::from_millis(295));
        distances.set(dc("iad"), 0).unwrap();
        assert!(round_trip(&mut stream).await < Duration::from_millis(250));
    }

    #[tokio::test]
    async fn everything_arrives_in_order_while_the_distance_changes() {
        let distances = Arc::new(Distances::default());
        distances.set(dc("iad"), 20_000).unwrap();
        let (_, stream) = echo(&distances).await;
        let (mut read, mut write) = tokio::io::split(stream);
        let sent: Vec<u8> = (0..3 * DISTANT_BYTES_MAX / 2).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            for (n, piece) in sent.chunks(100_000).enumerate() {
                distances.set(dc("iad"), if n % 2 == 0 { 1_000 } else { 20_000 }).unwrap();
                write.write_all(piece).await.unwrap();
            }
            write.shutdown().await.unwrap();
        });
        let mut received = vec![0; expected.len()];
        read.read_exact(&mut received).await.unwrap();
        writing.await.unwrap();
        assert!(received == expected);
    }

    #[test]
    fn a_file_is_read_whole_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("distances.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Distances::load(&path)
        };
        let good = "[round_trip_us]\niad = 90000\n[addresses]\n\"127.0.0.1:7001\" = \"iad\"\n";
        let distances = load(good).unwrap();
        assert_eq!(distances.one_way("127.0.0.1:7001"), Duration::from_millis(45));
        assert_eq!(distances.one_way("127.0.0.1:7002"), Duration::ZERO);
        assert!(distances.set(dc("iad"), 2_000_000).is_ok() && distances.set(dc("iad"), 2_000_001).is_err());
        for bad in ["[round_trip_us]\niad = 2000001\n", "[round_trip_us]\nIAD = 1\n", "[roundtrip]\n", "x", "\u{0}"] {
            assert!(load(bad).is_err(), "{bad}");
        }
    }
}
