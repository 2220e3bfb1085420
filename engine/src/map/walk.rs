//! Walks a tree of the checkpoint below and what has changed since side by side, and writes what differs.

use crate::error::{Error, Result};
use crate::map::checkpoint::CheckpointBuilder;
use crate::map::compaction::{any_target, Target};
use crate::map::meta::{Changed, LiveDelta};
use crate::map::node::{
    encode_inner, encode_live_leaf, encode_map_leaf, Body, Inner, Live, Ptr, Tree, FANOUT_BITS,
};
use crate::map::page::{Below, Page};
use crate::map::store::{key, number_in, Table, View};
use crate::types::Fetch;

const FANOUT: u64 = 1 << FANOUT_BITS;
/// Children asked for at a time.
const WINDOW: usize = 64;

/// An inner node on the way from the top to where the walk is.
struct Frame {
    level: u8,
    /// Number of the first leaf that it spans.
    first: u64,
    old_ptr: Ptr,
    old: Inner,
    /// Slots to visit, ascending, and which is next.
    todo: Vec<u16>,
    at: usize,
    /// What visited slots became.
    visited: Vec<(u16, Ptr)>,
}

impl Frame {
    /// Leaves that a child spans.
    fn child_span(&self) -> u64 {
        1 << (FANOUT_BITS * u32::from(self.level - 1))
    }

    fn child_first(&self, slot: u16) -> u64 {
        self.first + u64::from(slot) * self.child_span()
    }
}

pub(crate) enum Progress {
    Need(Vec<Fetch>),
    More,
    Finished(Ptr),
}

/// One tree being rewritten, depth first.
pub(crate) struct Walk {
    tree: Tree,
    levels: u8,
    top: Ptr,
    targets: Vec<Target>,
    stack: Vec<Frame>,
}

/// What a leaf of the map is about to become.
struct LeafPlan {
    changed: Option<Changed>,
    local: Option<Page>,
    cleared: bool,
    /// The checkpoint's leaf has to be looked at.
    needs_old: bool,
}

impl Walk {
    pub(crate) fn new(tree: Tree, levels: u8, top: Ptr, targets: Vec<Target>) -> Walk {
        Walk {
            tree,
            levels,
            top,
            targets,
            stack: Vec::new(),
        }
    }

    /// Does a bounded piece of work.
    pub(crate) fn step(&mut self, b: &mut CheckpointBuilder) -> Result<Progress> {
        let Some(mut frame) = self.stack.pop() else {
            return self.enter_top(b);
        };
        let Some(&slot) = frame.todo.get(frame.at) else {
            return self.leave(b, frame);
        };
        let need = self.missing_children(b, &frame)?;
        if !need.is_empty() {
            self.stack.push(frame);
            return Ok(Progress::Need(need));
        }
        // A window's worth of leaves has been supplied: use it up before looking at the file for the next.
        if frame.level == 1 {
            let end = (frame.at + WINDOW).min(frame.todo.len());
            while frame.at < end {
                let slot = frame.todo[frame.at];
                let (leaf, old) = (frame.child_first(slot), frame.old.child(slot));
                let ptr = match self.tree {
                    Tree::Map => map_leaf(b, leaf, old)?,
                    Tree::Live => live_leaf(b, leaf, old)?,
                };
                frame.visited.push((slot, ptr));
                frame.at += 1;
            }
            self.stack.push(frame);
            return Ok(Progress::More);
        }
        let (first, old, level) = (
            frame.child_first(slot),
            frame.old.child(slot),
            frame.level - 1,
        );
        let child = self.enter(b, level, first, old)?;
        self.stack.push(frame);
        self.stack.push(child);
        Ok(Progress::More)
    }

    fn enter_top(&mut self, b: &mut CheckpointBuilder) -> Result<Progress> {
        let span = 1u64 << (FANOUT_BITS * u32::from(self.levels));
        if next_changed(b, self.tree, span)?.is_some() {
            return Err(Error::Invalid(format!(
                "a key beyond what {} levels of the map can hold",
                self.levels
            )));
        }
        if let Some(fetch) = b.missing(self.top)? {
            return Ok(Progress::Need(vec![fetch]));
        }
        let frame = self.enter(b, self.levels, 0, self.top)?;
        self.stack.push(frame);
        Ok(Progress::More)
    }

    fn enter(
        &self,
        b: &mut CheckpointBuilder,
        level: u8,
        first: u64,
        old_ptr: Ptr,
    ) -> Result<Frame> {
        let old = if old_ptr.is_none() {
            Inner { items: Vec::new() }
        } else {
            match b
                .take(old_ptr, self.tree, level, first << self.tree.leaf_bits())?
                .body
            {
                Body::Inner(_, inner) => inner,
                _ => {
                    return Err(Error::Corrupt(
                        "map node: a leaf where an inner node should be".into(),
                    ))
                }
            }
        };
        let mut frame = Frame {
            level,
            first,
            old_ptr,
            old,
            todo: Vec::new(),
            at: 0,
            visited: Vec::new(),
        };
        frame.todo = self.slots_to_visit(b, &frame)?;
        Ok(frame)
    }

