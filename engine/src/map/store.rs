//! The file of a node's maps, and the caches that its volumes share.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::disk::{Disk, RealDisk};
use crate::error::{Error, Result};
use crate::map::clock::ClockCache;
use crate::map::node::{self, Body, Inner, Node};
use crate::map::page::{Page, PAGE_BYTES};
use crate::map::tree::{Tree, KEY_BYTES};
use crate::system;
use crate::types::{Fetch, FetchKind, Uuid};

pub(crate) use crate::map::tree::{Change, Key, Snapshot, View};

/// What a record is of; they sort in this order. Of `Meta` alone values may be longer than 2,000 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Meta = 0,
    Page = 1,
    Changed = 2,
    Live = 3,
}

/// Budget of decoded inner nodes, a node's worth.
const INNER_BYTES_MAX: usize = 32 << 20;
/// Leaves of one lookup must not push each other out.
const LEAF_BYTES_MIN: usize = 1 << 20;
/// Budget of checked pages of the file.
const TREE_BYTES_MAX: usize = 24 << 20;
const FILE: &str = "map.tree";
/// What releases before format 2 have left.
const FORMER: [&str; 2] = ["data.mdb", "lock.mdb"];
/// Keys that one transaction of `forget` deletes.
const FORGET_BATCH: usize = 16_384;
const RESERVE_BYTES: u64 = 4 << 20;
/// With less left than this an I/O error of a write may be want of room.
const SHORT_BYTES: u64 = 16 << 20;

/// One file per node, and the caches of clean pages and checkpoint nodes. Send + Sync, shared by all volumes' maps.
pub struct MapStore {
    tree: Arc<Tree>,
    directory: File,
    data: File,
    failure: OnceLock<String>,
    /// Clean pages by (instance of a `VolumeMap`, page).
    pub(crate) pages: ClockCache<(u64, u64), Arc<Page>>,
    /// Leaves of checkpoints, on their way into pages.
    leaves: ClockCache<NodeName, Arc<MapLeaf>>,
    inners: ClockCache<NodeName, Arc<InnerNode>>,
    instances: AtomicU64,
}

/// Nodes never change, so clones share them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct NodeName {
    origin: Uuid,
    epoch: u64,
    number: u64,
    offset: u64,
}

impl NodeName {
    fn of(fetch: &Fetch) -> NodeName {
        NodeName {
            origin: fetch.origin,
            epoch: fetch.epoch,
            number: fetch.number,
            offset: fetch.offset,
        }
    }
}

pub(crate) struct MapLeaf {
    pub(crate) key: u64,
    pub(crate) page: Page,
}

pub(crate) struct InnerNode {
    pub(crate) level: u8,
    pub(crate) key: u64,
    pub(crate) tree: node::Tree,
    pub(crate) inner: Inner,
}

/// Key of a record: table, volume, then page or SCO number (0 in `Meta`), big-endian so that they sort.
pub(crate) fn key(table: Table, volume: &Uuid, number: u64) -> Key {
    let mut out = [0; KEY_BYTES];
    out[0] = table as u8;
    out[1..17].copy_from_slice(volume);
    out[17..].copy_from_slice(&number.to_be_bytes());
    out
}

/// The number in a key, if it is one of this volume in this table.
pub(crate) fn number_in(table: Table, volume: &Uuid, key: &Key) -> Option<u64> {
    let (prefix, number) = key.split_last_chunk::<8>()?;
    let is_ours = prefix[0] == table as u8 && prefix[1..] == volume[..];
    is_ours.then(|| u64::from_be_bytes(*number))
}

/// Removes what an earlier format has left, and with it a file of ours from before a release of that format ran here.
fn remove_former(path: &Path) -> Result<()> {
    let wrong = |error: std::io::Error| Error::disk("local map: remove what was there", &error);
    if !FORMER.iter().any(|name| path.join(name).exists()) {
        return Ok(());
    }
    for name in [FILE].iter().chain(&FORMER) {
        match std::fs::remove_file(path.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(wrong(error)),
            _ => {}
        }
    }
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(wrong)
}

/// An empty file, which is there as a whole or not at all.
fn make(disk: &RealDisk) -> Result<()> {
    let wrong = |error: std::io::Error| Error::disk("local map: make its file", &error);
    let unfinished = format!("{FILE}.new");
    if disk.list().map_err(wrong)?.contains(&unfinished) {
        disk.remove(&unfinished).map_err(wrong)?;
    }
    Tree::format(&*disk.create(&unfinished).map_err(wrong)?)?;
    disk.rename(&unfinished, FILE)
        .and_then(|()| disk.sync_dir())
        .map_err(wrong)
}

