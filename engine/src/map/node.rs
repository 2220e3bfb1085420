//! Nodes of the two trees of a checkpoint: map and live (`docs/formats/checkpoint.md`).

use crate::error::Result;
use crate::map::fields::Fields;
use crate::map::page::{Below, Page};
use crate::types::{Entry, Loc};

/// Children of an inner node, as a shift.
pub(crate) const FANOUT_BITS: u32 = 9;
/// Bytes of a node pointer.
pub(crate) const PTR_BYTES: usize = 24;

const WHAT: &str = "map node";
const HEAD: usize = 16;
const MAP_ITEM: usize = 16;
const LIVE_ITEM: usize = 8;
const INNER_ITEM: usize = 8 + PTR_BYTES;

/// Which of the two trees a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// LBA to location.
    Map,
    /// SCO number to live clusters.
    Live,
}

impl Tree {
    /// Keys of a leaf, as a shift.
    pub(crate) fn leaf_bits(self) -> u32 {
        match self {
            Tree::Map => 7,
            Tree::Live => 9,
        }
    }
    pub(crate) fn leaf_kind(self) -> u8 {
        match self {
            Tree::Map => 1,
            Tree::Live => 2,
        }
    }
    pub(crate) fn inner_kind(self) -> u8 {
        match self {
            Tree::Map => 3,
            Tree::Live => 4,
        }
    }
    /// Of an item of an object's index.
    pub(crate) fn of_kind(kind: u8) -> Option<Tree> {
        match kind {
            1 | 3 => Some(Tree::Map),
            2 | 4 => Some(Tree::Live),
            _ => None,
        }
    }
}

/// Where a node is, and what it must contain. Object 0: no such node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ptr {
    pub(crate) object: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

impl Ptr {
    pub(crate) fn is_none(&self) -> bool {
        self.object == 0
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.object.to_le_bytes());
        for field in [self.offset, self.length, self.crc, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }

    pub(crate) fn decode(f: &mut Fields<'_>) -> Result<Ptr> {
        let ptr = Ptr {
            object: f.u64()?,
            offset: f.u32()?,
            length: f.u32()?,
            crc: f.u32()?,
        };
        f.take(4)?;
        Ok(ptr)
    }
}

/// An inner node: the children that exist, by slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inner {
    pub(crate) items: Vec<(u16, Ptr)>,
}

impl Inner {
    pub(crate) fn child(&self, slot: u16) -> Ptr {
        match self.items.binary_search_by_key(&slot, |item| item.0) {
            Ok(at) => self.items[at].1,
            Err(_) => Ptr::default(),
        }
    }
    /// What it costs in RAM.
    pub(crate) fn bytes(&self) -> usize {
        128 + self.items.len() * std::mem::size_of::<(u16, Ptr)>()
    }
}

/// Live clusters of one SCO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) slot: u16,
    pub(crate) live: u16,
    pub(crate) clusters: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    MapLeaf(Box<Page>),
    LiveLeaf(Vec<Live>),
    Inner(Tree, Inner),
}

/// A decoded node: where it stands in its tree, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) level: u8,
    /// First key that it spans.
    pub(crate) key: u64,
    pub(crate) body: Body,
}

impl Node {
    pub(crate) fn tree(&self) -> Tree {
        match &self.body {
            Body::MapLeaf(_) => Tree::Map,
            Body::LiveLeaf(_) => Tree::Live,
            Body::Inner(tree, _) => *tree,
        }
    }
}

/// Keys that a node of this level spans, as a shift; 64 and more: all.
pub(crate) fn span_bits(tree: Tree, level: u8) -> u32 {
    tree.leaf_bits() + FANOUT_BITS * u32::from(level)
}

fn head(kind: u8, level: u8, items: usize, key: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + items * INNER_ITEM);
    out.extend_from_slice(&[kind, level]);
    out.extend_from_slice(&(items as u16).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&key.to_le_bytes());
    out
}

