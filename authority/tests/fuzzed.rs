//! What fuzzing found, and what it starts from: each input is read as the fuzzers read it.

#[path = "../fuzz/bodies.rs"]
mod bodies;
#[path = "../fuzz/seeds.rs"]
mod seeds;

use std::fs;

#[test]
fn every_seed_is_sound_and_every_regression_input_holds() {
    for (target, body, inputs) in seeds::all() {
        assert!(!inputs.is_empty(), "{target} has a seed");
        for (n, input) in inputs.iter().enumerate() {
            assert!(body(input), "seed {n} of {target}");
        }
        let folder = format!("{}/fuzz/regressions/{target}", env!("CARGO_MANIFEST_DIR"));
        // A target that never found anything has no folder.
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{folder}: {error}"),
        };
        for entry in entries {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            body(&fs::read(path).unwrap());
        }
    }
}
