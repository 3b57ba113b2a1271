//! The audit log: who had the authority do what, one JSON line each, every line chained to the one before.
//!
//! The road: a handler appends what it is about to do, [`Audit::append`] returns once the line is on disk, and only then
//! a secret leaves or a record is written. [`verify`] walks a file, here or on another machine.
//! Law: an act without its line does not happen: after one failed append every later one fails, and the caller refuses.
//! Lines are never changed or taken away; the one thing that is ever cut is a last line that a crash left without its
//! end, which was never acknowledged, and the cut is a line itself. Nothing secret is in it: entries are texts.
//!
//! A line's hash covers the line and, through `previous`, all lines before it. Who can write the file can still cut its
//! end or write all of it anew: that shows only against a [`AuditHead`] which was kept elsewhere. Layout:
//! `docs/formats.md#audit-log`.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use cinnabar_daemon::file::PRIVATE;
use cinnabar_daemon::{Clock, ClusterId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most bytes of a line, its line end counted.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of an actor or an act.
pub const WORD_BYTES_MAX: usize = 255;
/// Most bytes of a subject.
pub const SUBJECT_BYTES_MAX: usize = 1024;
/// Most details of one entry.
pub const DETAILS_MAX: usize = 32;
/// How much of the end is checked when a file is opened, in bytes: at least its last three lines.
const TAIL_BYTES: u64 = 4 * LINE_BYTES_MAX as u64;

const FORMAT: u8 = 1;
const HASH_BYTES: usize = 32;
/// `,"hash":"` and 64 digits and `"}`.
const HASH_FIELD_BYTES: usize = 9 + 2 * HASH_BYTES + 2;
const LINE_START: &[u8] = b"{\"format\":1,\"seq\":1,";
/// The actor of what the log does by itself.
const OURSELVES: &str = "audit log";
const BEGIN: &str = "begin";
const CUT: &str = "cut torn line";

/// Why a line was not written or a file is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The operating system refused. After a failed append the log is [`AuditError::Broken`].
    #[error("audit log {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the file open for appending.
    #[error("audit log {}: in use by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what was written. A person must look.
    #[error("audit log {}, line {line}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first bad line, counted from 1; 0 where only the file's end was looked at.
        line: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The file is another cluster's.
    #[error("audit log {}: of cluster `{actual}`, not `{expected}`", path.display())]
    ForeignCluster {
        /// The file.
        path: PathBuf,
        /// Our cluster.
        expected: ClusterId,
        /// Whose it is.
        actual: String,
    },
    /// The file does not hold the line that was kept elsewhere: its end was cut, or it was written anew.
    #[error("audit log {}: it does not hold line {}", path.display(), anchor.seq)]
    Anchor {
        /// The file.
        path: PathBuf,
        /// What was kept.
        anchor: AuditHead,
    },
    /// An entry is past a bound. Refuse what it was for.
    #[error("audit entry, {what}: {problem}")]
    Entry {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An earlier append failed, so that nobody knows what is on disk. Restart.
    #[error("audit log: an earlier line could not be written")]
    Broken,
}

// === Entries and heads ===

/// What is about to be done. Texts only; what is secret has no text.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Who asked for it, such as an identity; 1 to [`WORD_BYTES_MAX`] bytes.
    pub actor: &'a str,
    /// What it is, such as `issue machine key`; 1 to [`WORD_BYTES_MAX`] bytes.
    pub act: &'a str,
    /// To what; at most [`SUBJECT_BYTES_MAX`] bytes.
    pub subject: &'a str,
    /// What else is worth knowing; at most [`DETAILS_MAX`], no name twice.
    pub details: &'a [(&'static str, &'a str)],
}

