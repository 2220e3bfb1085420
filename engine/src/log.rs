//! The write log of one volume: segments, one after the other, linked by a running checksum.
//!
//! `Log` is guarded by the volume's lock, so the order of records is the order of the map, and a record is in the kernel's
//! hands only after all before it. `Durability` has a lock of its own, so that writers go on while a sync runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::fullness::{is_full, Fullness, Part};
use crate::pool::{Pool, Segment};
use crate::segment::{
    data_offset, encode_record, record_bytes, Header, Op, Seal, RECORDS_AT, RECORDS_BYTES,
};
use crate::system;
use crate::tail::OpenPart;
use crate::types::{Included, Loc, Uuid, CLUSTER, SCO_CLUSTERS};

const PAGE: usize = 4096;

/// How far the log is on stable storage, and whether it may go on at all.
#[derive(Default)]
pub struct Durability {
    lsn: AtomicU64,
    state: Mutex<SyncState>,
    turn: Condvar,
}

#[derive(Default)]
struct SyncState {
    leading: bool,
    halted: Option<String>,
}

impl Durability {
    pub fn new(lsn: u64) -> Durability {
        Durability {
            lsn: AtomicU64::new(lsn),
            ..Durability::default()
        }
    }

    /// Every record up to this one survives a power cut.
    pub fn lsn(&self) -> u64 {
        self.lsn.load(Ordering::Acquire)
    }

    /// A sync of everything up to this record has succeeded.
    pub fn reached(&self, lsn: u64) {
        self.lsn.fetch_max(lsn, Ordering::AcqRel);
    }

    /// The log ends earlier now. No sync may be running.
    pub fn rewind(&self, lsn: u64) {
        self.lsn.store(lsn, Ordering::Release);
    }

    /// Stops the log for ever: after a failed write or sync nobody knows what the disk has.
    pub fn halt(&self, reason: String) {
        self.state.lock().halted.get_or_insert(reason);
        self.turn.notify_all();
    }

    pub fn halted(&self) -> Option<String> {
        self.state.lock().halted.clone()
    }

    /// Halted when the log is.
    pub fn check(&self) -> Result<()> {
        match &self.state.lock().halted {
            Some(reason) => Err(Error::Halted(reason.clone())),
            None => Ok(()),
        }
    }

    /// Returns when everything up to `target` is durable. Whoever finds no sync running does one for all that wait.
    ///
    /// `collect` names what to sync; `release` is told that it was. Neither is called with this lock held.
    pub fn flush(
        &self,
        target: u64,
        collect: &dyn Fn() -> Result<SyncSet>,
        release: &dyn Fn(&SyncSet),
    ) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            if let Some(reason) = &state.halted {
                return Err(Error::Halted(reason.clone()));
            }
            if self.lsn() >= target {
                return Ok(());
            }
            if !state.leading {
                break;
            }
            self.turn.wait(&mut state);
        }
        state.leading = true;
        drop(state);
        let collected = collect();
        let synced = match &collected {
            Ok(set) => set.segments.iter().try_for_each(|s| s.file.sync_data()),
            Err(_) => Ok(()),
        };
        if let (Ok(set), Ok(())) = (&collected, &synced) {
            release(set);
        }
        let mut state = self.state.lock();
        state.leading = false;
        let result = match (collected, synced) {
            (Ok(set), Ok(())) => {
                self.lsn.fetch_max(set.lsn, Ordering::AcqRel);
                Ok(())
            }
            (Err(error), _) => Err(error),
            (_, Err(error)) => {
                let reason = format!("a sync of the log failed, it is not tried again: {error}");
                Err(Error::Halted(state.halted.get_or_insert(reason).clone()))
            }
        };
        drop(state);
        self.turn.notify_all();
        result
    }
}

/// Segments to sync, oldest first, and what is durable after it.
pub struct SyncSet {
    pub segments: Vec<Arc<Segment>>,
    /// How many of them, from the front, are sealed and need no other sync.
    sealed: usize,
    pub lsn: u64,
}

struct Open {
    segment: Arc<Segment>,
    /// What the record area holds: whole pages are written, so that the disk never has to read one.
    records: Vec<u8>,
    used: usize,
    slots: u32,
    nonce_crc: u32,
}

/// One record to be.
pub enum Append<'a> {
    /// One cluster per checksum.
    Write {
        lba: u64,
        data: &'a [u8],
        crcs: &'a [u32],
    },
    Zero {
        lba: u64,
        clusters: u64,
    },
    Mark,
}

impl<'a> Append<'a> {
    /// What the record says when its data stand from `slot` on, the data, and their checksums.
    fn parts(&self, slot: u32) -> (Op, &'a [u8], &'a [u32]) {
        match *self {
            Append::Write { lba, data, crcs } => (Op::Write { lba, slot }, data, crcs),
            Append::Zero { lba, clusters } => (Op::Zero { lba, clusters }, &[], &[]),
            Append::Mark => (Op::Mark, &[], &[]),
        }
    }
}

