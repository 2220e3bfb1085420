//! Bytes of the local log that change by themselves: never wrong data, never a flushed write that is silently gone.
//!
//! `VPOOL_STRIDE` (default 13 in the parts that are in use) sets which bytes are tried.

mod simulation;

use std::sync::Arc;

use simulation::disk::SimulatedDisk;
use simulation::model::Model;
use simulation::node::{Node, VOLUME};
use simulation::{scratch, seed, setting, Rng};
use vpool_engine::engine::{Engine, Options};
use vpool_engine::error::Error;
use vpool_engine::shipping::WriteBack;
use vpool_engine::types::CLUSTER;
use vpool_engine::volume::{Limits, Reply};

/// How the life ended before the damage.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Closed,
    Killed,
    /// Killed, and the map had been written back shortly before.
    KilledWithMap,
    /// Killed, and the map is gone.
    KilledWithoutMap,
}

/// A volume with a head, clean segments, a flushed tail and some more that was not flushed.
fn life(end: End) -> Node {
    let mut node = Node::new(seed());
    node.restart(0, false).unwrap();
    let small = |node: &mut Node, n: u64| {
        for _ in 0..n {
            let bytes = 1 + node.rng.below(3 * CLUSTER as u64) as usize;
            node.write_some(bytes, false).unwrap();
        }
    };
    small(&mut node, 20);
    node.close_all().unwrap();
    small(&mut node, 20);
    node.volume().close_tlog(true, 16).unwrap();
    small(&mut node, 20);
    if end == End::KilledWithMap {
        node.volume().write_back(WriteBack::Now).unwrap();
    }
    node.volume().flush().unwrap();
    node.model.flush();
    node.engine().unwrap().tick();
    if end == End::Closed {
        node.volume().close().unwrap();
    } else {
        small(&mut node, 3);
    }
    node
}

