//! A run of a log's records by LSN, as they stand in the segments, made into a batch for another node.
//!
//! Two steps: `gather` looks at the segments under the lock of whoever writes them and pins what it needs; `Gathered::plan` and
//! `Tail::fill` read the files beside the writers. A record that `gather` saw stands in the page cache, with its data.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::{batch_bytes, encode_head, PartHead, PARTS_MAX};
use crate::error::{Error, Result};
use crate::log::segment_bytes;
use crate::pool::{Pin, Segment};
use crate::segment::{data_offset, outlines, Outline, Seal, RECORDS_AT};
use crate::types::{Uuid, CLUSTER};
use crate::volume::Volume;

/// The segment that is still written: what it has so far.
pub struct OpenPart<'a> {
    pub segment: &'a Arc<Segment>,
    pub records: &'a [u8],
}

struct Source {
    pin: Pin,
    seal: Option<Seal>,
    /// None: in the file, as far as the seal says.
    records: Option<Vec<u8>>,
}

/// See the module.
pub struct Gathered {
    volume: Uuid,
    first_lsn: u64,
    /// The seal of the segment before, when the run begins with a segment.
    before: Option<PartHead>,
    sources: Vec<Source>,
}

struct PlannedPart {
    pin: Pin,
    head: PartHead,
    records: Vec<u8>,
}

/// A batch that is still to be put together: `bytes` long.
pub struct Tail {
    volume: Uuid,
    pub first_lsn: u64,
    pub last_lsn: u64,
    before: Option<PartHead>,
    parts: Vec<PlannedPart>,
}

/// What is known of the records from `first_lsn` to `last_lsn`, about as many segments as `bytes_max` needs. None: there are none.
///
/// Errors: NotFound when the first of them is not in these segments any more.
pub fn gather(
    segments: &BTreeMap<u64, Arc<Segment>>,
    open: Option<OpenPart>,
    first_lsn: u64,
    last_lsn: u64,
    bytes_max: usize,
) -> Result<Option<Gathered>> {
    if first_lsn > last_lsn {
        return Ok(None);
    }
    let gone = || Error::NotFound(format!("record {first_lsn} is not in the log any more"));
    let newest_first = segments.values().rev();
    let start = newest_first
        .into_iter()
        .find(|segment| segment.header.first_lsn <= first_lsn)
        .filter(|segment| segment.end().is_none_or(|end| end.last_lsn >= first_lsn))
        .ok_or_else(gone)?;
    let header = start.header;
    let before = (header.first_lsn == first_lsn)
        .then(|| segments.get(&(header.number - 1)))
        .flatten()
        .and_then(seal_only);
    let mut sources: Vec<Source> = Vec::new();
    let (mut bytes, mut next_lsn) = (0, header.first_lsn);
    for segment in segments.range(header.number..).map(|(_, segment)| segment) {
        let expected = header.number + sources.len() as u64;
        if segment.header.number != expected || segment.header.first_lsn != next_lsn {
            break;
        }
        let seal = segment.end().copied();
        let records = match (&seal, &open) {
            (Some(_), _) => None,
            (None, Some(open)) if Arc::ptr_eq(open.segment, segment) => Some(open.records.to_vec()),
            (None, _) => break,
        };
        let Some(pin) = segment.pin() else { break };
        next_lsn = seal.map_or(u64::MAX, |seal| seal.last_lsn + 1);
        // How much of the first one is wanted is not known yet.
        bytes += match sources.is_empty() {
            true => 0,
            false => segment_bytes(segment) as usize,
        };
        sources.push(Source { pin, seal, records });
        if bytes >= bytes_max || sources.len() == PARTS_MAX - 1 {
            break;
        }
    }
    if sources.is_empty() {
        return Err(gone());
    }
    Ok(Some(Gathered {
        volume: header.volume,
        first_lsn,
        before,
        sources,
    }))
}

