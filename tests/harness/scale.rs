//! How much a long test does: little in `cargo test`, and as much as the environment says in `make storm`.

use std::env;

/// The number in an environment variable, or else this one.
///
/// # Panics
/// When the variable holds something else.
pub fn scale(variable: &str, short: u64) -> u64 {
    match env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{variable}={text:?}: {error}")),
        Err(_) => short,
    }
}

/// What choices follow from. It is printed, so that a failing test shows it; `SEED` brings the choices back.
pub fn seed(short: u64) -> u64 {
    let seed = scale("SEED", short);
    eprintln!("SEED={seed}");
    seed
}
