//! The words that all modules of the engine share. See `docs/formats/README.md` for what they mean.

/// Bytes of a cluster: the unit of mapping and of checksums.
pub const CLUSTER: usize = 4096;
/// Clusters in a full SCO.
pub const SCO_CLUSTERS: u32 = 1024;

pub type Uuid = [u8; 16];

/// Where a cluster is: `HOLE`, `ZEROED`, or SCO number × 1,024 + slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Loc(pub u64);

impl Loc {
    /// Never written, or discarded and nothing below.
    pub const HOLE: Loc = Loc(0);
    /// Discarded, hiding what a checkpoint below may say.
    pub const ZEROED: Loc = Loc(1);

    pub fn new(number: u64, slot: u32) -> Loc {
        debug_assert!(number > 0 && slot < SCO_CLUSTERS);
        Loc(number * u64::from(SCO_CLUSTERS) + u64::from(slot))
    }
    pub fn is_data(self) -> bool {
        self.0 >= u64::from(SCO_CLUSTERS)
    }
    pub fn number(self) -> u64 {
        self.0 / u64::from(SCO_CLUSTERS)
    }
    pub fn slot(self) -> u32 {
        (self.0 % u64::from(SCO_CLUSTERS)) as u32
    }
}

/// What the map knows of one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub loc: Loc,
    pub crc: u32,
}

/// SCOs from `first` on are named in `origin`'s bucket with `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineageEntry {
    pub first: u64,
    pub origin: Uuid,
    pub epoch: u64,
}

/// Names one TLog in the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlogRef {
    pub epoch: u64,
    pub number: u64,
    /// 0: an object of its own; else behind the data of this SCO.
    pub combined_sco: u64,
    pub checksum: u64,
}

/// Names the root of a checkpoint in the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootRef {
    pub epoch: u64,
    pub object: u64,
    pub offset: u32,
    pub length: u32,
    pub checksum: u64,
}

/// The last record of the log that a map includes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Included {
    pub lsn: u64,
    pub number: u64,
    pub chain: u64,
}

/// One contiguous range of one object in the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fetch {
    pub kind: FetchKind,
    pub origin: Uuid,
    pub epoch: u64,
    pub number: u64,
    pub offset: u64,
    pub length: u32,
    /// Of the whole range, for map nodes; 0 and unused for SCO data (each cluster has its own in the map).
    pub crc: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FetchKind {
    Sco,
    Map,
}
