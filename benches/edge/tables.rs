//! What heads each part's table.

use serde_json::Value;

use crate::report::table;

/// A column: the field of a row, and what heads it.
type Column = (&'static str, &'static str);

const VERDICT: [Column; 2] = [("required", "required"), ("met", "")];

const SIGN: &[Column] =
    &[("key", "key"), ("lane", "lane"), ("raw_per_cpu_s", "alone"), ("per_cpu_s", "queued"), ("share", "share")];

const STREAM: &[Column] = &[
    ("key", "key"),
    ("call", "call"),
    ("clients", "in flight"),
    ("per_second", "signed/s"),
    ("p50_us", "p50 us"),
    ("p99_us", "p99 us"),
    ("raw_us", "raw us"),
    ("edge_cpu_us", "edge's CPU us"),
    ("client_cpu_us", "client's"),
    ("call_us", "call us"),
    ("share", "edge/raw"),
    ("share_with_client", "all/raw"),
];

const REMOTE: &[Column] = &[
    ("what", "what"),
    ("key", "key"),
    ("per_second", "signed/s"),
    ("offered", "offered/s"),
    ("p50_ms", "p50 ms"),
    ("p99_ms", "p99 ms"),
    ("injected_p50_ms", "injected p50"),
    ("injected_p99_ms", "injected p99"),
    ("over_p50_ms", "over p50"),
    ("over_p99_ms", "over p99"),
    ("ratio", "ratio"),
    ("errors", "errors"),
];

const UPLOAD: &[Column] = &[
    ("policy", "policy"),
    ("edges", "edges"),
    ("operations", "uploads"),
    ("answered_p50_ms", "answered p50 ms"),
    ("p50_ms", "every edge p50 ms"),
    ("p99_ms", "p99 ms"),
];

const COLD: &[Column] = &[
    ("certificates", "certificates"),
    ("policies", "policies"),
    ("ready_s", "ready s"),
    ("handshake_ms", "then a handshake ms"),
];

const HANDSHAKES: &[Column] = &[
    ("key", "key"),
    ("local_ms", "all, local ms"),
    ("far_ms", "all, far ms"),
    ("local_p50_ms", "p50 local"),
    ("far_p50_ms", "p50 far"),
    ("local_p99_ms", "p99 local"),
    ("far_p99_ms", "p99 far"),
    ("bound_ms", "50 + 1.5 local"),
];

/// A part as a table.
pub fn part(name: &str, rows: &[Value]) -> String {
    let (title, columns) = match name {
        "sign" => {
            ("Signatures in process, each for a second of processor: aws-lc-rs alone, and through the queues", SIGN)
        }
        "stream" => {
            ("Signatures through the Unix socket; processor time of the edge node, and with its client's", STREAM)
        }
        "remote" => ("Signatures by another data centre", REMOTE),
        "upload" => (
            "From an upload's first byte to a verified handshake at every edge node of the demonstration, no distances",
            UPLOAD,
        ),
        "cold" => (
            "An edge node of the demonstration started again, its store on disk: to /readyz, and to a handshake after it",
            COLD,
        ),
        _ => ("200 handshakes at once through a terminator: key here, key 50 ms away", HANDSHAKES),
    };
    table(title, rows, &[columns, &VERDICT].concat())
}

/// Says in a row what is required of one of its fields at least, and whether that is met.
pub fn at_least(row: &mut Value, field: &str, least: f64) {
    row["required"] = format!("{field} >= {least}").into();
    row["met"] = row[field].as_f64().is_some_and(|figure| figure >= least).into();
}
