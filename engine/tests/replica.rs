//! A log and its copy on another host: cuts of the power, kills, moves and steals at any moment, by seed, against the model.
//!
//! `VPOOL_ROUNDS` and `VPOOL_SEED` set it; a failure names its seed.

mod simulation;

use std::sync::Arc;

use simulation::disk::SimulatedDisk;
use simulation::node::{Host, Node, VOLUME};
use simulation::{scratch, seed, setting, Rng};
use vpool_engine::engine::Engine;
use vpool_engine::error::Error;
use vpool_engine::replica::Replica;

type Checked<T = ()> = Result<T, String>;

/// The owner, and a host that has a replica.
struct Pair {
    rng: Rng,
    owner: Node,
    peer: Host,
    replica: Option<Arc<Replica>>,
    /// What the peer has confirmed to be synced, and the chain value there.
    promised: (u64, Option<u64>),
    trace: bool,
}

fn said(error: Error) -> String {
    error.to_string()
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut rng = Rng(seed);
        let mut owner = Node::new(rng.next());
        owner.write_large();
        owner.restart(0, false).unwrap();
        let peer = Host {
            disk: SimulatedDisk::new(rng.next()),
            directory: scratch(),
            engine: None,
        };
        Pair {
            rng,
            owner,
            peer,
            replica: None,
            promised: (0, None),
            trace: setting("VPOOL_TRACE", 0) != 0,
        }
    }

    fn log(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{}", what());
        }
    }

    fn engine(&mut self) -> Result<Arc<Engine>, Error> {
        if let Some(engine) = &self.peer.engine {
            return Ok(engine.clone());
        }
        let options = self.owner.options(&self.peer.disk);
        let engine = Engine::open(self.peer.directory.path(), options)?;
        self.peer.engine = Some(engine.clone());
        Ok(engine)
    }

    /// The replica, opened; what was promised must be there.
    fn replica(&mut self) -> Checked<Arc<Replica>> {
        if let Some(replica) = &self.replica {
            return Ok(replica.clone());
        }
        let head = self.owner.backend.next_sco;
        let replica = loop {
            let opened = self
                .engine()
                .and_then(|engine| engine.replica(VOLUME, Some(head)));
            match opened {
                Ok(replica) => break replica,
                Err(_) if self.peer.disk.is_dead() => self.revive(),
                Err(error) => return Err(format!("opening the replica: {error}")),
            }
        };
        let stats = replica.stats().map_err(said)?;
        self.log(|| format!("replica opened: {stats:?} promised {:?}", self.promised));
        if let Some(damage) = replica.damage().map_err(said)? {
            return Err(format!("damage without any: {damage}"));
        }
        // Of a former log, what the head has is not looked at.
        if self.promised.0 > self.owner.backend.head_lsn && stats.end_lsn < self.promised.0 {
            return Err(format!(
                "{} was synced, {stats:?} is there",
                self.promised.0
            ));
        }
        if (stats.first_lsn..=stats.end_lsn).contains(&self.promised.0)
            && self.promised.1.is_some()
            && replica.chain(self.promised.0).map_err(said)? != self.promised.1
        {
            return Err(format!("record {} is another one", self.promised.0));
        }
        self.replica = Some(replica.clone());
        Ok(replica)
    }

    fn revive(&mut self) {
        self.replica = None;
        self.peer.engine = None;
        self.peer.disk.power_cycle();
    }

    /// Finds where the owner's log and the replica part, and cuts what is not the owner's.
    fn agree(&mut self) -> Checked {
        loop {
            let replica = self.replica()?;
            let volume = self.owner.volume().clone();
            let stats = replica.stats().map_err(said)?;
            let (first, end) = (stats.first_lsn, stats.end_lsn);
            let mut common = end.min(volume.stats().map_err(said)?.lsn);
            while common >= first && common > 0 {
                let ours = volume.chain(common).map_err(said)?;
                if ours.is_some() && ours == replica.chain(common).map_err(said)? {
                    break;
                }
                common -= 1;
            }
            if common < first {
                common = 0;
            }
            if common == end {
                return Ok(());
            }
            self.log(|| format!("cut {common} of {end}"));
            self.promised = (self.promised.0.min(common), None);
            match replica.cut(common) {
                Ok(()) => return Ok(()),
                Err(_) if self.peer.disk.is_dead() => self.revive(),
                Err(error) => return Err(format!("cut: {error}")),
            }
        }
    }

    /// Ships what there is, or some of it. False: the power went, or there is no room.
    fn ship(&mut self, all: bool) -> Checked<bool> {
        let replica = self.replica()?;
        let volume = self.owner.volume().clone();
        loop {
            let stats = replica.stats().map_err(said)?;
            let mut from = match stats.end_lsn {
                0 => volume.tail_first_lsn().map_err(said)?,
                end => end + 1,
            };
            if stats.end_lsn > 0 && self.rng.chance(4) {
                // Again what is there already.
                from = from.saturating_sub(self.rng.below(40)).max(stats.first_lsn);
            }
            let bytes_max = 1 + self.rng.below(3 << 20) as usize;
            let tail = match volume.tail(from, bytes_max) {
                Ok(Some(tail)) => tail,
                Ok(None) => return Ok(true),
                Err(Error::NotFound(_)) if from <= stats.end_lsn => continue,
                Err(Error::NotFound(_)) => {
                    self.log(|| format!("record {from} is gone"));
                    self.promised = (0, None);
                    match replica.cut(0) {
                        Ok(()) => continue,
                        Err(_) if self.peer.disk.is_dead() => {
                            self.revive();
                            return Ok(false);
                        }
                        Err(error) => return Err(format!("cut: {error}")),
                    }
                }
                Err(error) => return Err(format!("tail: {error}")),
            };
            assert_eq!(tail.first_lsn, from);
            let batch = tail.encode().map_err(said)?;
            match replica.take(&batch) {
                Ok(end) => assert_eq!(end, tail.last_lsn.max(stats.end_lsn)),
                Err(_) if self.peer.disk.is_dead() => {
                    self.revive();
                    return Ok(false);
                }
                Err(Error::WouldBlock) => {
                    let head = self.owner.backend.head_lsn;
                    match replica.trim(head) {
                        Err(_) if self.peer.disk.is_dead() => self.revive(),
                        other => other.map_err(said)?,
                    }
                    return Ok(false);
                }
                Err(error) => return Err(format!("take: {error}")),
            }
            if !all && self.rng.chance(2) {
                return Ok(true);
            }
        }
    }

    fn sync(&mut self) -> Checked {
        let replica = self.replica()?;
        match replica.sync() {
            Ok(()) => {
                let lsn = replica.stats().map_err(said)?.synced_lsn;
                self.log(|| format!("synced {lsn}"));
                self.promised = (lsn, replica.chain(lsn).map_err(said)?);
                Ok(())
            }
            Err(_) if self.peer.disk.is_dead() => {
                self.revive();
                Ok(())
            }
            Err(error) => Err(format!("sync: {error}")),
        }
    }

    /// The peer becomes the owner, with what it has; the former owner's host has its former log.
    fn swap(&mut self, least: usize) -> Checked {
        self.replica()?;
        if let Some(replica) = self.replica.take() {
            replica.close();
        }
        let peer = Host {
            disk: self.peer.disk.clone(),
            directory: std::mem::replace(&mut self.peer.directory, scratch()),
            engine: self.peer.engine.take(),
        };
        self.peer = self.owner.move_to(peer);
        self.promised = (0, None);
        self.owner.restart(least, self.owner.disk.is_dead())
    }

    fn step(&mut self) -> Checked {
        match self.rng.below(40) {
            0..=19 => match self.owner.act() {
                Ok(checked) => checked?,
                Err(error) => return Err(format!("a request failed: {error}")),
            },
            20..=27 => {
                self.ship(false)?;
            }
            28..=31 => self.sync()?,
            32 => {
                let replica = self.replica()?;
                let head = self.owner.backend.head_lsn;
                self.log(|| format!("trim {head}"));
                match replica.trim(head) {
                    Err(_) if self.peer.disk.is_dead() => self.revive(),
                    other => other.map_err(said)?,
                }
            }
            33 => {
                self.log(|| "peer: killed".into());
                self.replica = None;
                self.peer.engine = None;
                self.peer.disk.kill();
            }
            34 => {
                self.log(|| "peer: power".into());
                self.revive();
            }
            35 => {
                let after = 1 + self.rng.below(30);
                self.peer.disk.cut_after(after);
            }
            36 => {
                self.log(|| "owner: power".into());
                let flushed = self.owner.model.flushed;
                self.owner.forget_process();
                self.owner.disk.power_cycle();
                self.owner.restart(flushed, true)?;
                self.agree()?;
            }
            37 => {
                self.log(|| "owner: killed".into());
                let all = self.owner.model.acknowledged;
                self.owner.forget_process();
                self.owner.disk.kill();
                self.owner.restart(all, false)?;
                self.agree()?;
            }
            38 => {
                if !self.ship(true)? {
                    return Ok(());
                }
                self.sync()?;
                let all = self.owner.volume().stats().map_err(said)?.lsn;
                if self.promised.0 != all {
                    return Ok(());
                }
                self.log(|| format!("hand-over at {all}"));
                if self.rng.chance(2) {
                    self.replica = None;
                    self.peer.engine = None;
                    self.peer.disk.kill();
                }
                self.owner.volume().close().map_err(said)?;
                let all = self.owner.model.acknowledged;
                self.swap(all)?;
                self.agree()?;
            }
            _ => {
                let replica = self.replica()?;
                let stats = replica.stats().map_err(said)?;
                if stats.end_lsn + 1 < self.owner.volume().tail_first_lsn().map_err(said)?
                    || stats.first_lsn > self.owner.volume().tail_first_lsn().map_err(said)?
                {
                    return Ok(()); // has not what lies behind the head
                }
                let least = match self.promised.0 {
                    0 => 0,
                    lsn => self.covered(lsn),
                };
                self.log(|| format!("steal with {stats:?}, at least {least} changes"));
                if self.rng.chance(2) {
                    self.owner.forget_process();
                    self.owner.disk.power_cycle();
                }
                self.swap(least)?;
                self.agree()?;
            }
        }
        Ok(())
    }

    /// Changes since the head with everything up to this record.
    fn covered(&self, lsn: u64) -> usize {
        let changes = self.owner.model.changes.iter();
        changes.take_while(|change| change.lsn <= lsn).count()
    }
}

