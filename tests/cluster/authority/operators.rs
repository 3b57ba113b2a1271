//! What operators do while the authority runs: tokens for programs without a certificate, files that grow.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::machines::Machine;
use super::rig::{INVENTORY, Rig};
use crate::harness::process::Failed;

/// Rows of a page, where nobody asks for another number.
const PAGE: usize = 20;

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

/// A list is longer than the pages that it comes in.
pub fn lists(rig: &Rig) {
    for n in 0..PAGE {
        rig.operate(&["zone", "add", &format!("z{n:02}"), "--domain", &format!("z{n:02}.example")]).unwrap();
    }
    let all = rig.operate(&["zone", "list"]).unwrap();
    let ids: BTreeSet<&str> =
        all["zones"].as_array().unwrap().iter().map(|zone| zone["id"].as_str().unwrap()).collect();
    assert!(ids.len() > PAGE && (0..PAGE).all(|n| ids.contains(format!("z{n:02}").as_str())), "{ids:?}");
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

/// A data centre that joins, and a set of standards that it alone is in.
const MORE: &str = r#"
[[data_center]]
id = "waw"
country = "PL"
attributes = { region = ["EEUR"], standard = ["pci"] }
[[machine]]
id = "waw-1"
data_center = "waw"
"#;
const STANDARD: &str = "[labels.standard]\nmembers = [\"pci\"]\n";

/// What of the two files is in use: the schema as the store has it, the data centres, the machines.
fn in_use(rig: &Rig) -> [Json; 3] {
    [["schema", "show"], ["dc", "list"], ["machine", "list"]].map(|args| rig.operate(&args).unwrap())
}

/// Inventory and schema that grew count after a SIGHUP; files that do not parse, do not fit each other or take something
/// away change nothing. `machine` is one that was enrolled before.
pub fn reload(rig: &mut Rig, machine: &Machine) {
    let check = |rig: &Rig, policy: &str| {
        let told = rig.operate(&["policy", "check", policy]);
        told.map_err(|failed| refused(Err(failed)))
    };
    assert_eq!(check(rig, "standard: pci").unwrap_err(), (Some(6), "unknown-label".to_owned()));
    let unknown = refused(rig.operate(&["machine", "token", "waw-1"]).map(|told| told.to_string()));
    assert_eq!(unknown.1, "machine-unknown");
    write(rig, &format!("{INVENTORY}{MORE}"), STANDARD);
    let told = rig.reload();
    assert!(told.contains("INFO") && told.contains("were read again"), "{told}");
    let center = |center: &Json| center["id"] == "waw" && center["country"] == "PL";
    let [schema, centers, _] = in_use(rig);
    assert_eq!((schema["version"].as_u64(), &schema["labels"]["standard"]["members"][0]), (Some(2), &"pci".into()));
    assert!(centers["data_centers"].as_array().unwrap().iter().any(center), "{centers}");

    let waw = Machine::enrol(rig, "waw-1");
    assert!(waw.key(rig).attributes().has("standard_pci", "1"));
    // The label counts once every machine's key has it.
    assert_eq!(check(rig, "standard: pci").unwrap_err(), (Some(6), "not-issued-yet".to_owned()));
    assert!(machine.key(rig).attributes().has("standard_pci", "0"));
    let held = check(rig, "standard: pci").unwrap();
    assert_eq!(held["holders"]["data_centers"], serde_json::json!(["waw"]), "{held}");

    let before = in_use(rig);
    let grown = "[labels.standard]\nmembers = [\"pci\", \"more\"]\n";
    let all = format!("{INVENTORY}{MORE}");
    for (inventory, schema, why) in [
        (all.as_str(), "", "standard"),
        (INVENTORY, "", "label `standard` cannot be removed"),
        (&all.replace("\"PL\"", "\"XX\""), grown, "XX"),
        (&all.replace("[[machine]]", "[[machine"), grown, "inventory.toml"),
        (&all, "[labels", "schema.toml"),
    ] {
        write(rig, inventory, schema);
        let told = rig.reload();
        assert!(told.contains("ERROR") && told.contains("stay as they were") && told.contains(why), "{why}: {told}");
        assert_eq!(in_use(rig), before, "{why}");
    }
    write(rig, &all, grown);
    assert!(rig.reload().contains("were read again"), "a bad reload is in the way of a good one");
    assert_eq!(in_use(rig)[0]["version"], 3);
}

fn write(rig: &Rig, inventory: &str, schema: &str) {
    fs::write(rig.folder.join("inventory.toml"), inventory).unwrap();
    fs::write(rig.folder.join("schema.toml"), schema).unwrap();
}
