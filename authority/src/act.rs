//! An act: told to the audit log before it is done.
//!
//! Law: when the line is not on disk, nothing is done and the caller refuses.

use std::fmt::Display;
use std::sync::Arc;

use crate::audit::{Audit, Entry};
use crate::problem::{Code, Problem};

/// Most bytes of one detail; what is longer is cut.
pub const DETAIL_BYTES_MAX: usize = 8 * 1024;

/// Writes an act into the audit log. Returns once the line is on disk.
///
/// # Errors
/// `unavailable`: the line could not be written.
pub async fn tell(
    audit: &Arc<Audit>,
    actor: &str,
    act: &'static str,
    subject: &(dyn Display + Sync),
    details: &[(&'static str, &str)],
) -> Result<(), Problem> {
    let (audit, actor, subject) = (audit.clone(), actor.to_owned(), subject.to_string());
    let cut = |text: &str| text[..text.floor_char_boundary(DETAIL_BYTES_MAX)].to_owned();
    let details: Vec<(&'static str, String)> = details.iter().map(|(name, text)| (*name, cut(text))).collect();
    let told = tokio::task::spawn_blocking(move || {
        let details: Vec<(&'static str, &str)> = details.iter().map(|(name, text)| (*name, text.as_str())).collect();
        audit.append(&Entry { actor: &actor, act, subject: &subject, details: &details })
    });
    let told = told.await.map_err(|error| refused(&error))?;
    told.map(drop).map_err(|error| refused(&error))
}

fn refused(error: &dyn Display) -> Problem {
    tracing::error!(%error, "the audit log does not take a line: nothing is done");
    Problem::new(Code::Unavailable, "The audit log cannot be written, so nothing is done.")
}
