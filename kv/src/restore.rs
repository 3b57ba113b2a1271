//! Restoring: a folder for one voter, made from a backup, that begins a new history of the same cluster.
//!
//! The cluster id stays (it is in certificates and in what customers' keys are bound to); the store id is new, and
//! replicas follow it only by an operator's command. The voter's node id is past every id that the old history gave.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cinnabar_daemon::ClusterId;
use cinnabar_kv_api::{StoreId, codec};

use crate::files::replace_file;
use crate::limits::ENGINE_CACHE_BYTES_DEFAULT;
use crate::local::{CURRENT_FILE, STATE_PREFIX};
use crate::log::purged_file;
use crate::node::{ASSIGNMENT_FILE, ASSIGNMENT_FORMAT, Assignment, NodeError, lock_folder};
use crate::raft::{Node, single_membership, vote_file};
use crate::snapshot::{self, Header, SnapshotError};
use crate::store::{Engine, SledEngine, StoreError};

/// Why a backup was not restored. The folder is to be removed before another attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Something is in the folder.
    #[error("{}: is not empty; a restore begins in a new folder", .0.display())]
    NotEmpty(PathBuf),
    /// The backup is of another cluster.
    #[error("the backup is of cluster {theirs}, the configuration says {ours}")]
    OtherCluster {
        /// The backup's.
        theirs: String,
        /// The configuration's.
        ours: ClusterId,
    },
    /// The folder's.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The backup's.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Fills `data_dir` from a backup, for the voter `node`, as a new history named `store_id`; gives the assignment and
/// the header of what was restored.
///
/// # Errors
/// [`RestoreError`].
pub fn restore(
    backup: &Path,
    data_dir: &Path,
    cluster: &ClusterId,
    node: Node,
    store_id: StoreId,
) -> Result<(Assignment, Header), RestoreError> {
    let _lock = lock_folder(data_dir)?;
    if fs::read_dir(data_dir)?.filter_map(Result::ok).any(|entry| entry.file_name() != "lock") {
        return Err(RestoreError::NotEmpty(data_dir.to_owned()));
    }
    let named = snapshot::read_header(backup)?.store;
    if named.as_ref().map(|(theirs, _)| theirs) != Some(cluster) {
        let theirs = named.map_or("none".to_owned(), |(theirs, _)| theirs.to_string());
        return Err(RestoreError::OtherCluster { theirs, ours: cluster.clone() });
    }
    let index = snapshot::read_header(backup)?.index;
    let assignment = Assignment { cluster: cluster.clone(), store_id, node_id: index + 1 };
    let state_dir = data_dir.join("state");
    let name = format!("{STATE_PREFIX}{index:020}");
    let engine: Arc<dyn Engine> = Arc::new(SledEngine::open(&state_dir.join(&name), ENGINE_CACHE_BYTES_DEFAULT)?);
    let header = snapshot::import_as(backup, &engine, |header| {
        header.store = Some((cluster.clone(), store_id));
        let body = single_membership(assignment.node_id, node);
        header.membership = Some((header.point(), body));
    })?;
    drop(engine);
    replace_file(&state_dir, CURRENT_FILE, name.as_bytes())?;
    let log_dir = data_dir.join("log");
    fs::create_dir_all(&log_dir)?;
    let (purged, bytes) = purged_file(&header.point());
    replace_file(&log_dir, purged, &bytes)?;
    let (vote, bytes) = vote_file(header.term, assignment.node_id);
    replace_file(&log_dir, vote, &bytes)?;
    // Last: without it the folder belongs to no one, and a cut restore is seen.
    replace_file(data_dir, ASSIGNMENT_FILE, &codec::encode(ASSIGNMENT_FORMAT, &assignment))?;
    Ok((assignment, header))
}
