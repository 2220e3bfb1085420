//! 4 KiB random writes and reads through a volume, one thread, in process. Prints one line of JSON.
//!
//! `engine_bench DIRECTORY [OPERATIONS]`; the directory should be on tmpfs for the target of the design.

use std::path::PathBuf;
use std::time::Instant;

use vpool_engine::engine::{Engine, Options};
use vpool_engine::types::CLUSTER;
use vpool_engine::volume::Limits;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let parent = PathBuf::from(
        arguments
            .next()
            .ok_or("usage: engine_bench DIRECTORY [OPERATIONS]")?,
    );
    let operations: u64 = arguments.next().map_or(Ok(400_000), |n| n.parse())?;
    let directory = parent.join(format!("engine-bench-{}", std::process::id()));
    let result = run(&directory, operations);
    std::fs::remove_dir_all(&directory)?;
    result
}

fn run(directory: &std::path::Path, operations: u64) -> Result<(), Box<dyn std::error::Error>> {
    let segments = (operations / 1000 + 16) as usize;
    let options = Options {
        segments_max: segments,
        segments_reserve: segments / 2,
        ..Options::default()
    };
    let engine = Engine::open(directory, options)?;
    let limits = Limits {
        soft_bytes: u64::MAX,
        hard_bytes: u64::MAX,
    };
    let volume = engine
        .recover([7; 16], 4, None, 1)?
        .open(1, limits, 0, false)?;
    // A recycled pool is the steady state: wait until the segments stand ready.
    while engine.stats().pool.segments < segments / 2 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let span = 1 << 18; // 1 GiB of addresses
    let mut seed = 1u64;
    let mut offset = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u128::from((seed >> 33) % span) * CLUSTER as u128
    };
    let mut buffer = vec![0x5au8; CLUSTER];
    let half = operations / 2;
    let mut written = Vec::with_capacity(half as usize);
    let started = Instant::now();
    for _ in 0..half {
        let at = offset();
        volume.write(at, &buffer)?;
        written.push(at);
    }
    let writing = started.elapsed().as_secs_f64();
    let started = Instant::now();
    for n in 0..half as usize {
        volume.read(written[n * 7919 % half as usize], &mut buffer)?;
    }
    let reading = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let syncs = 2000;
    for _ in 0..syncs {
        volume.write(offset(), &buffer)?;
        volume.flush()?;
    }
    let syncing = started.elapsed().as_secs_f64();
    println!(
        "{{\"write_4k_per_s\": {:.0}, \"read_4k_per_s\": {:.0}, \"write_4k_flush_per_s\": {:.0}, \"operations\": {operations}}}",
        half as f64 / writing,
        half as f64 / reading,
        f64::from(syncs) / syncing,
    );
    volume.close()?;
    engine.close()?;
    Ok(())
}
