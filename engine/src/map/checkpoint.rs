//! Builds a checkpoint: what changed since the one below is written anew, with the nodes above it, and the rest is pointed to.
//!
//! Works on a snapshot of the file beside I/O and later commits. Memory is bounded by one object, one path of nodes with their siblings'
//! pointers, a window of supplied nodes, and 16 bytes per SCO whose content in the checkpoint below was overwritten without being local.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use crate::map::compaction::Survey;
use crate::map::meta::Meta;
use crate::map::node::{Node, Ptr, Tree};
use crate::map::object::{ObjectBuilder, OBJECT_BYTES_MAX};
use crate::map::root::{ObjectRef, Root};
use crate::map::store::{verified, MapStore, Snapshot};
use crate::map::walk::{Progress, Walk};
use crate::types::{Fetch, RootRef, Uuid};

/// Levels of the live tree: 512^5 SCOs.
pub(crate) const LIVE_LEVELS: u8 = 4;

/// What a builder wants or has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fetch these, `supply` them, and call `step` again. A `Fetch` with `crc` 0 is an object's trailer or index.
    Need(Vec<Fetch>),
    /// Put this object as `map/<epoch>/<number>`.
    Object { number: u64, bytes: Vec<u8> },
    /// All objects have been handed out; this is the root.
    Done(RootRef),
}

/// Bounds on what a builder writes. The default is the format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointLimits {
    /// Most bytes of one object.
    pub object_bytes_max: usize,
    /// Objects that a root may name besides twice as many as its live bytes would fill; beyond, the emptiest are rewritten.
    pub objects_max: usize,
}

impl Default for CheckpointLimits {
    fn default() -> Self {
        CheckpointLimits {
            object_bytes_max: OBJECT_BYTES_MAX,
            objects_max: 128,
        }
    }
}

/// What the checkpoint is called, and what it includes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckpointName {
    pub(crate) volume: Uuid,
    pub(crate) epoch: u64,
    pub(crate) first_object: u64,
    pub(crate) tlog_epoch: u64,
    pub(crate) tlog_number: u64,
    pub(crate) next_sco: u64,
}

enum Phase {
    Survey(Survey),
    /// The second walk is the live tree's, which comes next.
    Map(Walk, Walk),
    Live(Walk),
    Root,
    Done,
}

/// One checkpoint being built. Send; needs no lock of the volume. Dropping it abandons the checkpoint, and costs nothing but the
/// objects already put.
pub struct CheckpointBuilder {
    pub(crate) store: Arc<MapStore>,
    pub(crate) snapshot: Snapshot,
    pub(crate) meta: Meta,
    name: CheckpointName,
    limits: CheckpointLimits,
    phase: Phase,
    /// Objects of the tree, old and new.
    pub(crate) table: BTreeMap<u64, ObjectRef>,
    /// Objects whose nodes are rewritten.
    pub(crate) victims: Vec<u64>,
    supplied: FxHashMap<(u64, u32), Node>,
    /// Live clusters to subtract that `live` in the file does not know of.
    pub(crate) corrections: BTreeMap<u64, i32>,
    object: ObjectBuilder,
    outbox: VecDeque<(u64, Vec<u8>)>,
    map_top: Ptr,
    live_top: Ptr,
    result: Option<(RootRef, Vec<u8>)>,
}

/// What `VolumeMap::checkpoint_installed` needs of a builder that is done.
#[derive(Clone, Debug)]
pub struct FinishedCheckpoint {
    pub(crate) cut: u64,
    pub(crate) volume: Uuid,
    pub(crate) reference: RootRef,
    pub(crate) root_bytes: Vec<u8>,
}

impl FinishedCheckpoint {
    /// The bytes of the root, as `VolumeMap::create` takes them; empty when the builder was not done.
    pub fn root_bytes(&self) -> &[u8] {
        &self.root_bytes
    }
}

