//! A map page: the entries of 128 consecutive clusters, and its record in the file (`docs/formats/local-map.md`).

use crate::error::Result;
use crate::map::fields::{checked, seal, Fields};
use crate::types::{Entry, Loc};

/// Clusters of a page, and of a map leaf.
pub(crate) const PAGE_CLUSTERS: u64 = 128;
/// What a page costs in RAM, with its place in a table.
pub(crate) const PAGE_BYTES: usize = std::mem::size_of::<Page>() + 64;

const WHAT: &str = "local map page";
const FLAG_PARTIAL: u8 = 1;
const HEAD: usize = 24;

/// What the undefined slots of a page mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Below {
    /// Look into the file first.
    Local,
    /// The file has been merged in: the checkpoint's leaf has them.
    Checkpoint,
    /// There are none: the page is complete.
    Nothing,
}

/// Entries behind an `Arc`, copied before a change when a cut holds them too. A defined slot without data is `Loc::HOLE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) defined: u128,
    pub(crate) below: Below,
    locs: [u64; PAGE_CLUSTERS as usize],
    crcs: [u32; PAGE_CLUSTERS as usize],
}

/// Bits of `count` slots from `slot` on.
pub(crate) fn slot_mask(slot: usize, count: usize) -> u128 {
    if count >= 128 {
        u128::MAX << slot
    } else {
        ((1u128 << count) - 1) << slot
    }
}

impl Page {
    /// Nothing defined yet over `below`; over `Nothing` it is an empty page that is complete.
    pub(crate) fn new(below: Below) -> Page {
        let defined = if below == Below::Nothing {
            u128::MAX
        } else {
            0
        };
        Page {
            defined,
            below,
            locs: [0; 128],
            crcs: [0; 128],
        }
    }

    pub(crate) fn get(&self, slot: usize) -> Entry {
        Entry {
            loc: Loc(self.locs[slot]),
            crc: self.crcs[slot],
        }
    }

    pub(crate) fn is_defined(&self, slot: usize) -> bool {
        self.defined >> slot & 1 == 1
    }

    pub(crate) fn has(&self, mask: u128) -> bool {
        self.defined & mask == mask
    }

    pub(crate) fn set(&mut self, slot: usize, entry: Entry) {
        self.locs[slot] = entry.loc.0;
        self.crcs[slot] = entry.crc;
        self.defined |= 1 << slot;
    }

    /// Consecutive slots of one SCO into consecutive slots of the page.
    pub(crate) fn write(&mut self, slot: usize, loc: Loc, crcs: &[u32]) {
        for (i, place) in self.locs[slot..slot + crcs.len()].iter_mut().enumerate() {
            *place = loc.0 + i as u64;
        }
        self.crcs[slot..slot + crcs.len()].copy_from_slice(crcs);
        self.defined |= slot_mask(slot, crcs.len());
    }

    /// Slots that read as zeros from now on, whatever lies below.
    pub(crate) fn clear(&mut self, slot: usize, count: usize) {
        self.locs[slot..slot + count].fill(0);
        self.crcs[slot..slot + count].fill(0);
        self.defined |= slot_mask(slot, count);
    }

    /// Takes what is undefined here from `lower`, and what lies below that.
    pub(crate) fn merge(&mut self, lower: &Page) {
        for slot in 0..128 {
            if !self.is_defined(slot) && lower.is_defined(slot) {
                self.locs[slot] = lower.locs[slot];
                self.crcs[slot] = lower.crcs[slot];
            }
        }
        self.defined |= lower.defined;
        self.below = lower.below;
        self.settle();
    }

    /// A page with every slot defined has nothing below.
    fn settle(&mut self) {
        if self.defined == u128::MAX {
            self.below = Below::Nothing;
        }
    }

    /// Slots with data.
    pub(crate) fn data(&self) -> impl Iterator<Item = (usize, Entry)> + '_ {
        (0..128)
            .map(|slot| (slot, self.get(slot)))
            .filter(|(_, entry)| entry.loc.is_data())
    }

    /// The record in the file. A complete page stores its data only; a partial one every defined slot.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let partial = self.below != Below::Nothing;
        let mut present = 0u128;
        for slot in 0..128 {
            if self.locs[slot] != 0 || (partial && self.is_defined(slot)) {
                present |= 1 << slot;
            }
        }
        let n = present.count_ones();
        let mut out = Vec::with_capacity(HEAD + 12 * n as usize + 8);
        out.extend_from_slice(&[if partial { FLAG_PARTIAL } else { 0 }, 0, 0, 0]);
        out.extend_from_slice(&n.to_le_bytes());
        out.extend_from_slice(&present.to_le_bytes());
        let slots = || (0..128usize).filter(move |slot| present >> slot & 1 == 1);
        for slot in slots() {
            let loc = if self.locs[slot] == 0 {
                Loc::ZEROED.0
            } else {
                self.locs[slot]
            };
            out.extend_from_slice(&loc.to_le_bytes());
        }
        for slot in slots() {
            out.extend_from_slice(&self.crcs[slot].to_le_bytes());
        }
        seal(&mut out, 0);
        out
    }

    /// Errors: Corrupt.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Page> {
        let (body, _) = checked(WHAT, bytes)?;
        let mut f = Fields::new(WHAT, body);
        let flags = f.u8()?;
        f.take(3)?;
        let n = f.u32()?;
        let present = f.u128()?;
        if n != present.count_ones() || f.left() != 12 * n as usize {
            return Err(f.corrupt("counts do not agree"));
        }
        let partial = flags & FLAG_PARTIAL != 0;
        let mut page = Page::new(if partial {
            Below::Checkpoint
        } else {
            Below::Nothing
        });
        page.defined |= present;
        let slots = || (0..128usize).filter(move |slot| present >> slot & 1 == 1);
        for slot in slots() {
            let loc = f.u64()?;
            if loc != Loc::ZEROED.0 {
                if !Loc(loc).is_data() {
                    return Err(f.corrupt("no such location"));
                }
                page.locs[slot] = loc;
            }
        }
        for slot in slots() {
            page.crcs[slot] = f.u32()?;
        }
        page.settle();
        Ok(page)
    }
}
