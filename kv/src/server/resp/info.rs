//! `INFO`: what monitoring tools and client libraries look for, in Redis's words, and our own after `cinnabar_`.
//!
//! Answered without a state as well; then `loading` is 1, by which some clients wait.

use std::fmt;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::limits::CONNECTIONS_MAX;
use super::parser::Args;
use super::reply::Reply;
use super::session::Session;
use super::{Endpoint, REDIS_VERSION, Source};

/// What a source tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Info {
    /// Index of the last applied entry.
    pub applied_index: u64,
    /// Highest index known to be committed.
    pub committed_index: u64,
    /// Age of the newest verified checkpoint, in milliseconds; none when there was none yet.
    pub behind_ms: Option<u64>,
    /// Live records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub record_bytes: u64,
    /// It shows an old verified state while a newer is built.
    pub stale: bool,
    /// It has a state to show.
    pub serving: bool,
}

const SECTIONS: [&str; 5] = ["server", "clients", "persistence", "replication", "keyspace"];

impl<S: Source> Session<S> {
    pub(super) fn info(&self, args: Args<'_>, reply: &mut Reply) {
        let info = self.endpoint.source.info();
        let all =
            |word: &[u8]| ["default", "all", "everything"].iter().any(|all| word.eq_ignore_ascii_case(all.as_bytes()));
        let mut text = String::new();
        for section in SECTIONS {
            let named = |word: &[u8]| word.eq_ignore_ascii_case(section.as_bytes()) || all(word);
            if args.len() == 1 || args.rest(1).any(named) {
                write_section(&self.endpoint, section, &info, &mut text).expect("a string takes every text");
            }
        }
        reply.verbatim(&text);
    }
}

fn write_section<S: Source>(endpoint: &Endpoint<S>, section: &str, info: &Info, text: &mut String) -> fmt::Result {
    if !text.is_empty() {
        text.push_str("\r\n");
    }
    let mut title = section.to_owned();
    title[..1].make_ascii_uppercase();
    write!(text, "# {title}\r\n")?;
    let mut line = |name: &str, value: &dyn fmt::Display| write!(text, "{name}:{value}\r\n");
    match section {
        "server" => {
            let up = endpoint.source.clock().now().saturating_duration_since(endpoint.begun).as_secs();
            line("redis_version", &REDIS_VERSION)?;
            line("redis_mode", &"standalone")?;
            line("cinnabar_version", &env!("CARGO_PKG_VERSION"))?;
            line("process_id", &std::process::id())?;
            line("uptime_in_seconds", &up)?;
            line("uptime_in_days", &(up / 86_400))
        }
        "clients" => {
            line("connected_clients", &endpoint.connections.load(Ordering::Relaxed))?;
            line("maxclients", &CONNECTIONS_MAX)
        }
        "persistence" => line("loading", &u8::from(!info.serving)),
        "replication" => {
            line("role", &"slave")?;
            line("slave_read_only", &1)?;
            line("master_link_status", &if info.serving && !info.stale { "up" } else { "down" })?;
            line("applied_index", &info.applied_index)?;
            line("committed_index", &info.committed_index)?;
            line("behind_entries", &info.committed_index.saturating_sub(info.applied_index))?;
            // -1: no verified checkpoint yet.
            match info.behind_ms {
                Some(behind) => line("behind_ms", &behind)?,
                None => line("behind_ms", &-1)?,
            }
            line("stale", &u8::from(info.stale))
        }
        _ => {
            if info.records > 0 {
                line("db0", &format_args!("keys={},expires=0,avg_ttl=0", info.records))?;
            }
            line("records", &info.records)?;
            line("record_bytes", &info.record_bytes)
        }
    }
}
