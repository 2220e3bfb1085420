//! What goes to the backend: TLogs, SCOs, checkpoints; and what a committed head frees. Also the write-back of the map.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crc32c::crc32c;

use crate::error::{Error, Result};
use crate::fullness::Part;
use crate::joined_crc::joined;
use crate::log::{refusal, segment_bytes};
use crate::map::{CheckpointBuilder, Cut, FinishedCheckpoint, Step};
use crate::pool::Segment;
use crate::read_cache::CacheKey;
use crate::segment::{data_offset, Op, Records, Seal, RECORDS_AT, RECORDS_BYTES};
use crate::tlog::{self, TlogBuilder, TlogHeader, TlogSco};
use crate::types::{Fetch, RootRef, TlogRef, CLUSTER};
use crate::volume::{resolve, State, Volume};

/// A TLog with no more data than this is one object together with it.
const COMBINED_CLUSTERS_MAX: u32 = 256;

/// What is on its way to the backend. Guarded by the volume's lock.
pub(crate) struct Shipping {
    last: Option<TlogRef>,
    next_tlog: u64,
    first_of_epoch: bool,
    next_sco: u64,
    /// First SCO that no committed head has.
    committed_next_sco: u64,
    closed: VecDeque<ClosedTlog>,
    want_cut: bool,
    cut: Option<PendingCut>,
    finished: Option<(RootRef, FinishedCheckpoint)>,
}

struct ClosedTlog {
    number: u64,
    next_sco: u64,
    bytes: u64,
}

struct PendingCut {
    cut: Cut,
    tlog: TlogRef,
    next_sco: u64,
}

impl Shipping {
    pub fn new(head: Option<TlogRef>, next_sco: u64) -> Shipping {
        Shipping {
            last: head,
            next_tlog: head.map_or(1, |head| head.number + 1),
            first_of_epoch: true,
            next_sco,
            committed_next_sco: next_sco,
            closed: VecDeque::new(),
            want_cut: false,
            cut: None,
            finished: None,
        }
    }

    /// First SCO that is in no TLog yet.
    pub fn next_sco(&self) -> u64 {
        self.next_sco
    }

    pub fn committed_next_sco(&self) -> u64 {
        self.committed_next_sco
    }

    pub fn next_tlog(&self) -> u64 {
        self.next_tlog
    }
}

/// A closed TLog: immutable; encodes to the same bytes every time.
pub struct Tlog {
    pub reference: TlogRef,
    pub previous: Option<TlogRef>,
    /// Without empty ones.
    pub scos: Vec<(u64, u32)>,
    pub next_sco: u64,
    pub last_lsn: u64,
    pub entry_bytes: usize,
    header: TlogHeader,
    segments: Vec<Arc<Segment>>,
}

impl Tlog {
    /// The whole object: the TLog alone, or data, TLog and trailer. Reads the log again, so it costs no memory meanwhile.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let pins: Vec<_> = self.segments.iter().map(Segment::pin).collect();
        if pins.iter().any(Option::is_none) {
            return Err(Error::Invalid(format!(
                "TLog {} is behind the head and its segments are recycled",
                self.reference.number
            )));
        }
        let (_, bytes) = build(self.header.clone(), &self.segments)?;
        if checksum(&bytes) != self.reference.checksum {
            return Err(Error::Corrupt(format!(
                "the log records of TLog {} are damaged",
                self.reference.number
            )));
        }
        match self.segments.iter().find(|s| clusters(s) > 0) {
            Some(segment) if self.header.combined => Ok(tlog::combine(&read_sco(segment)?, &bytes)),
            _ => Ok(bytes),
        }
    }
}

fn clusters(segment: &Segment) -> u32 {
    segment.end().map_or(0, |end| end.clusters)
}

fn checksum(tlog: &[u8]) -> u64 {
    let mut footer = [0u8; 8];
    footer.copy_from_slice(&tlog[tlog.len() - 8..]);
    u64::from_le_bytes(footer)
}

