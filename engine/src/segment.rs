//! The format of a log segment: header, seal, records. Pure; see `docs/formats/segment.md` for the tables.

use crc32c::{crc32c, crc32c_append};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::types::{Uuid, CLUSTER, SCO_CLUSTERS};

/// Bytes of the header page.
pub const HEADER_BYTES: usize = 4096;
/// Where the records begin in the file.
pub const RECORDS_AT: u64 = 4096;
/// Room for records.
pub const RECORDS_BYTES: usize = 61_440;
/// Where slot 0 of the data begins in the file.
pub const DATA_AT: u64 = 65_536;
/// Size of a segment file.
pub const SEGMENT_BYTES: u64 = DATA_AT + SCO_CLUSTERS as u64 * CLUSTER as u64;

const MAGIC: &[u8; 8] = b"vPoolSEG";
const VERSION: u32 = 1;
const CHECKED: usize = 120;
const SEAL_AT: usize = 128;
const SEAL_CHECKED: usize = 32;
const MARK_AT: usize = 176;
const MARK_CHECKED: usize = 24;
const MARK_SALT: u64 = 0x796c_7065_7220_6120;
const RECORD_FIXED: usize = 48;

/// Where slot `slot` is in the file.
pub fn data_offset(slot: u32) -> u64 {
    DATA_AT + u64::from(slot) * CLUSTER as u64
}

/// What a segment's use began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub volume: Uuid,
    /// Epoch in which the segment was opened.
    pub epoch: u64,
    /// Number of the SCO that it holds.
    pub number: u64,
    /// New for each use of the file, never 0.
    pub nonce: u64,
    /// LSN of its first record.
    pub first_lsn: u64,
    /// Chain value after the last record before this segment.
    pub previous_chain: u64,
    /// Every record up to this LSN was durable when the header was written.
    pub durable_lsn: u64,
}

/// Where a segment ends, written into its header page when it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    pub last_lsn: u64,
    /// Chain value after the last record.
    pub chain: u64,
    /// Every record up to this LSN was durable when the seal was written.
    pub durable_lsn: u64,
    /// Data slots in use.
    pub clusters: u32,
    /// Bytes of records.
    pub record_bytes: u32,
}

/// In a segment that is a copy of another node's: what this node knows of its own disk. The durable LSNs in header, seal and
/// records are the owner's, of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyMark {
    /// SCO number with which the copy of the log begins.
    pub first_number: u64,
    /// LSN of the first record there.
    pub first_lsn: u64,
    /// Every record from there up to this one was durable here when the mark was written.
    pub synced_lsn: u64,
}

/// What a header page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderPage {
    /// All zero.
    Free,
    Valid(Header, Option<Seal>),
    /// Something, but not what was written: the fields as they stand.
    Damaged(Header),
    /// Written by a later version of this program.
    Newer(u32),
}

