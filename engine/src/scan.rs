//! Reading a log back after a restart: which segments hold the tail, where it ends, and whether that may be its end.
//!
//! Reads only. The rules are those of `docs/formats/segment.md`: nothing is taken beyond a gap, and a gap that something
//! behind it calls durable is damage, not the end of the log.

use std::collections::BTreeMap;

use crc32c::crc32c;

use crate::error::{Error, Result};
use crate::evidence::{uuid_distance, Evidence, Later};
use crate::pool::Found;
use crate::segment::{data_offset, Header, Op, Record, Records, Seal, RECORDS_AT, RECORDS_BYTES};
use crate::types::{Included, LineageEntry, TlogRef, Uuid, CLUSTER};

/// What is known before looking at the log.
pub struct Known<'a> {
    pub volume: Uuid,
    pub head: Option<TlogRef>,
    /// First SCO number that the head does not cover.
    pub next_sco: u64,
    /// The last record that the local map has, if there is a usable one.
    pub map: Option<Included>,
    /// Lineage of the last map that was usable here, empty if that is lost, too.
    pub left: &'a [LineageEntry],
    /// What is here is (or ends with) a copy of another node's log: whose it is nobody here can tell, and what this node has synced
    /// of it the marks of the copy say.
    pub is_copy: bool,
    /// False only in the test that must notice it.
    pub check_chain: bool,
}

/// One segment of the tail, and where it ends.
pub struct TailSegment {
    pub found: Found,
    pub end: Seal,
}

/// What the local segments are worth.
#[derive(Default)]
pub struct Scan {
    /// In log order, from the head on; all of it linked.
    pub tail: Vec<TailSegment>,
    /// Behind the head: a cache, and the way from an older map to the tail.
    pub clean: Vec<Found>,
    /// Files of this volume that are worth nothing.
    pub stale: Vec<usize>,
    /// Files with a wrong header that may be of this volume.
    pub suspect: Vec<usize>,
    /// The last record that is there, if that can be told.
    pub end: Option<Included>,
    /// The local map's last record is in the chain, and everything after it is here.
    pub map_usable: bool,
    /// The durable part is damaged: what and where.
    pub damage: Option<String>,
    /// Whether it is can be told only when the backend has said where the head ends; the map is not usable then.
    pub unjudged: Option<Evidence>,
}

/// The record area of a segment.
pub fn read_records(found: &Found) -> Result<Vec<u8>> {
    let mut area = vec![0u8; RECORDS_BYTES];
    found
        .file
        .pread(&mut area, RECORDS_AT)
        .map_err(|error| Error::disk("reading the log", &error))?;
    Ok(area)
}

/// Takes the marks off segments that have been this node's own since it copied them: it has opened the volume in a later epoch,
/// and what it had of the log then was durable. Says whether there are others.
pub fn judge_marks(found: &mut [Found], volume: &Uuid, left: &[LineageEntry]) -> bool {
    let own = left.iter().filter(|entry| entry.origin == *volume);
    let newest = own.map(|entry| entry.epoch).max().unwrap_or(0);
    for found in found.iter_mut() {
        found.mark = found.mark.filter(|_| found.header.epoch >= newest);
    }
    found.iter().any(|found| found.mark.is_some())
}

/// Takes out what is older than the copy that is here, if there is one: trimmed long ago, or of another history.
pub fn before_copy(found: &mut Vec<Found>) -> Vec<Found> {
    let marks = found.iter().filter_map(|found| found.mark);
    let first_number = marks.map(|mark| mark.first_number).max().unwrap_or(0);
    let (older, kept) = std::mem::take(found)
        .into_iter()
        .partition(|found| found.header.number < first_number);
    *found = kept;
    older
}

/// Looks at everything that is local of one volume. `damaged`: files whose header is wrong, of any volume.
pub fn scan(found: Vec<Found>, damaged: &[Found], known: &Known) -> Result<Scan> {
    let mut result = Scan::default();
    if !known.is_copy && deposed(&found, known) {
        let local_tail = found.iter().any(|f| f.header.number >= known.next_sco);
        if known.left.is_empty() && local_tail {
            result.damage = Some(
                "the local map is lost, and the local log is of an older epoch than the head: \
                 whether it belongs to it cannot be told"
                    .into(),
            );
        }
        result.stale = found.iter().map(|found| found.index).collect();
        return Ok(result);
    }
    let mut numbers: BTreeMap<u64, Vec<Found>> = BTreeMap::new();
    for found in found {
        numbers.entry(found.header.number).or_default().push(found);
    }
    for candidates in numbers.values_mut() {
        candidates.sort_by_key(|found| std::cmp::Reverse(found.header.epoch));
    }
    Walk {
        known,
        numbers: &numbers,
    }
    .run(damaged, &mut result)?;
    let chain = result.end.map_or(0, |end| end.chain);
    let suspect = damaged.iter().filter(|found| {
        let header = &found.header;
        uuid_distance(&header.volume, &known.volume) <= 2
            || (chain != 0 && header.previous_chain == chain)
    });
    result.suspect = suspect.map(|found| found.index).collect();
    for candidates in numbers.into_values() {
        for (n, found) in candidates.into_iter().enumerate() {
            if found.header.number < known.next_sco && n == 0 {
                result.clean.push(found);
            } else if !result
                .tail
                .iter()
                .any(|segment| segment.found.index == found.index)
            {
                result.stale.push(found.index);
            }
        }
    }
    Ok(result)
}