impl Entry<'_> {
    fn check(&self) -> Result<(), AuditError> {
        let refuse = |what, problem| Err(AuditError::Entry { what, problem });
        for (what, word) in [("actor", self.actor), ("act", self.act)] {
            if word.is_empty() || word.len() > WORD_BYTES_MAX {
                return refuse(what, "not of 1 to 255 bytes");
            }
        }
        if self.subject.len() > SUBJECT_BYTES_MAX {
            return refuse("subject", "longer than 1024 bytes");
        }
        if self.details.len() > DETAILS_MAX {
            return refuse("details", "more than 32");
        }
        let twice = |(n, detail): (usize, &(&str, &str))| self.details[..n].iter().any(|other| other.0 == detail.0);
        if self.details.iter().enumerate().any(twice) {
            return refuse("details", "one name stands there twice");
        }
        Ok(())
    }
}

/// A place of the log: number and hash of a line. Kept elsewhere, it shows whether the log before it was touched.
/// `Display` writes `seq:hash`, parsing takes exactly that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// Number of the line, from 1; 0 before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; HASH_BYTES],
}

impl AuditHead {
    const NONE: Self = Self { seq: 0, hash: [0; HASH_BYTES] };
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, to_hex(&self.hash))
    }
}

impl FromStr for AuditHead {
    type Err = AuditError;

    fn from_str(text: &str) -> Result<Self, AuditError> {
        let malformed = || AuditError::Entry { what: "head", problem: "not of the form NUMBER:HASH" };
        let (seq, hash) = text.split_once(':').ok_or_else(malformed)?;
        let head = Self {
            seq: seq.parse().map_err(|_| malformed())?,
            hash: blake3::Hash::from_hex(hash).map_err(|_| malformed())?.into(),
        };
        if head.to_string() == text { Ok(head) } else { Err(malformed()) }
    }
}

// === Lines ===

/// A line without its hash; fields stand in this order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    format: u8,
    seq: u64,
    time_ms: u64,
    actor: String,
    act: String,
    subject: String,
    details: Map<String, Value>,
    previous: String,
}

impl Line {
    fn new(entry: &Entry<'_>, time_ms: u64, previous: &AuditHead) -> Self {
        let details = entry.details.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
        Self {
            format: FORMAT,
            seq: previous.seq + 1,
            time_ms,
            actor: entry.actor.to_owned(),
            act: entry.act.to_owned(),
            subject: entry.subject.to_owned(),
            details: details.collect(),
            previous: to_hex(&previous.hash),
        }
    }

    /// The line's bytes with its line end, and where the log then stands.
    fn seal(&self) -> Result<(Vec<u8>, AuditHead), AuditError> {
        let mut bytes = serde_json::to_vec(self).expect("texts and numbers are JSON");
        let hash = *blake3::hash(&bytes).as_bytes();
        bytes.pop();
        bytes.extend_from_slice(format!(",\"hash\":\"{}\"}}\n", to_hex(&hash)).as_bytes());
        if bytes.len() > LINE_BYTES_MAX {
            return Err(AuditError::Entry { what: "line", problem: "longer than 16 KiB" });
        }
        Ok((bytes, AuditHead { seq: self.seq, hash }))
    }

    /// Reads a line without its line end, and its hash; not yet whether it follows another.
    fn read(line: &[u8]) -> Result<(Self, AuditHead), &'static str> {
        let end = line.len().checked_sub(HASH_FIELD_BYTES).ok_or("too short")?;
        let body = [&line[..end], b"}"].concat();
        let read: Self = serde_json::from_slice(&body).map_err(|_| "not a line of this log")?;
        if read.format != FORMAT {
            return Err("another format");
        }
        // Written again it must be the same: a line has one spelling.
        match read.seal() {
            Ok((bytes, head)) if bytes.strip_suffix(b"\n") == Some(line) => Ok((read, head)),
            _ => Err("its hash is another: it was changed"),
        }
    }

    fn follows(&self, previous: &AuditHead) -> Result<(), &'static str> {
        if previous.seq.checked_add(1) != Some(self.seq) {
            return Err("its number is not the next");
        }
        if self.previous != to_hex(&previous.hash) {
            return Err("it follows another line");
        }
        Ok(())
    }
}

fn to_hex(hash: &[u8; HASH_BYTES]) -> String {
    blake3::Hash::from(*hash).to_hex().to_string()
}

// === Audit ===