impl Header {
    /// The header page, zero padded.
    pub fn encode(&self, seal: Option<&Seal>) -> Vec<u8> {
        let mut page = vec![0u8; HEADER_BYTES];
        page[0..8].copy_from_slice(MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[16..32].copy_from_slice(&self.volume);
        for (at, value) in [
            (32, self.epoch),
            (40, self.number),
            (48, self.nonce),
            (56, self.first_lsn),
            (64, self.previous_chain),
            (72, self.durable_lsn),
        ] {
            put64(&mut page, at, value);
        }
        let checksum = xxh3_64(&page[..CHECKED]);
        put64(&mut page, CHECKED, checksum);
        if let Some(seal) = seal {
            put64(&mut page, SEAL_AT, seal.last_lsn);
            put64(&mut page, SEAL_AT + 8, seal.chain);
            put64(&mut page, SEAL_AT + 16, seal.durable_lsn);
            page[SEAL_AT + 24..SEAL_AT + 28].copy_from_slice(&seal.clusters.to_le_bytes());
            page[SEAL_AT + 28..SEAL_AT + 32].copy_from_slice(&seal.record_bytes.to_le_bytes());
            let check = xxh3_64_with_seed(&page[SEAL_AT..SEAL_AT + SEAL_CHECKED], checksum);
            put64(&mut page, SEAL_AT + SEAL_CHECKED, check);
        }
        page
    }

    /// The same page in a copy of the segment. All that is not zero stands in its first sector.
    pub fn encode_copy(&self, seal: Option<&Seal>, mark: &CopyMark) -> Vec<u8> {
        let mut page = self.encode(seal);
        put64(&mut page, MARK_AT, mark.first_number);
        put64(&mut page, MARK_AT + 8, mark.first_lsn);
        put64(&mut page, MARK_AT + 16, mark.synced_lsn);
        let check = mark_check(&page);
        put64(&mut page, MARK_AT + MARK_CHECKED, check);
        page
    }

    /// The mark in a header page that is valid, if it is a copy's.
    pub fn copy_mark(page: &[u8]) -> Option<CopyMark> {
        let right = page.len() >= HEADER_BYTES
            && get64(page, MARK_AT) != 0
            && get64(page, MARK_AT + MARK_CHECKED) == mark_check(page);
        right.then(|| CopyMark {
            first_number: get64(page, MARK_AT),
            first_lsn: get64(page, MARK_AT + 8),
            synced_lsn: get64(page, MARK_AT + 16),
        })
    }

    /// Reads a header page of `HEADER_BYTES` bytes.
    pub fn decode(page: &[u8]) -> HeaderPage {
        if page.len() < HEADER_BYTES || page.iter().all(|byte| *byte == 0) {
            return HeaderPage::Free;
        }
        let mut volume = [0u8; 16];
        volume.copy_from_slice(&page[16..32]);
        let header = Header {
            volume,
            epoch: get64(page, 32),
            number: get64(page, 40),
            nonce: get64(page, 48),
            first_lsn: get64(page, 56),
            previous_chain: get64(page, 64),
            durable_lsn: get64(page, 72),
        };
        let checksum = xxh3_64(&page[..CHECKED]);
        if &page[0..8] != MAGIC || get64(page, CHECKED) != checksum {
            return HeaderPage::Damaged(header);
        }
        let version = get32(page, 8);
        if version != VERSION {
            return HeaderPage::Newer(version);
        }
        if header.number == 0 || header.nonce == 0 || header.first_lsn == 0 {
            return HeaderPage::Damaged(header);
        }
        let check = xxh3_64_with_seed(&page[SEAL_AT..SEAL_AT + SEAL_CHECKED], checksum);
        let seal = (get64(page, SEAL_AT + SEAL_CHECKED) == check).then(|| Seal {
            last_lsn: get64(page, SEAL_AT),
            chain: get64(page, SEAL_AT + 8),
            durable_lsn: get64(page, SEAL_AT + 16),
            clusters: get32(page, SEAL_AT + 24),
            record_bytes: get32(page, SEAL_AT + 28),
        });
        HeaderPage::Valid(header, seal)
    }

    /// Chain value before the first record: volume, epoch, number and nonce are part of it.
    pub fn chain(&self) -> u64 {
        xxh3_64_with_seed(&self.encode(None)[..CHECKED], self.previous_chain)
    }

    /// What the self checksums of this use of the file start with.
    pub fn nonce_crc(&self) -> u32 {
        crc32c(&self.nonce.to_le_bytes())
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Consecutive slots from `slot` hold consecutive clusters from `lba`.
    Write {
        lba: u64,
        slot: u32,
    },
    Zero {
        lba: u64,
        clusters: u64,
    },
    /// Nothing but that more has become durable.
    Mark,
}

/// A record as it stands in the record area.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub op: Op,
    pub lsn: u64,
    pub durable_lsn: u64,
    pub chain: u64,
    /// 4 bytes per cluster.
    crcs: &'a [u8],
    /// Bytes 4 to 39, which the chain covers together with the checksums.
    fixed: &'a [u8],
    /// Bytes of the record, padding included.
    pub bytes: usize,
}

impl Record<'_> {
    /// Clusters written.
    pub fn clusters(&self) -> u32 {
        (self.crcs.len() / 4) as u32
    }

    /// CRC32C of each cluster written.
    pub fn crcs(&self) -> impl Iterator<Item = u32> + '_ {
        self.crcs.chunks_exact(4).map(|c| get32(c, 0))
    }
}

/// Bytes of a record with `clusters` checksums.
pub fn record_bytes(clusters: usize) -> usize {
    (RECORD_FIXED + 4 * clusters + 7) & !7
}

