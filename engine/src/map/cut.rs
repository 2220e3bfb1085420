//! A cut of a map, and the one transaction that makes it what the file has.
//!
//! Live counts are kept here: each commit compares what the file had with what it gets, so they can never drift from the pages.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use crate::map::checkpoint::{CheckpointBuilder, CheckpointName};
use crate::map::meta::{Changed, LiveDelta, Meta};
use crate::map::page::{Below, Page};
use crate::map::ranges::ClearedRanges;
use crate::map::store::{key, keys_from, Change, MapStore, Table, View};
use crate::map::volume::Progress;
use crate::types::Uuid;

/// the file pages that are deleted, or stale records that are swept, at a time.
const BATCH: usize = 4096;

/// Names a cut of one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutId(pub(crate) u64);

/// The dirty pages of a map, frozen. Works without the volume's lock, from any thread.
pub struct Cut {
    pub(crate) store: Arc<MapStore>,
    pub(crate) volume: Uuid,
    pub(crate) pages: Vec<(u64, Arc<Page>)>,
    pub(crate) clears: ClearedRanges,
    pub(crate) scos: Vec<(u64, u32)>,
    pub(crate) meta: Meta,
    pub(crate) progress: Arc<Progress>,
}

/// What a commit knows while it runs.
struct Commit<'a, 'e> {
    cut: &'a Cut,
    meta: Meta,
    pending: u64,
    change: Change<'e>,
    live: FxHashMap<u64, i32>,
}

impl Cut {
    pub fn id(&self) -> CutId {
        CutId(self.meta.cut)
    }

    /// Writes the cut in one transaction, synced; call only when the log is durable up to `included`. May be called again after an
    /// error (then the file is as before).
    ///
    /// Errors: NoSpace (the map's size limit or the disk), Corrupt (a page of the file), Halted (I/O).
    pub fn commit(&self) -> Result<()> {
        self.write().map_err(|error| self.store.explained(error))
    }

    fn write(&self) -> Result<()> {
        let change = self.store.write()?;
        let stored = change.get(&key(Table::Meta, &self.volume, 0))?;
        let mut meta = self.meta.clone();
        if let Some(stored) = stored {
            // A checkpoint may have been installed since the cut: the file knows.
            let stored = Meta::decode(&stored)?;
            meta.ground = stored.ground;
            meta.ground_cut = stored.ground_cut;
            meta.cleared.forget_up_to(stored.ground_cut);
        }
        let pending = self.progress.pending.load(Ordering::Acquire);
        let mut commit = Commit {
            cut: self,
            meta,
            pending,
            change,
            live: FxHashMap::default(),
        };
        commit.clear_pages()?;
        commit.write_pages()?;
        commit.write_live()?;
        let changed_at = commit.sweep(
            Table::Changed,
            self.progress.sweep_changed.load(Ordering::Acquire),
        )?;
        let live_at = commit.sweep(
            Table::Live,
            self.progress.sweep_live.load(Ordering::Acquire),
        )?;
        commit.finish()?;
        self.progress
            .sweep_changed
            .store(changed_at, Ordering::Release);
        self.progress.sweep_live.store(live_at, Ordering::Release);
        Ok(())
    }

    /// Commits, and begins a checkpoint of exactly that state, as of TLog (`tlog_epoch`, `tlog_number`). Its objects are named
    /// `epoch` / `first_object`, `first_object` + 1, …, which must never have been used. It takes the place of an older checkpoint that
    /// was begun and not installed.
    ///
    /// Errors: those of `commit`; Invalid when `first_object` is not past the objects of the checkpoint below.
    pub fn commit_and_checkpoint(
        &self,
        epoch: u64,
        first_object: u64,
        tlog_epoch: u64,
        tlog_number: u64,
        next_sco: u64,
    ) -> Result<CheckpointBuilder> {
        self.commit()?;
        self.progress
            .pending
            .store(self.meta.cut, Ordering::Release);
        let snapshot = self.store.read();
        let bytes = snapshot.get(&key(Table::Meta, &self.volume, 0))?;
        let meta = Meta::decode(&bytes.unwrap_or_default())?;
        if meta.cut != self.meta.cut {
            return Err(Error::Internal("local map: two cuts at a time".into()));
        }
        let name = CheckpointName {
            volume: self.volume,
            epoch,
            first_object,
            tlog_epoch,
            tlog_number,
            next_sco,
        };
        CheckpointBuilder::new(self.store.clone(), snapshot, meta, name)
    }
}

impl Commit<'_, '_> {
    fn count(&mut self, old: &Page, new: &Page) {
        for slot in 0..128 {
            let (was, is) = (old.get(slot).loc, new.get(slot).loc);
            if was == is {
                continue;
            }
            if was.is_data() {
                *self.live.entry(was.number()).or_insert(0) -= 1;
            }
            if is.is_data() {
                *self.live.entry(is.number()).or_insert(0) += 1;
            }
        }
    }

