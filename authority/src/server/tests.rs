//! The interface against a store of its own: every cell of the table, refusals, bounds, and the roads that change something.

mod access;
mod connections;
mod properties;
mod refusals;
mod rivals;
mod roads;
mod store;
mod world;