/// Writes a record into `out` (exactly `record_bytes` long) and returns the chain value after it.
pub fn encode_record(
    out: &mut [u8],
    nonce_crc: u32,
    chain: u64,
    op: Op,
    lsn: u64,
    durable_lsn: u64,
    crcs: &[u32],
) -> u64 {
    debug_assert_eq!(out.len(), record_bytes(crcs.len()));
    let (kind, lba, argument) = match op {
        Op::Write { lba, slot } => (1u8, lba, u64::from(slot)),
        Op::Zero { lba, clusters } => (2, lba, clusters),
        Op::Mark => (3, 0, 0),
    };
    out[4] = kind;
    out[5] = 0;
    out[6..8].copy_from_slice(&(crcs.len() as u16).to_le_bytes());
    put64(out, 8, lsn);
    put64(out, 16, lba);
    put64(out, 24, argument);
    put64(out, 32, durable_lsn);
    let end = RECORD_FIXED + 4 * crcs.len();
    for (at, crc) in out[RECORD_FIXED..end].chunks_exact_mut(4).zip(crcs) {
        at.copy_from_slice(&crc.to_le_bytes());
    }
    out[end..].fill(0);
    let chain = chain_after(chain, &out[4..40], &out[RECORD_FIXED..end]);
    put64(out, 40, chain);
    let check = crc32c_append(nonce_crc, &out[4..]);
    out[0..4].copy_from_slice(&check.to_le_bytes());
    chain
}

fn mark_check(page: &[u8]) -> u64 {
    let seed = get64(page, CHECKED) ^ MARK_SALT;
    xxh3_64_with_seed(&page[MARK_AT..MARK_AT + MARK_CHECKED], seed)
}

fn chain_after(seed: u64, fixed: &[u8], crcs: &[u8]) -> u64 {
    let mut small = [0u8; 36 + 64];
    if crcs.len() <= 64 {
        small[..36].copy_from_slice(fixed);
        small[36..36 + crcs.len()].copy_from_slice(crcs);
        xxh3_64_with_seed(&small[..36 + crcs.len()], seed)
    } else {
        xxh3_64_with_seed(&[fixed, crcs].concat(), seed)
    }
}

/// The record at `at` in a record area if its self checksum is right; the chain is not looked at.
pub fn record_at(area: &[u8], at: usize, nonce_crc: u32) -> Option<Record<'_>> {
    let rest = area.get(at..)?;
    if rest.len() < RECORD_FIXED {
        return None;
    }
    let kind = rest[4];
    let clusters = usize::from(u16::from_le_bytes([rest[6], rest[7]]));
    let bytes = record_bytes(clusters);
    if !(1..=3).contains(&kind)
        || (kind == 1) != (1..=SCO_CLUSTERS as usize).contains(&clusters)
        || (kind != 1 && clusters != 0)
        || rest.len() < bytes
        || crc32c_append(nonce_crc, &rest[4..bytes]) != get32(rest, 0)
    {
        return None;
    }
    let lba = get64(rest, 16);
    let argument = get64(rest, 24);
    let op = match kind {
        1 => {
            if argument + clusters as u64 > u64::from(SCO_CLUSTERS) {
                return None;
            }
            Op::Write {
                lba,
                slot: argument as u32,
            }
        }
        2 => Op::Zero {
            lba,
            clusters: argument,
        },
        _ => Op::Mark,
    };
    Some(Record {
        op,
        lsn: get64(rest, 8),
        durable_lsn: get64(rest, 32),
        chain: get64(rest, 40),
        crcs: &rest[RECORD_FIXED..RECORD_FIXED + 4 * clusters],
        fixed: &rest[4..40],
        bytes,
    })
}

/// What a walk over records needs to know of one; nothing is verified but that it lies within the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    pub lsn: u64,
    pub chain: u64,
    /// Where it begins in the area, and its bytes.
    pub at: usize,
    pub bytes: usize,
    /// Data slots.
    pub clusters: u32,
}

/// The outlines of the records in an area that was verified before, from its beginning.
pub fn outlines(area: &[u8]) -> impl Iterator<Item = Outline> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = area.get(at..)?;
        if rest.len() < RECORD_FIXED {
            return None;
        }
        let clusters = u16::from_le_bytes([rest[6], rest[7]]);
        let outline = Outline {
            lsn: get64(rest, 8),
            chain: get64(rest, 40),
            at,
            bytes: record_bytes(usize::from(clusters)),
            clusters: u32::from(clusters),
        };
        at += outline.bytes;
        (at <= area.len()).then_some(outline)
    })
}

