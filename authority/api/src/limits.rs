//! Every bound of the contract; units last. The relations between them are asserted at the end.

use cinnabar_abe::limits::{CIPHERTEXT_BYTES_MAX, NAME_BYTES_MAX, SECRET_BYTES_MAX};
use cinnabar_abe::signature::SIGNATURE_BYTES;

/// Bytes of a record with its key: what the store takes.
pub const RECORD_BYTES_MAX: usize = 64 * 1024 - 1;
/// Bytes of a store key.
pub const KEY_BYTES_MAX: usize = 512;
/// Bytes of what names of ours are made of: zone, machine, secret.
pub const ID_BYTES_MAX: usize = 63;
/// Bytes of a data centre's name, which is a word of the policy language.
pub const DATA_CENTER_BYTES_MAX: usize = 32;
/// Bytes of a certificate id: 16 random bytes in hexadecimal.
pub const CERT_ID_BYTES: usize = 32;
/// Bytes of a hostname, RFC 1035 section 3.1 without the last dot.
pub const HOSTNAME_BYTES_MAX: usize = 253;
/// Bytes of one label of a hostname.
pub const HOST_LABEL_BYTES_MAX: usize = 63;
/// Domain names of one zone.
pub const ZONE_DOMAINS_MAX: usize = 64;
/// Labels of a schema, the fixed ones counted.
pub const SCHEMA_LABELS_MAX: usize = 64;
/// Members of one set, or values of one listed label.
pub const SCHEMA_MEMBERS_MAX: usize = 64;
/// Attributes of one machine once sets are labels: a key holds about 300 bytes of each.
pub const ATTRIBUTES_MAX: usize = 256;
/// Bytes of a label, member or value.
pub const WORD_BYTES_MAX: usize = 63;
/// Bytes of a policy text that a customer gives.
pub const POLICY_TEXT_BYTES_MAX: usize = 4 * 1024;
/// Live generations of the system: the active one, and one that is prepared or retiring.
pub const LIVE_GENERATIONS_MAX: usize = 2;
/// Certificates in a chain, the leaf counted.
pub const CHAIN_CERTIFICATES_MAX: usize = 8;
/// Bytes of all certificates of a chain.
pub const CHAIN_BYTES_MAX: usize = 24 * 1024;
/// Hostnames of one certificate.
pub const CERT_HOSTNAMES_MAX: usize = 100;
/// Certificates that serve one hostname: one for each key type.
pub const SNI_CERTS_MAX: usize = 4;
/// Bytes of an address, `host:port`.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Bytes of the reason of a revocation.
pub const REASON_BYTES_MAX: usize = 512;

const _: () = assert!(ID_BYTES_MAX <= NAME_BYTES_MAX && HOSTNAME_BYTES_MAX + 16 < KEY_BYTES_MAX);
// One ABE ciphertext, or a chain with its key and all its names, fits into a record.
const _: () = assert!(CIPHERTEXT_BYTES_MAX + KEY_BYTES_MAX + SIGNATURE_BYTES + 1024 < RECORD_BYTES_MAX);
const _: () = assert!(
    CHAIN_BYTES_MAX + SECRET_BYTES_MAX / 2 + CERT_HOSTNAMES_MAX * (HOSTNAME_BYTES_MAX / 2) + 4096 < RECORD_BYTES_MAX
);
const _: () = assert!(2 * POLICY_TEXT_BYTES_MAX + 4096 < RECORD_BYTES_MAX);
