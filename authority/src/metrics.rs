//! The authority's metrics, beside those of its server: what it looks at every few seconds.

use std::sync::Arc;
use std::time::Duration;

use cinnabar_authority_api::{Kind, RecordError};
use metrics::{Counter, counter, describe_counter, describe_gauge, gauge};
use time::OffsetDateTime;

use crate::access::calls;
use crate::app::App;
use crate::custody::Status;
use crate::limits::DATA_CENTERS_MIN_DEFAULT;
use crate::preview::live_sets;

/// How often what is not counted on the way is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// 1 while the system secret keys are in memory.
pub const UNSEALED: &str = "cinnabar_authority_system_keys_unsealed";
/// Age of the newest signed head, in seconds.
pub const HEAD_AGE: &str = "cinnabar_authority_head_age_seconds";
/// Log index of the newest signed head.
pub const HEAD_INDEX: &str = "cinnabar_authority_head_index";
/// Reviews of the inventory whose day has passed.
pub const LAPSED: &str = "cinnabar_authority_reviews_lapsed";
/// Policies in use that no live machine satisfies.
pub const WITHOUT_HOLDERS: &str = "cinnabar_authority_policies_without_holders";
/// Policies in use that fewer data centres hold than the usual minimum.
pub const FEW_HOLDERS: &str = "cinnabar_authority_policies_below_redundancy";
/// Records of the store that the verifier refused.
pub const REJECTED: &str = "cinnabar_record_rejected_total";

/// Machines' calls by `call` (`Renew`, `Keys`, `Report`, or `none` for what the table refuses) and `result` (`ok`,
/// `refused`).
pub const MACHINE_CALLS: &str = "cinnabar_authority_machine_calls_total";

/// The count of a machine's calls.
pub fn machine_call(call: &'static str, done: bool) -> Counter {
    counter!(MACHINE_CALLS, "call" => call, "result" => if done { "ok" } else { "refused" })
}

/// Describes all of them, and begins every count at zero.
pub fn describe() {
    describe_gauge!(UNSEALED, "1 while the system secret keys are in memory");
    describe_gauge!(HEAD_AGE, metrics::Unit::Seconds, "Age of the newest signed head");
    describe_gauge!(HEAD_INDEX, "Log index of the newest signed head");
    describe_gauge!(LAPSED, "Reviews of the inventory whose day has passed");
    describe_gauge!(WITHOUT_HOLDERS, "Policies in use that no live machine satisfies");
    describe_gauge!(FEW_HOLDERS, "Policies in use that fewer than three data centres hold");
    describe_counter!(REJECTED, "Records of the store that the verifier refused");
    describe_counter!(MACHINE_CALLS, "Machines' calls by call and result");
    for call in calls() {
        machine_call(call, true).increment(0);
        machine_call(call, false).increment(0);
    }
    machine_call("none", false).increment(0);
    for kind in Kind::ALL {
        for reason in RecordError::REASONS {
            rejected(kind.as_str(), reason).increment(0);
        }
    }
    rejected("unknown", "malformed").increment(0);
}

/// The count of refused records.
pub fn rejected(kind: &'static str, reason: &'static str) -> Counter {
    counter!(REJECTED, "kind" => kind, "reason" => reason)
}

/// Looks until it is dropped.
pub async fn run(app: Arc<App>) {
    loop {
        let seen = app.clone();
        let _ = tokio::task::spawn_blocking(move || look(&seen)).await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating-point numbers")]
fn look(app: &App) {
    let now_ms = app.env.clock.unix_ms();
    gauge!(UNSEALED).set(if app.custody.status() == Status::Sealed { 0.0 } else { 1.0 });
    let seconds = i64::try_from(now_ms / 1_000).unwrap_or(0);
    let today = OffsetDateTime::from_unix_timestamp(seconds).map(OffsetDateTime::date);
    if let Ok(today) = today {
        let inventory = app.inventory.load();
        let lapsed = inventory.lapsed(today);
        for (center, what) in &lapsed {
            tracing::warn!(data_center = %center, what, "a review has lapsed");
        }
        gauge!(LAPSED).set(lapsed.len() as f64);
    }
    let directory = app.publisher.directory().read();
    if let Some(head) = directory.head() {
        gauge!(HEAD_INDEX).set(head.index as f64);
        gauge!(HEAD_AGE).set(now_ms.saturating_sub(head.time_ms) as f64 / 1_000.0);
    }
    let Some(active) = directory.active_system() else { return };
    let sets = live_sets(&directory, active.generation);
    let in_use = directory.used_policies();
    let (mut none, mut few) = (0_u32, 0_u32);
    for policy in &in_use {
        let Some(Ok(policy)) = directory.policy(policy).map(|info| info.record.policy()) else { continue };
        let held = sets.iter().filter(|(attributes, _)| policy.is_satisfied_by(attributes));
        let centers: std::collections::BTreeSet<_> = held.flat_map(|(_, centers)| centers).collect();
        none += u32::from(centers.is_empty());
        few += u32::from(centers.len() < usize::from(DATA_CENTERS_MIN_DEFAULT));
    }
    gauge!(WITHOUT_HOLDERS).set(f64::from(none));
    gauge!(FEW_HOLDERS).set(f64::from(few));
}
