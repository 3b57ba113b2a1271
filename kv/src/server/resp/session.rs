//! What a connection has agreed on, and the answer to each of its commands.
//!
//! The road: [`Session::execute`] finds the command, and either writes its answer at once or says what the connection
//! must wait for: more than one record, a page, or an index. Law: a command that fails has written nothing before its
//! error; a key that cannot exist is an error and not an absent one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cinnabar_kv_api::limits::KEY_BYTES_MAX;

use super::commands::{self, Kind};
use super::failure::{Failure, Unknown};
use super::glob::Glob;
use super::limits::{AT_LEAST_WAIT_MS, PATTERN_BYTES_MAX, SCAN_KEYS_DEFAULT, SCAN_KEYS_MAX, TIMED_READ_EVERY};
use super::parser::Args;
use super::reply::Reply;
use super::{Endpoint, Keys, Source};
use crate::local::ReadError;
use crate::state::{Read, Record};

/// What is to be done after a command.
#[derive(Debug)]
pub enum Flow {
    /// The next one.
    Next,
    /// End the connection once its answers are sent.
    End,
    /// `MGET`: its keys' values, one after the other.
    Values,
    /// `SCAN`: a page of keys.
    Page(PageOf),
    /// `CINNABAR.GET`: the first argument's record, once this index is applied.
    AtLeast(u64),
}

/// What a `SCAN` asks for.
#[derive(Debug, Clone)]
pub struct PageOf {
    /// The cursor that it passed.
    pub cursor: u64,
    /// The key to go on after.
    pub after: Bytes,
    /// Which keys it wants; none wants all.
    pub glob: Option<Glob>,
    /// How many to look at.
    pub keys_max: usize,
    /// It wants keys of a type that no key here has.
    pub none: bool,
}

/// One connection's part of the conversation.
pub struct Session<S> {
    /// What all connections share.
    pub(super) endpoint: Arc<Endpoint<S>>,
    /// Unique in the process.
    pub(super) id: u64,
    /// `CLIENT SETNAME`.
    pub(super) name: Vec<u8>,
    /// `CLIENT SETINFO`: the library's name and version.
    pub(super) library: [Vec<u8>; 2],
    reads: u64,
    counted: u64,
}

/// A decimal number without sign.
pub(super) fn number(arg: &[u8]) -> Result<u64, Failure> {
    // `parse` takes a plus sign, which Redis does not.
    let digits = arg.first().is_some_and(u8::is_ascii_digit);
    let text = std::str::from_utf8(arg).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or(Failure::Integer)
}

fn check_key(key: &[u8]) -> Result<(), Failure> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(ReadError::Key(key.len()).into());
    }
    Ok(())
}

impl<S: Source> Session<S> {
    /// A connection that has agreed on nothing yet.
    pub(super) fn new(endpoint: Arc<Endpoint<S>>, id: u64) -> Self {
        Self { endpoint, id, name: Vec::new(), library: [Vec::new(), Vec::new()], reads: 0, counted: 0 }
    }

    /// Answers a command, or says what it must wait for.
    pub(super) fn execute(&mut self, args: Args<'_>, reply: &mut Reply) -> Flow {
        let Some(name) = args.get(0) else { return Flow::Next };
        self.dispatch(name, args, reply).unwrap_or_else(|failure| {
            reply.error(&failure);
            Flow::Next
        })
    }

    fn dispatch(&mut self, name: &[u8], args: Args<'_>, reply: &mut Reply) -> Result<Flow, Failure> {
        let Some(spec) = commands::find(name) else { return Err(self.refuse(name, args)) };
        if !spec.takes(args.len()) {
            return Err(Failure::Arity(spec.name));
        }
        let first = args.get(1).unwrap_or_default();
        match spec.kind {
            Kind::Get => {
                let read = self.read(first)?;
                reply.bulk_or_nil(read.record.as_ref().map(|record| &record.value[..]));
            }
            Kind::Mget => {
                args.rest(1).try_for_each(check_key)?;
                return Ok(Flow::Values);
            }
            Kind::Exists => self.exists(args, reply)?,
            Kind::Strlen => {
                let record = self.read(first)?.record;
                reply.integer(record.map_or(0, |record| record.value.len() as u64));
            }
            Kind::Type => reply.simple(self.read(first)?.record.map_or("none", |_| "string")),
            // Nothing here expires.
            Kind::Ttl => reply.negative(self.read(first)?.record.map_or(2, |_| 1)),
            Kind::Dbsize => reply.integer(self.endpoint.source.count()?),
            Kind::Scan => return self.scan(args).map(Flow::Page),
            Kind::CinnabarGet => return self.at_least(args),
            Kind::Ping if args.len() > 2 => return Err(Failure::Arity(spec.name)),
            Kind::Ping if args.len() == 2 => reply.bulk(first),
            Kind::Ping => reply.simple("PONG"),
            Kind::Echo => reply.bulk(first),
            Kind::Select => match number(first)? {
                0 => reply.simple("OK"),
                _ => return Err(Failure::Database),
            },
            Kind::Hello => self.hello(args, reply)?,
            Kind::Auth => self.auth(args, reply)?,
            Kind::Client => self.client(args, reply)?,
            Kind::Command => self.command(args, reply)?,
            Kind::Info => self.info(args, reply),
            Kind::Reset => self.reset(reply),
            Kind::Quit => {
                reply.simple("OK");
                return Ok(Flow::End);
            }
        }
        Ok(Flow::Next)
    }