    fn slots_to_visit(&self, b: &CheckpointBuilder, frame: &Frame) -> Result<Vec<u16>> {
        let span = frame.child_span();
        let end = frame.first + span * FANOUT;
        let mut visit = [false; FANOUT as usize];
        let mut at = frame.first;
        while let Some(leaf) = next_changed(b, self.tree, at)?.filter(|leaf| *leaf < end) {
            let slot = (leaf - frame.first) / span;
            visit[slot as usize] = true;
            at = frame.first + (slot + 1) * span;
        }
        for (slot, _) in &frame.old.items {
            let first = frame.child_first(*slot);
            let pruned = self.tree == Tree::Map
                && b.meta
                    .cleared
                    .next_from(first)
                    .is_some_and(|range| range.first < first + span);
            if pruned || any_target(&self.targets, first, first + span, frame.level - 1) {
                visit[usize::from(*slot)] = true;
            }
        }
        Ok((0..FANOUT as u16)
            .filter(|slot| visit[usize::from(*slot)])
            .collect())
    }

    /// What to fetch before the next children can be visited.
    fn missing_children(&self, b: &mut CheckpointBuilder, frame: &Frame) -> Result<Vec<Fetch>> {
        let mut need = Vec::new();
        let window = if frame.level == 1 { WINDOW } else { 1 };
        for slot in frame.todo[frame.at..].iter().take(window) {
            let old = frame.old.child(*slot);
            let leaf = frame.child_first(*slot);
            if old.is_none()
                || (frame.level == 1
                    && self.tree == Tree::Map
                    && !plan_leaf(b, leaf, old)?.needs_old)
            {
                continue;
            }
            need.extend(b.missing(old)?);
        }
        if need.is_empty() || frame.level == 1 {
            return Ok(need);
        }
        // Since we have to wait anyway: the siblings too.
        for slot in frame.todo[frame.at..].iter().skip(1).take(WINDOW / 2) {
            need.extend(b.missing(frame.old.child(*slot))?);
        }
        Ok(need)
    }

    /// All slots of a node have been visited: keeps it, drops it, or writes it anew.
    fn leave(&mut self, b: &mut CheckpointBuilder, frame: Frame) -> Result<Progress> {
        let differs = frame
            .visited
            .iter()
            .any(|(slot, ptr)| frame.old.child(*slot) != *ptr);
        let ptr = if differs || b.is_victim(frame.old_ptr) {
            b.retire(frame.old_ptr);
            let items = merged(&frame.old.items, &frame.visited);
            if items.is_empty() {
                Ptr::default()
            } else {
                b.add(&encode_inner(
                    self.tree,
                    frame.level,
                    frame.first << self.tree.leaf_bits(),
                    &items,
                ))
            }
        } else {
            frame.old_ptr
        };
        match self.stack.last_mut() {
            Some(parent) => {
                let slot = parent.todo[parent.at];
                parent.visited.push((slot, ptr));
                parent.at += 1;
                Ok(Progress::More)
            }
            None => Ok(Progress::Finished(ptr)),
        }
    }
}

/// The old items with the visited slots replaced; both ascending.
fn merged(old: &[(u16, Ptr)], visited: &[(u16, Ptr)]) -> Vec<(u16, Ptr)> {
    let kept = old
        .iter()
        .filter(|(slot, _)| visited.binary_search_by_key(slot, |item| item.0).is_err());
    let mut items: Vec<(u16, Ptr)> = kept
        .chain(visited)
        .filter(|(_, ptr)| !ptr.is_none())
        .copied()
        .collect();
    items.sort_unstable_by_key(|item| item.0);
    items
}

/// The first leaf from `leaf` on with something that changed since the checkpoint below.
fn next_changed(b: &CheckpointBuilder, tree: Tree, leaf: u64) -> Result<Option<u64>> {
    match tree {
        Tree::Map => next_record(b, Table::Changed, leaf),
        Tree::Live => {
            let Some(first) = leaf
                .checked_shl(Tree::Live.leaf_bits())
                .filter(|n| n >> Tree::Live.leaf_bits() == leaf)
            else {
                return Ok(None);
            };
            let recorded = next_record(b, Table::Live, first)?;
            let correction = b
                .corrections
                .range(first..)
                .next()
                .map(|(number, _)| *number);
            let number = recorded.into_iter().chain(correction).min();
            Ok(number.map(|number| number >> Tree::Live.leaf_bits()))
        }
    }
}

/// The first key from `from` on whose record is newer than the checkpoint below.
fn next_record(b: &CheckpointBuilder, table: Table, from: u64) -> Result<Option<u64>> {
    let (volume, ground) = (b.volume(), b.meta.ground_cut);
    let mut found = None;
    b.snapshot
        .scan(&key(table, volume, from), &mut |key, value| {
            let Some(number) = number_in(table, volume, key) else {
                return Ok(false);
            };
            let cut = value.first_chunk().map_or(0, |c| u64::from_le_bytes(*c));
            found = (cut > ground).then_some(number);
            Ok(found.is_none())
        })?;
    Ok(found)
}

