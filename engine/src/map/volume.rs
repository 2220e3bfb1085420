//! The map of one volume: dirty pages in RAM over clean ones over the file over a checkpoint in the backend.
//!
//! Order of a lookup: dirty page (also while a cut of it is being committed), clean page, cleared ranges not yet in the file, the file page,
//! cleared ranges, checkpoint tree. Updates only ever touch the first.

mod gather;

use std::collections::hash_map::Entry as Place;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use crate::map::checkpoint::FinishedCheckpoint;
use crate::map::cut::{Cut, CutId};
use crate::map::meta::Meta;
use crate::map::node::{Tree, FANOUT_BITS};
use crate::map::page::{slot_mask, Below, Page, PAGE_BYTES, PAGE_CLUSTERS};
use crate::map::ranges::{Cleared, ClearedRanges};
use crate::map::root::{Ground, LEVELS_MAX};
use crate::map::store::{key, MapLeaf, MapStore, Table, View};
use crate::types::{Entry, Fetch, Included, LineageEntry, Loc, RootRef, Uuid};

pub use gather::Gathered;

/// *Included* of a map that is being loaded has this number: of what the file has, the lineage alone means something.
const LOADING: u64 = u64::MAX;

/// What a lookup came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    Found,
    /// Fetch these map nodes, `supply` them, and look up again. There may be more behind them: one round per level.
    Need(Vec<Fetch>),
}

/// The checkpoint below a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootInfo {
    pub reference: RootRef,
    /// The TLog that it includes.
    pub tlog_epoch: u64,
    pub tlog_number: u64,
    /// First SCO number after that TLog.
    pub next_sco: u64,
}

struct Dirty {
    page: Arc<Page>,
    /// In the outstanding cut as it is; a change thaws it.
    frozen: bool,
}

/// What the map and its running cuts share.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Cut of the checkpoint that is being built, 0: none.
    pub(crate) pending: AtomicU64,
    /// Where the sweep of stale `changed` and `live` records is; `u64::MAX`: done.
    pub(crate) sweep_changed: AtomicU64,
    pub(crate) sweep_live: AtomicU64,
}

/// Address to location, for one open volume. Not Sync: the volume guards it with its lock. Nothing is durable but what a [`Cut`] has
/// committed; a map that is dropped and loaded again is as of the last commit.
pub struct VolumeMap {
    store: Arc<MapStore>,
    volume: Uuid,
    instance: u64,
    levels: u32,
    included: Included,
    ground: Option<Arc<Ground>>,
    lineage: Vec<LineageEntry>,
    /// Of the map that this one takes the place of: the history that the log on this host belongs to.
    left: Vec<LineageEntry>,
    /// All ranges cleared since the checkpoint below.
    cleared: ClearedRanges,
    /// Those that the file does not have yet: since the outstanding cut, and in it.
    new_clears: ClearedRanges,
    frozen_clears: ClearedRanges,
    dirty: FxHashMap<u64, Dirty>,
    /// Clusters of the SCOs written since the last cut, and in the outstanding one.
    scos: FxHashMap<u64, u32>,
    frozen_scos: FxHashMap<u64, u32>,
    cuts: u64,
    outstanding: Option<u64>,
    progress: Arc<Progress>,
}

impl Drop for VolumeMap {
    fn drop(&mut self) {
        let instance = self.instance;
        self.store.pages.drop_where(|key| key.0 == instance);
    }
}

enum Ptr {
    Hole,
    Leaf(Arc<MapLeaf>),
    Need(Fetch),
}

impl VolumeMap {
    /// What the file has, as of the last commit; None when it has nothing usable (absent, another version or height, corrupt meta).
    ///
    /// Errors: those of the disk.
    pub fn load(store: &Arc<MapStore>, volume: Uuid, levels: u32) -> Result<Option<VolumeMap>> {
        let bytes = store.read().get(&key(Table::Meta, &volume, 0))?;
        let meta = bytes.and_then(|bytes| Meta::decode(&bytes).ok());
        let usable = |meta: &Meta| meta.levels == levels && meta.included.number != LOADING;
        let Some(meta) = meta.filter(usable) else {
            return Ok(None);
        };
        let mut map = VolumeMap::new(store, volume, levels);
        map.included = meta.included;
        map.ground = meta.ground.map(Arc::new);
        map.lineage = meta.lineage;
        map.cleared = meta.cleared;
        map.cuts = meta.cut;
        Ok(Some(map))
    }

