//! The node's pool of segment files: pre-written once, recycled for ever, shared by all volumes.
//!
//! Lock order: a volume's lock may be held while the pool's is taken, never the other way round. A clean segment is
//! therefore taken away from its volume by a compare-and-set on its pins, and the volume notices when it next looks.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::fullness::{Fullness, Part};
use crate::read_cache::{CacheKey, ReadCache};
use crate::segment::{
    data_offset, CopyMark, Header, HeaderPage, Seal, HEADER_BYTES, SEGMENT_BYTES,
};
use crate::types::{Uuid, CLUSTER, SCO_CLUSTERS};

const RETIRED: u32 = u32::MAX;
const ZEROS: usize = 1 << 20;
/// The last of the disk is not for segments: the local maps, and often the registry, need it.
const KEPT_BYTES_MAX: u64 = 64 << 20;
const KEPT_SHARE: u64 = 20;

/// One use of a segment file by a volume.
pub struct Segment {
    index: usize,
    pub file: Arc<dyn DiskFile>,
    pub header: Header,
    pins: AtomicU32,
    clean: AtomicBool,
    touched: [AtomicU64; SCO_CLUSTERS as usize / 64],
    key: OnceLock<CacheKey>,
    end: OnceLock<Seal>,
    /// When the segment was opened, for the age of dirty data.
    pub opened: Instant,
}

impl Segment {
    pub fn new(
        index: usize,
        file: Arc<dyn DiskFile>,
        header: Header,
        end: Option<Seal>,
    ) -> Segment {
        Segment {
            index,
            file,
            header,
            pins: AtomicU32::new(0),
            clean: AtomicBool::new(false),
            touched: Default::default(),
            key: OnceLock::new(),
            end: end.map(OnceLock::from).unwrap_or_default(),
            opened: Instant::now(),
        }
    }