fn run(seed: u64, steps: u64, lying: bool) -> Checked {
    let mut pair = Pair::new(seed);
    if lying {
        pair.peer.disk.lie();
    }
    for step in 0..steps {
        pair.step()
            .map_err(|error| format!("step {step}: {error}"))?;
    }
    Ok(())
}

/// Would break: promises 3, 4 and 9. What a peer has confirmed is lost when it loses its power, or a takeover from its copy finds
/// other content than the owner wrote; or a former owner's log is taken for the history that somebody else has written since.
#[test]
fn a_copy_serves_for_the_log() {
    let only = setting("VPOOL_SESSION", 0);
    if only != 0 {
        run(only, 400, false).unwrap();
        return;
    }
    let mut seeds = Rng(seed());
    for _ in 0..setting("VPOOL_ROUNDS", 2000).div_ceil(100) {
        let session = seeds.next();
        let result = std::panic::catch_unwind(|| run(session, 200, false));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("VPOOL_SESSION={session}: {error}"),
            Err(_) => panic!("VPOOL_SESSION={session}: see above"),
        }
    }
}

/// Would break: the test above could not fail, were a replica to forget its syncs.
#[test]
fn a_replica_that_does_not_sync_is_caught() {
    let mut seeds = Rng(seed());
    let caught = |session| {
        let run = std::panic::catch_unwind(|| run(session, 200, true).is_err());
        run.unwrap_or(true)
    };
    assert!((0..40).any(|_| caught(seeds.next())));
}