/// Somebody else has written the head since: nothing local is of its history.
fn deposed(found: &[Found], known: &Known) -> bool {
    let Some(head) = known.head else { return false };
    if known.left.is_empty() {
        let newest = found.iter().map(|found| found.header.epoch).max();
        return newest.is_some_and(|epoch| epoch < head.epoch);
    }
    let mut lineage = known.left.iter().rev();
    let covering = lineage.find(|entry| entry.first < known.next_sco);
    covering.is_none_or(|entry| entry.epoch != head.epoch)
}

/// A place between two records: LSN and chain of the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    lsn: u64,
    chain: u64,
}

struct Walk<'a> {
    known: &'a Known<'a>,
    numbers: &'a BTreeMap<u64, Vec<Found>>,
}

impl<'a> Walk<'a> {
    fn run(&self, damaged: &[Found], result: &mut Scan) -> Result<()> {
        let next_sco = self.known.next_sco;
        let included = self.known.map;
        let behind = included.filter(|included| included.number < next_sco);
        let followed = match behind {
            Some(included) => self.follow(included)?,
            None => None,
        };
        let start = Place { lsn: 0, chain: 0 };
        let expected = if next_sco == 1 {
            Some(start)
        } else {
            followed.or_else(|| self.sealed_end(next_sco - 1))
        };
        let weak = behind.map(|included| Place {
            lsn: included.lsn,
            chain: included.chain,
        });
        let mut place = expected;
        // After a restart from the backend the log goes on from the map, not from what an older life left behind the head.
        let links = |place: Place| self.linked(next_sco, place).is_some();
        if !place.is_some_and(links) && weak.is_some_and(links) {
            place = weak;
        }
        // A log that was begun with nothing but the head names no chain before it. That it is the log the map says: it has more.
        let unchained = expected.map(|place| Place { chain: 0, ..place });
        let is_ahead = included.is_some_and(|included| included.number >= next_sco);
        if is_ahead && !place.is_some_and(links) && unchained.is_some_and(links) {
            place = unchained;
        }
        result.map_usable = behind.is_some() && (followed.is_some() || place == weak);
        self.tail(place, included, result)?;
        if let Some(last) = result.tail.last() {
            place = Some(Place {
                lsn: last.end.last_lsn,
                chain: last.end.chain,
            });
        }
        let evidence = self.evidence(&result.tail, damaged);
        match place {
            Some(place) => result.damage = evidence.against(place.lsn, Some(place.chain))?,
            // Of the tail nothing is here, and its place behind the head is not known: what is said to be durable may be the head's.
            None => result.unjudged = Some(evidence),
        }
        while result
            .tail
            .last()
            .is_some_and(|segment| segment.end.record_bytes == 0)
        {
            result.tail.pop();
            place = result.tail.last().map(|last| Place {
                lsn: last.end.last_lsn,
                chain: last.end.chain,
            });
            if result.tail.is_empty() {
                place = expected.or(weak.filter(|_| result.map_usable));
            }
        }
        result.end = place.map(|place| Included {
            lsn: place.lsn,
            number: result
                .tail
                .last()
                .map_or(next_sco - 1, |last| last.found.header.number),
            chain: place.chain,
        });
        Ok(())
    }

