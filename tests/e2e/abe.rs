//! `cinnabar abe` from the outside: files, modes, exit codes, standard streams, JSON.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder of its own to run commands in.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, b"")
    }

    fn run_with(&self, args: &[&str], stdin: &[u8]) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cinnabar"))
            .arg("abe")
            .args(args)
            .current_dir(self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that fails early may not read its input.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        child.wait_with_output().unwrap()
    }

    /// Runs a command that must succeed and returns its standard output.
    fn ok(&self, args: &[&str], stdin: &[u8]) -> Vec<u8> {
        let output = self.run_with(args, stdin);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Runs a command that must exit with `code` and returns its standard error.
    fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        stderr
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// An authority and a machine in France.
    fn with_keys() -> Self {
        let place = Self::new();
        place.ok(&["setup"], b"");
        place.ok(&["keygen", "--attr", "country=FR", "--attr", "region=EU"], b"");
        place
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

#[test]
fn the_readme_walk_works() {
    let place = Place::with_keys();
    assert_eq!(place.names(), ["machine.key", "system.key", "system.pub"]);
    assert_eq!(mode(&place.path("system.key")), 0o600);
    assert_eq!(mode(&place.path("machine.key")), 0o600);
    assert_ne!(mode(&place.path("system.pub")) & 0o044, 0, "a public key is for others to read");

    let ciphertext = place.ok(&["encrypt", "--policy", "country: US or region: EU"], b"the secret");
    assert!(ciphertext.starts_with(b"v1.3.8"));
    assert_eq!(place.ok(&["decrypt"], &ciphertext), b"the secret");
    assert_eq!(place.ok(&["decrypt", "--strict"], &ciphertext), b"the secret");
}

#[test]
fn a_policy_that_goes_on_is_refused_with_a_caret() {
    let place = Place::with_keys();
    let stderr = place.fails(&["encrypt", "--policy", "(region: EU) (not country: FR)", "--out", "ct"], 6);
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines[0].starts_with("error[left-over]"), "{stderr}");
    let fault = lines[1].find("(not").unwrap();
    assert_eq!(lines[2].find('^'), Some(fault), "{stderr}");
    assert!(!place.path("ct").exists(), "nothing is half done");

    let stderr = place.fails(&["-o", "json", "encrypt", "--policy", "(region: EU) (not country: FR)"], 6);
    let error = &json(stderr.as_bytes())["error"];
    assert_eq!(error["code"], "left-over");
    assert_eq!(error["span"], serde_json::json!({ "start": 13, "end": 14 }));
}

#[test]
fn a_key_that_does_not_satisfy_exits_with_four() {
    let place = Place::with_keys();
    place.ok(&["encrypt", "--policy", "not country: FR", "--out", "ct"], b"secret");
    let stderr = place.fails(&["decrypt", "--in", "ct", "--out", "plain"], 4);
    assert!(stderr.contains("not-permitted") && stderr.contains("do not satisfy"), "{stderr}");
    assert!(!place.path("plain").exists());
    assert_eq!(
        json(place.fails(&["-o", "json", "decrypt", "--in", "ct"], 4).as_bytes())["error"]["code"],
        "not-permitted"
    );
}

#[test]
fn nothing_is_overwritten_without_force() {
    let place = Place::with_keys();
    let before = fs::read(place.path("system.key")).unwrap();
    for args in [
        &["setup"][..],
        &["setup", "--public-key", "new.pub"],
        &["setup", "--secret-key", "new.key"],
        &["keygen", "--attr", "a=b"],
        &["encrypt", "--policy", "a: b", "--out", "system.pub"],
    ] {
        let stderr = place.fails(args, 1);
        assert!(stderr.contains("--force"), "{stderr}");
    }
    assert_eq!(fs::read(place.path("system.key")).unwrap(), before);
    assert_eq!(place.names(), ["machine.key", "system.key", "system.pub"], "no half of a pair is left behind");
    place.ok(&["setup", "--force"], b"");
    assert_ne!(fs::read(place.path("system.key")).unwrap(), before);
    assert_eq!(mode(&place.path("system.key")), 0o600);
    // A plaintext is a secret too.
    let ciphertext = place.ok(&["keygen", "--attr", "a=b", "--force"], b"");
    assert!(!ciphertext.is_empty());
    place.ok(&["encrypt", "--policy", "a: b", "--out", "ct"], b"plain");
    place.ok(&["decrypt", "--in", "ct", "--out", "plain"], b"");
    assert_eq!(mode(&place.path("plain")), 0o600);
}

#[test]
fn a_setup_that_fails_leaves_the_old_pair_whole() {
    let place = Place::with_keys();
    let pair = || ["system.key", "system.pub"].map(|name| fs::read(place.path(name)).unwrap());
    let before = pair();
    place.fails(&["setup", "--force", "--public-key", "no/such/folder/system.pub"], 1);
    assert_eq!(pair(), before);
    for twice in [["./k", "k"], ["k", "../k"], ["-", "-"]] {
        let twice = if twice[1] == "../k" {
            let name = place.0.path().file_name().unwrap().to_str().unwrap().to_owned();
            ["k".to_owned(), format!("../{name}/k")]
        } else {
            twice.map(str::to_owned)
        };
        place.fails(&["setup", "--force", "--public-key", &twice[0], "--secret-key", &twice[1]], 2);
    }
    assert_eq!(place.names(), ["machine.key", "system.key", "system.pub"]);
}

#[test]
fn only_regular_files_are_written_to() {
    let place = Place::with_keys();
    place.ok(&["encrypt", "--policy", "region: EU", "--out", "ct"], b"secret");
    std::os::unix::fs::symlink("elsewhere", place.path("link")).unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    for out in ["link", "folder", "/dev/null"] {
        let stderr = place.fails(&["decrypt", "--in", "ct", "--out", out, "--force"], 1);
        assert!(stderr.contains("not a regular file"), "{stderr}");
    }
}

#[test]
fn odd_file_names_are_names_like_any_other() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::with_keys();
    let run = |args: &[&std::ffi::OsStr]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cinnabar"));
        command.arg("abe").args(args).current_dir(place.0.path()).stdin(Stdio::null()).output().unwrap()
    };
    let name = std::ffi::OsStr::from_bytes(b"n\xff\x1b[31m");
    let [encrypt, policy, text, out, inspect] =
        ["encrypt", "--policy", "region: EU", "--out", "inspect"].map(std::ffi::OsStr::new);
    assert_eq!(run(&[encrypt, policy, text, out, name]).status.code(), Some(0));
    assert_eq!(run(&[inspect, name]).status.code(), Some(0));
    let absent = run(&[inspect, std::ffi::OsStr::from_bytes(b"no\xff\x1b[31m")]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(!absent.stderr.contains(&0x1b), "a name must not reach the terminal's controls");
    // What is no text can be no policy.
    assert_eq!(run(&[encrypt, policy, name]).status.code(), Some(2));
    for not_a_name in ["", "folder/", "..", "no/such/folder/x"] {
        place.fails(&["setup", "--public-key", "new.pub", "--secret-key", not_a_name], 1);
    }
    assert!(!place.path("new.pub").exists());
}

