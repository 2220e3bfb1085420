//! A cache disk without room makes writers wait and nothing else; one that fails halts what it has failed. The random rounds of
//! `power_cut.rs` fill the disk, too.

mod simulation;

use simulation::disk::{Fault, Refuses};
use simulation::node::Node;
use simulation::seed;
use vpool_engine::error::Error;
use vpool_engine::types::CLUSTER;

fn node() -> Node {
    let mut node = Node::new(seed());
    node.large_pool();
    node.restart(0, false).unwrap();
    node.engine().unwrap().tick(); // makes the reserve
    node
}

/// Writes until the log wants a segment that it cannot have; how many clusters were written.
fn write_until_it_waits(node: &mut Node) -> usize {
    for n in 0..200 {
        let lba = n * 64 % node.clusters.saturating_sub(64).max(1);
        let data = node.rng.bytes(64.min(node.clusters) * CLUSTER);
        match node.volume().write((lba * CLUSTER) as u128, &data) {
            Ok(_) => node.wrote(lba * CLUSTER, data),
            Err(Error::WouldBlock) => return n,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the disk is not full");
}

fn full(node: &mut Node) -> Vec<String> {
    node.engine().unwrap().stats().full
}

/// Would break: promise 10. A full disk turns into an error or a halt, flushes or uploads stop with it, nobody is told, or
/// what waits goes on waiting when there is room.
#[test]
fn writers_wait_while_the_log_cannot_grow() {
    let mut node = node();
    node.disk.fill(Refuses::Growth);
    write_until_it_waits(&mut node);
    assert!(
        full(&mut node)[0].contains("growing the log"),
        "{:?}",
        full(&mut node)
    );
    node.volume().flush().unwrap();
    assert_eq!(node.image().unwrap(), node.model.now);
    node.close_all().unwrap();
    assert!(
        write_until_it_waits(&mut node) > 0,
        "what the backend has makes room"
    );
    node.disk.make_room();
    node.engine().unwrap().tick();
    assert!(full(&mut node).is_empty());
    node.write_some(CLUSTER, true).unwrap();
    assert_eq!(node.volume().stats().unwrap().halted, None);
}

/// Would break: the same on a file system that never writes in place.
#[test]
fn writers_wait_while_the_log_cannot_be_written() {
    let mut node = node();
    for _ in 0..50 {
        node.disk.fill(Refuses::Writes);
        write_until_it_waits(&mut node);
        assert!(!full(&mut node).is_empty());
        node.disk.make_room();
        node.write_some(CLUSTER, true).unwrap();
        node.close_all().unwrap();
        node.engine().unwrap().tick();
        assert!(full(&mut node).is_empty());
        assert_eq!(node.image().unwrap(), node.model.now);
    }
    node.forget_process();
    node.disk.kill();
    let all = node.model.acknowledged;
    node.restart(all, false).unwrap();
}

/// Would break: a request that zeroes has three records, and a full disk between them leaves it half done although nothing was
/// said to have changed.
#[test]
fn a_request_of_several_records_is_done_or_not() {
    let mut node = node();
    let bytes = 16 * CLUSTER;
    let mut refused = 0;
    for _ in 0..100 {
        let data = node.rng.bytes(bytes);
        node.volume().write(0, &data).unwrap();
        node.wrote(0, data.clone());
        node.disk.fill(Refuses::Writes);
        let done = node.volume().zero(100, bytes as u128 - 200);
        node.disk.make_room();
        match done {
            Ok(_) => node.zeroed(100, bytes - 200),
            Err(Error::WouldBlock) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!(node.image().unwrap(), node.model.now);
        node.close_all().unwrap();
    }
    assert!(refused > 0 && refused < 100);
}

/// Would break: a disk that fails where the log is to grow halts volumes that have room, or is not reported.
#[test]
fn a_log_that_cannot_grow_for_another_reason_goes_on_with_what_it_has() {
    let mut node = node();
    node.disk.break_growth(true);
    write_until_it_waits(&mut node);
    assert!(full(&mut node)[0].contains("Input/output error"));
    node.close_all().unwrap();
    assert!(write_until_it_waits(&mut node) > 0);
    node.disk.break_growth(false);
    node.write_some(CLUSTER, true).unwrap();
}

/// Would break: a writer waits for segments that nobody will ever make.
#[test]
fn a_disk_that_takes_no_segment_at_all_is_an_error() {
    let mut node = Node::new(seed());
    node.disk.break_growth(true);
    node.restart(0, false).unwrap();
    let refused = node.volume().write(0, &[1; CLUSTER]);
    assert!(matches!(refused, Err(Error::Halted(_))));
    assert_eq!(node.volume().stats().unwrap().halted, None);
    node.disk.break_growth(false);
    node.write_some(CLUSTER, true).unwrap();
}

/// Would break: promise 3. A failed sync is tried again, or a full disk hides it.
#[test]
fn a_failed_sync_halts_at_once_for_whatever_reason() {
    for full in [false, true] {
        let mut node = node();
        node.write_some(CLUSTER, true).unwrap();
        node.disk
            .fail_after(1, if full { Fault::FullSync } else { Fault::Sync });
        for _ in 0..2 {
            assert!(matches!(node.volume().flush(), Err(Error::Halted(_))));
        }
        assert!(matches!(
            node.volume().write(0, &[1; CLUSTER]),
            Err(Error::Halted(_))
        ));
        assert!(node.volume().stats().unwrap().halted.is_some());
    }
}

/// Would break: promise 9. A write that failed for good is followed by others.
#[test]
fn a_failed_write_halts() {
    let mut node = node();
    node.write_some(CLUSTER, true).unwrap();
    node.disk.fail_after(1, Fault::Write);
    for _ in 0..2 {
        assert!(matches!(
            node.volume().write(0, &[1; CLUSTER]),
            Err(Error::Halted(_))
        ));
    }
    let reason = node.volume().stats().unwrap().halted.unwrap();
    assert!(reason.contains("writing to the log failed"), "{reason}");
}