/// See the module.
pub struct Log {
    volume: Uuid,
    epoch: u64,
    pool: Arc<Pool>,
    durability: Arc<Durability>,
    lsn: u64,
    chain: u64,
    /// Of the newest segment.
    number: u64,
    open: Option<Open>,
    /// All local segments, clean ones too (those may have been recycled meanwhile).
    pub segments: BTreeMap<u64, Arc<Segment>>,
    unsynced: Vec<Arc<Segment>>,
    /// Last LSN of a record that says more than a mark does.
    content_lsn: u64,
    /// What the newest record says to be durable.
    said_durable: u64,
    /// A file for the next segment that the disk had no room to begin.
    taken: Option<(usize, Arc<dyn DiskFile>)>,
    /// A segment was sealed, and nobody told.
    sealed_untold: bool,
    dirty_bytes: u64,
}

impl Log {
    /// Goes on behind `end`. `segments` are sealed; those that are not clean count as dirty.
    pub fn new(
        volume: Uuid,
        epoch: u64,
        pool: Arc<Pool>,
        durability: Arc<Durability>,
        end: Included,
        segments: BTreeMap<u64, Arc<Segment>>,
    ) -> Log {
        let dirty = segments.values().filter(|segment| !segment.is_clean());
        Log {
            volume,
            epoch,
            pool,
            durability,
            lsn: end.lsn,
            chain: end.chain,
            number: end.number,
            open: None,
            unsynced: Vec::new(),
            content_lsn: end.lsn,
            said_durable: end.lsn,
            taken: None,
            sealed_untold: false,
            dirty_bytes: dirty.map(|segment| segment_bytes(segment)).sum(),
            segments,
        }
    }

    /// The last record: what a map that has seen everything includes.
    pub fn end(&self) -> Included {
        Included {
            lsn: self.lsn,
            number: self.number,
            chain: self.chain,
        }
    }

    pub fn next_number(&self) -> u64 {
        self.number + 1
    }

    pub fn open_clusters(&self) -> u32 {
        self.open.as_ref().map_or(0, |open| open.slots)
    }

