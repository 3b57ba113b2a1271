//! What the directory keeps on disk: the highest head and generation it has seen, and the keys it has refused.
//!
//! File `directory` in the data folder: `format (1) | bincode | crc32c (4)`. Law: nothing kept here lets anything be
//! used; it only forbids. A file that cannot be read forbids the start: removing it is an operator's decision.

use std::io;
use std::path::PathBuf;

use cinnabar_daemon::codec;
use cinnabar_kv::files;
use serde::{Deserialize, Serialize};

use super::standing::KeyHash;
use crate::limits::REFUSED_MAX;

const FILE: &str = "directory";
const FORMAT: u8 = 1;
/// Bytes of the file: all refusals, and room for the rest.
const FILE_BYTES_MAX: usize = 24 * REFUSED_MAX + 4096;

/// The highest head, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptHead {
    pub index: u64,
    pub time_ms: u64,
    pub chain_head: [u8; 32],
}

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The highest head that verified.
    pub head: Option<KeptHead>,
    /// Has a head covered the copy that is in this folder?
    pub covered: bool,
    /// The highest generation that was active.
    pub generation: u32,
    /// Refused keys, and the least version that ends the refusal.
    pub refused: Vec<(KeyHash, u64)>,
}

/// The file; none keeps nothing.
#[derive(Debug)]
pub(super) struct KeptFile {
    dir: Option<PathBuf>,
}

impl KeptFile {
    pub(super) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir }
    }

    pub(super) fn load(&self) -> io::Result<Kept> {
        let Some(dir) = &self.dir else { return Ok(Kept::default()) };
        let path = dir.join(FILE);
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(Kept::default()) };
        let invalid = |problem: String| {
            let advice = "remove it only if the whole data folder is to be fetched anew";
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {problem}; {advice}", path.display()))
        };
        let body = files::without_checksum(&bytes).ok_or_else(|| invalid("its checksum does not hold".to_owned()))?;
        let kept = codec::decode::<Kept, FILE_BYTES_MAX>("directory file", FORMAT, body);
        kept.map_err(|error| invalid(error.to_string()))
    }

    pub(super) fn save(&self, kept: &Kept) -> io::Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        files::replace_file(dir, FILE, &files::with_checksum(&codec::encode(FORMAT, kept)))
    }
}
