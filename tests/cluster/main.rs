//! Clusters of real processes under faults, judged by what their clients saw; and the tests of the judges themselves.

#[path = "../harness/harness.rs"]
mod harness;
mod restart;
