//! One node with one volume: an engine on the simulated disk, driven by a seed and compared with the model.

use std::sync::Arc;

use tempfile::TempDir;
use vpool_engine::engine::{Engine, Options};
use vpool_engine::error::{Error, Result};
use vpool_engine::shipping::{Tlog, WriteBack};
use vpool_engine::types::CLUSTER;
use vpool_engine::volume::{Limits, Reply, Volume};

use super::backend::Backend;
use super::disk::{Fault, Refuses, SimulatedDisk};
use super::model::Model;
use super::{scratch, Rng};

pub const VOLUME: [u8; 16] = *b"a simulated disk";

/// See the module.
pub struct Node {
    pub rng: Rng,
    pub disk: SimulatedDisk,
    directory: TempDir,
    pub backend: Backend,
    pub model: Model,
    pub clusters: usize,
    segments_max: usize,
    dirty_map: usize,
    epoch: u64,
    check_chain: bool,
    /// Mostly large requests, so that several segments are not synced when the power goes.
    large: bool,
    /// The map is never written back while the volume serves, so that it is older than the head.
    old_map: bool,
    engine: Option<Arc<Engine>>,
    volume: Option<Arc<Volume>>,
    closed: Vec<Tlog>,
    /// A fault was injected: the log may have halted.
    faulty: bool,
    /// The disk is full now and then.
    fills: bool,
    /// Print what happens.
    pub trace: bool,
}

/// What a volume's node consists of: another one can take its place.
pub struct Host {
    pub disk: SimulatedDisk,
    pub directory: TempDir,
    pub engine: Option<Arc<Engine>>,
}

type Checked<T = ()> = std::result::Result<T, String>;

impl Node {
    pub fn new(seed: u64) -> Node {
        let mut rng = Rng(seed);
        let clusters = [16, 64, 256, 700][rng.below(4) as usize];
        Node {
            disk: SimulatedDisk::new(rng.next()),
            directory: scratch(),
            backend: Backend::new(),
            model: Model::new(clusters),
            clusters,
            segments_max: 3 + rng.below(4) as usize,
            dirty_map: [1, 4 << 10, 1 << 20][rng.below(3) as usize],
            epoch: 0,
            check_chain: true,
            large: false,
            old_map: false,
            engine: None,
            volume: None,
            closed: Vec::new(),
            faulty: false,
            fills: false,
            trace: super::setting("VPOOL_TRACE", 0) != 0,
            rng,
        }
    }

    /// Mutations that the tests must catch.
    pub fn skip_syncs(&mut self) {
        self.disk.lie();
    }
    pub fn ignore_chain(&mut self) {
        self.check_chain = false;
    }
    pub fn write_large(&mut self) {
        self.large = true;
        self.clusters = 700;
        self.segments_max = 7;
        self.model = Model::new(self.clusters);
    }

    /// Many segments not synced, most of what the head has recycled, and a map that knows neither.
    pub fn lag_map(&mut self) {
        self.write_large();
        self.segments_max = 4;
        self.dirty_map = 1 << 30;
        self.old_map = true;
    }

    /// More segments than are written at a time, so that the log can grow.
    pub fn large_pool(&mut self) {
        self.segments_max = 64;
        self.clusters = 256;
        self.model = Model::new(self.clusters);
    }

    /// The model learns of a write that a test has made itself.
    pub fn wrote(&mut self, at: usize, data: Vec<u8>) {
        let lsn = self.lsn().unwrap();
        self.model.write(at, data, Some(lsn));
    }

    pub fn zeroed(&mut self, at: usize, bytes: usize) {
        let lsn = self.lsn().unwrap();
        self.model.zero(at, bytes, Some(lsn));
    }

    pub fn engine(&mut self) -> Result<Arc<Engine>> {
        if let Some(engine) = &self.engine {
            return Ok(engine.clone());
        }
        let engine = Engine::open(self.directory.path(), self.options(&self.disk))?;
        self.engine = Some(engine.clone());
        Ok(engine)
    }