    /// The lineage that the file has of a volume, also where its map is not usable: what the log on this host belongs to.
    pub fn left_lineage(store: &Arc<MapStore>, volume: &Uuid) -> Result<Vec<LineageEntry>> {
        let bytes = store.read().get(&key(Table::Meta, volume, 0))?;
        let meta = bytes.and_then(|bytes| Meta::decode(&bytes).ok());
        Ok(meta.map_or_else(Vec::new, |meta| meta.lineage))
    }

    /// A fresh map: empty, or over a checkpoint root (then levels and lineage come from it). What the file had of this volume is deleted
    /// at once, but for the lineage; the new map is there from its first commit on (`cut`), until then `load` says None.
    ///
    /// Errors: Corrupt when the root's bytes are not what the reference names, Invalid for impossible levels, those of the disk.
    pub fn create(
        store: &Arc<MapStore>,
        volume: Uuid,
        levels: u32,
        root: Option<(RootRef, &[u8])>,
    ) -> Result<VolumeMap> {
        let ground = root
            .map(|(reference, bytes)| Ground::new(reference, bytes))
            .transpose()?;
        let levels = ground.as_ref().map_or(levels, |g| u32::from(g.root.levels));
        if levels == 0 || levels > u32::from(LEVELS_MAX) {
            return Err(Error::Invalid(format!(
                "a map has 1 to {LEVELS_MAX} levels, not {levels}"
            )));
        }
        let left = VolumeMap::left_lineage(store, &volume)?;
        let loading = Meta {
            levels,
            included: Included {
                number: LOADING,
                ..Included::default()
            },
            cut: 0,
            ground_cut: 0,
            ground: ground.clone(),
            lineage: left.clone(),
            cleared: ClearedRanges::default(),
        };
        store.clear(&volume, (!left.is_empty()).then(|| loading.encode()))?;
        let mut map = VolumeMap::new(store, volume, levels);
        map.left = left;
        if let Some(ground) = ground {
            map.lineage = ground.root.lineage.clone();
            map.ground = Some(Arc::new(ground));
        }
        Ok(map)
    }

    fn new(store: &Arc<MapStore>, volume: Uuid, levels: u32) -> VolumeMap {
        VolumeMap {
            store: store.clone(),
            volume,
            instance: store.next_instance(),
            levels,
            included: Included::default(),
            ground: None,
            lineage: Vec::new(),
            left: Vec::new(),
            cleared: ClearedRanges::default(),
            new_clears: ClearedRanges::default(),
            frozen_clears: ClearedRanges::default(),
            dirty: FxHashMap::default(),
            scos: FxHashMap::default(),
            frozen_scos: FxHashMap::default(),
            cuts: 0,
            outstanding: None,
            progress: Arc::default(),
        }
    }

    /// As of the last cut that was taken (or loaded).
    pub fn included(&self) -> Included {
        self.included
    }

    /// The checkpoint below, None before the first.
    pub fn root(&self) -> Option<RootInfo> {
        let ground = self.ground.as_ref()?;
        Some(RootInfo {
            reference: ground.reference,
            tlog_epoch: ground.root.tlog_epoch,
            tlog_number: ground.root.tlog_number,
            next_sco: ground.root.next_sco,
        })
    }

    pub fn lineage(&self) -> &[LineageEntry] {
        &self.lineage
    }

    /// Becomes durable with the next commit.
    pub fn set_lineage(&mut self, lineage: Vec<LineageEntry>) {
        self.lineage = lineage;
    }

    /// Appends `count` entries to `out`, or says which map nodes are needed first (and leaves `out` untouched). A hole is
    /// `Loc::HOLE`, also where a discard hides what lies below.
    ///
    /// Errors: Corrupt (a page of the file, a tree that contradicts itself), those of the disk.
    pub fn lookup(&mut self, lba: u64, count: u32, out: &mut Vec<Entry>) -> Result<Lookup> {
        let before = out.len();
        let mut need: Vec<Fetch> = Vec::new();
        for (page, slot, n) in pages_of(lba, u64::from(count)) {
            match self.resolve(page, slot_mask(slot, n)) {
                Ok(Ok(found)) if need.is_empty() => {
                    out.extend((slot..slot + n).map(|slot| found.get(slot)))
                }
                Ok(Ok(_)) => {}
                Ok(Err(fetch)) => {
                    if !need.contains(&fetch) {
                        need.push(fetch);
                    }
                }
                Err(error) => {
                    out.truncate(before);
                    return Err(error);
                }
            }
        }
        if need.is_empty() {
            return Ok(Lookup::Found);
        }
        out.truncate(before);
        Ok(Lookup::Need(need))
    }

