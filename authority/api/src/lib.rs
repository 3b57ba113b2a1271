//! The contract of the authority: what it signs and everyone else reads.
#![forbid(unsafe_code)]
