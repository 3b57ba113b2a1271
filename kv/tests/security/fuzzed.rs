//! What fuzzing found, and what it starts from: each input is read as the fuzzers read it.

use std::fs;

use crate::seeds;

#[test]
fn every_seed_is_sound_and_every_regression_input_holds() {
    for (target, body, seed) in seeds::all() {
        assert!(body(&seed), "the seed of {target}");
        let folder = format!("{}/fuzz/regressions/{target}", env!("CARGO_MANIFEST_DIR"));
        // A target that never found anything has no folder.
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            body(&fs::read(path).unwrap());
        }
    }
}

#[test]
fn a_damaged_file_is_seen_unless_its_checksums_are_made_right() {
    for (target, body, mut seed) in seeds::all() {
        if !["log_file", "snapshot_file"].contains(&target) {
            continue;
        }
        // A byte of a long value: nothing but a checksum tells.
        let at = seed.windows(8).rposition(|bytes| bytes == b"vvvvvvvv").unwrap();
        seed[at] = b'w';
        assert!(!body(&seed), "{target}");
        // The first byte asks for mending: a log is sound then, but a snapshot's state hash still tells.
        seed[0] = 1;
        assert_eq!(body(&seed), target == "log_file", "{target}");
    }
}
