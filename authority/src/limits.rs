//! Every bound of the authority, by name, with its unit last.

use cinnabar_abe::limits::SECRET_BYTES_MAX;

// === Names ===

/// Most bytes of a hostname as somebody typed it, before it is made ASCII.
pub const HOSTNAME_INPUT_BYTES_MAX: usize = 1024;
/// Most bytes of a hostname in its stored form (RFC 1035 section 2.3.4, without the root's dot).
pub const HOSTNAME_BYTES_MAX: usize = 253;
/// Most bytes of one label of a hostname.
pub const HOSTNAME_LABEL_BYTES_MAX: usize = 63;
/// Most hostnames of one certificate.
pub const HOSTNAMES_MAX: usize = 100;

// === Uploads ===

/// Most bytes of the PEM text of a chain, and of the PEM text of a private key.
pub const PEM_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a PEM label; the longest that means anything here has 21.
pub const PEM_LABEL_BYTES_MAX: usize = 40;
/// Most certificates of one chain, the leaf counted.
pub const CHAIN_CERTIFICATES_MAX: usize = 8;
/// Most bytes of all certificates of a chain as DER.
pub const CHAIN_BYTES_MAX: usize = 24 * 1024;
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
// Base64 takes four bytes for three: a chain at its largest fits in its PEM text with room for comments.
const _: () = assert!(CHAIN_BYTES_MAX / 3 * 4 < PEM_BYTES_MAX);

// === Requests ===

/// Most fields of one JSON object in a request.
pub const JSON_FIELDS_MAX: usize = 32;
/// Most characters of a word of the request that an error repeats.
pub const ECHO_CHARS_MAX: usize = 80;
/// Certificates on one page of a list, when the request does not say.
pub const PAGE_LEN_DEFAULT: u32 = 20;
/// Most certificates on one page of a list.
pub const PAGE_LEN_MAX: u32 = 50;
