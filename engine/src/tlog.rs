//! The codec of TLogs and combined objects (`docs/formats/tlog.md`): pure, no I/O.

use crate::error::{Error, Result};
use crate::map::fields::{checked, seal, Fields};
use crate::types::{TlogRef, Uuid, CLUSTER, SCO_CLUSTERS};

const MAGIC: &[u8; 8] = b"vPoolTLG";
const COMBINED_MAGIC: &[u8; 8] = b"vPoolCMB";
const VERSION: u32 = 1;
const HEADER: usize = 128;
const SCO_ITEM: usize = 16;
const ENTRY_HEAD: usize = 24;
const TRAILER: usize = 24;
const FLAG_COMBINED: u32 = 1;
const FLAG_FIRST_OF_EPOCH: u32 = 2;
const KIND_WRITE: u8 = 1;
const KIND_ZERO: u8 = 2;
const WHAT: &str = "tlog";

/// One record of the log: what happened at cluster address `lba`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogEntry {
    pub lba: u64,
    pub op: TlogOp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlogOp {
    /// `crcs.len()` clusters stand in SCO `number` from `slot` on; each has its CRC32C.
    Write {
        number: u64,
        slot: u32,
        crcs: Vec<u32>,
    },
    /// So many clusters read as zeros from here on.
    Zero { clusters: u64 },
}

/// One SCO that a TLog covers. `clusters` 0: an empty segment, no such object exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlogSco {
    pub number: u64,
    pub clusters: u32,
    /// CRC32C of the whole SCO.
    pub crc: u32,
}

/// What a TLog says of itself; the counts follow from what is added to the builder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogHeader {
    pub volume: Uuid,
    pub epoch: u64,
    pub number: u64,
    /// None: the log begins here. With `first_of_epoch`: the epoch's base.
    pub previous: Option<TlogRef>,
    pub first_of_epoch: bool,
    pub first_sco: u64,
    /// One past the last SCO number.
    pub next_sco: u64,
    /// LSN of the last entry's record.
    pub last_lsn: u64,
    /// Stored behind the data of its only SCO.
    pub combined: bool,
}

/// A decoded TLog, verified as a whole. `checksum` is *the checksum of the TLog* (its footer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlog {
    pub header: TlogHeader,
    pub scos: Vec<TlogSco>,
    pub entries: Vec<TlogEntry>,
    pub checksum: u64,
}

/// Collects a TLog's parts in log order. The same calls give the same bytes.
#[derive(Clone, Debug)]
pub struct TlogBuilder {
    header: TlogHeader,
    scos: Vec<u8>,
    entries: Vec<u8>,
    entry_count: u32,
}

impl TlogBuilder {
    pub fn new(header: TlogHeader) -> TlogBuilder {
        TlogBuilder {
            header,
            scos: Vec::new(),
            entries: Vec::new(),
            entry_count: 0,
        }
    }

    /// Adds a SCO to the table; in ascending order of numbers.
    pub fn sco(&mut self, sco: TlogSco) -> &mut Self {
        self.scos.extend_from_slice(&sco.number.to_le_bytes());
        self.scos.extend_from_slice(&sco.clusters.to_le_bytes());
        self.scos.extend_from_slice(&sco.crc.to_le_bytes());
        self
    }

    /// Adds a write of `crcs.len()` clusters (1–1,024) that stand in SCO `number` from `slot` on.
    pub fn write(&mut self, lba: u64, number: u64, slot: u32, crcs: &[u32]) -> &mut Self {
        debug_assert!(!crcs.is_empty() && crcs.len() <= SCO_CLUSTERS as usize);
        self.entry(KIND_WRITE, crcs.len() as u16, slot, lba, number);
        for crc in crcs {
            self.entries.extend_from_slice(&crc.to_le_bytes());
        }
        if crcs.len() % 2 == 1 {
            self.entries.extend_from_slice(&[0; 4]);
        }
        self
    }

    /// Adds a clearing of `clusters` (at least 1) clusters.
    pub fn zero(&mut self, lba: u64, clusters: u64) -> &mut Self {
        debug_assert!(clusters > 0);
        self.entry(KIND_ZERO, 0, 0, lba, clusters);
        self
    }

