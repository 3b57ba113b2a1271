//! Files as commands use them: `-` for standard input and output, bounded reads, whole writes.
//!
//! Law: a file appears complete or not at all, and is never overwritten unless asked; secrets are readable by their
//! owner only from the first byte on.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::error::CliError;

/// Most bytes that a command reads from one file: beyond every key and every ciphertext that a store would carry.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What files are called while they are written. A command that is killed may leave one behind, secrets with mode 0600.
const TEMPORARY_PREFIX: &str = ".cinnabar-";

/// Where a command reads: a file, or standard input for `-`.
#[derive(Debug, Clone)]
pub struct Source(Option<PathBuf>);

/// Where a command writes: a file, or standard output for `-`.
#[derive(Debug, Clone)]
pub struct Destination(Option<PathBuf>);

/// Who may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// Mode 0600.
    Secret,
    /// Mode 0666 less the umask.
    Public,
}

fn path_or_dash(text: OsString) -> Option<PathBuf> {
    (text != "-").then(|| PathBuf::from(text))
}

impl From<OsString> for Source {
    fn from(text: OsString) -> Self {
        Self(path_or_dash(text))
    }
}

impl From<OsString> for Destination {
    fn from(text: OsString) -> Self {
        Self(path_or_dash(text))
    }
}

/// A path for people: control characters in a name must not reach their terminal.
fn printable(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => f.write_str(&printable(path)),
            None => f.write_str("standard input"),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => f.write_str(&printable(path)),
            None => f.write_str("standard output"),
        }
    }
}

impl Source {
    /// Whether this is standard input, which only one argument of a command can be.
    pub fn is_stdin(&self) -> bool {
        self.0.is_none()
    }

    /// Reads everything, at most [`FILE_BYTES_MAX`]. The buffer is wiped after use, whatever it held.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, CliError> {
        let fail = |problem: String| CliError::File { path: self.to_string(), problem };
        let bytes = match &self.0 {
            Some(path) => File::open(path).and_then(|file| {
                let size = file.metadata()?.len();
                read_all(file, size)
            }),
            None => read_all(io::stdin().lock(), 0),
        };
        let bytes = bytes.map_err(|error| fail(error.to_string()))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(fail(format!("longer than {FILE_BYTES_MAX} bytes, the most that is read")));
        }
        Ok(bytes)
    }
}

/// Reads to the end, or to one byte past [`FILE_BYTES_MAX`]. A buffer that was outgrown is wiped.
fn read_all(mut reader: impl Read, expected: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let most = FILE_BYTES_MAX as usize + 1;
    let first = usize::try_from(expected).unwrap_or(most).saturating_add(1).clamp(4096, most);
    let mut bytes = Zeroizing::new(vec![0; first]);
    let mut filled = 0;
    loop {
        if filled == bytes.len() {
            if filled == most {
                break;
            }
            let mut larger = Zeroizing::new(vec![0; (2 * filled).min(most)]);
            larger[..filled].copy_from_slice(&bytes);
            bytes = larger;
        }
        match reader.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

impl Destination {
    /// Whether this is standard output.
    pub fn is_stdout(&self) -> bool {
        self.0.is_none()
    }

    /// Whether two destinations name one file, however they spell it. Standard output is no file.
    pub fn is_same_file(&self, other: &Self) -> bool {
        let place = |destination: &Self| {
            let path = destination.0.as_deref()?;
            Some((folder_of(path).canonicalize().ok()?, path.file_name()?.to_owned()))
        };
        place(self).is_some_and(|own| Some(own) == place(other))
    }

    /// Fails when nothing can be written there, or a file is there and may not be overwritten: asked before work is done,
    /// so that none is lost.
    pub fn check_free(&self, force: bool) -> Result<(), CliError> {
        let Some(path) = &self.0 else { return Ok(()) };
        let refuse = |problem: &str| Err(CliError::File { path: self.to_string(), problem: problem.to_owned() });
        if path.file_name().is_none() || path.as_os_str().as_bytes().ends_with(b"/") {
            return refuse("not the name of a file");
        }
        match path.symlink_metadata() {
            Ok(metadata) if !metadata.is_file() => {
                refuse("not a regular file, which is all that is written to; use `-` for standard output")
            }
            Ok(_) if !force => Err(self.taken()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match folder_of(path).metadata() {
                Ok(folder) if folder.is_dir() => Ok(()),
                _ => refuse("its folder is not there: make it first"),
            },
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// Writes everything or nothing.
    pub fn write(&self, bytes: &[u8], secrecy: Secrecy, force: bool) -> Result<(), CliError> {
        self.prepare(bytes, secrecy, force)?.commit()
    }

    /// Writes and syncs everything beside the destination. Only [`Prepared::commit`] makes it appear, so that several
    /// files can be made sure of before the first appears.
    pub fn prepare(&self, bytes: &[u8], secrecy: Secrecy, force: bool) -> Result<Prepared<'_>, CliError> {
        self.check_free(force)?;
        let Some(path) = &self.0 else {
            return Ok(Prepared { to: self, force, content: Content::Stdout(Zeroizing::new(bytes.to_vec())) });
        };
        let mode = if secrecy == Secrecy::Secret { 0o600 } else { 0o666 };
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY_PREFIX).permissions(Permissions::from_mode(mode));
        // The library's own message names the temporary file, which nobody asked for.
        let file = builder.tempfile_in(folder_of(path)).map_err(|error| self.fail(&error.kind().into()));
        let mut file = file?;
        if secrecy == Secrecy::Secret {
            // Exactly this mode, whatever the umask takes away.
            let exact = file.as_file().set_permissions(Permissions::from_mode(mode));
            exact.map_err(|error| self.fail(&error))?;
        }
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|error| self.fail(&error))?;
        Ok(Prepared { to: self, force, content: Content::File(file) })
    }

    fn fail(&self, error: &io::Error) -> CliError {
        CliError::File { path: self.to_string(), problem: error.to_string() }
    }

    fn taken(&self) -> CliError {
        let problem = "the file is there already; choose another name, or --force to overwrite it".to_owned();
        CliError::File { path: self.to_string(), problem }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Bytes that are written and not yet there.
pub struct Prepared<'a> {
    to: &'a Destination,
    force: bool,
    content: Content,
}

enum Content {
    Stdout(Zeroizing<Vec<u8>>),
    File(NamedTempFile),
}

impl Prepared<'_> {
    /// Makes the file appear under its name, or prints to standard output.
    pub fn commit(self) -> Result<(), CliError> {
        match (self.content, &self.to.0) {
            (Content::File(file), Some(path)) if self.force => {
                file.persist(path).map(|_| ()).map_err(|error| self.to.fail(&error.error))
            }
            (Content::File(file), Some(path)) => match file.persist_noclobber(path) {
                Ok(_) => Ok(()),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(self.to.taken()),
                Err(error) => Err(self.to.fail(&error.error)),
            },
            (Content::Stdout(bytes), _) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&bytes).and_then(|()| stdout.flush()).map_err(|error| self.to.fail(&error))
            }
            (Content::File(_), None) => unreachable!("a file is prepared for a path"),
        }
    }
}
