//! `cinnabar abe inspect`: what a file holds, from its structure alone; and what the audit's answers mean.

use cinnabar_abe::{AttributeKey, Ciphertext, Error, PublicKey, SystemSecretKey, Verdict};
use clap::Args;
use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::files::Source;
use crate::cli::report::{self, Format};

/// What `inspect` reads.
#[derive(Args)]
pub struct InspectArgs {
    /// A key or a ciphertext.
    #[arg(value_name = "FILE", default_value = "-")]
    input: Source,
    /// The cluster whose policy id to show (ids differ between clusters).
    #[arg(long, value_name = "ID", default_value = "")]
    cluster: String,
}

/// Runs the command.
pub fn run(args: &InspectArgs, format: Format) -> Result<(), CliError> {
    let bytes = args.input.read()?;
    let result = describe(&bytes, &args.cluster).map_err(CliError::abe(args.input.to_string()))?;
    report::print(format, &result, None)
}

/// What each kind of file starts with: the length and dimensions of its first field.
const PUBLIC_KEY_START: &[u8] = &[0x04, 0x06, 4, 0, 2, 0];
const SYSTEM_SECRET_KEY_START: &[u8] = &[0xc4, 0, 3, 0, 2, 0];
const LEGACY_CIPHERTEXT_START: &[u8] = &[32, 0];
const CIPHERTEXT_START: &[u8] = b"v1.3.8";

fn describe(bytes: &[u8], cluster: &str) -> Result<Value, Error> {
    if bytes.starts_with(PUBLIC_KEY_START) {
        PublicKey::from_bytes(bytes)?;
        return Ok(json!({ "kind": "public key", "bytes": bytes.len() }));
    }
    if bytes.starts_with(SYSTEM_SECRET_KEY_START) {
        SystemSecretKey::from_bytes(bytes)?;
        return Ok(json!({ "kind": "system secret key", "bytes": bytes.len() }));
    }
    if !bytes.starts_with(CIPHERTEXT_START) && !bytes.starts_with(LEGACY_CIPHERTEXT_START) {
        let key = AttributeKey::from_bytes(bytes).map_err(|error| match error {
            // Without the transform's label it is no machine key of anybody's.
            Error::Malformed { at, problem, .. } if !bytes.windows(8).any(|window| window == b"internal") => {
                Error::Malformed { what: "file (it starts like no key and no ciphertext)", at, problem }
            }
            other => other,
        })?;
        return describe_key(&key, bytes.len());
    }
    let ciphertext = Ciphertext::from_bytes(bytes)?;
    let policy = ciphertext.policy();
    Ok(json!({
        "kind": "ciphertext",
        "bytes": bytes.len(),
        "plaintext_bytes": ciphertext.plaintext_bytes(),
        "framing": ciphertext.framing().to_string(),
        "policy": policy.to_string(),
        "policy_id": policy.id(cluster.as_bytes()).to_string(),
        "conditions": policy.conditions(),
        "authenticated": "no: only a decryption vouches for the policy",
    }))
}

fn describe_key(key: &AttributeKey, bytes: usize) -> Result<Value, Error> {
    Ok(json!({
        "kind": "machine key",
        "bytes": bytes,
        "labels": key.attributes().labels().collect::<Vec<_>>(),
        "wildcards": key.attributes().wildcard_labels().collect::<Vec<_>>(),
    }))
}

/// One sentence on what an audit's answer means here.
pub fn meaning(verdict: Verdict, conditions: usize, satisfies: bool) -> &'static str {
    match (verdict, conditions, satisfies) {
        (Verdict::Defective, 1, _) => "made by a defective encryptor: its id is not bound; encrypt it anew",
        (Verdict::Defective, ..) => "readable by every key of its authority: replace what it holds and encrypt anew",
        (Verdict::Sound, _, true) => "opened with this key, and not made by a defective encryptor",
        (Verdict::Sound, ..) => {
            "not made by a defective encryptor, if it is of this key's authority and its header unchanged"
        }
        (Verdict::CannotTell, 1, false) => "a policy of one condition can be told only with a key that satisfies it",
        (Verdict::CannotTell, ..) => "does not open: another authority's, or damaged",
    }
}
