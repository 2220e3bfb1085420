//! A copy of another node's log of one volume, segment by segment and byte by byte, in this node's own pool.
//!
//! It grows by batches (`take`), which are verified record by record before they count; data are written before records, and a
//! segment's header before both. What a restart finds of it is what it would find of a log of its own, and `Engine::recover` takes
//! it as one. What this node knows of its own disk stands in the *mark* of each copied segment's header page: where the copy
//! begins, and how far it was synced; the durable LSNs in header, seal and records are the owner's, of its disk.

mod looking;
mod taking;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::log::{refusal, segment_bytes, Durability};
use crate::map::{MapStore, VolumeMap};
use crate::pool::{Pool, Segment};
use crate::segment::{outlines, CopyMark, Seal, RECORDS_AT, RECORDS_BYTES};
use crate::tail::{chain_after, gather, OpenPart, Tail};
use crate::types::{Included, Uuid};

const PAGE: usize = 4096;

/// The newest segment of a copy.
struct Last {
    segment: Arc<Segment>,
    /// What the record area holds, zeros behind `used`.
    records: Vec<u8>,
    used: usize,
    slots: u32,
    /// As the owner wrote it; then nothing more comes in this segment.
    seal: Option<Seal>,
}

struct State {
    pool: Arc<Pool>,
    store: Arc<MapStore>,
    /// By number, all linked; all but the last have an end.
    segments: BTreeMap<u64, Arc<Segment>>,
    last: Option<Last>,
    end: Included,
    /// Files from before the copy, or this node's own former log, with marks that would count again without what is here: worthless, and
    /// wiped before anything else.
    outdated: Vec<usize>,
    /// Files of the volume that are not part of the copy; wiped before anything is written.
    stale: Vec<usize>,
    /// Nothing on this disk can be mistaken for the log any more but what is in `segments`.
    is_claimed: bool,
    /// Written since a sync has begun.
    unsynced: Vec<Arc<Segment>>,
    /// A file for a segment that the disk had no room to begin.
    taken: Option<(usize, Arc<dyn DiskFile>)>,
    damage: Option<Damage>,
}

/// Of what was synced here, not all is there.
struct Damage {
    what: String,
    /// What the marks say to have been durable: they go on saying so until that is here again.
    synced_lsn: u64,
    /// The marks do not cover it: only `cut` makes an end of it.
    is_final: bool,
}

/// See the module. Methods may be called from any thread; one at a time changes it, and a sync runs beside.
pub struct Replica {
    volume: Uuid,
    durability: Durability,
    state: Mutex<Option<State>>,
    /// One sync at a time, and none while the copy is cut.
    syncing: Mutex<()>,
}

/// Figures of a replica, of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStats {
    /// LSN of the first record; 0 when there is none.
    pub first_lsn: u64,
    /// LSN of the last record; 0 when there is none.
    pub end_lsn: u64,
    /// Everything up to here survives a power cut.
    pub synced_lsn: u64,
    /// Records and data.
    pub bytes: u64,
}