/// The log, open for appending. One process at a time; threads take turns.
pub struct Audit {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    /// Bytes of whole lines.
    length: u64,
    head: AuditHead,
    broken: bool,
}

impl Audit {
    /// Opens the log of a cluster, or begins one. Checks its first line and its last ones; [`verify`] checks all. Cuts a
    /// torn last line and says so in a new one.
    ///
    /// # Errors
    /// [`AuditError::File`], [`AuditError::Locked`], [`AuditError::Damaged`], [`AuditError::ForeignCluster`].
    pub fn open(path: &Path, cluster: &ClusterId, clock: Arc<dyn Clock>) -> Result<Self, AuditError> {
        let failed = |source| AuditError::File { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(AuditError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let bytes = file.metadata().map_err(failed)?.len();
        let (length, head) = read_ends(path, &file, bytes, cluster)?;
        let audit =
            Self { path: path.to_owned(), clock, inner: Mutex::new(Inner { file, length, head, broken: false }) };
        let torn = (bytes - length).to_string();
        if head == AuditHead::NONE {
            let details: &[_] = if bytes == 0 { &[] } else { &[("torn_bytes", torn.as_str())] };
            audit.append(&Entry { actor: OURSELVES, act: BEGIN, subject: cluster.as_str(), details })?;
        } else if bytes > length {
            let details = &[("torn_bytes", torn.as_str())];
            audit.append(&Entry { actor: OURSELVES, act: CUT, subject: cluster.as_str(), details })?;
        }
        audit.cut_behind_last_line().map_err(failed)?;
        Ok(audit)
    }

    /// Appends one line. When it returns, the line is on disk; the caller may then do what it says. Blocks for the disk.
    ///
    /// # Errors
    /// [`AuditError::Entry`]: nothing was written. [`AuditError::File`] and [`AuditError::Broken`]: refuse everything
    /// from now on.
    pub fn append(&self, entry: &Entry<'_>) -> Result<AuditHead, AuditError> {
        entry.check()?;
        let mut inner = self.inner.lock();
        if inner.broken {
            return Err(AuditError::Broken);
        }
        let (bytes, head) = Line::new(entry, self.clock.unix_ms(), &inner.head).seal()?;
        // Believed broken until the disk says otherwise, so that no way out of here leaves it in doubt.
        inner.broken = true;
        let written = inner.file.write_all_at(&bytes, inner.length).and_then(|()| inner.file.sync_data());
        written.map_err(|source| AuditError::File { path: self.path.clone(), source })?;
        inner.length += bytes.len() as u64;
        inner.head = head;
        inner.broken = false;
        Ok(head)
    }

    /// The last line: worth keeping elsewhere.
    pub fn head(&self) -> AuditHead {
        self.inner.lock().head
    }

    /// The line about the cut was written over the torn one; what reaches behind it goes last, so that a crash at any
    /// point leaves a torn line or the line about it.
    fn cut_behind_last_line(&self) -> io::Result<()> {
        let inner = self.inner.lock();
        inner.file.set_len(inner.length)?;
        inner.file.sync_all()?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("path", &self.path).field("head", &self.head()).finish_non_exhaustive()
    }
}

/// Bytes of whole lines, and the last of them.
fn read_ends(path: &Path, file: &File, bytes: u64, cluster: &ClusterId) -> Result<(u64, AuditHead), AuditError> {
    let failed = |source| AuditError::File { path: path.to_owned(), source };
    let damaged = |line, problem| AuditError::Damaged { path: path.to_owned(), line, problem };
    let mut first = vec![0; usize::try_from(bytes.min(LINE_BYTES_MAX as u64)).expect("16 KiB at most")];
    file.read_exact_at(&mut first, 0).map_err(failed)?;
    let Some(end) = first.iter().position(|byte| *byte == b'\n') else {
        // No whole line at all: torn if it can have been one line, and nothing was ever acknowledged.
        // Only what can be the beginning of ours is written over: the path may be a mistake.
        let ours = first.iter().all(|byte| *byte == 0) || first.iter().zip(LINE_START).all(|(a, b)| a == b);
        let begun = ours && bytes < LINE_BYTES_MAX as u64;
        return if begun { Ok((0, AuditHead::NONE)) } else { Err(damaged(1, "not an audit log")) };
    };
    let (begin, _) = Line::read(&first[..end]).map_err(|problem| damaged(1, problem))?;
    begin.follows(&AuditHead::NONE).map_err(|problem| damaged(1, problem))?;
    if begin.act != BEGIN || begin.subject != cluster.as_str() {
        let (expected, actual) = (cluster.clone(), begin.subject);
        return Err(AuditError::ForeignCluster { path: path.to_owned(), expected, actual });
    }

    let start = bytes.saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; usize::try_from(bytes - start).expect("TAIL_BYTES at most")];
    file.read_exact_at(&mut tail, start).map_err(failed)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').ok_or_else(|| damaged(0, "the last line is too long"))?;
    if tail.len() - whole > LINE_BYTES_MAX {
        return Err(damaged(0, "the last line is too long"));
    }
    let mut lines = tail[..whole].split(|byte| *byte == b'\n');
    // In the middle of a file the first piece is the end of a line that begins before.
    if start > 0 {
        lines.next();
    }
    let mut previous = None;
    for line in lines {
        let (line, head) = Line::read(line).map_err(|problem| damaged(0, problem))?;
        let line_before = previous.unwrap_or(if start == 0 { Some(AuditHead::NONE) } else { None });
        if let Some(before) = line_before {
            line.follows(&before).map_err(|problem| damaged(line.seq, problem))?;
        }
        previous = Some(Some(head));
    }
    let head = previous.flatten().ok_or_else(|| damaged(0, "no whole line at the end"))?;
    Ok((start + whole as u64 + 1, head))
}

// === Verifying ===

/// What a walk over a whole file found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose log it is.
    pub cluster: String,
    /// Its last whole line.
    pub head: AuditHead,
    /// Torn lines that were cut when the log was opened.
    pub cuts: u64,
    /// Bytes behind the last whole line: a crash left them, or a line is being written now.
    pub torn_bytes: u64,
}

