//! Bringing a volume into service: what is local, what must come from the backend, and the first moment of a new epoch.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::fullness::Part;
use crate::log::{Durability, Log};
use crate::map::{Cut, VolumeMap};
use crate::pool::{Found, Segment};
use crate::read_cache::CacheKey;
use crate::scan::{self, read_records, Known, Scan};
use crate::segment::{Op, Records, Seal};
use crate::shipping::Shipping;
use crate::tail::TailPin;
use crate::tlog::{self, TlogOp};
use crate::types::{Included, LineageEntry, Loc, RootRef, TlogRef, Uuid};
use crate::volume::{resolve, Limits, State, Volume};

/// What a volume's local state is worth. Nothing local has been changed, except that the surviving tail is durable now.
pub struct Recovery {
    engine: Arc<Engine>,
    volume: Uuid,
    levels: u32,
    head: Option<TlogRef>,
    next_sco: u64,
    scan: Scan,
    map: Option<VolumeMap>,
    /// From the backend: the last TLog applied, its last LSN if known, and the SCO number behind it.
    loaded: Option<Loaded>,
}

#[derive(Clone, Copy, Default)]
struct Loaded {
    /// Epoch and number of the newest TLog in the map.
    tlog: Option<(u64, u64)>,
    checksum: Option<u64>,
    next_sco: u64,
    last_lsn: Option<u64>,
}

impl Recovery {
    pub(crate) fn look(
        engine: Arc<Engine>,
        volume: Uuid,
        levels: u32,
        head: Option<TlogRef>,
        next_sco: u64,
    ) -> Result<Recovery> {
        if next_sco == 0 || (head.is_none() && next_sco != 1) {
            return Err(Error::Invalid(format!(
                "the SCO behind the head is number 1 or later (1 without a head), not {next_sco}"
            )));
        }
        let mut map = VolumeMap::load(&engine.store()?, volume, levels)?;
        let mut left = VolumeMap::left_lineage(&engine.store()?, &volume)?;
        let (mut found, damaged) = engine.shared()?.pool.found(&volume)?;
        let is_copy = scan::judge_marks(&mut found, &volume, &left);
        if is_copy {
            // What there is of a map is of a former life of the volume on this node.
            map = None;
            left.clear();
        }
        let before_copy = scan::before_copy(&mut found);
        let known = Known {
            volume,
            head,
            next_sco,
            map: map.as_ref().map(VolumeMap::included),
            left: &left,
            is_copy,
            check_chain: engine.check_chain,
        };
        let mut scan = scan::scan(found, &damaged, &known)?;
        scan.stale
            .extend(before_copy.iter().map(|found| found.index));
        for segment in &scan.tail {
            let file = &segment.found.file;
            file.sync_data()
                .map_err(|error| Error::disk("syncing the tail of the log", &error))?;
        }
        let usable = scan.map_usable;
        let map = match map.filter(|_| usable) {
            Some(map) => Some(map),
            None if head.is_none() => {
                Some(VolumeMap::create(&engine.store()?, volume, levels, None)?)
            }
            None => None,
        };
        Ok(Recovery {
            engine,
            volume,
            levels,
            head,
            next_sco,
            scan,
            map,
            loaded: None,
        })
    }

    /// The map must come from the backend before `open`.
    pub fn map_lost(&self) -> bool {
        self.map.is_none() || self.loaded.is_some()
    }

    pub fn tail_clusters(&self) -> u64 {
        let clusters = self.scan.tail.iter().map(|s| u64::from(s.end.clusters));
        clusters.sum()
    }

    pub fn tail_segments(&self) -> u64 {
        self.scan.tail.len() as u64
    }

    pub fn tail_lsn(&self) -> u64 {
        self.scan.end.map_or(0, |end| end.lsn)
    }

    /// The durable part of the tail is damaged: what and where. While the map must still come from the backend this may not be
    /// known yet: ask again after the head's TLog was applied.
    pub fn damage(&self) -> Option<&str> {
        self.scan.damage.as_deref()
    }

