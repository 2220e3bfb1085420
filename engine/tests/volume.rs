//! A volume under threads, limits and a backend that answers late.

mod simulation;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use simulation::backend::Backend;
use simulation::disk::SimulatedDisk;
use simulation::{scratch, seed, Rng};
use vpool_engine::engine::{Engine, Options};
use vpool_engine::error::Error;
use vpool_engine::types::CLUSTER;
use vpool_engine::volume::{Limits, Reply, Volume};

const VOLUME: [u8; 16] = *b"tests of volumes";

fn open(engine: &Arc<Engine>, limits: (u64, u64)) -> Arc<Volume> {
    let limits = Limits {
        soft_bytes: limits.0,
        hard_bytes: limits.1,
    };
    let recovery = engine.recover(VOLUME, 4, None, 1).unwrap();
    recovery.open(1, limits, 77, false).unwrap()
}

fn options(segments_max: usize) -> Options {
    Options {
        segments_max,
        map_cache_bytes: 4 << 20,
        map_size_bytes: 64 << 20,
        map_dirty_bytes_max: 64 << 10,
        ..Options::default()
    }
}

/// Puts what is sealed into the backend and moves the head.
fn ship(volume: &Volume, backend: &mut Backend, seal_open: bool) -> bool {
    let Some(tlog) = volume.close_tlog(seal_open, 2).unwrap() else {
        return false;
    };
    backend.put(volume, &tlog).unwrap();
    backend.commit(&tlog);
    volume.head_committed(tlog.reference.number).unwrap();
    true
}

/// Would break: with several writers, readers, flushes and recycling at once, a read returns what nobody wrote there, a flush
/// never returns, or memory that is recycled is read.
#[test]
fn threads_see_their_own_writes_while_segments_are_recycled() {
    let directory = scratch();
    let engine = Engine::open(directory.path(), options(6)).unwrap();
    let volume = open(&engine, (16 << 20, 20 << 20));
    let backend = Mutex::new(Backend::new());
    let done = AtomicBool::new(false);
    let seed = seed();
    std::thread::scope(|scope| {
        let shipper = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let idle = !ship(&volume, &mut backend.lock().unwrap(), true);
                if idle {
                    std::thread::yield_now();
                }
            }
        });
        let workers: Vec<_> = (0..4u64)
            .map(|worker| {
                let (volume, backend) = (&volume, &backend);
                scope.spawn(move || work(volume, backend, worker, Rng(seed ^ worker)))
            })
            .collect();
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::Release);
        shipper.join().unwrap();
    });
    assert!(volume.stats().unwrap().next_sco > 8, "nothing was recycled");
    engine.close().unwrap();
}

