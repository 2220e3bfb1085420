//! Looks for the clusters that have data, without looking at the holes between them and without touching the caches of pages.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::map::node::{Ptr as NodePtr, Tree, FANOUT_BITS};
use crate::map::page::{Below, Page, PAGE_CLUSTERS};
use crate::map::root::Ground;
use crate::map::store::{keys_from, Table};
use crate::map::volume::{Ptr, VolumeMap};
use crate::types::{Entry, Fetch};

/// Pages looked at, and map nodes asked for, in one go: bounds how long the volume's lock is held.
const PAGES_AT_ONCE: usize = 64;

/// How far one go came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathered {
    /// Everything before this page has been looked at.
    pub until: u64,
    /// Fetch these and `supply` them before going on from there; empty: go on at once.
    pub need: Vec<Fetch>,
}

/// The next page of the tree that may have data.
enum Seek {
    Page(u64),
    Need(Fetch),
    End,
}

impl VolumeMap {
    /// Appends (LBA, entry) of the clusters with data in pages `first..end`, ascending, as far as one go takes it.
    ///
    /// Errors: Corrupt (a page of the file, a tree that contradicts itself), those of the disk.
    pub fn gather(&self, first: u64, end: u64, out: &mut Vec<(u64, Entry)>) -> Result<Gathered> {
        let (locals, horizon) = self.local_pages(first, end)?;
        let mut locals = locals.into_iter().peekable();
        let (mut at, mut pages) = (first, 0);
        let mut gathered = Gathered {
            until: first,
            need: Vec::new(),
        };
        while at < horizon && pages < PAGES_AT_ONCE && gathered.need.len() < PAGES_AT_ONCE {
            while locals.next_if(|page| *page < at).is_some() {}
            let local = locals.peek().copied();
            let next = match self.next_leaf(at, local.unwrap_or(horizon))? {
                Seek::Page(page) => Some(page),
                Seek::End => local,
                Seek::Need(fetch) => {
                    gathered.need.push(fetch);
                    break;
                }
            };
            let Some(page) = next else {
                at = horizon;
                break;
            };
            match self.peek(page)? {
                Ok(found) if gathered.need.is_empty() => {
                    let lba = page * PAGE_CLUSTERS;
                    out.extend(found.data().map(|(slot, entry)| (lba + slot as u64, entry)));
                    gathered.until = page + 1;
                }
                Ok(_) => {}
                Err(fetch) => gathered.need.push(fetch),
            }
            at = page + 1;
            pages += 1;
        }
        if gathered.need.is_empty() {
            gathered.until = at;
        }
        Ok(gathered)
    }

    /// Pages with something local, ascending, and up to where these are all.
    fn local_pages(&self, first: u64, end: u64) -> Result<(Vec<u64>, u64)> {
        let view = self.store.read();
        let range = (first, end);
        let mut pages = keys_from(&view, Table::Page, &self.volume, range, PAGES_AT_ONCE)?;
        let horizon = match pages.last() {
            Some(last) if pages.len() == PAGES_AT_ONCE => last + 1,
            _ => end,
        };
        let dirty = self.dirty.keys().copied();
        pages.extend(dirty.filter(|page| (first..horizon).contains(page)));
        pages.sort_unstable();
        pages.dedup();
        Ok((pages, horizon))
    }

    /// The first page in `from..end` that the checkpoint below has and that has not been cleared since.
    fn next_leaf(&self, from: u64, end: u64) -> Result<Seek> {
        let Some(ground) = &self.ground else {
            return Ok(Seek::End);
        };
        let levels = u32::from(ground.root.levels);
        let mut from = from;
        while from < end {
            match self.seek(ground, ground.root.map_top, levels, 0, (from, end))? {
                Seek::Page(page) => match self.cleared.next_from(page) {
                    Some(range) if range.first <= page => from = range.end,
                    _ => return Ok(Seek::Page(page)),
                },
                other => return Ok(other),
            }
        }
        Ok(Seek::End)
    }

    /// The same below one node, which spans pages from `first` on; clears are not looked at.
    fn seek(
        &self,
        ground: &Ground,
        ptr: NodePtr,
        level: u32,
        first: u64,
        range: (u64, u64),
    ) -> Result<Seek> {
        if ptr.is_none() {
            return Ok(Seek::End);
        }
        if level == 0 {
            return Ok(Seek::Page(first));
        }
        let fetch = ground.fetch(ptr)?;
        let Some(node) = self.store.inner(&fetch) else {
            return Ok(Seek::Need(fetch));
        };
        if node.tree != Tree::Map
            || u32::from(node.level) != level
            || node.key != first * PAGE_CLUSTERS
        {
            return Err(Error::Corrupt(
                "map node: not the one that its parent means".into(),
            ));
        }
        let shift = FANOUT_BITS * (level - 1);
        for (slot, child) in &node.inner.items {
            let start = first + (u64::from(*slot) << shift);
            if start >= range.1 {
                break;
            }
            if start + (1 << shift) <= range.0 {
                continue;
            }
            match self.seek(ground, *child, level - 1, start, range)? {
                Seek::End => {}
                found => return Ok(found),
            }
        }
        Ok(Seek::End)
    }

    /// A whole page, or the map node that is needed first. What it took is not kept: whoever reads everything should not push out
    /// what others read often.
    fn peek(&self, number: u64) -> Result<std::result::Result<Arc<Page>, Fetch>> {
        let dirty = self.dirty.get(&number).map(|dirty| dirty.page.clone());
        let found = dirty.or_else(|| self.store.pages.get(&(self.instance, number)));
        let mut page = match found {
            Some(page) => page,
            None => Arc::new(self.load_local(number)?),
        };
        if page.below == Below::Local {
            let lower = self.load_local(number)?;
            Arc::make_mut(&mut page).merge(&lower);
        }
        if page.below == Below::Checkpoint {
            match self.walk(number)? {
                Ptr::Hole => Arc::make_mut(&mut page).merge(&Page::new(Below::Nothing)),
                Ptr::Leaf(leaf) => Arc::make_mut(&mut page).merge(&leaf.page),
                Ptr::Need(fetch) => return Ok(Err(fetch)),
            }
        }
        Ok(Ok(page))
    }
}