pub(crate) fn encode_map_leaf(key: u64, page: &Page) -> Vec<u8> {
    let mut out = head(Tree::Map.leaf_kind(), 0, page.data().count(), key);
    for (slot, entry) in page.data() {
        out.extend_from_slice(&(slot as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&entry.crc.to_le_bytes());
        out.extend_from_slice(&entry.loc.0.to_le_bytes());
    }
    out
}

pub(crate) fn encode_live_leaf(key: u64, items: &[Live]) -> Vec<u8> {
    let mut out = head(Tree::Live.leaf_kind(), 0, items.len(), key);
    for item in items {
        for field in [item.slot, item.live, item.clusters, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }
    out
}

pub(crate) fn encode_inner(tree: Tree, level: u8, key: u64, items: &[(u16, Ptr)]) -> Vec<u8> {
    let mut out = head(tree.inner_kind(), level, items.len(), key);
    for (slot, ptr) in items {
        out.extend_from_slice(&slot.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        ptr.encode(&mut out);
    }
    out
}

/// Slots must ascend and stay below the fan-out.
struct Slots {
    next: u16,
    end: u16,
}

impl Slots {
    fn take(&mut self, f: &mut Fields<'_>) -> Result<u16> {
        let slot = f.u16()?;
        if slot < self.next || slot >= self.end {
            return Err(f.corrupt("slots out of order"));
        }
        self.next = slot + 1;
        Ok(slot)
    }
}

/// Errors: Corrupt. The caller has compared the CRC32C with the pointer's.
pub(crate) fn decode(bytes: &[u8]) -> Result<Node> {
    let mut f = Fields::new(WHAT, bytes);
    let (kind, level, n) = (f.u8()?, f.u8()?, f.u16()? as usize);
    f.take(4)?;
    let key = f.u64()?;
    let tree = Tree::of_kind(kind).ok_or_else(|| f.corrupt("unknown kind"))?;
    if (kind == tree.leaf_kind()) != (level == 0) || level > 7 {
        return Err(f.corrupt("kind and level do not agree"));
    }
    let aligned = match 1u64.checked_shl(span_bits(tree, level)) {
        Some(span) => key & (span - 1) == 0,
        None => key == 0,
    };
    if !aligned {
        return Err(f.corrupt("key not aligned"));
    }
    let item_bytes = match kind {
        1 => MAP_ITEM,
        2 => LIVE_ITEM,
        _ => INNER_ITEM,
    };
    if f.left() != n * item_bytes {
        return Err(f.corrupt("wrong length"));
    }
    let body = match kind {
        1 => Body::MapLeaf(Box::new(decode_map_leaf(&mut f, n)?)),
        2 => Body::LiveLeaf(decode_live_leaf(&mut f, n)?),
        _ => Body::Inner(tree, decode_inner(&mut f, n)?),
    };
    Ok(Node { level, key, body })
}

fn decode_map_leaf(f: &mut Fields<'_>, n: usize) -> Result<Page> {
    let mut page = Page::new(Below::Nothing);
    let mut slots = Slots { next: 0, end: 128 };
    for _ in 0..n {
        let slot = slots.take(f)?;
        f.take(2)?;
        let crc = f.u32()?;
        let loc = Loc(f.u64()?);
        if !loc.is_data() {
            return Err(f.corrupt("no such location"));
        }
        page.set(usize::from(slot), Entry { loc, crc });
    }
    Ok(page)
}

fn decode_live_leaf(f: &mut Fields<'_>, n: usize) -> Result<Vec<Live>> {
    let mut slots = Slots { next: 0, end: 512 };
    let mut items = Vec::with_capacity(n);
    for _ in 0..n {
        items.push(Live {
            slot: slots.take(f)?,
            live: f.u16()?,
            clusters: f.u16()?,
        });
        f.take(2)?;
    }
    Ok(items)
}

fn decode_inner(f: &mut Fields<'_>, n: usize) -> Result<Inner> {
    let mut slots = Slots { next: 0, end: 512 };
    let mut items = Vec::with_capacity(n);
    for _ in 0..n {
        let slot = slots.take(f)?;
        f.take(6)?;
        let ptr = Ptr::decode(f)?;
        if ptr.is_none() {
            return Err(f.corrupt("item without a node"));
        }
        items.push((slot, ptr));
    }
    Ok(Inner { items })
}