    /// The page with at least the slots of `mask` defined, or the map node that is needed first.
    fn resolve(
        &mut self,
        number: u64,
        mask: u128,
    ) -> Result<std::result::Result<Arc<Page>, Fetch>> {
        let dirty = self.dirty.get(&number).map(|dirty| dirty.page.clone());
        let is_dirty = dirty.is_some();
        let found = dirty.or_else(|| self.store.pages.get(&(self.instance, number)));
        let mut page = match found {
            Some(page) if page.has(mask) => return Ok(Ok(page)),
            Some(page) => page,
            None => Arc::new(self.load_local(number)?),
        };
        if page.below == Below::Local {
            let lower = self.load_local(number)?;
            Arc::make_mut(&mut page).merge(&lower);
        }
        let mut need = None;
        if !page.has(mask) {
            match self.walk(number)? {
                Ptr::Hole => Arc::make_mut(&mut page).merge(&Page::new(Below::Nothing)),
                Ptr::Leaf(leaf) => Arc::make_mut(&mut page).merge(&leaf.page),
                Ptr::Need(fetch) => need = Some(fetch),
            }
        }
        match self.dirty.get_mut(&number) {
            Some(dirty) if is_dirty => dirty.page = page.clone(),
            _ if need.is_none() => {
                self.store
                    .pages
                    .put((self.instance, number), page.clone(), PAGE_BYTES)
            }
            _ => {}
        }
        Ok(match need {
            Some(fetch) => Err(fetch),
            None => Ok(page),
        })
    }

    fn is_newly_cleared(&self, page: u64) -> bool {
        (!self.new_clears.is_empty() && self.new_clears.contains(page))
            || (!self.frozen_clears.is_empty() && self.frozen_clears.contains(page))
    }

    /// What the file, and the clears that it does not know yet, say of a page.
    fn load_local(&self, page: u64) -> Result<Page> {
        if self.is_newly_cleared(page) {
            return Ok(Page::new(Below::Nothing));
        }
        let view = self.store.read();
        if let Some(page) = self.store.get_page(&view, &self.volume, page)? {
            return Ok(page);
        }
        let bottom = self.ground.is_none() || self.cleared.contains(page);
        Ok(Page::new(if bottom {
            Below::Nothing
        } else {
            Below::Checkpoint
        }))
    }

    fn walk(&self, page: u64) -> Result<Ptr> {
        let Some(ground) = &self.ground else {
            return Ok(Ptr::Hole);
        };
        let mut level = u32::from(ground.root.levels);
        if page >> (FANOUT_BITS * level) != 0 {
            return Ok(Ptr::Hole);
        }
        let mut ptr = ground.root.map_top;
        let wrong = || Error::Corrupt("map node: not the one that its parent means".into());
        loop {
            if ptr.is_none() {
                return Ok(Ptr::Hole);
            }
            let fetch = ground.fetch(ptr)?;
            if level == 0 {
                return match self.store.leaf(&fetch) {
                    Some(leaf) if leaf.key == page * PAGE_CLUSTERS => Ok(Ptr::Leaf(leaf)),
                    Some(_) => Err(wrong()),
                    None => Ok(Ptr::Need(fetch)),
                };
            }
            let Some(node) = self.store.inner(&fetch) else {
                return Ok(Ptr::Need(fetch));
            };
            let key = (page >> (FANOUT_BITS * level) << (FANOUT_BITS * level)) * PAGE_CLUSTERS;
            if node.tree != Tree::Map || u32::from(node.level) != level || node.key != key {
                return Err(wrong());
            }
            level -= 1;
            ptr = node
                .inner
                .child((page >> (FANOUT_BITS * level) & 511) as u16);
        }
    }

    /// Takes in a map node that a lookup needed; in any order, also when nobody waits for it any more.
    ///
    /// Errors: Corrupt when the bytes are not those that the fetch names.
    pub fn supply(&mut self, fetch: &Fetch, bytes: &[u8]) -> Result<()> {
        self.store.supply(fetch, bytes)
    }

