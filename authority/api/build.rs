//! Generates the gRPC contract from `proto/`; the schema compiler is a library, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "proto/machine.proto";
    println!("cargo:rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["proto"])?;
    // A derived Debug would print the keys.
    tonic_prost_build::configure().skip_debug(["cinnabar.authority.v1.MachineKey"]).compile_fds(descriptors)?;
    Ok(())
}
