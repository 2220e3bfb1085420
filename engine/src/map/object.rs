//! Checkpoint objects: nodes, root, index, trailer (`docs/formats/checkpoint.md`).

use crate::error::Result;
use crate::map::fields::Fields;
use crate::map::node::Ptr;
use crate::types::Uuid;
use xxhash_rust::xxh3::Xxh3;

/// Most bytes of an object.
pub(crate) const OBJECT_BYTES_MAX: usize = 16 << 20;
/// Bytes of the trailer.
pub(crate) const TRAILER_BYTES: usize = 40;

const MAGIC: &[u8; 8] = b"vPoolMAP";
const END_MAGIC: &[u8; 8] = b"vPoolMAE";
const VERSION: u32 = 1;
const HEAD: usize = 32;
const INDEX_ITEM: usize = 24;
const WHAT: &str = "checkpoint object";

fn header(origin: &Uuid) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(origin);
    out
}

/// One object being filled.
pub(crate) struct ObjectBuilder {
    pub(crate) number: u64,
    bytes: Vec<u8>,
    index: Vec<u8>,
}

impl ObjectBuilder {
    pub(crate) fn new(number: u64, volume: &Uuid) -> ObjectBuilder {
        ObjectBuilder {
            number,
            bytes: header(volume),
            index: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether `more` bytes, as a node or a root, still go in.
    pub(crate) fn has_room(&self, more: usize, bytes_max: usize) -> bool {
        self.bytes.len() + self.index.len() + more + INDEX_ITEM + TRAILER_BYTES <= bytes_max
    }

    pub(crate) fn add(&mut self, node: &[u8]) -> Ptr {
        let ptr = Ptr {
            object: self.number,
            offset: self.bytes.len() as u32,
            length: node.len() as u32,
            crc: crc32c::crc32c(node),
        };
        // Kind, level and key stand at fixed places of every node.
        self.index.extend_from_slice(&node[..2]);
        self.index.extend_from_slice(&[0; 2]);
        self.index.extend_from_slice(&ptr.length.to_le_bytes());
        self.index.extend_from_slice(&node[8..16]);
        self.index.extend_from_slice(&ptr.offset.to_le_bytes());
        self.index.extend_from_slice(&ptr.crc.to_le_bytes());
        self.bytes.extend_from_slice(node);
        ptr
    }

    /// Bytes of the object when it ends with a root of so many bytes (0: none).
    pub(crate) fn bytes_with(&self, root: usize) -> u64 {
        (self.bytes.len() + root + self.index.len() + TRAILER_BYTES) as u64
    }

    /// Offset that a root gets.
    pub(crate) fn root_offset(&self) -> u32 {
        self.bytes.len() as u32
    }

    pub(crate) fn finish(self, root: Option<&[u8]>) -> Vec<u8> {
        let ObjectBuilder {
            mut bytes, index, ..
        } = self;
        let root_at = root.map_or(0, |_| bytes.len());
        bytes.extend_from_slice(root.unwrap_or_default());
        let index_at = bytes.len();
        bytes.extend_from_slice(&index);
        for field in [index_at, index.len() / INDEX_ITEM, root_at] {
            bytes.extend_from_slice(&(field as u64).to_le_bytes());
        }
        let mut hash = Xxh3::new();
        hash.update(&bytes[..HEAD]);
        hash.update(&bytes[index_at..]);
        let hash = hash.digest();
        bytes.extend_from_slice(&hash.to_le_bytes());
        bytes.extend_from_slice(END_MAGIC);
        bytes
    }
}

/// Where an object's index is, out of its trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) index_offset: u64,
    pub(crate) items: u64,
    /// 0: the object has no root.
    pub(crate) root_offset: u64,
    hash: u64,
}

/// One node of an object, out of its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexItem {
    pub(crate) kind: u8,
    pub(crate) level: u8,
    pub(crate) key: u64,
    pub(crate) ptr: Ptr,
}

impl Trailer {
    /// `bytes`: the last 40 of an object of `object_bytes`. Not verified before the index is there too.
    pub(crate) fn decode(bytes: &[u8], object_bytes: u64) -> Result<Trailer> {
        let mut f = Fields::new(WHAT, bytes);
        let trailer = Trailer {
            index_offset: f.u64()?,
            items: f.u64()?,
            root_offset: f.u64()?,
            hash: f.u64()?,
        };
        if f.take(8)? != END_MAGIC {
            return Err(f.corrupt("wrong magic"));
        }
        f.end()?;
        let index = trailer.items.checked_mul(INDEX_ITEM as u64);
        let end = index
            .and_then(|n| n.checked_add(trailer.index_offset))
            .and_then(|n| n.checked_add(TRAILER_BYTES as u64));
        if end != Some(object_bytes) || object_bytes > OBJECT_BYTES_MAX as u64 {
            return Err(f.corrupt("index not where the trailer says"));
        }
        Ok(trailer)
    }

    pub(crate) fn index_bytes(&self) -> u32 {
        (self.items as usize * INDEX_ITEM) as u32
    }

    /// Verifies index and trailer together, and lists the nodes of object `number` written by `origin`.
    pub(crate) fn index(&self, origin: &Uuid, number: u64, index: &[u8]) -> Result<Vec<IndexItem>> {
        let mut f = Fields::new(WHAT, index);
        let mut hash = Xxh3::new();
        hash.update(&header(origin));
        hash.update(index);
        for field in [self.index_offset, self.items, self.root_offset] {
            hash.update(&field.to_le_bytes());
        }
        if index.len() != self.index_bytes() as usize || hash.digest() != self.hash {
            return Err(f.corrupt("wrong checksum of the index"));
        }
        let mut items = Vec::with_capacity(self.items as usize);
        for _ in 0..self.items {
            let (kind, level) = (f.u8()?, f.u8()?);
            f.take(2)?;
            let length = f.u32()?;
            let key = f.u64()?;
            let (offset, crc) = (f.u32()?, f.u32()?);
            items.push(IndexItem {
                kind,
                level,
                key,
                ptr: Ptr {
                    object: number,
                    offset,
                    length,
                    crc,
                },
            });
        }
        Ok(items)
    }
}
