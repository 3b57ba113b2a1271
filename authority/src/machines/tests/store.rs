//! A store of one process for tests.