/// The records of a segment in order, as far as self checksum, chain, LSN and slots are right.
pub struct Records<'a> {
    area: &'a [u8],
    nonce_crc: u32,
    /// Bytes consumed.
    pub at: usize,
    /// LSN of the last record taken (before the first: of the one before the segment).
    pub lsn: u64,
    /// Chain value after the last record taken.
    pub chain: u64,
    /// Slots used by the records taken.
    pub slots: u32,
    /// The chain is verified; only a test of the tests switches it off.
    pub check_chain: bool,
}

impl<'a> Records<'a> {
    pub fn new(header: &Header, area: &'a [u8]) -> Records<'a> {
        Records {
            area,
            nonce_crc: header.nonce_crc(),
            at: 0,
            lsn: header.first_lsn - 1,
            chain: header.chain(),
            slots: 0,
            check_chain: true,
        }
    }

    /// The next record without taking it.
    pub fn peek(&self) -> Option<Record<'a>> {
        let record = record_at(self.area, self.at, self.nonce_crc)?;
        if self.check_chain
            && (record.lsn != self.lsn + 1
                || record.chain != chain_after(self.chain, record.fixed, record.crcs))
        {
            return None;
        }
        match record.op {
            Op::Write { slot, .. } if slot != self.slots && self.check_chain => None,
            _ => Some(record),
        }
    }

    /// Takes what `peek` gave.
    pub fn advance(&mut self, record: &Record<'a>) {
        self.at += record.bytes;
        self.lsn = record.lsn;
        self.chain = record.chain;
        if let Op::Write { slot, .. } = record.op {
            self.slots = slot + record.clusters();
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let record = self.peek()?;
        self.advance(&record);
        Some(record)
    }
}

fn put64(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get64(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0u8; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            volume: *b"0123456789abcdef",
            epoch: 3,
            number: 7,
            nonce: 0x1122_3344_5566_7788,
            first_lsn: 11,
            previous_chain: 99,
            durable_lsn: 9,
        }
    }

    fn area(header: &Header) -> Vec<u8> {
        let mut area = vec![0u8; RECORDS_BYTES];
        let (mut chain, mut at) = (header.chain(), 0);
        for (n, (op, crcs)) in [
            (Op::Write { lba: 5, slot: 0 }, vec![1u32, 2, 3]),
            (
                Op::Zero {
                    lba: 9,
                    clusters: 1 << 40,
                },
                vec![],
            ),
            (Op::Write { lba: 6, slot: 3 }, vec![4]),
            (Op::Mark, vec![]),
        ]
        .into_iter()
        .enumerate()
        {
            let bytes = record_bytes(crcs.len());
            let out = &mut area[at..at + bytes];
            chain = encode_record(out, header.nonce_crc(), chain, op, 11 + n as u64, 9, &crcs);
            at += bytes;
        }
        area
    }

    /// Would break: a restart could not read what was written.
    #[test]
    fn what_was_written_is_read_back() {
        let header = header();
        let seal = Seal {
            last_lsn: 14,
            chain: 5,
            durable_lsn: 14,
            clusters: 4,
            record_bytes: 224,
        };
        assert_eq!(
            Header::decode(&header.encode(None)),
            HeaderPage::Valid(header, None)
        );
        assert_eq!(
            Header::decode(&header.encode(Some(&seal))),
            HeaderPage::Valid(header, Some(seal))
        );
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), HeaderPage::Free);
        let area = area(&header);
        let mut records = Records::new(&header, &area);
        let ops: Vec<Op> = records.by_ref().map(|r| r.op).collect();
        assert_eq!(ops.len(), 4);
        assert_eq!(ops[0], Op::Write { lba: 5, slot: 0 });
        assert_eq!(records.slots, 4);
        assert_eq!(records.lsn, 14);
    }

    /// Would break: damage in a record could be taken for data, or stale records of a recycled file for new ones.
    #[test]
    fn no_flipped_byte_and_no_other_nonce_passes() {
        let header = header();
        let good = area(&header);
        let used = Records::new(&header, &good).map(|r| r.bytes).sum::<usize>();
        for at in 0..used {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            let mut intact = 0;
            let mut records = Records::new(&header, &bad);
            while records.next().is_some() {
                intact = records.at;
            }
            assert!(intact <= at, "byte {at} was not noticed");
        }
        let other = Header { nonce: 1, ..header };
        assert_eq!(Records::new(&other, &good).count(), 0);
        let page = header.encode(None);
        for at in 0..128 {
            let mut bad = page.clone();
            bad[at] ^= 1;
            assert!(!matches!(Header::decode(&bad), HeaderPage::Valid(..)));
        }
    }
}