impl Replica {
    fn lock(&self) -> Result<MappedMutexGuard<'_, State>> {
        MutexGuard::try_map(self.state.lock(), Option::as_mut)
            .map_err(|_| Error::Invalid("the replica is closed".into()))
    }

    pub fn volume(&self) -> Uuid {
        self.volume
    }

    pub fn stats(&self) -> Result<ReplicaStats> {
        let state = self.lock()?;
        let first = state.segments.values().next();
        let sealed: u64 = state.segments.values().map(|s| segment_bytes(s)).sum();
        let open = state.last.as_ref().filter(|last| last.seal.is_none());
        Ok(ReplicaStats {
            first_lsn: first.map_or(0, |first| first.header.first_lsn),
            end_lsn: state.end.lsn,
            synced_lsn: self.durability.lsn(),
            bytes: sealed + open.map_or(0, Last::bytes),
        })
    }

    /// Why what was synced here is not all there, as far as a restart could tell. It is over when what is missing was taken again,
    /// or after a `cut`.
    pub fn damage(&self) -> Result<Option<String>> {
        Ok(self
            .lock()?
            .damage
            .as_ref()
            .map(|damage| damage.what.clone()))
    }

    /// Returns when everything that was taken before the call survives a power cut. Halted for ever after a failed sync.
    pub fn sync(&self) -> Result<()> {
        let target = self.lock()?.end.lsn;
        let _one = self.syncing.lock();
        self.sync_to(target)
    }

    /// The caller has the lock for syncs.
    fn sync_to(&self, target: u64) -> Result<()> {
        self.durability.check()?;
        let (segments, lsn) = {
            let mut state = self.lock()?;
            if self.durability.lsn() >= target {
                return Ok(());
            }
            // Where all of it was here nothing has come, and it still counts as this node's former log: worthless beside a head of a
            // later epoch.
            self.claim(&mut state)?;
            (std::mem::take(&mut state.unsynced), state.end.lsn)
        };
        for segment in segments {
            segment.file.sync_data().map_err(|error| self.lost(error))?;
        }
        self.durability.reached(lsn);
        let mut state = self.lock()?;
        if state
            .damage
            .as_ref()
            .is_some_and(|damage| damage.synced_lsn <= lsn)
        {
            state.damage = None;
        }
        // In the disk's hands only: the next sync, or the kernel, makes it durable. It may be late, never early.
        match state.write_mark(lsn) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refused(&state, "marking a replica", &error)),
        }
    }

    /// Records from `first_lsn` on, as `Volume::tail` gives them.
    pub fn read(&self, first_lsn: u64, bytes_max: usize) -> Result<Option<Tail>> {
        let gathered = {
            let state = self.lock()?;
            let open = state.open_part();
            gather(&state.segments, open, first_lsn, state.end.lsn, bytes_max)?
        };
        gathered.map_or(Ok(None), |gathered| gathered.plan(bytes_max))
    }

    /// As `Volume::chain`.
    pub fn chain(&self, lsn: u64) -> Result<Option<u64>> {
        let state = self.lock()?;
        chain_after(&state.segments, state.open_part(), lsn)
    }

    /// Forgets, durably, every record behind `last_lsn`; all of them when it is before the first. What is left is durable.
    pub fn cut(&self, last_lsn: u64) -> Result<()> {
        let _one = self.syncing.lock();
        self.durability.check()?;
        let mut state = self.lock()?;
        if last_lsn >= state.end.lsn && state.damage.is_none() && !state.segments.is_empty() {
            return Ok(());
        }
        state.damage = None;
        let first = state.segments.values().next();
        if first.is_none_or(|first| last_lsn < first.header.first_lsn) {
            state.wipe_all(&self.volume)?;
            self.durability.rewind(0);
            return Ok(());
        }
        self.claim(&mut state)?;
        self.cut_behind(&mut state, last_lsn)
    }

    fn cut_behind(&self, state: &mut State, last_lsn: u64) -> Result<()> {
        let mut newest_first = state.segments.values().rev();
        let kept = newest_first.find(|s| s.header.first_lsn <= last_lsn);
        let Some(kept) = kept.cloned() else {
            return Err(Error::Internal("a cut before the first record".into()));
        };
        let synced = self.durability.lsn().min(last_lsn);
        if kept.header.number != state.end.number {
            // That this is a copy may be said in the newest only.
            let page = kept.header.encode_copy(kept.end(), &state.mark(synced));
            kept.file
                .pwrite(&page, 0)
                .and_then(|()| kept.file.sync_data())
                .map_err(|error| self.lost(error))?;
        }
        // From the back, so that what a kill leaves is a log that ends later, not one with a hole.
        while let Some((number, segment)) = state.segments.iter().next_back() {
            if *number == kept.header.number {
                break;
            }
            let (number, index) = (*number, segment.index());
            state.pool.wipe(&[index])?;
            state.segments.remove(&number);
        }
        let last = Last::reopened(&kept, last_lsn, kept.end().copied())?;
        state.end = last.end();
        state
            .unsynced
            .retain(|s| s.header.number <= state.end.number);
        state
            .segments
            .insert(kept.header.number, last.segment.clone());
        let mark = state.mark(synced);
        let done = last
            .write_page(&mark)
            .and_then(|()| last.segment.file.sync_data())
            .and_then(|()| last.write_rest())
            .and_then(|()| last.segment.file.sync_data());
        state.last = Some(last);
        self.durability.rewind(synced);
        // Half done: nobody knows what the disk has.
        done.map_err(|error| self.lost(error))
    }

    /// Whole segments that end at or before `through_lsn` may be used for something else; never the newest. For what a committed
    /// head has.
    pub fn trim(&self, through_lsn: u64) -> Result<()> {
        let _one = self.syncing.lock();
        self.durability.check()?;
        let mut state = self.lock()?;
        let trimmed = state.before(through_lsn);
        if trimmed.is_empty() {
            return Ok(());
        }
        self.claim(&mut state)?;
        for segment in &trimmed {
            state.segments.remove(&segment.header.number);
            let same = |other: &Arc<Segment>| !Arc::ptr_eq(other, segment);
            state.unsynced.retain(same);
        }
        // Durably where it begins now, before a file of what was before it can be used again: else a restart finds a hole.
        let synced = self.durability.lsn();
        let written = state.write_mark(synced).and_then(|()| match &state.last {
            Some(last) => last.segment.file.sync_data(),
            None => Ok(()),
        });
        written.map_err(|error| self.lost(error))?;
        for segment in &trimmed {
            state.pool.offer_trimmed(segment);
        }
        Ok(())
    }

    /// Lets go of the files; they stay. What was not synced may not survive a power cut. Closing twice is fine.
    pub fn close(&self) {
        let _one = self.syncing.lock();
        if let Some(state) = self.state.lock().take() {
            state.pool.withdraw(&self.volume);
        }
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().is_none()
    }

    fn lost(&self, error: std::io::Error) -> Error {
        let reason = format!("a sync of a replica failed, it is not tried again: {error}");
        self.durability.halt(reason.clone());
        Error::Halted(reason)
    }

    fn refused(&self, state: &State, what: &str, error: &std::io::Error) -> Error {
        refusal(&self.durability, state.pool.fullness(), what, error)
    }

    /// Before the first change: what is on this disk beside the replica can never be taken for a part of it, and a map of a former
    /// life of the volume here not for its map.
    fn claim(&self, state: &mut State) -> Result<()> {
        if state.is_claimed {
            return Ok(());
        }
        if let Some(damage) = state.damage.as_ref().filter(|damage| damage.is_final) {
            return Err(Error::Conflict(format!(
                "{}; cut the replica to accept that, or to begin anew",
                damage.what
            )));
        }
        wipe_each(&state.pool, &mut state.outdated)?;
        let mark = state.mark(self.durability.lsn());
        if let Some(last) = &state.last {
            last.write_page(&mark)
                .and_then(|()| last.segment.file.sync_data())
                .map_err(|error| self.lost(error))?;
        }
        // Only now: a log with neither a map nor a mark could be anybody's.
        if !VolumeMap::left_lineage(&state.store, &self.volume)?.is_empty() {
            state.store.forget(&self.volume)?;
        }
        // The mark carries over what they may say of this node's syncs: only now may they go.
        wipe_each(&state.pool, &mut state.stale)?;
        if let Some(last) = state.last.as_ref().filter(|last| last.seal.is_none()) {
            last.write_rest()
                .and_then(|()| last.segment.file.sync_data())
                .map_err(|error| self.lost(error))?;
        }
        state.is_claimed = true;
        Ok(())
    }
}

