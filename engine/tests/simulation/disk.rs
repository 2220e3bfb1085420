//! A disk in RAM whose power can be cut: what was not synced survives, is lost or is torn, in any order, per sector of 512 bytes.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use vpool_engine::disk::{Disk, DiskFile};

use super::Rng;

const SECTOR: usize = 512;

#[derive(Default)]
struct Content {
    /// What the kernel would return.
    bytes: Vec<u8>,
    /// For each sector written since the last sync: what was durable, then every version since.
    pending: HashMap<usize, Vec<[u8; SECTOR]>>,
    /// Sectors whose write-back failed: the kernel thinks that they are clean, no later sync writes them.
    given_up: HashMap<usize, Vec<[u8; SECTOR]>>,
}

/// What goes wrong without a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Sync,
    /// `ENOSPC` on a sync.
    FullSync,
    Write,
    /// `ENOSPC` on a write.
    Full,
}

/// What a disk without room refuses, until `make_room`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuses {
    /// Bytes of new files: what was written before is written in place.
    Growth,
    /// Any write, now and then, maybe after some of its pages: a file system that never writes in place.
    Writes,
}

struct State {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    files: Vec<Content>,
    rng: Rng,
    operations: u64,
    cut_at: Option<u64>,
    fault_at: Option<(u64, Fault)>,
    full: Option<Refuses>,
    /// New files give an I/O error.
    broken_growth: bool,
    dead: bool,
    generation: u64,
    /// A mutation that the tests must catch: syncs do nothing.
    lying: bool,
}

/// See the module. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

