//! What a replica does with a batch. Nothing in it is believed before it was compared with its checksums and with what is there.

use std::sync::Arc;

use crc32c::crc32c;

use super::{Last, Replica, State, PAGE};
use crate::batch::{wrong, Batch, Part, LSN_MAX};
use crate::error::{Error, Result};
use crate::fullness::Part as DiskPart;
use crate::pool::Segment;
use crate::segment::{data_offset, Op, Records, Seal, RECORDS_AT, RECORDS_BYTES};
use crate::types::{Included, CLUSTER};

/// Where the records of a part lead to.
struct Verified {
    end: Included,
    slots: u32,
}

impl Replica {
    /// Appends a batch; what is here already is compared and skipped. Returns the LSN of the last record that is here now.
    ///
    /// Survives a kill of the process, a power cut only after `sync`. Errors: Corrupt (the batch is damaged; whole segments before
    /// the damage may have been taken), Conflict (there is a gap before it, or it is of another history than what is here: see
    /// `cut`), WouldBlock (no room for a segment: try again, with the same batch), Halted.
    pub fn take(&self, bytes: &[u8]) -> Result<u64> {
        let batch = Batch::decode(bytes)?;
        if batch.volume != self.volume {
            return Err(Error::Conflict("the log batch is of another volume".into()));
        }
        let mut state = self.lock()?;
        self.durability.check()?;
        self.claim(&mut state)?;
        for part in &batch.parts {
            self.take_part(&mut state, part)?;
        }
        match state.end.lsn >= batch.last_lsn {
            true => Ok(state.end.lsn),
            false => Err(wrong("it ends before its last record")),
        }
    }

    fn take_part(&self, state: &mut State, part: &Part) -> Result<()> {
        let header = &part.head.header;
        if let Some(segment) = state.segments.get(&header.number).cloned() {
            if segment.header != *header {
                return Err(other_history(header.number));
            }
            return self.go_on(state, &segment, part);
        }
        if state.segments.is_empty() {
            if part.records.is_empty() {
                return Ok(()); // the seal of a segment before the first
            }
        } else if header.number < state.first_number() {
            return Ok(()); // trimmed
        } else if header.first_lsn > state.end.lsn + 1 || header.number > state.end.number + 1 {
            return Err(gap(state.end.lsn, header.first_lsn));
        } else if header.first_lsn != state.end.lsn + 1
            || header.number != state.end.number + 1
            || header.previous_chain != state.end.chain
        {
            return Err(other_history(header.number));
        }
        if part.head.at != 0 {
            return Err(Error::Conflict(format!(
                "there is a gap: of segment {} nothing is here, and the batch has it from byte {} of its records on",
                header.number, part.head.at
            )));
        }
        let start = Included {
            lsn: header.first_lsn - 1,
            number: header.number,
            chain: header.chain(),
        };
        let verified = verify(part, 0, start, 0)?;
        self.begin(state, part)?;
        self.append(state, part, 0, &verified)
    }

    /// A part of a segment that is here, or of which there is a beginning.
    fn go_on(&self, state: &mut State, segment: &Arc<Segment>, part: &Part) -> Result<()> {
        let is_last = segment.header.number == state.end.number;
        let (held, slots) = match (&state.last, segment.end()) {
            (Some(last), _) if is_last => (last.used, last.slots),
            (_, Some(end)) => (end.record_bytes as usize, end.clusters),
            _ => return Err(Error::Internal("a replica's segment without an end".into())),
        };
        let (at, bytes) = (part.head.at as usize, part.records.len());
        if at > held {
            return Err(gap(state.end.lsn, part_lsn(part)));
        }
        let known = bytes.min(held - at);
        if !state.has(segment, is_last, at, &part.records[..known])? {
            return Err(other_history(segment.header.number));
        }
        let sealed = state.last.as_ref().is_some_and(|last| last.seal.is_some());
        if known < bytes && (!is_last || sealed) {
            return Err(other_history(segment.header.number));
        }
        let seal_before = part.head.seal.is_some() && at + bytes < held;
        if seal_before {
            return Err(other_history(segment.header.number));
        }
        if !is_last || sealed || at + bytes < held {
            return Ok(());
        }
        let verified = verify(part, known, state.end, slots)?;
        self.append(state, part, known, &verified)
    }

