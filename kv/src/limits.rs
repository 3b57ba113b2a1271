//! Every bound of this crate that is not part of the contract; units last. Relations are asserted at the end.

use cinnabar_kv_api::limits::{FRAME_BYTES_MAX, FRAME_BYTES_TARGET, PAYLOAD_BYTES_MAX};

/// Bytes after which a log segment is closed and the next one begun.
pub const SEGMENT_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes of newest entries that the log keeps in memory, so that replication seldom reads the disk.
pub const LOG_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Entries between two places of the log's index in memory.
pub const LOG_INDEX_EVERY: u64 = 64;
/// Jobs waiting for the log's thread.
pub const LOG_JOBS_MAX: usize = 8192;
/// Bytes of log entries that are kept below the applied index for replicas that fall behind.
pub const LOG_KEEP_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;
/// Part of the live bytes beyond which no log is kept, whatever is configured: it would be half of what a node's folder
/// holds, for those whom a snapshot helps nearly as soon.
pub const LOG_KEEP_PART: u64 = 4;
/// Bytes of log that are kept however few the live bytes are, unless fewer are configured.
pub const LOG_KEEP_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Time between two looks at what may be purged, in milliseconds.
pub const PURGE_EVERY_MS: u64 = 1_000;

/// Entries applied as one range, with one state hash and one batch in the store.
pub const RANGE_ENTRIES_MAX: usize = 256;
/// Bytes of one stored piece of a value: 16 items share a page of sled, some more after two were merged, and a page is
/// best kept under the 256 KiB that fit into its log.
pub const PIECE_BYTES: usize = 6 * 1024;
/// Bytes of a value that is stored beside its key.
pub const INLINE_BYTES_MAX: usize = 4 * 1024;
/// Bytes of records in memory that are applied but not yet in the engine; more make `apply` wait.
pub const PENDING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Records that one engine batch may hold unless one range alone has more; readers that miss the cache wait for it.
pub const BATCH_RECORDS: usize = 512;
/// Bytes of keys and values likewise. sled's file grows with the size of its batches: in batches of 128 KiB it takes some
/// twice the live bytes, of 512 KiB nearly four times.
pub const BATCH_BYTES: usize = 128 * 1024;
/// Time for which applied ranges are gathered into one engine batch, in milliseconds.
pub const GATHER_MS: u64 = 50;
/// Bytes of the read cache.
pub const CACHE_BYTES_DEFAULT: u64 = 512 * 1024 * 1024;
/// Bytes that the engine may keep in memory.
pub const ENGINE_CACHE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// Items of an engine batch for each round of freeing what the engine replaced, after it. A round frees up to 512
/// objects; an item is thought to leave some four.
pub const ENGINE_ITEMS_PER_ROUND: usize = 64;
/// Time between two flushes of the state to the disk, in milliseconds.
pub const FLUSH_EVERY_MS: u64 = 1_000;

/// Bytes of changes kept for watches.
pub const CHANGES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Watches at once on one node.
pub const WATCHES_MAX: usize = 4096;
/// Time between two progress ticks of a watch, and longest time between two frames or heartbeats of a feed, in
/// milliseconds.
pub const TICK_MS: u64 = 1_000;

/// Scans of several pages open at once.
pub const SCANS_MAX: usize = 64;
/// Time between two pages of a scan, in milliseconds.
pub const SCAN_IDLE_MS_MAX: u64 = 10_000;
/// Bytes of overwritten records kept for open scans; more ends the oldest scan.
pub const SCAN_UNDO_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of frames kept for downstreams that are close to the tip.
pub const FEED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Downstreams of one node.
pub const DOWNSTREAMS_MAX: usize = 2048;
/// Shortest time between two frames, in milliseconds.
pub const FRAME_GAP_MS_MIN: u64 = 1;
/// Longest time between two frames while entries wait, in milliseconds.
pub const FRAME_GAP_MS_MAX: u64 = 500;
/// Downstreams for which that time stays the shortest.
pub const DOWNSTREAMS_AT_ONCE: u64 = 8;
/// Downstreams beyond those that lengthen it by a millisecond: each receives a frame of its own, so that the frames a
/// node sends in a second stay about this many thousands.
pub const DOWNSTREAMS_PER_GAP_MS: u64 = 2;
/// Bytes of log between two remembered milestones.
pub const MILESTONE_BYTES: u64 = 64 * 1024;

/// An upstream further behind than this is left, in milliseconds.
pub const UPSTREAM_BEHIND_MS_MAX: u64 = 30_000;
/// Silence after which an upstream is left, in milliseconds. A frame or a heartbeat comes each [`TICK_MS`].
pub const UPSTREAM_SILENT_MS_MAX: u64 = 3_000;
/// Upstreams in one list.
pub const UPSTREAMS_MAX: usize = 16;
/// Age of the newest checkpoint beyond which a node says that it is cut off, in milliseconds.
pub const STALE_MS: u64 = 5 * 60 * 1000;

/// Snapshot files served at once.
pub const SNAPSHOT_FILES_MAX: usize = 2;
/// Time for which a finished snapshot file is given to others before a newer one is made, in milliseconds.
pub const SNAPSHOT_REUSE_MS: u64 = 60_000;
/// Time after which a finished snapshot file that nobody asked for is removed, in milliseconds; a fetch that was cut
/// for longer begins anew.
pub const SNAPSHOT_IDLE_MS_MAX: u64 = 2 * 60 * 1000;
/// Bytes of the buffers through which snapshot files are written and read.
pub const SNAPSHOT_BUFFER_BYTES: usize = 256 * 1024;
/// Bytes of records gathered into one engine batch while a snapshot is imported.
pub const IMPORT_BATCH_BYTES: usize = 128 * 1024;
/// Bytes of records after which an import waits for the disk: what the engine still has to write waits in memory.
pub const IMPORT_SYNC_BYTES: usize = 1024 * 1024;
/// Bytes of pages that the engine keeps in memory while a snapshot is imported: records come in the order of their keys,
/// and none is looked at again. It is opened anew for serving.
pub const IMPORT_ENGINE_CACHE_BYTES: u64 = 1024 * 1024;
/// Memory that an install may take beyond what the process had before; `tests/memory.rs` holds it for 230 MiB of records of
/// 1 KiB, `STATE_MIB=1024` for 1 GiB. The index of the engine's pages grows with the number of records, and is in it.
pub const INSTALL_MEMORY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of a snapshot's header.
pub const SNAPSHOT_HEADER_BYTES_MAX: usize = 256 * 1024;

/// Writes that wait for an answer on one voter.
pub const WRITES_IN_FLIGHT_MAX: usize = 4096;
/// Longest wait of a write for the quorum, in milliseconds.
pub const WRITE_WAIT_MS_MAX: u64 = 10_000;
/// Free bytes on the log's disk below which writes are refused.
pub const DISK_RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of entries in one append request between voters.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one message between voters: an append request, or a membership.
pub const RAFT_MESSAGE_BYTES_MAX: usize = APPEND_BYTES_MAX + PAYLOAD_BYTES_MAX + 64 * 1024;

const _: () = assert!(FRAME_BYTES_TARGET <= FEED_BYTES_MAX && FRAME_BYTES_MAX <= FEED_BYTES_MAX);
const _: () = assert!(PIECE_BYTES * 24 + 24 * 600 < 256 * 1024);
const _: () = assert!(FRAME_GAP_MS_MAX < TICK_MS && TICK_MS < UPSTREAM_SILENT_MS_MAX);
const _: () = assert!(MILESTONE_BYTES < FRAME_BYTES_TARGET as u64);
