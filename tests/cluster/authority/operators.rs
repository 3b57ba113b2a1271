//! What operators do while the authority runs: tokens for programs without a certificate, files that grow.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::rig::Rig;
use crate::harness::process::Failed;

/// Keeps a token in a file.
fn keep(rig: &Rig, name: &str, made: &Json) -> PathBuf {
    let path = rig.folder.join(name);
    fs::write(&path, made["token"].as_str().unwrap()).unwrap();
    path
}

/// What a call that must be refused says: its exit code and the problem's.
fn refused(result: Result<String, Failed>) -> (Option<i32>, String) {
    let failed = result.expect_err("it must be refused");
    let told: Json = serde_json::from_str(&failed.told).unwrap_or_else(|error| panic!("{error}: {}", failed.told));
    (failed.code, told["error"]["code"].as_str().unwrap().to_owned())
}

/// A program acts by its token, under the token's name, until that is withdrawn.
pub fn tokens(rig: &Rig) {
    let made = rig.operate(&["token", "create", "--operator", "--name", "nightly"]).unwrap();
    let (id, text) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let ours = keep(rig, "nightly.token", &made);
    let ask = |args: &[&str], token: &Path| rig.ask_as_customer(&[args, &["-o", "json"]].concat(), token);
    let listed: Json = serde_json::from_str(&ask(&["machine", "list"], &ours).unwrap()).unwrap();
    assert_eq!(listed["machines"].as_array().unwrap().len(), 4);
    ask(&["zone", "add", "night", "--domain", "night.example"], &ours).unwrap();
    assert!(rig.record("zone/night").is_some());

    // A zone's token does none of it.
    let zone = keep(rig, "night.token", &rig.operate(&["token", "create", "--zone", "night"]).unwrap());
    let calls: [&[&str]; 5] = [
        &["machine", "list"],
        &["zone", "add", "other", "--domain", "other.example"],
        &["token", "create", "--operator", "--name", "more"],
        &["token", "list", "--operator"],
        &["token", "revoke", "--operator", id],
    ];
    for call in calls {
        assert_eq!(refused(ask(call, &zone)), (Some(4), "forbidden".to_owned()), "{call:?}");
    }
    assert!(rig.record("zone/other").is_none());

    let tokens = rig.operate(&["token", "list", "--operator"]).unwrap();
    let tokens = tokens["tokens"].as_array().unwrap();
    assert_eq!((tokens.len(), tokens[0]["id"].as_str(), tokens[0]["name"].as_str()), (1, Some(id), Some("nightly")));
    assert_eq!(refused(ask(&["token", "revoke", "--zone", "night", id], &ours)), (Some(5), "not-found".to_owned()));
    rig.operate(&["token", "revoke", "--operator", id]).unwrap();
    for call in calls {
        assert_eq!(refused(ask(call, &ours)), (Some(4), "unauthenticated".to_owned()), "{call:?}");
    }
    assert_eq!(rig.operate(&["token", "list", "--operator"]).unwrap()["tokens"], serde_json::json!([]));
    ask(&["zone", "show", "night"], &zone).unwrap();

    who_did_what(rig, id);
    for file in ["data/audit.log", "authority.log"] {
        assert!(!fs::read_to_string(rig.folder.join(file)).unwrap().contains(text), "{file} has the token");
    }
}

/// The audit log names the operator whose certificate it was, and the program under its token's name.
fn who_did_what(rig: &Rig, id: &str) {
    let log = fs::read_to_string(rig.folder.join("data/audit.log")).unwrap();
    let lines: Vec<Json> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let acted = |act: &str| -> Vec<&str> {
        lines.iter().filter(|line| line["act"] == act).map(|line| line["actor"].as_str().unwrap()).collect()
    };
    assert_eq!(acted("add zone"), [format!("operator nightly by token {id}")], "{log}");
    for act in ["create operator token", "create token", "revoke operator token"] {
        assert_eq!(acted(act), ["operator carol"], "{act}: {log}");
    }
}
