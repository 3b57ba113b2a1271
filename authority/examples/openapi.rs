//! Writes `authority/openapi.json` anew: `cargo run -p cinnabar-authority --example openapi`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    std::fs::write(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json"),
        cinnabar_authority::server::openapi::text(),
    )
}
