//! One customer key from its upload to the machines that may open it, and those that may not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cinnabar_abe::envelope::{PolicySecretKey, WrappedSecret};
use cinnabar_abe::{AttributeKey, Ciphertext, Error};
use cinnabar_authority_api::records::{Cert, Content, PolicyCiphertext, PolicyRecord, Sni};
use cinnabar_authority_api::{Generation, RecordKey};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value as Json;

use super::machines::Machine;
use super::rig::Rig;

/// A customer with a zone, a token and a certificate in files.
pub struct Customer {
    /// File with the token.
    pub token: PathBuf,
    /// Path of the certificate.
    pub cert: String,
    /// Path of its key.
    pub key: String,
    key_der: Vec<u8>,
}

/// Makes them.
pub fn customer(rig: &Rig) -> Customer {
    rig.operate(&["zone", "add", "shop", "--domain", "shop.example"]).unwrap();
    let token = rig.operate(&["token", "create", "--zone", "shop"]).unwrap();
    let path = rig.folder.join("token");
    std::fs::write(&path, token["token"].as_str().unwrap()).unwrap();
    let (cert, key, key_der) = certificate(rig, &["shop.example", "*.shop.example"], "shop");
    Customer { token: path, cert, key, key_der }
}

/// A certificate for some names, signed by its own key: paths of both, and the key.
pub fn certificate(rig: &Rig, names: &[&str], file: &str) -> (String, String, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    let cert = params.self_signed(&key).unwrap();
    let write = |ending: &str, text: &str| {
        let path = rig.folder.join(format!("{file}.{ending}"));
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    (write("pem", &cert.pem()), write("key", &key.serialize_pem()), key.serialize_der())
}

fn add(rig: &Rig, us: &Customer, more: &[&str]) -> Result<Json, String> {
    let args =
        [&["cert", "add", "shop", "--certificate", &us.cert, "--key-file", &us.key, "-o", "json"], more].concat();
    let told = rig.ask_as_customer(&args, &us.token).map_err(|failed| format!("{:?}: {}", failed.code, failed.told))?;
    Ok(serde_json::from_str(&told).unwrap())
}

/// A record that must be there, verified.
pub fn read<T: Content>(rig: &Rig, machine: &Machine, key: &RecordKey) -> T {
    find(rig, machine, key).unwrap_or_else(|| panic!("{key} is not in the store"))
}

/// A record, verified.
pub fn find<T: Content>(rig: &Rig, machine: &Machine, key: &RecordKey) -> Option<T> {
    let name = key.to_string();
    let record = rig.record(&name)?;
    machine.verifier.read::<T>(name.as_bytes(), &record).unwrap().into_content()
}

/// What a machine does with a certificate's key: opens the policy's key, then the customer's.
fn open(rig: &Rig, machine: &Machine, key: &AttributeKey, cert: &Cert) -> Result<Vec<u8>, Error> {
    let (id, version) = (cert.policy.id.0, cert.policy.version);
    let record: PolicyRecord = read(rig, machine, &RecordKey::Policy(id, version));
    let sealed: PolicyCiphertext = read(rig, machine, &RecordKey::PolicyCiphertext(id, version, Generation::FIRST));
    let cluster = "test".parse().unwrap();
    let ciphertext = Ciphertext::from_bytes(&sealed.ciphertext)?;
    let policy_key = PolicySecretKey::decrypt(key, &ciphertext, b"test", &id, version.0)?;
    assert_eq!(policy_key.public_key().as_bytes(), &record.public_key);
    let wrapped = WrappedSecret::from_bytes(&cert.wrapped_key)?;
    Ok(policy_key.unwrap(&cert.context(&cluster), &wrapped)?.expose().to_vec())
}

#[test]
fn a_key_opens_at_the_machines_of_its_policy_and_nowhere_else() {
    let rig = Rig::running(61);
    rig.unseal();
    let machines: Vec<Machine> = ["fra-1", "ams-1", "cdg-1", "iad-1"].map(|id| Machine::enrol(&rig, id)).into();
    let keys: Vec<AttributeKey> = machines.iter().map(|machine| machine.key(&rig)).collect();
    let us = customer(&rig);

    let few = add(&rig, &us, &["--policy", "region: EU and (not country: FR)"]).unwrap_err();
    assert!(few.starts_with("Some(6)") && few.contains("few-holders"), "{few}");
    let policy = ["--policy", "region: EU and (not country: FR)", "--acknowledge", "few-holders"];
    let stored = add(&rig, &us, &policy).unwrap();
    assert_eq!(stored["holders"]["data_centers"], serde_json::json!(["ams", "fra"]));
    let twice = add(&rig, &us, &policy).unwrap_err();
    assert!(twice.starts_with("Some(5)") && twice.contains("certificate-stored"), "{twice}");

    let id = stored["id"].as_str().unwrap();
    let cert: Cert = read(&rig, &machines[0], &RecordKey::Cert("shop".parse().unwrap(), id.parse().unwrap()));
    for (n, (machine, key)) in machines.iter().zip(&keys).enumerate() {
        match open(&rig, machine, key, &cert) {
            Ok(found) => assert!(n < 2 && found == us.key_der, "machine {n}"),
            Err(error) => assert!(n >= 2 && matches!(error, Error::NotSatisfied), "machine {n}: {error}"),
        }
    }
    for name in ["shop.example", "*.shop.example"] {
        let sni: Sni = read(&rig, &machines[0], &RecordKey::Sni(name.parse().unwrap()));
        assert_eq!(sni.certs[0].id.as_str(), id);
    }
    equal_policies_share_a_key(&rig, &us, &cert);
    replaced_and_deleted(&rig, &us, id);
    nothing_secret_is_left(&rig, &us);
}

fn policy_ids(rig: &Rig) -> BTreeSet<String> {
    let list = rig.cluster.operate("voter1", ["kv", "list", "policy/"]).unwrap();
    let keys = list["records"].as_array().unwrap().iter().map(|record| record["key"].as_str().unwrap().to_owned());
    keys.collect()
}

fn equal_policies_share_a_key(rig: &Rig, us: &Customer, cert: &Cert) {
    let before = policy_ids(rig);
    let secret = rig.folder.join("secret");
    std::fs::write(&secret, "a ticket key").unwrap();
    let put = |policy: &str| {
        let args = ["secret", "put", "shop", "ticket-key", "--file", secret.to_str().unwrap(), "-o", "json"];
        let args = [&args[..], &["--policy", policy, "--acknowledge", "few-holders"]].concat();
        let told = rig.ask_as_customer(&args, &us.token).unwrap();
        serde_json::from_str::<Json>(&told).unwrap()
    };
    let same = put("(not (country: fr)) and region: eu");
    assert_eq!(same["canonical"], "region: EU and not country: FR");
    assert_eq!(policy_ids(rig), before, "an equal policy has the key that there is");
    assert_eq!(before.len(), 2);
    put("region: EU");
    assert_eq!(policy_ids(rig).len(), 4, "another policy has another key");
    assert_eq!(cert.policy.version.get(), 1);
}

fn replaced_and_deleted(rig: &Rig, us: &Customer, id: &str) {
    let run = |args: &[&str]| rig.ask_as_customer(args, &us.token);
    let refused = run(&["cert", "replace", "shop", id, "--policy", "region: EU", "-o", "json"]).unwrap_err();
    assert!(refused.told.contains("key-required"), "{refused:?}");
    let args = ["cert", "replace", "shop", id, "--policy", "region: EU", "--key-file", &us.key, "-o", "json"];
    let replaced: Json = serde_json::from_str(&run(&args).unwrap()).unwrap();
    assert_eq!((replaced["id"].as_str(), replaced["version"].as_u64()), (Some(id), Some(2)));
    assert_eq!(replaced["before"]["could_open"], serde_json::json!(["ams", "fra"]));
    let deleted: Json = serde_json::from_str(&run(&["cert", "rm", "shop", id, "-o", "json"]).unwrap()).unwrap();
    assert_eq!(deleted["before"]["could_open"], serde_json::json!(["ams", "cdg", "fra"]));
    assert_eq!(run(&["cert", "show", "shop", id]).unwrap_err().code, Some(5));
    let other = rig.operate(&["zone", "add", "other", "--domain", "www.shop.example"]).unwrap_err();
    assert!(other.told.contains("zone-overlap"), "{other:?}");
}

fn nothing_secret_is_left(rig: &Rig, us: &Customer) {
    let pem = std::fs::read_to_string(&us.key).unwrap();
    let middle = pem.lines().nth(1).unwrap();
    let mut folders = vec![rig.folder.join("data")];
    folders.extend(["voter1", "voter2", "voter3"].map(|name| rig.cluster.node(name).data.clone()));
    let mut files = vec![rig.folder.join("authority.log")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    let holds = |path: &Path, part: &[u8]| {
        std::fs::read(path).is_ok_and(|bytes| bytes.windows(part.len()).any(|found| found == part))
    };
    for path in files {
        for part in [middle.as_bytes(), &us.key_der[us.key_der.len() / 2..], b"a ticket key"] {
            assert!(!holds(&path, part), "{} holds a secret", path.display());
        }
    }
    assert!(!rig.ask("/metrics").body.contains("shop.example"), "no label carries a customer's name");
}

#[test]
fn mistakes_in_policies_are_shown_as_the_documentation_says() {
    let rig = Rig::running(62);
    rig.unseal();
    for id in ["fra-1", "ams-1", "cdg-1", "iad-1"] {
        Machine::enrol(&rig, id).key(&rig);
    }
    let check = |policy: &str| {
        let us = &rig.operator;
        let mut command = std::process::Command::new(crate::harness::process::BINARY);
        command.args(["policy", "check", policy, "--authority", &rig.listen.to_string(), "--ca"]).arg(&us.ca);
        command.arg("--cert").arg(&us.cert).arg("--key").arg(&us.key);
        crate::harness::process::run(&mut command, super::rig::READY_MAX)
    };
    for (policy, expected) in [
        (
            "(country: US) and (region: EU)",
            "error[no-data-centre]: no data centre satisfies this policy\n  (country: US) and (region: EU)\n                \
             ^^^ a data centre cannot be in two countries: did you mean `or`?\n",
        ),
        (
            "(region: EU) (not country: FR)",
            "error[left-over]: this part would be ignored, so the policy is refused\n  (region: EU) (not country: FR)\n               \
             ^ join the two parts with `and` or `or`\n",
        ),
    ] {
        let refused = check(policy).unwrap_err();
        assert_eq!((refused.code, refused.told.as_str()), (Some(6), expected));
    }
    let told = check("(country: US) or (region: EU)").unwrap();
    assert!(told.contains("Holders  4 of 4 data centres in DE, FR, NL, US: ams, cdg, fra, iad"), "{told}");
    let told = check("country: DE").unwrap();
    assert!(told.contains("[few-holders]") && told.contains("[single-country]"), "{told}");
}
