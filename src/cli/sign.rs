//! `cinnabar sign`: one signature by this machine's edge node, by hand.

use cinnabar_edge_api::limits::BUDGET_DEFAULT;
use cinnabar_edge_api::refusal::{RefusalCode, word};
use cinnabar_edge_api::{Input, Refusal, Scheme, SignRequest, proto};
use serde_json::json;

use super::connect::block_on;
use super::edge::Local;
use super::error::CliError;
use super::files::{Destination, Secrecy, Source};
use super::report::{Format, hex, print};

/// `cinnabar sign HOSTNAME`
#[derive(clap::Args)]
pub struct Sign {
    /// The name whose certificate's key is to sign.
    hostname: String,
    /// The scheme, by its name in RFC 8446, such as ecdsa_secp256r1_sha256 or rsa_pss_rsae_sha256.
    #[arg(long, value_parser = scheme)]
    scheme: Scheme,
    /// What is hashed and signed: a file, or `-`.
    #[arg(long = "in", value_name = "FILE", default_value = "-")]
    input: Source,
    /// Where the signature goes.
    #[arg(long, value_name = "FILE")]
    out: Option<Destination>,
    #[command(flatten)]
    local: Local,
}

fn scheme(text: &str) -> Result<Scheme, String> {
    let known = || Scheme::ALL.map(Scheme::as_str).join(", ");
    Scheme::ALL.into_iter().find(|scheme| scheme.as_str() == text).ok_or_else(|| format!("one of {}", known()))
}

/// Has one signature made, as a terminator would, and says by whom.
pub fn sign(command: &Sign, format: Format) -> Result<(), CliError> {
    let message = command.input.read()?;
    let signed = block_on(async {
        let edge = command.local.client();
        let found = edge.certificates(&command.hostname).await.map_err(|status| CliError::status(&status))?;
        let kind = if command.scheme.as_str().starts_with("rsa") { proto::KeyKind::Rsa } else { proto::KeyKind::Ecdsa };
        let certificate = found.into_iter().find(|certificate| certificate.kind() == kind).ok_or_else(|| {
            CliError::Conflict(format!("no certificate of {} has a key for {}", command.hostname, command.scheme))
        })?;
        let request = SignRequest {
            id: 0,
            zone: certificate.zone,
            certificate: certificate.id,
            spki_sha256: certificate.spki_sha256.as_ref().try_into().unwrap_or_default(),
            scheme: command.scheme,
            input: Input::Message(message.to_vec().into()),
            budget: BUDGET_DEFAULT,
            traceparent: String::new(),
        };
        edge.sign(request).await.map_err(refused)
    })?;
    if let Some(out) = &command.out {
        out.write(&signed.signature, Secrecy::Public, false)?;
    }
    let report = json!({
        "signed_by": signed.machine, "data_center": signed.data_center,
        "where": if signed.remote { "elsewhere" } else { "here" },
        "elapsed_us": signed.elapsed_us, "signature": hex(&signed.signature),
    });
    print(format, &report, command.out.as_ref())
}

fn refused(refusal: Refusal) -> CliError {
    let mut message = refusal.to_string();
    for attempt in &refusal.tried {
        let (machine, code, text) = (&attempt.machine, word(attempt.code()), &attempt.message);
        message.push_str(&format!("\n  {machine}: {code}: {text}"));
    }
    match refusal.code {
        RefusalCode::NotPermitted => CliError::Denied(message),
        RefusalCode::UnknownCertificate => CliError::Conflict(message),
        RefusalCode::NoHolder | RefusalCode::Deadline | RefusalCode::Stale => CliError::Unreachable(message),
        _ => CliError::Failed(message),
    }
}
