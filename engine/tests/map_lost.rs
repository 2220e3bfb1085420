//! The local map may be thrown away at any time: what the log has must come back all the same, however often it goes wrong meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use tempfile::TempDir;
use vpool_engine::engine::{Engine, Options};
use vpool_engine::recovery::{tlog_previous, Recovery};
use vpool_engine::shipping::{CheckpointStep, WriteBack};
use vpool_engine::types::{FetchKind, RootRef, TlogRef, CLUSTER};
use vpool_engine::volume::{Limits, Reply, Volume};

const VOLUME: [u8; 16] = *b"a volume, no map";

/// A node with one volume, and its backend and registry in RAM.
struct Node {
    directory: TempDir,
    engine: Option<Arc<Engine>>,
    volume: Option<Arc<Volume>>,
    epoch: u64,
    tlogs: HashMap<(u64, u64), Vec<u8>>,
    objects: HashMap<(FetchKind, u64, u64), Vec<u8>>,
    head: Option<TlogRef>,
    next_sco: u64,
    checkpoint: Option<(RootRef, TlogRef)>,
}

impl Node {
    fn new() -> Node {
        Node {
            directory: tempfile::tempdir().unwrap(),
            engine: None,
            volume: None,
            epoch: 0,
            tlogs: HashMap::new(),
            objects: HashMap::new(),
            head: None,
            next_sco: 1,
            checkpoint: None,
        }
    }

    /// The process dies; nothing that it had in RAM is left.
    fn kill(&mut self) {
        self.volume = None;
        self.engine = None;
    }