/// The records of a sealed segment, and how much of them counts.
fn records_of(segment: &Segment) -> Result<(Vec<u8>, Seal)> {
    let end = segment.end().copied().ok_or_else(|| {
        Error::Internal(format!("segment {} is not sealed", segment.header.number))
    })?;
    let mut area = vec![0u8; RECORDS_BYTES];
    segment
        .file
        .pread(&mut area, RECORDS_AT)
        .map_err(|error| Error::disk("reading the log", &error))?;
    area.truncate(end.record_bytes as usize);
    Ok((area, end))
}

fn build(header: TlogHeader, segments: &[Arc<Segment>]) -> Result<(usize, Vec<u8>)> {
    let mut builder = TlogBuilder::new(header);
    for segment in segments {
        let number = segment.header.number;
        let (area, end) = records_of(segment)?;
        let (mut sco_crc, mut crcs) = (0u32, Vec::new());
        let mut records = Records::new(&segment.header, &area);
        for record in records.by_ref() {
            match record.op {
                Op::Write { lba, slot } => {
                    crcs.clear();
                    crcs.extend(record.crcs());
                    for crc in &crcs {
                        sco_crc = joined(sco_crc, *crc);
                    }
                    builder.write(lba, number, slot, &crcs);
                }
                Op::Zero { lba, clusters } => {
                    builder.zero(lba, clusters);
                }
                Op::Mark => {}
            }
        }
        if records.chain != end.chain || records.lsn != end.last_lsn {
            return Err(Error::Corrupt(format!(
                "the records of log segment {number} are damaged behind record {}",
                records.lsn
            )));
        }
        builder.sco(TlogSco {
            number,
            clusters: end.clusters,
            crc: sco_crc,
        });
    }
    let entry_bytes = builder.entry_bytes();
    Ok((entry_bytes, builder.finish()))
}

/// The data of a sealed segment, every cluster compared with its record.
fn read_sco(segment: &Segment) -> Result<Vec<u8>> {
    let mut data = vec![0u8; clusters(segment) as usize * CLUSTER];
    read_sco_into(segment, &mut data)?;
    Ok(data)
}

fn read_sco_into(segment: &Segment, data: &mut [u8]) -> Result<()> {
    let (area, _) = records_of(segment)?;
    segment
        .file
        .pread(data, data_offset(0))
        .map_err(|error| Error::disk("reading an SCO", &error))?;
    let records = Records::new(&segment.header, &area);
    let crcs = records.flat_map(|record| record.crcs().collect::<Vec<u32>>());
    let mut verified = 0;
    for (data, crc) in data.chunks_exact(CLUSTER).zip(crcs) {
        if crc32c(data) != crc {
            break;
        }
        verified += 1;
    }
    if verified != data.len() / CLUSTER {
        return Err(Error::Corrupt(format!(
            "SCO {} is damaged on the local disk at slot {verified}",
            segment.header.number
        )));
    }
    Ok(())
}

/// Keeps a cut of the map as of `last_lsn`, if that is the end of the log. The caller has the lock for cuts.
fn cut_for_checkpoint(state: &mut State, last_lsn: u64) {
    let end = state.log.end();
    if !state.shipping.want_cut || state.shipping.cut.is_some() || end.lsn != last_lsn {
        return;
    }
    let cut = state.map.cut(end);
    let nowhere = TlogRef {
        epoch: 0,
        number: 0,
        combined_sco: 0,
        checksum: 0,
    };
    state.shipping.want_cut = false;
    state.shipping.cut = Some(PendingCut {
        cut,
        tlog: nowhere,
        next_sco: 0,
    });
}

/// How eager a write-back of the map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteBack {
    /// Only when many bytes have changed.
    IfLarge,
    /// Whatever has changed, unless a checkpoint is about to take it.
    Now,
    /// Whatever has changed.
    Closing,
}

