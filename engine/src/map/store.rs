//! The LMDB environment of a node's maps, and the caches that its volumes share.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use heed::types::Bytes;
use heed::{Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls};

use crate::error::{Error, Result};
use crate::map::clock::ClockCache;
use crate::map::node::{self, Body, Inner, Node};
use crate::map::page::{Page, PAGE_BYTES};
use crate::system;
use crate::types::{Fetch, FetchKind, Uuid};

pub(crate) type Db = heed::Database<Bytes, Bytes>;
/// A read transaction that may move between threads.
pub(crate) type Snapshot = RoTxn<'static, WithoutTls>;

/// Budget of decoded inner nodes, a node's worth.
const INNER_BYTES_MAX: usize = 32 << 20;
/// Leaves of one lookup must not push each other out.
const LEAF_BYTES_MIN: usize = 1 << 20;
const READERS_MAX: u32 = 1024;
/// Keys that one transaction of `forget` deletes.
const FORGET_BATCH: usize = 16_384;
const RESERVE_BYTES: u64 = 4 << 20;
/// With less left than this an I/O error of a write may be want of room.
const SHORT_BYTES: u64 = 16 << 20;

/// One LMDB environment per node, and the caches of clean pages and checkpoint nodes. Send + Sync, shared by all volumes' maps.
pub struct MapStore {
    env: Env<WithoutTls>,
    directory: File,
    data: File,
    failure: OnceLock<String>,
    pub(crate) meta: Db,
    pub(crate) page: Db,
    pub(crate) changed: Db,
    pub(crate) live: Db,
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

pub(crate) fn lmdb(what: &str, error: heed::Error) -> Error {
    match error {
        heed::Error::Io(e) => Error::disk(&format!("local map: {what}"), &e),
        heed::Error::Mdb(MdbError::MapFull) => Error::NoSpace(format!(
            "local map: {what}: the map's size limit is reached"
        )),
        heed::Error::Mdb(MdbError::Corrupted | MdbError::PageNotFound | MdbError::Invalid) => {
            Error::Corrupt(format!("local map: {what}: {error}"))
        }
        error => Error::Internal(format!("local map: {what}: {error}")),
    }
}

/// Key of `page`, `changed` and `live`: volume, then page or SCO number, big-endian so that they sort.
pub(crate) fn key(volume: &Uuid, number: u64) -> [u8; 24] {
    let mut out = [0; 24];
    out[..16].copy_from_slice(volume);
    out[16..].copy_from_slice(&number.to_be_bytes());
    out
}

/// The number in a key, if it is one of this volume.
pub(crate) fn number_in(volume: &Uuid, key: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(volume)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

/// A data file that is shorter than its meta pages say (its end was cut off) would kill the process with SIGBUS when a page there is
/// read through the mapping: as a hole it is a page that LMDB, or the page's checksum, finds wrong.
fn fill_what_was_cut(path: &Path, map_size_bytes: usize) -> std::io::Result<()> {
    let file = match OpenOptions::new()
        .read(true)
        .write(true)
        .open(path.join("data.mdb"))
    {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let (mut page_bytes, mut wanted) = (4096u64, 0u64);
    for page in 0..2u64 {
        // LMDB's page header (16 bytes), then MDB_meta: magic at 16, page size at 40, last page at 136.
        let mut head = [0u8; 144];
        if file.read_exact_at(&mut head, page * page_bytes).is_err()
            || head[16..20] != 0xBEEF_C0DE_u32.to_le_bytes()
        {
            continue;
        }
        let (mut size, mut last) = ([0; 4], [0; 8]);
        size.copy_from_slice(&head[40..44]);
        last.copy_from_slice(&head[136..144]);
        page_bytes = u64::from(u32::from_le_bytes(size));
        wanted = wanted.max(
            u64::from_le_bytes(last)
                .saturating_add(1)
                .saturating_mul(page_bytes),
        );
    }
    let wanted = wanted.min(map_size_bytes as u64);
    if length < wanted {
        file.set_len(wanted)?;
    }
    Ok(())
}

impl MapStore {
    /// Opens or makes the environment in the directory `path`.
    ///
    /// `map_size_bytes`: most that LMDB may take of the disk. `cache_bytes`: budget for clean pages in RAM, of all volumes together;
    /// decoded inner nodes may take 32 MiB besides. `durable` false: commits are not synced (tests only).
    ///
    /// Errors: Corrupt, NoSpace, Halted (I/O), Conflict when this process has it open already.
    pub fn open(
        path: &Path,
        map_size_bytes: usize,
        cache_bytes: usize,
        durable: bool,
    ) -> Result<Arc<MapStore>> {
        std::fs::create_dir_all(path)
            .map_err(|e| Error::disk("local map: make its directory", &e))?;
        fill_what_was_cut(path, map_size_bytes)
            .map_err(|e| Error::disk("local map: look at its file", &e))?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options
            .map_size(map_size_bytes)
            .max_dbs(4)
            .max_readers(READERS_MAX);
        // Safety: no two processes have the directory (the engine holds its lock), nothing else touches the files, and heed refuses
        // a second opening in this process. Without syncs a power cut may corrupt the file: tests only.
        #[allow(unsafe_code)]
        let opened = unsafe {
            // Pages that are not used again soon should not push out the log's.
            options.flags(if durable {
                EnvFlags::NO_READ_AHEAD
            } else {
                EnvFlags::NO_READ_AHEAD | EnvFlags::NO_SYNC
            });
            options.open(path)
        };
        let files = File::open(path).and_then(|directory| {
            let data = OpenOptions::new().write(true).open(path.join("data.mdb"))?;
            Ok((directory, data))
        });
        let (directory, data) = files.map_err(|e| Error::disk("local map: look", &e))?;
        let env = opened.map_err(|e| match e {
            heed::Error::EnvAlreadyOpened => {
                Error::Conflict("local map: it is open already".into())
            }
            e => lmdb("open", e),
        })?;
        let mut txn = env.write_txn().map_err(|e| lmdb("open", e))?;
        let mut db = |name| {
            env.create_database::<Bytes, Bytes>(&mut txn, Some(name))
                .map_err(|e| lmdb(name, e))
        };
        let (meta, page, changed, live) = (db("meta")?, db("page")?, db("changed")?, db("live")?);
        txn.commit().map_err(|e| lmdb("open", e))?;
        let store = MapStore {
            env,
            directory,
            data,
            failure: OnceLock::new(),
            meta,
            page,
            changed,
            live,
            pages: ClockCache::new(cache_bytes - cache_bytes / 8),
            leaves: ClockCache::new((cache_bytes / 8).max(LEAF_BYTES_MIN)),
            inners: ClockCache::new(INNER_BYTES_MAX),
            instances: AtomicU64::new(1),
        };
        store.set_aside();
        Ok(Arc::new(store))
    }

    /// Keeps room behind what LMDB uses, so that a volume can be opened (a few pages) when somebody has filled the disk. Where the
    /// file system cannot, or has none, there is just no such reserve.
    fn set_aside(&self) {
        let used =
            (self.env.info().last_page_number as u64 + 1) * u64::from(self.env.stat().page_size);
        let held = self.data.metadata().map_or(0, |data| data.len());
        if held < used + RESERVE_BYTES / 2 {
            let _ = system::allocate(&self.data, used + RESERVE_BYTES);
        }
    }

    /// UUIDs of the volumes that LMDB has a map of, usable or not.
    pub fn volumes(&self) -> Result<Vec<Uuid>> {
        let txn = self.read()?;
        let mut out = Vec::new();
        for item in self.meta.iter(&txn).map_err(|e| lmdb("list", e))? {
            let (key, _) = item.map_err(|e| lmdb("list", e))?;
            if let Ok(uuid) = key.try_into() {
                out.push(uuid);
            }
        }
        Ok(out)
    }

    /// Deletes what LMDB has of a volume that is not open, in transactions of bounded size. The first one makes it unusable, so an
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
        let mut txn = self.write()?;
        match meta {
            Some(meta) => self.meta.put(&mut txn, volume, &meta),
            None => self.meta.delete(&mut txn, volume).map(|_| ()),
        }
        .map_err(|e| lmdb("forget", e))?;
        txn.commit().map_err(|e| lmdb("forget", e))?;
        for db in [&self.page, &self.changed, &self.live] {
            loop {
                let mut txn = self.write()?;
                let keys = self.keys_from(db, &txn, volume, 0, u64::MAX, FORGET_BATCH)?;
                if keys.is_empty() {
                    break;
                }
                for number in keys {
                    db.delete(&mut txn, &key(volume, number))
                        .map_err(|e| lmdb("forget", e))?;
                }
                txn.commit().map_err(|e| lmdb("forget", e))?;
            }
        }
        Ok(())
    }

    /// Commits a transaction.
    pub(crate) fn commit(&self, txn: RwTxn<'_>) -> Result<()> {
        txn.commit().map_err(|e| lmdb("commit", e))?;
        self.set_aside();
        Ok(())
    }

    /// Why this environment is of no use any more: it is a cache, to be set aside and had from the backend again.
    pub fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    /// What a failed use of LMDB was about: where a disk takes only a part of what LMDB writes, it says "I/O error".
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

    /// Bytes that clean pages and checkpoint nodes take in RAM.
    pub fn cached_bytes(&self) -> usize {
        self.pages.bytes() + self.leaves.bytes() + self.inners.bytes()
    }

    pub(crate) fn next_instance(&self) -> u64 {
        self.instances.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn read(&self) -> Result<RoTxn<'_, WithoutTls>> {
        self.env.read_txn().map_err(|e| lmdb("read transaction", e))
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        self.env
            .clone()
            .static_read_txn()
            .map_err(|e| lmdb("read transaction", e))
    }

    pub(crate) fn write(&self) -> Result<RwTxn<'_>> {
        self.env
            .write_txn()
            .map_err(|e| lmdb("write transaction", e))
    }

    /// Numbers of up to `count` keys of the volume in `first..end`, ascending.
    pub(crate) fn keys_from(
        &self,
        db: &Db,
        txn: &RoTxn<'_>,
        volume: &Uuid,
        first: u64,
        end: u64,
        count: usize,
    ) -> Result<Vec<u64>> {
        let (low, high) = (key(volume, first), key(volume, end));
        let range = (
            std::ops::Bound::Included(low.as_slice()),
            std::ops::Bound::Excluded(high.as_slice()),
        );
        let mut out = Vec::new();
        for item in db
            .range(txn, &range)
            .map_err(|e| lmdb("scan", e))?
            .take(count)
        {
            let (key, _) = item.map_err(|e| lmdb("scan", e))?;
            out.extend(number_in(volume, key));
        }
        Ok(out)
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
        txn: &RoTxn<'_>,
        volume: &Uuid,
        page: u64,
    ) -> Result<Option<Page>> {
        let bytes = self.page.get(txn, &key(volume, page));
        let page = match bytes.map_err(|e| lmdb("read a page", e)) {
            Ok(bytes) => bytes.map(Page::decode).transpose(),
            Err(error) => Err(error),
        };
        page.map_err(|error| self.explained(error))
    }
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
