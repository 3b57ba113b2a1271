//! The operators' calls for machines, data centres and the schema; and the one call of a machine that has no certificate
//! yet.

use cinnabar_authority_api::{DataCenterId, MachineId, Schema};
use serde_json::{Map, Value, json};

use super::answers::Answer;
use super::{Api, Ask};
use crate::fields::Fields;
use crate::machines::{Machines, Selection};
use crate::problem::{Code, Problem};
use crate::timestamp::rfc3339;
use crate::uploads::not_found;

/// Machines on one page of their list.
const MACHINES_PAGE: usize = 1_000;

fn machines(api: &Api) -> Result<std::sync::Arc<Machines>, Problem> {
    let unready = || Problem::new(Code::Unavailable, "Machines are not served here.");
    api.machines.clone().ok_or_else(unready)
}

fn machine_id(text: &str, pointer: impl Into<std::borrow::Cow<'static, str>>) -> Result<MachineId, Problem> {
    text.parse().map_err(|error| Problem::new(Code::InvalidField, format!("{error}.")).at(pointer))
}

/// `POST /v1/enrol`: a token and a signing request for a certificate.
pub(super) async fn enrol(ask: Ask) -> Result<Answer, Problem> {
    let mut fields = Fields::parse(&ask.body)?;
    let token = fields.secret("token")?.ok_or_else(|| fields.missing("token"))?;
    let request = fields.required_text("csr")?;
    fields.finish()?;
    ask.query.finish()?;
    let issued = machines(&ask.api)?.enrol(token.expose(), request.as_bytes()).await?;
    Answer::ok(&json!({ "certificate": issued.certificate_pem, "ca": issued.ca_pem }))
}

/// `POST /v1/machine_tokens`
pub(super) async fn token(ask: Ask) -> Result<Answer, Problem> {
    let actor = ask.actor();
    let mut fields = Fields::parse(&ask.body)?;
    let machine = machine_id(&fields.required_text("machine")?, "/machine")?;
    fields.finish()?;
    ask.query.finish()?;
    let grant = machines(&ask.api)?.token(&actor, &machine).await?;
    let expires_on = rfc3339(grant.expires_ms / 1_000);
    Answer::ok(&json!({
        "id": grant.id, "machine": grant.machine, "token": grant.text.expose(), "expires_on": expires_on,
    }))
}

/// `GET /v1/machines`
pub(super) fn list(mut ask: Ask) -> Result<Answer, Problem> {
    let after = ask.query.take("after");
    ask.query.finish()?;
    let after = after.map(|text| machine_id(&text, "")).transpose()?;
    let page = machines(&ask.api)?.list(after.as_ref(), MACHINES_PAGE);
    let next = (page.len() == MACHINES_PAGE).then(|| page.last().map(|machine| machine.id.clone()));
    Answer::ok(&json!({ "machines": page, "next": next.flatten() }))
}

/// `POST /v1/machines:revoke`
pub(super) async fn revoke(ask: Ask) -> Result<Answer, Problem> {
    let actor = ask.actor();
    let mut fields = Fields::parse(&ask.body)?;
    let ids = fields.texts("machines")?;
    let filter = fields.text("policy")?;
    let reason = fields.required_text("reason")?;
    let dry_run = fields.flag("dry_run")?;
    fields.finish()?;
    ask.query.finish()?;
    let selection = match (ids.is_empty(), filter) {
        (false, None) => {
            let parsed = ids.iter().enumerate().map(|(n, id)| machine_id(id, format!("/machines/{n}")));
            Selection::Ids(parsed.collect::<Result<_, _>>()?)
        }
        (true, Some(filter)) => Selection::Where(filter),
        (false, Some(_)) => {
            let detail = "Name machines, or describe them by a policy; not both.";
            return Err(Problem::new(Code::ExclusiveFields, detail).at("/policy"));
        }
        (true, None) => return Err(Problem::new(Code::MissingField, "`machines` is missing.").at("/machines")),
    };
    Answer::ok(&machines(&ask.api)?.revoke(&actor, &selection, &reason, dry_run).await?)
}

