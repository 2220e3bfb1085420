//! The index file of the read cache (`docs/formats/read-cache.md`).

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::map::fields::{checked, Fields};
use crate::read_cache::CacheKey;

const MAGIC: &[u8; 8] = b"vPoolRDC";
const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: u64 = 64;
pub(super) const RECORD_BYTES: u64 = 64;

/// A slot that has a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: CacheKey,
    pub(super) block: u16,
    pub(super) present: u16,
    pub(super) main: bool,
    pub(super) uses: u8,
}

pub(super) fn header(slots: u64) -> [u8; HEADER_BYTES as usize] {
    let mut out = [0; HEADER_BYTES as usize];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&slots.to_le_bytes());
    out
}

impl Record {
    /// A slot without clusters is free: all zero.
    pub(super) fn encode(&self) -> [u8; RECORD_BYTES as usize] {
        let mut out = [0; RECORD_BYTES as usize];
        if self.present == 0 {
            return out;
        }
        out[..16].copy_from_slice(&self.key.origin);
        out[16..24].copy_from_slice(&self.key.epoch.to_le_bytes());
        out[24..32].copy_from_slice(&self.key.number.to_le_bytes());
        out[32..34].copy_from_slice(&self.block.to_le_bytes());
        out[34..36].copy_from_slice(&self.present.to_le_bytes());
        out[36] = u8::from(self.main);
        out[37] = self.uses;
        let checksum = xxhash_rust::xxh3::xxh3_64(&out[..56]);
        out[56..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// None: free, or not to be trusted.
    pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
        let what = "read cache index";
        let (body, _) = checked(what, bytes).ok()?;
        let mut f = Fields::new(what, body);
        let origin = f.uuid().ok()?;
        let key = CacheKey {
            origin,
            epoch: f.u64().ok()?,
            number: f.u64().ok()?,
        };
        let (block, present) = (f.u16().ok()?, f.u16().ok()?);
        let (queue, uses) = (f.u8().ok()?, f.u8().ok()?);
        (present != 0 && block < 64).then_some(Record {
            key,
            block,
            present,
            main: queue == 1,
            uses: uses.min(3),
        })
    }
}

/// What a former run left; nothing when that is of another version or not readable.
pub(super) fn read(index: &File) -> Vec<Option<Record>> {
    let mut head = [0; HEADER_BYTES as usize];
    if index.read_exact_at(&mut head, 0).is_err() {
        return Vec::new();
    }
    let mut f = Fields::new("read cache index", &head);
    if f.magic(MAGIC, VERSION).is_err() {
        return Vec::new();
    }
    let mut records = Vec::new();
    let mut chunk = vec![0; RECORD_BYTES as usize * 4096];
    let mut at = HEADER_BYTES;
    loop {
        let n = match index.read_at(&mut chunk, at) {
            Ok(n) => n - n % RECORD_BYTES as usize,
            Err(_) => return records,
        };
        if n == 0 {
            return records;
        }
        records.extend(
            chunk[..n]
                .chunks_exact(RECORD_BYTES as usize)
                .map(Record::decode),
        );
        at += n as u64;
    }
}
