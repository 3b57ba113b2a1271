//! Every bound of the edge node, by name; units last.

use std::time::Duration;

// === directory ===

/// Certificates kept verified in memory; each has its chain, about 4 KiB.
pub const CERTS_CACHED_MAX: usize = 16 * 1024;
/// Names kept verified in memory.
pub const NAMES_CACHED_MAX: usize = 64 * 1024;
/// Policies whose holders are kept worked out.
pub const HOLDERS_CACHED_MAX: usize = 4 * 1024;
/// Refused keys that are remembered over a restart. Past it nothing is used: somebody is writing the store anew.
pub const REFUSED_MAX: usize = 4 * 1024;
/// Log entries whose changes are taken in at once.
pub const CHANGES_AT_ONCE: usize = 256;
/// Records verified at once of those that were read at the start: some 20 ms of work.
pub const VERIFIED_AT_ONCE: usize = 512;
/// Age up to which heads and checkpoints are fresh, in milliseconds: 30 heads, 300 heartbeats.
pub const FRESH_MS: u64 = 5 * 60 * 1000;

// === keyring ===

/// Policy keys kept open; 32 bytes each.
pub const POLICY_KEYS_MAX: usize = 16 * 1024;
/// Customers' keys kept parsed: about 8 KiB for RSA-2048, 1 KiB for P-256.
pub const CUSTOMER_KEYS_MAX: usize = 16 * 1024;
/// Requests that wait for a policy to be opened, those under way counted; a decryption takes some milliseconds.
pub const DECRYPTIONS_WAITING_MAX: usize = 1024;

// === configuration ===

/// Users in one list of those that may ask.
pub const UIDS_MAX: usize = 64;
/// Longest deadline that can be configured: TLS clients give up about then.
pub const DEADLINE_MS_MAX: u64 = 10_000;

// === identity ===

/// Bytes of pins, certificates, keys and the sealing key's file.
pub const IDENTITY_FILE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the file with the attribute keys: what may be sealed, and room for its recipient.
pub const KEY_FILE_BYTES_MAX: usize = cinnabar_abe::limits::SEALED_SECRET_BYTES_MAX + 4096;
/// Longest time between two looks at keys and certificate, in milliseconds.
pub const IDENTITY_LOOK_MS: u64 = 60_000;
/// Bounds of the pause after the authority did not answer, in milliseconds.
pub const IDENTITY_PAUSE_MS_FIRST: u64 = 500;
/// See above.
pub const IDENTITY_PAUSE_MS_MAX: u64 = 30_000;
const _: () = assert!(IDENTITY_PAUSE_MS_MAX < IDENTITY_LOOK_MS);

// === Signatures ===

/// RSA signatures that may wait, for each core and each of the two lanes: a tenth of a second of work.
pub const RSA_QUEUE_PER_CORE: usize = 256;
/// Signatures by elliptic curves that may wait, for each core and each of the two lanes: a tenth of a second of work.
pub const EC_QUEUE_PER_CORE: usize = 4096;
/// Signatures by elliptic curves that a worker takes at once: what is forwarded is at most so many ahead of what is local.
pub const EC_BATCH: usize = 8;
/// Signatures whose callers are woken together, where more than the next number wait.
pub const ANSWERS_AT_ONCE: usize = 4;
/// See above; those that are held back are a small part of the wait then.
pub const ANSWERS_HELD_ABOVE: usize = 4 * ANSWERS_AT_ONCE;
/// Cores that queues and workers are sized for, at most.
pub const SIGNER_CORES_MAX: usize = 64;

// === Who may ask how often ===

/// Signatures a second for one peer.
pub const PEER_PER_SECOND: u32 = 20_000;
/// Signatures a second for one zone, for all peers together.
pub const ZONE_PER_SECOND: u32 = 40_000;
/// Signatures a second by one key, for all peers together.
pub const KEY_PER_SECOND: u32 = 20_000;
/// Peers, zones or keys that are counted; those above share one count.
pub const COUNTED_MAX: usize = 16_384;
/// Shortest time between two sweeps of what has not asked of late.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);

// === The router ===

/// Longest a request for a signature elsewhere takes, all attempts together.
pub const ROUTE_DEADLINE: Duration = Duration::from_secs(3);
/// Longest a single attempt takes.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Attempts of one request.
pub const ROUTE_ATTEMPTS_MAX: usize = 3;
/// Connections to one machine.
pub const CONNECTIONS_PER_MACHINE: usize = 2;
/// Machines of one data centre that are kept connected without being asked.
pub const WARM_PER_DATA_CENTER: usize = 4;
/// Machines that are kept connected at all.
pub const TARGETS_MAX: usize = 1024;
/// A machine that is not kept connected otherwise is dropped when it was not asked for so long.
pub const TARGET_IDLE: Duration = Duration::from_secs(300);
/// Middle of the times between two probes of a connection; a quarter more or less by chance.
pub const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Longest wait for a probe's answer, the simulated distance included.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(2500);
/// Probes that failed in a row after which a machine counts as gone.
pub const PROBE_FAILURES: u32 = 2;
/// Requests that failed in a row after which a machine is left alone.
pub const EJECT_AFTER: u32 = 5;
/// For how long at first.
pub const EJECT_FIRST: Duration = Duration::from_secs(5);
/// For how long at most; doubled each time.
pub const EJECT_MAX: Duration = Duration::from_secs(120);
/// Weight of a new sample of the round trip.
pub const EWMA_WEIGHT: f64 = 0.6;
/// The time in which what a slow request did to its data centre's place falls to a third.
pub const PEAK_FADES: Duration = Duration::from_secs(5);
/// A data centre moves in the order when its time changed by this share.
pub const MOVES_BY_SHARE: f64 = 0.1;
/// Or by this.
pub const MOVES_BY_US: f64 = 5_000.0;

const _: () = assert!(ATTEMPT_TIMEOUT.as_millis() <= ROUTE_DEADLINE.as_millis());
const _: () = assert!(PROBE_TIMEOUT.as_millis() > cinnabar_edge_api::limits::DISTANCE_MAX.as_millis());

// === Simulated distance ===

/// Bytes that may be under way in one direction of a connection with a simulated distance.
pub const DISTANT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one piece under way.
pub const DISTANT_PIECE_BYTES: usize = 64 * 1024;
/// Bytes of the file with distances.
pub const DISTANCE_FILE_BYTES_MAX: usize = 256 * 1024;
/// Data centres or addresses in it.
pub const DISTANCES_MAX: usize = 4096;

// === The servers ===

/// Requests for signatures that may be open at once, of this machine's services and of peers apart.
pub const REQUESTS_OPEN_MAX: usize = 65_536;

// === the process ===

/// How often is looked whether a record says where this machine stands.
pub const PLACE_LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often gauges and the status are set.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