    /// Takes a file for the segment of this part and writes its header.
    fn begin(&self, state: &mut State, part: &Part) -> Result<()> {
        let header = part.head.header;
        let (index, file) = match state.taken.take() {
            Some(taken) => taken,
            None => state.pool.take(self.volume)?,
        };
        // Where the disk refuses it, the next try goes on with the same file: no two may ever claim one number.
        state.taken = Some((index, file.clone()));
        let mut mark = state.mark(self.durability.lsn());
        if state.segments.is_empty() {
            (mark.first_number, mark.first_lsn) = (header.number, header.first_lsn);
        }
        file.pwrite(&header.encode_copy(None, &mark), 0)
            .map_err(|error| self.refused(state, "writing a segment header", &error))?;
        state.taken = None;
        if let Some(last) = state.last.take().filter(|last| last.seal.is_none()) {
            // The header of this one says where it ends; the owner's seal did not come.
            last.segment.set_end(Seal {
                last_lsn: state.end.lsn,
                chain: state.end.chain,
                durable_lsn: header.durable_lsn,
                clusters: last.slots,
                record_bytes: last.used as u32,
            });
        }
        let segment = Arc::new(Segment::new(index, file, header, None));
        state.segments.insert(header.number, segment.clone());
        state.unsynced.push(segment.clone());
        state.end = Included {
            number: header.number,
            chain: header.chain(),
            ..state.end
        };
        if state.segments.len() == 1 {
            state.end.lsn = header.first_lsn - 1;
        }
        state.last = Some(Last {
            segment,
            records: vec![0u8; RECORDS_BYTES],
            used: 0,
            slots: 0,
            seal: None,
        });
        Ok(())
    }

    /// Writes what is new in a verified part: from byte `known` of its records on.
    fn append(&self, state: &mut State, part: &Part, known: usize, to: &Verified) -> Result<()> {
        let new = &part.records[known..];
        let Some(last) = &mut state.last else {
            return Err(Error::Internal("a replica without a last segment".into()));
        };
        let (start, end) = (last.used, last.used + new.len());
        if !new.is_empty() {
            let skipped = (last.slots - part.head.slot) as usize * CLUSTER;
            let data = &part.data[skipped..];
            last.records[start..end].copy_from_slice(new);
            let (head, tail) = (start / PAGE * PAGE, end.div_ceil(PAGE) * PAGE);
            let file = &last.segment.file;
            let written = match data.is_empty() {
                true => Ok(()),
                false => file.pwrite(data, data_offset(last.slots)),
            };
            let written = written
                .and_then(|()| file.pwrite(&last.records[head..tail], RECORDS_AT + head as u64));
            if let Err(error) = written {
                last.records[start..end].fill(0);
                return Err(self.refused(state, "writing to a replica", &error));
            }
            last.used = end;
            last.slots = to.slots;
            state.end = to.end;
            let segment = last.segment.clone();
            if !state.unsynced.iter().any(|s| Arc::ptr_eq(s, &segment)) {
                state.unsynced.push(segment);
            }
            state.pool.fullness().accepted(DiskPart::Log);
        }
        match part.head.seal {
            Some(seal) => self.seal(state, seal),
            None => Ok(()),
        }
    }

    /// `seal` is right: see `verify`.
    fn seal(&self, state: &mut State, seal: Seal) -> Result<()> {
        let mark = state.mark(self.durability.lsn());
        let Some(last) = &mut state.last else {
            return Err(Error::Internal("a replica without a last segment".into()));
        };
        let page = last.segment.header.encode_copy(Some(&seal), &mark);
        if let Err(error) = last.segment.file.pwrite(&page, 0) {
            return Err(self.refused(state, "sealing a segment", &error));
        }
        last.seal = Some(seal);
        last.segment.set_end(seal);
        let segment = last.segment.clone();
        if !state.unsynced.iter().any(|s| Arc::ptr_eq(s, &segment)) {
            state.unsynced.push(segment);
        }
        Ok(())
    }
}

