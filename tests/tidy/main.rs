//! What compilers and linters do not check: module docs, function lengths, where unsafe code may be, which crate may
//! depend on which, and version floors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use semver::Version;
use toml::Table;

/// Most lines of one function.
const FUNCTION_LINES_MAX: usize = 70;
/// Most lines of one source file.
const FILE_LINES_MAX: usize = 700;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the project, by path from its root.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["target", "var", ".git", "corpus", "artifacts"].contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_path_buf(), text));
            }
        }
    }
    assert!(found.len() > 20, "the walk found only {} files", found.len());
    found
}

fn table(path: &str) -> Table {
    fs::read_to_string(root().join(path)).unwrap().parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_file_says_what_it_holds() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{}: no module doc on top", path.display());
    }
}

#[test]
fn files_and_functions_stay_readable() {
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() <= FILE_LINES_MAX, "{}: {} lines", path.display(), lines.len());
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_function = words.iter().take(4).any(|word| *word == "fn") && !line.trim_start().starts_with("//");
            if !is_function {
                continue;
            }
            // A trait's method that is only declared: its declaration ends before a body begins.
            let ends = |line: &&&str| line.ends_with(';') || line.ends_with('{') || line.ends_with('}');
            if lines[start..].iter().find(ends).is_some_and(|line| line.ends_with(';')) {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == close).map_or(0, |end| end + 1);
            assert!(length <= FUNCTION_LINES_MAX, "{}:{}: a function of {length} lines", path.display(), start + 1);
        }
    }
}

#[test]
fn unsafe_code_has_two_homes_and_every_block_a_reason() {
    let homes = ["abe/src/curve/ffi.rs", "kv/daemon/src/allocator.rs"].map(Path::new);
    let own = Path::new("tests/tidy/main.rs");
    for (path, text) in sources().into_iter().filter(|(path, _)| path != own) {
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            if !line.contains("unsafe {") {
                continue;
            }
            assert!(homes.contains(&path.as_path()), "{}: unsafe code outside its two homes", path.display());
            let reason = lines[..n].iter().rev().take(5).any(|line| line.trim_start().starts_with("// SAFETY:"));
            assert!(reason, "{}:{}: unsafe without a reason", path.display(), n + 1);
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    let marks = ["TO", "FIX", "XX"].into_iter().zip(["DO", "ME", "X"]).map(|(a, b)| format!("{a}{b}"));
    let marks: Vec<String> = marks.chain(["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("))).collect();
    for (path, text) in sources() {
        for mark in &marks {
            assert!(!text.contains(mark), "{}: {mark}", path.display());
        }
    }
}

/// What each crate may depend on among ours: arrows point down.
const ARROWS: [(&str, &str, &[&str]); 10] = [
    (
        "cinnabar",
        "Cargo.toml",
        &[
            "cinnabar-abe",
            "cinnabar-authority-api",
            "cinnabar-daemon",
            "cinnabar-edge",
            "cinnabar-edge-api",
            "cinnabar-kv",
            "cinnabar-kv-api",
            "cinnabar-terminator",
        ],
    ),
    ("cinnabar-abe", "abe/Cargo.toml", &[]),
    (
        "cinnabar-authority",
        "authority/Cargo.toml",
        &["cinnabar-abe", "cinnabar-authority-api", "cinnabar-daemon", "cinnabar-kv-api"],
    ),
    ("cinnabar-authority-api", "authority/api/Cargo.toml", &["cinnabar-abe", "cinnabar-daemon"]),
    ("cinnabar-daemon", "kv/daemon/Cargo.toml", &[]),
    (
        "cinnabar-edge",
        "edge/Cargo.toml",
        &[
            "cinnabar-abe",
            "cinnabar-authority-api",
            "cinnabar-daemon",
            "cinnabar-edge-api",
            "cinnabar-kv",
            "cinnabar-kv-api",
        ],
    ),
    ("cinnabar-edge-api", "edge/api/Cargo.toml", &["cinnabar-daemon"]),
    // By construction it can hold no key.
    ("cinnabar-terminator", "edge/terminator/Cargo.toml", &["cinnabar-daemon", "cinnabar-edge-api"]),
    ("cinnabar-kv-api", "kv/api/Cargo.toml", &["cinnabar-daemon"]),
    ("cinnabar-kv", "kv/Cargo.toml", &["cinnabar-daemon", "cinnabar-kv-api"]),
];

