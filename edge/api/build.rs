//! Generates the gRPC contract from `proto/`; the schema compiler is a library, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "proto/edge.proto";
    println!("cargo:rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        // A derived Debug would print the secret.
        .skip_debug(["cinnabar.edge.v1.SecretResponse"])
        .compile_fds(descriptors)?;
    Ok(())
}
