//! Small files and folders whose names and bytes must be on disk when a call returns.
//!
//! One process owns a node's folder, so a file is replaced through one fixed name: what a cut leaves there is written
//! over by the next replacement.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Syncs a folder, so that its files' names are on disk. The empty path is the working folder.
///
/// # Errors
/// The folder's.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Creates a folder with those above it that are missing, and syncs the names of all that it created.
///
/// # Errors
/// The folders'.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(dir)?;
    // The folder itself may have been created before a crash, and never synced.
    for folder in [dir].into_iter().chain(missing).filter_map(Path::parent) {
        sync_dir(folder)?;
    }
    sync_dir(dir)
}

/// Replaces a small file so that after a power cut it is the old one or the new one.
///
/// # Errors
/// The file's or the folder's.
pub fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = dir.join(format!("{name}.new"));
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join(name))?;
    sync_dir(dir)
}

/// Reads a file; none when there is none.
///
/// # Errors
/// The file's.
pub fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes followed by their checksum: `bytes | crc32c u32`, little-endian.
pub fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    [bytes, &crc32c::crc32c(bytes).to_le_bytes()].concat()
}

/// What [`with_checksum`] was given, if the checksum holds.
pub fn without_checksum(bytes: &[u8]) -> Option<&[u8]> {
    let (bytes, crc) = bytes.split_last_chunk::<4>()?;
    (crc32c::crc32c(bytes) == u32::from_le_bytes(*crc)).then_some(bytes)
}