impl MapStore {
    /// Opens or makes the file in the directory `path`. What releases before format 2 have left there is removed: it was a cache.
    ///
    /// `map_size_bytes`: most that the file may become. `cache_bytes`: budget for clean pages in RAM, of all volumes together; decoded
    /// inner nodes may take 32 MiB besides, and pages of the file 24 MiB. `durable` false: commits are not synced (tests only).
    ///
    /// Errors: Corrupt (also for another version; it is to be set aside then), NoSpace, Halted (I/O), Conflict when somebody has it
    /// open already.
    pub fn open(
        path: &Path,
        map_size_bytes: usize,
        cache_bytes: usize,
        durable: bool,
    ) -> Result<Arc<MapStore>> {
        let wrong = |error: std::io::Error| Error::disk("local map: open its file", &error);
        let disk = RealDisk::open(path).map_err(wrong)?;
        remove_former(path)?;
        let directory = File::open(path).map_err(wrong)?;
        if !path.join(FILE).exists() {
            make(&disk)?;
        }
        let data = OpenOptions::new()
            .write(true)
            .open(path.join(FILE))
            .map_err(wrong)?;
        if !system::lock_exclusive(&data).map_err(wrong)? {
            return Err(Error::Conflict("local map: it is open already".into()));
        }
        let file = disk.open(FILE).map_err(wrong)?;
        let tree = Tree::open(file, map_size_bytes as u64, TREE_BYTES_MAX, durable)?;
        let store = MapStore {
            tree,
            directory,
            data,
            failure: OnceLock::new(),
            pages: ClockCache::new(cache_bytes - cache_bytes / 8),
            leaves: ClockCache::new((cache_bytes / 8).max(LEAF_BYTES_MIN)),
            inners: ClockCache::new(INNER_BYTES_MAX),
            instances: AtomicU64::new(1),
        };
        store.set_aside();
        Ok(Arc::new(store))
    }

    /// Keeps room behind what is used, so that a volume can be opened (a few pages) when somebody has filled the disk. Where the
    /// file system cannot, or has none, there is just no such reserve.
    fn set_aside(&self) {
        let used = self.tree.used_bytes();
        let held = self.data.metadata().map_or(0, |data| data.len());
        if held < used + RESERVE_BYTES / 2 {
            let _ = system::allocate(&self.data, used + RESERVE_BYTES);
        }
    }

    /// UUIDs of the volumes that there is a map of, usable or not.
    pub fn volumes(&self) -> Result<Vec<Uuid>> {
        let mut out = Vec::new();
        self.read()
            .scan(&key(Table::Meta, &[0; 16], 0), &mut |key, _| {
                let is_meta = key[0] == Table::Meta as u8;
                if is_meta {
                    out.extend(key[1..17].first_chunk::<16>());
                }
                Ok(is_meta)
            })?;
        Ok(out)
    }

    /// Deletes what there is of a volume that is not open, in changes of bounded size. The first one makes it unusable, so an
    /// interruption leaves only garbage, which the next `forget` or `VolumeMap::create` of this volume removes.
    pub fn forget(&self, volume: &Uuid) -> Result<()> {
        self.clear(volume, None)
    }

    /// The same, with another meta in place of the one that was there.
    pub(crate) fn clear(&self, volume: &Uuid, meta: Option<Vec<u8>>) -> Result<()> {
        self.clear_all(volume, meta)
            .map_err(|error| self.explained(error))
    }

    fn clear_all(&self, volume: &Uuid, meta: Option<Vec<u8>>) -> Result<()> {
        let mut change = self.write()?;
        let place = key(Table::Meta, volume, 0);
        match meta {
            Some(meta) => change.put(&place, &meta)?,
            None => change.delete(&place)?,
        }
        change.commit()?;
        for table in [Table::Page, Table::Changed, Table::Live] {
            loop {
                let mut change = self.write()?;
                let numbers = keys_from(&change, table, volume, (0, u64::MAX), FORGET_BATCH)?;
                if numbers.is_empty() {
                    break;
                }
                for number in numbers {
                    change.delete(&key(table, volume, number))?;
                }
                change.commit()?;
            }
        }
        Ok(())
    }

    /// Commits a change.
    pub(crate) fn commit(&self, change: Change<'_>) -> Result<()> {
        change.commit()?;
        self.set_aside();
        Ok(())
    }