fn plan_leaf(b: &CheckpointBuilder, page: u64, old: Ptr) -> Result<LeafPlan> {
    let volume = b.volume();
    let found = b.snapshot.get(&key(Table::Changed, volume, page))?;
    let changed = found
        .map(|bytes| Changed::decode(&bytes))
        .transpose()?
        .and_then(|c| c.as_of(b.meta.ground_cut));
    let local = b.store.get_page(&b.snapshot, volume, page)?;
    let cleared = b.meta.cleared.contains(page);
    let needs_old = match (&changed, &local) {
        (None, None) => cleared || b.is_victim(old),
        (None, Some(_)) => b.is_victim(old),
        (Some(changed), local) => {
            let defined = local.as_ref().map_or(u128::MAX, |page| page.defined);
            defined != u128::MAX || changed.known != u128::MAX
        }
    };
    Ok(LeafPlan {
        changed,
        local,
        cleared,
        needs_old,
    })
}

/// Writes a leaf of the map, or keeps or drops it. What is overwritten without its old value having been local is corrected in live.
fn map_leaf(b: &mut CheckpointBuilder, page: u64, old_ptr: Ptr) -> Result<Ptr> {
    let LeafPlan {
        changed,
        local,
        cleared,
        needs_old,
    } = plan_leaf(b, page, old_ptr)?;
    let key = page << Tree::Map.leaf_bits();
    let old = if needs_old && !old_ptr.is_none() {
        match b.take(old_ptr, Tree::Map, 0, key)?.body {
            Body::MapLeaf(page) => *page,
            _ => return Err(Error::Corrupt("map node: not a leaf of the map".into())),
        }
    } else {
        Page::new(Below::Nothing)
    };
    let (new, known) = match (changed, local) {
        (Some(changed), Some(local)) => (local, changed.known),
        (Some(changed), None) if cleared => (Page::new(Below::Nothing), changed.known),
        (Some(_), None) => {
            return Err(Error::Corrupt(
                "local map: a page that changed is not there".into(),
            ))
        }
        (None, None) if cleared => (Page::new(Below::Nothing), 0),
        (None, _) if b.is_victim(old_ptr) => (old.clone(), u128::MAX),
        (None, _) => return Ok(old_ptr),
    };
    for (slot, entry) in old.data() {
        if new.is_defined(slot) && known >> slot & 1 == 0 {
            *b.corrections.entry(entry.loc.number()).or_insert(0) -= 1;
        }
    }
    let mut new = new;
    new.merge(&old);
    b.retire(old_ptr);
    if new.data().next().is_none() {
        return Ok(Ptr::default());
    }
    Ok(b.add(&encode_map_leaf(key, &new)))
}

/// Writes a leaf of live, or keeps or drops it: old counts, plus changes in the file, plus corrections.
fn live_leaf(b: &mut CheckpointBuilder, leaf: u64, old_ptr: Ptr) -> Result<Ptr> {
    let bits = Tree::Live.leaf_bits();
    let first = leaf << bits;
    let old = if old_ptr.is_none() {
        Vec::new()
    } else {
        match b.take(old_ptr, Tree::Live, 0, first)?.body {
            Body::LiveLeaf(items) => items,
            _ => return Err(Error::Corrupt("map node: not a leaf of live".into())),
        }
    };
    let mut counts = [(0i64, 0u32); FANOUT as usize];
    for item in &old {
        counts[usize::from(item.slot)] = (i64::from(item.live), u32::from(item.clusters));
    }
    let volume = b.volume();
    let ground = b.meta.ground_cut;
    b.snapshot
        .scan(&key(Table::Live, volume, first), &mut |key, value| {
            let number = number_in(Table::Live, volume, key);
            let Some(number) = number.filter(|number| *number < first + FANOUT) else {
                return Ok(false);
            };
            if let Some(record) = LiveDelta::decode(value)?.as_of(ground) {
                let count = &mut counts[(number - first) as usize];
                count.0 += i64::from(record.delta);
                count.1 = count.1.max(record.clusters);
            }
            Ok(true)
        })?;
    for (number, correction) in b.corrections.range(first..=first + (FANOUT - 1)) {
        counts[(number - first) as usize].0 += i64::from(*correction);
    }
    let mut items = Vec::new();
    for (slot, (live, clusters)) in counts.iter().enumerate() {
        debug_assert!(
            (0..=1024).contains(live),
            "SCO {} has {live} live clusters",
            first + slot as u64
        );
        let live = (*live).clamp(0, i64::from(u16::MAX)) as u16;
        if live > 0 {
            items.push(Live {
                slot: slot as u16,
                live,
                clusters: *clusters as u16,
            });
        }
    }
    if items == old && !b.is_victim(old_ptr) {
        return Ok(old_ptr);
    }
    b.retire(old_ptr);
    if items.is_empty() {
        return Ok(Ptr::default());
    }
    Ok(b.add(&encode_live_leaf(first, &items)))
}
