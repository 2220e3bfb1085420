//! A cut of a map, and the one transaction that makes it what LMDB has.
//!
//! Live counts are kept here: each commit compares what LMDB had with what it gets, so they can never drift from the pages.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use heed::RwTxn;
use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use crate::map::checkpoint::{CheckpointBuilder, CheckpointName};
use crate::map::meta::{Changed, LiveDelta, Meta};
use crate::map::page::{Below, Page};
use crate::map::ranges::ClearedRanges;
use crate::map::store::{key, lmdb, Db, MapStore};
use crate::map::volume::Progress;
use crate::types::Uuid;

/// LMDB pages that are deleted, or stale records that are swept, at a time.
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
    txn: RwTxn<'e>,
    live: FxHashMap<u64, i32>,
}

impl Cut {
    pub fn id(&self) -> CutId {
        CutId(self.meta.cut)
    }

    /// Writes the cut in one transaction, synced; call only when the log is durable up to `included`. May be called again after an
    /// error (then LMDB is as before).
    ///
    /// Errors: NoSpace (the map's size limit or the disk), Corrupt (a page of LMDB), Halted (I/O).
    pub fn commit(&self) -> Result<()> {
        self.write().map_err(|error| self.store.explained(error))
    }

    fn write(&self) -> Result<()> {
        let txn = self.store.write()?;
        let stored = self
            .store
            .meta
            .get(&txn, &self.volume)
            .map_err(|e| lmdb("read meta", e))?;
        let mut meta = self.meta.clone();
        if let Some(stored) = stored {
            // A checkpoint may have been installed since the cut: LMDB knows.
            let stored = Meta::decode(stored)?;
            meta.ground = stored.ground;
            meta.ground_cut = stored.ground_cut;
            meta.cleared.forget_up_to(stored.ground_cut);
        }
        let pending = self.progress.pending.load(Ordering::Acquire);
        let mut commit = Commit {
            cut: self,
            meta,
            pending,
            txn,
            live: FxHashMap::default(),
        };
        commit.clear_pages()?;
        commit.write_pages()?;
        commit.write_live()?;
        let changed_at = commit.sweep(
            &self.store.changed,
            self.progress.sweep_changed.load(Ordering::Acquire),
        )?;
        let live_at = commit.sweep(
            &self.store.live,
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
        let snapshot = self.store.snapshot()?;
        let bytes = self
            .store
            .meta
            .get(&snapshot, &self.volume)
            .map_err(|e| lmdb("read meta", e))?;
        let meta = Meta::decode(bytes.unwrap_or_default())?;
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
        let (db, key) = (&self.cut.store.changed, key(&self.cut.volume, page));
        let found = db
            .get(&self.txn, &key)
            .map_err(|e| lmdb("read", e))?
            .map(Changed::decode)
            .transpose()?;
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
        db.put(&mut self.txn, &key, &changed.encode())
            .map_err(|e| lmdb("write", e))
    }

    fn clear_pages(&mut self) -> Result<()> {
        let (store, volume) = (&self.cut.store, &self.cut.volume);
        let empty = Page::new(Below::Nothing);
        for range in self.cut.clears.iter() {
            loop {
                let numbers = store.keys_from(
                    &store.page,
                    &self.txn,
                    volume,
                    range.first,
                    range.end,
                    BATCH,
                )?;
                if numbers.is_empty() {
                    break;
                }
                for number in numbers {
                    if let Some(old) = store.get_page(&self.txn, volume, number)? {
                        self.count(&old, &empty);
                        self.mark(number, old.defined)?;
                    }
                    store
                        .page
                        .delete(&mut self.txn, &key(volume, number))
                        .map_err(|e| lmdb("delete", e))?;
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
            let old = match store.get_page(&self.txn, volume, *number)? {
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
            store
                .page
                .put(&mut self.txn, &key(volume, *number), &new.encode())
                .map_err(|e| lmdb("write", e))?;
        }
        Ok(())
    }

    fn write_live(&mut self) -> Result<()> {
        let (db, volume) = (&self.cut.store.live, &self.cut.volume);
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
            let key = key(volume, number);
            let found = db
                .get(&self.txn, &key)
                .map_err(|e| lmdb("read", e))?
                .map(LiveDelta::decode)
                .transpose()?;
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
            db.put(&mut self.txn, &key, &record.encode())
                .map_err(|e| lmdb("write", e))?;
        }
        Ok(())
    }

    /// Deletes a bounded number of records that mean nothing since a newer checkpoint was installed; says where to go on.
    fn sweep(&mut self, db: &Db, from: u64) -> Result<u64> {
        if from == u64::MAX {
            return Ok(from);
        }
        let (store, volume) = (&self.cut.store, &self.cut.volume);
        let numbers = store.keys_from(db, &self.txn, volume, from, u64::MAX, BATCH)?;
        for number in &numbers {
            let key = key(volume, *number);
            // Both kinds of records begin with the cut.
            let cut = db
                .get(&self.txn, &key)
                .map_err(|e| lmdb("read", e))?
                .and_then(|bytes| bytes.first_chunk());
            if cut.is_some_and(|cut| u64::from_le_bytes(*cut) <= self.meta.ground_cut) {
                db.delete(&mut self.txn, &key)
                    .map_err(|e| lmdb("delete", e))?;
            }
        }
        Ok(match numbers.last() {
            Some(last) if numbers.len() == BATCH => last + 1,
            _ => u64::MAX,
        })
    }

    fn finish(mut self) -> Result<()> {
        let bytes = self.meta.encode();
        let meta = &self.cut.store.meta;
        meta.put(&mut self.txn, &self.cut.volume, &bytes)
            .map_err(|e| lmdb("write meta", e))?;
        self.cut.store.commit(self.txn)
    }
}