/// `GET /v1/data_centers`
pub(super) fn data_centers(ask: Ask) -> Result<Answer, Problem> {
    ask.query.finish()?;
    let inventory = ask.api.policies().inventory();
    let directory = ask.api.uploads.publisher.directory().read();
    let mut counts: std::collections::BTreeMap<&DataCenterId, (u32, u32)> = std::collections::BTreeMap::new();
    for (_, machine) in directory.trusted() {
        let count = counts.entry(&machine.data_center).or_default();
        count.0 += 1;
        count.1 += u32::from(machine.state == cinnabar_authority_api::records::MachineState::Live);
    }
    let rows = inventory.data_centers.values().map(|center| {
        let (machines, live) = counts.get(&center.id).copied().unwrap_or_default();
        json!({ "id": center.id, "country": center.country, "machines": machines, "live": live })
    });
    let rows: Vec<Value> = rows.collect();
    Answer::ok(&json!({ "data_centers": rows }))
}

async fn set_state(ask: Ask, drains: bool) -> Result<Answer, Problem> {
    let actor = ask.actor();
    let mut fields = Fields::parse(&ask.body)?;
    let name = fields.required_text("data_center")?;
    let force = drains && fields.flag("force")?;
    let dry_run = fields.flag("dry_run")?;
    fields.finish()?;
    ask.query.finish()?;
    let id: DataCenterId = name.parse().map_err(|_| not_found("data centre"))?;
    let machines = machines(&ask.api)?;
    let done = match drains {
        true => machines.drain(&actor, &id, force, dry_run).await?,
        false => machines.undrain(&actor, &id, dry_run).await?,
    };
    Answer::ok(&done)
}

/// `POST /v1/data_centers:drain`
pub(super) async fn drain(ask: Ask) -> Result<Answer, Problem> {
    set_state(ask, true).await
}

/// `POST /v1/data_centers:undrain`
pub(super) async fn undrain(ask: Ask) -> Result<Answer, Problem> {
    set_state(ask, false).await
}

fn shown(schema: &Schema) -> Value {
    use cinnabar_authority_api::schema::Label;
    let labels: Map<String, Value> = schema
        .labels()
        .iter()
        .map(|(name, label)| {
            let label = match label {
                Label::Country => json!({ "kind": "country" }),
                Label::DataCenter => json!({ "kind": "data_center" }),
                Label::Listed { values, default } => json!({ "kind": "values", "values": values, "default": default }),
                Label::Set(members) => json!({ "kind": "set", "members": members }),
            };
            (name.clone(), label)
        })
        .collect();
    labels.into()
}

/// `GET /v1/schema`: the labels, and those that not every live machine holds yet.
pub(super) fn schema(ask: Ask) -> Result<Answer, Problem> {
    ask.query.finish()?;
    let (version, schema, missing) = ask.api.policies().schema()?;
    Answer::ok(&json!({ "version": version.get(), "labels": shown(&schema), "not_issued_everywhere": missing }))
}

/// `POST /v1/schema:check`: would this file be taken?
pub(super) fn check_schema(ask: Ask) -> Result<Answer, Problem> {
    let mut fields = Fields::parse(&ask.body)?;
    let text = fields.required_text("schema")?;
    fields.finish()?;
    ask.query.finish()?;
    let refused = |error: &dyn std::fmt::Display| Problem::new(Code::InvalidField, format!("{error}.")).at("/schema");
    let fresh = Schema::from_toml(&text).map_err(|error| refused(&error))?;
    let (_, old, _) = ask.api.policies().schema()?;
    fresh.extends(&old).map_err(|error| refused(&error))?;
    Answer::ok(&json!({ "labels": shown(&fresh), "changes": fresh != old }))
}
