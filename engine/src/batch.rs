//! The format of a batch: a run of consecutive records of a log, with their data, on the way to another node.
//!
//! Pure; see `docs/formats/log-batch.md` for the tables. What comes in is not trusted: everything that is read here lies within
//! the bytes handed in, and what records and data say is verified by who takes them (`replica`).

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::segment::{Header, HeaderPage, Seal, HEADER_BYTES, RECORDS_BYTES};
use crate::types::{Uuid, CLUSTER, SCO_CLUSTERS};

/// Bytes before the table of parts.
pub const BATCH_HEADER_BYTES: usize = 64;
/// Bytes of a part's place in the table.
pub const PART_BYTES: usize = 184;
/// Parts of a batch; no batch that is built has more.
pub const PARTS_MAX: usize = 1024;
/// No log gets so far; with less, no sum of two overflows.
pub const LSN_MAX: u64 = 1 << 62;
/// Likewise for the numbers of SCOs: the map's locations have room for them.
pub const NUMBER_MAX: u64 = 1 << 52;

const MAGIC: &[u8; 8] = b"vPoolLBT";
const VERSION: u32 = 1;
const CHECK_AT: usize = 56;
const SEGMENT_HEADER: usize = 128;
const SEAL: usize = 40;

/// What a batch has of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHead {
    pub header: Header,
    /// When the batch reaches the segment's end.
    pub seal: Option<Seal>,
    /// Where its records begin in the record area, and their bytes; 0 bytes: only the seal is told.
    pub at: u32,
    pub bytes: u32,
    /// The first data slot that comes along, and how many do.
    pub slot: u32,
    pub slots: u32,
}

impl PartHead {
    fn encode(&self, out: &mut [u8]) {
        let page = self.header.encode(self.seal.as_ref());
        let head = SEGMENT_HEADER + SEAL;
        out[..head].copy_from_slice(&page[..head]);
        for (n, value) in [self.at, self.bytes, self.slot, self.slots]
            .into_iter()
            .enumerate()
        {
            put32(out, head + 4 * n, value);
        }
    }

    fn decode(bytes: &[u8]) -> Result<PartHead> {
        let head = SEGMENT_HEADER + SEAL;
        let mut page = [0u8; HEADER_BYTES];
        page[..head].copy_from_slice(&bytes[..head]);
        let HeaderPage::Valid(header, seal) = Header::decode(&page) else {
            return Err(wrong("a segment header is damaged"));
        };
        let told = bytes[SEGMENT_HEADER..head].iter().any(|byte| *byte != 0);
        if told != seal.is_some() {
            return Err(wrong("a seal is damaged"));
        }
        if header.first_lsn > LSN_MAX || header.number > NUMBER_MAX {
            return Err(wrong("a segment header is out of range"));
        }
        let part = PartHead {
            header,
            seal,
            at: get32(bytes, head),
            bytes: get32(bytes, head + 4),
            slot: get32(bytes, head + 8),
            slots: get32(bytes, head + 12),
        };
        let end = u64::from(part.at) + u64::from(part.bytes);
        let slots_end = u64::from(part.slot) + u64::from(part.slots);
        if end > RECORDS_BYTES as u64
            || part.at % 8 != 0
            || part.bytes % 8 != 0
            || slots_end > u64::from(SCO_CLUSTERS)
            || (part.bytes == 0 && (part.slots > 0 || part.seal.is_none()))
        {
            return Err(wrong("a part is out of range"));
        }
        Ok(part)
    }

    /// Bytes of its records and data.
    pub fn content_bytes(&self) -> usize {
        self.bytes as usize + self.slots as usize * CLUSTER
    }
}

/// Bytes of a batch with these parts.
pub fn batch_bytes(parts: &[PartHead]) -> usize {
    let content: usize = parts.iter().map(PartHead::content_bytes).sum();
    BATCH_HEADER_BYTES + parts.len() * PART_BYTES + content
}