    fn lose_map(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.directory.path().join("map")).unwrap();
    }

    /// Zeroes the headers of the segments with this number: recycled, or never synced. Returns how many there were.
    fn wipe_header(&self, number: u64) -> usize {
        let mut wiped = 0;
        for entry in std::fs::read_dir(self.directory.path().join("log")).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            if bytes[40..48] == number.to_le_bytes() {
                bytes[..4096].fill(0);
                std::fs::write(&path, &bytes).unwrap();
                wiped += 1;
            }
        }
        wiped
    }

    fn recover(&mut self) -> Recovery {
        self.kill();
        let options = Options {
            segments_max: 8,
            segments_reserve: 1,
            map_cache_bytes: 1 << 20,
            map_size_bytes: 64 << 20,
            map_dirty_bytes_max: 1,
            background: false,
            ..Options::default()
        };
        let engine = Engine::open(self.directory.path(), options).unwrap();
        self.engine = Some(engine.clone());
        let recovery = engine.recover(VOLUME, 4, self.head, self.next_sco).unwrap();
        assert_eq!(recovery.damage(), None);
        recovery
    }

    /// `tlogs_max`: fewer than there are, when the process dies while it loads.
    fn load(&self, recovery: &mut Recovery, tlogs_max: usize) {
        let (mut history, mut at) = (Vec::new(), self.head);
        let mut stop = None;
        if let Some((root, tlog)) = self.checkpoint {
            let object = &self.objects[&(FetchKind::Map, root.epoch, root.object)];
            let bytes = &object[root.offset as usize..(root.offset + root.length) as usize];
            recovery.load_checkpoint(root, bytes).unwrap();
            stop = Some(tlog);
        }
        // Down to the one that the checkpoint ends with: it says where the log goes on.
        while let Some(reference) = at {
            let bytes = &self.tlogs[&(reference.epoch, reference.number)];
            history.push((reference, bytes));
            at = tlog_previous(bytes).unwrap().filter(|_| stop != at);
        }
        for (reference, bytes) in history.into_iter().rev().take(tlogs_max) {
            recovery.apply_tlog(reference, bytes).unwrap();
        }
    }

    fn open(&mut self) {
        let mut recovery = self.recover();
        if recovery.map_lost() && self.head.is_some() {
            self.load(&mut recovery, usize::MAX);
            assert_eq!(recovery.damage(), None);
        }
        self.epoch += 1;
        let limits = Limits {
            soft_bytes: 64 << 20,
            hard_bytes: 64 << 20,
        };
        self.volume = Some(recovery.open(self.epoch, limits, 1, false).unwrap());
    }

    fn volume(&self) -> &Arc<Volume> {
        self.volume.as_ref().unwrap()
    }

    fn write(&self, cluster: u64, byte: u8) {
        let offset = u128::from(cluster) * CLUSTER as u128;
        let reply = self.volume().write(offset, &[byte; CLUSTER]).unwrap();
        assert!(matches!(reply, Reply::Written(_)));
    }

    fn read(&self, cluster: u64) -> u8 {
        let mut out = [0u8; CLUSTER];
        let offset = u128::from(cluster) * CLUSTER as u128;
        let mut reply = self.volume().read(offset, &mut out).unwrap();
        while let Reply::Plan(mut plan) = reply {
            let fetches: Vec<_> = plan.misses().copied().collect();
            for (n, fetch) in fetches.iter().enumerate() {
                let object = &self.objects[&(fetch.kind, fetch.epoch, fetch.number)];
                let at = fetch.offset as usize;
                let data = &object[at..at + fetch.length as usize];
                plan.supply(n, data, None).unwrap();
            }
            reply = plan.resume(&mut out).unwrap();
        }
        assert!(out.iter().all(|byte| *byte == out[0]));
        out[0]
    }

    /// Closes TLogs of at most one SCO and commits their heads; at most `tlogs_max`.
    fn ship(&mut self, tlogs_max: usize) {
        let volume = self.volume().clone();
        for _ in 0..tlogs_max {
            let Some(tlog) = volume.close_tlog(true, 1).unwrap() else {
                break;
            };
            for (number, clusters) in &tlog.scos {
                let mut data = vec![0u8; *clusters as usize * CLUSTER];
                volume.read_sco(*number, &mut data).unwrap();
                let key = (FetchKind::Sco, tlog.reference.epoch, *number);
                assert!(self.objects.insert(key, data).is_none());
            }
            let key = (tlog.reference.epoch, tlog.reference.number);
            self.tlogs.insert(key, tlog.encode().unwrap());
            self.head = Some(tlog.reference);
            self.next_sco = tlog.next_sco;
            volume.head_committed(tlog.reference.number).unwrap();
        }
    }

    fn ship_with_checkpoint(&mut self) {
        let volume = self.volume().clone();
        volume.cut_next_tlog().unwrap();
        self.ship(1);
        let mut checkpoint = volume.begin_checkpoint(1).unwrap().unwrap();
        let root = loop {
            match checkpoint.step().unwrap() {
                CheckpointStep::Object { number, bytes } => {
                    let key = (FetchKind::Map, self.epoch, number);
                    self.objects.insert(key, bytes);
                }
                CheckpointStep::Done(root) => break root,
                CheckpointStep::Need(_) => panic!("the first checkpoint has nothing below"),
            }
        };
        volume.checkpoint_committed(root).unwrap();
        self.checkpoint = Some((root, checkpoint.tlog));
    }
}

/// Would break: promise 2. The map of a load that a kill ended knows less of the history than the log does: a tail that is
/// the head's own was taken for a deposed owner's and thrown away.
#[test]
fn a_kill_while_the_map_is_loaded_does_not_lose_the_tail() {
    let mut node = Node::new();
    node.open();
    node.write(1, 1);
    node.ship(1);
    node.open();
    node.write(2, 2);
    node.ship(1);
    node.write(3, 3);
    node.lose_map();
    let mut recovery = node.recover();
    assert!(recovery.map_lost());
    node.load(&mut recovery, 1);
    drop(recovery);
    node.open();
    assert_eq!([node.read(1), node.read(2), node.read(3)], [1, 2, 3]);
}

/// Would break: promise 2. The log goes on behind a map from the backend, without the chain of the segments that are still
/// here: what was written then was not found again.
#[test]
fn what_is_written_over_a_map_from_the_backend_is_found_again() {
    for flushed in [false, true] {
        let mut node = Node::new();
        node.open();
        node.write(1, 1);
        node.ship(1);
        node.lose_map();
        node.open();
        node.write(2, 2);
        if flushed {
            node.volume().flush().unwrap();
            node.write(2, 3);
        }
        node.open();
        assert_eq!(node.read(1), 1);
        assert_eq!(node.read(2), if flushed { 3 } else { 2 });
        node.ship(1);
        node.open();
        assert_eq!(node.read(1), 1);
    }
}

