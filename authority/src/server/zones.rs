//! The operators' calls for zones and their tokens.

use cinnabar_authority_api::CertId;
use serde_json::json;

use super::Ask;
use super::answers::Answer;
use crate::fields::Fields;
use crate::limits::{TOKEN_LIFE_S_MAX, ZONE_CHANGES_MAX, ZONE_KEYS_MAX};
use crate::problem::{Code, Problem};
use crate::timestamp::rfc3339;
use crate::zones::{LimitsChange, NewToken, TokenView};

fn limits(fields: &mut Fields) -> Result<LimitsChange, Problem> {
    let Some(mut limits) = fields.object("limits")? else { return Ok(LimitsChange::default()) };
    let mut number = |name: &str, least: u32, most: u32| {
        let found = limits.number(name, u64::from(least), u64::from(most))?;
        Ok::<_, Problem>(found.and_then(|number| u32::try_from(number).ok()))
    };
    let change = LimitsChange {
        data_centers_min: number("data_centers_min", 1, u32::from(u16::MAX))?.and_then(|n| u16::try_from(n).ok()),
        keys_max: number("keys_max", 0, ZONE_KEYS_MAX)?,
        changes_per_minute: number("changes_per_minute", 0, ZONE_CHANGES_MAX)?,
    };
    limits.finish()?;
    Ok(change)
}

pub(super) async fn add(ask: Ask) -> Result<Answer, Problem> {
    let actor = ask.actor();
    let mut fields = Fields::parse(&ask.body)?;
    let id = fields.required_text("id")?;
    let domains = fields.texts("domains")?;
    let limits = limits(&mut fields)?;
    fields.finish()?;
    ask.query.finish()?;
    let id = id.parse().map_err(|error| Problem::new(Code::InvalidField, format!("{error}.")).at("/id"))?;
    let view = ask.api.zones.add(&actor, id, &domains, limits).await?;
    Answer::created(&view, format!("/v1/zones/{}", view.id))
}

pub(super) fn list(mut ask: Ask) -> Result<Answer, Problem> {
    let paging = ask.query.paging()?;
    ask.query.finish()?;
    let mut zones = ask.api.zones.list();
    let total = zones.len();
    let zones: Vec<_> = zones.drain(paging.range(total)).collect();
    Answer::ok(&json!({ "zones": zones, "page": paging.page, "per_page": paging.per_page, "total": total }))
}

pub(super) fn get(ask: Ask) -> Result<Answer, Problem> {
    let zone = ask.zone()?;
    ask.query.finish()?;
    Answer::ok(&ask.api.zones.get(&zone)?)
}

pub(super) async fn change(ask: Ask) -> Result<Answer, Problem> {
    let (zone, actor) = (ask.zone()?, ask.actor());
    let mut fields = Fields::parse(&ask.body)?;
    let domains = fields.texts("domains")?;
    let limits = limits(&mut fields)?;
    fields.finish()?;
    ask.query.finish()?;
    let domains = (!domains.is_empty()).then_some(domains.as_slice());
    Answer::ok(&ask.api.zones.change(&actor, &zone, domains, limits).await?)
}

pub(super) async fn remove(ask: Ask) -> Result<Answer, Problem> {
    let (zone, actor) = (ask.zone()?, ask.actor());
    ask.query.finish()?;
    ask.api.zones.remove(&actor, &zone).await?;
    Answer::ok(&json!({ "id": zone, "deleted": true }))
}

fn shown(token: &TokenView) -> serde_json::Value {
    let expires_on = (token.expires_ms != 0).then(|| rfc3339(token.expires_ms / 1_000));
    json!({ "id": token.id, "name": token.name, "expires_on": expires_on })
}

pub(super) async fn create_token(ask: Ask) -> Result<Answer, Problem> {
    let (zone, actor) = (ask.zone()?, ask.actor());
    let mut fields = Fields::parse(&ask.body)?;
    let name = fields.text("name")?.unwrap_or_default();
    let life_s = fields.number("expires_in_s", 1, TOKEN_LIFE_S_MAX)?;
    fields.finish()?;
    ask.query.finish()?;
    let made = ask.api.zones.create_token(&actor, &zone, &name, life_s).await?;
    told_once(&made, format!("/v1/zones/{zone}/tokens/{}", made.view.id))
}

pub(super) fn list_tokens(ask: Ask) -> Result<Answer, Problem> {
    let zone = ask.zone()?;
    ask.query.finish()?;
    let tokens: Vec<_> = ask.api.zones.tokens(&zone)?.iter().map(shown).collect();
    Answer::ok(&json!({ "tokens": tokens }))
}

pub(super) async fn revoke_token(ask: Ask) -> Result<Answer, Problem> {
    let (zone, id, actor) = (ask.zone()?, ask.name::<CertId>("token")?, ask.actor());
    ask.query.finish()?;
    ask.api.zones.revoke_token(&actor, &zone, &id).await?;
    Answer::ok(&json!({ "id": id, "deleted": true }))
}

/// A token that was just made: the one time that its text is told.
fn told_once(made: &NewToken, location: String) -> Result<Answer, Problem> {
    let mut shown = shown(&made.view);
    shown["token"] = made.text.expose().into();
    let answer = Answer::created(&shown, location);
    if let serde_json::Value::String(token) = &mut shown["token"] {
        zeroize::Zeroize::zeroize(token);
    }
    answer
}

pub(super) async fn create_operator_token(ask: Ask) -> Result<Answer, Problem> {
    let actor = ask.actor();
    let mut fields = Fields::parse(&ask.body)?;
    let name = fields.required_text("name")?;
    let life_s = fields.number("expires_in_s", 1, TOKEN_LIFE_S_MAX)?;
    fields.finish()?;
    ask.query.finish()?;
    let made = ask.api.zones.create_operator_token(&actor, &name, life_s).await?;
    told_once(&made, format!("/v1/operator_tokens/{}", made.view.id))
}

pub(super) fn list_operator_tokens(ask: Ask) -> Result<Answer, Problem> {
    ask.query.finish()?;
    let tokens: Vec<_> = ask.api.zones.operator_tokens()?.iter().map(shown).collect();
    Answer::ok(&json!({ "tokens": tokens }))
}

pub(super) async fn revoke_operator_token(ask: Ask) -> Result<Answer, Problem> {
    let (id, actor) = (ask.name::<CertId>("token")?, ask.actor());
    ask.query.finish()?;
    ask.api.zones.revoke_operator_token(&actor, &id).await?;
    Answer::ok(&json!({ "id": id, "deleted": true }))
}
