//! Writing a cluster anew, or giving it up, if it still stands where somebody found it damaged: an ordinary entry of the log.

use std::sync::Arc;

use crc32c::crc32c;

use crate::error::{Error, Result};
use crate::log::Append;
use crate::map::Lookup;
use crate::request::{Plan, Request};
use crate::segment::record_bytes;
use crate::sources::{Miss, Supplied};
use crate::types::{Entry, CLUSTER};
use crate::volume::{Counters, Reply, Volume};

/// What came of it.
pub enum Replacement {
    /// Acknowledged as a write is; the caller delays its answer by that many seconds.
    Done(f64),
    /// The cluster is somewhere else now, or gone: nothing has changed.
    Moved,
    /// Map nodes are needed first: supply them, then ask again.
    Plan(Box<Plan>),
}

impl Volume {
    /// Where cluster `lba` stands in SCO `number` now: writes it anew from `data`, which must be what it has been, or (None)
    /// makes it zeros. Nobody's write can come between the look and the change.
    ///
    /// Errors: `WouldBlock` (nothing has changed), `Corrupt` (`data` is not what the map says), those of a write.
    pub fn replace(
        self: &Arc<Self>,
        lba: u64,
        number: u64,
        data: Option<&[u8]>,
    ) -> Result<Replacement> {
        if data.is_some_and(|data| data.len() != CLUSTER) {
            return Err(Error::Invalid(format!("a cluster has {CLUSTER} bytes")));
        }
        self.span(u128::from(lba) * CLUSTER as u128, CLUSTER as u128)?;
        let crc = data.map(crc32c);
        let mut state = self.lock()?;
        let mut found: Vec<Entry> = Vec::new();
        if let Lookup::Need(fetches) = state.map.lookup(lba, 1, &mut found)? {
            drop(state);
            let miss = |fetch| Miss {
                fetch,
                entries: Vec::new(),
            };
            let misses = fetches.into_iter().map(miss).collect();
            let plan = Plan::new(self, Request::Survey, misses, Supplied::default());
            return Ok(Replacement::Plan(plan));
        }
        let entry = found[0];
        if !entry.loc.is_data() || entry.loc.number() != number {
            return Ok(Replacement::Moved);
        }
        let reply = match (data, crc) {
            (Some(data), Some(crc)) if crc == entry.crc => {
                self.append(&mut state, lba, data, &[crc])?
            }
            (Some(_), _) => {
                return Err(Error::Corrupt(format!(
                    "what is offered for cluster {lba} is not what the map says"
                )))
            }
            (None, _) => {
                let record = record_bytes(0);
                self.admit(&state, record as u64)?;
                if state.log.make_room(0, record)? {
                    self.sealed();
                }
                state.log.append(&[Append::Zero { lba, clusters: 1 }])?;
                state.map.clear(lba, 1);
                Counters::add(&self.counters.writes, 1);
                Reply::Written(0.0)
            }
        };
        match reply {
            Reply::Written(delay) => Ok(Replacement::Done(delay)),
            Reply::Read | Reply::Plan(_) => Err(Error::Internal("a write that read".into())),
        }
    }
}
