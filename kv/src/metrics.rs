//! What the store counts. Law: labels come from fixed sets, every value starts at zero, none carries a key or a name of
//! a customer. docs/metrics.md lists them, and a test holds it to that.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// A metric: its name, its label with all of its values, if it has one, and what it says.
pub type Described = (&'static str, &'static [(&'static str, &'static [&'static str])], &'static str);

/// Every metric of the store.
pub const METRICS: &[Described] = &[
    ("cinnabar_raft_is_leader", &[], "1 while this voter leads"),
    ("cinnabar_raft_has_leader", &[], "1 while this voter knows a leader"),
    ("cinnabar_raft_leader_changes_total", &[], "Leaders seen since the start"),
    ("cinnabar_raft_proposals_failed_total", &[], "Writes that got no quorum or no leader"),
    ("cinnabar_kv_applied_index", &[], "Last applied log index"),
    ("cinnabar_kv_behind_entries", &[], "Committed entries that are not applied here"),
    ("cinnabar_kv_behind_seconds", &[], "Age of the newest verified checkpoint"),
    ("cinnabar_kv_records", &[], "Live records"),
    ("cinnabar_kv_reads_total", &[("api", &["grpc", "resp"])], "Reads answered"),
    ("cinnabar_kv_read_duration_seconds", &[("api", &["grpc", "resp"])], "Time of a read inside the server"),
    (
        "cinnabar_kv_writes_total",
        &[("result", &["written", "unmet", "refused", "failed"])],
        "Writes by what became of them",
    ),
    ("cinnabar_kv_write_duration_seconds", &[], "Time of a write, from receipt to answer"),
    ("cinnabar_kv_watchers", &[], "Watches open now"),
    ("cinnabar_kv_watch_resyncs_total", &[("reason", &["gone", "slow"])], "Watches that were told to start anew"),
    (
        "cinnabar_kv_denied_total",
        &[("role", &["none", "voter", "replica", "edge", "authority", "operator"])],
        "Calls refused by the access table",
    ),
    ("cinnabar_kv_cache_misses_total", &[], "Reads that had to ask the engine"),
    ("cinnabar_store_size_bytes", &[], "Bytes of the state on disk"),
    ("cinnabar_store_live_bytes", &[], "Bytes of live keys and values"),
    ("cinnabar_store_pending_bytes", &[], "Bytes applied and not yet in the engine"),
    ("cinnabar_log_size_bytes", &[], "Bytes of the log on disk"),
    ("cinnabar_log_fsync_duration_seconds", &[], "Time of a sync of the log"),
    ("cinnabar_disk_full", &[], "1 while writes are refused because the disk is nearly full"),
    ("cinnabar_feed_downstreams", &[], "Nodes that this one feeds"),
    ("cinnabar_feed_frames_total", &[], "Frames made"),
    ("cinnabar_feed_cut_total", &[], "Downstreams cut because they were too slow"),
    (
        "cinnabar_replica_frames_total",
        &[("result", &["applied", "malformed", "signature", "foreign", "chain", "old", "state"])],
        "Frames received by what became of them",
    ),
    ("cinnabar_replica_upstream_changes_total", &[], "Changes of upstream"),
    ("cinnabar_replica_snapshots_total", &[("result", &["installed", "failed"])], "Snapshots fetched"),
    ("cinnabar_replica_alarm", &[], "1 from a frame or state that did not verify until a verified snapshot"),
];

/// Handles, taken once.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct Metrics {
    pub is_leader: Gauge,
    pub has_leader: Gauge,
    pub leader_changes: Counter,
    pub proposals_failed: Counter,
    pub applied_index: Gauge,
    pub behind_entries: Gauge,
    pub behind_seconds: Gauge,
    pub records: Gauge,
    pub reads_grpc: Counter,
    pub reads_resp: Counter,
    pub read_seconds_grpc: Histogram,
    pub read_seconds_resp: Histogram,
    pub written: Counter,
    pub unmet: Counter,
    pub refused: Counter,
    pub write_failed: Counter,
    pub write_seconds: Histogram,
    pub watchers: Gauge,
    pub resyncs_gone: Counter,
    pub resyncs_slow: Counter,
    pub cache_misses: Counter,
    pub store_bytes: Gauge,
    pub live_bytes: Gauge,
    pub pending_bytes: Gauge,
    pub log_bytes: Gauge,
    pub fsync_seconds: Histogram,
    pub disk_full: Gauge,
    pub downstreams: Gauge,
    pub frames: Counter,
    pub cut: Counter,
    pub upstream_changes: Counter,
    pub snapshots_installed: Counter,
    pub snapshots_failed: Counter,
    pub alarm: Gauge,
}

impl Metrics {
    /// Takes every handle, describes every metric, and starts every label value at zero.
    pub fn new() -> Self {
        for (name, labels, text) in METRICS {
            describe(name, text);
            let values: Vec<Option<(&str, &str)>> = match labels.first() {
                Some((label, values)) => values.iter().map(|value| Some((*label, *value))).collect(),
                None => vec![None],
            };
            for value in values {
                start(name, value);
            }
        }
        Self {
            is_leader: gauge!("cinnabar_raft_is_leader"),
            has_leader: gauge!("cinnabar_raft_has_leader"),
            leader_changes: counter!("cinnabar_raft_leader_changes_total"),
            proposals_failed: counter!("cinnabar_raft_proposals_failed_total"),
            applied_index: gauge!("cinnabar_kv_applied_index"),
            behind_entries: gauge!("cinnabar_kv_behind_entries"),
            behind_seconds: gauge!("cinnabar_kv_behind_seconds"),
            records: gauge!("cinnabar_kv_records"),
            reads_grpc: counter!("cinnabar_kv_reads_total", "api" => "grpc"),
            reads_resp: counter!("cinnabar_kv_reads_total", "api" => "resp"),
            read_seconds_grpc: histogram!("cinnabar_kv_read_duration_seconds", "api" => "grpc"),
            read_seconds_resp: histogram!("cinnabar_kv_read_duration_seconds", "api" => "resp"),
            written: counter!("cinnabar_kv_writes_total", "result" => "written"),
            unmet: counter!("cinnabar_kv_writes_total", "result" => "unmet"),
            refused: counter!("cinnabar_kv_writes_total", "result" => "refused"),
            write_failed: counter!("cinnabar_kv_writes_total", "result" => "failed"),
            write_seconds: histogram!("cinnabar_kv_write_duration_seconds"),
            watchers: gauge!("cinnabar_kv_watchers"),
            resyncs_gone: counter!("cinnabar_kv_watch_resyncs_total", "reason" => "gone"),
            resyncs_slow: counter!("cinnabar_kv_watch_resyncs_total", "reason" => "slow"),
            cache_misses: counter!("cinnabar_kv_cache_misses_total"),
            store_bytes: gauge!("cinnabar_store_size_bytes"),
            live_bytes: gauge!("cinnabar_store_live_bytes"),
            pending_bytes: gauge!("cinnabar_store_pending_bytes"),
            log_bytes: gauge!("cinnabar_log_size_bytes"),
            fsync_seconds: histogram!("cinnabar_log_fsync_duration_seconds"),
            disk_full: gauge!("cinnabar_disk_full"),
            downstreams: gauge!("cinnabar_feed_downstreams"),
            frames: counter!("cinnabar_feed_frames_total"),
            cut: counter!("cinnabar_feed_cut_total"),
            upstream_changes: counter!("cinnabar_replica_upstream_changes_total"),
            snapshots_installed: counter!("cinnabar_replica_snapshots_total", "result" => "installed"),
            snapshots_failed: counter!("cinnabar_replica_snapshots_total", "result" => "failed"),
            alarm: gauge!("cinnabar_replica_alarm"),
        }
    }

    /// Counts a received frame by what became of it.
    pub fn frame(&self, result: &'static str) {
        counter!("cinnabar_replica_frames_total", "result" => result).increment(1);
    }

    /// Counts a call that the access table refused.
    pub fn denied(&self, role: &'static str) {
        counter!("cinnabar_kv_denied_total", "role" => role).increment(1);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn describe(name: &'static str, text: &'static str) {
    match kind(name) {
        Kind::Counter => metrics::describe_counter!(name, text),
        Kind::Histogram => metrics::describe_histogram!(name, metrics::Unit::Seconds, text),
        Kind::Gauge => metrics::describe_gauge!(name, text),
    }
}

fn start(name: &'static str, label: Option<(&'static str, &'static str)>) {
    let labels: Vec<(&'static str, &'static str)> = label.into_iter().collect();
    match kind(name) {
        Kind::Counter => counter!(name, &labels).increment(0),
        Kind::Gauge => gauge!(name, &labels).increment(0.0),
        // A histogram shows itself with its first observation; making the handle registers it.
        Kind::Histogram => drop(histogram!(name, &labels)),
    }
}

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

fn kind(name: &str) -> Kind {
    if name.ends_with("_total") {
        Kind::Counter
    } else if name.ends_with("_duration_seconds") {
        Kind::Histogram
    } else {
        Kind::Gauge
    }
}
