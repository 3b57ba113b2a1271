//! The edge node's metrics, by name; no label ever carries a name of a customer's.

use cinnabar_authority_api::{Kind, RecordError};
use metrics::{Counter, counter, describe_counter, describe_gauge, gauge};

/// Records of the store that are not used.
pub const REJECTED: &str = "cinnabar_record_rejected_total";

/// Policies that were opened here, or could not be although this machine satisfies them.
pub const POLICIES_OPENED: &str = "cinnabar_policies_opened_total";

/// Counts a decryption of a policy's key.
pub fn policy_opened(ok: bool) {
    counter!(POLICIES_OPENED, "result" => if ok { "opened" } else { "refused" }).increment(1);
}

/// Age of the newest signed head, in seconds.
pub const HEAD_AGE: &str = "cinnabar_signed_head_age_seconds";
/// 1 while the authority's signed head covers the copy and none contradicts it.
pub const TRUSTED: &str = "cinnabar_edge_records_trusted";
/// Keys whose records are refused now.
pub const REFUSED: &str = "cinnabar_edge_records_refused";
/// Policies whose keys are open.
pub const POLICIES_OPEN: &str = "cinnabar_edge_policies_open";
/// 1 while the attribute keys lie in a plain file.
pub const INSECURE: &str = "cinnabar_edge_insecure_machine_key";
/// Reports to the authority.
pub const REPORTS: &str = "cinnabar_edge_reports_total";

/// Says whether the attribute keys lie in clear.
pub fn insecure_machine_key(plain: bool) {
    gauge!(INSECURE).set(f64::from(u8::from(plain)));
}

/// Counts a report.
pub fn reported(ok: bool) {
    counter!(REPORTS, "result" => if ok { "sent" } else { "failed" }).increment(1);
}

/// Sets what is looked at every second.
#[allow(clippy::cast_precision_loss, reason = "gauges are floating-point numbers")]
pub fn look(trust: &crate::directory::Trust, refused: usize, policies: usize) {
    let age = trust.head_age_ms;
    gauge!(HEAD_AGE).set(if age == u64::MAX { f64::INFINITY } else { age as f64 / 1000.0 });
    gauge!(TRUSTED).set(f64::from(u8::from(trust.may_sign_local())));
    gauge!(REFUSED).set(refused as f64);
    gauge!(POLICIES_OPEN).set(policies as f64);
}

/// Reasons beyond [`RecordError::REASONS`].
pub const REASONS: [&str; 2] = ["deleted", "lower"];

/// The count of refused records.
pub fn rejected(kind: &'static str, reason: &'static str) -> Counter {
    counter!(REJECTED, "kind" => kind, "reason" => reason)
}

/// Describes all of them, and begins every count at zero.
pub fn describe() {
    describe_counter!(REJECTED, "Records of the store that are not used");
    describe_counter!(POLICIES_OPENED, "Policies whose keys were opened here, or could not be");
    describe_gauge!(HEAD_AGE, metrics::Unit::Seconds, "Age of the newest signed head");
    describe_gauge!(TRUSTED, "1 while a signed head covers the copy of the store and none contradicts it");
    describe_gauge!(REFUSED, "Keys whose records are refused now");
    describe_gauge!(POLICIES_OPEN, "Policies whose keys are open");
    describe_gauge!(INSECURE, "1 while the attribute keys lie in a plain file");
    describe_counter!(REPORTS, "Reports to the authority");
    for result in ["sent", "failed"] {
        counter!(REPORTS, "result" => result).increment(0);
    }
    for result in ["opened", "refused"] {
        counter!(POLICIES_OPENED, "result" => result).increment(0);
    }
    for kind in Kind::ALL {
        for reason in RecordError::REASONS.iter().chain(&REASONS) {
            rejected(kind.as_str(), reason).increment(0);
        }
    }
    for reason in ["malformed", "deleted"] {
        rejected("unknown", reason).increment(0);
    }
}
