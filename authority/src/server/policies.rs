//! `POST /v1/policies:check`: what a policy would mean, before anything is stored.

use serde::Serialize;

use super::Ask;
use super::answers::Answer;
use super::callers::Caller;
use crate::fields::Fields;
use crate::limits::DATA_CENTERS_MIN_DEFAULT;
use crate::policies::Warning;
use crate::preview::{Holders, Latency, Survives};
use crate::problem::{Code, Problem};
use crate::uploads::FEW_HOLDERS;

/// The answer.
#[derive(Serialize)]
struct Check {
    /// As it was written; `everywhere` for none.
    policy: String,
    /// In its one form.
    canonical: String,
    /// What keys are asked for.
    compiled: String,
    policy_id: String,
    /// `accepted`, `accepted_with_warnings`, or `needs_acknowledgement`: an upload that does not acknowledge is refused.
    verdict: &'static str,
    holders: Holders,
    /// Data centres that should hold a key of this zone.
    advised: u16,
    warnings: Vec<Warning>,
    latency: Latency,
    survives: Survives,
    /// The same policy today, as names of data centres.
    equivalent_today: String,
    /// Will a data centre that joins hold the key if it is like one that does?
    matches_new_data_centers: bool,
}

pub(super) async fn check(ask: Ask) -> Result<Answer, Problem> {
    let least = match &ask.caller {
        Caller::Zone(holder) => ask.api.zones.get(&holder.zone)?.limits.data_centers_min,
        _ => DATA_CENTERS_MIN_DEFAULT,
    };
    let mut fields = Fields::parse(&ask.body)?;
    let text = fields.text("policy")?.unwrap_or_default();
    let acknowledged = fields.texts("acknowledge")?;
    fields.finish()?;
    ask.query.finish()?;
    if let Some(n) = acknowledged.iter().position(|word| word != FEW_HOLDERS) {
        let detail = format!("Only \"{FEW_HOLDERS}\" can be acknowledged.");
        return Err(Problem::new(Code::InvalidField, detail).at(format!("/acknowledge/{n}")));
    }
    let policies = ask.api.policies().clone();
    let decided = ask.api.uploads.blocking(move |_| {
        let decision = policies.decide(&text, "/policy")?;
        let matches_new = policies.matches_new_data_centers(&decision)?;
        Ok((decision, matches_new))
    });
    let (decision, matches_new_data_centers) = decided.await?;
    let warnings = decision.warnings(least);
    let verdict = match decision.redundancy(least, !acknowledged.is_empty(), "/policy") {
        Err(_) => "needs_acknowledgement",
        Ok(()) if warnings.is_empty() => "accepted",
        Ok(()) => "accepted_with_warnings",
    };
    let holders = &decision.preview.holders;
    let names = holders.data_centers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Answer::ok(&Check {
        policy: decision.shown_text().to_owned(),
        canonical: decision.compiled.canonical.clone(),
        compiled: decision.compiled.policy.to_string(),
        policy_id: decision.id.to_string(),
        verdict,
        advised: least,
        warnings,
        equivalent_today: names,
        matches_new_data_centers,
        holders: decision.preview.holders,
        latency: decision.preview.latency,
        survives: decision.preview.survives,
    })
}
