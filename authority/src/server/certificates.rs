//! The native calls for certificates.

use cinnabar_authority_api::{CertId, ZoneId};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::Ask;
use super::answers::Answer;
use crate::facade::Paging;
use crate::fields::Fields;
use crate::limits::LIST_READS_MAX;
use crate::problem::{Code, Problem};
use crate::uploads::{CertView, Upload, Uploads};

/// One page of a zone's certificates.
#[derive(Serialize)]
struct Page {
    certificates: Vec<CertView>,
    page: u32,
    per_page: u32,
    total: usize,
}

/// Reads an upload; what is absent is none.
fn parse(body: &[u8]) -> Result<Upload, Problem> {
    let mut fields = Fields::parse(body)?;
    // The key first: from here on it is wiped whatever happens.
    let private_key = fields.secret("private_key")?;
    let upload = Upload {
        private_key,
        certificate: fields.text("certificate")?,
        policy: fields.text("policy")?,
        policy_pointer: "/policy",
        served_by: fields.text("served_by")?,
        acknowledge: fields.texts("acknowledge")?,
        dry_run: false,
    };
    fields.finish()?;
    Ok(upload)
}

pub(super) async fn create(mut ask: Ask) -> Result<Answer, Problem> {
    let zone = ask.zone()?;
    let dry_run = ask.query.flag("dry_run")?;
    ask.query.finish()?;
    let upload = Upload { dry_run, ..parse(&ask.body)? };
    let uploaded = ask.api.uploads.create(&ask.caller.actor(), &zone, upload).await?;
    if dry_run {
        return Answer::ok(&uploaded);
    }
    let location = format!("/v1/zones/{zone}/certificates/{}", uploaded.certificate.id);
    Answer::created(&uploaded, location)
}

pub(super) async fn replace(mut ask: Ask) -> Result<Answer, Problem> {
    let (zone, id) = (ask.zone()?, ask.name::<CertId>("certificate")?);
    let dry_run = ask.query.flag("dry_run")?;
    ask.query.finish()?;
    let upload = Upload { dry_run, ..parse(&ask.body)? };
    Answer::ok(&ask.api.uploads.replace(&ask.caller.actor(), &zone, &id, upload).await?)
}

pub(super) async fn get(ask: Ask) -> Result<Answer, Problem> {
    let (zone, id) = (ask.zone()?, ask.name::<CertId>("certificate")?);
    ask.query.finish()?;
    let mut view = ask.api.uploads.get(&zone, &id).await?;
    view.active_on = ask.api.machines.as_ref().and_then(|machines| machines.active_on(&zone, &id));
    Answer::ok(&view)
}

pub(super) async fn delete(ask: Ask) -> Result<Answer, Problem> {
    let (zone, id, actor) = (ask.zone()?, ask.name::<CertId>("certificate")?, ask.actor());
    ask.query.finish()?;
    Answer::ok(&ask.api.uploads.delete(&actor, &zone, &id).await?)
}

pub(super) async fn list(mut ask: Ask) -> Result<Answer, Problem> {
    let zone = ask.zone()?;
    let paging = ask.query.paging()?;
    ask.query.finish()?;
    let (certificates, total) = page(&ask.api.uploads, &zone, paging).await?;
    Answer::ok(&Page { certificates, page: paging.page, per_page: paging.per_page, total })
}

/// One page of a zone's certificates in the order of their ids, and how many there are.
pub(super) async fn page(uploads: &Uploads, zone: &ZoneId, paging: Paging) -> Result<(Vec<CertView>, usize), Problem> {
    let (ids, total) = {
        let directory = uploads.publisher.directory().read();
        if !directory.zones().contains_key(zone) {
            return Err(crate::uploads::not_found("zone"));
        }
        let total = directory.certs_of(zone).count();
        let range = paging.range(total);
        let ids = directory.certs_of(zone).skip(range.start).take(range.len()).map(|(id, _)| id.clone());
        (ids.collect::<Vec<CertId>>(), total)
    };
    let read = |id: CertId| async move {
        match uploads.get(zone, &id).await {
            Ok(view) => Ok(Some(view)),
            // Deleted since the list was made.
            Err(problem) if problem.code() == Code::NotFound => Ok(None),
            Err(problem) => Err(problem),
        }
    };
    let views = futures::stream::iter(ids).map(read).buffered(LIST_READS_MAX);
    let views: Vec<Option<CertView>> = views.try_collect().await?;
    Ok((views.into_iter().flatten().collect(), total))
}
