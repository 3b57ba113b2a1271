//! What each part's table says on top and which columns it has; `met` and `MISSED` are said where a figure is required.

use serde_json::Value;

use crate::Plan;
use crate::data::VALUE_BYTES;
use crate::report::{ratios, table};

/// A column: the field of a row, and what heads it.
type Column = (&'static str, &'static str);

const TIMES: [Column; 4] =
    [("p50_us", "p50 us"), ("p99_us", "p99 us"), ("p999_us", "p99.9 us"), ("cpu_us_per_op", "CPU us")];
const VERDICT: [Column; 2] = [("required", "required"), ("met", "")];

/// The table of a part.
pub fn part(name: &str, plan: &Plan, report: &Value, rows: &[Value]) -> String {
    let (title, own): (String, &[Column]) = match name {
        "puts" => return puts(plan, report, rows),
        "reads" => (
            format!(
                "Reads in process: 1 thread, uniform over {} keys with values of {VALUE_BYTES} B; beside stores alone",
                plan.keys
            ),
            &[
                ("system", "system"),
                ("cache_mib", "cache MiB"),
                ("load", "beside"),
                ("hit_ratio", "hits"),
                ("rss_mib", "RSS MiB"),
            ],
        ),
        "resp" => (
            format!("GET over a Unix socket: {} keys with values of {VALUE_BYTES} B", plan.keys),
            &[
                ("system", "system"),
                ("clients", "clients"),
                ("depth", "in flight each"),
                ("per_second", "GETs/s"),
                ("client_cpu_us_per_op", "client CPU us"),
            ],
        ),
        "propagation" => (
            "Put issued -> the replica's watch tells it; processes of their own, TLS between them".to_owned(),
            &[("what", "what"), ("downstreams", "downstreams of each"), ("per_second", "puts/s")],
        ),
        "fanout" => (
            "Put issued -> applied, over all replicas; TLS between nodes, every frame verified".to_owned(),
            &[
                ("replicas", "replicas"),
                ("processes", "of them processes on sled"),
                ("per_second", "puts/s"),
                ("leader_cpu_us_per_op", "leader's CPU us"),
                ("relay_us_per_entry_and_subscriber", "relay us/entry/subscriber"),
                ("replica_us_per_entry", "replica us/entry"),
                ("replicas_share", "replicas' share"),
                ("others_share", "others' share"),
            ],
        ),
        "restart" => (
            "Bulk load and restart".to_owned(),
            &[("system", "system"), ("what", "what"), ("keys", "keys"), ("seconds", "seconds"), ("rss_mib", "RSS MiB")],
        ),
        _ => (
            "Disk".to_owned(),
            &[
                ("system", "system"),
                ("what", "what"),
                ("live_mib", "live MiB"),
                ("state_mib", "state MiB"),
                ("log_mib", "log MiB"),
                ("disk_mib", "disk MiB"),
                ("disk_over_live", "disk/live"),
            ],
        ),
    };
    let timed = rows.iter().any(|row| !row["p50_us"].is_null());
    let times: &[Column] = if timed { &TIMES } else { &[] };
    let columns: Vec<Column> = own.iter().chain(times).chain(&VERDICT).copied().collect();
    table(&title, rows, &columns)
}

fn puts(plan: &Plan, report: &Value, rows: &[Value]) -> String {
    let title = match &report["etcd"] {
        Value::String(version) => format!(
            "Puts at the leader: 3 voters with TLS, beside 3 nodes of etcd {version} without TLS; 8 connections, 50,000 random keys, medians of {} runs of {} s",
            plan.repeats,
            plan.length.as_secs(),
        ),
        _ => "Puts at the leader: 3 voters with TLS; etcd is not installed".to_owned(),
    };
    let columns = [
        ("value_bytes", "value B"),
        ("clients", "clients"),
        ("system", "system"),
        ("per_second", "puts/s"),
        ("p50_us", "p50 us"),
        ("p99_us", "p99 us"),
        ("p999_us", "p99.9 us"),
        ("cpu_us_per_op", "server CPU us"),
        ("leader_cpu_us_per_op", "leader's"),
        ("follower_cpu_us_per_op", "a follower's"),
        ("client_cpu_us_per_op", "client CPU us"),
        ("others_share", "others' share"),
        ("errors", "errors"),
    ];
    let mut out = table(&title, rows, &columns);
    let columns = [
        ("value_bytes", "value B"),
        ("clients", "clients"),
        ("per_second", "puts/s"),
        ("p50_us", "p50"),
        ("p99_us", "p99"),
        ("cpu_us_per_op", "server CPU"),
    ];
    let ratios = ratios(rows, "etcd", &["value_bytes", "clients"]);
    if !ratios.is_empty() {
        out.push_str(&table("Ours over etcd's", &ratios, &columns));
    }
    out
}
