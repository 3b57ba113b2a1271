//! The real binary on real files: what the README shows, and what every command refuses.

mod abe;