impl Volume {
    /// Syncs, then closes a TLog over the oldest `scos_max` sealed SCOs (the open one is sealed first if told); None when there
    /// is nothing. The limit keeps a long backlog from becoming one TLog, whose head would free room only at its very end.
    /// `WouldBlock`: the disk has no room for a seal; nothing has changed that a second call would not find.
    pub fn close_tlog(&self, seal_open: bool, scos_max: usize) -> Result<Option<Tlog>> {
        let _one = self.closing.lock();
        let wanted = self.lock()?.shipping.want_cut;
        // A write-back that runs has a cut of its own: it is waited for, and none begins before ours is taken.
        let cutting = wanted.then(|| self.cutting.lock());
        let (segments, last_lsn) = {
            let mut state = self.lock()?;
            if seal_open && state.log.seal()? {
                self.sealed();
            }
            let from = state.shipping.next_sco;
            let segments: Vec<Arc<Segment>> = state
                .log
                .segments
                .range(from..)
                .filter(|(_, segment)| segment.end().is_some())
                .map(|(_, segment)| segment.clone())
                .take(scos_max.max(1))
                .collect();
            let Some(end) = segments.last().and_then(|last| last.end().copied()) else {
                return Ok(None);
            };
            if cutting.is_some() {
                cut_for_checkpoint(&mut state, end.last_lsn);
            }
            (segments, end.last_lsn)
        };
        drop(cutting);
        self.flush_to(last_lsn)?;
        self.seal_durably(&segments)?;
        let tlog = self.build_tlog(segments, last_lsn)?;
        let mut state = self.lock()?;
        let bytes = tlog.segments.iter().map(|s| segment_bytes(s)).sum();
        let shipping = &mut state.shipping;
        shipping.last = Some(tlog.reference);
        shipping.next_tlog += 1;
        shipping.first_of_epoch = false;
        shipping.next_sco = tlog.next_sco;
        shipping.closed.push_back(ClosedTlog {
            number: tlog.reference.number,
            next_sco: tlog.next_sco,
            bytes,
        });
        if let Some(cut) = shipping.cut.as_mut().filter(|cut| cut.next_sco == 0) {
            cut.tlog = tlog.reference;
            cut.next_sco = tlog.next_sco;
        }
        self.map_behind.store(true, Ordering::Release);
        Ok(Some(tlog))
    }

    /// Says in the last segment where it ends, so that a restart knows without a successor.
    fn seal_durably(&self, segments: &[Arc<Segment>]) -> Result<()> {
        let Some(segment) = segments.last() else {
            return Ok(());
        };
        let Some(end) = segment.end() else {
            return Ok(());
        };
        let seal = Seal {
            durable_lsn: end.last_lsn,
            ..*end
        };
        let file = &segment.file;
        let fullness = self.shared.pool.fullness();
        file.pwrite(&segment.header.encode(Some(&seal)), 0)
            .map_err(|error| refusal(&self.durability, fullness, "sealing a segment", &error))?;
        file.sync_data().map_err(|error| {
            let reason = format!("a sync of the log failed, it is not tried again: {error}");
            self.durability.halt(reason.clone());
            Error::Halted(reason)
        })
    }

    fn build_tlog(&self, segments: Vec<Arc<Segment>>, last_lsn: u64) -> Result<Tlog> {
        let (previous, number, first_of_epoch, first_sco) = {
            let state = self.lock()?;
            let shipping = &state.shipping;
            (
                shipping.last,
                shipping.next_tlog,
                shipping.first_of_epoch,
                shipping.next_sco,
            )
        };
        let full: Vec<(u64, u32)> = segments
            .iter()
            .map(|segment| (segment.header.number, clusters(segment)))
            .filter(|(_, clusters)| *clusters > 0)
            .collect();
        let combined = segments.len() == 1 && full.len() == 1 && full[0].1 <= COMBINED_CLUSTERS_MAX;
        let next_sco = segments.last().map_or(first_sco, |s| s.header.number + 1);
        let header = TlogHeader {
            volume: self.uuid,
            epoch: self.epoch(),
            number,
            previous,
            first_of_epoch,
            first_sco,
            next_sco,
            last_lsn,
            combined,
        };
        let (entry_bytes, bytes) = build(header.clone(), &segments)?;
        Ok(Tlog {
            reference: TlogRef {
                epoch: self.epoch(),
                number,
                combined_sco: if combined { full[0].0 } else { 0 },
                checksum: checksum(&bytes),
            },
            previous,
            scos: full,
            next_sco,
            last_lsn,
            entry_bytes,
            header,
            segments,
        })
    }