impl State {
    /// Whether these records stand there.
    fn has(&self, segment: &Segment, is_last: bool, at: usize, records: &[u8]) -> Result<bool> {
        if let Some(last) = self.last.as_ref().filter(|_| is_last) {
            return Ok(last.records[at..at + records.len()] == *records);
        }
        let mut here = vec![0u8; records.len()];
        segment
            .file
            .pread(&mut here, RECORDS_AT + at as u64)
            .map_err(|error| Error::disk("reading a replica", &error))?;
        Ok(here == records)
    }
}

fn other_history(number: u64) -> Error {
    Error::Conflict(format!(
        "the log batch is of another history than what is here: they differ in segment {number}"
    ))
}

fn gap(end_lsn: u64, first_lsn: u64) -> Error {
    Error::Conflict(format!(
        "there is a gap: what is here ends at record {end_lsn}, the log batch goes on at {first_lsn}"
    ))
}

/// LSN of a part's first record, for a message.
fn part_lsn(part: &Part) -> u64 {
    let first = crate::segment::outlines(part.records).next();
    first.map_or(part.head.header.first_lsn, |first| first.lsn)
}

/// Verifies the records of a part from byte `known` on, which must go on behind `from` with data slot `slots`, and its seal.
fn verify(part: &Part, known: usize, from: Included, slots: u32) -> Result<Verified> {
    let head = &part.head;
    let mut records = Records::new(&head.header, &part.records[known..]);
    (records.lsn, records.chain, records.slots) = (from.lsn, from.chain, slots);
    while records.at < part.records.len() - known {
        let record = records
            .peek()
            .ok_or_else(|| wrong(&format!("behind record {}", records.lsn)))?;
        if record.lsn > LSN_MAX || record.durable_lsn >= record.lsn {
            return Err(wrong("an LSN is out of range"));
        }
        match record.op {
            Op::Write { lba, slot } => {
                in_range(lba, u64::from(record.clusters()))?;
                let data = slot
                    .checked_sub(head.slot)
                    .and_then(|slot| part.data.get(slot as usize * CLUSTER..))
                    .filter(|data| data.len() >= record.clusters() as usize * CLUSTER)
                    .ok_or_else(|| wrong("data are missing"))?;
                let right = |(data, crc)| crc32c(data) == crc;
                if !data.chunks_exact(CLUSTER).zip(record.crcs()).all(right) {
                    return Err(wrong(&format!("the data of record {}", record.lsn)));
                }
            }
            Op::Zero { lba, clusters } => in_range(lba, clusters)?,
            Op::Mark => {}
        }
        records.advance(&record);
    }
    if records.slots != head.slot + head.slots {
        return Err(wrong("there are data without records"));
    }
    let end = Included {
        lsn: records.lsn,
        number: head.header.number,
        chain: records.chain,
    };
    let ends_here = |seal: Seal| {
        seal.last_lsn == end.lsn
            && seal.chain == end.chain
            && seal.durable_lsn <= end.lsn
            && seal.clusters == records.slots
            && u64::from(seal.record_bytes) == u64::from(head.at) + u64::from(head.bytes)
            && seal.record_bytes > 0
    };
    match head.seal {
        Some(seal) if !ends_here(seal) => Err(wrong("a seal does not fit")),
        _ => Ok(Verified {
            end,
            slots: records.slots,
        }),
    }
}

/// No address space has more clusters than 2^63.
fn in_range(lba: u64, clusters: u64) -> Result<()> {
    match lba.checked_add(clusters) {
        Some(end) if end <= 1 << 63 => Ok(()),
        _ => Err(wrong("an address is out of range")),
    }
}