/// Would break: a volume that only lost its map halts at the second start: nobody knew the LSN, so a later one was taken.
#[test]
fn a_map_from_a_checkpoint_alone_serves_again_and_again() {
    for writes in [0, 1, 2] {
        let mut node = Node::new();
        node.open();
        node.write(1, 1);
        node.ship_with_checkpoint();
        node.lose_map();
        node.open();
        for n in 0..writes {
            node.write(2 + n, 7);
            node.volume().flush().unwrap();
        }
        for _ in 0..2 {
            node.open();
            assert_eq!(node.read(1), 1);
            for n in 0..writes {
                assert_eq!(node.read(2 + n), 7);
            }
        }
    }
}

/// Would break: a tail that was carried over and uploaded in part halts the volume when a kill ends the load of its map.
#[test]
fn a_kill_while_the_map_is_loaded_does_not_halt_a_tail_that_was_carried_over() {
    let mut node = Node::new();
    node.open();
    node.write(1, 1);
    node.ship(1);
    node.volume().write_back(WriteBack::Now).unwrap();
    for cluster in 0..1500 {
        node.write(cluster, 2);
    }
    node.open();
    node.ship(1);
    let mut recovery = node.recover();
    node.load(&mut recovery, 1);
    drop(recovery);
    node.open();
    assert_eq!([node.read(0), node.read(1), node.read(1499)], [2, 2, 2]);
}

/// Would break: a legitimate power cut halts the volume. The segment behind the head was recycled, of the two after it nothing
/// was flushed, and the power cut took the first one's header only.
#[test]
fn an_unflushed_segment_that_a_power_cut_took_is_no_damage() {
    let mut node = Node::new();
    node.open();
    node.write(1, 1);
    node.ship(1);
    node.volume().write_back(WriteBack::Now).unwrap();
    for cluster in 0..1500 {
        node.write(cluster, 2);
    }
    node.kill();
    assert_eq!([1, 2].map(|number| node.wipe_header(number)), [1; 2]);
    node.open();
    assert_eq!([node.read(1), node.read(1200)], [1, 0]);
}

/// Would break: promise 3 turns into a halt. The map ends before the head does, the head's last segment is recycled, and of the
/// two segments behind it, which nobody flushed, a power cut took the first one's header: what the second one calls durable is
/// what the head has.
#[test]
fn what_the_head_has_is_not_missed_when_the_map_is_older() {
    let mut node = Node::new();
    node.open();
    node.write(1, 1);
    node.ship(1);
    node.volume().write_back(WriteBack::Now).unwrap();
    node.write(1, 2);
    node.ship(1);
    for cluster in 0..1500 {
        node.write(cluster, 3);
    }
    node.kill();
    assert_eq!([1, 2, 3].map(|number| node.wipe_header(number)), [1; 3]);
    node.open();
    assert_eq!([node.read(1), node.read(1200)], [2, 0]);
}

/// Would break: promise 9. The same, but what the power cut took had been flushed.
#[test]
fn what_was_flushed_behind_the_head_is_missed_when_the_map_is_older() {
    let mut node = Node::new();
    node.open();
    node.write(1, 1);
    node.ship(1);
    node.volume().write_back(WriteBack::Now).unwrap();
    node.write(1, 2);
    node.ship(1);
    node.write(0, 3);
    node.volume().flush().unwrap();
    for cluster in 0..1500 {
        node.write(cluster, 3);
    }
    node.kill();
    assert_eq!([1, 2, 3].map(|number| node.wipe_header(number)), [1; 3]);
    let mut recovery = node.recover();
    node.load(&mut recovery, usize::MAX);
    let damage = recovery.damage().unwrap();
    assert!(damage.contains("was durable"), "{damage}");
}
