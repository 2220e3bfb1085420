//! The read cache on the SSD: blocks of SCOs in slots of 64 KiB, chosen by S3-FIFO (Yang et al., SOSP 2023), kept over restarts
//! (`docs/formats/read-cache.md`).
//!
//! Nothing in it is trusted: a cluster is returned only if it has the checksum that the map names. A reader also looks, after it has
//! read, whether its slot was given away meanwhile, so that a chance hit of the checksum cannot return another block's data.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::error::{Error, Result};
use crate::fullness::{is_full, Fullness, Part};
use crate::types::{Uuid, CLUSTER};
use index::{Record, HEADER_BYTES, RECORD_BYTES};

mod index;

/// Clusters of a block.
const BLOCK_CLUSTERS: u32 = 16;
const BLOCK_BYTES: u64 = BLOCK_CLUSTERS as u64 * CLUSTER as u64;
const USES_MAX: u8 = 3;
const NO_SLOT: u32 = u32::MAX;

/// Names a SCO for ever: the volume in whose bucket it is, its epoch and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    pub origin: Uuid,
    pub epoch: u64,
    pub number: u64,
}

/// What an operator sees of the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadCacheStats {
    pub capacity_bytes: u64,
    /// Bytes of clusters that are there.
    pub used_bytes: u64,
    /// Clusters found, and not found, since the start.
    pub hits: u64,
    pub misses: u64,
    /// Why the cache has switched itself off.
    pub failed: Option<String>,
}

/// One slot in RAM (32 bytes). `present` 0: free.
#[derive(Clone, Copy, Default)]
struct Slot {
    epoch: u64,
    number: u64,
    /// Index in `State::origins`.
    origin: u32,
    /// Grows whenever the slot gets another block or loses one.
    generation: u32,
    block: u16,
    present: u16,
    main: bool,
    uses: u8,
    /// Being written: not to be given away.
    busy: bool,
}

/// A ghost: a block that was evicted from the small queue not long ago.
#[derive(Clone, Copy, Default)]
struct Ghost {
    fingerprint: u32,
    /// When, in evictions.
    at: u32,
}

struct State {
    slots: Vec<Slot>,
    /// Hash of key and block to slot. Two blocks of one hash: the later one wins, the other ages out.
    places: HashMap<u64, u32, FxBuildHasher>,
    origins: Vec<Uuid>,
    origin_index: FxHashMap<Uuid, u32>,
    free: Vec<u32>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghosts: Vec<Ghost>,
    evictions: u32,
    used_clusters: u64,
    failed: Option<String>,
}

/// Blocks of SCOs on the local disk. Send + Sync; locked for bookkeeping only, not while the disk works. Never synced: it may be lost
/// at any time, and is as useful as what survives.
pub struct ReadCache {
    files: Option<(File, File)>,
    fullness: Arc<Fullness>,
    state: Mutex<State>,
    hits: AtomicU64,
    misses: AtomicU64,
}

fn hash_of(key: &CacheKey, block: u16) -> u64 {
    let mut bytes = [0u8; 34];
    bytes[..16].copy_from_slice(&key.origin);
    bytes[16..24].copy_from_slice(&key.epoch.to_le_bytes());
    bytes[24..32].copy_from_slice(&key.number.to_le_bytes());
    bytes[32..].copy_from_slice(&block.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// The parts of a range of clusters, by block: (block, first cluster in it, clusters).
fn blocks_of(first: u32, clusters: u32) -> impl Iterator<Item = (u16, u32, u32)> {
    let end = first.saturating_add(clusters);
    let mut at = first;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let within = at % BLOCK_CLUSTERS;
        let n = (BLOCK_CLUSTERS - within).min(end - at);
        let part = ((at / BLOCK_CLUSTERS) as u16, within, n);
        at += n;
        Some(part)
    })
}

fn bits(first: u32, n: u32) -> u16 {
    (((1u32 << n) - 1) << first) as u16
}

