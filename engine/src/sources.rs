//! Where the clusters of a read come from: holes, local segments, the read cache, what a plan was supplied with.

use std::collections::HashMap;
use std::sync::Arc;

use crc32c::crc32c;

use crate::error::{Error, Result};
use crate::map::Lookup;
use crate::pool::Pin;
use crate::read_cache::CacheKey;
use crate::segment::data_offset;
use crate::types::{Entry, Fetch, FetchKind, LineageEntry, Loc, CLUSTER};
use crate::volume::{resolve, Counters, State, Volume};

/// Verified clusters from the backend, by what the map says of them.
pub(crate) type Supplied = HashMap<(Loc, u32), Arc<[u8]>>;

/// Something a request needs from the backend, with the entries that it will be verified against.
#[derive(Clone)]
pub(crate) struct Miss {
    pub fetch: Fetch,
    /// For SCO data: one entry per cluster.
    pub entries: Vec<Entry>,
}

enum Source {
    Zeros,
    Local(Pin),
    Remote(LineageEntry),
}

/// Consecutive clusters from consecutive slots of one place.
struct Run {
    first: usize,
    clusters: usize,
    source: Source,
}

enum Located {
    Runs(Vec<Run>),
    Need(Vec<Miss>),
}

impl Volume {
    /// Fills `out` (n × 4096 bytes) or says what is missing.
    pub(crate) fn read_clusters(
        &self,
        lba: u64,
        out: &mut [u8],
        supplied: &Supplied,
    ) -> Result<Vec<Miss>> {
        let mut entries = Vec::new();
        loop {
            let runs = {
                let mut state = self.lock()?;
                let count = (out.len() / CLUSTER) as u32;
                if count == 1 {
                    if let Some(run) = locate_one(&mut state, lba, &mut entries)? {
                        drop(state);
                        if self.fill_local(&run, &entries, out)? {
                            return Ok(Vec::new());
                        }
                        continue;
                    }
                }
                match locate(&mut state, lba, count, &mut entries)? {
                    Located::Runs(runs) => runs,
                    Located::Need(misses) => return Ok(misses),
                }
            };
            if let Some(misses) = self.fill(&runs, &entries, out, supplied)? {
                return Ok(misses);
            }
        }
    }

    /// The same for a caller who holds the lock and must keep it: one cluster.
    pub(crate) fn read_locked(
        &self,
        state: &mut State,
        lba: u64,
        out: &mut [u8],
        supplied: &Supplied,
    ) -> Result<Vec<Miss>> {
        let mut entries = std::mem::take(&mut state.entries);
        let misses = loop {
            match locate(state, lba, 1, &mut entries)? {
                Located::Need(misses) => break misses,
                Located::Runs(runs) => match self.fill(&runs, &entries, out, supplied)? {
                    Some(misses) => break misses,
                    // The local copy was damaged; the lock is ours, so the source is dropped here.
                    None => drop_damaged(state, &runs),
                },
            }
        };
        state.entries = entries;
        Ok(misses)
    }

    /// None: a local copy was found damaged and is not a source any more; look again.
    fn fill(
        &self,
        runs: &[Run],
        entries: &[Entry],
        out: &mut [u8],
        supplied: &Supplied,
    ) -> Result<Option<Vec<Miss>>> {
        let mut misses: Vec<Miss> = Vec::new();
        for run in runs {
            let range = run.first..run.first + run.clusters;
            let out = &mut out[range.start * CLUSTER..range.end * CLUSTER];
            match &run.source {
                Source::Zeros => out.fill(0),
                Source::Local(_) => {
                    if !self.fill_local(run, entries, out)? {
                        return Ok(None);
                    }
                }
                Source::Remote(at) => {
                    let run = &entries[range];
                    self.fill_remote(at, run, out, supplied, &mut misses);
                }
            }
        }
        Ok(Some(misses))
    }

    /// False: the local copy is damaged, but the backend has another.
    fn fill_local(&self, run: &Run, entries: &[Entry], out: &mut [u8]) -> Result<bool> {
        let Source::Local(pin) = &run.source else {
            out.fill(0);
            return Ok(true);
        };
        let entries = &entries[run.first..run.first + run.clusters];
        let slot = entries[0].loc.slot();
        let read = pin.file.pread(out, data_offset(slot));
        let right = out.chunks_exact(CLUSTER).zip(entries);
        if read.is_ok()
            && right
                .into_iter()
                .all(|(data, entry)| crc32c(data) == entry.crc)
        {
            if pin.is_clean() {
                pin.touch(slot, run.clusters as u32);
            }
            return Ok(true);
        }
        let number = pin.header.number;
        if !pin.is_clean() {
            return Err(Error::Corrupt(match read {
                Err(error) => format!("SCO {number} on the local disk cannot be read: {error}"),
                Ok(()) => format!("SCO {number} on the local disk is damaged"),
            }));
        }
        if let Some(mut state) = self.state.try_lock() {
            if let Some(state) = state.as_mut() {
                drop_damaged(state, std::slice::from_ref(run));
            }
        }
        Ok(false)
    }