/// What was wiped is no longer listed, also where another one could not be: it may be anybody's by the next try.
fn wipe_each(pool: &Pool, indexes: &mut Vec<usize>) -> Result<()> {
    while let Some(index) = indexes.first() {
        pool.wipe(&[*index])?;
        indexes.remove(0);
    }
    Ok(())
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    fn first_number(&self) -> u64 {
        self.segments.keys().next().copied().unwrap_or(0)
    }

    fn open_part(&self) -> Option<OpenPart<'_>> {
        self.last.as_ref().map(|last| OpenPart {
            segment: &last.segment,
            records: &last.records[..last.used],
        })
    }

    fn before(&self, through_lsn: u64) -> Vec<Arc<Segment>> {
        let newest = self.end.number;
        let segments = self.segments.range(..newest).map(|(_, segment)| segment);
        let covered = segments
            .take_while(|segment| segment.end().is_some_and(|end| end.last_lsn <= through_lsn));
        covered.cloned().collect()
    }

    fn mark(&self, synced_lsn: u64) -> CopyMark {
        let damage = self.damage.as_ref().map_or(0, |damage| damage.synced_lsn);
        let first = self.segments.values().next().map(|first| first.header);
        CopyMark {
            first_number: first.map_or(0, |first| first.number),
            first_lsn: first.map_or(0, |first| first.first_lsn),
            synced_lsn: synced_lsn.max(damage),
        }
    }

    fn write_mark(&self, synced_lsn: u64) -> std::io::Result<()> {
        let mark = self.mark(synced_lsn);
        self.last
            .as_ref()
            .map_or(Ok(()), |last| last.write_page(&mark))
    }

    /// Everything of the volume on this disk goes, also what was trimmed long ago and may still be there.
    fn wipe_all(&mut self, volume: &Uuid) -> Result<()> {
        let newest_first = self.segments.values().rev().map(|s| s.index());
        // The newest marks behind those that would count again without them.
        let last: Vec<usize> = self.stale.iter().copied().chain(newest_first).collect();
        self.pool.withdraw(volume);
        self.pool.forget(volume, &last)?;
        self.store.forget(volume)?;
        self.segments.clear();
        self.unsynced.clear();
        self.stale.clear();
        self.outdated.clear();
        self.taken = None;
        self.last = None;
        self.end = Included::default();
        self.is_claimed = true;
        Ok(())
    }
}

