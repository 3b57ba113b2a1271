//! Files as commands use them: `-` for standard input and output, bounded reads, whole writes.
//!
//! Law: a file appears complete or not at all, and is never overwritten unless asked; secrets are readable by their
//! owner only from the first byte on.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use zeroize::Zeroizing;

use super::error::CliError;

/// Most bytes that a command reads from one file: beyond every key and every ciphertext that a store would carry.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

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

fn path_or_dash(text: &str) -> Option<PathBuf> {
    (text != "-").then(|| PathBuf::from(text))
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(path_or_dash(text)))
    }
}

impl FromStr for Destination {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(path_or_dash(text)))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => path.display().fmt(f),
            None => f.write_str("standard input"),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => path.display().fmt(f),
            None => f.write_str("standard output"),
        }
    }
}

impl Source {
    /// Whether this is standard input, which only one argument of a command can be.
    pub fn is_stdin(&self) -> bool {
        self.0.is_none()
    }

    /// Reads everything, at most [`FILE_BYTES_MAX`]; the buffer is wiped after use, whatever it held.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, CliError> {
        let fail = |problem: String| CliError::File { path: self.to_string(), problem };
        let mut reader: Box<dyn Read> = match &self.0 {
            Some(path) => Box::new(File::open(path).map_err(|error| fail(error.to_string()))?),
            None => Box::new(io::stdin().lock()),
        };
        let mut bytes = Zeroizing::new(Vec::new());
        let read = reader.by_ref().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| fail(error.to_string()))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(fail(format!("longer than {FILE_BYTES_MAX} bytes, the most that is read")));
        }
        Ok(bytes)
    }
}

impl Destination {
    /// Whether this is standard output.
    pub fn is_stdout(&self) -> bool {
        self.0.is_none()
    }

    /// The path, unless this is standard output.
    pub fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    /// Fails when the file is there and may not be overwritten: asked before work is done, so that none is lost.
    pub fn check_free(&self, force: bool) -> Result<(), CliError> {
        match &self.0 {
            Some(path) if !force && path.symlink_metadata().is_ok() => Err(self.taken()),
            _ => Ok(()),
        }
    }

    /// Writes everything or nothing.
    pub fn write(&self, bytes: &[u8], secrecy: Secrecy, force: bool) -> Result<(), CliError> {
        let fail = |error: io::Error| CliError::File { path: self.to_string(), problem: error.to_string() };
        let Some(path) = &self.0 else {
            let mut stdout = io::stdout().lock();
            return stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(fail);
        };
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mode = if secrecy == Secrecy::Secret { 0o600 } else { 0o666 };
        let mut file =
            tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(folder).map_err(fail)?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
        if force {
            file.persist(path).map_err(|error| fail(error.error))?;
            return Ok(());
        }
        match file.persist_noclobber(path) {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(self.taken()),
            Err(error) => Err(fail(error.error)),
        }
    }

    fn taken(&self) -> CliError {
        let problem = "the file is there already; choose another name, or --force to overwrite it".to_owned();
        CliError::File { path: self.to_string(), problem }
    }
}
