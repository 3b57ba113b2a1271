//! What fuzzing found, and what it starts from: each input is read as the fuzzers read it.

use std::fs;

use crate::seeds;

#[test]
fn every_seed_and_every_regression_input_holds() {
    for (target, body, seed) in seeds::all() {
        body(&seed);
        // The same with its checksums made right, where there are any.
        body(&[&[1], &seed[1..]].concat());
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
fn the_seeds_are_sound_and_their_bodies_see_damage() {
    let input = |name: &str| seeds::all().into_iter().find(|(target, _, _)| *target == name).unwrap().2;
    assert!(cinnabar_kv_api::Frame::decode(&input("frame")).is_ok());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seed.snap");
    let snapshot = input("snapshot_file");
    fs::write(&path, &snapshot[1..]).unwrap();
    assert_eq!(cinnabar_kv::snapshot::read_header(&path).unwrap().records, 1);
    cinnabar_kv::snapshot::verify(&path, |_, _| Ok(())).unwrap();
}
