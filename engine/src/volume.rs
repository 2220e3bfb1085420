//! A volume that is served here: log, map and read path put together.
//!
//! One lock (`state`) guards the log's end and the map, so that their order is the same. Data are checksummed before it is
//! taken and local data are read after it is released; pins keep the segments from being recycled meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use crc32c::crc32c;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use crate::completions::Completions;
use crate::error::{Error, Result};
use crate::flushes::FlushQueue;
use crate::fullness::Part;
use crate::log::{Append, Durability, Log};
use crate::map::VolumeMap;
use crate::pool::{Pool, Segment};
use crate::read_cache::ReadCache;
use crate::request::{Plan, Request};
use crate::segment::record_bytes;
use crate::shipping::{Shipping, WriteBack};
use crate::sources::Supplied;
use crate::tail::TailPin;
use crate::types::{Entry, LineageEntry, Loc, Uuid, CLUSTER, SCO_CLUSTERS};

/// Longest request: one record, so that it survives a power cut whole or not at all.
pub const REQUEST_BYTES_MAX: usize = CLUSTER * SCO_CLUSTERS as usize;
/// What one MiB is delayed just below the hard limit.
const DELAY_S_PER_MIB: f64 = 0.1;
/// How much more than usual of a map is held in RAM while the disk has no room for it.
const MAP_HELD_FACTOR: usize = 4;

/// How much may wait for the backend.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From here on writes are slowed.
    pub soft_bytes: u64,
    /// Here they wait.
    pub hard_bytes: u64,
}

/// What volumes share on a node.
#[derive(Clone)]
pub(crate) struct Shared {
    pub pool: Arc<Pool>,
    pub cache: Arc<ReadCache>,
    pub completions: Arc<Completions>,
    pub flushes: Arc<FlushQueue>,
    /// A map with more changed bytes than this is written back.
    pub map_dirty_bytes_max: usize,
}

impl Shared {
    /// A map that the disk has no room for has as much in RAM as it may.
    pub fn holds_too_much(&self, map: &VolumeMap) -> bool {
        map.dirty_bytes() / MAP_HELD_FACTOR > self.map_dirty_bytes_max
    }
}

pub(crate) struct State {
    pub log: Log,
    pub map: VolumeMap,
    pub shipping: Shipping,
    pub entries: Vec<Entry>,
    pub tail_pin: TailPin,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub writes: AtomicU64,
    pub reads: AtomicU64,
    pub bytes_written: AtomicU64,
    pub bytes_read: AtomicU64,
    pub cache_hits: AtomicU64,
    pub misses: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// See the module. Methods may be called from any thread.
pub struct Volume {
    pub(crate) uuid: Uuid,
    epoch: u64,
    /// Clusters in the address space; 0 stands for 2^63.
    clusters: u64,
    limits: Limits,
    event_token: u64,
    pub(crate) shared: Shared,
    pub(crate) durability: Arc<Durability>,
    pub(crate) state: Mutex<Option<State>>,
    /// One write-back of the map at a time.
    pub(crate) cutting: Mutex<()>,
    /// One close of a TLog at a time.
    pub(crate) closing: Mutex<()>,
    pub(crate) flush_tokens: Mutex<Vec<u64>>,
    /// A TLog was closed: the map should be written back, so that a restart has less to read.
    pub(crate) map_behind: AtomicBool,
    pub(crate) counters: Counters,
}

/// What a request came to.
pub enum Reply {
    /// The buffer handed in is filled.
    Read,
    /// Acknowledged by its order in the log; the caller delays its answer by that many seconds.
    Written(f64),
    /// Something from the backend is needed first.
    Plan(Box<Plan>),
}

/// A consistent set of figures.
#[derive(Clone, Debug, Default)]
pub struct VolumeStats {
    pub epoch: u64,
    pub lsn: u64,
    pub durable_lsn: u64,
    pub dirty_bytes: u64,
    pub sealed_scos: u64,
    pub open_clusters: u32,
    pub oldest_dirty_age_s: f64,
    /// Of what is in no TLog yet.
    pub unclosed_age_s: f64,
    pub next_sco: u64,
    pub next_tlog: u64,
    pub writes: u64,
    pub reads: u64,
    pub bytes_written: u64,
    pub bytes_read: u64,
    pub read_cache_hits: u64,
    pub misses: u64,
    pub halted: Option<String>,
}

/// A byte range in clusters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub lba: u64,
    pub clusters: u64,
    /// Bytes before the range in its first cluster.
    pub before: usize,
    /// Bytes behind it in its last cluster.
    pub after: usize,
}

