//! The authority killed at any step of an upload: afterwards all of it is there, or nothing.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use cinnabar_authority_api::records::{Cert, PolicyRecord, Sni};
use cinnabar_authority_api::{Hostname, RecordKey};

use super::machines::Machine;
use super::rig::Rig;
use super::upload::{certificate, customer, find, read};

/// When the kill comes after the upload began, in milliseconds: the command's own start and the check of its key take the
/// first tens of them.
const KILLS_MS: [u64; 6] = [5, 20, 35, 50, 80, 150];

#[test]
fn a_killed_upload_is_whole_or_not_there() {
    let mut rig = Rig::running(81);
    rig.unseal();
    let machine = Machine::enrol(&rig, "fra-1");
    machine.key(&rig);
    Machine::enrol(&rig, "ams-1").key(&rig);
    let us = customer(&rig);
    let mut stored = 0;
    for (n, kill_ms) in KILLS_MS.into_iter().enumerate() {
        let name: Hostname = format!("kill{n}.shop.example").parse().unwrap();
        let (cert, key, _) = certificate(&rig, &[name.as_str()], &format!("kill{n}"));
        // A new policy each time, so that its key is part of what may be half there.
        let policy = ["region: EU", "country: DE", "country: NL", "dc: fra", "dc: ams", "not country: US"][n];
        let args = ["cert", "add", "shop", "--certificate", &cert, "--key-file", &key, "--policy", policy];
        let args = [&args[..], &["--acknowledge", "few-holders"]].concat();
        let mut upload = rig.customer(&args, &us.token);
        let mut child = upload.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(kill_ms));
        rig.kill_9();
        let _ = child.kill();
        let _ = child.wait();
        rig.start();
        let Some(sni): Option<Sni> = find(&rig, &machine, &RecordKey::Sni(name.clone())) else { continue };
        stored += 1;
        let cert: Cert = read(&rig, &machine, &RecordKey::Cert("shop".parse().unwrap(), sni.certs[0].id.clone()));
        assert_eq!(cert.hostnames, [name]);
        let (id, version) = (cert.policy.id.0, cert.policy.version);
        let _: PolicyRecord = read(&rig, &machine, &RecordKey::Policy(id, version));
        assert!(
            rig.record(
                &RecordKey::PolicyCiphertext(id, version, cinnabar_authority_api::Generation::FIRST).to_string()
            )
            .is_some()
        );
    }
    let list = rig.ask_as_customer(&["cert", "list", "shop", "-o", "json"], &us.token).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(
        list["certificates"].as_array().unwrap().len(),
        stored,
        "a certificate without its name, or the reverse"
    );
    assert_eq!(rig.stop(), Some(0));
    rig.command(&["audit-verify"]).unwrap();
}
