//! The map: cluster address to location, for any number of volumes in one file, over checkpoints in the backend.
//!
//! A volume updates its [`VolumeMap`] in RAM; a [`Cut`] makes the file exactly the map as of one record of the log; a
//! [`CheckpointBuilder`] turns that state into objects. Nothing here talks to the backend: what is missing is asked for
//! ([`Lookup::Need`], [`Step::Need`]) and supplied by the caller. Formats: `docs/formats/local-map.md`, `docs/formats/checkpoint.md`.

mod checkpoint;
mod clock;
mod compaction;
mod cut;
pub(crate) mod fields;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod hostile;
mod live;
mod meta;
mod node;
mod object;
mod page;
mod ranges;
mod root;
mod store;
mod tree;
mod volume;
mod walk;

pub use checkpoint::{CheckpointBuilder, CheckpointLimits, FinishedCheckpoint, Step};
pub use cut::{Cut, CutId};
pub use live::{LiveStep, LiveWalk, ScoLive};
pub use store::MapStore;
pub use volume::{Gathered, Lookup, RootInfo, VolumeMap};