/// A volume that has been on the peer's host for an epoch in which nothing was written: the log there is the peer's own, of an epoch
/// before that, and the same as the owner's.
fn former_log() -> Pair {
    let mut pair = Pair::new(7);
    for _ in 0..4 {
        pair.owner.write_some(600 * 4096, true).unwrap();
    }
    pair.owner.volume().flush().unwrap();
    pair.owner.model.flush();
    for _ in 0..2 {
        assert!(pair.ship(true).unwrap());
        pair.sync().unwrap();
        let all = pair.owner.model.acknowledged;
        pair.owner.forget_process();
        pair.swap(all).unwrap();
    }
    pair
}

/// The head goes on to the end of the first SCO behind it.
fn ship_one(owner: &mut Node) {
    let volume = owner.volume().clone();
    let tlog = volume.close_tlog(false, 1).unwrap().unwrap();
    owner.backend.put(&volume, &tlog).unwrap();
    owner.backend.commit(&tlog);
    owner.model.head_at(tlog.last_lsn);
    volume.head_committed(tlog.reference.number).unwrap();
}

/// Would break: promise 3. A host that had all of the log already, as its own of before, confirms a sync of it, but goes on taking it
/// for its own: worthless when somebody else has written a head since, and everything behind that is lost with the owner.
#[test]
fn a_former_log_that_was_synced_as_a_replica_is_one() {
    let mut promises = 0;
    for cut_after in 0..10 {
        let mut pair = former_log();
        let all = pair.owner.volume().stats().unwrap().lsn;
        assert_eq!(pair.replica().unwrap().stats().unwrap().end_lsn, all);
        if cut_after > 0 {
            pair.peer.disk.cut_after(cut_after);
        }
        pair.sync().unwrap();
        pair.peer.disk.kill_cut();
        pair.revive();
        ship_one(&mut pair.owner);
        let least = pair.covered(pair.promised.0);
        promises += usize::from(least > 0);
        pair.owner.forget_process();
        pair.swap(least)
            .unwrap_or_else(|error| panic!("cut after {cut_after}: {error}"));
    }
    assert!(promises > 1 && promises < 10, "{promises} promises");
}

