//! The node's engine: the cache directory, what its volumes share, and the threads behind them.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::completions::Completions;
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, Result};
use crate::flushes::FlushQueue;
use crate::fullness::Fullness;
use crate::map::MapStore;
use crate::pool::{Pool, PoolStats};
use crate::read_cache::{CacheKey, ReadCache, ReadCacheStats};
use crate::recovery::Recovery;
use crate::replica::Replica;
use crate::shipping::WriteBack;
use crate::system;
use crate::types::{TlogRef, Uuid, CLUSTER};
use crate::volume::{Shared, Volume};

const TICK: Duration = Duration::from_millis(10);
const FLUSH_THREADS: usize = 4;
const LEAVE_WAIT: Duration = Duration::from_secs(10);

/// Limits of an engine, and what tests replace.
#[derive(Clone)]
pub struct Options {
    /// Segment files on the node, 4.06 MiB each: bounds what can be dirty. More are never made.
    pub segments_max: usize,
    /// Segments kept ready, so that a write need not make one.
    pub segments_reserve: usize,
    /// Pages of maps in RAM, for all volumes.
    pub map_cache_bytes: usize,
    /// Read cache on the disk; 0: none.
    pub read_cache_bytes: u64,
    /// The most that all local maps may take on the disk.
    pub map_size_bytes: usize,
    /// A volume's map is written back when more than this has changed in it.
    pub map_dirty_bytes_max: usize,
    /// False in simulations only: the map's file is not synced.
    pub map_durable: bool,
    /// False in simulations only: no threads, `Engine::tick` does their work.
    pub background: bool,
    /// How long what a full disk refused is not tried again.
    pub full_pause: Duration,
    /// Where segments are, if not in the directory `log`.
    pub disk: Option<Arc<dyn Disk>>,
    /// False only where a test makes sure that tests notice it.
    pub check_chain: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segments_max: 1024,
            segments_reserve: 4,
            map_cache_bytes: 256 << 20,
            read_cache_bytes: 0,
            map_size_bytes: 64 << 30,
            map_dirty_bytes_max: 32 << 20,
            map_durable: true,
            background: true,
            full_pause: Duration::from_secs(1),
            disk: None,
            check_chain: true,
        }
    }
}

/// Figures of the node.
#[derive(Clone, Debug, Default)]
pub struct EngineStats {
    pub pool: PoolStats,
    pub map_cache_bytes: usize,
    pub read_cache: ReadCacheStats,
    /// What the cache disk refuses for want of room; writers may wait for it.
    pub full: Vec<String>,
    /// Why the local map cannot be written any more: it is to be set aside (`leave`, `enter`), or it grows in RAM to its limit.
    pub map_failure: Option<String>,
    /// Why the map that was found could not be used.
    pub map_set_aside: Option<String>,
}

