//! The calls under `/client/v4`, as scripts and SDKs for another service make them.
//!
//! `{zone}` is the zone's own id. Law: each does what a native call does, with the same checks, and says it in other words.

use cinnabar_authority_api::CertId;
use cinnabar_authority_api::compile::EVERYWHERE;
use serde_json::json;

use super::Ask;
use super::answers::Answer;
use super::callers::Caller;
use super::certificates::page;
use crate::facade::{
    BundleMethod, CertificateResult, CreateRequest, DeleteResult, EditRequest, Envelope, GeoRestrictions, Message,
    PolicyText, Status,
};
use crate::problem::Problem;
use crate::timestamp::rfc3339;
use crate::uploads::{Before, CertView, Upload, Uploaded, not_found};

/// Numbers of remarks: a warning about the policy, and who could open the key before.
const WARNING: u32 = 80_100;
const BEFORE: u32 = 80_101;

fn shown(view: CertView, bundle_method: BundleMethod, now_s: u64) -> CertificateResult {
    let in_time = (view.not_before..=view.not_after).contains(&now_s);
    CertificateResult {
        id: view.id.to_string(),
        zone_id: view.zone.to_string(),
        hosts: view.hostnames,
        issuer: view.issuer,
        signature: view.signature,
        status: if in_time { Status::Active } else { Status::Expired },
        bundle_method,
        priority: 0,
        uploaded_on: rfc3339(view.created_ms / 1_000),
        modified_on: rfc3339(view.modified_ms / 1_000),
        expires_on: rfc3339(view.not_after),
        geo_restrictions: GeoRestrictions::of_policy(&view.policy),
        policy_restrictions: (view.policy != EVERYWHERE).then_some(view.policy),
    }
}

fn before(before: &Before) -> Message {
    let names = before.could_open.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Message { code: BEFORE, message: format!("{} ({names})", before.note) }
}

fn uploaded(uploaded: Uploaded, bundle_method: BundleMethod, now_s: u64) -> Result<Answer, Problem> {
    let warnings = uploaded.warnings.iter();
    let remark = |text: &str| Message { code: WARNING, message: text.to_owned() };
    let messages = warnings.map(|warning| remark(&format!("[{}] {}", warning.code, warning.message)));
    let messages = messages.chain(uploaded.before.iter().map(before)).collect();
    let result = shown(uploaded.certificate, bundle_method, now_s);
    Answer::ok(&Envelope { messages, ..Envelope::done(result) })
}

fn upload(policy: Option<PolicyText>) -> Upload {
    let policy_pointer = policy.as_ref().map_or("/policy", |policy| policy.pointer);
    Upload { policy: policy.map(|policy| policy.text), policy_pointer, ..Upload::default() }
}

fn now_s(ask: &Ask) -> u64 {
    ask.api.env.clock.unix_ms() / 1_000
}

pub(super) async fn create(ask: Ask) -> Result<Answer, Problem> {
    let (zone, now_s, actor) = (ask.zone()?, now_s(&ask), ask.actor());
    let CreateRequest { certificate, private_key, policy, bundle_method } = CreateRequest::parse(&ask.body)?;
    ask.query.finish()?;
    let asked = Upload { certificate: Some(certificate), private_key: Some(private_key), ..upload(policy) };
    uploaded(ask.api.uploads.create(&actor, &zone, asked).await?, bundle_method, now_s)
}

pub(super) async fn edit(ask: Ask) -> Result<Answer, Problem> {
    let (zone, id) = (ask.zone()?, ask.name::<CertId>("certificate")?);
    let (now_s, actor) = (now_s(&ask), ask.actor());
    let EditRequest { certificate, private_key, policy, bundle_method } = EditRequest::parse(&ask.body)?;
    ask.query.finish()?;
    let asked = Upload { certificate, private_key, ..upload(policy) };
    let replaced = ask.api.uploads.replace(&actor, &zone, &id, asked).await?;
    uploaded(replaced, bundle_method.unwrap_or_default(), now_s)
}

pub(super) async fn get(ask: Ask) -> Result<Answer, Problem> {
    let (zone, id, now_s) = (ask.zone()?, ask.name::<CertId>("certificate")?, now_s(&ask));
    ask.query.finish()?;
    let view = ask.api.uploads.get(&zone, &id).await?;
    Answer::ok(&Envelope::done(shown(view, BundleMethod::default(), now_s)))
}

pub(super) async fn list(mut ask: Ask) -> Result<Answer, Problem> {
    let (zone, now_s) = (ask.zone()?, now_s(&ask));
    let paging = ask.query.paging()?;
    ask.query.finish()?;
    let (views, total) = page(&ask.api.uploads, &zone, paging).await?;
    let results = views.into_iter().map(|view| shown(view, BundleMethod::default(), now_s)).collect();
    Answer::ok(&Envelope::page(results, paging, total))
}

pub(super) async fn delete(ask: Ask) -> Result<Answer, Problem> {
    let (zone, id, actor) = (ask.zone()?, ask.name::<CertId>("certificate")?, ask.actor());
    ask.query.finish()?;
    let deleted = ask.api.uploads.delete(&actor, &zone, &id).await?;
    let result = DeleteResult { id: deleted.id };
    Answer::ok(&Envelope { messages: vec![before(&deleted.before)], ..Envelope::done(result) })
}

/// What scripts ask first: is this token good?
pub(super) fn verify_token(ask: Ask) -> Result<Answer, Problem> {
    let Caller::Zone(holder) = &ask.caller else { return Err(not_found("token")) };
    let expires_on = (holder.expires_ms != 0).then(|| rfc3339(holder.expires_ms / 1_000));
    let result = json!({ "id": holder.token, "status": "active", "expires_on": expires_on });
    ask.query.finish()?;
    Answer::ok(&Envelope::done(result))
}