    /// `crcs.len()` clusters from `lba` on are now in consecutive slots from `loc` on. Never needs what lies below.
    pub fn update(&mut self, lba: u64, loc: Loc, crcs: &[u32]) {
        debug_assert!(
            loc.is_data()
                && ((lba + crcs.len() as u64 - 1) / PAGE_CLUSTERS) >> (FANOUT_BITS * self.levels)
                    == 0
        );
        let end = loc.slot() + crcs.len() as u32;
        let clusters = self.scos.entry(loc.number()).or_insert(0);
        *clusters = end.max(*clusters);
        let mut done = 0;
        for (page, slot, n) in pages_of(lba, crcs.len() as u64) {
            let part = &crcs[done..done + n];
            self.page_mut(page)
                .write(slot, Loc(loc.0 + done as u64), part);
            done += n;
        }
    }

    /// Clusters from `lba` on read as zeros; a range of any size. Costs as much as the pages that are in RAM, at most; the commit costs
    /// as much as the pages that the file has.
    pub fn clear(&mut self, lba: u64, clusters: u64) {
        let capacity = (1u64 << (FANOUT_BITS * self.levels)).saturating_mul(PAGE_CLUSTERS);
        let end = lba.saturating_add(clusters).min(capacity);
        if lba >= end {
            return;
        }
        let (first, last) = (lba.div_ceil(PAGE_CLUSTERS), end / PAGE_CLUSTERS);
        if first > last {
            let slot = (lba % PAGE_CLUSTERS) as usize;
            self.page_mut(lba / PAGE_CLUSTERS)
                .clear(slot, (end - lba) as usize);
            return;
        }
        if lba % PAGE_CLUSTERS != 0 {
            let slot = (lba % PAGE_CLUSTERS) as usize;
            self.page_mut(lba / PAGE_CLUSTERS).clear(slot, 128 - slot);
        }
        if end % PAGE_CLUSTERS != 0 {
            self.page_mut(last).clear(0, (end % PAGE_CLUSTERS) as usize);
        }
        if first < last {
            self.clear_pages(first, last);
        }
    }

    fn clear_pages(&mut self, first: u64, end: u64) {
        if end - first <= self.dirty.len() as u64 {
            for page in first..end {
                self.dirty.remove(&page);
            }
        } else {
            self.dirty.retain(|page, _| !(first..end).contains(page));
        }
        let instance = self.instance;
        if end - first <= 4096 {
            for page in first..end {
                self.store.pages.take(&(instance, page));
            }
        } else {
            self.store
                .pages
                .drop_where(|key| key.0 == instance && (first..end).contains(&key.1));
        }
        let range = Cleared {
            first,
            end,
            cut: self.cuts + 1,
        };
        self.cleared.add(range);
        self.new_clears.add(range);
    }

    /// The page, dirty, not shared with a cut.
    fn page_mut(&mut self, number: u64) -> &mut Page {
        let fresh = if self.new_clears.is_empty() && self.frozen_clears.is_empty() {
            Below::Local
        } else if !self.dirty.contains_key(&number) && self.is_newly_cleared(number) {
            Below::Nothing
        } else {
            Below::Local
        };
        let dirty = match self.dirty.entry(number) {
            Place::Occupied(place) => place.into_mut(),
            Place::Vacant(place) => {
                let clean = self.store.pages.take(&(self.instance, number));
                let page = clean.unwrap_or_else(|| Arc::new(Page::new(fresh)));
                place.insert(Dirty {
                    page,
                    frozen: false,
                })
            }
        };
        dirty.frozen = false;
        Arc::make_mut(&mut dirty.page)
    }

    /// The file has refused to be written, or returned what is not right: nothing more is written to it.
    pub fn has_failed(&self) -> bool {
        self.store.failure().is_some()
    }

    /// Bytes of RAM that are freed by a cut, its commit and `committed`.
    pub fn dirty_bytes(&self) -> usize {
        let clears = self.new_clears.len() + self.frozen_clears.len();
        self.dirty.len() * PAGE_BYTES
            + (self.scos.len() + self.frozen_scos.len()) * 32
            + clears * 64
    }

    /// A cut of a map that is still being loaded: it makes room in RAM, and when it is committed `load` still says None.
    pub fn cut_loading(&mut self) -> Cut {
        let left = self.left.clone();
        let lineage = std::mem::replace(&mut self.lineage, left);
        let cut = self.cut(Included {
            number: LOADING,
            ..Included::default()
        });
        self.lineage = lineage;
        cut
    }

