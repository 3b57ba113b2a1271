//! Fuzzes one reader; what it does with the bytes is in `bodies.rs`, which the regression test shares.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bodies::upload_pem(data);
});