/// Walks a whole file, of a running authority too, and checks every line; with an `anchor` that was kept elsewhere, also
/// that nothing up to it was cut or written anew.
///
/// # Errors
/// [`AuditError::File`]; [`AuditError::Damaged`] with the first bad line; [`AuditError::Anchor`].
pub fn verify(path: &Path, anchor: Option<&AuditHead>) -> Result<Verified, AuditError> {
    let failed = |source| AuditError::File { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut verified = Verified { cluster: String::new(), head: AuditHead::NONE, cuts: 0, torn_bytes: 0 };
    let mut anchored = anchor.is_none_or(|anchor| *anchor == AuditHead::NONE);
    let mut bytes = Vec::with_capacity(LINE_BYTES_MAX);
    loop {
        bytes.clear();
        reader.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut bytes).map_err(failed)?;
        let number = verified.head.seq + 1;
        let damaged = |problem| AuditError::Damaged { path: path.to_owned(), line: number, problem };
        let Some(line) = bytes.strip_suffix(b"\n") else {
            if bytes.len() == LINE_BYTES_MAX {
                return Err(damaged("too long"));
            }
            verified.torn_bytes = bytes.len() as u64;
            break;
        };
        let (line, head) = Line::read(line).map_err(damaged)?;
        line.follows(&verified.head).map_err(damaged)?;
        match (number, line.act.as_str()) {
            (1, BEGIN) => verified.cluster = line.subject,
            (1, _) => return Err(damaged("a log begins otherwise")),
            (_, CUT) if line.actor == OURSELVES => verified.cuts += 1,
            _ => {}
        }
        verified.head = head;
        anchored = anchored || anchor == Some(&head);
    }
    match anchor {
        Some(anchor) if !anchored => Err(AuditError::Anchor { path: path.to_owned(), anchor: *anchor }),
        _ => Ok(verified),
    }
}

#[cfg(test)]
mod tests;
