//! Every bound of the contract; units last.

use std::time::Duration;

/// Largest message, in bytes: a certificate chain of each kind of key, with room.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of an input that is hashed before it is signed.
pub const INPUT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a SHA-256.
pub const SPKI_SHA256_BYTES: usize = 32;
/// Bytes of a `traceparent`, W3C Trace Context section 3.2.
pub const TRACEPARENT_BYTES: usize = 55;
/// Longest budget that a request may bring.
pub const BUDGET_MAX: Duration = Duration::from_secs(30);
/// Budget of a request that brings none.
pub const BUDGET_DEFAULT: Duration = Duration::from_secs(3);
/// Requests of one stream that may be open.
pub const STREAM_OPEN_MAX: usize = 4096;
/// Longest simulated round trip.
pub const DISTANCE_MAX: Duration = Duration::from_secs(2);

const _: () = assert!(INPUT_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(BUDGET_DEFAULT.as_millis() < BUDGET_MAX.as_millis());