    fn refuse(&self, name: &[u8], args: Args<'_>) -> Failure {
        if commands::writes(name) {
            return Failure::ReadOnly;
        }
        match commands::advice(name) {
            Some((name, advice)) => Failure::Advice(name, advice),
            None => Failure::Unknown(Unknown::new(args)),
        }
    }

    /// Reads a key; counts it, and measures one read of [`TIMED_READ_EVERY`].
    pub(super) fn read(&mut self, key: &[u8]) -> Result<Read, ReadError> {
        let source = &self.endpoint.source;
        let timed = self.reads.is_multiple_of(TIMED_READ_EVERY);
        self.reads += 1;
        if !timed {
            return source.get(key);
        }
        let begun = source.clock().now();
        let read = source.get(key);
        let took = source.clock().now().saturating_duration_since(begun);
        self.endpoint.metrics.read_seconds_resp.record(took.as_secs_f64());
        read
    }

    /// Adds what was read to the metric: once for all commands that came together.
    pub(super) fn count_reads(&mut self) {
        if self.reads != self.counted {
            self.endpoint.metrics.reads_resp.increment(self.reads - self.counted);
            self.counted = self.reads;
        }
    }

    fn exists(&mut self, args: Args<'_>, reply: &mut Reply) -> Result<(), Failure> {
        let mut found = 0;
        for key in args.rest(1) {
            found += u64::from(self.read(key)?.record.is_some());
        }
        reply.integer(found);
        Ok(())
    }

    fn at_least(&self, args: Args<'_>) -> Result<Flow, Failure> {
        check_key(args.get(1).unwrap_or_default())?;
        match (args.len(), args.get(2), args.get(3)) {
            (2, ..) => Ok(Flow::AtLeast(0)),
            (4, Some(word), Some(index)) if word.eq_ignore_ascii_case(b"atleast") => number(index).map(Flow::AtLeast),
            _ => Err(Failure::Syntax),
        }
    }

    /// Waits until an index is applied, within the endpoint's bound.
    pub(super) async fn wait(&self, index: u64) -> Result<(), Failure> {
        let wait = Duration::from_millis(AT_LEAST_WAIT_MS);
        Ok(self.endpoint.source.wait(index, wait).await?)
    }

    /// Answers `CINNABAR.GET`: value or nil, index of the entry that wrote it or 0, index at which this was so.
    pub(super) fn record(&mut self, key: &[u8], reply: &mut Reply) -> Result<(), Failure> {
        let Read { record, applied_index } = self.read(key)?;
        reply.array(3);
        reply.bulk_or_nil(record.as_ref().map(|record| &record.value[..]));
        reply.integer(record.as_ref().map_or(0, |Record { mod_index, .. }| *mod_index));
        reply.integer(applied_index);
        Ok(())
    }

    fn scan(&self, args: Args<'_>) -> Result<PageOf, Failure> {
        let cursor = number(args.get(1).unwrap_or_default()).map_err(|_| Failure::Cursor)?;
        let mut page = PageOf { cursor, after: Bytes::new(), glob: None, keys_max: SCAN_KEYS_DEFAULT, none: false };
        let mut options = args.rest(2);
        while let Some(option) = options.next() {
            let value = options.next().ok_or(Failure::Syntax)?;
            if option.eq_ignore_ascii_case(b"match") {
                if value.len() > PATTERN_BYTES_MAX {
                    return Err(Failure::Pattern);
                }
                page.glob = (value != b"*").then(|| Glob::new(value));
            } else if option.eq_ignore_ascii_case(b"count") {
                let count = usize::try_from(number(value)?).unwrap_or(usize::MAX);
                page.keys_max = Some(count.min(SCAN_KEYS_MAX)).filter(|count| *count > 0).ok_or(Failure::Syntax)?;
            } else if option.eq_ignore_ascii_case(b"type") {
                page.none = !value.eq_ignore_ascii_case(b"string");
            } else {
                return Err(Failure::Syntax);
            }
        }
        let now = self.endpoint.source.clock().now();
        page.after = self.endpoint.cursors.lock().find(cursor, now).ok_or(Failure::Cursor)?;
        Ok(page)
    }

    /// Answers `SCAN`. Reads the page on a thread that may wait for the disk.
    pub(super) async fn page(&self, page: PageOf, reply: &mut Reply) -> Result<(), Failure> {
        let cursor = page.cursor;
        let keys = if page.none { Keys::default() } else { self.keys(page).await? };
        let now = self.endpoint.source.clock().now();
        let next = {
            let mut cursors = self.endpoint.cursors.lock();
            match keys.next {
                Some(after) => cursors.give(cursor, after, now),
                None => {
                    cursors.end(cursor);
                    0
                }
            }
        };
        reply.array(2);
        reply.bulk(next.to_string().as_bytes());
        reply.array(keys.keys.len());
        keys.keys.iter().for_each(|key| reply.bulk(key));
        Ok(())
    }

    async fn keys(&self, page: PageOf) -> Result<Keys, Failure> {
        let source = self.endpoint.source.clone();
        let read = move || {
            let prefix = page.glob.as_ref().map(Glob::prefix).unwrap_or_default();
            let mut keys = source.page(prefix, &page.after, page.keys_max)?;
            if let Some(glob) = &page.glob {
                keys.keys.retain(|key| glob.matches(key));
            }
            Ok::<_, super::SourceError>(keys)
        };
        let read = tokio::task::spawn_blocking(read).await;
        // The runtime is ending, or the page hit a bug of ours, which must be seen.
        Ok(read.map_err(|_| super::SourceError::Ended)??)
    }
}
