//! Reads the live tree of a checkpoint: how much of each SCO its map still uses. For scrub and for checks.

use crate::error::{Error, Result};
use crate::map::node::{Body, Node, Ptr, Tree, FANOUT_BITS};
use crate::map::root::Ground;
use crate::map::store::verified;
use crate::types::{Fetch, RootRef};
use rustc_hash::FxHashMap;

/// Nodes asked for at a time.
const WINDOW: usize = 64;

/// One SCO that has live clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoLive {
    pub number: u64,
    /// Clusters that the map uses: at least 1.
    pub live: u32,
    /// Clusters in the SCO, as far as this volume's map has seen them written.
    pub clusters: u32,
}

/// What a walk wants or has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveStep {
    /// Fetch these, `supply` them, and call `step` again.
    Need(Vec<Fetch>),
    /// Some SCOs with live clusters (up to 512), in ascending order over the whole walk; one that never comes has none.
    Scos(Vec<ScoLive>),
    Done,
}

/// A walk over the live tree under one root. Memory: a path of nodes and a window of supplied ones.
pub struct LiveWalk {
    ground: Ground,
    /// Still to visit, the next one last: (node, level, first SCO number).
    stack: Vec<(Ptr, u8, u64)>,
    supplied: FxHashMap<(u64, u64), Node>,
}

impl LiveWalk {
    /// Errors: Corrupt when the bytes are not those that the reference names.
    pub fn new(reference: RootRef, root_bytes: &[u8]) -> Result<LiveWalk> {
        let ground = Ground::new(reference, root_bytes)?;
        let top = (ground.root.live_top, ground.root.live_levels, 0);
        let stack = if top.0.is_none() {
            Vec::new()
        } else {
            vec![top]
        };
        Ok(LiveWalk {
            ground,
            stack,
            supplied: FxHashMap::default(),
        })
    }

    /// Goes on. Errors: Corrupt when the tree contradicts itself.
    pub fn step(&mut self) -> Result<LiveStep> {
        loop {
            let Some(&(ptr, level, key)) = self.stack.last() else {
                return Ok(LiveStep::Done);
            };
            let Some(node) = self.supplied.remove(&(ptr.object, u64::from(ptr.offset))) else {
                let next = self.stack.iter().rev().take(WINDOW);
                let missing = next.filter(|n| {
                    !self
                        .supplied
                        .contains_key(&(n.0.object, u64::from(n.0.offset)))
                });
                return Ok(LiveStep::Need(
                    missing
                        .map(|n| self.ground.fetch(n.0))
                        .collect::<Result<_>>()?,
                ));
            };
            if node.tree() != Tree::Live || node.level != level || node.key != key {
                return Err(Error::Corrupt(
                    "map node: not the one that its parent means".into(),
                ));
            }
            self.stack.pop();
            match node.body {
                Body::LiveLeaf(items) => {
                    let sco = |item: &crate::map::node::Live| ScoLive {
                        number: key + u64::from(item.slot),
                        live: u32::from(item.live),
                        clusters: u32::from(item.clusters),
                    };
                    return Ok(LiveStep::Scos(items.iter().map(sco).collect()));
                }
                Body::Inner(_, inner) => {
                    let shift = Tree::Live.leaf_bits() + FANOUT_BITS * u32::from(level - 1);
                    let child = |(slot, ptr): &(u16, Ptr)| {
                        (*ptr, level - 1, key + (u64::from(*slot) << shift))
                    };
                    self.stack.extend(inner.items.iter().rev().map(child));
                }
                Body::MapLeaf(_) => return Err(Error::Corrupt("map node: wrong tree".into())),
            }
        }
    }

    /// Takes in a node, in any order. Errors: Corrupt when the bytes are not those named.
    pub fn supply(&mut self, fetch: &Fetch, bytes: &[u8]) -> Result<()> {
        self.supplied
            .insert((fetch.number, fetch.offset), verified(fetch, bytes)?);
        Ok(())
    }
}