    /// The segment `number` that begins right behind `place`.
    fn linked(&self, number: u64, place: Place) -> Option<&'a Found> {
        let mut candidates = self.numbers.get(&number)?.iter();
        candidates.find(|found| self.links(found, place))
    }

    fn links(&self, found: &Found, place: Place) -> bool {
        !self.known.check_chain
            || (found.header.first_lsn == place.lsn + 1
                && found.header.previous_chain == place.chain)
    }

    fn sealed_end(&self, number: u64) -> Option<Place> {
        let seal = self.numbers.get(&number)?.first()?.seal?;
        Some(Place {
            lsn: seal.last_lsn,
            chain: seal.chain,
        })
    }

    /// From the map's last record through the clean segments to the head, if all of that is here.
    fn follow(&self, included: Included) -> Result<Option<Place>> {
        let mut place = None;
        for number in included.number.max(1)..self.known.next_sco {
            // The one that is kept as a cache, or none.
            let found = self.numbers.get(&number).and_then(|found| found.first());
            let Some(found) = found else {
                return Ok(None);
            };
            if place.is_some_and(|place| !self.links(found, place)) {
                return Ok(None);
            }
            let area = read_records(found)?;
            let mut records = self.records(&found.header, &area);
            let mut met = place.is_some() || (included.lsn == 0 && found.header.first_lsn == 1);
            loop {
                met |= records.lsn == included.lsn && records.chain == included.chain;
                if self.ends_here(found, &records) {
                    break;
                }
                if records.next().is_none() {
                    return Ok(None);
                }
            }
            if !met {
                return Ok(None);
            }
            place = Some(Place {
                lsn: records.lsn,
                chain: records.chain,
            });
        }
        Ok(place)
    }

    fn records<'b>(&self, header: &Header, area: &'b [u8]) -> Records<'b> {
        let mut records = Records::new(header, area);
        records.check_chain = self.known.check_chain;
        records
    }

    /// The next segment or the seal says that this one ends where `records` stands.
    fn ends_here(&self, found: &Found, records: &Records) -> bool {
        let place = Place {
            lsn: records.lsn,
            chain: records.chain,
        };
        let sealed = found.seal.is_some_and(|seal| {
            seal.last_lsn == place.lsn && seal.chain == place.chain && records.at > 0
        });
        if !self.known.check_chain {
            return sealed;
        }
        sealed || (records.at > 0 && self.linked(found.header.number + 1, place).is_some())
    }

    fn tail(
        &self,
        mut place: Option<Place>,
        included: Option<Included>,
        result: &mut Scan,
    ) -> Result<()> {
        let marks = self.numbers.values().flatten();
        let marks = marks.filter_map(|found| found.mark.map(|mark| mark.synced_lsn));
        let durable = included.map(|included| included.lsn).max(marks.max());
        for number in self.known.next_sco.. {
            let found = match place {
                Some(place) => self.linked(number, place),
                None => self.numbers.get(&number).and_then(|found| found.first()),
            };
            let Some(found) = found else { break };
            let area = read_records(found)?;
            let mut records = self.records(&found.header, &area);
            loop {
                if let Some(included) = included {
                    result.map_usable |= included.number >= self.known.next_sco
                        && records.lsn == included.lsn
                        && records.chain == included.chain;
                }
                if self.ends_here(found, &records) {
                    break;
                }
                let Some(record) = records.peek() else { break };
                let known_good = durable.is_some_and(|durable| record.lsn <= durable);
                if !known_good && !data_is_right(found, &record)? {
                    break;
                }
                records.advance(&record);
            }
            place = Some(Place {
                lsn: records.lsn,
                chain: records.chain,
            });
            result.tail.push(TailSegment {
                found: found.clone(),
                end: Seal {
                    last_lsn: records.lsn,
                    chain: records.chain,
                    durable_lsn: records.lsn,
                    clusters: records.slots,
                    record_bytes: records.at as u32,
                },
            });
        }
        Ok(())
    }

    /// What may say that more had been durable than `tail`.
    fn evidence(&self, tail: &[TailSegment], damaged: &[Found]) -> Evidence {
        let later = self.numbers.range(self.known.next_sco..);
        let later = later.flat_map(|(_, found)| found).map(|found| Later {
            found: found.clone(),
            last_of_tail: (tail.iter().position(|s| s.found.index == found.index))
                .map(|at| at + 1 == tail.len()),
        });
        Evidence {
            volume: self.known.volume,
            next_sco: self.known.next_sco,
            map: self.known.map,
            later: later.collect(),
            damaged: damaged.to_vec(),
        }
    }
}

fn data_is_right(found: &Found, record: &Record) -> Result<bool> {
    let Op::Write { slot, .. } = record.op else {
        return Ok(true);
    };
    let mut data = vec![0u8; record.clusters() as usize * CLUSTER];
    found
        .file
        .pread(&mut data, data_offset(slot))
        .map_err(|error| Error::disk("reading the log", &error))?;
    let right = data.chunks_exact(CLUSTER).zip(record.crcs());
    Ok(right.into_iter().all(|(data, crc)| crc32c(data) == crc))
}
