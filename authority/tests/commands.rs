//! The authority's binary on its own: what needs no store.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cinnabar-authority")).args(args).current_dir(folder).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_system_is_made_once_and_issues_certificates_to_who_has_the_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, text) in [("passphrase", "a long passphrase\n"), ("other", "another passphrase\n")] {
        fs::write(at.join(name), text).unwrap();
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let init = ["init", "--cluster", "acme", "--dir", "keys", "--passphrase-file", "passphrase"];
    assert_eq!(run(at, &init).status.code(), Some(0));
    let again = run(at, &init);
    assert!(again.status.code() == Some(1) && told(&again).contains("something already"), "{}", told(&again));

    let issue = |passphrase, role| {
        let args = ["issue", "--dir", "keys", "--role", role, "--name", "v1", "--out", "certs/v1", "--passphrase-file"];
        run(at, &[&args[..], &[passphrase]].concat())
    };
    let wrong = issue("other", "voter");
    assert!(wrong.status.code() == Some(1) && told(&wrong).contains("does not open"), "{}", told(&wrong));
    assert!(told(&issue("passphrase", "edge")).contains("edge machines enrol"));
    assert_eq!(issue("passphrase", "voter").status.code(), Some(0));
    for name in ["v1.pem", "v1.key", "ca.pem"] {
        assert!(at.join("certs").join(name).exists(), "{name}");
    }
    let verified = run(at, &["audit-verify", "--dir", "keys", "-o", "json"]);
    let report = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success() && report.contains("\"cluster\":\"acme\""), "{report}");

    assert_eq!(run(at, &["status", "--dir", "keys"]).status.code(), Some(3), "nobody runs over the folder");
    assert_eq!(run(at, &["unseal"]).status.code(), Some(2));
    assert_eq!(
        run(at, &["serve", "--config", "missing.toml", "--passphrase-file", "passphrase"]).status.code(),
        Some(64)
    );
}