/// Would break: promise 3. The power goes while a host cuts what is not the owner's, and the newest segment goes first: it was the one
/// that said that the log is a copy.
#[test]
fn a_power_cut_while_a_replica_is_cut_leaves_a_replica() {
    for cut_after in 1..12 {
        let mut pair = former_log();
        let all = pair.owner.volume().stats().unwrap().lsn;
        pair.sync().unwrap();
        assert_eq!(pair.promised.0, all);
        ship_one(&mut pair.owner);
        let last = pair.owner.backend.head_lsn + 1;
        assert!(last < all);
        let least = pair.covered(last);
        assert!(least > 0);
        pair.peer.disk.cut_after(cut_after);
        let _ = pair.replica().unwrap().cut(last);
        pair.promised = (last, None);
        pair.peer.disk.kill_cut();
        pair.revive();
        pair.owner.forget_process();
        pair.swap(least)
            .unwrap_or_else(|error| panic!("cut after {cut_after}: {error}"));
    }
}

/// The volume is on a host that has had it from the backend, and the peer has its former log up to the head, and a copy of what has been
/// written since: the two do not know of one another.
fn beside_a_former_log() -> Pair {
    let mut pair = Pair::new(7);
    for _ in 0..2 {
        pair.owner.write_some(600 * 4096, true).unwrap();
    }
    pair.owner.close_all().unwrap();
    pair.owner.forget_process();
    pair.swap(0).unwrap();
    pair.owner.write_some(4096, true).unwrap();
    pair.owner.volume().flush().unwrap();
    pair.owner.model.flush();
    assert!(pair.ship(true).unwrap());
    pair.sync().unwrap();
    assert_eq!(pair.promised.0, pair.owner.backend.head_lsn + 1);
    pair
}