    /// Why this file is of no use any more: it is a cache, to be set aside and had from the backend again.
    pub fn failure(&self) -> Option<String> {
        let failure = self.failure.get().map(String::as_str);
        failure.or(self.tree.failure()).map(str::to_owned)
    }

    /// What a failed use of the file was about.
    pub(crate) fn explained(&self, error: Error) -> Error {
        let free = system::room(&self.directory).map_or(u64::MAX, |(free, _)| free);
        match error {
            Error::Halted(reason) if free < SHORT_BYTES => Error::NoSpace(format!(
                "{reason}, with {} KiB left on the disk",
                free >> 10
            )),
            Error::NoSpace(_) => error,
            other => {
                let _ = self.failure.set(other.to_string());
                other
            }
        }
    }

    /// Bytes that clean pages, checkpoint nodes and pages of the file take in RAM.
    pub fn cached_bytes(&self) -> usize {
        self.pages.bytes() + self.leaves.bytes() + self.inners.bytes() + self.tree.cached_bytes()
    }

    pub(crate) fn next_instance(&self) -> u64 {
        self.instances.fetch_add(1, Ordering::Relaxed)
    }

    /// What the last commit has left.
    pub(crate) fn read(&self) -> Snapshot {
        self.tree.snapshot()
    }

    pub(crate) fn write(&self) -> Result<Change<'_>> {
        self.tree.change()
    }

    /// Takes in the bytes of one node. Errors: Corrupt when they are not what the fetch names.
    pub(crate) fn supply(&self, fetch: &Fetch, bytes: &[u8]) -> Result<()> {
        let node = verified(fetch, bytes)?;
        let name = NodeName::of(fetch);
        let (level, key) = (node.level, node.key);
        match node.body {
            Body::MapLeaf(page) => {
                self.leaves
                    .put(name, Arc::new(MapLeaf { key, page: *page }), PAGE_BYTES)
            }
            Body::LiveLeaf(_) => {}
            Body::Inner(tree, inner) => {
                let bytes = inner.bytes();
                self.inners.put(
                    name,
                    Arc::new(InnerNode {
                        level,
                        key,
                        tree,
                        inner,
                    }),
                    bytes,
                );
            }
        }
        Ok(())
    }

    pub(crate) fn leaf(&self, fetch: &Fetch) -> Option<Arc<MapLeaf>> {
        self.leaves.get(&NodeName::of(fetch))
    }

    pub(crate) fn inner(&self, fetch: &Fetch) -> Option<Arc<InnerNode>> {
        self.inners.get(&NodeName::of(fetch))
    }

    /// A map node that happens to be in RAM.
    pub(crate) fn cached_node(&self, fetch: &Fetch) -> Option<Node> {
        if let Some(leaf) = self.leaf(fetch) {
            return Some(Node {
                level: 0,
                key: leaf.key,
                body: Body::MapLeaf(Box::new(leaf.page.clone())),
            });
        }
        let node = self.inner(fetch)?;
        Some(Node {
            level: node.level,
            key: node.key,
            body: Body::Inner(node.tree, node.inner.clone()),
        })
    }

    pub(crate) fn get_page(
        &self,
        view: &impl View,
        volume: &Uuid,
        page: u64,
    ) -> Result<Option<Page>> {
        let bytes = view.get(&key(Table::Page, volume, page));
        let page = bytes.and_then(|bytes| bytes.map(|bytes| Page::decode(&bytes)).transpose());
        page.map_err(|error| self.explained(error))
    }
}

/// Numbers of up to `count` records of the volume in a range (first, end), ascending.
pub(crate) fn keys_from(
    view: &impl View,
    table: Table,
    volume: &Uuid,
    (first, end): (u64, u64),
    count: usize,
) -> Result<Vec<u64>> {
    let mut out = Vec::new();
    view.scan(&key(table, volume, first), &mut |key, _| {
        let number = number_in(table, volume, key).filter(|number| *number < end);
        out.extend(number);
        Ok(number.is_some() && out.len() < count)
    })?;
    Ok(out)
}

/// Decodes the node that a fetch names. Errors: Corrupt when kind of object, length or CRC32C are wrong, or the node is malformed.
pub(crate) fn verified(fetch: &Fetch, bytes: &[u8]) -> Result<Node> {
    if fetch.kind != FetchKind::Map
        || bytes.len() != fetch.length as usize
        || crc32c::crc32c(bytes) != fetch.crc
    {
        return Err(Error::Corrupt(format!(
            "map node: object {:016x}/{:016x} offset {}: not the bytes that were named",
            fetch.epoch, fetch.number, fetch.offset
        )));
    }
    node::decode(bytes)
}
