//! A survey: where the live clusters of a range of addresses are, for whoever reads, checks or copies all of a volume.
//!
//! It looks a piece at a time beside the I/O, so it is not of one moment: each cluster is where it was when the survey passed it.

use std::sync::Arc;

use crc32c::crc32c;

use crate::error::Result;
use crate::request::{Plan, Request};
use crate::segment::data_offset;
use crate::sources::{Miss, Supplied};
use crate::types::{Entry, LineageEntry, Loc, CLUSTER, SCO_CLUSTERS};
use crate::volume::{resolve, Volume};

/// Clusters of a map page.
const PAGE: u64 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Placed {
    loc: u64,
    lba: u64,
    crc: u32,
}

/// One SCO that the survey met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurveyedSco {
    pub number: u64,
    /// Where it is named in the backend.
    pub at: LineageEntry,
    /// From the first to the last slot that is used; not every one between is.
    pub first_slot: u32,
    pub slots: u32,
    /// Clusters that the map uses.
    pub clusters: u32,
    /// A copy is in a segment of the log on this host.
    pub is_local: bool,
}

/// See the module. Memory: 24 bytes per cluster, up to the limit given, and 16 per extent.
pub struct Survey {
    volume: Arc<Volume>,
    at: u64,
    end: u64,
    clusters_max: usize,
    placed: Vec<Placed>,
    sorted: bool,
    extents: Vec<(u64, u64)>,
}

impl Survey {
    /// Of clusters `first..end`; it ends early once it has met `clusters_max` (or a page's worth more).
    pub fn new(volume: &Arc<Volume>, first: u64, end: u64, clusters_max: usize) -> Survey {
        Survey {
            volume: volume.clone(),
            at: first,
            end,
            clusters_max,
            placed: Vec::new(),
            sorted: true,
            extents: Vec::new(),
        }
    }

    /// Everything before this cluster has been looked at.
    pub fn position(&self) -> u64 {
        self.at
    }

    pub fn clusters(&self) -> usize {
        self.placed.len()
    }

    /// (LBA, clusters) of what is mapped, ascending.
    pub fn extents(&self) -> &[(u64, u64)] {
        &self.extents
    }

    /// Goes on to the end or the limit. A plan: supply its misses (map nodes), then call this again.
    pub fn step(&mut self) -> Result<Option<Box<Plan>>> {
        while self.at < self.end && self.placed.len() < self.clusters_max {
            let mut found = Vec::new();
            let (first, end) = (self.at / PAGE, self.end.div_ceil(PAGE));
            let gathered = self.volume.lock()?.map.gather(first, end, &mut found)?;
            for (lba, entry) in found {
                self.take(lba, entry);
            }
            self.at = gathered.until.saturating_mul(PAGE).clamp(self.at, self.end);
            if !gathered.need.is_empty() {
                let miss = |fetch| Miss {
                    fetch,
                    entries: Vec::new(),
                };
                let misses = gathered.need.into_iter().map(miss).collect();
                let plan = Plan::new(&self.volume, Request::Survey, misses, Supplied::default());
                return Ok(Some(plan));
            }
        }
        Ok(None)
    }

    fn take(&mut self, lba: u64, entry: Entry) {
        if lba < self.at || lba >= self.end {
            return;
        }
        self.sorted = false;
        self.placed.push(Placed {
            loc: entry.loc.0,
            lba,
            crc: entry.crc,
        });
        add(&mut self.extents, lba);
    }

    fn sort(&mut self) {
        if !self.sorted {
            self.placed.sort_unstable();
            self.sorted = true;
        }
    }

    /// The SCOs that have the clusters, by number.
    pub fn scos(&mut self) -> Result<Vec<SurveyedSco>> {
        self.sort();
        let state = self.volume.lock()?;
        let mut scos = Vec::new();
        let number = |placed: &Placed| Loc(placed.loc).number();
        for group in self.placed.chunk_by(|a, b| number(a) == number(b)) {
            let (first, last) = (Loc(group[0].loc), Loc(group[group.len() - 1].loc));
            let segment = state.log.segments.get(&first.number());
            scos.push(SurveyedSco {
                number: first.number(),
                at: resolve(state.map.lineage(), first.number())?,
                first_slot: first.slot(),
                slots: last.slot() - first.slot() + 1,
                clusters: group.len() as u32,
                is_local: segment.is_some_and(|segment| !segment.is_retired()),
            });
        }
        Ok(scos)
    }

    fn of(&mut self, number: u64) -> &[Placed] {
        self.sort();
        let bound = |number: u64| {
            let first = number.saturating_mul(u64::from(SCO_CLUSTERS));
            self.placed.partition_point(|placed| placed.loc < first)
        };
        &self.placed[bound(number)..bound(number.saturating_add(1))]
    }

    /// (LBA, clusters) of what one SCO has.
    pub fn ranges(&mut self, number: u64) -> Vec<(u64, u64)> {
        ranges(self.of(number).iter().map(|placed| placed.lba).collect())
    }

    /// Compares a copy of a SCO from slot `first_slot` on with the map: (LBA, clusters) of what differs or is not in it.
    pub fn check(&mut self, number: u64, first_slot: u32, data: &[u8]) -> Vec<(u64, u64)> {
        let differs = |placed: &&Placed| {
            let slot = Loc(placed.loc).slot().checked_sub(first_slot);
            let cluster = slot.and_then(|slot| data.chunks_exact(CLUSTER).nth(slot as usize));
            cluster.is_none_or(|cluster| crc32c(cluster) != placed.crc)
        };
        let wrong = self.of(number).iter().filter(differs);
        ranges(wrong.map(|placed| placed.lba).collect())
    }

    /// The same for the copy on this host; None: it has no (longer a) copy.
    pub fn check_local(&mut self, number: u64) -> Result<Option<Vec<(u64, u64)>>> {
        let volume = self.volume.clone();
        let pin = {
            let state = volume.lock()?;
            let segment = state.log.segments.get(&number);
            segment.and_then(|segment| segment.pin())
        };
        let Some(pin) = pin else {
            return Ok(None);
        };
        let placed = self.of(number);
        let (Some(first), Some(last)) = (placed.first(), placed.last()) else {
            return Ok(Some(Vec::new()));
        };
        let (first, last) = (Loc(first.loc).slot(), Loc(last.loc).slot());
        let mut data = vec![0; (last - first + 1) as usize * CLUSTER];
        match pin.file.pread(&mut data, data_offset(first)) {
            Ok(()) => Ok(Some(self.check(number, first, &data))),
            Err(_) => Ok(Some(self.ranges(number))),
        }
    }
}

fn add(extents: &mut Vec<(u64, u64)>, lba: u64) {
    match extents.last_mut() {
        Some((first, clusters)) if *first + *clusters == lba => *clusters += 1,
        _ => extents.push((lba, 1)),
    }
}

fn ranges(mut lbas: Vec<u64>) -> Vec<(u64, u64)> {
    lbas.sort_unstable();
    lbas.dedup();
    let mut ranges = Vec::new();
    lbas.into_iter().for_each(|lba| add(&mut ranges, lba));
    ranges
}
