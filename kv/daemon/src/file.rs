//! Reading small files with a bound and writing files that must not be lost, half there or readable by others.
//!
//! Law: a reader sees the whole file or none; nothing is overwritten unless the caller says so; when a write returns,
//! file and folder entry are on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Mode of a file that only its owner may read.
pub const PRIVATE: u32 = 0o600;
/// Mode of a file that anybody may read.
pub const PUBLIC: u32 = 0o644;

/// Reads a whole file of at most `bytes_max` bytes.
///
/// # Errors
/// What the operating system says; [`io::ErrorKind::FileTooLarge`] above the bound.
pub fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Writes a new file with `mode` ([`PRIVATE`], [`PUBLIC`]) and syncs it and its folder. `force` replaces an old file in
/// one step.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when the file is there and `force` is not set; otherwise what the operating system
/// says. After an error the old content is still in place.
pub fn write_synced(path: &Path, bytes: &[u8], mode: u32, force: bool) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    // A left-over of a run that died: nobody else writes under our process id.
    remove_if_there(&temporary)?;
    let written = write_and_place(&temporary, path, bytes, mode, force);
    remove_if_there(&temporary)?;
    written?;
    File::open(folder(path))?.sync_all()
}

fn write_and_place(temporary: &Path, path: &Path, bytes: &[u8], mode: u32, force: bool) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // A hard link fails where a name exists, a rename replaces it: both in one step.
    if force { fs::rename(temporary, path) } else { fs::hard_link(temporary, path) }
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    Ok(folder(path).join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id())))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_private_file_is_never_overwritten_unless_forced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write_synced(&path, b"one", PRIVATE, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let error = write_synced(&path, b"two", PRIVATE, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");

        write_synced(&path, b"three", PRIVATE, true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays behind");
    }

    #[test]
    fn a_file_above_the_bound_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big");
        fs::write(&path, [0; 11]).unwrap();
        assert_eq!(read_bounded(&path, 11).unwrap().len(), 11);
        assert_eq!(read_bounded(&path, 10).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