/// What a restart on this disk comes to: Ok when it served right data or refused.
fn restart(
    node: &Node,
    disk: &SimulatedDisk,
    map: &std::path::Path,
) -> Result<&'static str, String> {
    let directory = scratch();
    std::fs::create_dir(directory.path().join("map")).unwrap();
    for file in std::fs::read_dir(map).unwrap() {
        let file = file.unwrap();
        let to = directory.path().join("map").join(file.file_name());
        std::fs::copy(file.path(), to).unwrap();
    }
    let options = Options {
        segments_max: 16,
        map_cache_bytes: 1 << 20,
        map_size_bytes: 64 << 20,
        map_durable: false,
        background: false,
        disk: Some(Arc::new(disk.clone())),
        ..Options::default()
    };
    let refused = |error: Error| match error {
        Error::Corrupt(_) | Error::Halted(_) => Ok("refused"),
        other => Err(format!("{other:?}")),
    };
    let engine = match Engine::open(directory.path(), options) {
        Ok(engine) => engine,
        Err(error) => return refused(error),
    };
    let backend = &node.backend;
    let mut recovery = match engine.recover(VOLUME, 4, backend.head, backend.next_sco) {
        Ok(recovery) => recovery,
        Err(error) => return refused(error),
    };
    if recovery.damage().is_some() {
        return Ok("refused");
    }
    if recovery.map_lost() {
        backend.load(&mut recovery).map_err(|e| e.to_string())?;
        if recovery.damage().is_some() {
            return Ok("refused");
        }
    }
    let limits = Limits {
        soft_bytes: 1 << 30,
        hard_bytes: 1 << 30,
    };
    let volume = match recovery.open(1000, limits, 1, false) {
        Ok(volume) => volume,
        Err(error) => return refused(error),
    };
    // The image, with what the engine refuses to return taken as right.
    let mut image = vec![0u8; node.clusters * CLUSTER];
    let mut corrupt = Vec::new();
    for (n, out) in image.chunks_exact_mut(CLUSTER).enumerate() {
        let read = match volume.read((n * CLUSTER) as u128, out) {
            Ok(Reply::Plan(plan)) => backend.finish(*plan, out).map(|_| ()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match read {
            Ok(()) => {}
            Err(Error::Corrupt(_)) => corrupt.push(n),
            Err(error) => return Err(format!("reading: {error:?}")),
        }
    }
    let lsn = volume.stats().map_err(|e| e.to_string())?.lsn;
    let ends = (node.model.flushed..=node.model.changes.len()).rev();
    for end in ends {
        let mut model: Model = node.model.clone();
        model.changes.truncate(end);
        let mut whole = model.head.clone();
        model.replay(&mut whole);
        for n in &corrupt {
            let range = n * CLUSTER..(n + 1) * CLUSTER;
            image[range.clone()].copy_from_slice(&whole[range]);
        }
        if model.survived(&image, end, lsn).is_ok() {
            return Ok(if corrupt.is_empty() {
                "right"
            } else {
                "corrupt"
            });
        }
    }
    Err(format!(
        "wrong data, or a flushed write is gone ({} clusters refused)",
        corrupt.len()
    ))
}

fn flip_all(end: End) {
    let mut node = life(end);
    let map = match end {
        End::KilledWithoutMap => scratch(),
        _ => node.map_copy(),
    };
    node.forget_process();
    node.disk.kill();
    let mut rng = Rng(7);
    let stride = setting("VPOOL_STRIDE", 13);
    let mut outcomes = std::collections::BTreeMap::new();
    let untouched = restart(&node, &node.disk.copy(), map.path());
    assert_eq!(untouched, Ok("right"));
    for name in node.disk.names() {
        let content = node.disk.content(&name);
        // Every header byte in use, then strides: dense over records and the first data, coarse where nothing stands.
        let mut at = 0;
        while at < content.len() {
            let used = content[at..content.len().min(at + 4096)]
                .iter()
                .any(|b| *b != 0);
            if used {
                let disk = node.disk.copy();
                disk.flip(&name, at, 1 << rng.below(8));
                let outcome = restart(&node, &disk, map.path());
                let outcome = outcome.unwrap_or_else(|e| panic!("{end:?}: {name} byte {at}: {e}"));
                *outcomes.entry(outcome).or_insert(0) += 1;
            }
            at += match at {
                0..=167 => 1 + rng.below(stride / 4 + 1) as usize,
                168..=4095 => 997,
                4096..=65_535 => 1 + rng.below(2 * stride) as usize,
                _ => 1 + rng.below(2000 * stride) as usize,
            };
            if !used {
                at = at.next_multiple_of(4096);
            }
        }
    }
    println!("{end:?}: {outcomes:?}");
    assert!(outcomes["right"] > 0 && outcomes["refused"] > 0);
}

/// Would break: after an administrator has accepted a loss, the next restart finds the same damage again, or loses what was
/// flushed since.
#[test]
fn an_accepted_loss_is_over() {
    let mut node = life(End::Killed);
    node.forget_process();
    node.disk.kill();
    let mut accepted = 0;
    for name in node.disk.names() {
        for at in [20, 45, 60, 70, 4096 + 10, 4096 + 500, 4096 + 900] {
            let disk = node.disk.copy();
            disk.flip(&name, at, 4);
            let directory = scratch();
            let mut opened = 0;
            for epoch in [100, 101, 102] {
                let options = Options {
                    segments_max: 16,
                    map_size_bytes: 64 << 20,
                    map_durable: false,
                    background: false,
                    disk: Some(Arc::new(disk.clone())),
                    ..Options::default()
                };
                let engine = Engine::open(directory.path(), options).unwrap();
                let head = node.backend.head;
                let mut recovery = engine
                    .recover(VOLUME, 4, head, node.backend.next_sco)
                    .unwrap();
                if recovery.map_lost() {
                    node.backend.load(&mut recovery).unwrap();
                }
                let damaged = recovery.damage().is_some();
                assert!(!damaged || epoch == 100, "{name} byte {at}: damage again");
                accepted += u32::from(damaged);
                let limits = Limits {
                    soft_bytes: 1 << 30,
                    hard_bytes: 1 << 30,
                };
                let volume = recovery.open(epoch, limits, 1, true).unwrap();
                if epoch > 100 {
                    let mut out = vec![0u8; CLUSTER];
                    volume.read(0, &mut out).unwrap();
                    assert_eq!(out, vec![epoch as u8 - 1; CLUSTER], "{name} byte {at}");
                }
                volume.write(0, &[epoch as u8; CLUSTER]).unwrap();
                volume.flush().unwrap();
                disk.kill();
                opened += 1;
            }
            assert_eq!(opened, 3);
        }
    }
    assert!(accepted > 0);
}

/// Would break: promise 9 after a clean stop.
#[test]
fn a_changed_byte_after_a_clean_stop_is_noticed() {
    flip_all(End::Closed);
}

/// Would break: promises 3 and 9 after a kill.
#[test]
fn a_changed_byte_after_a_kill_is_noticed() {
    flip_all(End::Killed);
}

/// Would break: promises 3 and 9 where the map on the disk is newer than the damage.
#[test]
fn a_changed_byte_behind_the_map_is_noticed() {
    flip_all(End::KilledWithMap);
}

/// Would break: promises 3 and 9 where the map is lost, too.
#[test]
fn a_changed_byte_without_a_map_is_noticed() {
    flip_all(End::KilledWithoutMap);
}
