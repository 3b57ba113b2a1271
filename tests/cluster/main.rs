//! Clusters of real processes under faults, judged by what their clients saw; and the tests of the judges themselves.

mod authority;
mod disk_full;
mod edge;
#[path = "../harness/harness.rs"]
mod harness;
mod large;
mod partition;
mod restart;
mod rolling;
mod run;
mod snapshot;
mod storm;