    fn sealed_segment(&self, number: u64) -> Result<crate::pool::Pin> {
        let state = self.lock()?;
        let segment = state.log.segments.get(&number);
        segment
            .filter(|segment| segment.end().is_some())
            .and_then(|segment| segment.pin())
            .ok_or_else(|| Error::Invalid(format!("SCO {number} is not sealed and local")))
    }

    /// Bytes of a sealed SCO.
    pub fn sco_bytes(&self, number: u64) -> Result<usize> {
        Ok(clusters(&*self.sealed_segment(number)?) as usize * CLUSTER)
    }

    /// The bytes of a sealed SCO, verified against the log. `out`: `sco_bytes` long.
    pub fn read_sco(&self, number: u64, out: &mut [u8]) -> Result<()> {
        let pin = self.sealed_segment(number)?;
        if out.len() != clusters(&pin) as usize * CLUSTER {
            return Err(Error::Internal("a buffer of the wrong length".into()));
        }
        read_sco_into(&pin, out)
    }

    /// The registry has committed a head at this TLog: what it covers is a cache from now on.
    pub fn head_committed(&self, tlog: u64) -> Result<()> {
        let mut state = self.lock()?;
        let State {
            log,
            map,
            shipping,
            tail_pin,
            ..
        } = &mut *state;
        while shipping.closed.front().is_some_and(|c| c.number <= tlog) {
            let Some(closed) = shipping.closed.pop_front() else {
                break;
            };
            log.committed(closed.bytes);
            shipping.committed_next_sco = closed.next_sco;
            log.segments.retain(|_, segment| !segment.is_retired());
            let dirty = log.segments.range(..closed.next_sco);
            for (number, segment) in dirty.filter(|(_, segment)| !segment.is_clean()) {
                let at = resolve(map.lineage(), *number)?;
                let key = CacheKey {
                    origin: at.origin,
                    epoch: at.epoch,
                    number: *number,
                };
                tail_pin.keep(segment);
                self.shared.pool.offer_clean(segment, key);
            }
        }
        Ok(())
    }

    /// Writes the map's changes to its file. Runs beside I/O. Where the disk has no room they stay in RAM (`NoSpace`), and
    /// after any other failure, too: nothing more is written to that map then.
    pub fn write_back(&self, when: WriteBack) -> Result<()> {
        if when != WriteBack::Closing && !self.shared.pool.fullness().may_try(Part::Map) {
            self.map_behind.store(true, Ordering::Release);
            return Ok(());
        }
        let cutting = self.cutting.lock();
        let limit = self.shared.map_dirty_bytes_max;
        let cut = {
            let mut state = self.lock()?;
            if state.map.has_failed() {
                return Ok(());
            }
            let dirty = state.map.dirty_bytes();
            if let Some(pending) = state
                .shipping
                .cut
                .take_if(|_| when == WriteBack::Closing || dirty > 2 * limit)
            {
                // Nobody came for the checkpoint; the map must not grow for ever.
                drop(state);
                self.commit(pending.cut)?;
                state = self.lock()?;
            }
            let dirty = state.map.dirty_bytes();
            let enough = dirty > limit || (when != WriteBack::IfLarge && dirty > 0);
            if state.shipping.cut.is_some() || !enough {
                return Ok(());
            }
            let end = state.log.end();
            state.map.cut(end)
        };
        self.commit(cut)?;
        drop(cutting);
        Ok(())
    }

    fn commit(&self, cut: Cut) -> Result<()> {
        self.flush()?;
        let id = cut.id();
        cut.commit().map_err(|error| self.map_refused(error))?;
        self.shared.pool.fullness().accepted(Part::Map);
        self.lock()?.map.committed(id);
        Ok(())
    }

    /// The local map was not written: it stays in RAM, and the next cut has all of it. For want of room it is tried again. Else
    /// it has failed (`EngineStats::map_failure`), and whoever waits for events is told.
    fn map_refused(&self, error: Error) -> Error {
        if let Error::NoSpace(reason) = &error {
            self.shared.pool.fullness().refused(Part::Map, reason);
            self.map_behind.store(true, Ordering::Release);
            return error;
        }
        self.sealed();
        Error::Halted(format!("writing the local map failed: {error}"))
    }