impl Last {
    fn bytes(&self) -> u64 {
        u64::from(self.slots) * crate::types::CLUSTER as u64 + self.used as u64
    }

    /// The place behind its last record.
    fn end(&self) -> Included {
        let area = &self.records[..self.used];
        let header = &self.segment.header;
        let last = outlines(area).last();
        Included {
            lsn: last.map_or(header.first_lsn - 1, |last| last.lsn),
            number: header.number,
            chain: last.map_or_else(|| header.chain(), |last| last.chain),
        }
    }

    /// A verified segment that ends with `last_lsn` from now on; it is open again if that is not where `seal` says.
    fn reopened(segment: &Arc<Segment>, last_lsn: u64, seal: Option<Seal>) -> Result<Last> {
        let mut records = vec![0u8; RECORDS_BYTES];
        segment
            .file
            .pread(&mut records, RECORDS_AT)
            .map_err(|error| Error::disk("reading a replica", &error))?;
        let first_lsn = segment.header.first_lsn;
        let (mut used, mut slots) = (0, 0);
        for (lsn, outline) in (first_lsn..=last_lsn).zip(outlines(&records)) {
            if outline.lsn != lsn {
                break;
            }
            used = outline.at + outline.bytes;
            slots += outline.clusters;
        }
        records[used..].fill(0);
        let seal = seal.filter(|seal| seal.record_bytes as usize == used);
        let header = segment.header;
        let segment = Segment::new(segment.index(), segment.file.clone(), header, seal);
        Ok(Last {
            segment: Arc::new(segment),
            records,
            used,
            slots,
            seal,
        })
    }

    fn write_page(&self, mark: &CopyMark) -> std::io::Result<()> {
        let header = &self.segment.header;
        let page = header.encode_copy(self.seal.as_ref(), mark);
        self.segment.file.pwrite(&page, 0)
    }

    /// Nothing stands behind its records any more.
    fn write_rest(&self) -> std::io::Result<()> {
        if self.used == self.records.len() {
            return Ok(());
        }
        let from = self.used / PAGE * PAGE;
        let rest = &self.records[from..];
        self.segment.file.pwrite(rest, RECORDS_AT + from as u64)
    }
}
