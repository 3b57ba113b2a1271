//! Writes the fuzzers' first corpus: `seed_corpus FOLDER` fills `FOLDER/<target>/`.

#[path = "../fuzz/bodies.rs"]
mod bodies;
#[path = "../fuzz/seeds.rs"]
mod seeds;

use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: seed_corpus FOLDER")?;
    for (target, body, inputs) in seeds::all() {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder)?;
        for (n, input) in inputs.into_iter().enumerate() {
            assert!(body(&input), "seed {n} of {target} is sound");
            fs::write(folder.join(format!("seed-{n}")), input)?;
        }
    }
    Ok(())
}
