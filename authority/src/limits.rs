//! Every bound of the authority, by name, with its unit last.

use cinnabar_abe::limits::SECRET_BYTES_MAX;

// === Names ===

/// Most bytes of a hostname as somebody typed it, before it is made ASCII.
pub const HOSTNAME_INPUT_BYTES_MAX: usize = 1024;
// What the records bound, uploads are held to.
pub use cinnabar_authority_api::limits::{
    CERT_HOSTNAMES_MAX as HOSTNAMES_MAX, CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX,
    HOST_LABEL_BYTES_MAX as HOSTNAME_LABEL_BYTES_MAX, HOSTNAME_BYTES_MAX,
};

// === Uploads ===

/// Most bytes of the PEM text of a chain, and of the PEM text of a private key.
pub const PEM_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a PEM label; the longest that means anything here has 21.
pub const PEM_LABEL_BYTES_MAX: usize = 40;
/// Most bytes of a private key as PKCS #8 DER; one of RSA-8192 has about 4,700.
pub const PRIVATE_KEY_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of the issuer's name that is shown.
pub const ISSUER_BYTES_MAX: usize = 256;
/// How far in the future a validity may begin, in seconds: the clock of an issuer may be ahead of ours.
pub const NOT_BEFORE_SKEW_S: u64 = 5 * 60;
/// Least bits of an RSA key.
pub const RSA_BITS_MIN: usize = 2048;
/// Most bits of an RSA key.
pub const RSA_BITS_MAX: usize = 8192;
/// Least public exponent of an RSA key (FIPS 186-5 section A.1.1).
pub const RSA_EXPONENT_MIN: u64 = 65_537;
/// Most bits of the public exponent of an RSA key: what the signing library takes.
pub const RSA_EXPONENT_BITS_MAX: u32 = 33;

// A certificate's record, with every part at its largest, stays under the 64 KiB that the store takes, with 4 KiB left
// for its other fields.
const _: () =
    assert!(CHAIN_BYTES_MAX + HOSTNAMES_MAX * (HOSTNAME_BYTES_MAX + 2) + PRIVATE_KEY_BYTES_MAX < (64 - 4) * 1024);
const _: () = assert!(PRIVATE_KEY_BYTES_MAX <= SECRET_BYTES_MAX);
// The contract of records does not see the store's; here both are seen.
const _: () = assert!(
    cinnabar_authority_api::limits::RECORD_BYTES_MAX == cinnabar_kv_api::limits::RECORD_BYTES_MAX
        && cinnabar_authority_api::limits::KEY_BYTES_MAX == cinnabar_kv_api::limits::KEY_BYTES_MAX
);
// Base64 takes four bytes for three: a chain at its largest fits in its PEM text with room for comments.
const _: () = assert!(CHAIN_BYTES_MAX / 3 * 4 < PEM_BYTES_MAX);

// === Requests ===

/// Most fields of one JSON object in a request.
pub const JSON_FIELDS_MAX: usize = 32;
/// Most characters of a word of the request that an error repeats.
pub const ECHO_CHARS_MAX: usize = 80;
/// Most bytes of a request's body: a chain and a key as PEM, their line ends escaped, and what goes with them.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Bodies that are read or worked on at once; with [`BODY_BYTES_MAX`] it bounds their memory to 64 MiB.
pub const BODIES_MAX: usize = 256;
/// The same for callers whom we do not know, apart.
pub const STRANGERS_MAX: usize = 32;
/// Longest that a body may take to arrive, in seconds.
pub const BODY_TIMEOUT_S: u64 = 30;
/// Most bytes of a body that are taken in and thrown away so that its refusal is seen; a longer one loses its connection.
pub const BODY_DISCARDED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Longest that this may take, in seconds.
pub const BODY_DISCARD_TIMEOUT_S: u64 = 5;
/// Most bytes of a request's path and query.
pub const TARGET_BYTES_MAX: usize = 1024;
/// Pages read from the store at once for one list.
pub const LIST_READS_MAX: usize = 8;
/// Policy checks a minute for one zone.
pub const CHECKS_PER_MINUTE: u32 = 600;
/// Failed authentications a minute from one source, a /64 of IPv6.
pub const FAILURES_PER_MINUTE: u32 = 30;
/// Sources whose failures are counted apart; all others share one count.
pub const SOURCES_MAX: usize = 65_536;

const _: () = assert!(BODY_BYTES_MAX >= 2 * PEM_BYTES_MAX + PEM_BYTES_MAX / 16 + 16 * 1024);

// === Zones ===

/// Fewest data centres that should hold a key, where a zone does not say.
pub const DATA_CENTERS_MIN_DEFAULT: u16 = 3;
/// Certificates and secrets of a zone, where the operator does not say; and the most it may say.
pub const ZONE_KEYS_DEFAULT: u32 = 1_000;
/// See there.
pub const ZONE_KEYS_MAX: u32 = 100_000;
/// Changes a minute, where the operator does not say; and the most it may say.
pub const ZONE_CHANGES_DEFAULT: u32 = 120;
/// See there.
pub const ZONE_CHANGES_MAX: u32 = 100_000;
/// Most tokens of a zone; removing it ends them all in one change.
pub const ZONE_TOKENS_MAX: usize = 64;
/// Most operators' tokens.
pub const OPERATOR_TOKENS_MAX: usize = 64;
/// Longest life of a token that ends, in seconds: ten years.
pub const TOKEN_LIFE_S_MAX: u64 = 10 * 366 * 24 * 3600;

// === Connections ===

/// Customers' connections that may be open at once, handshakes included.
pub const CUSTOMER_CONNECTIONS_MAX: usize = 1024;
/// Requests of one connection at once.
pub const STREAMS_MAX: u32 = 32;
/// Most bytes of a request's headers.
pub const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Longest that a request's headers may take, in seconds; also how long a connection may be idle between two (HTTP/1.1).
pub const HEADER_TIMEOUT_S: u64 = 10;
/// Longest life of a customer's connection, in seconds; then it is asked to end, which idle ones do at once.
pub const CONNECTION_LIFE_S_MAX: u64 = 300;
/// Longest that a connection which was asked to end may go on, in seconds.
pub const CONNECTION_END_S_MAX: u64 = 15;

/// Certificates on one page of a list, when the request does not say.
pub const PAGE_LEN_DEFAULT: u32 = 20;
/// Most certificates on one page of a list.
pub const PAGE_LEN_MAX: u32 = 50;