    fn entry(&mut self, kind: u8, crcs: u16, slot: u32, lba: u64, value: u64) {
        self.entries.extend_from_slice(&[kind, 0]);
        self.entries.extend_from_slice(&crcs.to_le_bytes());
        self.entries.extend_from_slice(&slot.to_le_bytes());
        self.entries.extend_from_slice(&lba.to_le_bytes());
        self.entries.extend_from_slice(&value.to_le_bytes());
        self.entry_count += 1;
    }

    /// Bytes of the entry area so far: what decides when a TLog is full.
    pub fn entry_bytes(&self) -> usize {
        self.entries.len()
    }

    /// The whole TLog with its footer; the last 8 bytes are its checksum.
    pub fn finish(&self) -> Vec<u8> {
        let h = &self.header;
        let mut out = Vec::with_capacity(HEADER + self.scos.len() + self.entries.len() + 8);
        let mut flags = 0;
        if h.combined {
            flags |= FLAG_COMBINED;
        }
        if h.first_of_epoch {
            flags |= FLAG_FIRST_OF_EPOCH;
        }
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&h.volume);
        let previous = h.previous.unwrap_or(TlogRef {
            epoch: 0,
            number: 0,
            combined_sco: 0,
            checksum: 0,
        });
        for field in [
            h.epoch,
            h.number,
            previous.epoch,
            previous.number,
            previous.combined_sco,
            previous.checksum,
            h.first_sco,
            h.next_sco,
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&((self.scos.len() / SCO_ITEM) as u32).to_le_bytes());
        out.extend_from_slice(&self.entry_count.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        out.extend_from_slice(&h.last_lsn.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.scos);
        out.extend_from_slice(&self.entries);
        seal(&mut out, 0);
        out
    }
}

/// Decodes a TLog (without data or trailer) and verifies everything that can be without its SCOs: footer, magic, version, bounds,
/// that slots are used in order and stand in SCOs of the table.
///
/// Errors: Corrupt, saying what is wrong. Never panics; allocates no more than a small multiple of `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Tlog> {
    let mut f = Fields::new(WHAT, bytes);
    f.magic(MAGIC, VERSION)?;
    let (body, checksum) = checked(WHAT, bytes)?;
    let mut f = Fields::new(WHAT, body);
    f.take(12)?;
    let flags = f.u32()?;
    let volume = f.uuid()?;
    let (epoch, number) = (f.u64()?, f.u64()?);
    let previous = TlogRef {
        epoch: f.u64()?,
        number: f.u64()?,
        combined_sco: f.u64()?,
        checksum: f.u64()?,
    };
    let (first_sco, next_sco) = (f.u64()?, f.u64()?);
    let (sco_count, entry_count) = (f.u32()? as usize, f.u32()? as usize);
    let entry_bytes = f.u64()?;
    let last_lsn = f.u64()?;
    f.take(8)?;
    let header = TlogHeader {
        volume,
        epoch,
        number,
        previous: (previous.epoch != 0).then_some(previous),
        first_of_epoch: flags & FLAG_FIRST_OF_EPOCH != 0,
        first_sco,
        next_sco,
        last_lsn,
        combined: flags & FLAG_COMBINED != 0,
    };
    let table = f.take(
        sco_count
            .checked_mul(SCO_ITEM)
            .ok_or_else(|| f.corrupt("too many SCOs"))?,
    )?;
    if f.left() as u64 != entry_bytes {
        return Err(f.corrupt("wrong size of the entry area"));
    }
    let scos = decode_table(&header, table, sco_count)?;
    let entries = decode_entries(&scos, f, entry_count)?;
    Ok(Tlog {
        header,
        scos,
        entries,
        checksum,
    })
}

fn decode_table(header: &TlogHeader, table: &[u8], count: usize) -> Result<Vec<TlogSco>> {
    let mut f = Fields::new(WHAT, table);
    let mut scos: Vec<TlogSco> = Vec::with_capacity(count);
    if header.next_sco < header.first_sco {
        return Err(f.corrupt("next SCO before the first"));
    }
    for _ in 0..count {
        let sco = TlogSco {
            number: f.u64()?,
            clusters: f.u32()?,
            crc: f.u32()?,
        };
        let after = scos
            .last()
            .map_or(header.first_sco, |last| last.number.saturating_add(1));
        if sco.number < after || sco.number >= header.next_sco || sco.clusters > SCO_CLUSTERS {
            return Err(f.corrupt("SCO out of order or out of bounds"));
        }
        scos.push(sco);
    }
    if header.combined && (scos.len() != 1 || scos[0].clusters == 0) {
        return Err(f.corrupt("combined, but not with exactly one SCO that has data"));
    }
    Ok(scos)
}

