//! The native calls for other secrets. A secret goes in as base64, and never comes out here.

use base64ct::{Base64, Encoding};
use cinnabar_abe::SecretBytes;
use cinnabar_abe::limits::SECRET_BYTES_MAX;
use cinnabar_authority_api::records::PolicyRef;
use cinnabar_authority_api::{SecretName, ZoneId};
use serde::Serialize;
use zeroize::Zeroize;

use super::Ask;
use super::answers::Answer;
use crate::directory::Directory;
use crate::fields::{Fields, SecretText};
use crate::policies::Warning;
use crate::preview::{Holders, Latency, Survives};
use crate::problem::{Code, Problem};
use crate::uploads::{Upload, not_found};

/// A secret as it is listed.
#[derive(Serialize)]
struct View {
    name: SecretName,
    zone: ZoneId,
    /// The policy in its one form.
    policy: String,
    policy_id: String,
    version: u64,
}

/// What putting a secret did.
#[derive(Serialize)]
struct Put {
    name: SecretName,
    zone: ZoneId,
    policy: String,
    canonical: String,
    policy_id: String,
    holders: Holders,
    survives: Survives,
    latency: Latency,
    warnings: Vec<Warning>,
    index: u64,
}

fn bytes(text: &SecretText) -> Result<SecretBytes, Problem> {
    let refused = |detail: String| Problem::new(Code::InvalidField, detail).at("/secret");
    let most = SECRET_BYTES_MAX.div_ceil(3) * 4;
    if text.expose().len() > most {
        return Err(Problem::new(Code::RequestTooLarge, format!("A secret has at most {SECRET_BYTES_MAX} bytes."))
            .at("/secret"));
    }
    let mut room = vec![0; text.expose().len() / 4 * 3 + 3];
    let decoded = Base64::decode(text.expose(), &mut room).map(<[u8]>::len);
    let Ok(len) = decoded else {
        room.zeroize();
        return Err(refused("`secret` is not base64.".to_owned()).hint("send what `base64 -w 0 FILE` prints"));
    };
    room.truncate(len);
    let secret = SecretBytes::new(room);
    if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
        return Err(refused(format!("A secret has 1 to {SECRET_BYTES_MAX} bytes.")));
    }
    Ok(secret)
}

pub(super) async fn put(ask: Ask) -> Result<Answer, Problem> {
    let (zone, name) = (ask.zone()?, ask.name::<SecretName>("secret")?);
    let (actor, uploads) = (ask.actor(), ask.api.uploads.clone());
    ask.query.finish()?;
    let mut fields = Fields::parse(&ask.body)?;
    let secret = fields.secret("secret")?.ok_or_else(|| fields.missing("secret"))?;
    let upload = Upload {
        policy: fields.text("policy")?,
        policy_pointer: "/policy",
        acknowledge: fields.texts("acknowledge")?,
        ..Upload::default()
    };
    fields.finish()?;
    let (decision, index) = uploads.put_secret(&actor, &zone, name.clone(), bytes(&secret)?, upload).await?;
    let least = ask.api.zones.get(&zone)?.limits.data_centers_min;
    Answer::ok(&Put {
        name,
        zone,
        policy: decision.shown_text().to_owned(),
        canonical: decision.compiled.canonical.clone(),
        policy_id: decision.id.to_string(),
        warnings: decision.warnings(least),
        holders: decision.preview.holders,
        survives: decision.preview.survives,
        latency: decision.preview.latency,
        index,
    })
}

fn view(directory: &Directory, zone: &ZoneId, name: &SecretName, policy: &PolicyRef) -> View {
    let canonical = directory.policy(policy).map(|info| info.record.canonical.clone()).unwrap_or_default();
    let key = cinnabar_authority_api::RecordKey::Secret(zone.clone(), name.clone());
    View {
        name: name.clone(),
        zone: zone.clone(),
        policy: canonical,
        policy_id: policy.id.0.to_string(),
        version: directory.standing(&key).version,
    }
}

pub(super) fn get(ask: Ask) -> Result<Answer, Problem> {
    let (zone, name) = (ask.zone()?, ask.name::<SecretName>("secret")?);
    let directory = ask.api.uploads.publisher.directory().clone();
    ask.query.finish()?;
    let directory = directory.read();
    let policy = directory.secrets().get(&(zone.clone(), name.clone())).ok_or_else(|| not_found("secret"))?;
    Answer::ok(&view(&directory, &zone, &name, policy))
}

/// One page of a zone's secrets.
#[derive(Serialize)]
struct Page {
    secrets: Vec<View>,
    page: u32,
    per_page: u32,
    total: usize,
}

pub(super) fn list(mut ask: Ask) -> Result<Answer, Problem> {
    let zone = ask.zone()?;
    let paging = ask.query.paging()?;
    ask.query.finish()?;
    let directory = ask.api.uploads.publisher.directory().read();
    if !directory.zones().contains_key(&zone) {
        return Err(not_found("zone"));
    }
    let total = directory.secrets_of(&zone).count();
    let range = paging.range(total);
    let on_page = directory.secrets_of(&zone).skip(range.start).take(range.len());
    let secrets = on_page.map(|(name, policy)| view(&directory, &zone, name, policy)).collect();
    Answer::ok(&Page { secrets, page: paging.page, per_page: paging.per_page, total })
}

pub(super) async fn delete(ask: Ask) -> Result<Answer, Problem> {
    let (zone, name, actor) = (ask.zone()?, ask.name::<SecretName>("secret")?, ask.actor());
    ask.query.finish()?;
    Answer::ok(&ask.api.uploads.delete_secret(&actor, &zone, &name).await?)
}