    /// Freezes everything that the file does not have, as of `included`. Lookups and updates go on meanwhile. One cut at a time: a cut that
    /// was neither committed nor reported is superseded by the next, which has all of it.
    pub fn cut(&mut self, included: Included) -> Cut {
        self.cuts += 1;
        self.included = included;
        self.outstanding = Some(self.cuts);
        self.cleared
            .coalesce(self.progress.pending.load(Ordering::Acquire), self.cuts);
        for range in self.new_clears.iter() {
            self.frozen_clears.add(Cleared { cut: 0, ..range });
        }
        self.new_clears.clear();
        for (number, clusters) in self.scos.drain() {
            let known = self.frozen_scos.entry(number).or_insert(0);
            *known = clusters.max(*known);
        }
        let mut pages = Vec::with_capacity(self.dirty.len());
        for (number, dirty) in &mut self.dirty {
            dirty.frozen = true;
            pages.push((*number, dirty.page.clone()));
        }
        Cut {
            store: self.store.clone(),
            volume: self.volume,
            pages,
            clears: self.frozen_clears.clone(),
            scos: self
                .frozen_scos
                .iter()
                .map(|(&number, &clusters)| (number, clusters))
                .collect(),
            meta: Meta {
                levels: self.levels,
                included,
                cut: self.cuts,
                ground_cut: 0,
                ground: self.ground.as_deref().cloned(),
                lineage: self.lineage.clone(),
                cleared: self.cleared.clone(),
            },
            progress: self.progress.clone(),
        }
    }

    /// After `Cut::commit` succeeded: its pages are clean, and may be evicted. A cut that has been superseded is ignored.
    pub fn committed(&mut self, cut: CutId) {
        if self.outstanding != Some(cut.0) {
            return;
        }
        self.outstanding = None;
        self.frozen_clears.clear();
        self.frozen_scos = FxHashMap::default();
        let (store, instance) = (&self.store, self.instance);
        self.dirty.retain(|number, dirty| {
            if dirty.frozen {
                store
                    .pages
                    .put((instance, *number), dirty.page.clone(), PAGE_BYTES);
            }
            !dirty.frozen
        });
        if self.dirty.is_empty() {
            self.dirty = FxHashMap::default();
        }
    }

    /// The registry has committed a head with this checkpoint: from now on the map is relative to it. Durable when this returns, in one
    /// transaction of constant size; may be called while a cut is outstanding.
    ///
    /// Errors: Conflict when it is not the newest checkpoint that was begun on this map, Corrupt when the bytes are not the builder's,
    /// those of the disk. After an error the map is as before.
    pub fn checkpoint_installed(
        &mut self,
        reference: RootRef,
        root_bytes: &[u8],
        builder: FinishedCheckpoint,
    ) -> Result<()> {
        let cut = builder.cut;
        if self.progress.pending.load(Ordering::Acquire) != cut || builder.volume != self.volume {
            return Err(Error::Conflict(
                "not the newest checkpoint of this map".into(),
            ));
        }
        if reference != builder.reference || root_bytes != builder.root_bytes {
            return Err(Error::Corrupt(
                "not the root that the checkpoint ended with".into(),
            ));
        }
        let ground = Ground::new(reference, root_bytes)?;
        let stored = self.store_ground(&ground, cut);
        stored.map_err(|error| self.store.explained(error))?;
        self.ground = Some(Arc::new(ground));
        self.cleared.forget_up_to(cut);
        self.progress.pending.store(0, Ordering::Release);
        self.progress.sweep_changed.store(0, Ordering::Release);
        self.progress.sweep_live.store(0, Ordering::Release);
        Ok(())
    }

    fn store_ground(&self, ground: &Ground, cut: u64) -> Result<()> {
        let mut change = self.store.write()?;
        let place = key(Table::Meta, &self.volume, 0);
        let bytes = change.get(&place)?;
        let mut meta = Meta::decode(
            &bytes
                .ok_or_else(|| Error::Internal("local map: a checkpoint without a map".into()))?,
        )?;
        meta.ground = Some(ground.clone());
        meta.ground_cut = cut;
        meta.cleared.forget_up_to(cut);
        change.put(&place, &meta.encode())?;
        change.commit()
    }
}

/// Splits a range of clusters at page bounds: (page, first slot, slots).
fn pages_of(lba: u64, count: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = lba.saturating_add(count);
    let mut at = lba;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let slot = at % PAGE_CLUSTERS;
        let n = (PAGE_CLUSTERS - slot).min(end - at);
        let part = (at / PAGE_CLUSTERS, slot as usize, n as usize);
        at += n;
        Some(part)
    })
}