    /// Keeps the file from being recycled while the pin lives; None when that has already happened.
    pub fn pin(self: &Arc<Segment>) -> Option<Pin> {
        self.pins
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |pins| {
                (pins != RETIRED).then(|| pins + 1)
            })
            .ok()?;
        Some(Pin(self.clone()))
    }

    fn retire(&self) -> bool {
        self.pins
            .compare_exchange(0, RETIRED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    pub fn is_retired(&self) -> bool {
        self.pins.load(Ordering::Acquire) == RETIRED
    }

    /// Which file of the pool it is.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The backend has what this segment holds.
    pub fn is_clean(&self) -> bool {
        self.clean.load(Ordering::Acquire)
    }

    /// Where the segment ends, once it is sealed.
    pub fn end(&self) -> Option<&Seal> {
        self.end.get()
    }

    /// Called once, by the log, under the volume's lock.
    pub fn set_end(&self, seal: Seal) {
        let first = self.end.set(seal).is_ok();
        debug_assert!(first, "a segment is sealed once");
    }

    /// Remembers that `clusters` from `slot` were read, so that the read cache gets them when the file is recycled.
    pub fn touch(&self, slot: u32, clusters: u32) {
        for slot in slot..slot + clusters {
            let (word, bit) = (slot as usize / 64, 1u64 << (slot % 64));
            if self.touched[word].load(Ordering::Relaxed) & bit == 0 {
                self.touched[word].fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    fn offer_to(&self, cache: &ReadCache) {
        let Some(key) = self.key.get() else { return };
        let touched =
            |slot: u32| self.touched[slot as usize / 64].load(Ordering::Relaxed) >> (slot % 64) & 1;
        let mut slot = 0;
        while slot < SCO_CLUSTERS {
            let first = slot;
            while slot < SCO_CLUSTERS && touched(slot) == 1 {
                slot += 1;
            }
            if slot > first {
                let mut data = vec![0u8; (slot - first) as usize * CLUSTER];
                if self.file.pread(&mut data, data_offset(first)).is_ok() {
                    cache.insert(key, first, &data);
                }
            }
            slot += 1;
        }
    }
}

/// See `Segment::pin`.
pub struct Pin(Arc<Segment>);

impl std::ops::Deref for Pin {
    type Target = Arc<Segment>;
    fn deref(&self) -> &Arc<Segment> {
        &self.0
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Its header may still name a former owner, whose clean data it held.
    Free(Option<Uuid>),
    Volume(Uuid),
    /// The header is wrong; whose it was is not sure.
    Damaged(Header),
}

struct PoolFile {
    file: Arc<dyn DiskFile>,
    used: Use,
}

struct State {
    files: Vec<PoolFile>,
    free: Vec<usize>,
    /// Segments of open volumes that the backend has, oldest first.
    clean: VecDeque<Arc<Segment>>,
    creating: usize,
    next_name: u64,
}

/// A segment file that a restart found.
#[derive(Clone)]
pub struct Found {
    pub index: usize,
    pub file: Arc<dyn DiskFile>,
    pub header: Header,
    pub seal: Option<Seal>,
    /// Of a copy of another node's segment.
    pub mark: Option<CopyMark>,
}

/// Figures for the status page.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolStats {
    pub segments: usize,
    /// Can be taken without waiting for a head: prepared, recyclable, or not made yet.
    pub free: usize,
    pub max: usize,
}

pub struct Pool {
    disk: Arc<dyn Disk>,
    cache: Arc<ReadCache>,
    fullness: Arc<Fullness>,
    max: usize,
    reserve: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Pool {
    /// Looks at every file of the directory. Unfinished ones are removed.
    pub fn open(
        disk: Arc<dyn Disk>,
        cache: Arc<ReadCache>,
        fullness: Arc<Fullness>,
        max: usize,
        reserve: usize,
    ) -> Result<Pool> {
        let broken = |error: io::Error| Error::disk("opening the log", &error);
        let mut state = State {
            files: Vec::new(),
            free: Vec::new(),
            clean: VecDeque::new(),
            creating: 0,
            next_name: 1,
        };
        for name in disk.list().map_err(broken)? {
            if name.ends_with(".new") {
                disk.remove(&name).map_err(broken)?;
                continue;
            }
            let Some(stem) = name.strip_suffix(".seg") else {
                continue;
            };
            let Ok(number) = u64::from_str_radix(stem, 16) else {
                continue;
            };
            state.next_name = state.next_name.max(number + 1);
            let file = disk.open(&name).map_err(broken)?;
            if file.size().map_err(broken)? != SEGMENT_BYTES {
                return Err(Error::Corrupt(format!(
                    "log file {name} has the wrong size; move it away to go on without it"
                )));
            }
            let index = state.files.len();
            let used = match Header::decode(&read_page(&*file).map_err(broken)?) {
                HeaderPage::Free => {
                    state.free.push(index);
                    Use::Free(None)
                }
                HeaderPage::Valid(header, _) => Use::Volume(header.volume),
                HeaderPage::Damaged(header) => Use::Damaged(header),
                HeaderPage::Newer(version) => {
                    return Err(Error::Invalid(format!(
                    "log file {name} has format version {version}, this program knows version 1"
                )))
                }
            };
            state.files.push(PoolFile { file, used });
        }
        Ok(Pool {
            disk,
            cache,
            fullness,
            max,
            reserve,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    /// A file for a new segment of `volume`; its header is still to be written. Quick when one was prepared.
    ///
    /// A disk that is full, or fails, where it is to hold a further file takes nothing from the log as it is: writers wait for
    /// what the backend gets. Errors: WouldBlock; Halted when it fails and there is no segment to wait for.
    pub fn take(&self, volume: Uuid) -> Result<(usize, Arc<dyn DiskFile>)> {
        let mut state = self.state.lock();
        let mut failed = None;
        loop {
            if let Some(index) = state.free.pop() {
                state.files[index].used = Use::Volume(volume);
                self.changed.notify_all();
                return Ok((index, state.files[index].file.clone()));
            }
            let room = state.files.len() + state.creating < self.max;
            if room && failed.is_none() && self.fullness.may_try(Part::Growth) {
                drop(state);
                failed = self.create().err();
                state = self.state.lock();
                continue;
            }
            if self.recycle_one(&mut state) {
                continue;
            }
            if state.creating > 0 {
                self.changed.wait(&mut state);
                continue;
            }
            return Err(match failed {
                Some(error @ Error::Halted(_)) if state.files.is_empty() => error,
                _ => Error::WouldBlock,
            });
        }
    }

    pub fn fullness(&self) -> &Fullness {
        &self.fullness
    }

    /// The backend has this segment: it may be recycled when nobody reads it.
    pub fn offer_clean(&self, segment: &Arc<Segment>, key: CacheKey) {
        let _ = segment.key.set(key);
        self.offer(segment);
    }

    /// The same where nobody knows under which name the backend has it: nothing of it goes to the read cache.
    pub fn offer_trimmed(&self, segment: &Arc<Segment>) {
        self.offer(segment);
    }

    fn offer(&self, segment: &Arc<Segment>) {
        segment.clean.store(true, Ordering::Release);
        self.state.lock().clean.push_back(segment.clone());
        self.changed.notify_all();
    }

    /// A volume closes: its files stay as they are until it is opened again or forgotten.
    pub fn withdraw(&self, volume: &Uuid) {
        self.state
            .lock()
            .clean
            .retain(|segment| segment.header.volume != *volume);
    }

    /// Makes one more file ready if fewer than the reserve are; says whether it did. For the background thread.
    pub fn prepare(&self) -> Result<bool> {
        let mut state = self.state.lock();
        let room = state.files.len() + state.creating < self.max;
        if state.free.len() >= self.reserve {
            drop(state);
            // Nothing is needed now, but what was refused should not be told for ever.
            if self.fullness.is_full(Part::Growth) && self.fullness.may_try(Part::Growth) {
                self.check_room()?;
                self.fullness.accepted(Part::Growth);
            }
            return Ok(false);
        }
        if room && self.fullness.may_try(Part::Growth) {
            drop(state);
            return self.create().map(|()| true);
        }
        // Half of the reserve: recycling is quick, and what is clean still serves reads.
        if state.free.len() < self.reserve.div_ceil(2) {
            return Ok(self.recycle_one(&mut state));
        }
        Ok(false)
    }

    /// Waits until something may have to be prepared, at most `ms_max`.
    pub fn wait_for_change(&self, ms_max: u64) {
        let mut state = self.state.lock();
        self.changed
            .wait_for(&mut state, std::time::Duration::from_millis(ms_max));
    }

    /// Ends a wait for change early.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// Volumes that have segments here.
    pub fn volumes(&self) -> BTreeSet<Uuid> {
        let state = self.state.lock();
        let volumes = state.files.iter().filter_map(|file| match file.used {
            Use::Volume(volume) => Some(volume),
            _ => None,
        });
        volumes.collect()
    }

    /// The segments of a volume as they are on the disk now, and the files whose owner is not sure.
    pub fn found(&self, volume: &Uuid) -> Result<(Vec<Found>, Vec<Found>)> {
        let files: Vec<(usize, Arc<dyn DiskFile>, Use)> = {
            let state = self.state.lock();
            let numbered = state.files.iter().enumerate();
            let relevant = numbered.filter(|(_, file)| match file.used {
                Use::Volume(owner) => owner == *volume,
                Use::Damaged(_) => true,
                Use::Free(_) => false,
            });
            relevant
                .map(|(index, file)| (index, file.file.clone(), file.used))
                .collect()
        };
        let (mut segments, mut damaged) = (Vec::new(), Vec::new());
        for (index, file, _) in files {
            let page = read_page(&*file).map_err(|error| Error::disk("reading the log", &error))?;
            let (header, seal, mark, list) = match Header::decode(&page) {
                HeaderPage::Valid(header, seal) if header.volume == *volume => {
                    (header, seal, Header::copy_mark(&page), &mut segments)
                }
                HeaderPage::Damaged(header) => (header, None, None, &mut damaged),
                // Taken for a segment that the disk had no room to begin: as it was before.
                HeaderPage::Free => {
                    self.release(index, volume, None);
                    continue;
                }
                HeaderPage::Valid(header, _) => {
                    self.release(index, volume, Some(header.volume));
                    continue;
                }
                HeaderPage::Newer(_) => continue,
            };
            list.push(Found {
                index,
                file,
                header,
                seal,
                mark,
            });
        }
        Ok((segments, damaged))
    }

    fn release(&self, index: usize, volume: &Uuid, former: Option<Uuid>) {
        let mut state = self.state.lock();
        if state.files[index].used == Use::Volume(*volume) {
            state.files[index].used = Use::Free(former);
            state.free.push(index);
        }
    }

    /// Wipes the headers of these files, durably, and makes them free.
    pub fn wipe(&self, indexes: &[usize]) -> Result<()> {
        for index in indexes {
            let file = self.state.lock().files[*index].file.clone();
            file.pwrite(&[0u8; HEADER_BYTES], 0)
                .and_then(|()| file.sync_data())
                .map_err(|error| Error::disk("freeing a log segment", &error))?;
            let mut state = self.state.lock();
            state.files[*index].used = Use::Free(None);
            if !state.free.contains(index) {
                state.free.push(*index);
            }
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Wipes everything that is of a volume or may once have been. The volume must not be open. `last`: what of it is to be wiped
    /// behind all others, in this order.
    pub fn forget(&self, volume: &Uuid, last: &[usize]) -> Result<()> {
        let theirs: Vec<usize> = {
            let state = self.state.lock();
            let numbered = state.files.iter().enumerate();
            let theirs = numbered.filter(|(_, file)| match file.used {
                Use::Volume(owner) | Use::Free(Some(owner)) => owner == *volume,
                Use::Damaged(header) => header.volume == *volume,
                Use::Free(None) => false,
            });
            theirs.map(|(index, _)| index).collect()
        };
        let (first, other): (Vec<usize>, Vec<usize>) =
            theirs.iter().partition(|index| !last.contains(index));
        self.wipe(&first)?;
        let last = last.iter().filter(|index| other.contains(index));
        self.wipe(&last.copied().collect::<Vec<usize>>())
    }

    pub fn stats(&self) -> PoolStats {
        let state = self.state.lock();
        let room = match self.fullness.is_full(Part::Growth) {
            true => 0,
            false => self.max.saturating_sub(state.files.len()),
        };
        PoolStats {
            segments: state.files.len(),
            free: state.free.len() + state.clean.len() + room,
            max: self.max,
        }
    }

    /// A clean segment, oldest first, that nobody reads becomes free.
    fn recycle_one(&self, state: &mut State) -> bool {
        let Some(at) = state.clean.iter().position(|segment| segment.retire()) else {
            return false;
        };
        let Some(segment) = state.clean.remove(at) else {
            return false;
        };
        segment.offer_to(&self.cache);
        state.files[segment.index].used = Use::Free(Some(segment.header.volume));
        state.free.push(segment.index);
        true
    }

    /// Pre-writes one more file, so that later syncs of it need no journal commit.
    fn create(&self) -> Result<()> {
        let name = {
            let mut state = self.state.lock();
            if state.files.len() + state.creating >= self.max {
                return Ok(());
            }
            state.creating += 1;
            state.next_name += 1;
            state.next_name - 1
        };
        let made = self.write_new(name);
        let mut state = self.state.lock();
        state.creating -= 1;
        let made = match made {
            Ok(file) => {
                let index = state.files.len();
                state.files.push(PoolFile {
                    file,
                    used: Use::Free(None),
                });
                state.free.insert(0, index);
                self.fullness.accepted(Part::Growth);
                Ok(())
            }
            Err(error) => {
                self.fullness.refused(Part::Growth, &error.to_string());
                Err(error)
            }
        };
        self.changed.notify_all();
        made
    }

    /// NoSpace: another segment would leave the map and the registry, which may share the disk, too little.
    fn check_room(&self) -> Result<()> {
        let broken = |error: io::Error| Error::disk("growing the log", &error);
        let (free, total) = self.disk.room().map_err(broken)?;
        let kept = KEPT_BYTES_MAX.min(total / KEPT_SHARE);
        if free >= SEGMENT_BYTES + kept {
            return Ok(());
        }
        Err(Error::NoSpace(format!(
            "growing the log: the disk has {} MiB left, of which {} are kept for the maps",
            free >> 20,
            kept >> 20
        )))
    }

    fn write_new(&self, number: u64) -> Result<Arc<dyn DiskFile>> {
        self.check_room()?;
        self.pre_write(number)
            .map_err(|error| Error::disk("growing the log", &error))
    }

    fn pre_write(&self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        let (temporary, name) = (format!("{number:016x}.new"), format!("{number:016x}.seg"));
        let file = self.disk.create(&temporary)?;
        let written = (|| {
            file.set_len(SEGMENT_BYTES)?;
            let zeros = vec![0u8; ZEROS];
            let mut at = 0;
            while at < SEGMENT_BYTES {
                let bytes = (SEGMENT_BYTES - at).min(ZEROS as u64);
                file.pwrite(&zeros[..bytes as usize], at)?;
                at += bytes;
            }
            file.sync_data()?;
            self.disk.rename(&temporary, &name)?;
            self.disk.sync_dir()
        })();
        if let Err(error) = written {
            let _ = self.disk.remove(&temporary);
            return Err(error);
        }
        Ok(file)
    }
}

fn read_page(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut page = vec![0u8; HEADER_BYTES];
    file.pread(&mut page, 0)?;
    Ok(page)
}
