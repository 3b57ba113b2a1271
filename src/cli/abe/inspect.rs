//! `cinnabar abe inspect`: what a file holds, from its structure alone; and what the audit's answers mean.

use cinnabar_abe::{
    AttributeKey, Ciphertext, PUBLIC_KEY_BYTES, PublicKey, SYSTEM_SECRET_KEY_BYTES, SystemSecretKey, Verdict,
};
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

/// The kinds of file are told apart by what they start with: every object begins with the length of its first field.
fn describe(bytes: &[u8], cluster: &str) -> Result<Value, cinnabar_abe::Error> {
    if bytes.len() == PUBLIC_KEY_BYTES && bytes.starts_with(&[0x04, 0x06, 4, 0, 2, 0]) {
        PublicKey::from_bytes(bytes)?;
        return Ok(json!({ "kind": "public key", "bytes": bytes.len() }));
    }
    if bytes.len() == SYSTEM_SECRET_KEY_BYTES && bytes.starts_with(&[0xc4, 0, 3, 0, 2, 0]) {
        SystemSecretKey::from_bytes(bytes)?;
        return Ok(json!({ "kind": "system secret key", "bytes": bytes.len() }));
    }
    let looks_like_ciphertext = bytes.starts_with(b"v1.3.8") || bytes.starts_with(&[32, 0]);
    if !looks_like_ciphertext {
        return describe_key(&AttributeKey::from_bytes(bytes)?, bytes.len());
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

fn describe_key(key: &AttributeKey, bytes: usize) -> Result<Value, cinnabar_abe::Error> {
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
        (Verdict::Sound, ..) => "not made by a defective encryptor, if key and ciphertext are of one authority",
        (Verdict::CannotTell, 1, false) => "a policy of one condition can be told only with a key that satisfies it",
        (Verdict::CannotTell, ..) => "does not open: another authority's, or damaged",
    }
}