/// Would break: promise 3. A takeover is cut off after its map has become durable, and before the former log before the copy has gone:
/// that does not lead to the copy, which is then taken to be damaged.
#[test]
fn a_takeover_beside_a_former_log_is_cut_off() {
    for cut_after in 1..12 {
        let mut pair = beside_a_former_log();
        pair.owner.forget_process();
        pair.replica = None;
        pair.peer.engine = None;
        let peer = Host {
            disk: pair.peer.disk.clone(),
            directory: std::mem::replace(&mut pair.peer.directory, scratch()),
            engine: None,
        };
        pair.peer = pair.owner.move_to(peer);
        pair.owner.disk.cut_after(cut_after);
        let opened = pair.owner.open();
        assert!(opened.is_err() || cut_after > 1);
        pair.owner.forget_process();
        pair.owner.disk.power_cycle();
        pair.owner
            .restart(1, false)
            .unwrap_or_else(|error| panic!("cut after {cut_after}: {error}"));
    }
}

/// Batches of one log, and an empty replica for them.
fn batches() -> (Node, Vec<Vec<u8>>, Host) {
    let mut owner = Node::new(3);
    owner.large_pool();
    owner.restart(0, false).unwrap();
    for bytes in [
        4096,
        9000,
        3 << 19,
        3 << 19,
        3 << 19,
        4096,
        3 << 19,
        1 << 19,
    ] {
        owner.write_some(bytes, true).unwrap();
    }
    let (mut batches, mut from) = (Vec::new(), 1);
    while let Some(tail) = owner.volume().tail(from, 700_000).unwrap() {
        batches.push(tail.encode().unwrap());
        from = tail.last_lsn + 1;
    }
    let peer = Host {
        disk: SimulatedDisk::new(1),
        directory: scratch(),
        engine: None,
    };
    (owner, batches, peer)
}

/// Would break: promise 9. A batch that was changed on its way, or made up, gets into a replica or ends the process.
#[test]
fn a_batch_that_is_not_what_the_owner_wrote_is_refused() {
    let (owner, batches, peer) = batches();
    assert!(batches.len() > 2);
    let engine = Engine::open(peer.directory.path(), owner.options(&peer.disk)).unwrap();
    let replica = engine.replica(VOLUME, None).unwrap();
    let mut rng = Rng(seed());
    for (n, batch) in batches.iter().enumerate() {
        let end = replica.stats().unwrap().end_lsn;
        for round in 0..300 {
            let mut changed = batch.clone();
            match round % 4 {
                // Head and records: most of what can be wrong in one.
                0 => {
                    let at = rng.below(600) as usize;
                    changed[at] ^= 1 << rng.below(8);
                }
                1 => {
                    let at = rng.below(changed.len() as u64) as usize;
                    changed[at] ^= 1 << rng.below(8);
                }
                2 => changed.truncate(rng.below(changed.len() as u64) as usize),
                _ => {
                    // With a right checksum, so that what is behind it is asked.
                    let parts = u32::from_le_bytes(changed[12..16].try_into().unwrap()) as usize;
                    let table = 64 + 184 * parts;
                    let at = 32 + rng.below(table as u64 - 32) as usize;
                    if (56..64).contains(&at) {
                        continue;
                    }
                    changed[at] = rng.next() as u8;
                    changed[56..64].fill(0);
                    let check = xxhash_rust::xxh3::xxh3_64(&changed[..table]);
                    changed[56..64].copy_from_slice(&check.to_le_bytes());
                }
            }
            if changed == *batch {
                continue;
            }
            match replica.take(&changed) {
                Err(Error::Corrupt(_) | Error::Invalid(_) | Error::Conflict(_)) => {}
                // Its first LSN is for the reader only.
                Ok(_) if changed[40..48] == batch[40..48] || round % 4 == 3 => {}
                other => panic!("round {round} of batch {n}: {other:?}"),
            }
            assert!(replica.stats().unwrap().end_lsn >= end);
        }
        replica.take(batch).unwrap();
    }
    replica.sync().unwrap();
    let stats = replica.stats().unwrap();
    assert_eq!(stats.synced_lsn, owner.volume().stats().unwrap().lsn);
    assert_eq!(
        replica.chain(stats.end_lsn).unwrap(),
        owner.volume().chain(stats.end_lsn).unwrap()
    );
}