    /// Begins the map from a checkpoint.
    pub fn load_checkpoint(&mut self, root: RootRef, bytes: &[u8]) -> Result<()> {
        let map = VolumeMap::create(
            &self.engine.store()?,
            self.volume,
            self.levels,
            Some((root, bytes)),
        )?;
        let info = map
            .root()
            .ok_or_else(|| Error::Internal("a map over a checkpoint without a root".into()))?;
        if info.next_sco > self.next_sco {
            return Err(Error::Invalid(format!(
                "the checkpoint is newer than the head: its next SCO is {}, the head's {}",
                info.next_sco, self.next_sco
            )));
        }
        self.loaded = Some(Loaded {
            tlog: Some((info.tlog_epoch, info.tlog_number)),
            checksum: None,
            next_sco: info.next_sco,
            last_lsn: None,
        });
        self.map = Some(map);
        Ok(())
    }

    /// Applies one TLog, in log order; returns the one before it. `bytes`: the object, or for a combined one at least
    /// its TLog and trailer. The one that the checkpoint ends with only tells the LSN; it is needed where it is the head.
    pub fn apply_tlog(&mut self, reference: TlogRef, bytes: &[u8]) -> Result<Option<TlogRef>> {
        let previous = self.load_tlog(reference, bytes)?;
        if self.head == Some(reference) {
            self.judge()?;
        }
        Ok(previous)
    }

    /// It is known now where the head ends: does the local log go on there, and is nothing of it missing?
    fn judge(&mut self) -> Result<()> {
        let Some(end) = self.loaded.and_then(|loaded| loaded.last_lsn) else {
            return Ok(());
        };
        let first = self.scan.tail.first().map(|s| s.found.header.first_lsn);
        if let Some(first) = first.filter(|first| *first != end + 1) {
            self.scan.damage.get_or_insert(format!(
                "the local log begins at record {first}, the head ends at {end}"
            ));
        }
        if let Some(evidence) = self.scan.unjudged.take() {
            self.scan.damage = evidence.against(end, None)?;
        }
        Ok(())
    }

    fn load_tlog(&mut self, reference: TlogRef, bytes: &[u8]) -> Result<Option<TlogRef>> {
        let tlog = decode(reference, bytes)?;
        let header = &tlog.header;
        let before = self.loaded.unwrap_or(Loaded {
            next_sco: 1,
            ..Loaded::default()
        });
        let this = Some((header.epoch, header.number));
        if before.tlog == this {
            self.loaded = Some(Loaded {
                last_lsn: Some(header.last_lsn),
                checksum: Some(tlog.checksum),
                ..before
            });
            return Ok(header.previous);
        }
        let previous = header.previous.map(|p| (p.epoch, p.number));
        let checksum = header.previous.map(|p| p.checksum);
        if previous != before.tlog
            || (before.checksum.is_some() && checksum != before.checksum)
            || header.first_sco != before.next_sco
            || header.next_sco > self.next_sco
        {
            return Err(Error::Invalid(format!(
                "TLog {} of epoch {} does not follow what has been loaded",
                header.number, header.epoch
            )));
        }
        if self.loaded.is_none() {
            let store = self.engine.store()?;
            self.map = Some(VolumeMap::create(&store, self.volume, self.levels, None)?);
        }
        let Some(map) = &mut self.map else {
            return Err(Error::Internal("no map to apply a TLog to".into()));
        };
        let named = map.lineage().last().map(|last| (last.origin, last.epoch));
        if named != Some((header.volume, header.epoch)) {
            let entry = (header.first_sco, header.volume, header.epoch);
            map.set_lineage(extended(map.lineage(), entry));
        }
        for entry in &tlog.entries {
            match &entry.op {
                TlogOp::Write { number, slot, crcs } => {
                    map.update(entry.lba, Loc::new(*number, *slot), crcs);
                }
                TlogOp::Zero { clusters } => map.clear(entry.lba, *clusters),
            }
        }
        if map.dirty_bytes() > self.engine.shared()?.map_dirty_bytes_max {
            let cut = map.cut_loading();
            commit_cut(map, &cut)?;
        }
        self.loaded = Some(Loaded {
            tlog: this,
            checksum: Some(tlog.checksum),
            next_sco: header.next_sco,
            last_lsn: Some(header.last_lsn),
        });
        Ok(header.previous)
    }

