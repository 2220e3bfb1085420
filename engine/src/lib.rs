//! The byte-carrying half of vPool: write log, map, caches, recovery.
//!
//! Knows nothing of owners, buckets or Raft. `engine` opens a cache directory, `recovery` brings a volume of it into service,
//! `volume` serves it, `shipping` hands its content to the backend. `binding` is the thin layer under Python.

pub mod batch;
#[cfg(feature = "python")]
mod binding;
pub mod completions;
pub mod disk;
pub mod engine;
pub mod error;
pub mod evidence;
mod flushes;
pub mod fullness;
mod joined_crc;
pub mod log;
pub mod map;
pub mod pool;
pub mod read_cache;
pub mod recovery;
pub mod replacement;
pub mod replica;
pub mod request;
pub mod scan;
pub mod segment;
pub mod shipping;
mod sources;
pub mod survey;
pub mod system;
pub mod tail;
pub mod tlog;
pub mod types;
pub mod volume;
