//! Power cuts, kills and faults of the disk at any operation, by seed, against a plain model of a volume.
//!
//! `VPOOL_ROUNDS` (lives of the daemon, default 2,000) and `VPOOL_SEED` set it; a failure names its seed.

mod simulation;

use simulation::node::Node;
use simulation::{seed, setting, Rng};

const LIVES: u64 = 20;

fn run(seed: u64, lives: u64, prepare: &dyn Fn(&mut Node)) -> Result<(), String> {
    let mut node = Node::new(seed);
    prepare(&mut node);
    node.restart(0, false)?;
    for life in 0..lives {
        node.round()
            .map_err(|error| format!("life {life}: {error}"))?;
    }
    Ok(())
}

/// Would break: promises 2, 3, 5 and 9. A flushed write is lost, or what survives is no prefix, after a power cut, a kill, a
/// failed sync or the loss of the cache, or after a further power cut while recovering from one.
#[test]
fn what_comes_back_is_a_prefix_with_everything_flushed() {
    let mut seeds = Rng(seed());
    let only = setting("VPOOL_SESSION", 0);
    if only != 0 {
        run(only, LIVES, &|_| {}).unwrap();
        return;
    }
    let rounds = setting("VPOOL_ROUNDS", 2000);
    for _ in 0..rounds.div_ceil(LIVES) {
        let session = seeds.next();
        if let Err(error) = run(session, LIVES, &|_| {}) {
            panic!("VPOOL_SESSION={session}: {error}");
        }
    }
}

fn caught(prepare: &dyn Fn(&mut Node)) -> bool {
    let mut seeds = Rng(seed());
    (0..60).any(|_| {
        let session = seeds.next();
        let run = || run(session, LIVES, prepare).is_err();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(true)
    })
}

/// Would break: the same where several segments were not synced.
#[test]
fn what_comes_back_is_a_prefix_over_many_segments() {
    let mut seeds = Rng(seed());
    for _ in 0..setting("VPOOL_ROUNDS", 2000).div_ceil(4 * LIVES) {
        let session = seeds.next();
        if let Err(error) = run(session, LIVES, &|node| node.write_large()) {
            panic!("session {session}: {error}");
        }
    }
}

/// Would break: the same where the local map is older than the head and its segments are recycled.
#[test]
fn what_comes_back_is_a_prefix_behind_an_old_map() {
    let mut seeds = Rng(seed());
    for _ in 0..setting("VPOOL_ROUNDS", 2000).div_ceil(4 * LIVES) {
        let session = seeds.next();
        if let Err(error) = run(session, LIVES, &|node| node.lag_map()) {
            panic!("session {session}: {error}");
        }
    }
}

/// Would break: the test above could not fail, were a flush to forget its sync.
#[test]
fn a_log_that_does_not_sync_is_caught() {
    assert!(caught(&|node| node.skip_syncs()));
}

/// Would break: the test above could not fail, were records taken beyond a gap.
#[test]
fn a_recovery_that_ignores_the_chain_is_caught() {
    assert!(caught(&|node| {
        node.write_large();
        node.ignore_chain();
    }));
}