fn decode_entries(scos: &[TlogSco], mut f: Fields<'_>, count: usize) -> Result<Vec<TlogEntry>> {
    if count > f.left() / ENTRY_HEAD {
        return Err(f.corrupt("more entries than bytes for them"));
    }
    let mut entries = Vec::with_capacity(count);
    let mut table = scos.iter();
    let mut current: Option<&TlogSco> = None;
    let mut next_slot = 0;
    for _ in 0..count {
        let kind = f.u8()?;
        f.take(1)?;
        let crcs = u32::from(f.u16()?);
        let slot = f.u32()?;
        let lba = f.u64()?;
        let value = f.u64()?;
        let op = match kind {
            KIND_WRITE => {
                if current.map(|sco| sco.number) != Some(value) {
                    current = table.by_ref().find(|sco| sco.number == value);
                    next_slot = 0;
                }
                let room = current.map_or(0, |sco| sco.clusters);
                if crcs == 0 || crcs > room || slot < next_slot || slot > room - crcs {
                    return Err(f.corrupt("write outside of its SCO or out of order"));
                }
                if lba.checked_add(u64::from(crcs)).is_none() {
                    return Err(f.corrupt("write beyond the address space"));
                }
                next_slot = slot + crcs;
                let raw = f.take(crcs as usize * 4)?;
                if crcs % 2 == 1 {
                    f.take(4)?;
                }
                let crcs = raw
                    .chunks_exact(4)
                    .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
                    .collect();
                TlogOp::Write {
                    number: value,
                    slot,
                    crcs,
                }
            }
            KIND_ZERO => {
                if crcs != 0 || value == 0 || lba.checked_add(value).is_none() {
                    return Err(f.corrupt("malformed zero entry"));
                }
                TlogOp::Zero { clusters: value }
            }
            _ => return Err(f.corrupt("unknown kind of entry")),
        };
        entries.push(TlogEntry { lba, op });
    }
    f.end()?;
    Ok(entries)
}

/// A combined object: data (n × 4096 bytes of the one SCO), its TLog, trailer.
pub fn combine(data: &[u8], tlog: &[u8]) -> Vec<u8> {
    debug_assert!(data.len() % CLUSTER == 0);
    let mut out = Vec::with_capacity(data.len() + tlog.len() + TRAILER);
    out.extend_from_slice(data);
    out.extend_from_slice(tlog);
    out.extend_from_slice(&(data.len() as u64).to_le_bytes());
    out.extend_from_slice(&(tlog.len() as u64).to_le_bytes());
    out.extend_from_slice(COMBINED_MAGIC);
    out
}

/// The TLog part of a combined object, verified as by [`decode`]. `bytes` is the object, or an end of it that holds at least the TLog
/// and the trailer.
///
/// Errors: Corrupt. The data part is not looked at (its CRC32C is in the TLog).
pub fn split_combined(bytes: &[u8]) -> Result<&[u8]> {
    let what = "combined object";
    let at = bytes.len().saturating_sub(TRAILER);
    let mut f = Fields::new(what, &bytes[at..]);
    let (data, length) = (f.u64()?, f.u64()?);
    if f.take(8)? != COMBINED_MAGIC {
        return Err(f.corrupt("wrong magic"));
    }
    let length = usize::try_from(length)
        .ok()
        .filter(|l| *l <= at)
        .ok_or_else(|| f.corrupt("TLog not within the bytes given"))?;
    let part = &bytes[at - length..at];
    let tlog = decode(part)?;
    let expected = tlog
        .scos
        .first()
        .map_or(0, |sco| u64::from(sco.clusters) * CLUSTER as u64);
    if !tlog.header.combined || data != expected || (at - length) as u64 > data {
        return Err(Error::Corrupt(format!(
            "{what}: its parts do not fit together"
        )));
    }
    Ok(part)
}