    fn fill_remote(
        &self,
        at: &LineageEntry,
        entries: &[Entry],
        out: &mut [u8],
        supplied: &Supplied,
        misses: &mut Vec<Miss>,
    ) {
        let key = CacheKey {
            origin: at.origin,
            epoch: at.epoch,
            number: entries[0].loc.number(),
        };
        for (entry, out) in entries.iter().zip(out.chunks_exact_mut(CLUSTER)) {
            if let Some(data) = supplied.get(&(entry.loc, entry.crc)) {
                out.copy_from_slice(data);
            } else if self
                .shared
                .cache
                .read(&key, entry.loc.slot(), entry.crc, out)
            {
                Counters::add(&self.counters.cache_hits, 1);
            } else {
                add_miss(misses, &key, *entry);
            }
        }
    }
}

fn add_miss(misses: &mut Vec<Miss>, key: &CacheKey, entry: Entry) {
    if let Some(miss) = misses.last_mut() {
        let next = miss.entries.last().map(|last| Loc(last.loc.0 + 1));
        if next == Some(entry.loc) && miss.fetch.number == key.number {
            miss.fetch.length += CLUSTER as u32;
            miss.entries.push(entry);
            return;
        }
    }
    misses.push(Miss {
        fetch: Fetch {
            kind: FetchKind::Sco,
            origin: key.origin,
            epoch: key.epoch,
            number: key.number,
            offset: u64::from(entry.loc.slot()) * CLUSTER as u64,
            length: CLUSTER as u32,
            crc: 0,
        },
        entries: vec![entry],
    });
}

/// The common case without a list: one cluster that is here or a hole.
fn locate_one(state: &mut State, lba: u64, entries: &mut Vec<Entry>) -> Result<Option<Run>> {
    entries.clear();
    let Lookup::Found = state.map.lookup(lba, 1, entries)? else {
        return Ok(None);
    };
    let loc = entries[0].loc;
    let source = if loc.is_data() {
        match local(state, loc.number()) {
            Some(pin) => Source::Local(pin),
            None => return Ok(None),
        }
    } else {
        Source::Zeros
    };
    Ok(Some(Run {
        first: 0,
        clusters: 1,
        source,
    }))
}

fn locate(state: &mut State, lba: u64, count: u32, entries: &mut Vec<Entry>) -> Result<Located> {
    entries.clear();
    if let Lookup::Need(fetches) = state.map.lookup(lba, count, entries)? {
        let miss = |fetch| Miss {
            fetch,
            entries: Vec::new(),
        };
        return Ok(Located::Need(fetches.into_iter().map(miss).collect()));
    }
    let mut runs = Vec::new();
    let mut first = 0;
    while first < entries.len() {
        let loc = entries[first].loc;
        let goes_on = |n: usize| {
            let next = entries[first + n].loc;
            match loc.is_data() {
                true => next.0 == loc.0 + n as u64 && next.number() == loc.number(),
                false => !next.is_data(),
            }
        };
        let mut clusters = 1;
        while first + clusters < entries.len() && goes_on(clusters) {
            clusters += 1;
        }
        let source = if !loc.is_data() {
            Source::Zeros
        } else if let Some(pin) = local(state, loc.number()) {
            Source::Local(pin)
        } else {
            Source::Remote(resolve(state.map.lineage(), loc.number())?)
        };
        runs.push(Run {
            first,
            clusters,
            source,
        });
        first += clusters;
    }
    Ok(Located::Runs(runs))
}

fn local(state: &mut State, number: u64) -> Option<Pin> {
    let segment = state.log.segments.get(&number)?;
    let pin = segment.pin();
    if pin.is_none() {
        state.log.segments.remove(&number);
    }
    pin
}

fn drop_damaged(state: &mut State, runs: &[Run]) {
    for run in runs {
        if let Source::Local(pin) = &run.source {
            let number = pin.header.number;
            let same = |segment: &Arc<crate::pool::Segment>| Arc::ptr_eq(segment, pin);
            if pin.is_clean() && state.log.segments.get(&number).is_some_and(same) {
                state.log.segments.remove(&number);
            }
        }
    }
}
