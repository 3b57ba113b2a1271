//! Backups: a verified file with everything, checked offline, restored as a new history.

use std::path::{Path, PathBuf};

use cinnabar_daemon::{Env, Tls, TlsFiles};
use cinnabar_kv::config::VoterConfig;
use cinnabar_kv::raft::Node;
use cinnabar_kv::replica::verify::Verifier;
use cinnabar_kv::snapshot::{self, Header};
use cinnabar_kv::snapshot_files::{Fetch, client};
use cinnabar_kv_api::StoreId;
use serde_json::{Value, json};

use super::connect::{Connect, block_on};
use super::error::CliError;
use super::report::{Format, print};
use super::store::{Process, load};

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

fn report(header: &Header, signed_by: Option<String>) -> Value {
    let (cluster, store_id) =
        header.store.as_ref().map_or((Value::Null, Value::Null), |(c, s)| (c.to_string().into(), s.to_string().into()));
    json!({
        "cluster": cluster,
        "store_id": store_id,
        "index": header.index,
        "records": header.records,
        "record_bytes": header.record_bytes,
        "state_hash": header.state_hash.to_string(),
        "chain_head": header.chain_head.to_string(),
        "checkpoint": signed_by.map_or("not checked: give --ca, --cert and --key".into(), Value::from),
    })
}

/// Checks every record of a file against its state hash, and the hash against a voter's signature when `tls` knows
/// the authority.
fn check(file: &Path, tls: Option<std::sync::Arc<Tls>>) -> Result<Value, CliError> {
    let header = snapshot::verify(file, |_, _| Ok(())).map_err(failed)?;
    let Some(tls) = tls else { return Ok(report(&header, None)) };
    let signed = header.checkpoint.as_ref().ok_or_else(|| failed("the file carries no checkpoint"))?;
    let checkpoint = Verifier::new(tls, Env::system().clock, None, None).old_checkpoint(signed).map_err(failed)?;
    if !header.agrees_with(&checkpoint) {
        return Err(failed("the file's checkpoint is of another state"));
    }
    Ok(report(&header, Some("signed by a voter of the cluster".to_owned())))
}

/// `cinnabar kv backup`.
pub fn backup(connect: &Connect, out: &Path, format: Format) -> Result<(), CliError> {
    if out.exists() {
        return Err(CliError::file(out, "exists already"));
    }
    let tls = connect.tls()?;
    let folder = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new().prefix(".cinnabar-").tempdir_in(folder).map_err(failed)?;
    let fetched: PathBuf = block_on(async {
        if connect.servers().is_empty() {
            return Err(CliError::Usage("--server is missing".to_owned()));
        }
        let channel = connect.channel().await?;
        let mut fetch = Fetch::open(scratch.path()).map_err(failed)?;
        fetch.run(&mut client(channel), None).await.map_err(|status| CliError::status(&status))
    })?;
    let checked = check(&fetched, Some(tls))?;
    std::fs::rename(&fetched, out).map_err(|error| CliError::file(out, error))?;
    print(format, &checked, None)
}

/// `cinnabar kv verify`.
pub fn verify(connect: &Connect, file: &Path, format: Format) -> Result<(), CliError> {
    let tls = if connect.has_identity() { Some(connect.tls()?) } else { None };
    print(format, &check(file, tls)?, None)
}

/// `cinnabar kv restore`.
pub fn restore(file: &Path, process: &Process, format: Format) -> Result<(), CliError> {
    let conf: VoterConfig = load(process)?;
    let node = conf.node();
    let env = Env::system();
    let files: &TlsFiles = &node.tls;
    let tls = Tls::load(files, &node.cluster, env.clock.clone()).map_err(failed)?;
    check(file, Some(tls.clone()))?;
    let mut store_id = StoreId::default();
    env.rng.fill(&mut store_id.0).map_err(failed)?;
    let member = Node { name: tls.identity().name.to_string(), address: node.advertise.clone() };
    let (assignment, header) =
        cinnabar_kv::restore::restore(file, &node.data_dir, &node.cluster, member, store_id).map_err(failed)?;
    let mut restored = report(&header, Some("signed by a voter of the cluster".to_owned()));
    restored["node_id"] = assignment.node_id.into();
    print(format, &restored, None)
}