/// The chain value after a record: the same in two logs only where they are the same up to there. None: it is not in these segments.
pub fn chain_after(
    segments: &BTreeMap<u64, Arc<Segment>>,
    open: Option<OpenPart>,
    lsn: u64,
) -> Result<Option<u64>> {
    let newest_first = segments.values().rev();
    let mut beginning = newest_first.skip_while(|segment| segment.header.first_lsn > lsn);
    let Some(segment) = beginning.next() else {
        return Ok(None);
    };
    let open = open.filter(|open| Arc::ptr_eq(open.segment, segment));
    let area = match (segment.end(), open) {
        (Some(end), _) if end.last_lsn < lsn => return Ok(None),
        (Some(end), _) if end.last_lsn == lsn => return Ok(Some(end.chain)),
        (_, Some(open)) => open.records.to_vec(),
        (Some(end), None) => match segment.pin() {
            Some(pin) => read_area(&pin, end.record_bytes)?,
            None => return Ok(None),
        },
        (None, None) => return Ok(None),
    };
    let mut records = outlines(&area);
    let record = records.find(|outline| outline.lsn == lsn);
    Ok(record.map(|outline| outline.chain))
}

fn seal_only(segment: &Arc<Segment>) -> Option<PartHead> {
    let seal = *segment.end()?;
    Some(PartHead {
        header: segment.header,
        seal: Some(seal),
        at: seal.record_bytes,
        bytes: 0,
        slot: seal.clusters,
        slots: 0,
    })
}

impl Gathered {
    /// Chooses whole records, at most `bytes_max` with their data but at least one. None: there are none.
    pub fn plan(self, bytes_max: usize) -> Result<Option<Tail>> {
        let mut tail = Tail {
            volume: self.volume,
            first_lsn: self.first_lsn,
            last_lsn: self.first_lsn - 1,
            before: self.before,
            parts: Vec::new(),
        };
        let mut left = bytes_max;
        for source in self.sources {
            if !tail.add(source, &mut left)? {
                break;
            }
        }
        Ok((tail.last_lsn >= tail.first_lsn).then_some(tail))
    }
}

impl Tail {
    /// Adds what fits of one segment; false: not all of it does.
    fn add(&mut self, source: Source, left: &mut usize) -> Result<bool> {
        let Source { pin, seal, records } = source;
        let area = match records {
            Some(records) => records,
            None => read_area(&pin, seal.map_or(0, |seal| seal.record_bytes))?,
        };
        let (mut slot, mut taken, mut complete) = (0, None::<(Outline, u32)>, true);
        let (mut end, mut slots) = (0, 0);
        let mut lsn = pin.header.first_lsn - 1;
        for outline in outlines(&area) {
            lsn += 1;
            if outline.lsn != lsn {
                return Err(damaged(&pin));
            }
            if outline.lsn > self.last_lsn {
                let bytes = outline.bytes + outline.clusters as usize * CLUSTER;
                if bytes > *left && self.last_lsn >= self.first_lsn {
                    complete = false;
                    break;
                }
                *left = left.saturating_sub(bytes);
                taken.get_or_insert((outline, slot));
                slots += outline.clusters;
                self.last_lsn = outline.lsn;
            }
            slot += outline.clusters;
            end = outline.at + outline.bytes;
        }
        let whole = seal.is_none_or(|seal| seal.last_lsn == lsn && seal.clusters == slot);
        if complete && !whole {
            return Err(damaged(&pin));
        }
        if let Some((first, first_slot)) = taken {
            let head = PartHead {
                header: pin.header,
                seal: seal.filter(|_| complete),
                at: first.at as u32,
                bytes: (end - first.at) as u32,
                slot: first_slot,
                slots,
            };
            let records = area[first.at..end].to_vec();
            self.parts.push(PlannedPart { pin, head, records });
        }
        Ok(complete)
    }

    fn heads(&self) -> Vec<PartHead> {
        let parts = self.parts.iter().map(|part| part.head);
        self.before.into_iter().chain(parts).collect()
    }

    /// Bytes of the batch.
    pub fn bytes(&self) -> usize {
        batch_bytes(&self.heads())
    }

    /// Puts the batch together in `out`, `bytes` long.
    pub fn fill(&self, out: &mut [u8]) -> Result<()> {
        let lsns = (self.first_lsn, self.last_lsn);
        let mut content = encode_head(out, &self.heads(), &self.volume, lsns);
        for part in &self.parts {
            let (records, rest) = content.split_at_mut(part.records.len());
            records.copy_from_slice(&part.records);
            let (data, rest) = rest.split_at_mut(part.head.slots as usize * CLUSTER);
            content = rest;
            if !data.is_empty() {
                let at = data_offset(part.head.slot);
                part.pin
                    .file
                    .pread(data, at)
                    .map_err(|error| Error::disk("reading the log", &error))?;
            }
        }
        Ok(())
    }