/// What the threads see; they do not keep the engine alive.
struct Node {
    /// None while the engine has no directory.
    pool: RwLock<Option<Arc<Pool>>>,
    open: Mutex<HashMap<Uuid, Weak<Volume>>>,
    replicas: Mutex<HashMap<Uuid, Weak<Replica>>>,
    stopped: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Node {
    fn volumes(&self) -> Vec<Arc<Volume>> {
        let open = self.open.lock();
        open.values().filter_map(Weak::upgrade).collect()
    }

    fn replicas(&self) -> Vec<Arc<Replica>> {
        let replicas = self.replicas.lock();
        let open = replicas.values().filter_map(Weak::upgrade);
        open.filter(|replica| !replica.is_closed()).collect()
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Calls `work` every tick until the engine stops.
    fn every_tick(&self, work: impl Fn(&Volume)) {
        while !self.is_stopped() {
            self.volumes().iter().for_each(|volume| work(volume));
            let mut sleep = self.sleep.lock();
            if !self.is_stopped() {
                self.wake.wait_for(&mut sleep, TICK);
            }
        }
    }

    fn prepare(&self) {
        while !self.is_stopped() {
            let pool = self.pool.read();
            match pool.clone() {
                None => {
                    drop(pool);
                    std::thread::sleep(TICK);
                }
                // In the lock: when `leave` has taken the pool away nobody writes to its segments any more.
                Some(ours) => match ours.prepare() {
                    Ok(true) => {}
                    // A writer that needs a segment runs into the same error and is told.
                    Ok(false) | Err(_) => {
                        drop(pool);
                        ours.wait_for_change(100);
                    }
                },
            }
        }
    }
}

/// A cache directory in use.
struct Directory {
    path: PathBuf,
    shared: Shared,
    store: Arc<MapStore>,
    /// Held, for nobody else to use the directory.
    _lock_file: File,
    /// Why the local map that was there could not be used and was set aside.
    map_set_aside: Option<String>,
}

/// See the module.
pub struct Engine {
    pub(crate) check_chain: bool,
    options: Options,
    completions: Arc<Completions>,
    flushes: Arc<FlushQueue>,
    node: Arc<Node>,
    /// Looked at by everybody, so held for moments only.
    directory: RwLock<Option<Directory>>,
    /// Held while the directory is left or entered.
    changing: Mutex<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

fn nowhere() -> Error {
    Error::Invalid("the engine has no cache directory now".into())
}

fn has_replica() -> Error {
    Error::Conflict("a replica of the volume is open on this node".into())
}

impl Engine {
    /// Opens the cache directory (made if missing) exclusively.
    pub fn open(path: &Path, options: Options) -> Result<Arc<Engine>> {
        if options.segments_max == 0 {
            return Err(Error::Invalid("segments_max must be at least 1".into()));
        }
        let broken = |error: std::io::Error| Error::disk("opening the cache directory", &error);
        let flushes = match options.background {
            true => FlushQueue::default(),
            false => FlushQueue::inline(),
        };
        let background = options.background;
        let engine = Arc::new(Engine {
            check_chain: options.check_chain,
            options,
            completions: Arc::new(Completions::new().map_err(broken)?),
            flushes: Arc::new(flushes),
            node: Arc::new(Node {
                pool: RwLock::new(None),
                open: Mutex::new(HashMap::new()),
                replicas: Mutex::new(HashMap::new()),
                stopped: AtomicBool::new(false),
                sleep: Mutex::new(()),
                wake: Condvar::new(),
            }),
            directory: RwLock::new(None),
            changing: Mutex::new(()),
            threads: Mutex::new(Vec::new()),
        });
        engine.enter(path, false)?;
        if background {
            engine.start_threads().map_err(broken)?;
        }
        Ok(engine)
    }

    /// Takes a cache directory (made if missing) in use, exclusively; after `leave`. On an error the engine still has none.
    /// `fresh_map`: the local map in it is set aside, volumes get theirs from the backend.
    pub fn enter(&self, path: &Path, fresh_map: bool) -> Result<()> {
        let _changing = self.changing.lock();
        if self.directory.read().is_some() {
            return Err(Error::Conflict("the engine has a cache directory".into()));
        }
        let entered = self.look_into(path, fresh_map)?;
        *self.node.pool.write() = Some(entered.shared.pool.clone());
        *self.directory.write() = Some(entered);
        Ok(())
    }

    /// Lets go of the cache directory: nothing is written to it any more. Files of it are open only where a volume that is
    /// closed, or a plan of one, is kept. `Conflict` while a volume is open, or a request still uses the map of one that was.
    pub fn leave(&self) -> Result<()> {
        let _changing = self.changing.lock();
        if self.node.volumes().iter().any(|volume| !volume.is_closed()) {
            return Err(Error::Conflict("a volume is open on this node".into()));
        }
        if !self.node.replicas().is_empty() {
            return Err(Error::Conflict("a replica is open on this node".into()));
        }
        self.node.open.lock().clear();
        let Some(left) = self.directory.write().take() else {
            return Ok(());
        };
        let deadline = Instant::now() + LEAVE_WAIT;
        while Arc::strong_count(&left.store) > 1 {
            if Instant::now() > deadline {
                *self.directory.write() = Some(left);
                return Err(Error::Conflict(
                    "a request still uses the local map of a volume that is closed".into(),
                ));
            }
            std::thread::sleep(TICK);
        }
        *self.node.pool.write() = None;
        left.shared.pool.wake();
        Ok(())
    }

    fn look_into(&self, path: &Path, fresh_map: bool) -> Result<Directory> {
        let options = &self.options;
        let broken = |error: std::io::Error| Error::disk("opening the cache directory", &error);
        let parts = ["log", "map", "read"].map(|part| path.join(part));
        if !parts.iter().all(|part| part.is_dir()) {
            for part in &parts {
                fs::create_dir_all(part).map_err(broken)?;
            }
            File::open(path)
                .and_then(|directory| directory.sync_all())
                .map_err(broken)?;
        }
        let lock_file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(broken)?;
        if !system::lock_exclusive(&lock_file).map_err(broken)? {
            return Err(Error::Conflict(format!(
                "{} is in use by another process",
                path.display()
            )));
        }
        let disk: Arc<dyn Disk> = match &options.disk {
            Some(disk) => disk.clone(),
            None => Arc::new(RealDisk::open(&path.join("log")).map_err(broken)?),
        };
        let (store, map_set_aside) = self.open_map(path, fresh_map)?;
        let fullness = Arc::new(Fullness::new(options.full_pause));
        let cache = Arc::new(ReadCache::open(
            &path.join("read"),
            options.read_cache_bytes,
            fullness.clone(),
        )?);
        let reserve = options.segments_reserve.min(options.segments_max / 2);
        let most = options.segments_max;
        let pool = Pool::open(disk, cache.clone(), fullness.clone(), most, reserve)?;
        Ok(Directory {
            path: path.to_path_buf(),
            shared: Shared {
                pool: Arc::new(pool),
                cache,
                completions: self.completions.clone(),
                flushes: self.flushes.clone(),
                map_dirty_bytes_max: options.map_dirty_bytes_max,
            },
            store,
            _lock_file: lock_file,
            map_set_aside,
        })
    }

    /// The local map is a cache: one that cannot be opened is set aside, and volumes get theirs from the backend.
    fn open_map(&self, path: &Path, fresh: bool) -> Result<(Arc<MapStore>, Option<String>)> {
        let (map, aside) = (path.join("map"), path.join("map.set-aside"));
        let open = || {
            let options = &self.options;
            MapStore::open(
                &map,
                options.map_size_bytes,
                options.map_cache_bytes,
                options.map_durable,
            )
        };
        let reason = match fresh {
            true => None,
            false => match open() {
                Err(Error::Corrupt(reason) | Error::Halted(reason)) => Some(reason),
                other => return Ok((other?, None)),
            },
        };
        let broken = |error: std::io::Error| Error::disk("setting the local map aside", &error);
        let gone = |done: std::io::Result<()>| match done {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(broken(error)),
            _ => Ok(()),
        };
        gone(fs::remove_dir_all(&aside))?;
        gone(fs::rename(&map, &aside))?;
        Ok((open()?, reason))
    }

    /// The cache directory, as it was named; None while there is none.
    pub fn path(&self) -> Option<PathBuf> {
        let directory = self.directory.read();
        directory.as_ref().map(|directory| directory.path.clone())
    }

    /// What the volumes of this directory share.
    pub(crate) fn shared(&self) -> Result<Shared> {
        let directory = self.directory.read();
        Ok(directory.as_ref().ok_or_else(nowhere)?.shared.clone())
    }

    fn start_threads(&self) -> std::io::Result<()> {
        let mut threads = self.threads.lock();
        let mut start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(format!("engine-{name}"));
            threads.push(thread.spawn(work)?);
            std::io::Result::Ok(())
        };
        let node = self.node.clone();
        start("mark", Box::new(move || node.every_tick(Volume::tick)))?;
        let node = self.node.clone();
        start("map", Box::new(move || node.every_tick(write_back)))?;
        let node = self.node.clone();
        start("prepare", Box::new(move || node.prepare()))?;
        for _ in 0..FLUSH_THREADS {
            let flushes = self.flushes.clone();
            start("flush", Box::new(move || flushes.work()))?;
        }
        Ok(())
    }

    /// What the threads do, once. For simulations, which have none.
    pub fn tick(&self) {
        for volume in self.node.volumes() {
            volume.tick();
            write_back(&volume);
        }
        let pool = self.node.pool.read().clone();
        while pool
            .as_ref()
            .is_some_and(|pool| pool.prepare().unwrap_or(false))
        {}
    }

    /// Readable when `completions` has something.
    pub fn completion_fd(&self) -> RawFd {
        self.completions.fd()
    }

    /// (token, error) of finished flushes; a volume's event token each time a segment was sealed.
    pub fn completions(&self) -> Vec<(u64, Option<Error>)> {
        self.completions.take()
    }

    /// Volumes that have segments or a map here.
    pub fn volumes(&self) -> Result<Vec<Uuid>> {
        let mut volumes: BTreeSet<Uuid> = self.shared()?.pool.volumes();
        volumes.extend(self.store()?.volumes()?);
        Ok(volumes.into_iter().collect())
    }

    /// Volumes that have segments here, which nobody else gets until they are opened or forgotten.
    pub fn logs(&self) -> Vec<Uuid> {
        let shared = self.shared();
        shared.map_or_else(
            |_| Vec::new(),
            |shared| shared.pool.volumes().into_iter().collect(),
        )
    }

    /// Looks at what is local of a volume, given the head of the registry (None: nothing in the backend).
    ///
    /// A node that was not the volume's last owner, and a rollback, `forget` it first: the engine cannot tell.
    pub fn recover(
        self: &Arc<Self>,
        volume: Uuid,
        levels: u32,
        head: Option<TlogRef>,
        head_next_sco: u64,
    ) -> Result<Recovery> {
        self.check_not_open(&volume)?;
        Recovery::look(self.clone(), volume, levels, head, head_next_sco)
    }

    /// Drops everything local of a volume that is not open.
    pub fn forget(&self, volume: &Uuid) -> Result<()> {
        self.check_not_open(volume)?;
        self.shared()?.pool.forget(volume, &[])?;
        self.store()?.forget(volume)
    }

    /// What is here of a volume's log that another node writes, to be added to. It is the node's only one of that volume, and
    /// there is none while the volume is open here. `head_next_sco`: the first SCO that the head does not have, if it is known; it
    /// matters where what is here is this node's own former log.
    pub fn replica(
        self: &Arc<Self>,
        volume: Uuid,
        head_next_sco: Option<u64>,
    ) -> Result<Arc<Replica>> {
        self.check_not_open(&volume)?;
        let replica = Arc::new(Replica::look(self, volume, head_next_sco)?);
        let mut replicas = self.node.replicas.lock();
        let is_open = |replica: Arc<Replica>| !replica.is_closed();
        if replicas
            .get(&volume)
            .and_then(Weak::upgrade)
            .is_some_and(is_open)
        {
            return Err(has_replica());
        }
        replicas.retain(|_, replica| replica.strong_count() > 0);
        replicas.insert(volume, Arc::downgrade(&replica));
        Ok(replica)
    }

    fn check_not_open(&self, volume: &Uuid) -> Result<()> {
        let replica = self
            .node
            .replicas
            .lock()
            .get(volume)
            .and_then(Weak::upgrade);
        if replica.is_some_and(|replica| !replica.is_closed()) {
            return Err(has_replica());
        }
        let open = self.node.open.lock().get(volume).and_then(Weak::upgrade);
        match open {
            Some(open) if !open.is_closed() => {
                Err(Error::Conflict("the volume is open on this node".into()))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn opened(&self, volume: &Arc<Volume>) -> Result<()> {
        self.check_not_open(&volume.uuid())?;
        let mut open = self.node.open.lock();
        open.retain(|_, volume| volume.strong_count() > 0);
        open.insert(volume.uuid(), Arc::downgrade(volume));
        Ok(())
    }

    pub(crate) fn store(&self) -> Result<Arc<MapStore>> {
        let directory = self.directory.read();
        Ok(directory.as_ref().ok_or_else(nowhere)?.store.clone())
    }

    /// Offers read-ahead data (n × 4096 bytes) to the read cache, if there is one now; verified when read.
    pub fn cache_insert(&self, key: &CacheKey, first_slot: u32, data: &[u8]) -> Result<()> {
        let clusters = data.len() / CLUSTER;
        if data.len() % CLUSTER != 0 || first_slot as usize + clusters > 1024 {
            return Err(Error::Invalid(format!(
                "read-ahead is whole clusters of {CLUSTER} bytes in one SCO, not {} bytes from slot {first_slot}",
                data.len()
            )));
        }
        if let Ok(shared) = self.shared() {
            shared.cache.insert(key, first_slot, data);
        }
        Ok(())
    }

    pub fn cache_has(&self, key: &CacheKey, first_slot: u32, clusters: u32) -> bool {
        let shared = self.shared();
        shared.is_ok_and(|shared| shared.cache.has(key, first_slot, clusters))
    }

    /// Figures; all zero while the engine has no directory.
    pub fn stats(&self) -> EngineStats {
        let directory = self.directory.read();
        let Some(Directory {
            shared,
            store,
            map_set_aside,
            ..
        }) = directory.as_ref()
        else {
            return EngineStats::default();
        };
        EngineStats {
            pool: shared.pool.stats(),
            map_cache_bytes: store.cached_bytes(),
            read_cache: shared.cache.stats(),
            full: shared.pool.fullness().reasons(),
            map_failure: store.failure(),
            map_set_aside: map_set_aside.clone(),
        }
    }

    /// Closes every volume that is open, stops the threads, lets go of the directory. Closing twice is fine.
    pub fn close(&self) -> Result<()> {
        let mut result = Ok(());
        for volume in self.node.volumes() {
            result = result.and(volume.close());
        }
        for replica in self.node.replicas() {
            replica.close();
        }
        self.stop();
        *self.node.pool.write() = None;
        *self.directory.write() = None;
        result
    }

    fn stop(&self) {
        {
            let _sleep = self.node.sleep.lock();
            self.node.stopped.store(true, Ordering::Release);
        }
        self.node.wake.notify_all();
        self.flushes.stop();
        if let Some(pool) = &*self.node.pool.read() {
            pool.wake();
        }
        for thread in self.threads.lock().drain(..) {
            // One that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write_back(volume: &Volume) {
    let when = match volume.map_behind.swap(false, Ordering::AcqRel) {
        true => WriteBack::Now,
        false => WriteBack::IfLarge,
    };
    // A failure has halted the log; whoever writes next is told.
    let _ = volume.write_back(when);
}