impl Volume {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        uuid: Uuid,
        epoch: u64,
        levels: u32,
        limits: Limits,
        event_token: u64,
        shared: Shared,
        durability: Arc<Durability>,
        state: State,
    ) -> Volume {
        Volume {
            uuid,
            epoch,
            clusters: clusters_of(levels),
            limits,
            event_token,
            shared,
            durability,
            state: Mutex::new(Some(state)),
            cutting: Mutex::new(()),
            closing: Mutex::new(()),
            flush_tokens: Mutex::new(Vec::new()),
            map_behind: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    pub(crate) fn lock(&self) -> Result<MappedMutexGuard<'_, State>> {
        MutexGuard::try_map(self.state.lock(), Option::as_mut)
            .map_err(|_| Error::Invalid("the volume is closed".into()))
    }

    /// Nobody holds the volume's lock right now, so that a small request will not wait for it.
    pub fn is_idle(&self) -> bool {
        !self.state.is_locked()
    }

    pub(crate) fn span(&self, offset: u128, bytes: u128) -> Result<Span> {
        let end = offset + bytes;
        let limit = match self.clusters {
            0 => 1u128 << 75,
            clusters => u128::from(clusters) * CLUSTER as u128,
        };
        if end > limit {
            return Err(Error::Invalid(format!(
                "the request ends at byte {end}, the address space at {limit}"
            )));
        }
        let (first, last) = (offset / CLUSTER as u128, end.div_ceil(CLUSTER as u128));
        Ok(Span {
            lba: first as u64,
            clusters: (last - first) as u64,
            before: (offset % CLUSTER as u128) as usize,
            after: (last * CLUSTER as u128 - end) as usize,
        })
    }

    fn request_span(&self, offset: u128, bytes: usize) -> Result<Span> {
        let span = self.span(offset, bytes as u128)?;
        if span.clusters > u64::from(SCO_CLUSTERS) {
            return Err(Error::Invalid(format!(
                "a request touches at most {SCO_CLUSTERS} clusters of {CLUSTER} bytes, not {}",
                span.clusters
            )));
        }
        Ok(span)
    }

    /// Fills `out` with what stands at `offset`, or says what must be fetched first.
    pub fn read(self: &Arc<Self>, offset: u128, out: &mut [u8]) -> Result<Reply> {
        self.read_with(offset, out, Supplied::default())
    }

    pub(crate) fn read_with(
        self: &Arc<Self>,
        offset: u128,
        out: &mut [u8],
        supplied: Supplied,
    ) -> Result<Reply> {
        let span = self.request_span(offset, out.len())?;
        if out.is_empty() {
            return Ok(Reply::Read);
        }
        let misses = if span.before == 0 && span.after == 0 {
            self.read_clusters(span.lba, out, &supplied)?
        } else {
            let mut whole = vec![0u8; span.clusters as usize * CLUSTER];
            let misses = self.read_clusters(span.lba, &mut whole, &supplied)?;
            out.copy_from_slice(&whole[span.before..whole.len() - span.after]);
            misses
        };
        if !misses.is_empty() {
            Counters::add(&self.counters.misses, 1);
            let request = Request::Read {
                offset,
                length: out.len(),
            };
            return Ok(Reply::Plan(Plan::new(self, request, misses, supplied)));
        }
        Counters::add(&self.counters.reads, 1);
        Counters::add(&self.counters.bytes_read, out.len() as u64);
        Ok(Reply::Read)
    }

    /// Appends `data` at `offset`. `Error::WouldBlock`: nothing has changed, a limit is used up.
    pub fn write(self: &Arc<Self>, offset: u128, data: &[u8]) -> Result<Reply> {
        self.write_with(offset, data, Supplied::default())
    }

    pub(crate) fn write_with(
        self: &Arc<Self>,
        offset: u128,
        data: &[u8],
        supplied: Supplied,
    ) -> Result<Reply> {
        let span = self.request_span(offset, data.len())?;
        if data.is_empty() {
            return Ok(Reply::Written(0.0));
        }
        if span.before == 0 && span.after == 0 {
            if data.len() == CLUSTER {
                let crc = [crc32c(data)];
                return self.append(&mut *self.lock()?, span.lba, data, &crc);
            }
            let crcs: Vec<u32> = data.chunks_exact(CLUSTER).map(crc32c).collect();
            return self.append(&mut *self.lock()?, span.lba, data, &crcs);
        }
        let mut whole = vec![0u8; span.clusters as usize * CLUSTER];
        let end = whole.len() - span.after;
        whole[span.before..end].copy_from_slice(data);
        let mut crcs: Vec<u32> = whole.chunks_exact(CLUSTER).map(crc32c).collect();
        let mut state = self.lock()?;
        let mut misses = Vec::new();
        let last = span.clusters - 1;
        let mut old = [0u8; CLUSTER];
        let edges = [0, last];
        for cluster in edges[..if last == 0 { 1 } else { 2 }].iter().copied() {
            let keep_before = if cluster == 0 { span.before } else { 0 };
            let keep_after = if cluster == last { span.after } else { 0 };
            if keep_before + keep_after == 0 {
                continue;
            }
            let lba = span.lba + cluster;
            misses.extend(self.read_locked(&mut state, lba, &mut old, &supplied)?);
            let at = cluster as usize * CLUSTER;
            whole[at..at + keep_before].copy_from_slice(&old[..keep_before]);
            whole[at + CLUSTER - keep_after..at + CLUSTER]
                .copy_from_slice(&old[CLUSTER - keep_after..]);
            crcs[cluster as usize] = crc32c(&whole[at..at + CLUSTER]);
        }
        if !misses.is_empty() {
            drop(state);
            Counters::add(&self.counters.misses, 1);
            let request = Request::Write {
                offset,
                data: data.to_vec(),
            };
            return Ok(Reply::Plan(Plan::new(self, request, misses, supplied)));
        }
        self.append(&mut state, span.lba, &whole, &crcs)
    }

    /// Makes a range read as zeros without storing it. Only whole clusters are taken away; the edges are written.
    ///
    /// With edges it is up to three records: a power cut may leave a part of it done.
    pub fn zero(self: &Arc<Self>, offset: u128, bytes: u128) -> Result<Reply> {
        self.zero_with(offset, bytes, Supplied::default())
    }

    pub(crate) fn zero_with(
        self: &Arc<Self>,
        offset: u128,
        bytes: u128,
        supplied: Supplied,
    ) -> Result<Reply> {
        let span = self.span(offset, bytes)?;
        if bytes == 0 {
            return Ok(Reply::Written(0.0));
        }
        if span.clusters == 1 && span.before + span.after > 0 {
            let zeros = [0u8; CLUSTER];
            return match self.write_with(offset, &zeros[..bytes as usize], supplied)? {
                Reply::Plan(mut plan) => {
                    plan.request = Request::Zero { offset, bytes };
                    Ok(Reply::Plan(plan))
                }
                reply => Ok(reply),
            };
        }
        let mut state = self.lock()?;
        let mut edges: Vec<(u64, [u8; CLUSTER])> = Vec::new();
        let mut misses = Vec::new();
        for (lba, keep) in [
            (span.lba, 0..span.before),
            (span.lba + span.clusters - 1, CLUSTER - span.after..CLUSTER),
        ] {
            if !keep.is_empty() {
                let mut old = [0u8; CLUSTER];
                misses.extend(self.read_locked(&mut state, lba, &mut old, &supplied)?);
                let mut edge = [0u8; CLUSTER];
                edge[keep.clone()].copy_from_slice(&old[keep]);
                edges.push((lba, edge));
            }
        }
        if !misses.is_empty() {
            drop(state);
            Counters::add(&self.counters.misses, 1);
            let request = Request::Zero { offset, bytes };
            return Ok(Reply::Plan(Plan::new(self, request, misses, supplied)));
        }
        let first = span.lba + u64::from(span.before > 0);
        let whole = span.clusters - edges.len() as u64;
        let records = edges.len() * record_bytes(1) + record_bytes(0);
        self.admit(&state, (edges.len() * CLUSTER + records) as u64)?;
        if state.log.make_room(edges.len() as u32, records)? {
            self.sealed();
        }
        let crcs: Vec<[u32; 1]> = edges.iter().map(|(_, edge)| [crc32c(edge)]).collect();
        let written = edges.iter().zip(&crcs);
        let mut entries: Vec<Append> = written
            .map(|((lba, data), crcs)| Append::Write {
                lba: *lba,
                data,
                crcs,
            })
            .collect();
        if whole > 0 {
            entries.push(Append::Zero {
                lba: first,
                clusters: whole,
            });
        }
        let loc = state.log.append(&entries)?;
        for (n, ((lba, _), crc)) in edges.iter().zip(&crcs).enumerate() {
            state.map.update(*lba, Loc(loc.0 + n as u64), crc);
        }
        if whole > 0 {
            state.map.clear(first, whole);
        }
        Counters::add(&self.counters.writes, 1);
        Ok(Reply::Written(self.delay(&state, edges.len() * CLUSTER)))
    }

    pub(crate) fn append(
        &self,
        state: &mut State,
        lba: u64,
        data: &[u8],
        crcs: &[u32],
    ) -> Result<Reply> {
        let record = record_bytes(crcs.len());
        self.admit(state, (data.len() + record) as u64)?;
        if state.log.make_room(crcs.len() as u32, record)? {
            self.sealed();
        }
        let loc = state.log.append(&[Append::Write { lba, data, crcs }])?;
        state.map.update(lba, loc, crcs);
        Counters::add(&self.counters.writes, 1);
        Counters::add(&self.counters.bytes_written, data.len() as u64);
        Ok(Reply::Written(self.delay(state, data.len())))
    }

    pub(crate) fn admit(&self, state: &State, bytes: u64) -> Result<()> {
        let dirty = state.log.dirty_bytes();
        if dirty > 0 && dirty + bytes > self.limits.hard_bytes {
            self.durability.check()?;
            return Err(Error::WouldBlock);
        }
        // Only where the disk has no room for the map, or refuses it: else it is written back long before.
        let stuck = self.shared.pool.fullness().is_full(Part::Map) || state.map.has_failed();
        if stuck && self.shared.holds_too_much(&state.map) {
            self.durability.check()?;
            return Err(Error::WouldBlock);
        }
        Ok(())
    }

    fn delay(&self, state: &State, bytes: usize) -> f64 {
        let over = state
            .log
            .dirty_bytes()
            .saturating_sub(self.limits.soft_bytes);
        if over == 0 {
            return 0.0;
        }
        let room = (self.limits.hard_bytes - self.limits.soft_bytes).max(1);
        let filled = (over as f64 / room as f64).min(1.0);
        filled * filled * DELAY_S_PER_MIB * bytes as f64 / f64::from(1 << 20)
    }

    /// A segment was sealed: tells whoever waits for something to upload.
    pub(crate) fn sealed(&self) {
        self.shared.completions.push([(self.event_token, None)]);
    }

    /// Blocks until everything acknowledged before the call is durable.
    pub fn flush(&self) -> Result<()> {
        let target = self.lock()?.log.end().lsn;
        self.flush_to(target)
    }

    /// The same without waiting: `token` comes through the engine's completions.
    pub fn submit_flush(self: &Arc<Self>, token: u64) {
        let first = {
            let mut tokens = self.flush_tokens.lock();
            tokens.push(token);
            tokens.len() == 1
        };
        if first {
            self.shared.flushes.push(self.clone());
        }
    }

    /// Flushes once for all who have submitted so far.
    pub(crate) fn flush_submitted(&self) {
        let tokens = std::mem::take(&mut *self.flush_tokens.lock());
        let error = self.flush().err();
        let done = tokens.into_iter().map(|token| (token, error.clone()));
        self.shared.completions.push(done);
    }

    pub(crate) fn flush_to(&self, target: u64) -> Result<()> {
        self.durability
            .flush(target, &|| Ok(self.lock()?.log.to_sync()), &|set| {
                if let Ok(mut state) = self.lock() {
                    state.log.synced(set);
                }
            })
    }

    /// Says on the disk that the log is durable, when it is and nothing else says so. For the ticker.
    pub(crate) fn tick(&self) {
        if let Ok(mut state) = self.lock() {
            // A failure has halted the log; whoever writes next is told.
            let _ = state.log.mark();
        }
    }

    pub fn lineage(&self) -> Result<Vec<LineageEntry>> {
        Ok(self.lock()?.map.lineage().to_vec())
    }

    /// Where an SCO is named.
    pub fn resolve(&self, number: u64) -> Result<LineageEntry> {
        resolve(self.lock()?.map.lineage(), number)
    }

    pub fn stats(&self) -> Result<VolumeStats> {
        let state = self.lock()?;
        let log = &state.log;
        let oldest = log.segments.values().find(|segment| !segment.is_clean());
        let unclosed = log.segments.range(state.shipping.next_sco()..).next();
        let age = |segment: Option<&Arc<Segment>>| {
            segment.map_or(0.0, |segment| segment.opened.elapsed().as_secs_f64())
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sealed = log.segments.range(state.shipping.next_sco()..);
        Ok(VolumeStats {
            epoch: self.epoch,
            lsn: log.end().lsn,
            durable_lsn: self.durability.lsn(),
            dirty_bytes: log.dirty_bytes(),
            sealed_scos: sealed
                .filter(|(_, segment)| segment.end().is_some())
                .count() as u64,
            open_clusters: log.open_clusters(),
            oldest_dirty_age_s: age(oldest),
            unclosed_age_s: age(unclosed.map(|(_, segment)| segment)),
            next_sco: log.next_number(),
            next_tlog: state.shipping.next_tlog(),
            writes: count(&self.counters.writes),
            reads: count(&self.counters.reads),
            bytes_written: count(&self.counters.bytes_written),
            bytes_read: count(&self.counters.bytes_read),
            read_cache_hits: count(&self.counters.cache_hits),
            misses: count(&self.counters.misses),
            halted: self.durability.halted(),
        })
    }

    /// Syncs, marks, writes the map back, lets go of the files. The log stays. Closing twice is fine.
    pub fn close(&self) -> Result<()> {
        let closed = self.close_log();
        *self.state.lock() = None;
        self.shared.pool.withdraw(&self.uuid);
        closed
    }

    fn close_log(&self) -> Result<()> {
        if self.is_closed() {
            return Ok(());
        }
        self.flush()?;
        // On a full disk, or a failing one, the map stays older than the log and the mark is not written: the next opening has
        // more to read. A halted log says so below.
        let _ = self.write_back(WriteBack::Closing);
        match self.lock()?.log.mark() {
            Ok(()) | Err(Error::WouldBlock) => {}
            Err(error) => return Err(error),
        }
        self.flush()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().is_none()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.shared.pool.withdraw(&self.uuid);
    }
}

/// Where an SCO is named, by a lineage.
pub(crate) fn resolve(lineage: &[LineageEntry], number: u64) -> Result<LineageEntry> {
    let entry = lineage.iter().rev().find(|entry| entry.first <= number);
    entry
        .copied()
        .ok_or_else(|| Error::Internal(format!("SCO {number} is before the lineage's beginning")))
}

fn clusters_of(levels: u32) -> u64 {
    let bits = 7 + 9 * levels;
    if bits >= 64 {
        0
    } else {
        1 << bits
    }
}
