//! The real authority over a real store of three voters.

mod process;
mod rig;
