//! A volume whose map is far larger than the RAM it may use. `cargo test --release --test map_scale -- --ignored --nocapture` does it
//! for 1 TiB (one mapped cluster per 512 KiB: 2 M leaves), and prints speeds.

use std::collections::HashMap;
use std::time::Instant;

use vpool_engine::map::*;
use vpool_engine::types::*;

/// Anonymous memory of this process, in KiB.
fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn run(leaves: u64, cache_bytes: usize, rss_kib_max: u64) {
    let dir = tempfile::tempdir().unwrap();
    let store = MapStore::open(dir.path(), 16 << 30, cache_bytes, false).unwrap();
    let mut map = VolumeMap::create(&store, [5; 16], 4, None).unwrap();
    let before = anonymous_kib();
    let mut peak = 0;
    let lba = |leaf: u64| leaf * 128 + leaf % 128;
    let loc = |n: u64| Loc(1024 + n);
    // A stride that visits every leaf, far from the one before.
    let start = Instant::now();
    for i in 0..leaves {
        let leaf = i * 1_000_003 % leaves;
        map.update(lba(leaf), loc(i), &[leaf as u32]);
        if map.dirty_bytes() > 32 << 20 {
            let cut = map.cut(Included {
                lsn: i,
                number: 1,
                chain: 0,
            });
            cut.commit().unwrap();
            peak = peak.max(anonymous_kib());
            map.committed(cut.id());
        }
    }
    println!(
        "{leaves} leaves mapped in {:?}, store {} MiB of caches",
        start.elapsed(),
        store.cached_bytes() >> 20
    );

    let start = Instant::now();
    let cut = map.cut(Included {
        lsn: leaves,
        number: 1,
        chain: 0,
    });
    let mut builder = cut.commit_and_checkpoint(1, 1, 1, 1, leaves).unwrap();
    map.committed(cut.id());
    let mut objects: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut bytes_kib = 0;
    let reference = loop {
        match builder.step().unwrap() {
            Step::Need(_) => panic!("nothing is below"),
            Step::Object { number, bytes } => {
                assert!(bytes.len() <= 16 << 20);
                bytes_kib += bytes.len() as u64 / 1024;
                objects.insert(number, bytes);
                peak = peak.max(anonymous_kib().saturating_sub(bytes_kib));
            }
            Step::Done(reference) => break reference,
        }
    };
    let finished = builder.finish();
    let root = finished.root_bytes().to_vec();
    println!(
        "checkpoint: {} objects, {bytes_kib} KiB, {:?}",
        objects.len(),
        start.elapsed()
    );
    let start = Instant::now();
    map.checkpoint_installed(reference, &root, finished)
        .unwrap();
    println!("installed in {:?}", start.elapsed());

    // Elsewhere, from the checkpoint alone: the first lookup costs a node per level.
    drop(map);
    let start = Instant::now();
    let elsewhere = tempfile::tempdir().unwrap();
    let store2 = MapStore::open(elsewhere.path(), 1 << 30, cache_bytes, false).unwrap();
    let mut other = VolumeMap::create(&store2, [5; 16], 4, Some((reference, &root))).unwrap();
    let mut fetched = 0;
    let mut out = Vec::new();
    while let Lookup::Need(fetches) = other.lookup(lba(leaves / 2), 1, &mut out).unwrap() {
        for f in fetches {
            other
                .supply(
                    &f,
                    &objects[&f.number][f.offset as usize..][..f.length as usize],
                )
                .unwrap();
            fetched += 1;
        }
    }
    assert_eq!(out[0].crc as u64, leaves / 2);
    assert!(fetched <= 5);
    println!(
        "elsewhere: first lookup after {fetched} nodes, {:?}",
        start.elapsed()
    );

    let start = Instant::now();
    drop((cut, store));
    let store = MapStore::open(dir.path(), 16 << 30, cache_bytes, false).unwrap();
    let mut map = VolumeMap::load(&store, [5; 16], 4).unwrap().unwrap();
    println!("opened again in {:?}", start.elapsed());
    let start = Instant::now();
    for i in 0..leaves.min(200_000) {
        let leaf = i * 7_368_787 % leaves;
        out.clear();
        assert_eq!(map.lookup(lba(leaf), 1, &mut out).unwrap(), Lookup::Found);
        assert_eq!(out[0].crc as u64, leaf);
    }
    println!(
        "lookup of a page that is not in RAM: {:?}",
        start.elapsed() / leaves.min(200_000) as u32
    );
    peak = peak.max(anonymous_kib().saturating_sub(bytes_kib));

    let n = 1_000_000u64;
    let resident: Vec<u64> = (0..2000).map(|i| i * 37 % leaves).collect();
    for leaf in &resident {
        map.update(lba(*leaf), loc(*leaf), &[1]);
    }
    let start = Instant::now();
    for i in 0..n {
        map.update(
            resident[(i * 7919 % 2000) as usize] * 128 + i % 128,
            loc(leaves + i),
            &[i as u32],
        );
    }
    println!("update, resident: {:?}", start.elapsed() / n as u32);
    let start = Instant::now();
    for i in 0..n {
        out.clear();
        map.lookup(
            resident[(i * 7919 % 2000) as usize] * 128 + i % 128,
            1,
            &mut out,
        )
        .unwrap();
    }
    println!("lookup, dirty: {:?}", start.elapsed() / n as u32);
    let cut = map.cut(Included {
        lsn: leaves + 1,
        number: 1,
        chain: 0,
    });
    cut.commit().unwrap();
    map.committed(cut.id());
    let start = Instant::now();
    for i in 0..n {
        out.clear();
        map.lookup(
            resident[(i * 7919 % 2000) as usize] * 128 + i % 128,
            1,
            &mut out,
        )
        .unwrap();
    }
    println!("lookup, clean: {:?}", start.elapsed() / n as u32);

    let start = Instant::now();
    map.clear(0, u64::MAX);
    println!("clear of everything: {:?}", start.elapsed());
    let cut = map.cut(Included {
        lsn: leaves + 2,
        number: 1,
        chain: 0,
    });
    let start = Instant::now();
    cut.commit().unwrap();
    println!("its commit: {:?}", start.elapsed());
    map.committed(cut.id());
    peak = peak.max(anonymous_kib().saturating_sub(bytes_kib));
    out.clear();
    assert_eq!(map.lookup(lba(3), 1, &mut out).unwrap(), Lookup::Found);
    assert_eq!(out[0], Entry::default());
    println!(
        "anonymous memory: {} MiB more at most",
        peak.saturating_sub(before) >> 10
    );
    assert!(peak - before < rss_kib_max);
}

#[test]
fn a_map_larger_than_its_budget() {
    run(60_000, 16 << 20, 220 << 10);
}

#[test]
#[ignore = "long: 1 TiB mapped"]
fn one_tebibyte_mapped() {
    run(2 << 20, 64 << 20, 320 << 10);
}
