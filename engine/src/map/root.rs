//! The root of a checkpoint, and the table of objects that its nodes are in (`docs/formats/checkpoint.md`).

use crate::error::{Error, Result};
use crate::map::fields::{checked, seal, Fields};
use crate::map::node::Ptr;
use crate::types::{Fetch, FetchKind, LineageEntry, RootRef, Uuid};

const MAGIC: &[u8; 8] = b"vPoolROT";
const VERSION: u32 = 1;
const WHAT: &str = "checkpoint root";
/// Most inner levels of a tree: keys are below 2^63.
pub(crate) const LEVELS_MAX: u8 = 7;

/// A checkpoint object that nodes of the tree are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    pub(crate) number: u64,
    pub(crate) origin: Uuid,
    pub(crate) epoch: u64,
    /// Bytes of its nodes that the tree still uses.
    pub(crate) live_bytes: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) levels: u8,
    pub(crate) live_levels: u8,
    pub(crate) volume: Uuid,
    pub(crate) epoch: u64,
    pub(crate) tlog_epoch: u64,
    pub(crate) tlog_number: u64,
    pub(crate) next_sco: u64,
    pub(crate) map_top: Ptr,
    pub(crate) live_top: Ptr,
    pub(crate) lineage: Vec<LineageEntry>,
    /// In ascending order of numbers.
    pub(crate) objects: Vec<ObjectRef>,
}

pub(crate) fn encode_lineage(lineage: &[LineageEntry], out: &mut Vec<u8>) {
    for entry in lineage {
        out.extend_from_slice(&entry.first.to_le_bytes());
        out.extend_from_slice(&entry.origin);
        out.extend_from_slice(&entry.epoch.to_le_bytes());
    }
}

pub(crate) fn decode_lineage(f: &mut Fields<'_>, n: usize) -> Result<Vec<LineageEntry>> {
    if n > f.left() / 32 {
        return Err(f.corrupt("lineage cut short"));
    }
    (0..n)
        .map(|_| {
            Ok(LineageEntry {
                first: f.u64()?,
                origin: f.uuid()?,
                epoch: f.u64()?,
            })
        })
        .collect()
}

impl Root {
    /// The bytes, and the checksum that a `RootRef` names (their last 8).
    pub(crate) fn encode(&self) -> (Vec<u8>, u64) {
        let mut out = Vec::with_capacity(128 + 32 * self.lineage.len() + 48 * self.objects.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.levels, self.live_levels, 0, 0]);
        out.extend_from_slice(&self.volume);
        for field in [self.epoch, self.tlog_epoch, self.tlog_number, self.next_sco] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        self.map_top.encode(&mut out);
        self.live_top.encode(&mut out);
        out.extend_from_slice(&(self.lineage.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.objects.len() as u32).to_le_bytes());
        encode_lineage(&self.lineage, &mut out);
        for object in &self.objects {
            out.extend_from_slice(&object.number.to_le_bytes());
            out.extend_from_slice(&object.origin);
            for field in [object.epoch, object.live_bytes, object.bytes] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        let checksum = seal(&mut out, 0);
        (out, checksum)
    }

    /// Errors: Corrupt.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Root> {
        Fields::new(WHAT, bytes).magic(MAGIC, VERSION)?;
        let (body, _) = checked(WHAT, bytes)?;
        let mut f = Fields::new(WHAT, body);
        f.take(12)?;
        let (levels, live_levels) = (f.u8()?, f.u8()?);
        f.take(2)?;
        let volume = f.uuid()?;
        let (epoch, tlog_epoch, tlog_number, next_sco) = (f.u64()?, f.u64()?, f.u64()?, f.u64()?);
        let (map_top, live_top) = (Ptr::decode(&mut f)?, Ptr::decode(&mut f)?);
        let (l, o) = (f.u32()? as usize, f.u32()? as usize);
        let lineage = decode_lineage(&mut f, l)?;
        if f.left() != o.saturating_mul(48) {
            return Err(f.corrupt("wrong length"));
        }
        let mut objects: Vec<ObjectRef> = Vec::with_capacity(o);
        for _ in 0..o {
            let object = ObjectRef {
                number: f.u64()?,
                origin: f.uuid()?,
                epoch: f.u64()?,
                live_bytes: f.u64()?,
                bytes: f.u64()?,
            };
            if object.number <= objects.last().map_or(0, |last| last.number) {
                return Err(f.corrupt("objects out of order"));
            }
            objects.push(object);
        }
        if !(1..=LEVELS_MAX).contains(&levels) || !(1..LEVELS_MAX).contains(&live_levels) {
            return Err(f.corrupt("no such height"));
        }
        Ok(Root {
            levels,
            live_levels,
            volume,
            epoch,
            tlog_epoch,
            tlog_number,
            next_sco,
            map_top,
            live_top,
            lineage,
            objects,
        })
    }
}

/// A root that is the ground of a map: decoded, with its bytes and its name.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) reference: RootRef,
    pub(crate) bytes: Vec<u8>,
    pub(crate) root: Root,
}

impl Ground {
    /// Errors: Corrupt when the bytes are not what the reference names.
    pub(crate) fn new(reference: RootRef, bytes: &[u8]) -> Result<Ground> {
        let root = Root::decode(bytes)?;
        let (_, checksum) = checked(WHAT, bytes)?;
        if checksum != reference.checksum
            || bytes.len() != reference.length as usize
            || root.epoch != reference.epoch
        {
            return Err(Error::Corrupt(format!(
                "{WHAT}: not the one that was named"
            )));
        }
        Ok(Ground {
            reference,
            bytes: bytes.to_vec(),
            root,
        })
    }

    pub(crate) fn object(&self, number: u64) -> Option<&ObjectRef> {
        let objects = &self.root.objects;
        objects
            .binary_search_by_key(&number, |object| object.number)
            .ok()
            .map(|at| &objects[at])
    }

    /// The range of an object that a node is in.
    pub(crate) fn fetch(&self, ptr: Ptr) -> Result<Fetch> {
        let object = self.object(ptr.object).ok_or_else(|| {
            Error::Corrupt(format!(
                "{WHAT}: a node is in object {}, which the table lacks",
                ptr.object
            ))
        })?;
        Ok(Fetch {
            kind: FetchKind::Map,
            origin: object.origin,
            epoch: object.epoch,
            number: object.number,
            offset: u64::from(ptr.offset),
            length: ptr.length,
            crc: ptr.crc,
        })
    }
}
