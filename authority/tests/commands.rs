//! The authority's binary on its own: what needs no store.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::Duration;

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

/// A running authority; ended with its test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the authority over a folder of keys; its store is nowhere, which its control socket does not need.
fn serving(at: &Path) -> Serving {
    let issue = ["issue", "--dir", "keys", "--role", "authority", "--name", "authority", "--out", "authority"];
    let issued = run(at, &[&issue[..], &["--passphrase-file", "passphrase"]].concat());
    assert!(issued.status.success(), "{}", told(&issued));
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(at.join("inventory.toml"), "").unwrap();
    let conf = format!(
        "cluster = \"acme\"\ndata_dir = \"keys\"\nvoters = [\"{}\"]\nlisten = \"{}\"\ninventory = \"inventory.toml\"\n\
         [tls]\nca = \"ca.pem\"\ncert = \"authority.pem\"\nkey = \"authority.key\"\n",
        free(),
        free()
    );
    fs::write(at.join("authority.toml"), conf).unwrap();
    let log = fs::File::create(at.join("log")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_cinnabar-authority"))
        .args(["serve", "--config", "authority.toml", "--passphrase-file", "passphrase"])
        .current_dir(at)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let serving = Serving(child);
    for _ in 0..600 {
        if run(at, &["status", "--dir", "keys"]).status.success() {
            return serving;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{}", fs::read_to_string(at.join("log")).unwrap());
}

#[test]
fn an_operators_key_opens_the_system_keys_and_no_other_key_does() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("passphrase"), "a long passphrase\n").unwrap();
    fs::set_permissions(at.join("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
    for name in ["carol", "mallory"] {
        assert!(run(at, &["operator-key", "--out", name]).status.success());
        assert_eq!(fs::metadata(at.join(name).with_extension("key")).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let again = run(at, &["operator-key", "--out", "carol"]);
    assert!(!again.status.success(), "a key is not overwritten");
    let public = fs::read_to_string(at.join("carol.pub")).unwrap();
    let init = ["init", "--cluster", "acme", "--dir", "keys", "--passphrase-file", "passphrase", "--operator-key"];
    let made = run(at, &[&init[..], &[public.trim()]].concat());
    assert!(made.status.success(), "{}", told(&made));
    let _serving = serving(at);

    let unseal = |file| {
        let args = ["unseal", "--dir", "keys", "--for", "1m", "-o", "json", "--operator-key-file", file];
        let output = run(at, &args);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), told(&output))
    };
    let (code, _, told) = unseal("mallory.key");
    assert!(code == Some(1) && told.contains("does not open"), "{told}");
    let (code, _, told) = unseal("carol.pub");
    assert!(code == Some(1) && told.contains("others can read it"), "{told}");
    let (code, _, told) = unseal("passphrase");
    assert!(code == Some(1) && told.contains("operator secret key"), "{told}");
    assert!(!told.contains("a long passphrase"), "what was given is not repeated");
    let status = run(at, &["status", "--dir", "keys", "-o", "json"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("\"system_keys\":\"sealed\""));
    let (code, report, told) = unseal("carol.key");
    assert!(code == Some(0) && report.contains("\"system_keys\":\"unsealed\""), "{report}{told}");

    let audit = fs::read_to_string(at.join("keys/audit.log")).unwrap();
    assert!(audit.contains("operator key "), "{audit}");
    let secret = fs::read_to_string(at.join("carol.key")).unwrap();
    for file in ["keys/audit.log", "log"] {
        assert!(!fs::read_to_string(at.join(file)).unwrap().contains(secret.trim()), "{file}");
    }
}
