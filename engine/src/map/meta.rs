//! What the file records of a volume's map besides pages (`docs/formats/local-map.md`): meta, `changed` and `live` values.

use crate::error::Result;
use crate::map::fields::{checked, seal, Fields};
use crate::map::ranges::{Cleared, ClearedRanges};
use crate::map::root::{decode_lineage, encode_lineage, Ground};
use crate::types::{Included, LineageEntry, RootRef};

const MAGIC: &[u8; 8] = b"vPoolLMP";
const VERSION: u32 = 1;
const WHAT: &str = "local map";

/// The state of a map as of its last commit.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub(crate) levels: u32,
    pub(crate) included: Included,
    /// Counts the commits.
    pub(crate) cut: u64,
    /// The cut that the ground's checkpoint was made from, 0: none of ours.
    pub(crate) ground_cut: u64,
    pub(crate) ground: Option<Ground>,
    pub(crate) lineage: Vec<LineageEntry>,
    pub(crate) cleared: ClearedRanges,
}

impl Meta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.levels.to_le_bytes());
        for field in [
            self.included.lsn,
            self.included.number,
            self.included.chain,
            self.cut,
            self.ground_cut,
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let (object, offset, bytes) = match &self.ground {
            Some(g) => (g.reference.object, g.reference.offset, g.bytes.as_slice()),
            None => (0, 0, [].as_slice()),
        };
        out.extend_from_slice(&object.to_le_bytes());
        for field in [
            offset,
            bytes.len() as u32,
            self.lineage.len() as u32,
            self.cleared.len() as u32,
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(bytes);
        encode_lineage(&self.lineage, &mut out);
        for range in self.cleared.iter() {
            for field in [range.first, range.end - range.first, range.cut] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        seal(&mut out, 0);
        out
    }

    /// Errors: Corrupt, also for another version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Meta> {
        Fields::new(WHAT, bytes).magic(MAGIC, VERSION)?;
        let (body, _) = checked(WHAT, bytes)?;
        let mut f = Fields::new(WHAT, body);
        f.take(12)?;
        let levels = f.u32()?;
        let included = Included {
            lsn: f.u64()?,
            number: f.u64()?,
            chain: f.u64()?,
        };
        let (cut, ground_cut) = (f.u64()?, f.u64()?);
        let (object, offset) = (f.u64()?, f.u32()?);
        let (root_bytes, l, c) = (f.u32()?, f.u32()? as usize, f.u32()? as usize);
        let root = f.take(root_bytes as usize)?;
        let ground = if root.is_empty() {
            None
        } else {
            Some(ground(object, offset, root)?)
        };
        let lineage = decode_lineage(&mut f, l)?;
        if f.left() != c.saturating_mul(24) {
            return Err(f.corrupt("wrong length"));
        }
        let mut cleared = Vec::with_capacity(c);
        for _ in 0..c {
            let (first, pages, cut) = (f.u64()?, f.u64()?, f.u64()?);
            let end = first
                .checked_add(pages)
                .ok_or_else(|| f.corrupt("cleared range too long"))?;
            cleared.push(Cleared { first, end, cut });
        }
        let cleared = ClearedRanges::from_list(cleared);
        Ok(Meta {
            levels,
            included,
            cut,
            ground_cut,
            ground,
            lineage,
            cleared,
        })
    }
}

fn ground(object: u64, offset: u32, bytes: &[u8]) -> Result<Ground> {
    let root = crate::map::root::Root::decode(bytes)?;
    let (_, checksum) = checked(WHAT, bytes)?;
    let reference = RootRef {
        epoch: root.epoch,
        object,
        offset,
        length: bytes.len() as u32,
        checksum,
    };
    Ok(Ground {
        reference,
        bytes: bytes.to_vec(),
        root,
    })
}

/// A page that differs from the checkpoint below.
///
/// A value is relative to the checkpoint cut at `ground`. When a newer one is installed nothing is rewritten: [`Changed::as_of`] says
/// what the value means from then on, and commits sweep away those that mean nothing any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Cut of the last change.
    pub(crate) cut: u64,
    pub(crate) ground: u64,
    /// Slots that were local when the checkpoint below was cut. What it has there was subtracted from the live counts when
    /// overwritten; what it has in other slots has not been.
    pub(crate) known: u128,
    /// The same, for the checkpoint that is being built.
    pub(crate) known_next: u128,
}

impl Changed {
    /// None: unchanged since that checkpoint.
    pub(crate) fn as_of(self, ground_cut: u64) -> Option<Changed> {
        if self.cut <= ground_cut {
            None
        } else if self.ground < ground_cut {
            Some(Changed {
                ground: ground_cut,
                known: self.known_next,
                ..self
            })
        } else {
            Some(self)
        }
    }

    pub(crate) fn encode(&self) -> [u8; 48] {
        let mut out = [0; 48];
        out[..8].copy_from_slice(&self.cut.to_le_bytes());
        out[8..16].copy_from_slice(&self.ground.to_le_bytes());
        out[16..32].copy_from_slice(&self.known.to_le_bytes());
        out[32..].copy_from_slice(&self.known_next.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Changed> {
        let mut f = Fields::new("changed page", bytes);
        let changed = Changed {
            cut: f.u64()?,
            ground: f.u64()?,
            known: f.u128()?,
            known_next: f.u128()?,
        };
        f.end()?;
        Ok(changed)
    }
}

/// Change of a SCO's live clusters since the checkpoint below; relative to `ground` as in [`Changed`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LiveDelta {
    pub(crate) cut: u64,
    pub(crate) ground: u64,
    pub(crate) delta: i32,
    /// `delta` as of the cut of the checkpoint that is being built.
    pub(crate) before: i32,
    /// Clusters in the SCO, as far as they were written since.
    pub(crate) clusters: u32,
}

impl LiveDelta {
    /// None: unchanged since that checkpoint.
    pub(crate) fn as_of(self, ground_cut: u64) -> Option<LiveDelta> {
        if self.cut <= ground_cut {
            None
        } else if self.ground < ground_cut {
            let delta = self.delta.wrapping_sub(self.before);
            Some(LiveDelta {
                ground: ground_cut,
                delta,
                before: 0,
                ..self
            })
        } else {
            Some(self)
        }
    }

    pub(crate) fn encode(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out[..8].copy_from_slice(&self.cut.to_le_bytes());
        out[8..16].copy_from_slice(&self.ground.to_le_bytes());
        out[16..20].copy_from_slice(&self.delta.to_le_bytes());
        out[20..24].copy_from_slice(&self.before.to_le_bytes());
        out[24..28].copy_from_slice(&self.clusters.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<LiveDelta> {
        let mut f = Fields::new("live change", bytes);
        let live = LiveDelta {
            cut: f.u64()?,
            ground: f.u64()?,
            delta: f.i32()?,
            before: f.i32()?,
            clusters: f.u32()?,
        };
        f.take(4)?;
        f.end()?;
        Ok(live)
    }
}