impl SimulatedDisk {
    pub fn new(seed: u64) -> SimulatedDisk {
        SimulatedDisk(Arc::new(Mutex::new(State {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            files: Vec::new(),
            rng: Rng(seed),
            operations: 0,
            cut_at: None,
            fault_at: None,
            full: None,
            broken_growth: false,
            dead: false,
            generation: 0,
            lying: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn lie(&self) {
        self.state().lying = true;
    }

    /// Cuts the power at the n-th write, sync or change of a name from now on.
    pub fn cut_after(&self, operations: u64) {
        let mut state = self.state();
        state.cut_at = Some(state.operations + operations);
    }

    pub fn fail_after(&self, operations: u64, fault: Fault) {
        let mut state = self.state();
        state.fault_at = Some((state.operations + operations, fault));
    }

    pub fn fill(&self, refuses: Refuses) {
        self.state().full = Some(refuses);
    }

    pub fn make_room(&self) {
        self.state().full = None;
    }

    pub fn is_full(&self) -> bool {
        self.state().full.is_some()
    }

    /// From now on new files give an I/O error, or no longer.
    pub fn break_growth(&self, broken: bool) {
        self.state().broken_growth = broken;
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// The process dies, the kernel lives: nothing is lost, but nobody can use the old files any more.
    pub fn kill(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.cut_at = None;
        state.fault_at = None;
    }

    /// The cut that was to come does not.
    pub fn kill_cut(&self) {
        self.state().cut_at = None;
    }

    /// Cuts the power now, if it has not happened, and brings the machine up again.
    pub fn power_cycle(&self) {
        let mut state = self.state();
        let State {
            files,
            rng,
            names,
            durable_names,
            ..
        } = &mut *state;
        // Names: those of a journal, so all or nothing is close enough; both must be survived.
        if rng.chance(2) {
            *names = durable_names.clone();
        } else {
            *durable_names = names.clone();
        }
        for content in files.iter_mut() {
            let mode = rng.below(6);
            let page_mode = rng.next();
            let mut pending: Vec<_> = content.pending.drain().collect();
            pending.extend(content.given_up.drain());
            pending.sort_by_key(|(sector, _)| *sector);
            for (sector, versions) in pending {
                let newest = versions.len() as u64 - 1;
                let chosen = match mode {
                    0 => 0,
                    1 => newest,
                    2 => rng.below(newest + 1),
                    3 => newest * u64::from(!rng.chance(16)),
                    4 => newest * u64::from(rng.chance(16)),
                    // Whole pages, kept or lost.
                    _ => {
                        newest
                            * (Rng(page_mode ^ (sector as u64 * SECTOR as u64 / 4096)).next() & 1)
                    }
                };
                let at = sector * SECTOR;
                content.bytes[at..at + SECTOR].copy_from_slice(&versions[chosen as usize]);
            }
        }
        state.generation += 1;
        state.dead = false;
        state.cut_at = None;
        state.fault_at = None;
    }

    /// Changes one byte on the medium.
    pub fn flip(&self, name: &str, at: usize, with: u8) {
        let mut state = self.state();
        let file = state.names[name];
        state.files[file].bytes[at] ^= with;
    }

    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].bytes.clone()
    }

    /// The same content on a disk of its own, everything durable.
    pub fn copy(&self) -> SimulatedDisk {
        let copy = SimulatedDisk::new(0);
        {
            let (from, mut to) = (self.state(), copy.state());
            to.names = from.names.clone();
            to.durable_names = from.names.clone();
            to.files = (from.files.iter())
                .map(|file| Content {
                    bytes: file.bytes.clone(),
                    ..Content::default()
                })
                .collect();
        }
        copy
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ENODEV)
}

impl State {
    fn alive(&self, generation: u64) -> io::Result<()> {
        if self.dead || self.generation != generation {
            return Err(gone());
        }
        Ok(())
    }

    /// Counts an operation. `Ok(true)`: the power goes during it, and it may or may not take place.
    fn step(&mut self, generation: u64) -> io::Result<bool> {
        self.alive(generation)?;
        self.operations += 1;
        self.dead = self.cut_at.is_some_and(|at| self.operations >= at);
        Ok(self.dead)
    }

    /// How many pages of a write of `pages` the disk takes, and what it says then.
    fn refusal(&mut self, file: usize, pages: u64) -> Option<(u64, io::Error)> {
        let full = |taken| Some((taken, io::Error::from_raw_os_error(libc::ENOSPC)));
        let is_new = self
            .names
            .iter()
            .any(|(name, n)| *n == file && name.ends_with(".new"));
        if is_new && self.broken_growth {
            return Some((0, io::Error::from_raw_os_error(libc::EIO)));
        }
        match self.full {
            Some(_) if is_new => full(0),
            Some(Refuses::Writes) if self.rng.chance(2) => full(self.rng.below(pages)),
            _ => None,
        }
    }

    fn fault(&mut self, kinds: &[Fault]) -> Option<Fault> {
        let (at, fault) = self.fault_at?;
        (self.operations >= at && kinds.contains(&fault)).then(|| {
            self.fault_at = None;
            fault
        })
    }
}

impl SimulatedDisk {
    fn handle(&self, file: usize, generation: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimulatedFile {
            disk: self.clone(),
            file,
            generation,
        })
    }

    fn change_names<T>(&self, change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        let generation = state.generation;
        let dies = state.step(generation)?;
        let happens = !dies || state.rng.chance(2);
        let result = if happens {
            change(&mut state)
        } else {
            Err(gone())
        };
        if dies {
            Err(gone())
        } else {
            result
        }
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (file, generation) = self.change_names(|state| {
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.files.push(Content::default());
            let file = state.files.len() - 1;
            state.names.insert(name.to_owned(), file);
            Ok((file, state.generation))
        })?;
        Ok(self.handle(file, generation))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        state.alive(state.generation)?;
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let generation = state.generation;
        drop(state);
        Ok(self.handle(file, generation))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change_names(|state| {
            let removed = state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            if !state.durable_names.values().any(|file| *file == removed) {
                state.files[removed] = Content::default();
            }
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change_names(|state| {
            let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.change_names(|state| {
            state.durable_names = state.names.clone();
            Ok(())
        })
    }

    fn room(&self) -> io::Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
    generation: u64,
}

impl DiskFile for SimulatedFile {
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        state.alive(self.generation)?;
        let at = offset as usize;
        let bytes = state.files[self.file].bytes.get(at..at + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn pwrite(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let dies = state.step(self.generation)?;
        match state.fault(&[Fault::Write, Fault::Full]) {
            Some(Fault::Full) => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Some(_) => return Err(io::Error::from_raw_os_error(libc::EIO)),
            None => {}
        }
        let refusal = state.refusal(self.file, data.len() as u64 / 4096);
        let data = match &refusal {
            Some((pages, _)) => &data[..*pages as usize * 4096],
            None => data,
        };
        let content = &mut state.files[self.file];
        let (start, end) = (offset as usize, offset as usize + data.len());
        assert!(
            start % 4096 == 0 && end % 4096 == 0 && end <= content.bytes.len(),
            "a write of part of a page, or beyond the end"
        );
        for (n, new) in data.chunks_exact(SECTOR).enumerate() {
            let (sector, at) = (start / SECTOR + n, start + n * SECTOR);
            let old = &mut content.bytes[at..at + SECTOR];
            if old == new && !content.pending.contains_key(&sector) {
                continue;
            }
            let before: [u8; SECTOR] = (&*old).try_into().unwrap();
            let versions = content
                .pending
                .entry(sector)
                .or_insert_with(|| vec![before]);
            versions.push(new.try_into().unwrap());
            old.copy_from_slice(new);
        }
        match refusal {
            _ if dies => Err(gone()),
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let dies = state.step(self.generation)?;
        if let Some(fault) = state.fault(&[Fault::Sync, Fault::FullSync]) {
            let content = &mut state.files[self.file];
            let lost = std::mem::take(&mut content.pending);
            content.given_up.extend(lost);
            return Err(io::Error::from_raw_os_error(match fault {
                Fault::FullSync => libc::ENOSPC,
                _ => libc::EIO,
            }));
        }
        let happens = !state.lying && (!dies || state.rng.chance(2));
        if happens {
            state.files[self.file].pending.clear();
        }
        if dies {
            Err(gone())
        } else {
            Ok(())
        }
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive(self.generation)?;
        Ok(state.files[self.file].bytes.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.alive(self.generation)?;
        state.files[self.file].bytes.resize(bytes as usize, 0);
        Ok(())
    }
}
