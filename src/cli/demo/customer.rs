//! The demonstration's customer: a CA of its own, a shop's two certificates, and their upload by the interface that
//! existing tools speak.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
};
use serde_json::{Value, json};

use super::world::{World, run};
use crate::cli::error::CliError;

/// The shop.
pub const HOST: &str = "shop.example";
/// Where its key may be.
pub const POLICY: &str = "region: EU and (not country: FR)";
/// Its zone.
pub const ZONE: &str = "shop";

/// Names of the two certificates, and whether the key is RSA.
pub const CERTIFICATES: [(&str, bool); 2] = [("ecdsa", false), ("rsa", true)];

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

/// The certificate of the authority's HTTPS, and its key.
pub struct Web {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

/// Makes the customer's CA, its certificates, and the one that the authority shows to customers.
pub fn make(world: &World) -> Result<Web, CliError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Demonstration CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().map_err(failed)?).map_err(failed)?;
    world.write("customer/ca.pem", &ca.pem())?;
    for (name, rsa) in CERTIFICATES {
        let key = if rsa { KeyPair::generate_for(&PKCS_RSA_SHA256) } else { KeyPair::generate() }.map_err(failed)?;
        let mut params = CertificateParams::new(vec![HOST.to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, HOST);
        let certificate = params.signed_by(&key, &ca).map_err(failed)?;
        world.write(&format!("customer/{name}.pem"), &certificate.pem())?;
        world.write(&format!("customer/{name}.key"), &key.serialize_pem())?;
    }
    let key = KeyPair::generate().map_err(failed)?;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).map_err(failed)?;
    let certificate = params.signed_by(&key, &ca).map_err(failed)?;
    Ok(Web { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A zone, and a token for it.
pub fn register(world: &World) -> Result<(), CliError> {
    world.operate(&["zone", "add", ZONE, "--domain", HOST])?;
    let made = world.operate(&["token", "create", "--zone", ZONE])?;
    let token = made["token"].as_str().ok_or_else(|| failed(format!("token create answered {made}")))?;
    world.write("customer/token", token).map(drop)
}

/// The facade's call, as a person would type it.
pub fn shown(world: &World) -> String {
    format!(
        "curl https://{}/client/v4/zones/{ZONE}/custom_certificates -H 'Authorization: Bearer …' \\\n     --json '{{\"certificate\":…,\"private_key\":…,\"policy\":\"{POLICY}\",\"type\":\"sni_custom\"}}'",
        world.customers_at
    )
}

/// Uploads one of the certificates: through the facade by curl, or by `cinnabar cert add` where there is none.
pub fn upload(world: &World, name: &str, curl: bool) -> Result<String, CliError> {
    let read = |what: &str| {
        let path: PathBuf = world.path(&format!("customer/{name}.{what}"));
        std::fs::read_to_string(&path).map_err(|error| CliError::file(&path, error))
    };
    if !curl {
        let (certificate, key) = (format!("customer/{name}.pem"), format!("customer/{name}.key"));
        let args = ["cert", "add", ZONE, "--certificate", &certificate, "--key-file", &key, "--policy", POLICY];
        let answer = customer(world, &args)?;
        return id(&answer, &answer["id"]);
    }
    let body =
        json!({ "certificate": read("pem")?, "private_key": read("key")?, "policy": POLICY, "type": "sni_custom" });
    let token = std::fs::read_to_string(world.path("customer/token")).map_err(failed)?;
    // Neither key nor token on a command line, where every process of the machine could read them.
    let settings = world.write("customer/curl", &format!("header = \"Authorization: Bearer {}\"\n", token.trim()))?;
    let body_file = world.write("customer/upload.json", &body.to_string())?;
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail-with-body", "--config"]).arg(&settings);
    command.args(["--header", "Content-Type: application/json", "--data", &format!("@{}", body_file.display())]);
    command.arg("--cacert").arg(world.path("customer/ca.pem")).stdin(Stdio::null());
    let answered =
        run(command.arg(format!("https://{}/client/v4/zones/{ZONE}/custom_certificates", world.customers_at)));
    let removed = std::fs::remove_file(&body_file).and_then(|()| std::fs::remove_file(&settings));
    let answer: Value = serde_json::from_str(&answered?).map_err(failed)?;
    removed.map_err(failed)?;
    id(&answer, &answer["result"]["id"])
}

fn id(answer: &Value, id: &Value) -> Result<String, CliError> {
    id.as_str().map(str::to_owned).ok_or_else(|| failed(format!("the upload answered {answer}")))
}

/// A command of the customer's; gives the JSON that it prints.
pub fn customer(world: &World, args: &[&str]) -> Result<Value, CliError> {
    let mut command = customers_command(world, args);
    serde_json::from_str(&run(command.args(["-o", "json"]))?).map_err(failed)
}

/// A command of the customer's.
pub fn customers_command(world: &World, args: &[&str]) -> Command {
    let mut command = world.command(args);
    command.args(["--url", &format!("https://{}", world.customers_at), "--ca", "customer/ca.pem"]);
    command.args(["--token-file", "customer/token"]);
    command
}
