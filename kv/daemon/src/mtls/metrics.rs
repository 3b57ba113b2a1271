//! What mutual TLS counts. Law: labels come from fixed sets; none carries a peer's name or address.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Handshakes by `result`: `accepted`, or why it failed (see [`RESULTS`]).
pub const HANDSHAKES: &str = "cinnabar_tls_handshakes_total";
/// Connections that are open now.
pub const CONNECTIONS_OPEN: &str = "cinnabar_tls_connections_open";
/// Failed calls of accept; they mean that file descriptors or memory are short.
pub const ACCEPT_ERRORS: &str = "cinnabar_tls_accept_errors_total";
/// When our own certificate ends, in seconds since 1970.
pub const CERTIFICATE_END: &str = "cinnabar_tls_certificate_not_after_unix_seconds";
/// Attempts to load new certificates by `result`: `loaded`, `unchanged`, `refused`.
pub const RELOADS: &str = "cinnabar_tls_reloads_total";

/// Every value of the label `result` of [`HANDSHAKES`].
pub const RESULTS: &[&str] = &[
    "accepted",
    "timeout",
    "io",
    "protocol",
    "peer_alert",
    "no_certificate",
    "malformed",
    "unknown_issuer",
    "expired",
    "not_yet_valid",
    "purpose",
    "chain",
    "identity",
    "cluster",
    "role",
    "name",
    "signature",
];

/// Describes every metric and starts every label value at zero.
pub(super) fn describe() {
    describe_counter!(HANDSHAKES, Unit::Count, "Incoming TLS handshakes by result");
    describe_gauge!(CONNECTIONS_OPEN, Unit::Count, "Authenticated incoming connections that are open");
    describe_counter!(ACCEPT_ERRORS, Unit::Count, "Failed accept calls");
    describe_gauge!(CERTIFICATE_END, Unit::Seconds, "Time at which our own certificate ends");
    describe_counter!(RELOADS, Unit::Count, "Attempts to load new certificates by result");
    for result in RESULTS {
        counter!(HANDSHAKES, "result" => *result).increment(0);
    }
    for result in ["loaded", "unchanged", "refused"] {
        counter!(RELOADS, "result" => result).increment(0);
    }
    counter!(ACCEPT_ERRORS).increment(0);
    gauge!(CONNECTIONS_OPEN).increment(0.0);
}
