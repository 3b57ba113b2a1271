//! Every bound of the Redis endpoint; units last. Their relations are asserted at the end.

use cinnabar_kv_api::limits::{KEY_BYTES_MAX, RECORD_BYTES_MAX, SCAN_RECORDS_MAX};

/// Arguments of one command, its name among them.
pub const ARGS_MAX: usize = 1024;
/// Bytes of one argument.
pub const ARG_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one command as it is sent.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one inline command.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Digits of a number that says how many arguments or bytes follow.
pub const DIGITS_MAX: usize = 10;
/// Bytes of answers that wait for a client to take them; while there are more, nothing is read from it. One answer,
/// at most a page of keys or one record, may exceed it.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Time for which a client may take none of its answers before it is cut, in milliseconds.
pub const STALL_MS_MAX: u64 = 60_000;
/// Bytes that one read asks for.
pub const READ_BYTES: usize = 16 * 1024;
/// Bytes of a buffer that an idle connection keeps.
pub const KEEP_BYTES_MAX: usize = 64 * 1024;
/// Connections at once.
pub const CONNECTIONS_MAX: usize = 1024;
/// Longest wait of `CINNABAR.GET .. ATLEAST`, in milliseconds.
pub const AT_LEAST_WAIT_MS: u64 = 1_000;
/// Keys looked at by one `SCAN`, whatever its COUNT.
pub const SCAN_KEYS_MAX: usize = SCAN_RECORDS_MAX as usize;
/// Keys looked at by one `SCAN` without COUNT. More than Redis's 10, because a page has a fixed cost here.
pub const SCAN_KEYS_DEFAULT: usize = 100;
/// Bytes of a pattern: a key of the longest kind with every byte escaped.
pub const PATTERN_BYTES_MAX: usize = 2 * KEY_BYTES_MAX;
/// Scan cursors that are remembered; beyond, the oldest is forgotten.
pub const CURSORS_MAX: usize = 4096;
/// Time for which a cursor is remembered, in milliseconds.
pub const CURSOR_MS_MAX: u64 = 5 * 60 * 1000;
/// Bytes of a connection's name, and of its library's name and version.
pub const NAME_BYTES_MAX: usize = 128;
/// Bytes of a client's words that an error repeats, before they are escaped.
pub const QUOTED_BYTES_MAX: usize = 128;
/// Of so many reads, one is timed: two looks at a clock cost about as much as a read.
pub const TIMED_READ_EVERY: u64 = 16;
/// Keys that `MGET` reads before it lets other tasks run.
pub const KEYS_PER_TURN: usize = 128;

const _: () = assert!(ARG_BYTES_MAX < COMMAND_BYTES_MAX && INLINE_BYTES_MAX <= COMMAND_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX <= ARG_BYTES_MAX && PATTERN_BYTES_MAX <= ARG_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_MAX <= OUTPUT_BYTES_MAX && SCAN_KEYS_MAX * (KEY_BYTES_MAX + 8) <= OUTPUT_BYTES_MAX);
const _: () = assert!(SCAN_KEYS_DEFAULT <= SCAN_KEYS_MAX && COMMAND_BYTES_MAX <= u32::MAX as usize);
