//! Every bound of the contract; units last. The relations between them are asserted at the end.

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 512;
/// Bytes of a key and its value together.
pub const RECORD_BYTES_MAX: usize = 64 * 1024 - 1;
/// Bytes of all keys and values of one write.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Operations of one write.
pub const BATCH_OPS_MAX: usize = 1024;
/// Conditions of one write.
pub const BATCH_CONDITIONS_MAX: usize = 1024;
/// Bytes of one encoded command: a full batch, its conditions and what frames them.
pub const COMMAND_BYTES_MAX: usize = BATCH_BYTES_MAX + (BATCH_OPS_MAX + BATCH_CONDITIONS_MAX) * 64 + 1024 * 1024 / 2;
/// Bytes of one log entry's payload: a command, or a membership of a few nodes.
pub const PAYLOAD_BYTES_MAX: usize = COMMAND_BYTES_MAX + 1;
/// Bytes of entries in one frame; one entry alone may be larger.
pub const FRAME_BYTES_TARGET: usize = 128 * 1024;
/// Entries in one frame.
pub const FRAME_ENTRIES_MAX: usize = 4096;
/// Bytes of one encoded frame.
pub const FRAME_BYTES_MAX: usize = FRAME_BYTES_TARGET + PAYLOAD_BYTES_MAX + FRAME_ENTRIES_MAX * 16 + 16 * 1024;
/// Bytes of a certificate inside a checkpoint.
pub const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a signature inside a checkpoint.
pub const SIGNATURE_BYTES_MAX: usize = 1024;
/// Bytes of one gRPC message, sent or received.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one snapshot chunk.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;
/// Records on one page of a scan.
pub const SCAN_RECORDS_MAX: u32 = 1000;
/// Bytes of keys and values on one page of a scan.
pub const SCAN_BYTES_MAX: usize = 1024 * 1024;
/// Longest wait for `at_least`, and the one when the caller names none, in milliseconds.
pub const AT_LEAST_WAIT_MS_MAX: u32 = 30_000;
/// See [`AT_LEAST_WAIT_MS_MAX`].
pub const AT_LEAST_WAIT_MS_DEFAULT: u32 = 1_000;
/// Clients whose last writes are remembered; the one that wrote longest ago goes first.
pub const SESSIONS_MAX: usize = 10_000;
/// Answers remembered for one client.
pub const SESSION_ANSWERS_MAX: usize = 256;
/// Prefix under which operators may write.
pub const OPERATOR_PREFIX: &[u8] = b"operator/";
/// Furthest that a checkpoint's time may be ahead of its reader's clock, in milliseconds.
pub const CHECKPOINT_AHEAD_MS_MAX: u64 = 60_000;
/// Most voters of a cluster.
pub const VOTERS_MAX: usize = 5;
/// Bytes of an address, `host:port`.
pub const ADDRESS_BYTES_MAX: usize = 256;

const _: () = assert!(KEY_BYTES_MAX < RECORD_BYTES_MAX && RECORD_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX > BATCH_BYTES_MAX + BATCH_CONDITIONS_MAX * (KEY_BYTES_MAX + 16));
const _: () = assert!(FRAME_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () =
    assert!(SNAPSHOT_CHUNK_BYTES < MESSAGE_BYTES_MAX && SCAN_BYTES_MAX + RECORD_BYTES_MAX < MESSAGE_BYTES_MAX);