#[test]
fn arrows_between_crates_point_down() {
    let members = table("Cargo.toml")["workspace"]["members"].as_array().unwrap().len();
    assert_eq!(members + 1, ARROWS.len(), "a crate without a row in ARROWS");
    for (name, manifest, allowed) in ARROWS {
        let manifest = table(manifest);
        assert_eq!(manifest["package"]["name"].as_str(), Some(name));
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for dependency in manifest.get(section).and_then(|s| s.as_table()).into_iter().flat_map(Table::keys) {
                let ours = dependency.starts_with("cinnabar");
                assert!(!ours || allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
                // The cryptography is pure and synchronous.
                assert!(name != "cinnabar-abe" || dependency != "tokio", "{name} must not depend on {dependency}");
            }
        }
    }
}

/// The fuzzers are outside the workspace, so that nothing else renews their lock files.
#[test]
fn the_fuzzers_lock_files_know_what_our_crates_depend_on() {
    for path in ["abe/fuzz/Cargo.lock", "authority/fuzz/Cargo.lock", "kv/fuzz/Cargo.lock"] {
        let mut looked_at = 0;
        for package in table(path)["package"].as_array().unwrap() {
            let name = package["name"].as_str().unwrap();
            let Some((_, manifest, _)) = ARROWS.iter().find(|(ours, ..)| *ours == name) else { continue };
            let manifest = table(manifest);
            let sections = ["dependencies", "build-dependencies"].map(|section| manifest.get(section));
            let stated = sections.iter().flatten().filter_map(|section| section.as_table()).flat_map(Table::keys);
            let locked = package.get("dependencies").and_then(|list| list.as_array()).into_iter().flatten();
            // A name is followed by a version where the file has several.
            let locked = locked.filter_map(|entry| entry.as_str()?.split(' ').next());
            let (stated, locked): (BTreeSet<&str>, BTreeSet<&str>) =
                (stated.map(String::as_str).collect(), locked.collect());
            assert_eq!(locked, stated, "{path}: {name}; run `cargo metadata` in its folder");
            looked_at += 1;
        }
        assert!(looked_at > 0, "{path}");
    }
}

#[test]
fn locked_versions_reach_their_floors() {
    let lock = table("Cargo.lock");
    let mut locked: BTreeMap<&str, Vec<Version>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let version = package["version"].as_str().unwrap().parse().unwrap();
        locked.entry(package["name"].as_str().unwrap()).or_default().push(version);
    }
    let advisories = table("advisories.toml");
    let floors = advisories["floors"].as_table().unwrap();
    assert!(!floors.is_empty());
    for (name, floor) in floors {
        let version = |value: &toml::Value| value.as_str().unwrap().parse::<Version>().unwrap();
        for found in locked.get(name.as_str()).into_iter().flatten() {
            let reaches = *found >= version(&floor["least"]);
            let other =
                floor.get("or").is_some_and(|or| *found >= version(&or["least"]) && *found < version(&or["below"]));
            assert!(reaches || other, "{name} {found} is below its floor {floor}");
        }
    }
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    for script in [
        ".ci/run",
        "scripts/setup",
        "scripts/demo",
        "scripts/test-planted",
        "scripts/constant-time",
        "scripts/fuzz",
        "scripts/powercut",
        "scripts/bench-authority",
        "scripts/bench-edge",
        "scripts/bench-kv",
    ] {
        let mode = fs::metadata(root().join(script)).unwrap().permissions().mode();
        assert_ne!(mode & 0o100, 0, "{script} is not executable");
    }
}