    /// Asks that the next `close_tlog` that covers the whole log keeps a cut of the map for `begin_checkpoint`.
    pub fn cut_next_tlog(&self) -> Result<()> {
        self.lock()?.shipping.want_cut = true;
        Ok(())
    }

    /// A checkpoint as of the TLog whose close kept a cut; None when none did, or when the disk has no room for the map.
    pub fn begin_checkpoint(self: &Arc<Self>, first_object: u64) -> Result<Option<Checkpoint>> {
        let _cutting = self.cutting.lock();
        let pending = {
            let mut state = self.lock()?;
            state.shipping.cut.take_if(|cut| cut.next_sco != 0)
        };
        let Some(PendingCut {
            cut,
            tlog,
            next_sco,
        }) = pending
        else {
            return Ok(None);
        };
        let id = cut.id();
        let begun = cut.commit_and_checkpoint(
            self.epoch(),
            first_object,
            tlog.epoch,
            tlog.number,
            next_sco,
        );
        let builder = match begun.map_err(|error| self.map_refused(error)) {
            Ok(builder) => builder,
            // The checkpoint is put off: the map stays as it is, or is set aside first.
            Err(_) => return Ok(None),
        };
        self.shared.pool.fullness().accepted(Part::Map);
        self.lock()?.map.committed(id);
        Ok(Some(Checkpoint {
            volume: self.clone(),
            builder: Some(builder),
            tlog,
            misses: Vec::new(),
        }))
    }

    /// The registry has committed the head that names this root. `NoSpace`: to be told again when there is room.
    pub fn checkpoint_committed(&self, root: RootRef) -> Result<()> {
        let mut state = self.lock()?;
        match state.shipping.finished.take() {
            Some((reference, finished)) if reference == root => {
                let bytes = finished.root_bytes().to_vec();
                let installed = state
                    .map
                    .checkpoint_installed(root, &bytes, finished.clone());
                if let Err(Error::NoSpace(reason)) = &installed {
                    self.shared.pool.fullness().refused(Part::Map, reason);
                    state.shipping.finished = Some((root, finished));
                }
                if installed.is_err() && state.map.has_failed() {
                    return Ok(()); // the one that takes its place begins with this checkpoint
                }
                installed
            }
            other => {
                state.shipping.finished = other;
                Err(Error::Invalid(
                    "no checkpoint with this root was built".into(),
                ))
            }
        }
    }
}

/// A checkpoint being written from a consistent cut of the map; runs beside I/O.
pub struct Checkpoint {
    volume: Arc<Volume>,
    builder: Option<CheckpointBuilder>,
    pub tlog: TlogRef,
    misses: Vec<Fetch>,
}

/// What a checkpoint came to in one step.
pub enum CheckpointStep {
    /// To be supplied before the next step.
    Need(Vec<Fetch>),
    /// To be put as `map/<epoch>/<number>`.
    Object {
        number: u64,
        bytes: Vec<u8>,
    },
    Done(RootRef),
}

impl Checkpoint {
    pub fn step(&mut self) -> Result<CheckpointStep> {
        let Some(builder) = &mut self.builder else {
            return Err(Error::Invalid("the checkpoint is finished".into()));
        };
        Ok(match builder.step()? {
            Step::Need(fetches) => {
                self.misses.clone_from(&fetches);
                CheckpointStep::Need(fetches)
            }
            Step::Object { number, bytes } => CheckpointStep::Object { number, bytes },
            Step::Done(root) => {
                if let Some(builder) = self.builder.take() {
                    self.volume.lock()?.shipping.finished = Some((root, builder.finish()));
                }
                CheckpointStep::Done(root)
            }
        })
    }

    pub fn supply(&mut self, index: usize, data: &[u8]) -> Result<()> {
        match (&mut self.builder, self.misses.get(index)) {
            (Some(builder), Some(fetch)) => builder.supply(fetch, data),
            _ => Err(Error::Invalid(format!("there is no miss {index}"))),
        }
    }
}