/// Writes header and table into `out` (`batch_bytes` long); returns what is behind them, for each part's records and data in turn.
pub fn encode_head<'a>(
    out: &'a mut [u8],
    parts: &[PartHead],
    volume: &Uuid,
    (first_lsn, last_lsn): (u64, u64),
) -> &'a mut [u8] {
    let total = out.len() as u64;
    let (head, content) = out.split_at_mut(BATCH_HEADER_BYTES + parts.len() * PART_BYTES);
    let (fixed, table) = head.split_at_mut(BATCH_HEADER_BYTES);
    for (part, place) in parts.iter().zip(table.chunks_exact_mut(PART_BYTES)) {
        part.encode(place);
    }
    fixed[0..8].copy_from_slice(MAGIC);
    put32(fixed, 8, VERSION);
    put32(fixed, 12, parts.len() as u32);
    fixed[16..32].copy_from_slice(volume);
    for (at, value) in [(32, first_lsn), (40, last_lsn), (48, total)] {
        fixed[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let check = checksum(head);
    head[CHECK_AT..CHECK_AT + 8].copy_from_slice(&check.to_le_bytes());
    content
}

/// Of header and table, without the place that it stands in.
fn checksum(head: &[u8]) -> u64 {
    let mut hashed = head.to_vec();
    hashed[CHECK_AT..CHECK_AT + 8].fill(0);
    xxh3_64(&hashed)
}

/// One segment's part, as it came.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub head: PartHead,
    pub records: &'a [u8],
    pub data: &'a [u8],
}

/// A batch, as it came: lengths are right, records and data are not verified.
#[derive(Debug)]
pub struct Batch<'a> {
    pub volume: Uuid,
    pub first_lsn: u64,
    pub last_lsn: u64,
    pub parts: Vec<Part<'a>>,
}

impl<'a> Batch<'a> {
    /// Errors: Corrupt; Invalid for a later version.
    pub fn decode(bytes: &'a [u8]) -> Result<Batch<'a>> {
        if bytes.len() < BATCH_HEADER_BYTES || &bytes[..8] != MAGIC {
            return Err(wrong("it does not begin as one"));
        }
        let version = get32(bytes, 8);
        if version != VERSION {
            return Err(Error::Invalid(format!(
                "a log batch has format version {version}, this program knows version {VERSION}"
            )));
        }
        let parts = get32(bytes, 12) as usize;
        let table_end = BATCH_HEADER_BYTES + parts.min(PARTS_MAX) * PART_BYTES;
        if parts == 0 || parts > PARTS_MAX || bytes.len() < table_end {
            return Err(wrong("its table of parts is cut"));
        }
        let (head, mut content) = bytes.split_at(table_end);
        if get64(head, 48) != bytes.len() as u64 || get64(head, CHECK_AT) != checksum(head) {
            return Err(wrong("its length or its checksum is wrong"));
        }
        let mut batch = Batch {
            volume: [0; 16],
            first_lsn: get64(head, 32),
            last_lsn: get64(head, 40),
            parts: Vec::with_capacity(parts),
        };
        batch.volume.copy_from_slice(&head[16..32]);
        for place in head[BATCH_HEADER_BYTES..].chunks_exact(PART_BYTES) {
            let head = PartHead::decode(place)?;
            if head.header.volume != batch.volume {
                return Err(wrong("a part is of another volume"));
            }
            let before = batch.parts.last().map(|part| part.head.header.number);
            if before.is_some_and(|before| head.header.number != before + 1) {
                return Err(wrong("its segments are not consecutive"));
            }
            if content.len() < head.content_bytes() {
                return Err(wrong("its content is cut"));
            }
            let (records, rest) = content.split_at(head.bytes as usize);
            let (data, rest) = rest.split_at(head.slots as usize * CLUSTER);
            content = rest;
            batch.parts.push(Part {
                head,
                records,
                data,
            });
        }
        if !content.is_empty() || batch.first_lsn == 0 || batch.last_lsn < batch.first_lsn {
            return Err(wrong("its length or its LSNs are wrong"));
        }
        Ok(batch)
    }
}

pub(crate) fn wrong(what: &str) -> Error {
    Error::Corrupt(format!("a log batch is damaged: {what}"))
}

fn put32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn get64(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0u8; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