impl CheckpointBuilder {
    pub(crate) fn new(
        store: Arc<MapStore>,
        snapshot: Snapshot,
        meta: Meta,
        name: CheckpointName,
    ) -> Result<CheckpointBuilder> {
        let root = meta.ground.as_ref().map(|ground| &ground.root);
        let table: BTreeMap<u64, ObjectRef> = root
            .map(|r| r.objects.iter().map(|o| (o.number, *o)).collect())
            .unwrap_or_default();
        let newest = table.last_key_value().map_or(0, |(number, _)| *number);
        if name.first_object <= newest {
            return Err(Error::Invalid(format!(
                "checkpoint object {} is not past {newest}, the newest of the checkpoint below",
                name.first_object
            )));
        }
        let mut builder = CheckpointBuilder {
            store,
            snapshot,
            name,
            limits: CheckpointLimits::default(),
            phase: Phase::Done,
            victims: Vec::new(),
            supplied: FxHashMap::default(),
            corrections: BTreeMap::new(),
            object: ObjectBuilder::new(name.first_object, &name.volume),
            outbox: VecDeque::new(),
            map_top: root.map_or(Ptr::default(), |r| r.map_top),
            live_top: root.map_or(Ptr::default(), |r| r.live_top),
            result: None,
            table,
            meta,
        };
        builder.begin();
        Ok(builder)
    }

    /// Other bounds than the format's; before the first `step`.
    pub fn with_limits(mut self, limits: CheckpointLimits) -> CheckpointBuilder {
        self.limits = limits;
        self.begin();
        self
    }

    fn begin(&mut self) {
        let survey = Survey::new(&self.table, &self.limits);
        self.victims = survey.victims();
        self.phase = Phase::Survey(survey);
    }

