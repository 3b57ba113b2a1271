//! The facade, as the SDK that it is made for calls it; and one upload by curl.

use std::path::Path;
use std::process::Command;

use super::machines::Machine;
use super::rig::{READY_MAX, Rig};
use super::upload::customer;
use crate::harness::process::run;

#[test]
fn the_sdk_works_with_another_base_url() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("var/tools/sdk/bin/python");
    if !python.exists() {
        eprintln!("SKIPPED: the SDK is not here; make setup installs it");
        return;
    }
    let rig = Rig::running(71);
    rig.unseal();
    for id in ["fra-1", "ams-1", "cdg-1", "iad-1"] {
        Machine::enrol(&rig, id).key(&rig);
    }
    let us = customer(&rig);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/authority/sdk.py");
    let mut command = Command::new(python);
    command.arg(script).arg(format!("https://{}", rig.customers)).args(["shop", &us.cert, &us.key]);
    command.env("TOKEN", std::fs::read_to_string(&us.token).unwrap().trim());
    command.env("SSL_CERT_FILE", rig.folder.join("web.pem"));
    let told = run(&mut command, READY_MAX).unwrap_or_else(|failed| panic!("{}", failed.told));
    assert_eq!(told, "the SDK works\n");
}
