//! The authority as a process: what it puts into an empty store, how its keys open and close, how it ends and begins.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::rig::{PASSPHRASE, Rig};
use crate::harness::deadline::eventually;

/// Longest wait for what comes every ten seconds.
const HEAD_MAX: Duration = Duration::from_secs(40);

#[test]
fn an_empty_store_gets_its_system_its_schema_and_heads_that_go_on() {
    let mut rig = Rig::running(41);
    for key in ["system/0000000001", "schema/0000000001"] {
        eventually(HEAD_MAX, key, || rig.record(key));
    }
    let first = eventually(HEAD_MAX, "a head", || rig.record("head"));
    eventually(HEAD_MAX, "another head", || rig.record("head").filter(|head| *head != first));
    let written = rig.ask("/readyz?verbose");
    assert!(written.body.contains("generation 1") && written.body.contains("sealed"), "{}", written.body);

    assert_eq!(rig.stop(), Some(0));
    rig.start();
    let status = rig.cluster.operate("voter1", ["kv", "get", "system/0000000002"]);
    assert!(status.is_err(), "a second start makes nothing new");
    rig.kill_9();
    rig.start();
    assert_eq!(rig.stop(), Some(0));
}

#[test]
fn the_system_keys_open_for_a_while_and_nothing_secret_is_left_anywhere() {
    let mut rig = Rig::running(42);
    let status = rig.command(&["status"]).unwrap();
    assert_eq!((status["system_keys"].as_str(), status["mode"].as_str()), (Some("sealed"), Some("production")));
    let file = rig.passphrase();
    let opened = rig.command(&["unseal", "--for", "5s", "--passphrase-file", &file]).unwrap();
    assert_eq!(opened["system_keys"], "unsealed");
    eventually(Duration::from_secs(20), "the keys are sealed again", || {
        (rig.command(&["status"]).unwrap()["system_keys"] == "sealed").then_some(())
    });
    rig.command(&["unseal", "--passphrase-file", &file]).unwrap();
    assert_eq!(rig.command(&["reseal"]).unwrap()["system_keys"], "sealed");

    let wrong = rig.folder.join("wrong");
    fs::copy(&file, &wrong).unwrap();
    fs::write(&wrong, "another-passphrase").unwrap();
    let refused = rig.command(&["unseal", "--passphrase-file", wrong.to_str().unwrap()]).unwrap_err();
    assert!(refused.told.contains("does not open"), "{refused:?}");
    let refused = rig.command(&["unseal", "--for", "9h", "--passphrase-file", &file]).unwrap_err();
    assert!(refused.told.contains("cannot unseal"), "{refused:?}");

    let metrics = rig.ask("/metrics").body;
    well_formed(&metrics);
    well_formed(&rig.cluster.ask("voter1", "/metrics").unwrap().body);
    assert_eq!(rig.stop(), Some(0));
    let verified = rig.command(&["audit-verify"]).unwrap();
    let log = fs::read_to_string(rig.folder.join("data/audit.log")).unwrap();
    assert_eq!(verified["cluster"], "test");
    assert!(log.contains("unseal") && log.contains("reseal"), "{log}");
    for (what, text) in [
        ("the audit log", log),
        ("the log", fs::read_to_string(rig.folder.join("authority.log")).unwrap()),
        ("the metrics", metrics),
    ] {
        assert!(!text.contains(PASSPHRASE), "{what} has the passphrase");
    }
    for entry in fs::read_dir(rig.folder.join("data")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(PASSPHRASE.len()).any(|part| part == PASSPHRASE.as_bytes()));
        assert!(!bytes.windows(11).any(|part| part == b"PRIVATE KEY"));
    }
    let refused = rig.command(&["status"]).unwrap_err();
    assert_eq!(refused.code, Some(3), "{refused:?}");
}

/// Every metric says what it is, the certificate's end is among them, and Prometheus's own checker has nothing to say, where
/// there is one.
fn well_formed(metrics: &str) {
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} is not described");
    }
    assert!(metrics.contains("\ncinnabar_tls_certificate_not_after_unix_seconds "), "counted before anybody listened");
    let Ok(mut child) = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn() else {
        eprintln!("SKIPPED: promtool is not here");
        return;
    };
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "promtool refuses the metrics");
}