    /// The batch.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = vec![0u8; self.bytes()];
        self.fill(&mut out)?;
        Ok(out)
    }
}

fn read_area(segment: &Segment, bytes: u32) -> Result<Vec<u8>> {
    let mut area = vec![0u8; bytes as usize];
    segment
        .file
        .pread(&mut area, RECORDS_AT)
        .map_err(|error| Error::disk("reading the log", &error))?;
    Ok(area)
}

fn damaged(segment: &Segment) -> Error {
    if segment.is_clean() {
        // Nobody has looked at what is in it: a power cut may have left its header over the records of who got the file since.
        let number = segment.header.number;
        return Error::NotFound(format!("log segment {number} is not in the log any more"));
    }
    Error::Corrupt(format!(
        "the records of log segment {} are damaged",
        segment.header.number
    ))
}

/// What keeps clean segments from being recycled, because another node wants their records.
#[derive(Default)]
pub(crate) struct TailPin {
    first_lsn: Option<u64>,
    pins: BTreeMap<u64, Pin>,
}

impl TailPin {
    /// A segment becomes clean: it stays all the same if it is wanted.
    pub fn keep(&mut self, segment: &Arc<Segment>) {
        let last_lsn = segment.end().map_or(u64::MAX, |end| end.last_lsn);
        if self.first_lsn.is_some_and(|first| last_lsn >= first) {
            let number = segment.header.number;
            self.pins.extend(segment.pin().map(|pin| (number, pin)));
        }
    }
}

impl Volume {
    /// Records from `first_lsn` on as they were written (not necessarily durable), with all that another node's replica needs:
    /// at most about `bytes_max`, but at least one. None: there is nothing yet. Runs beside writers.
    ///
    /// Errors: NotFound when the record is not in the log any more; Corrupt when the log is damaged there.
    pub fn tail(&self, first_lsn: u64, bytes_max: usize) -> Result<Option<Tail>> {
        let gathered = {
            let state = self.lock()?;
            let last = state.log.end().lsn;
            gather(
                &state.log.segments,
                state.log.open_part(),
                first_lsn,
                last,
                bytes_max,
            )?
        };
        gathered.map_or(Ok(None), |gathered| gathered.plan(bytes_max))
    }

    /// The chain value after a record: two logs with the same one are the same up to there. None: it is not in the log (any more).
    pub fn chain(&self, lsn: u64) -> Result<Option<u64>> {
        let state = self.lock()?;
        chain_after(&state.log.segments, state.log.open_part(), lsn)
    }

    /// LSN of the first record that the committed head does not have; of the next one to be written if it has all.
    pub fn tail_first_lsn(&self) -> Result<u64> {
        let state = self.lock()?;
        let from = state.shipping.committed_next_sco();
        let first = state.log.segments.range(from..).next();
        Ok(first.map_or(state.log.end().lsn + 1, |(_, segment)| {
            segment.header.first_lsn
        }))
    }

    /// Segments with records from `first_lsn` on are not recycled, whatever the head says, until this is called again; None ends
    /// it. It takes the place of the pin before. What is pinned counts against the node's segments.
    ///
    /// Errors: NotFound when a record from there on is gone already; nothing has changed then.
    pub fn pin_tail(&self, first_lsn: Option<u64>) -> Result<()> {
        let mut state = self.lock()?;
        let mut pin = TailPin {
            first_lsn,
            pins: BTreeMap::new(),
        };
        if let Some(first) = first_lsn {
            let mut next_lsn = state.log.end().lsn + 1;
            for segment in state.log.segments.values().rev() {
                let end = segment.end().map_or(next_lsn, |end| end.last_lsn + 1);
                if segment.header.first_lsn >= next_lsn && segment.end().is_none() {
                    continue; // open, and nothing in it yet
                }
                if next_lsn <= first || end != next_lsn || segment.is_retired() {
                    break;
                }
                if segment.is_clean() {
                    let Some(held) = segment.pin() else { break };
                    pin.pins.insert(segment.header.number, held);
                }
                next_lsn = segment.header.first_lsn;
            }
            if next_lsn > first {
                return Err(Error::NotFound(format!(
                    "record {first} is not in the log any more; it begins with {next_lsn}"
                )));
            }
        }
        state.tail_pin = pin;
        Ok(())
    }
}