#[test]
fn wrong_usage_exits_with_two() {
    let place = Place::with_keys();
    place.fails(&["keygen"], 2);
    place.fails(&["keygen", "--attr", "country"], 2);
    place.fails(&["encrypt"], 2);
    place.fails(&["no-such-command"], 2);
    place.fails(&["bench", "--runs", "3"], 2);
    place.fails(&["setup", "--public-key", "one", "--secret-key", "one"], 2);
    place.fails(&["decrypt", "--key", "-", "--in", "-"], 2);
    let twice = place.fails(&["keygen", "--attr", "a=b", "--attr", "a=c", "--out", "k"], 2);
    assert!(twice.contains("`a`") && twice.contains("twice"), "{twice}");
    for bad in ["a-b=c", "not=c", "a=c d", "internal-boneh-katz-transform-attribute=1"] {
        place.fails(&["keygen", "--attr", bad, "--out", "k"], 2);
    }
    assert!(!place.path("k").exists());
    for format in [&["-o", "json"][..], &["-o=json"], &["-ojson"], &["--output=json"], &["--output", "json"]] {
        let args = [&["keygen"], format].concat();
        assert_eq!(json(place.fails(&args, 2).as_bytes())["error"]["code"], "usage", "{args:?}");
    }
    let error = json(place.fails(&["keygen", "-o", "json"], 2).as_bytes());
    assert!(error["error"]["message"].as_str().unwrap().contains("--attr"));
}

#[test]
fn damaged_files_exit_with_one_and_name_the_place() {
    let place = Place::with_keys();
    fs::write(place.path("bad"), b"v1.3.8\x20\x00").unwrap();
    let stderr = place.fails(&["decrypt", "--in", "bad"], 1);
    assert!(stderr.contains("bad: malformed") && stderr.contains("byte 8"), "{stderr}");
    assert_eq!(json(place.fails(&["-o", "json", "inspect", "bad"], 1).as_bytes())["error"]["at_byte"], 8);
    assert!(place.fails(&["decrypt", "--in", "absent"], 1).contains("absent"));
    let mut ciphertext = place.ok(&["encrypt", "--policy", "region: EU"], b"secret");
    *ciphertext.last_mut().unwrap() ^= 1;
    fs::write(place.path("changed"), &ciphertext).unwrap();
    assert!(place.fails(&["decrypt", "--in", "changed"], 1).contains("rejected"));
}