    /// As the node's engine has them, for an engine on this disk.
    pub fn options(&self, disk: &SimulatedDisk) -> Options {
        Options {
            segments_max: self.segments_max,
            segments_reserve: 2,
            map_cache_bytes: 1 << 20,
            map_size_bytes: 64 << 20,
            map_dirty_bytes_max: self.dirty_map,
            map_durable: false,
            background: false,
            full_pause: std::time::Duration::ZERO,
            disk: Some(Arc::new(disk.clone())),
            check_chain: self.check_chain,
            ..Options::default()
        }
    }

    /// Everything the process had is gone.
    pub fn forget_process(&mut self) {
        self.closed.clear();
        self.volume = None;
        self.engine = None;
    }

    /// The volume moves to another host, whose engine is running; returns the one that it was on.
    pub fn move_to(&mut self, host: Host) -> Host {
        self.closed.clear();
        self.volume = None;
        Host {
            disk: std::mem::replace(&mut self.disk, host.disk),
            directory: std::mem::replace(&mut self.directory, host.directory),
            engine: std::mem::replace(&mut self.engine, host.engine),
        }
    }

    /// The map's files as they are now.
    pub fn map_copy(&self) -> TempDir {
        let copy = scratch();
        for file in std::fs::read_dir(self.directory.path().join("map")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        copy
    }

    /// The cache directory is gone with the host.
    pub fn lose_cache(&mut self) {
        self.forget_process();
        self.directory = scratch();
        self.disk = SimulatedDisk::new(self.rng.next());
    }

    /// Recovers and opens in a new epoch. `Ok(Err(damage))`: the engine refuses.
    pub fn open(&mut self) -> Result<std::result::Result<(), String>> {
        self.epoch += 1;
        let engine = self.engine()?;
        if self.trace {
            for name in self.disk.names() {
                let page = &self.disk.content(&name)[..4096];
                let page = vpool_engine::segment::Header::decode(page);
                println!("{name}: {page:?}");
            }
        }
        let mut recovery = engine.recover(VOLUME, 4, self.backend.head, self.backend.next_sco)?;
        if let Some(damage) = recovery.damage() {
            return Ok(Err(damage.to_owned()));
        }
        if recovery.map_lost() {
            self.backend.load(&mut recovery)?;
            if let Some(damage) = recovery.damage() {
                return Ok(Err(damage.to_owned()));
            }
        }
        let limits = Limits {
            soft_bytes: 6 << 20,
            hard_bytes: 12 << 20,
        };
        self.volume = Some(recovery.open(self.epoch, limits, 1, false)?);
        Ok(Ok(()))
    }

    pub fn volume(&self) -> &Arc<Volume> {
        self.volume.as_ref().unwrap()
    }

    pub fn read(&self, at: usize, bytes: usize) -> Result<Vec<u8>> {
        let mut out = vec![0u8; bytes];
        if let Reply::Plan(plan) = self.volume().read(at as u128, &mut out)? {
            self.backend.finish(*plan, &mut out)?;
        }
        Ok(out)
    }

    pub fn image(&self) -> Result<Vec<u8>> {
        let mut image = Vec::new();
        for first in (0..self.clusters).step_by(64) {
            let clusters = 64.min(self.clusters - first);
            image.extend(self.read(first * CLUSTER, clusters * CLUSTER)?);
        }
        Ok(image)
    }

    /// Restarts until it is up, with further cuts on the way, then compares with the model.
    pub fn restart(&mut self, least: usize, cuts: bool) -> Checked {
        self.forget_process();
        for attempt in 0.. {
            if cuts && attempt < 4 && self.rng.chance(2) {
                let after = 1 + self.rng.below(12);
                self.disk.cut_after(after);
            }
            let opened = self.open();
            if self.trace {
                println!("open in epoch {}: {opened:?}", self.epoch);
            }
            match opened {
                Ok(Ok(())) => break,
                Ok(Err(damage)) => return Err(format!("damage without any: {damage}")),
                Err(Error::NoSpace(_) | Error::WouldBlock) if self.disk.is_full() => {
                    self.forget_process();
                    self.disk.make_room();
                }
                Err(error) if !self.disk.is_dead() => return Err(format!("open: {error}")),
                Err(_) => {
                    self.forget_process();
                    self.disk.power_cycle();
                }
            }
        }
        self.disk.kill_cut();
        let image = match self.image() {
            Ok(image) => image,
            Err(error) => return Err(format!("reading back: {error}")),
        };
        let lsn = self.lsn().map_err(|error| error.to_string())?;
        self.model.survived(&image, least, lsn)
    }

    /// One request or other event, chosen by the seed. Errors are those of the engine.
    pub fn act(&mut self) -> Result<Checked> {
        let volume = self.volume().clone();
        let size = self.clusters * CLUSTER;
        let mut choice = self.rng.below(100);
        if self.large && self.rng.chance(2) {
            choice = 60;
        }
        if self.old_map && (90..=95).contains(&choice) {
            choice = 86;
        }
        if self.fills && self.rng.chance(8) {
            match self.rng.below(3) {
                0 => self.disk.fill(Refuses::Growth),
                1 => self.disk.fill(Refuses::Writes),
                _ => self.disk.make_room(),
            }
        }
        if self.trace {
            let stats = volume.stats()?;
            println!(
                "action {choice}: lsn {} durable {} next sco {} head {}",
                stats.lsn, stats.durable_lsn, stats.next_sco, self.backend.next_sco
            );
        }
        match choice {
            0..=34 => self.write_some(1 + self.rng.clone().below(6000) as usize, false)?,
            35..=59 => {
                let clusters = 1 + self.rng.below(8) as usize;
                self.write_some(clusters * CLUSTER, true)?;
            }
            60..=65 => {
                let clusters = 1 + self.rng.below(600) as usize;
                self.write_some(clusters * CLUSTER, true)?;
            }
            66..=71 => {
                let at = self.rng.below(size as u64) as usize;
                let bytes = 1 + self.rng.below(9 * CLUSTER as u64) as usize;
                self.zero_some(at, bytes.min(size - at))?;
            }
            72..=73 => {
                let clusters = 1 + self.rng.below(self.clusters as u64) as usize;
                self.zero_some(0, clusters * CLUSTER)?;
            }
            74..=81 => {
                volume.flush()?;
                self.model.flush();
            }
            82..=85 => self.close_tlog()?,
            86..=89 => self.commit_head()?,
            90 => {
                volume.cut_next_tlog()?;
                self.close_all()?;
                self.backend.checkpoint(&volume)?;
            }
            91..=93 => self.engine()?.tick(),
            94..=95 => volume.write_back(WriteBack::Now)?,
            _ => {
                let at = self.rng.below(size as u64) as usize;
                let bytes = (1 + self.rng.below(20_000) as usize).min(size - at);
                let got = self.read(at, bytes)?;
                if got != self.model.now[at..at + bytes] {
                    return Ok(Err(format!("wrong data at {at} + {bytes}")));
                }
            }
        }
        Ok(Ok(()))
    }

    fn lsn(&self) -> Result<u64> {
        Ok(self.volume().stats()?.lsn)
    }

    pub fn write_some(&mut self, bytes: usize, aligned: bool) -> Result<()> {
        let bytes = bytes.min(self.clusters * CLUSTER);
        let mut at = self.rng.below((self.clusters * CLUSTER - bytes + 1) as u64) as usize;
        if aligned {
            at = at / CLUSTER * CLUSTER;
        }
        let data = self.rng.bytes(bytes);
        for _ in 0..4 {
            let reply = self.volume().write(at as u128, &data);
            let done = match reply {
                Ok(Reply::Plan(plan)) => self.backend.finish(*plan, &mut []).map(|_| ()),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            match done {
                Err(Error::WouldBlock) => self.close_all()?,
                Ok(()) => {
                    let lsn = self.lsn()?;
                    self.model.write(at, data, Some(lsn));
                    return Ok(());
                }
                Err(error) => {
                    self.model.write(at, data, None);
                    return Err(error);
                }
            }
        }
        assert!(
            self.faulty || self.disk.is_full(),
            "a write is refused although all is in the backend"
        );
        Err(Error::WouldBlock)
    }

    fn zero_some(&mut self, at: usize, bytes: usize) -> Result<()> {
        let done = match self.volume().zero(at as u128, bytes as u128) {
            Ok(Reply::Plan(plan)) => self.backend.finish(*plan, &mut []).map(|_| ()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match done {
            Err(Error::WouldBlock) => self.close_all(),
            Ok(()) => {
                let lsn = self.lsn()?;
                self.model.zero(at, bytes, Some(lsn));
                Ok(())
            }
            Err(error) => {
                self.model.zero(at, bytes, None);
                Err(error)
            }
        }
    }

    fn close_tlog(&mut self) -> Result<()> {
        let seal_open = self.rng.chance(2);
        let scos_max = 1 + self.rng.below(3) as usize;
        let volume = self.volume().clone();
        if let Some(tlog) = volume.close_tlog(seal_open, scos_max)? {
            self.backend.put(&volume, &tlog)?;
            self.closed.push(tlog);
        }
        Ok(())
    }

    fn commit_head(&mut self) -> Result<()> {
        if self.closed.is_empty() {
            return Ok(());
        }
        let tlog = self.closed.remove(0);
        self.backend.commit(&tlog);
        self.model.head_at(tlog.last_lsn);
        self.volume().head_committed(tlog.reference.number)
    }

    pub fn close_all(&mut self) -> Result<()> {
        let volume = self.volume().clone();
        while let Some(tlog) = volume.close_tlog(true, 16)? {
            self.backend.put(&volume, &tlog)?;
            self.closed.push(tlog);
        }
        while !self.closed.is_empty() {
            self.commit_head()?;
        }
        Ok(())
    }

    /// A life of the daemon: requests until the power goes or it is killed; then it must come back right.
    pub fn round(&mut self) -> Checked {
        let how = self.rng.below(10);
        let actions = 1 + self
            .rng
            .below(if self.rng.clone().chance(4) { 150 } else { 30 });
        self.faulty = false;
        self.fills = self.rng.chance(4);
        if how < 6 {
            let after = 1 + self
                .rng
                .below(if self.rng.clone().chance(2) { 60 } else { 400 });
            self.disk.cut_after(after);
        } else if how == 6 {
            self.faulty = true;
            let faults = [Fault::Sync, Fault::FullSync, Fault::Write, Fault::Full];
            let fault = faults[self.rng.below(4) as usize];
            let after = 1 + self.rng.below(60);
            self.disk.fail_after(after, fault);
        }
        for _ in 0..actions {
            match self.act() {
                Ok(checked) => checked?,
                Err(_) if self.disk.is_dead() => break,
                Err(Error::WouldBlock | Error::NoSpace(_)) if self.disk.is_full() => {
                    let halted = self.volume().stats().map_err(|e| e.to_string())?.halted;
                    if let Some(reason) = halted {
                        return Err(format!("a full disk halts: {reason}"));
                    }
                }
                Err(error) if self.faulty => {
                    self.check_halted(&error)?;
                    break;
                }
                Err(error) => return Err(format!("a request failed: {error}")),
            }
        }
        if self.trace {
            println!("round of kind {how} ends, dead: {}", self.disk.is_dead());
        }
        let volume = self.volume().clone();
        if how == 9 && volume.close().is_ok() {
            self.model.flush();
        }
        drop(volume);
        if how >= 7 && !self.disk.is_dead() {
            self.disk.kill();
            let all = self.model.acknowledged;
            return self.restart(all, false);
        }
        self.forget_process();
        if self.rng.chance(40) {
            self.lose_cache();
            self.restart(0, false)?;
            return match self.model.now == self.model.head {
                true => Ok(()),
                false => Err("more came back from the backend than it has".into()),
            };
        }
        self.disk.power_cycle();
        let flushed = self.model.flushed;
        self.restart(flushed, true)
    }

    fn check_halted(&mut self, error: &Error) -> Checked {
        if matches!(error, Error::NoSpace(_) | Error::WouldBlock) {
            return Ok(()); // The pool could not grow: nothing has changed.
        }
        if !matches!(error, Error::Halted(_)) {
            return Err(format!("a fault of the disk came out as {error:?}"));
        }
        if self
            .volume()
            .stats()
            .map_err(|e| e.to_string())?
            .halted
            .is_none()
        {
            // A fault outside the log, as in growing the pool: nothing was acknowledged, the log may go on.
            return Ok(());
        }
        match (self.volume().write(0, &[1; CLUSTER]), self.volume().flush()) {
            (Err(Error::Halted(_)), Err(Error::Halted(_))) => Ok(()),
            _ => Err("a halted log went on".into()),
        }
    }
}
