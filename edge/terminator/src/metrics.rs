//! What a terminator counts. Law: labels come from fixed sets, every value starts at zero, none carries a name.
//! docs/metrics.md lists them, and a test holds it to that.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// A metric: its name, its labels with all of their values, and what it says.
pub type Described = (&'static str, &'static [(&'static str, &'static [&'static str])], &'static str);

const HANDSHAKES: &str = "cinnabar_terminator_handshakes_total";

/// What a handshake came to.
pub const RESULTS: &[&str] = &[
    "done",
    "unknown_name",
    "no_name",
    "edge",
    "certificate",
    "refused",
    "timeout",
    "closed",
    "alert",
    "protocol",
    "internal",
];

/// Every metric of the terminator.
pub const METRICS: &[Described] = &[
    (
        HANDSHAKES,
        &[("result", RESULTS), ("version", &["none", "1.2", "1.3"]), ("resumed", &["no", "yes"])],
        "Handshakes by what became of them",
    ),
    ("cinnabar_terminator_handshake_duration_seconds", &[], "Time of a handshake that was completed"),
    ("cinnabar_terminator_handshakes_open", &[], "Handshakes under way"),
    ("cinnabar_terminator_connections_open", &[], "Connections open, handshakes included"),
    ("cinnabar_terminator_sign_wait_duration_seconds", &[], "Time a handshake waited for its signature"),
    ("cinnabar_terminator_unknown_names_total", &[], "Handshakes for a name that nothing serves"),
    ("cinnabar_terminator_blinded_open", &[], "Connections that wait out the delay after a suspicious error"),
    (
        "cinnabar_terminator_blinded_total",
        &[("result", &["waited", "cut"])],
        "Suspicious errors by whether the delay was waited out",
    ),
    ("cinnabar_terminator_decrypt_refused_total", &[], "Operations refused because they would decrypt"),
    ("cinnabar_terminator_upstream_failures_total", &[], "Connections that the upstream did not take"),
    ("cinnabar_terminator_names_kept", &[], "Server names whose configuration is kept"),
];

/// Handles, taken once.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct Metrics {
    pub handshake_seconds: Histogram,
    pub handshakes_open: Gauge,
    pub connections_open: Gauge,
    pub sign_wait_seconds: Histogram,
    pub unknown_names: Counter,
    pub blinded_open: Gauge,
    pub blinded_waited: Counter,
    pub blinded_cut: Counter,
    pub decrypt_refused: Counter,
    pub upstream_failures: Counter,
    pub names_kept: Gauge,
}

impl Metrics {
    /// Takes every handle, describes every metric, and starts every label value that can come at zero.
    pub fn new() -> Self {
        for (name, labels, text) in METRICS {
            describe(name, labels, text);
        }
        for result in &RESULTS[1..] {
            count(result, "none", false, 0);
        }
        for version in ["1.2", "1.3"] {
            count("done", version, false, 0);
            count("done", version, true, 0);
        }
        Self {
            handshake_seconds: histogram!("cinnabar_terminator_handshake_duration_seconds"),
            handshakes_open: gauge!("cinnabar_terminator_handshakes_open"),
            connections_open: gauge!("cinnabar_terminator_connections_open"),
            sign_wait_seconds: histogram!("cinnabar_terminator_sign_wait_duration_seconds"),
            unknown_names: counter!("cinnabar_terminator_unknown_names_total"),
            blinded_open: gauge!("cinnabar_terminator_blinded_open"),
            blinded_waited: counter!("cinnabar_terminator_blinded_total", "result" => "waited"),
            blinded_cut: counter!("cinnabar_terminator_blinded_total", "result" => "cut"),
            decrypt_refused: counter!("cinnabar_terminator_decrypt_refused_total"),
            upstream_failures: counter!("cinnabar_terminator_upstream_failures_total"),
            names_kept: gauge!("cinnabar_terminator_names_kept"),
        }
    }

    /// Counts a completed handshake.
    pub fn done(&self, version: &'static str, resumed: bool) {
        count("done", version, resumed, 1);
    }

    /// Counts a failed one, by one of [`RESULTS`].
    pub fn failed(&self, result: &'static str) {
        count(result, "none", false, 1);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn count(result: &'static str, version: &'static str, resumed: bool, by: u64) {
    let resumed = if resumed { "yes" } else { "no" };
    counter!(HANDSHAKES, "result" => result, "version" => version, "resumed" => resumed).increment(by);
}

fn describe(name: &'static str, labels: &[(&'static str, &'static [&'static str])], text: &'static str) {
    let label = match labels {
        [(label, values)] => values.iter().map(|value| vec![(*label, *value)]).collect(),
        [] => vec![Vec::new()],
        // Not every combination can come: the caller starts those that can.
        _ => Vec::new(),
    };
    if name.ends_with("_total") {
        metrics::describe_counter!(name, text);
        label.iter().for_each(|label| counter!(name, label).increment(0));
    } else if name.ends_with("_duration_seconds") {
        metrics::describe_histogram!(name, metrics::Unit::Seconds, text);
        label.iter().for_each(|label| drop(histogram!(name, label)));
    } else {
        metrics::describe_gauge!(name, text);
        label.iter().for_each(|label| gauge!(name, label).increment(0.0));
    }
}

/// A gauge that is one higher while this lives.
pub struct Counted(Gauge);

impl Counted {
    /// Raises the gauge.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
