//! The read cache returns right data or nothing, keeps what is used, survives a restart, and never more than it may.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use proptest::prelude::*;
use vpool_engine::read_cache::{CacheKey, ReadCache};
use vpool_engine::types::*;

const BLOCK: u64 = 64 << 10;

fn key(number: u64) -> CacheKey {
    CacheKey {
        origin: [(number % 3) as u8; 16],
        epoch: 1 + number % 2,
        number,
    }
}

fn cluster(key: &CacheKey, slot: u32) -> Vec<u8> {
    let seed = key.number * 1_000_003 + key.epoch * 7919 + u64::from(slot) * 31;
    (0..CLUSTER as u64 / 8)
        .flat_map(|i| (seed.wrapping_mul(i + 1) ^ i << 32).to_le_bytes())
        .collect()
}

fn clusters(key: &CacheKey, first: u32, n: u32) -> Vec<u8> {
    (first..first + n)
        .flat_map(|slot| cluster(key, slot))
        .collect()
}

fn read(cache: &ReadCache, key: &CacheKey, slot: u32) -> bool {
    let expected = cluster(key, slot);
    let mut out = vec![0; CLUSTER];
    let hit = cache.read(key, slot, crc32c::crc32c(&expected), &mut out);
    assert!(!hit || out == expected, "wrong data returned");
    hit
}

#[test]
fn what_is_inserted_is_there_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ReadCache::open(dir.path(), 8 * BLOCK, Arc::default()).unwrap();
    assert!(!read(&cache, &key(1), 3));
    cache.insert(&key(1), 10, &clusters(&key(1), 10, 20));
    assert!(cache.has(&key(1), 10, 20) && !cache.has(&key(1), 9, 2) && !cache.has(&key(1), 29, 2));
    assert!((10..30).all(|slot| read(&cache, &key(1), slot)));
    assert_eq!(cache.stats().used_bytes, 20 * CLUSTER as u64);
    cache.insert(&key(2), 0, &clusters(&key(2), 0, 1));
    cache.forget_origin(&key(1).origin);
    assert!(!cache.has(&key(1), 10, 1) && read(&cache, &key(2), 0));
    assert_eq!(
        (cache.stats().used_bytes, cache.stats().misses),
        (CLUSTER as u64, 1)
    );
}

#[test]
fn a_wrong_checksum_is_a_miss_and_drops_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ReadCache::open(dir.path(), 8 * BLOCK, Arc::default()).unwrap();
    cache.insert(&key(1), 0, &clusters(&key(1), 0, 2));
    let mut out = vec![0; CLUSTER];
    assert!(!cache.read(&key(1), 0, 12345, &mut out));
    assert!(!cache.has(&key(1), 0, 1) && read(&cache, &key(1), 1));
}

#[test]
fn survives_a_restart_also_with_another_size_and_a_damaged_index() {
    let dir = tempfile::tempdir().unwrap();
    let open = |blocks| ReadCache::open(dir.path(), blocks * BLOCK, Arc::default()).unwrap();
    let cache = open(20);
    for number in 0..10 {
        cache.insert(&key(number), 0, &clusters(&key(number), 0, 16));
    }
    drop(cache);
    let cache = open(40);
    assert!((0..10).all(|number| read(&cache, &key(number), 5)));
    drop(cache);
    let cache = open(4);
    assert_eq!(
        (0..10)
            .filter(|number| read(&cache, &key(*number), 5))
            .count(),
        4
    );
    drop(cache);
    let mut index = std::fs::read(dir.path().join("index")).unwrap();
    index[64 + 20] ^= 1;
    std::fs::write(dir.path().join("index"), &index).unwrap();
    let cache = open(4);
    assert_eq!(
        (0..10)
            .filter(|number| read(&cache, &key(*number), 5))
            .count(),
        3
    );
    drop(cache);
    std::fs::write(dir.path().join("index"), b"no such thing").unwrap();
    assert_eq!(open(4).stats().used_bytes, 0);
}

#[test]
fn no_bytes_no_cache() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ReadCache::open(dir.path(), 0, Arc::default()).unwrap();
    cache.insert(&key(1), 0, &clusters(&key(1), 0, 1));
    assert!(!read(&cache, &key(1), 0) && !cache.has(&key(1), 0, 1));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A scan of ten times the cache must not push out what is read again and again.
#[test]
fn a_scan_does_not_push_out_what_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ReadCache::open(dir.path(), 100 * BLOCK, Arc::default()).unwrap();
    let touch = || {
        (0..40)
            .filter(|number| read(&cache, &key(*number), 0))
            .count()
    };
    for number in 0..40 {
        cache.insert(&key(number), 0, &clusters(&key(number), 0, 1));
    }
    for scanned in 0..1000 {
        if scanned % 50 == 0 {
            touch();
        }
        cache.insert(
            &key(1000 + scanned),
            0,
            &clusters(&key(1000 + scanned), 0, 1),
        );
    }
    assert_eq!(touch(), 40);
    assert!(cache.stats().used_bytes <= 100 * CLUSTER as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn never_wrong_never_too_much(ops in prop::collection::vec((0u8..12, 0u64..12, 0u32..1000, 1u32..24), 1..150)) {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = ReadCache::open(dir.path(), 6 * BLOCK, Arc::default()).unwrap();
        for (op, number, slot, n) in ops {
            match op {
                0 => cache.forget_origin(&key(number).origin),
                1 => {
                    drop(cache);
                    cache = ReadCache::open(dir.path(), 6 * BLOCK, Arc::default()).unwrap();
                }
                2..=6 => cache.insert(&key(number), slot, &clusters(&key(number), slot, n)),
                _ => {
                    let claimed = cache.has(&key(number), slot, 1);
                    prop_assert_eq!(read(&cache, &key(number), slot), claimed);
                }
            }
            prop_assert!(cache.stats().used_bytes <= 6 * BLOCK);
            prop_assert_eq!(cache.stats().failed, None);
        }
    }
}

/// Slots are given away all the time under readers' feet.
#[test]
fn readers_and_writers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ReadCache::open(dir.path(), 8 * BLOCK, Arc::default()).unwrap();
    let (stop, hits) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (cache, stop, hits) = (&cache, &stop, &hits);
            scope.spawn(move || {
                let mut i = thread;
                while !stop.load(Ordering::Relaxed) {
                    i = i.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if read(cache, &key(i >> 33 & 15), (i >> 40 & 31) as u32) {
                        hits.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for i in 0..6000u64 {
            let (k, slot) = (key(i * 7 % 16), (i % 2 * 16) as u32);
            cache.insert(&k, slot, &clusters(&k, slot, 16));
            if i % 100 == 0 {
                cache.forget_origin(&[(i % 3) as u8; 16]);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(hits.load(Ordering::Relaxed) > 0);
    assert!(cache.stats().used_bytes <= 8 * BLOCK);
}
