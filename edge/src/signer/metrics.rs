//! What signatures count, on this machine and elsewhere. Law: labels come from fixed sets, but for data centres, which
//! the authority names; none carries a customer.

use cinnabar_edge_api::Scheme;
use cinnabar_edge_api::refusal::{CODES, RefusalCode, word};
use metrics::{Counter, Histogram, Unit, counter, histogram};

/// Requests for signatures by who made or was to make them, scheme, and what became of them.
pub const SIGN: &str = "cinnabar_sign_total";
/// Time of a request for a signature at the node that was asked.
pub const SIGN_SECONDS: &str = "cinnabar_sign_duration_seconds";
/// Time that a signature waited for a worker.
pub const QUEUE_SECONDS: &str = "cinnabar_sign_queue_seconds";
/// Time of an attempt to have another machine sign, by its data centre.
pub const FORWARD_SECONDS: &str = "cinnabar_forward_rtt_seconds";
/// Machines that were left alone because their attempts failed in a row.
pub const EJECTIONS: &str = "cinnabar_forward_ejections_total";
/// Probes of other machines by result.
pub const PROBES: &str = "cinnabar_forward_probes_total";
/// Attempts to have another machine sign, by result.
pub const ATTEMPTS: &str = "cinnabar_forward_attempts_total";
/// Calls that the access table refused, by the caller's role.
pub const DENIED: &str = "cinnabar_edge_denied_total";

/// Who asked whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// This machine asked and signed.
    Local,
    /// This machine asked, another signed.
    Remote,
    /// A peer asked.
    Peer,
}

impl Where {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Local, Self::Remote, Self::Peer];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Peer => "peer",
        }
    }
}

/// Word of a scheme that is none.
const NO_SCHEME: &str = "none";
/// Word of a result that is a signature.
pub const SIGNED: &str = "signed";

/// Handles, taken once.
#[derive(Clone)]
pub struct SignMetrics {
    /// By place and scheme: the results, signed first and then as [`CODES`]; the time.
    cells: Vec<(Vec<Counter>, Histogram)>,
    pub(crate) rsa_queued: Histogram,
    pub(crate) ec_queued: Histogram,
    pub(crate) ejections: Counter,
    pub(crate) probes_answered: Counter,
    pub(crate) probes_failed: Counter,
}

impl std::fmt::Debug for SignMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignMetrics")
    }
}

impl SignMetrics {
    /// Takes every handle, describes every metric, and starts every label value at zero.
    pub fn new() -> Self {
        describe();
        let mut cells = Vec::new();
        for place in Where::ALL {
            for scheme in Scheme::ALL.into_iter().map(Scheme::as_str).chain([NO_SCHEME]) {
                let results = std::iter::once(SIGNED).chain(CODES.into_iter().map(word));
                let count = |result| counter!(SIGN, "where" => place.as_str(), "scheme" => scheme, "result" => result);
                let counters: Vec<Counter> = results.map(count).collect();
                counters.iter().for_each(|counter| counter.increment(0));
                let seconds = histogram!(SIGN_SECONDS, "where" => place.as_str(), "scheme" => scheme);
                cells.push((counters, seconds));
            }
        }
        for result in std::iter::once(SIGNED).chain(CODES.into_iter().map(word)) {
            counter!(ATTEMPTS, "result" => result).increment(0);
        }
        for role in ["none", "voter", "replica", "edge", "authority", "operator"] {
            counter!(DENIED, "role" => role).increment(0);
        }
        Self {
            cells,
            rsa_queued: histogram!(QUEUE_SECONDS, "kind" => "rsa"),
            ec_queued: histogram!(QUEUE_SECONDS, "kind" => "ec"),
            ejections: started(counter!(EJECTIONS)),
            probes_answered: started(counter!(PROBES, "result" => "answered")),
            probes_failed: started(counter!(PROBES, "result" => "failed")),
        }
    }

    /// A request was answered after so many seconds; `refused` is none for a signature, `scheme` for one that is none.
    pub fn answered(&self, place: Where, scheme: Option<Scheme>, refused: Option<RefusalCode>, seconds: f64) {
        let scheme = Scheme::ALL.iter().position(|known| Some(*known) == scheme).unwrap_or(Scheme::ALL.len());
        let result = match refused {
            None => 0,
            Some(code) => 1 + CODES.iter().position(|known| *known == code).unwrap_or(CODES.len() - 1),
        };
        let (counters, duration) = &self.cells[place as usize * (Scheme::ALL.len() + 1) + scheme];
        counters[result].increment(1);
        duration.record(seconds);
    }

    /// The handle for attempts to a data centre; the caller keeps it.
    pub fn forward(&self, data_center: &str) -> Histogram {
        histogram!(FORWARD_SECONDS, "to_dc" => data_center.to_owned())
    }

    /// Counts an attempt by its result.
    pub fn attempt(&self, result: &'static str) {
        counter!(ATTEMPTS, "result" => result).increment(1);
    }

    /// Counts a call that the access table refused.
    pub fn denied(&self, role: &'static str) {
        counter!(DENIED, "role" => role).increment(1);
    }
}

impl Default for SignMetrics {
    fn default() -> Self {
        Self::new()
    }
}

fn started(counter: Counter) -> Counter {
    counter.increment(0);
    counter
}

fn describe() {
    use metrics::{describe_counter as count, describe_histogram as time};
    count!(SIGN, Unit::Count, "Requests for signatures by who was to sign, scheme and result");
    time!(SIGN_SECONDS, Unit::Seconds, "Time of a request for a signature at the node that was asked");
    time!(QUEUE_SECONDS, Unit::Seconds, "Time that a signature waited for a worker");
    time!(FORWARD_SECONDS, Unit::Seconds, "Time of an attempt to have another machine sign, by its data centre");
    count!(EJECTIONS, Unit::Count, "Machines left alone because attempts failed in a row");
    count!(PROBES, Unit::Count, "Probes of other machines by result");
    count!(ATTEMPTS, Unit::Count, "Attempts to have another machine sign, by result");
    count!(DENIED, Unit::Count, "Calls refused by the access table, by the caller's role");
}
