//! The tree against a plain map, under power cuts, long snapshots and damage.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

/// Splittable and seeded: what a power cut leaves is the same in every run of a case.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[derive(Default)]
struct Content {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// Writes since the last sync.
    pending: Vec<(u64, Vec<u8>)>,
    fail_after: Option<usize>,
}

/// A file in RAM, of which a power cut keeps what was synced and any of the sectors that were not.
#[derive(Default)]
struct Cutting(Mutex<Content>);

const SECTOR: usize = 512;

impl Cutting {
    fn of(bytes: Vec<u8>) -> Arc<Cutting> {
        let content = Content {
            durable: bytes.clone(),
            now: bytes,
            ..Content::default()
        };
        Arc::new(Cutting(Mutex::new(content)))
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().now.clone()
    }

    fn power_cut(&self, chance: &mut Chance) -> Arc<Cutting> {
        let mut content = self.0.lock();
        let mut left = std::mem::take(&mut content.durable);
        for (offset, data) in std::mem::take(&mut content.pending) {
            for (i, sector) in data.chunks(SECTOR).enumerate() {
                if chance.below(2) == 0 {
                    put(&mut left, offset as usize + i * SECTOR, sector);
                }
            }
        }
        Cutting::of(left)
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl DiskFile for Cutting {
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let content = self.0.lock();
        let at = offset as usize;
        let found = content.now.get(at..at + buffer.len());
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn pwrite(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut content = self.0.lock();
        if let Some(left) = &mut content.fail_after {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            }
        }
        put(&mut content.now, offset as usize, data);
        content.pending.push((offset, data.to_vec()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.0.lock();
        content.durable = content.now.clone();
        content.pending.clear();
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().now.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.lock().now.resize(bytes as usize, 0);
        Ok(())
    }
}

fn open(file: &Arc<Cutting>, bytes_max: u64) -> Result<Arc<Tree>> {
    Tree::open(file.clone(), bytes_max, 1 << 20, true)
}

fn fresh() -> (Arc<Cutting>, Arc<Tree>) {
    let file = Arc::new(Cutting::default());
    Tree::format(&*file).unwrap();
    let tree = open(&file, 1 << 30).unwrap();
    (file, tree)
}

fn key(table: u8, number: u64) -> Key {
    let mut key = [0; KEY_BYTES];
    key[0] = table;
    key[17..].copy_from_slice(&number.to_be_bytes());
    key
}

fn value(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (seed as usize + i * 7) as u8).collect()
}

type Model = BTreeMap<Key, Vec<u8>>;

fn content(view: &impl View) -> Result<Model> {
    let mut out = Model::new();
    view.scan(&[0; KEY_BYTES], &mut |key, value| {
        assert!(out.insert(*key, value.to_vec()).is_none());
        Ok(true)
    })?;
    Ok(out)
}

fn agrees(view: &impl View, model: &Model, probe: &Key) {
    assert_eq!(view.get(probe).unwrap().as_ref(), model.get(probe));
    let mut next = None;
    view.scan(probe, &mut |key, _| {
        next = Some(*key);
        Ok(false)
    })
    .unwrap();
    assert_eq!(
        next.as_ref(),
        model.range(*probe..).next().map(|(key, _)| key)
    );
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, u64, u64, usize),
    /// So many in a row, as a load does.
    Fill(u8, u64, u64, usize),
    Delete(u8, u64),
    Clear(u8, u64, u64),
    Commit,
    /// The change is dropped.
    Undo,
    Snapshot,
    Let,
    /// The process dies.
    Kill,
    PowerCut(u64),
    /// The power goes while a commit is under way.
    TornCommit(u64),
    /// The disk is full after so many writes.
    Full(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let number = || prop_oneof![0u64..60, 0u64..3000];
    let bytes = || prop_oneof![Just(0usize), 20usize..90, 1500usize..2001];
    prop_oneof![
        10 => (1u8..4, number(), any::<u64>(), bytes()).prop_map(|(t, n, s, b)| Op::Put(t, n, s, b)),
        3 => (number(), any::<u64>(), 0usize..20_000).prop_map(|(n, s, b)| Op::Put(0, n % 5, s, b)),
        4 => (1u8..4, number(), 1u64..700, bytes()).prop_map(|(t, n, c, b)| Op::Fill(t, n, c, b)),
        4 => (0u8..4, number()).prop_map(|(t, n)| Op::Delete(t, n)),
        2 => (0u8..4, number(), 1u64..3000).prop_map(|(t, n, c)| Op::Clear(t, n, c)),
        6 => Just(Op::Commit),
        1 => Just(Op::Undo),
        2 => Just(Op::Snapshot),
        2 => Just(Op::Let),
        1 => Just(Op::Kill),
        2 => any::<u64>().prop_map(Op::PowerCut),
        2 => any::<u64>().prop_map(Op::TornCommit),
        1 => (0usize..4).prop_map(Op::Full),
    ]
}

fn apply(tree: &Arc<Tree>, ops: &[Op], model: &Model) -> (Result<()>, Model) {
    let mut after = model.clone();
    let mut work = || -> Result<()> {
        let mut change = tree.change()?;
        for op in ops {
            match *op {
                Op::Put(table, number, seed, bytes) => {
                    after.insert(key(table, number), value(seed, bytes));
                    change.put(&key(table, number), &value(seed, bytes))?;
                }
                Op::Fill(table, number, count, bytes) => {
                    for number in number..number + count {
                        after.insert(key(table, number), value(number, bytes));
                        change.put(&key(table, number), &value(number, bytes))?;
                    }
                }
                Op::Delete(table, number) => {
                    after.remove(&key(table, number));
                    change.delete(&key(table, number))?;
                }
                Op::Clear(table, number, count) => {
                    for number in number..number + count {
                        after.remove(&key(table, number));
                        change.delete(&key(table, number))?;
                    }
                }
                _ => unreachable!("not a change"),
            }
            agrees(&change, &after, &key(2, 30));
        }
        change.commit()
    };
    (work(), after)
}

fn run(ops: Vec<Op>) {
    let (mut file, mut tree) = fresh();
    let mut committed = Model::new();
    let mut pending: Vec<Op> = Vec::new();
    let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
    for op in ops {
        match op {
            Op::Put(..) | Op::Fill(..) | Op::Delete(..) | Op::Clear(..) => {
                pending.push(op);
                continue;
            }
            Op::Commit => {
                let (done, after) = apply(&tree, &std::mem::take(&mut pending), &committed);
                done.unwrap();
                committed = after;
            }
            Op::Undo => pending.clear(),
            Op::Snapshot => snapshots.push((tree.snapshot(), committed.clone())),
            Op::Let => {
                if !snapshots.is_empty() {
                    let (snapshot, model) = snapshots.swap_remove(0);
                    assert_eq!(content(&snapshot).unwrap(), model);
                }
            }
            Op::Kill => {
                snapshots.clear();
                tree = open(&file, 1 << 30).unwrap();
            }
            Op::PowerCut(seed) => {
                snapshots.clear();
                file = file.power_cut(&mut Chance(seed));
                tree = open(&file, 1 << 30).unwrap();
            }
            Op::TornCommit(seed) => {
                // Everything of a commit but its last sync, as if the power went there; sectors survive as chance has it.
                snapshots.clear();
                let before = file.0.lock().durable.clone();
                let (done, after) = apply(&tree, &std::mem::take(&mut pending), &committed);
                done.unwrap();
                let whole = file.bytes();
                let chance = &mut Chance(seed);
                let mut torn = before.clone();
                let with_head = chance.below(2) == 0;
                for (i, sector) in whole.chunks(SECTOR).enumerate() {
                    let is_head = i * SECTOR < 2 * PAGE;
                    if with_head || (!is_head && chance.below(2) == 0) {
                        put(&mut torn, i * SECTOR, sector);
                    }
                }
                file = Cutting::of(torn);
                tree = open(&file, 1 << 30).unwrap();
                if with_head {
                    committed = after;
                }
            }
            Op::Full(writes) => {
                file.0.lock().fail_after = Some(writes);
                let (done, after) = apply(&tree, &std::mem::take(&mut pending), &committed);
                file.0.lock().fail_after = None;
                match done {
                    Ok(()) => committed = after,
                    Err(Error::NoSpace(_)) => {}
                    // The head: which of the two the disk has is not known here.
                    Err(Error::Halted(_)) => {
                        assert!(matches!(tree.change(), Err(Error::Halted(_))));
                        snapshots.clear();
                        tree = open(&file, 1 << 30).unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert_eq!(content(&tree.snapshot()).unwrap(), committed);
        agrees(&tree.snapshot(), &committed, &key(1, 17));
    }
    for (snapshot, model) in snapshots {
        assert_eq!(content(&snapshot).unwrap(), model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
    ))]
    #[test]
    fn it_is_what_a_plain_map_is(ops in prop::collection::vec(op(), 1..40)) {
        run(ops);
    }
}

/// A tree of three levels with long values, free pages and two commits.
fn example() -> (Vec<u8>, Model) {
    let (file, tree) = fresh();
    let fill = [
        Op::Put(0, 1, 3, 9000),
        Op::Put(0, 2, 4, 100),
        Op::Fill(1, 0, 150, 1568),
        Op::Fill(2, 0, 1500, 48),
    ];
    let (done, model) = apply(&tree, &fill, &Model::new());
    done.unwrap();
    let rest = [
        Op::Fill(3, 0, 300, 32),
        Op::Clear(2, 100, 40),
        Op::Put(0, 1, 9, 12_000),
    ];
    let (done, model) = apply(&tree, &rest, &model);
    done.unwrap();
    (file.bytes(), model)
}

/// Would break: a bit that flips on the disk hides records, or shows others.
#[test]
fn damage_anywhere_is_never_a_record() {
    let (bytes, model) = example();
    let mut refused = 0;
    let mut chance = Chance(7);
    let chosen = (0..4000).map(|i| match i % 4 {
        0 => chance.below(2 * PAGE as u64) as usize,
        _ => chance.below(bytes.len() as u64) as usize,
    });
    for at in chosen.collect::<Vec<_>>() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << chance.below(8);
        let file = Cutting::of(damaged);
        let found = open(&file, 1 << 30).and_then(|tree| content(&tree.snapshot()));
        match found {
            Ok(found) => assert!(found == model, "byte {at}"),
            Err(Error::Corrupt(reason)) => {
                assert!(!reason.is_empty());
                refused += 1;
                // It is not found a second time.
                assert!(matches!(open(&file, 1 << 30), Err(Error::Corrupt(_))));
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(refused > 1000, "{refused}: the pages are hardly used");
}

/// Would break: an older page that a disk returns in place of the newest, with a checksum that is right, is taken.
#[test]
fn an_older_page_is_not_taken_for_the_newest() {
    let (file, tree) = fresh();
    let put = |seed: u64| {
        apply(&tree, &[Op::Put(1, 1, seed, 100)], &Model::new())
            .0
            .unwrap()
    };
    let mut older: Vec<Vec<u8>> = Vec::new();
    for seed in 0..6 {
        put(seed);
        older.push(file.bytes());
    }
    let newest = older.pop().unwrap();
    let mut refused = 0;
    for other in older {
        for page in 2..newest.len() / PAGE {
            let mut damaged = newest.clone();
            let place = page * PAGE..(page + 1) * PAGE;
            if other.len() < place.end || other[place.clone()] == newest[place.clone()] {
                continue;
            }
            damaged[place.clone()].copy_from_slice(&other[place]);
            match open(&Cutting::of(damaged), 1 << 30).and_then(|tree| content(&tree.snapshot())) {
                Ok(found) => assert_eq!(found[&key(1, 1)], value(5, 100)),
                Err(error) => {
                    assert!(matches!(error, Error::Corrupt(_)));
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 0);
}

/// Would break: a file whose end is missing ends the process, or is taken for whole.
#[test]
fn a_file_that_was_cut_is_refused() {
    let (bytes, _) = example();
    for length in (0..bytes.len()).step_by(PAGE / 2) {
        let opened = open(&Cutting::of(bytes[..length].to_vec()), 1 << 30);
        assert!(matches!(opened, Err(Error::Corrupt(_))), "{length}");
    }
}

/// Would break: the file grows for ever, though what is in it does not.
#[test]
fn space_is_used_again() {
    let (file, tree) = fresh();
    let mut model = Model::new();
    let mut longest = 0;
    for round in 0..200u64 {
        let ops = [
            Op::Fill(1, round * 37 % 500, 200, 300),
            Op::Put(0, 0, round, 15_000),
        ];
        let (done, after) = apply(&tree, &ops, &model);
        done.unwrap();
        model = after;
        if round == 20 {
            longest = file.bytes().len();
        }
    }
    assert!(file.bytes().len() <= longest * 5 / 4);
    let (done, _) = apply(&tree, &[Op::Clear(1, 0, 1000), Op::Clear(0, 0, 9)], &model);
    done.unwrap();
    assert_eq!(content(&tree.snapshot()).unwrap(), Model::new());
    let (done, _) = apply(&tree, &[Op::Put(1, 1, 1, 1)], &Model::new());
    done.unwrap();
}

/// Would break: a map that has reached its limit is damaged by that, or never takes anything again.
#[test]
fn the_limit_is_told_and_changes_nothing() {
    let (file, tree) = fresh();
    let (done, model) = apply(&tree, &[Op::Fill(1, 0, 100, 1000)], &Model::new());
    done.unwrap();
    drop(tree);
    let tree = open(&file, file.bytes().len() as u64 + 8 * PAGE as u64).unwrap();
    for _ in 0..3 {
        let (done, _) = apply(&tree, &[Op::Fill(1, 100, 200, 1000)], &model);
        assert!(matches!(done, Err(Error::NoSpace(_))));
        assert_eq!(content(&tree.snapshot()).unwrap(), model);
    }
    let (done, model) = apply(&tree, &[Op::Clear(1, 0, 90)], &model);
    done.unwrap();
    let (done, model) = apply(&tree, &[Op::Fill(1, 0, 60, 1000)], &model);
    done.unwrap();
    drop(tree);
    assert_eq!(
        content(&open(&file, 1 << 30).unwrap().snapshot()).unwrap(),
        model
    );
}

/// Would break: a page with a checksum that is right and content that no commit writes ends the process.
#[test]
fn a_malformed_page_is_refused_or_harmless() {
    use xxhash_rust::xxh3::xxh3_64;
    let (bytes, _) = example();
    let mut chance = Chance(11);
    let mut refused = 0;
    for _ in 0..20_000 {
        let number = 2 + chance.below(bytes.len() as u64 / PAGE as u64 - 2) as usize;
        let mut data = bytes[number * PAGE..(number + 1) * PAGE].to_vec();
        for _ in 0..1 + chance.below(3) {
            let at = [8, 200, PAGE - 8][chance.below(3) as usize];
            data[chance.below(at as u64) as usize] = chance.below(256) as u8;
        }
        data[8..16].copy_from_slice(&(number as u64).to_le_bytes());
        let sum = xxh3_64(&data[..PAGE - 8]);
        data[PAGE - 8..].copy_from_slice(&sum.to_le_bytes());
        let mut page = Stored::unread();
        Arc::get_mut(&mut page)
            .unwrap()
            .bytes_mut()
            .copy_from_slice(&data);
        let at = Ref {
            page: number as u64,
            sum,
        };
        if page.check(at).is_err() {
            refused += 1;
            continue;
        }
        match page.level() {
            None => assert!(page.part().is_some()),
            Some(0) => {
                stored::find(page.body(), &key(1, 70));
                stored::from(page.body(), &key(0, 0)).count();
                assert_eq!(node::Node::thawed(&page).level(), 0);
            }
            Some(level) => {
                assert!(page.child_of(&key(1, 70)) < page.children());
                assert_eq!(node::Node::thawed(&page).level(), level);
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}