    /// Goes on. Reads the file, never the backend; runs for milliseconds between two answers, as a rule.
    ///
    /// Errors: Corrupt (the file or a tree that contradicts itself), those of the disk. Not to be used after an error.
    pub fn step(&mut self) -> Result<Step> {
        loop {
            if let Some((number, bytes)) = self.outbox.pop_front() {
                return Ok(Step::Object { number, bytes });
            }
            let (phase, need) = match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::Survey(mut survey) => match survey.step()? {
                    Some(need) => (Phase::Survey(survey), need),
                    None => {
                        let (map, live) = survey.targets();
                        let levels = self.meta.levels as u8;
                        let next = Walk::new(Tree::Live, LIVE_LEVELS, self.live_top, live);
                        (
                            Phase::Map(Walk::new(Tree::Map, levels, self.map_top, map), next),
                            Vec::new(),
                        )
                    }
                },
                Phase::Map(mut walk, next) => match walk.step(self)? {
                    Progress::Need(need) => (Phase::Map(walk, next), need),
                    Progress::More => (Phase::Map(walk, next), Vec::new()),
                    Progress::Finished(top) => {
                        self.map_top = top;
                        (Phase::Live(next), Vec::new())
                    }
                },
                Phase::Live(mut walk) => match walk.step(self)? {
                    Progress::Need(need) => (Phase::Live(walk), need),
                    Progress::More => (Phase::Live(walk), Vec::new()),
                    Progress::Finished(top) => {
                        self.live_top = top;
                        (Phase::Root, Vec::new())
                    }
                },
                Phase::Root => {
                    self.write_root();
                    (Phase::Done, Vec::new())
                }
                Phase::Done => {
                    return match &self.result {
                        Some((reference, _)) => Ok(Step::Done(*reference)),
                        None => Err(Error::Internal("checkpoint: used after an error".into())),
                    };
                }
            };
            self.phase = phase;
            if !need.is_empty() {
                return Ok(Step::Need(need));
            }
        }
    }

    /// Takes in what a `Step::Need` asked for, in any order. Errors: Corrupt when the bytes are not those named; fetch again.
    pub fn supply(&mut self, fetch: &Fetch, bytes: &[u8]) -> Result<()> {
        if let Phase::Survey(survey) = &mut self.phase {
            return survey.supply(fetch, bytes);
        }
        let node = verified(fetch, bytes)?;
        let offset = u32::try_from(fetch.offset).unwrap_or(u32::MAX);
        self.supplied.insert((fetch.number, offset), node);
        Ok(())
    }

    /// After `Step::Done`: lets go of the snapshot and keeps the root.
    pub fn finish(self) -> FinishedCheckpoint {
        let nothing = RootRef {
            epoch: 0,
            object: 0,
            offset: 0,
            length: 0,
            checksum: 0,
        };
        let (reference, root_bytes) = self.result.unwrap_or((nothing, Vec::new()));
        FinishedCheckpoint {
            cut: self.meta.cut,
            volume: self.name.volume,
            reference,
            root_bytes,
        }
    }

    pub(crate) fn volume(&self) -> &Uuid {
        &self.name.volume
    }

    /// What to fetch before `take` can give this node; None when it is here.
    pub(crate) fn missing(&mut self, ptr: Ptr) -> Result<Option<Fetch>> {
        let place = (ptr.object, ptr.offset);
        if ptr.is_none() || self.supplied.contains_key(&place) {
            return Ok(None);
        }
        let ground = self.meta.ground.as_ref();
        let fetch = ground
            .ok_or_else(|| Error::Internal("checkpoint: a node without a root".into()))?
            .fetch(ptr)?;
        if let Some(node) = self.store.cached_node(&fetch) {
            self.supplied.insert(place, node);
            return Ok(None);
        }
        Ok(Some(fetch))
    }

    /// The node at a place of a tree, once. Errors: Corrupt when another one stands there.
    pub(crate) fn take(&mut self, ptr: Ptr, tree: Tree, level: u8, key: u64) -> Result<Node> {
        let node = self.supplied.remove(&(ptr.object, ptr.offset));
        let node =
            node.ok_or_else(|| Error::Internal("checkpoint: a node that was not supplied".into()))?;
        if node.tree() != tree || node.level != level || node.key != key {
            return Err(Error::Corrupt(
                "map node: not the one that its parent means".into(),
            ));
        }
        Ok(node)
    }

    /// The tree does not use this node any more.
    pub(crate) fn retire(&mut self, ptr: Ptr) {
        if let Some(object) = self.table.get_mut(&ptr.object) {
            object.live_bytes = object.live_bytes.saturating_sub(u64::from(ptr.length));
        }
    }

    pub(crate) fn is_victim(&self, ptr: Ptr) -> bool {
        self.victims.binary_search(&ptr.object).is_ok()
    }

    /// Adds a node to the object being filled; a full object goes to the outbox.
    pub(crate) fn add(&mut self, node: &[u8]) -> Ptr {
        if !self
            .object
            .has_room(node.len(), self.limits.object_bytes_max)
            && !self.object.is_empty()
        {
            self.finish_object(None);
        }
        let ptr = self.object.add(node);
        self.table_entry().live_bytes += u64::from(ptr.length);
        ptr
    }

    fn table_entry(&mut self) -> &mut ObjectRef {
        let (number, origin, epoch) = (self.object.number, self.name.volume, self.name.epoch);
        self.table.entry(number).or_insert(ObjectRef {
            number,
            origin,
            epoch,
            live_bytes: 0,
            bytes: 0,
        })
    }

    fn finish_object(&mut self, root: Option<&[u8]>) {
        let next = ObjectBuilder::new(self.object.number + 1, &self.name.volume);
        let full = std::mem::replace(&mut self.object, next);
        let number = full.number;
        let bytes = full.finish(root);
        if let Some(entry) = self.table.get_mut(&number) {
            entry.bytes = bytes.len() as u64;
        }
        self.outbox.push_back((number, bytes));
    }

    fn write_root(&mut self) {
        self.table.retain(|_, object| object.live_bytes > 0);
        let length = 128 + 32 * self.meta.lineage.len() + 48 * self.table.len();
        if !self.object.has_room(length, self.limits.object_bytes_max) && !self.object.is_empty() {
            self.finish_object(None);
        }
        let object_bytes = self.object.bytes_with(length);
        if let Some(entry) = self.table.get_mut(&self.object.number) {
            entry.bytes = object_bytes;
        }
        let root = Root {
            levels: self.meta.levels as u8,
            live_levels: LIVE_LEVELS,
            volume: self.name.volume,
            epoch: self.name.epoch,
            tlog_epoch: self.name.tlog_epoch,
            tlog_number: self.name.tlog_number,
            next_sco: self.name.next_sco,
            map_top: self.map_top,
            live_top: self.live_top,
            lineage: self.meta.lineage.clone(),
            objects: self.table.values().copied().collect(),
        };
        let (bytes, checksum) = root.encode();
        let reference = RootRef {
            epoch: self.name.epoch,
            object: self.object.number,
            offset: self.object.root_offset(),
            length: bytes.len() as u32,
            checksum,
        };
        self.finish_object(Some(&bytes));
        self.result = Some((reference, bytes));
    }
}