fn work(volume: &Arc<Volume>, backend: &Mutex<Backend>, worker: u64, mut rng: Rng) {
    let mut mine: HashMap<u64, u64> = HashMap::new();
    for n in 0..1500 {
        let cluster = worker * 1000 + rng.below(300);
        let at = u128::from(cluster) * CLUSTER as u128;
        if rng.chance(3) {
            let mut out = vec![0u8; CLUSTER];
            if let Reply::Plan(plan) = volume.read(at, &mut out).unwrap() {
                // The head moved and the segment went between look-up and answer: the backend has it.
                backend.lock().unwrap().finish(*plan, &mut out).unwrap();
            }
            let stamp = mine.get(&cluster).copied().unwrap_or(0);
            assert_eq!(out[..8], stamp.to_le_bytes(), "cluster {cluster}");
        } else if rng.chance(40) {
            volume.flush().unwrap();
        } else {
            let stamp = (worker << 32) | n;
            let data = stamp.to_le_bytes().repeat(CLUSTER / 8);
            let data = data.repeat(1 + rng.below(4) as usize);
            loop {
                match volume.write(at, &data) {
                    Ok(_) => break,
                    Err(Error::WouldBlock) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
            for n in 0..(data.len() / CLUSTER) as u64 {
                mine.insert(cluster + n, stamp);
            }
        }
    }
}

/// Would break: promise 10. Writers are not slowed before they are stopped, or a refused write has changed something.
#[test]
fn writers_are_slowed_then_stopped_then_go_on() {
    let directory = scratch();
    let engine = Engine::open(directory.path(), options(8)).unwrap();
    let volume = open(&engine, (4 << 20, 8 << 20));
    let data = vec![1u8; 1 << 20];
    let mut delays = Vec::new();
    let refused = loop {
        match volume.write(0, &data) {
            Ok(Reply::Written(delay)) => delays.push(delay),
            Ok(_) => panic!("a whole write needs no plan"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::WouldBlock));
    assert_eq!(delays.len(), 7);
    assert_eq!(delays[..3], [0.0; 3]);
    assert!(delays[4] > 0.0 && delays[4..].is_sorted() && delays[6] < 0.11);
    let lsn = volume.stats().unwrap().lsn;
    assert!(matches!(volume.write(0, &data), Err(Error::WouldBlock)));
    assert_eq!(volume.stats().unwrap().lsn, lsn);
    let mut backend = Backend::new();
    while ship(&volume, &mut backend, true) {}
    assert_eq!(volume.stats().unwrap().dirty_bytes, 0);
    assert!(matches!(volume.write(0, &data), Ok(Reply::Written(_))));
    engine.close().unwrap();
}

/// Would break: what is read often comes from the backend again as soon as its segment is used for something else; or what nobody
/// has read takes room in the read cache.
#[test]
fn what_was_read_is_in_the_read_cache_when_its_segment_is_recycled() {
    let directory = scratch();
    let options = Options {
        read_cache_bytes: 16 << 20,
        background: false,
        ..options(4)
    };
    let engine = Engine::open(directory.path(), options).unwrap();
    let volume = open(&engine, (1 << 30, 1 << 30));
    let mut backend = Backend::new();
    let cluster = |lba: u64| (lba + 1).to_le_bytes().repeat(CLUSTER / 8);
    let at = |lba: u64| u128::from(lba) * CLUSTER as u128;
    for lba in 0..1024 {
        volume.write(at(lba), &cluster(lba)).unwrap();
    }
    assert!(ship(&volume, &mut backend, true));
    let mut out = vec![0u8; CLUSTER];
    for lba in 100..200 {
        assert!(matches!(volume.read(at(lba), &mut out), Ok(Reply::Read)));
    }
    assert_eq!(engine.stats().read_cache.used_bytes, 0);
    for round in 1..6 {
        for lba in 0..1024 {
            volume.write(at(round * 1024 + lba), &cluster(lba)).unwrap();
        }
        assert!(ship(&volume, &mut backend, true));
    }
    let used = engine.stats().read_cache.used_bytes;
    assert_eq!(used, 100 * CLUSTER as u64);
    for lba in 100..200 {
        let reply = volume.read(at(lba), &mut out).unwrap();
        assert!(matches!(reply, Reply::Read), "cluster {lba} is not here");
        assert_eq!(out, cluster(lba));
    }
    assert_eq!(volume.stats().unwrap().read_cache_hits, 100);
    for lba in [99, 200] {
        let Ok(Reply::Plan(plan)) = volume.read(at(lba), &mut out) else {
            panic!("the segment of cluster {lba} was not recycled");
        };
        backend.finish(*plan, &mut out).unwrap();
        assert_eq!(out, cluster(lba));
    }
    engine.close().unwrap();
}

/// Would break: submitted flushes are not answered, or a sealed segment is not announced.
#[test]
fn submitted_flushes_come_back_through_the_descriptor() {
    let directory = scratch();
    let engine = Engine::open(directory.path(), options(8)).unwrap();
    let volume = open(&engine, (1 << 30, 1 << 30));
    let mut waiting: Vec<u64> = (0..50).collect();
    for token in waiting.clone() {
        volume.write(u128::from(token) * 4096, &[7u8; 512]).unwrap();
        volume.submit_flush(token);
    }
    volume.close_tlog(true, 1).unwrap();
    let mut sealed = 0;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !waiting.is_empty() {
        assert!(
            Instant::now() < deadline,
            "flushes {waiting:?} never came back"
        );
        for (token, error) in engine.completions() {
            assert!(error.is_none());
            waiting.retain(|waiting| *waiting != token);
            sealed += u32::from(token == 77);
        }
        std::thread::yield_now();
    }
    assert_eq!(sealed, 1);
    assert!(matches!(
        engine.recover(VOLUME, 4, None, 1),
        Err(Error::Conflict(_))
    ));
    let again = Engine::open(directory.path(), options(8));
    assert!(matches!(again, Err(Error::Conflict(_))));
    engine.close().unwrap();
    assert!(matches!(
        volume.write(0, &[0; 4096]),
        Err(Error::Invalid(_))
    ));
}

/// Would break: a request that waited for the backend overwrites what was written meanwhile with what it had fetched before;
/// or local damage is returned, although the backend has a good copy.
#[test]
fn a_plan_looks_again_and_damage_is_repaired_from_the_backend() {
    let directory = scratch();
    let disk = SimulatedDisk::new(1);
    let options = Options {
        disk: Some(Arc::new(disk.clone())),
        background: false,
        ..options(4)
    };
    let engine = Engine::open(directory.path(), options).unwrap();
    let volume = open(&engine, (1 << 30, 1 << 30));
    let mut backend = Backend::new();
    let old: Vec<u8> = (0..CLUSTER).map(|n| n as u8).collect();
    volume.write(0, &old).unwrap();
    volume.write(4096, &old).unwrap();
    assert!(ship(&volume, &mut backend, true));
    for name in disk.names() {
        // Slots 0 and 1 of the only segment that holds anything.
        disk.flip(&name, 65_536 + 100, 1);
        disk.flip(&name, 65_536 + 4096 + 100, 1);
    }
    let mut out = vec![0u8; CLUSTER];
    let Ok(Reply::Plan(read)) = volume.read(0, &mut out) else {
        panic!("damaged data was served");
    };
    backend.finish(*read, &mut out).unwrap();
    assert_eq!(out, old);
    let Ok(Reply::Plan(mut write)) = volume.write(4096 + 10, &[9; 10]) else {
        panic!("old content was not needed");
    };
    let fetch = *write.misses().next().unwrap();
    assert!(matches!(
        write.supply(0, &[0; CLUSTER], None),
        Err(Error::Corrupt(_))
    ));
    write.supply(0, &backend.fetch(&fetch), None).unwrap();
    volume.write(4096, &[5; CLUSTER]).unwrap();
    assert!(matches!(write.resume(&mut []), Ok(Reply::Written(_))));
    volume.read(4096, &mut out).unwrap();
    let mut expected = vec![5; CLUSTER];
    expected[10..20].fill(9);
    assert_eq!(out, expected);
    // Damage in what the backend does not have is an error.
    for name in disk.names() {
        disk.flip(&name, 65_536 + 4096 + 200, 2);
    }
    assert!(matches!(
        volume.read(4096, &mut out),
        Err(Error::Corrupt(_))
    ));
}