    /// The segment that is written, with its records so far.
    pub fn open_part(&self) -> Option<OpenPart<'_>> {
        self.open.as_ref().map(|open| OpenPart {
            segment: &open.segment,
            records: &open.records[..open.used],
        })
    }

    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// A committed head covers these bytes.
    pub fn committed(&mut self, bytes: u64) {
        self.dirty_bytes = self.dirty_bytes.saturating_sub(bytes);
    }

    pub fn is_open(&self, number: u64) -> bool {
        self.open.is_some() && number == self.number
    }

    /// Makes sure that `slots` clusters and `bytes` of records fit into the open segment, sealing it and opening the next
    /// if they do not. Says whether one was sealed since it last said so. On `WouldBlock` there is no room yet.
    pub fn make_room(&mut self, slots: u32, bytes: usize) -> Result<bool> {
        self.durability.check()?;
        if let Some(open) = &self.open {
            if open.slots + slots <= SCO_CLUSTERS && open.used + bytes <= RECORDS_BYTES {
                return Ok(false);
            }
        }
        let (index, file) = match self.taken.take() {
            Some(taken) => taken,
            None => self.pool.take(self.volume)?,
        };
        // Where the disk refuses what follows, the next try goes on with the same file: no two may ever claim one number.
        self.taken = Some((index, file.clone()));
        self.sealed_untold |= self.seal()?;
        let header = Header {
            volume: self.volume,
            epoch: self.epoch,
            number: self.number + 1,
            nonce: system::nonce().map_err(|error| self.refused("drawing a nonce", &error))?,
            first_lsn: self.lsn + 1,
            previous_chain: self.chain,
            durable_lsn: self.durability.lsn(),
        };
        file.pwrite(&header.encode(None), 0)
            .map_err(|error| self.refused("writing a segment header", &error))?;
        self.taken = None;
        let segment = Arc::new(Segment::new(index, file, header, None));
        self.number = header.number;
        self.chain = header.chain();
        self.said_durable = header.durable_lsn;
        self.segments.insert(header.number, segment.clone());
        self.open = Some(Open {
            segment,
            records: vec![0u8; RECORDS_BYTES],
            used: 0,
            slots: 0,
            nonce_crc: header.nonce_crc(),
        });
        Ok(std::mem::take(&mut self.sealed_untold))
    }

    /// Appends the records of one request, all or none; `make_room` has been called for all of them. Returns where the first
    /// cluster written stands, if there is one; others follow it. On `WouldBlock` (the disk has no room) nothing has changed.
    pub fn append(&mut self, entries: &[Append]) -> Result<Loc> {
        let durable = self.durability.lsn();
        let Some(open) = &mut self.open else {
            return Err(Error::Internal("a record without room".into()));
        };
        let (start, first) = (open.used, open.slots);
        let (mut end, mut slots, mut chain, mut lsn) = (start, first, self.chain, self.lsn);
        for entry in entries {
            let (op, data, crcs) = entry.parts(slots);
            if let Err(error) = write_data(&*open.segment.file, data, slots) {
                open.records[start..end].fill(0);
                return Err(self.refused("writing to the log", &error));
            }
            let at = end;
            end += record_bytes(crcs.len());
            slots += crcs.len() as u32;
            lsn += 1;
            let record = &mut open.records[at..end];
            chain = encode_record(record, open.nonce_crc, chain, op, lsn, durable, crcs);
        }
        let (head, tail) = (start / PAGE * PAGE, end.div_ceil(PAGE) * PAGE);
        let pages = &open.records[head..tail];
        if let Err(error) = open.segment.file.pwrite(pages, RECORDS_AT + head as u64) {
            // What the disk took of it stands where the next record will: an unacknowledged write that may yet survive a kill.
            open.records[start..end].fill(0);
            return Err(self.refused("writing to the log", &error));
        }
        self.pool.fullness().accepted(Part::Log);
        let written = u64::from(slots - first) * CLUSTER as u64;
        open.used = end;
        open.slots = slots;
        self.dirty_bytes += written + (end - start) as u64;
        self.lsn = lsn;
        self.chain = chain;
        self.said_durable = durable;
        if entries.iter().any(|entry| !matches!(entry, Append::Mark)) {
            self.content_lsn = lsn;
        }
        Ok(Loc(self.number * u64::from(SCO_CLUSTERS) + u64::from(first)))
    }

    /// If the log is idle and more has become durable than it says, says so.
    pub fn mark(&mut self) -> Result<()> {
        let durable = self.durability.lsn();
        if durable < self.content_lsn || self.said_durable >= self.content_lsn {
            return Ok(());
        }
        match &self.open {
            Some(open) if open.used + record_bytes(0) <= RECORDS_BYTES => {}
            _ => return Ok(()),
        }
        self.durability.check()?;
        self.append(&[Append::Mark]).map(|_| ())
    }

    /// Closes the open segment, if there is one with records in it. On `WouldBlock` nothing has changed.
    pub fn seal(&mut self) -> Result<bool> {
        let Some(open) = self.open.as_ref().filter(|open| open.used > 0) else {
            return Ok(false);
        };
        let seal = Seal {
            last_lsn: self.lsn,
            chain: self.chain,
            durable_lsn: self.durability.lsn(),
            clusters: open.slots,
            record_bytes: open.used as u32,
        };
        let segment = open.segment.clone();
        let page = segment.header.encode(Some(&seal));
        segment
            .file
            .pwrite(&page, 0)
            .map_err(|error| self.refused("sealing a segment", &error))?;
        self.open = None;
        segment.set_end(seal);
        self.unsynced.push(segment);
        Ok(true)
    }

    /// What a sync must cover now.
    pub fn to_sync(&self) -> SyncSet {
        let mut segments = self.unsynced.clone();
        let sealed = segments.len();
        segments.extend(self.open.as_ref().map(|open| open.segment.clone()));
        SyncSet {
            segments,
            sealed,
            lsn: self.lsn,
        }
    }

    /// A sync of what `to_sync` gave has succeeded.
    pub fn synced(&mut self, set: &SyncSet) {
        self.unsynced.drain(..set.sealed);
    }

    fn refused(&self, what: &str, error: &std::io::Error) -> Error {
        refusal(&self.durability, self.pool.fullness(), what, error)
    }
}

/// The disk has refused a write in a segment. For want of room: it is tried again, by whoever waits. Else nobody knows what it
/// has, and the log halts.
pub fn refusal(
    durability: &Durability,
    fullness: &Fullness,
    what: &str,
    error: &std::io::Error,
) -> Error {
    if is_full(error) {
        fullness.refused(Part::Log, &format!("{what}: {error}"));
        return Error::WouldBlock;
    }
    let reason = format!("{what} failed: {error}");
    durability.halt(reason.clone());
    Error::Halted(reason)
}

fn write_data(file: &dyn DiskFile, data: &[u8], slot: u32) -> std::io::Result<()> {
    match data.is_empty() {
        true => Ok(()),
        false => file.pwrite(data, data_offset(slot)),
    }
}

/// Bytes of cache that a sealed segment's content takes.
pub fn segment_bytes(segment: &Segment) -> u64 {
    segment.end().map_or(0, |end| {
        u64::from(end.clusters) * CLUSTER as u64 + u64::from(end.record_bytes)
    })
}