    /// Records epoch and lineage durably, replays the tail into the map, and serves.
    pub fn open(
        mut self,
        epoch: u64,
        limits: Limits,
        event_token: u64,
        accept_loss: bool,
    ) -> Result<Arc<Volume>> {
        if let (Some(damage), false) = (&self.scan.damage, accept_loss) {
            return Err(Error::Halted(format!(
                "{damage}; restore the tail from the DTL or open with --accept-loss"
            )));
        }
        if limits.soft_bytes > limits.hard_bytes {
            return Err(Error::Invalid(format!(
                "the soft limit ({}) is above the hard one ({})",
                limits.soft_bytes, limits.hard_bytes
            )));
        }
        let Some(mut map) = self.map.take() else {
            return Err(Error::Invalid(
                "the map is lost: load a checkpoint or TLogs first".into(),
            ));
        };
        let start = self.start(&map)?;
        self.check_epoch(epoch, map.lineage())?;
        map.set_lineage(extended(map.lineage(), (self.next_sco, self.volume, epoch)));
        commit(&mut map, start)?;
        self.replay(&mut map, start)?;
        let mut segments = BTreeMap::new();
        let scan = std::mem::take(&mut self.scan);
        for tail in scan.tail {
            let seal = tail.end;
            let found = tail.found;
            found
                .file
                .pwrite(&found.header.encode(Some(&seal)), 0)
                .and_then(|()| found.file.sync_data())
                .map_err(|error| Error::disk("sealing the tail", &error))?;
            let number = found.header.number;
            let segment = Segment::new(found.index, found.file, found.header, Some(seal));
            segments.insert(number, Arc::new(segment));
        }
        let end = match scan.end {
            Some(end) if !segments.is_empty() || self.loaded.is_none() => end,
            _ => Included {
                number: self.next_sco - 1,
                ..start
            },
        };
        self.commit_or_hold(&mut map, end)?;
        self.engine.shared()?.pool.wipe(&scan.stale)?;
        if accept_loss {
            self.engine.shared()?.pool.wipe(&scan.suspect)?;
        }
        for found in scan.clean {
            let number = found.header.number;
            let at = resolve(map.lineage(), number);
            let seal = found.seal;
            let segment = Segment::new(found.index, found.file, found.header, seal);
            let segment = Arc::new(segment);
            if let Ok(at) = at {
                let key = CacheKey {
                    origin: at.origin,
                    epoch: at.epoch,
                    number,
                };
                self.engine.shared()?.pool.offer_clean(&segment, key);
                segments.insert(number, segment);
            }
        }
        let durability = Arc::new(Durability::new(end.lsn));
        let log = Log::new(
            self.volume,
            epoch,
            self.engine.shared()?.pool.clone(),
            durability.clone(),
            end,
            segments,
        );
        let state = State {
            log,
            map,
            shipping: Shipping::new(self.head, self.next_sco),
            entries: Vec::new(),
            tail_pin: TailPin::default(),
        };
        let volume = Arc::new(Volume::new(
            self.volume,
            epoch,
            self.levels,
            limits,
            event_token,
            self.engine.shared()?,
            durability,
            state,
        ));
        volume.map_behind.store(true, Ordering::Release);
        self.engine.opened(&volume)?;
        Ok(volume)
    }

    fn check_epoch(&self, epoch: u64, lineage: &[LineageEntry]) -> Result<()> {
        let segments = self.scan.tail.iter().map(|s| s.found.header.epoch);
        let own = lineage.iter().filter(|entry| entry.origin == self.volume);
        let newest = segments.chain(own.map(|entry| entry.epoch)).max();
        if epoch == 0 || newest.is_some_and(|newest| epoch <= newest) {
            return Err(Error::Invalid(format!(
                "a new epoch must be later than {}, not {epoch}",
                newest.unwrap_or(0)
            )));
        }
        Ok(())
    }

    /// The last record that the map has before the tail is replayed. A tail that does not follow is dropped: its loss is accepted.
    fn start(&mut self, map: &VolumeMap) -> Result<Included> {
        let Some(loaded) = self.loaded else {
            return Ok(map.included());
        };
        let at_head = self.head.is_some_and(|head| {
            loaded.tlog == Some((head.epoch, head.number))
                && loaded.checksum == Some(head.checksum)
                && loaded.next_sco == self.next_sco
        });
        let Some(lsn) = loaded.last_lsn.filter(|_| at_head) else {
            return Err(Error::Invalid(
                "what has been loaded does not end with the head's TLog".into(),
            ));
        };
        let number = self.next_sco - 1;
        match self.scan.tail.first().map(|s| s.found.header) {
            Some(first) if first.first_lsn == lsn + 1 => {
                return Ok(Included {
                    lsn,
                    number,
                    chain: first.previous_chain,
                });
            }
            _ => {
                let dropped = self.scan.tail.drain(..).map(|s| s.found.index);
                self.scan.stale.extend(dropped);
            }
        }
        // The segment right behind the head may be here and say where the log goes on.
        let local = self
            .scan
            .end
            .filter(|end| end.number == number && end.lsn == lsn);
        Ok(local.unwrap_or(Included {
            lsn,
            number,
            chain: 0,
        }))
    }

