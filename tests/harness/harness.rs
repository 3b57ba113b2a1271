//! What the tests with real processes stand on: processes and clusters, faults between them, and judges of what clients saw.
//!
//! - [`deadline`], [`ports`], [`random`]: bounded waiting, addresses and folders of a test's own, repeatable choices.
//! - [`process`], [`http`], [`cluster`]: starting, stopping, killing and asking the real binary.
//! - [`client`]: reading, writing and watching, as the judges want it written down.
//! - [`load`], [`readers`], [`scale`]: clients, watchers and downstreams for as long as a run lasts, and how long that is.
//! - [`proxy`], [`socket_owner`], [`netns`]: cutting, slowing and narrowing the links between processes.
//! - [`history`], [`streams`]: recording what was asked and answered, and deciding whether a correct store could have
//!   answered so.
//!
//! Law: a judge is not trusted until it has refused every broken record it exists for; its tests stand beside it.

pub mod client;
pub mod cluster;
pub mod deadline;
pub mod history;
pub mod http;
pub mod load;
pub mod netns;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod random;
pub mod readers;
pub mod scale;
pub mod socket_owner;
pub mod streams;