    /// The page changes; `old`: slots that were local before.
    fn mark(&mut self, page: u64, old: u128) -> Result<()> {
        let key = key(Table::Changed, &self.cut.volume, page);
        let found = self.change.get(&key)?;
        let found = found.map(|bytes| Changed::decode(&bytes)).transpose()?;
        let ground = self.meta.ground_cut;
        let mut changed = found.and_then(|c| c.as_of(ground)).unwrap_or(Changed {
            cut: 0,
            ground,
            known: old,
            known_next: old,
        });
        if changed.cut <= self.pending {
            changed.known_next = old;
        }
        changed.cut = self.meta.cut;
        self.change.put(&key, &changed.encode())
    }

    fn clear_pages(&mut self) -> Result<()> {
        let (store, volume) = (&self.cut.store, &self.cut.volume);
        let empty = Page::new(Below::Nothing);
        for range in self.cut.clears.iter() {
            loop {
                let bounds = (range.first, range.end);
                let numbers = keys_from(&self.change, Table::Page, volume, bounds, BATCH)?;
                if numbers.is_empty() {
                    break;
                }
                for number in numbers {
                    if let Some(old) = store.get_page(&self.change, volume, number)? {
                        self.count(&old, &empty);
                        self.mark(number, old.defined)?;
                    }
                    self.change.delete(&key(Table::Page, volume, number))?;
                }
            }
        }
        Ok(())
    }

    fn write_pages(&mut self) -> Result<()> {
        let (store, volume) = (&self.cut.store, &self.cut.volume);
        let mut pages: Vec<&(u64, Arc<Page>)> = self.cut.pages.iter().collect();
        pages.sort_unstable_by_key(|(number, _)| *number);
        for (number, page) in pages {
            let old = match store.get_page(&self.change, volume, *number)? {
                Some(old) => old,
                None => Page::new(Below::Checkpoint),
            };
            let mut new = Page::clone(page);
            if new.below != Below::Nothing {
                let bottom = self.meta.ground.is_none() || self.meta.cleared.contains(*number);
                if old.below == Below::Checkpoint && bottom {
                    new.merge(&old);
                    new.merge(&Page::new(Below::Nothing));
                } else {
                    new.merge(&old);
                }
            }
            self.count(&old, &new);
            self.mark(*number, old.defined)?;
            let place = key(Table::Page, volume, *number);
            self.change.put(&place, &new.encode())?;
        }
        Ok(())
    }

    fn write_live(&mut self) -> Result<()> {
        let volume = &self.cut.volume;
        let mut live: FxHashMap<u64, (i32, u32)> = FxHashMap::default();
        for (number, delta) in self.live.drain() {
            live.entry(number).or_default().0 = delta;
        }
        for (number, clusters) in &self.cut.scos {
            live.entry(*number).or_default().1 = *clusters;
        }
        let mut live: Vec<(u64, (i32, u32))> = live.into_iter().collect();
        live.sort_unstable();
        let ground = self.meta.ground_cut;
        for (number, (delta, clusters)) in live {
            let key = key(Table::Live, volume, number);
            let found = self.change.get(&key)?;
            let found = found.map(|bytes| LiveDelta::decode(&bytes)).transpose()?;
            let mut record = found.and_then(|l| l.as_of(ground)).unwrap_or(LiveDelta {
                ground,
                ..LiveDelta::default()
            });
            if record.cut <= self.pending {
                record.before = record.delta;
            }
            record.delta += delta;
            record.clusters = record.clusters.max(clusters);
            record.cut = self.meta.cut;
            self.change.put(&key, &record.encode())?;
        }
        Ok(())
    }

    /// Deletes a bounded number of records that mean nothing since a newer checkpoint was installed; says where to go on.
    fn sweep(&mut self, table: Table, from: u64) -> Result<u64> {
        if from == u64::MAX {
            return Ok(from);
        }
        let volume = &self.cut.volume;
        let numbers = keys_from(&self.change, table, volume, (from, u64::MAX), BATCH)?;
        for number in &numbers {
            let key = key(table, volume, *number);
            // Both kinds of records begin with the cut.
            let record = self.change.get(&key)?;
            let cut = record.as_ref().and_then(|bytes| bytes.first_chunk());
            if cut.is_some_and(|cut| u64::from_le_bytes(*cut) <= self.meta.ground_cut) {
                self.change.delete(&key)?;
            }
        }
        Ok(match numbers.last() {
            Some(last) if numbers.len() == BATCH => last + 1,
            _ => u64::MAX,
        })
    }

    fn finish(mut self) -> Result<()> {
        let bytes = self.meta.encode();
        let place = key(Table::Meta, &self.cut.volume, 0);
        self.change.put(&place, &bytes)?;
        self.cut.store.commit(self.change)
    }
}
