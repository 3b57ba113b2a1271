//! Acts: what is told to the audit log before it is done.
//!
//! Law: no act without its line on disk. A caller that gets an error here refuses, and nothing was done.

use std::fmt::Display;
use std::sync::Arc;

use crate::audit::{Audit, Entry, WORD_BYTES_MAX};
use crate::problem::{Code, Problem};
use crate::uploads::internal;

/// Most bytes of one detail in the audit log.
const DETAIL_BYTES_MAX: usize = 8 * 1024;

/// Writes an act upon a record or machine into the audit log, beside the asynchronous threads: it waits for the disk.
///
/// # Errors
/// `unavailable` when the line cannot be written.
pub async fn tell(
    audit: &Arc<Audit>,
    actor: &str,
    act: &'static str,
    subject: &(dyn Display + Sync),
    details: &[(&'static str, &str)],
) -> Result<(), Problem> {
    let (audit, actor, subject) = (audit.clone(), cut(actor, WORD_BYTES_MAX), subject.to_string());
    let details: Vec<(&'static str, String)> =
        details.iter().map(|(name, text)| (*name, cut(text, DETAIL_BYTES_MAX))).collect();
    let told = tokio::task::spawn_blocking(move || {
        let details: Vec<(&'static str, &str)> = details.iter().map(|(name, text)| (*name, text.as_str())).collect();
        audit.append(&Entry { actor: &actor, act, subject: &subject, details: &details })
    });
    let told = told.await.map_err(|error| internal("the audit log", &error))?;
    told.map(drop).map_err(|error| {
        tracing::error!(%error, "the audit log does not take a line: nothing is done");
        Problem::new(Code::Unavailable, "The audit log cannot be written, so nothing is done.")
    })
}

fn cut(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}
