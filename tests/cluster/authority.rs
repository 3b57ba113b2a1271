//! The real authority over a real store of three voters.

mod crash;
mod machines;
mod operators;
mod process;
pub mod rig;
mod sdk;
mod upload;
