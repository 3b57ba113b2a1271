//! Every bound of the terminator, by name; units last. What an operator may set is in [`crate::config`], its defaults
//! are here.

use std::time::Duration;

use cinnabar_edge_api::limits::{BUDGET_MAX, STREAM_OPEN_MAX};

/// Addresses that one process listens on.
pub const LISTEN_MAX: usize = 16;
/// Protocols that are offered, RFC 7301.
pub const ALPN_MAX: usize = 8;
/// Bytes of a protocol's name, RFC 7301 section 3.1.
pub const ALPN_BYTES_MAX: usize = 255;
/// Bytes of a server name, RFC 1035 section 2.3.4.
pub const NAME_BYTES_MAX: usize = 253;

/// Longest handshake unless set otherwise, from the accepted connection to its last message.
pub const HANDSHAKE_TIME_MS: u64 = 10_000;
/// Least that it may be set to.
pub const HANDSHAKE_TIME_MS_MIN: u64 = 100;
/// Handshakes under way at once, unless set otherwise.
pub const HANDSHAKES: usize = 2048;
/// Connections open at once, handshakes included, unless set otherwise.
pub const CONNECTIONS: usize = 16_384;
/// Connections that wait out the delay after a suspicious error, unless set otherwise; one more is cut at once.
pub const BLINDED: usize = 1024;
/// Longest such delay; it is drawn from a third of it up to it.
pub const BLINDING_SECONDS_MAX: u32 = 30;
/// Longest silence in both directions of an open connection, unless set otherwise.
pub const IDLE_TIME_MS: u64 = 120_000;
/// Least that it may be set to.
pub const IDLE_TIME_MS_MIN: u64 = 100;
/// Server names whose configuration is kept, unless set otherwise.
pub const NAMES: usize = 10_000;
/// Most of any of these numbers.
pub const COUNT_MAX: usize = 1_000_000;
/// How long a ticket key makes tickets unless set otherwise; it reads them as long again.
pub const TICKET_KEY_LIFE_MS: u64 = 3_600_000;
/// Least and most that it may be set to.
pub const TICKET_KEY_LIFE_MS_MIN: u64 = 10_000;
/// Most: RFC 8446 section 4.6.1 ends a ticket after seven days.
pub const TICKET_KEY_LIFE_MS_MAX: u64 = 3 * 24 * 3_600_000;

/// Certificates of one name: one of each kind of key.
pub const CERTIFICATES_MAX: usize = 2;
/// Certificates of a chain.
pub const CHAIN_MAX: usize = 10;
/// Bytes of a digest.
pub const DIGEST_BYTES_MAX: usize = 64;

/// Longest wait for the fatal alert, and for the end of a connection that is over, to leave.
pub const FAREWELL: Duration = Duration::from_secs(2);
/// Silence that ends a connection once a shutdown has begun.
pub const SHUTDOWN_IDLE: Duration = Duration::from_secs(1);
/// How often the edge node is asked how it is.
pub const STATUS_EVERY: Duration = Duration::from_secs(2);
/// Pause after a failed accept: out of file descriptors does not pass at once.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of each direction's buffer.
pub const COPY_BYTES: usize = 16 * 1024;
/// Bytes of a PROXY header, its fixed part and its TLVs.
pub const PROXY_BYTES_MAX: usize = 1024;
/// Bytes of a request's head that the demo's responder reads.
pub const DEMO_HEAD_BYTES_MAX: usize = 8 * 1024;
/// At most one log line about failed handshakes in this time; the counters see all of them.
pub const LOG_EVERY: Duration = Duration::from_secs(1);

const _: () = assert!(HANDSHAKES <= CONNECTIONS);
const _: () = assert!(HANDSHAKES <= STREAM_OPEN_MAX, "every handshake may wait for a signature");
const _: () = assert!(HANDSHAKE_TIME_MS <= BUDGET_MAX.as_millis() as u64);