impl ReadCache {
    /// Opens or makes the cache in the directory `path`, of `bytes` on the disk (rounded down to 64 KiB; 0: no cache). Takes in what a
    /// former run left, also of another size. RAM: about 80 bytes per 64 KiB.
    ///
    /// Errors: Halted or NoSpace when the files cannot be made or sized.
    pub fn open(path: &Path, bytes: u64, fullness: Arc<Fullness>) -> Result<ReadCache> {
        let count = u32::try_from(bytes / BLOCK_BYTES).unwrap_or(NO_SLOT - 1);
        let mut state = State::new(count);
        if count == 0 {
            return Ok(ReadCache::with(None, state, fullness));
        }
        let disk = |what: &str| {
            let what = format!("read cache: {what}");
            move |e: std::io::Error| Error::disk(&what, &e)
        };
        std::fs::create_dir_all(path).map_err(disk("make its directory"))?;
        let open = |name: &str| {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path.join(name))
                .map_err(disk(name))
        };
        let (data, index) = (open("data")?, open("index")?);
        state.reload(&index::read(&index));
        data.set_len(u64::from(count) * BLOCK_BYTES)
            .map_err(disk("size its data"))?;
        index
            .set_len(HEADER_BYTES + u64::from(count) * RECORD_BYTES)
            .map_err(disk("size its index"))?;
        index
            .write_all_at(&index::header(u64::from(count)), 0)
            .map_err(disk("write its index"))?;
        Ok(ReadCache::with(Some((data, index)), state, fullness))
    }

    fn with(files: Option<(File, File)>, state: State, fullness: Arc<Fullness>) -> ReadCache {
        ReadCache {
            files,
            fullness,
            state: Mutex::new(state),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// One cluster into `out` (4096 bytes), which must have the CRC32C `crc`. False: not here, and `out` is undefined; a wrong checksum
    /// is a miss and drops the cluster.
    pub fn read(&self, key: &CacheKey, slot: u32, crc: u32, out: &mut [u8]) -> bool {
        let hit = self.try_read(key, slot, crc, out);
        let counter = if hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        hit
    }

    fn try_read(&self, key: &CacheKey, cluster: u32, crc: u32, out: &mut [u8]) -> bool {
        let Some((data, _)) = &self.files else {
            return false;
        };
        let (block, within) = ((cluster / BLOCK_CLUSTERS) as u16, cluster % BLOCK_CLUSTERS);
        let (place, generation) = {
            let mut state = self.state.lock();
            let Some(place) = state.find(key, block) else {
                return false;
            };
            let slot = &mut state.slots[place as usize];
            if slot.present >> within & 1 == 0 {
                return false;
            }
            slot.uses = (slot.uses + 1).min(USES_MAX);
            (place, slot.generation)
        };
        let offset = u64::from(place) * BLOCK_BYTES + u64::from(within) * CLUSTER as u64;
        let read = data.read_exact_at(out, offset);
        let right = read.is_ok() && out.len() == CLUSTER && crc32c::crc32c(out) == crc;
        let mut state = self.state.lock();
        if let Err(error) = read {
            state.fail("read", &error);
            return false;
        }
        let slot = &mut state.slots[place as usize];
        if slot.generation != generation {
            return false;
        }
        if !right && slot.present >> within & 1 == 1 {
            slot.present &= !(1 << within);
            state.used_clusters -= 1;
        }
        right
    }

    /// Offers `data` (n × 4096 bytes): the clusters of a SCO from `first_slot` on. Best effort: a block that is being written by
    /// another thread is skipped; so is everything for a while when the disk has no room, which the log needs more. Any other error
    /// of the disk switches the cache off (see `stats`).
    pub fn insert(&self, key: &CacheKey, first_slot: u32, data: &[u8]) {
        let log_waits =
            [Part::Growth, Part::Log, Part::Map].map(|part| self.fullness.is_full(part));
        if log_waits.contains(&true) || !self.fullness.may_try(Part::ReadCache) {
            return;
        }
        let clusters = (data.len() / CLUSTER) as u32;
        let mut rest = data;
        for (block, within, n) in blocks_of(first_slot, clusters) {
            let (part, after) = rest.split_at(n as usize * CLUSTER);
            rest = after;
            self.insert_block(key, block, within, n, part);
        }
    }

    fn insert_block(&self, key: &CacheKey, block: u16, within: u32, n: u32, part: &[u8]) {
        let Some((data, index)) = &self.files else {
            return;
        };
        let mask = bits(within, n);
        let place = {
            let mut state = self.state.lock();
            match state.find(key, block) {
                Some(place) if state.slots[place as usize].present & mask == mask => return,
                Some(place) if state.slots[place as usize].busy => return,
                Some(place) => {
                    // What is written over is not there meanwhile.
                    let slot = &mut state.slots[place as usize];
                    let lost = slot.present & mask;
                    slot.present &= !mask;
                    slot.generation = slot.generation.wrapping_add(u32::from(lost != 0));
                    slot.busy = true;
                    state.used_clusters -= u64::from(lost.count_ones());
                    place
                }
                None => match state.admit(key, block) {
                    Some(place) => place,
                    None => return,
                },
            }
        };
        let offset = u64::from(place) * BLOCK_BYTES + u64::from(within) * CLUSTER as u64;
        let written = data.write_all_at(part, offset);
        let record = {
            let mut state = self.state.lock();
            let slot = &mut state.slots[place as usize];
            slot.busy = false;
            match written {
                Ok(()) => self.fullness.accepted(Part::ReadCache),
                Err(error) if is_full(&error) => {
                    return state.no_room(place, &self.fullness, &error)
                }
                Err(error) => return state.fail("write", &error),
            }
            // Forgotten while it was written: then it has no place.
            if state.find(key, block) != Some(place) {
                return;
            }
            state.slots[place as usize].present |= mask;
            state.used_clusters += u64::from(n);
            state.record(place)
        };
        if let Err(error) = index.write_all_at(
            &record.encode(),
            HEADER_BYTES + u64::from(place) * RECORD_BYTES,
        ) {
            let mut state = self.state.lock();
            match is_full(&error) {
                true => state.no_room(place, &self.fullness, &error),
                false => state.fail("write the index", &error),
            }
        }
    }

    /// Whether all these clusters are here (unverified).
    pub fn has(&self, key: &CacheKey, first_slot: u32, clusters: u32) -> bool {
        let state = self.state.lock();
        blocks_of(first_slot, clusters).all(|(block, within, n)| {
            let mask = bits(within, n);
            state
                .find(key, block)
                .is_some_and(|place| state.slots[place as usize].present & mask == mask)
        })
    }

    /// Drops everything of one volume's bucket.
    pub fn forget_origin(&self, origin: &Uuid) {
        let mut state = self.state.lock();
        let Some(&index) = state.origin_index.get(origin) else {
            return;
        };
        let gone: Vec<u32> = (0..state.slots.len() as u32)
            .filter(|place| {
                let slot = &state.slots[*place as usize];
                slot.origin == index && state.find_slot(slot) == Some(*place)
            })
            .collect();
        for &place in &gone {
            state.drop_block(place);
        }
        let freed: Vec<u32> = gone
            .iter()
            .copied()
            .filter(|place| !state.slots[*place as usize].busy)
            .collect();
        state.small.retain(|place| !freed.contains_sorted(place));
        state.main.retain(|place| !freed.contains_sorted(place));
        state.free.extend(&freed);
        drop(state);
        if let Some((_, index)) = &self.files {
            for place in gone {
                // A stale record would only cost a read that misses.
                let _ = index.write_all_at(
                    &[0; RECORD_BYTES as usize],
                    HEADER_BYTES + u64::from(place) * RECORD_BYTES,
                );
            }
        }
    }

    pub fn stats(&self) -> ReadCacheStats {
        let state = self.state.lock();
        ReadCacheStats {
            capacity_bytes: state.slots.len() as u64 * BLOCK_BYTES,
            used_bytes: state.used_clusters * CLUSTER as u64,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            failed: state.failed.clone(),
        }
    }
}

impl Drop for ReadCache {
    /// Writes queues and uses into the index, for the next run.
    fn drop(&mut self) {
        let Some((_, index)) = &self.files else {
            return;
        };
        let state = self.state.get_mut();
        if state.failed.is_some() {
            return;
        }
        let mut at = HEADER_BYTES;
        for places in (0..state.slots.len() as u32)
            .collect::<Vec<_>>()
            .chunks(4096)
        {
            let bytes: Vec<u8> = places
                .iter()
                .flat_map(|place| state.record(*place).encode())
                .collect();
            if index.write_all_at(&bytes, at).is_err() {
                return;
            }
            at += bytes.len() as u64;
        }
    }
}

trait ContainsSorted {
    fn contains_sorted(&self, place: &u32) -> bool;
}

impl ContainsSorted for Vec<u32> {
    fn contains_sorted(&self, place: &u32) -> bool {
        self.binary_search(place).is_ok()
    }
}

impl State {
    fn new(count: u32) -> State {
        State {
            slots: vec![Slot::default(); count as usize],
            places: HashMap::with_capacity_and_hasher(count as usize, FxBuildHasher),
            origins: Vec::new(),
            origin_index: FxHashMap::default(),
            free: Vec::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: vec![Ghost::default(); count as usize],
            evictions: 1,
            used_clusters: 0,
            failed: None,
        }
    }

    fn reload(&mut self, records: &[Option<Record>]) {
        for place in 0..self.slots.len() as u32 {
            let Some(record) = records.get(place as usize).and_then(Option::as_ref) else {
                self.free.push(place);
                continue;
            };
            let hash = hash_of(&record.key, record.block);
            if self.places.contains_key(&hash) {
                self.free.push(place);
                continue;
            }
            let origin = self.origin(&record.key.origin);
            self.slots[place as usize] = Slot {
                epoch: record.key.epoch,
                number: record.key.number,
                origin,
                generation: 0,
                block: record.block,
                present: record.present,
                main: record.main,
                uses: record.uses,
                busy: false,
            };
            self.used_clusters += u64::from(record.present.count_ones());
            self.places.insert(hash, place);
            if record.main {
                self.main.push_back(place);
            } else {
                self.small.push_back(place);
            }
        }
        self.free.reverse();
    }

    fn origin(&mut self, origin: &Uuid) -> u32 {
        if let Some(&index) = self.origin_index.get(origin) {
            return index;
        }
        let index = self.origins.len() as u32;
        self.origins.push(*origin);
        self.origin_index.insert(*origin, index);
        index
    }

    fn key(&self, slot: &Slot) -> CacheKey {
        let origin = self
            .origins
            .get(slot.origin as usize)
            .copied()
            .unwrap_or_default();
        CacheKey {
            origin,
            epoch: slot.epoch,
            number: slot.number,
        }
    }

    fn find(&self, key: &CacheKey, block: u16) -> Option<u32> {
        if self.failed.is_some() {
            return None;
        }
        let place = *self.places.get(&hash_of(key, block))?;
        let slot = &self.slots[place as usize];
        (slot.block == block && self.key(slot) == *key).then_some(place)
    }

    fn find_slot(&self, slot: &Slot) -> Option<u32> {
        self.find(&self.key(slot), slot.block)
    }

    fn record(&self, place: u32) -> Record {
        let slot = &self.slots[place as usize];
        let present = if self.find_slot(slot) == Some(place) {
            slot.present
        } else {
            0
        };
        Record {
            key: self.key(slot),
            block: slot.block,
            present,
            main: slot.main,
            uses: slot.uses,
        }
    }

    fn fail(&mut self, what: &str, error: &std::io::Error) {
        self.failed
            .get_or_insert_with(|| format!("read cache: {what}: {error}"));
    }

    /// The disk did not take what was to stand in this slot: what did before is lost with it.
    fn no_room(&mut self, place: u32, fullness: &Fullness, error: &std::io::Error) {
        fullness.refused(Part::ReadCache, &format!("filling the read cache: {error}"));
        self.drop_block(place);
    }

    /// The slot has no block any more; it stays where it is in its queue.
    fn drop_block(&mut self, place: u32) {
        let slot = self.slots[place as usize];
        let hash = hash_of(&self.key(&slot), slot.block);
        if self.places.get(&hash) == Some(&place) {
            self.places.remove(&hash);
        }
        self.used_clusters -= u64::from(slot.present.count_ones());
        let slot = &mut self.slots[place as usize];
        slot.present = 0;
        slot.uses = 0;
        slot.generation = slot.generation.wrapping_add(1);
    }

    /// Gives a new block a slot, busy. None: every slot is busy.
    fn admit(&mut self, key: &CacheKey, block: u16) -> Option<u32> {
        let hash = hash_of(key, block);
        let main = self.was_ghost(hash);
        let place = self.free.pop().or_else(|| self.evict())?;
        let origin = self.origin(&key.origin);
        let slot = &mut self.slots[place as usize];
        let generation = slot.generation.wrapping_add(1);
        *slot = Slot {
            epoch: key.epoch,
            number: key.number,
            origin,
            generation,
            block,
            present: 0,
            main,
            uses: 0,
            busy: true,
        };
        if main {
            self.main.push_back(place);
        } else {
            self.small.push_back(place);
        }
        self.places.insert(hash, place);
        Some(place)
    }

    fn was_ghost(&mut self, hash: u64) -> bool {
        let at = (hash % self.ghosts.len().max(1) as u64) as usize;
        let ghosts = self.ghosts.len() as u32;
        let Some(ghost) = self.ghosts.get_mut(at) else {
            return false;
        };
        let young = ghost.at != 0 && self.evictions.wrapping_sub(ghost.at) <= ghosts;
        let same = young && ghost.fingerprint == (hash >> 32) as u32;
        if same {
            *ghost = Ghost::default();
        }
        same
    }

    fn remember_ghost(&mut self, hash: u64) {
        self.evictions = self.evictions.wrapping_add(1).max(1);
        let at = (hash % self.ghosts.len().max(1) as u64) as usize;
        if let Some(ghost) = self.ghosts.get_mut(at) {
            *ghost = Ghost {
                fingerprint: (hash >> 32) as u32,
                at: self.evictions,
            };
        }
    }

    /// Takes a slot from its block. Small queue first while it holds more than a tenth; what was used there twice goes to main, the
    /// rest becomes a ghost. Main gives another round for each use.
    fn evict(&mut self) -> Option<u32> {
        // Each slot is passed at most once per use, and once into main.
        for _ in 0..self.slots.len() * (usize::from(USES_MAX) + 2) {
            let from_small = self.small.len() * 10 >= self.slots.len() || self.main.is_empty();
            let place = if from_small {
                self.small.pop_front()
            } else {
                self.main.pop_front()
            }?;
            let slot = &mut self.slots[place as usize];
            if slot.busy {
                let queue = if from_small {
                    &mut self.small
                } else {
                    &mut self.main
                };
                queue.push_back(place);
            } else if from_small && slot.uses > 1 {
                slot.main = true;
                slot.uses = 0;
                self.main.push_back(place);
            } else if !from_small && slot.uses > 0 {
                slot.uses -= 1;
                self.main.push_back(place);
            } else {
                let slot = *slot;
                let hash = hash_of(&self.key(&slot), slot.block);
                self.drop_block(place);
                if from_small {
                    self.remember_ghost(hash);
                }
                return Some(place);
            }
        }
        None
    }
}