    /// Applies everything behind `from`, writing the map back as it grows. All of it is durable.
    fn replay(&self, map: &mut VolumeMap, from: Included) -> Result<()> {
        let mut behind: Vec<(&Found, Option<Seal>)> = Vec::new();
        if self.loaded.is_none() {
            let clean = self.scan.clean.iter();
            behind.extend(
                clean
                    .filter(|found| found.header.number >= from.number)
                    .map(|found| (found, found.seal)),
            );
            behind.sort_by_key(|(found, _)| found.header.number);
        }
        let tail = self.scan.tail.iter().map(|s| (&s.found, Some(s.end)));
        for (found, end) in behind.into_iter().chain(tail) {
            let number = found.header.number;
            let area = read_records(found)?;
            let mut records = Records::new(&found.header, &area);
            records.check_chain = self.engine.check_chain;
            let last = end.map_or(u64::MAX, |end| end.last_lsn);
            while records.lsn < last {
                let Some(record) = records.next() else { break };
                if record.lsn <= from.lsn {
                    continue;
                }
                match record.op {
                    Op::Write { lba, slot } => {
                        let crcs: Vec<u32> = record.crcs().collect();
                        map.update(lba, Loc::new(number, slot), &crcs);
                    }
                    Op::Zero { lba, clusters } => map.clear(lba, clusters),
                    Op::Mark => {}
                }
            }
            let included = Included {
                lsn: records.lsn,
                number,
                chain: records.chain,
            };
            if map.dirty_bytes() > self.engine.shared()?.map_dirty_bytes_max {
                self.commit_or_hold(map, included)?;
            }
        }
        Ok(())
    }

    /// What a full disk has no room for stays in RAM, in bounds: the log has all of it.
    fn commit_or_hold(&self, map: &mut VolumeMap, included: Included) -> Result<()> {
        let shared = self.engine.shared()?;
        match commit(map, included) {
            Err(Error::NoSpace(reason)) if !shared.holds_too_much(map) => {
                shared.pool.fullness().refused(Part::Map, &reason);
                Ok(())
            }
            other => other,
        }
    }
}

fn commit(map: &mut VolumeMap, included: Included) -> Result<()> {
    let cut = map.cut(included);
    commit_cut(map, &cut)
}

fn commit_cut(map: &mut VolumeMap, cut: &Cut) -> Result<()> {
    cut.commit()?;
    map.committed(cut.id());
    Ok(())
}

/// A lineage whose SCOs from `first` on are named anew.
fn extended(
    lineage: &[LineageEntry],
    (first, origin, epoch): (u64, Uuid, u64),
) -> Vec<LineageEntry> {
    let kept = lineage.iter().filter(|entry| entry.first < first).copied();
    let new = LineageEntry {
        first,
        origin,
        epoch,
    };
    kept.chain([new]).collect()
}

fn decode(reference: TlogRef, bytes: &[u8]) -> Result<tlog::Tlog> {
    let bytes = if reference.combined_sco != 0 {
        tlog::split_combined(bytes)?
    } else {
        bytes
    };
    let tlog = tlog::decode(bytes)?;
    let header = &tlog.header;
    if tlog.checksum != reference.checksum
        || header.number != reference.number
        || header.epoch != reference.epoch
    {
        return Err(Error::Corrupt(format!(
            "this is not TLog {} of epoch {} with checksum {:016x}",
            reference.number, reference.epoch, reference.checksum
        )));
    }
    Ok(tlog)
}

/// The TLog before the one in `bytes` (an object, alone or combined), to walk a history back.
pub fn tlog_previous(bytes: &[u8]) -> Result<Option<TlogRef>> {
    let tlog = match tlog::decode(bytes) {
        Ok(tlog) => tlog,
        Err(error) => match tlog::split_combined(bytes) {
            Ok(inner) => tlog::decode(inner)?,
            Err(_) => return Err(error),
        },
    };
    Ok(tlog.header.previous)
}