#[test]
fn every_command_reports_in_json() {
    let place = Place::new();
    let report = json(&place.ok(&["-o", "json", "setup"], b""));
    assert_eq!((&report["public_key"], &report["secret_key"]), (&"system.pub".into(), &"system.key".into()));
    let report = json(&place.ok(&["keygen", "-o", "json", "--attr", "region=EU"], b""));
    assert_eq!(report["attributes"], serde_json::json!(["region=EU"]));
    let args = ["encrypt", "-o", "json", "--policy", "region: EU", "--out", "ct"];
    let report = json(&place.ok(&args, b"0123456789"));
    assert_eq!((&report["policy"], &report["plaintext_bytes"]), (&"region:EU".into(), &10.into()));
    let report = json(&place.ok(&["decrypt", "-o", "json", "--in", "ct", "--out", "plain"], b""));
    assert_eq!(report["bytes"], 10);
    let report = json(&place.ok(&["audit", "-o", "json", "ct"], b""));
    assert_eq!((&report["verdict"], &report["opened"]), (&"sound".into(), &true.into()));
    // Data on standard output is data only; the report goes beside it.
    let output = place.run(&["decrypt", "-o", "json", "--in", "ct"]);
    assert_eq!(output.stdout, b"0123456789");
    assert_eq!(json(&output.stderr)["bytes"], 10);
}

#[test]
fn inspect_tells_what_a_file_holds() {
    let place = Place::with_keys();
    let inspect = |name: &str| json(&place.ok(&["inspect", "-o", "json", name], b""));
    assert_eq!(inspect("system.pub")["kind"], "public key");
    assert_eq!(inspect("system.key")["kind"], "system secret key");
    let key = inspect("machine.key");
    assert_eq!((&key["kind"], &key["labels"]), (&"machine key".into(), &serde_json::json!(["country", "region"])));
    place.ok(&["encrypt", "--policy", "b: 1 and a: 1", "--out", "ct"], b"four");
    let ciphertext = inspect("ct");
    assert_eq!((&ciphertext["policy"], &ciphertext["framing"]), (&"(b:1 and a:1)".into(), &"v1.3.8".into()));
    place.ok(&["encrypt", "--policy", "a: 1 and (b: 1 and a: 1)", "--out", "same"], b"");
    assert_eq!(inspect("same")["policy_id"], ciphertext["policy_id"], "the id does not depend on the spelling");
}

#[test]
fn audit_answers_for_ciphertexts_of_a_defective_encryptor() {
    let place = Place::new();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/abe/testdata/legacy.json");
    let file = json(&fs::read(file).unwrap());
    let write = |name: &str, hexadecimal: &Value| {
        let digits = hexadecimal.as_str().unwrap().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        fs::write(place.path(name), digits.chunks(2).map(byte).collect::<Vec<_>>()).unwrap();
    };
    // The second key satisfies none of these policies.
    write("machine.key", &file["attribute_keys"][1]["attribute_key"]);
    for (case, verdict) in [(1, "sound"), (5, "cannot tell"), (6, "defective"), (7, "defective")] {
        write("ct", &file["cases"][case]["ciphertext"]);
        assert_eq!(json(&place.ok(&["audit", "-o", "json", "ct"], b""))["verdict"], verdict, "case {case}");
    }
}

#[test]
fn a_larger_ciphertext_is_made_only_on_request() {
    let place = Place::with_keys();
    let large = vec![b'x'; 70_000];
    let refused = place.run_with(&["encrypt", "--policy", "region: EU"], &large);
    assert_eq!(refused.status.code(), Some(6));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("too-large"));
    let ciphertext = place.ok(&["encrypt", "--policy", "region: EU", "--max-bytes", "100000"], &large);
    assert_eq!(place.ok(&["decrypt"], &ciphertext), large);
}

#[test]
fn bench_prints_the_agreed_fields() {
    let report = json(&Place::new().ok(&["bench", "-o", "json"], b""));
    assert!(report["cpu"].is_string() && report["commit"].is_string());
    for operation in ["and1", "and10", "and50", "mixed50"] {
        for field in [
            "keygen_cold_ms",
            "keygen_warm_ms",
            "encrypt_cold_ms",
            "encrypt_warm_ms",
            "decrypt_ms",
            "could_decrypt_us",
            "extract_policy_us",
            "decrypt_peak_bytes",
            "attribute_key_bytes",
            "ciphertext_overhead_bytes",
        ] {
            assert!(report["ops"][operation][field].as_f64().is_some_and(|x| x > 0.0), "{operation}.{field}: {report}");
        }
    }
    for unit in ["miller_loop", "miller_loop_11", "final_exp", "g1_mult", "g2_mult", "in_g1", "in_g2", "hash_to_g1"] {
        assert!(report["units_us"][unit].as_f64().is_some_and(|x| x > 0.0), "{unit}");
    }
    assert!(report["ratio"]["decrypt_and50_over_floor"].as_f64().is_some_and(|x| x > 0.0));
    // Sizes and memory do not depend on the machine.
    assert_eq!(report["ops"]["and50"]["ciphertext_overhead_bytes"], 19_487);
    assert_eq!(report["ops"]["and50"]["attribute_key_bytes"], 23_546);
    assert!(report["ops"]["and50"]["decrypt_peak_bytes"].as_u64().unwrap() <= 1 << 20);
}
