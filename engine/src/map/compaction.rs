//! Keeps the table of objects bounded: the emptiest objects are emptied, by rewriting the nodes of theirs that are still in use.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use crate::map::checkpoint::CheckpointLimits;
use crate::map::node::Tree;
use crate::map::object::{Trailer, TRAILER_BYTES};
use crate::map::root::ObjectRef;
use crate::types::{Fetch, FetchKind};

/// Most objects emptied by one checkpoint.
const VICTIMS_MAX: usize = 64;
/// Bytes of objects emptied by one checkpoint: bounds what their indexes take in RAM.
const VICTIM_BYTES_MAX: u64 = 64 << 20;

/// A node to rewrite if it is still in use: (number of the first leaf that it spans, level).
pub(crate) type Target = (u64, u8);

/// Chooses objects to empty, and reads their indexes.
pub(crate) struct Survey {
    victims: Vec<ObjectRef>,
    trailers: FxHashMap<u64, Trailer>,
    indexed: usize,
    /// The next index has been supplied once, and did not fit its trailer.
    suspicious: bool,
    map: Vec<Target>,
    live: Vec<Target>,
}

impl Survey {
    pub(crate) fn new(table: &BTreeMap<u64, ObjectRef>, limits: &CheckpointLimits) -> Survey {
        let live_bytes: u64 = table.values().map(|object| object.live_bytes).sum();
        let filled = (live_bytes / limits.object_bytes_max as u64) as usize;
        let mut victims = Vec::new();
        if table.len() + 1 > limits.objects_max + 2 * filled {
            let mut objects: Vec<ObjectRef> = table.values().copied().collect();
            objects.sort_by_key(|object| (object.live_bytes, object.number));
            let mut bytes = 0;
            for object in objects
                .into_iter()
                .take(VICTIMS_MAX.min(table.len().div_ceil(2)))
            {
                bytes += object.bytes;
                if bytes > VICTIM_BYTES_MAX && victims.len() >= 4 {
                    break;
                }
                victims.push(object);
            }
        }
        victims.sort_by_key(|object| object.number);
        Survey {
            victims,
            trailers: FxHashMap::default(),
            indexed: 0,
            suspicious: false,
            map: Vec::new(),
            live: Vec::new(),
        }
    }

    /// Numbers of the chosen objects, ascending.
    pub(crate) fn victims(&self) -> Vec<u64> {
        self.victims.iter().map(|object| object.number).collect()
    }

    /// What to fetch next: all trailers at once, then one index after the other. None: done.
    pub(crate) fn step(&mut self) -> Result<Option<Vec<Fetch>>> {
        let trailers: Vec<Fetch> = self
            .victims
            .iter()
            .filter(|object| !self.trailers.contains_key(&object.number))
            .map(trailer_range)
            .collect();
        if !trailers.is_empty() {
            return Ok(Some(trailers));
        }
        Ok(self.next_index().map(|(object, trailer)| {
            vec![range(object, trailer.index_offset, trailer.index_bytes())]
        }))
    }

    fn next_index(&self) -> Option<(&ObjectRef, &Trailer)> {
        let object = self.victims.get(self.indexed)?;
        Some((object, self.trailers.get(&object.number)?))
    }

    pub(crate) fn supply(&mut self, fetch: &Fetch, bytes: &[u8]) -> Result<()> {
        let Some(object) = self
            .victims
            .iter()
            .find(|object| object.number == fetch.number)
            .copied()
        else {
            return Ok(());
        };
        if *fetch == trailer_range(&object) {
            self.trailers
                .insert(object.number, Trailer::decode(bytes, object.bytes)?);
            return Ok(());
        }
        let Some((next, trailer)) = self
            .next_index()
            .filter(|(next, _)| next.number == object.number)
        else {
            return Ok(());
        };
        let items = match trailer.index(&next.origin, next.number, bytes) {
            Ok(items) => items,
            Err(error) => {
                // The trailer may be the wrong one: if it happens again, that is fetched again too.
                if std::mem::replace(&mut self.suspicious, true) {
                    self.trailers.remove(&object.number);
                    self.suspicious = false;
                }
                return Err(error);
            }
        };
        for item in items {
            let tree = Tree::of_kind(item.kind).filter(|_| item.level < 8);
            let tree = tree
                .ok_or_else(|| Error::Corrupt("checkpoint object: unknown kind of node".into()))?;
            let target = (item.key >> tree.leaf_bits(), item.level);
            match tree {
                Tree::Map => self.map.push(target),
                Tree::Live => self.live.push(target),
            }
        }
        self.indexed += 1;
        self.suspicious = false;
        Ok(())
    }

    /// Where nodes of the chosen objects stand, or stood: of the map and of live, sorted.
    pub(crate) fn targets(self) -> (Vec<Target>, Vec<Target>) {
        let sorted = |mut targets: Vec<Target>| {
            targets.sort_unstable();
            targets.dedup();
            targets
        };
        (sorted(self.map), sorted(self.live))
    }
}

fn trailer_range(object: &ObjectRef) -> Fetch {
    range(
        object,
        object.bytes.saturating_sub(TRAILER_BYTES as u64),
        TRAILER_BYTES as u32,
    )
}

fn range(object: &ObjectRef, offset: u64, length: u32) -> Fetch {
    Fetch {
        kind: FetchKind::Map,
        origin: object.origin,
        epoch: object.epoch,
        number: object.number,
        offset,
        length,
        crc: 0,
    }
}

/// Whether a node to rewrite, of at most this level, stands in `first..end` (in leaves).
pub(crate) fn any_target(targets: &[Target], first: u64, end: u64, level: u8) -> bool {
    let from = targets.partition_point(|target| target.0 < first);
    targets[from..]
        .iter()
        .take_while(|target| target.0 < end)
        .any(|target| target.1 <= level)
}
