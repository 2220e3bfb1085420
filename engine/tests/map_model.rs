//! The map against a plain model: whatever is done to it, in whatever order, with crashes, checkpoints, clones and maps that come from
//! a checkpoint alone, it must say what the model says, and the live tree must count what the model counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proptest::prelude::*;
use vpool_engine::error::Error;
use vpool_engine::map::*;
use vpool_engine::types::*;

#[derive(Clone, Debug)]
enum Op {
    Update {
        lba: u64,
        clusters: u32,
    },
    Clear {
        lba: u64,
        clusters: u64,
    },
    Lookup {
        lba: u64,
        clusters: u32,
    },
    /// Take a cut; it is committed by `Commit` (which else takes its own), or superseded by the next one.
    Cut,
    Commit,
    /// Commit twice, as after an error, and do not tell the map: the next cut supersedes it, a crash finds it.
    CommitUnreported,
    /// Commit the outstanding cut (or a new one) and begin a checkpoint.
    Begin,
    /// Let the checkpoint run, with what happens meanwhile before it.
    Build,
    Install,
    Crash,
    /// Throw the local state away; go on from the newest checkpoint.
    Elsewhere,
    /// Go on as a clone of the newest checkpoint.
    Clone,
}

/// Places where leaves and inner nodes meet, near and far.
const AREAS: [u64; 5] = [
    0,
    128 * 512 - 300,
    128 * 512 * 3,
    128 * 512 * 512 - 700,
    (1 << 43) - 2000,
];

fn lba() -> impl Strategy<Value = u64> {
    (0..AREAS.len(), prop_oneof![0u64..200, 0u64..1000]).prop_map(|(area, at)| AREAS[area] + at)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (lba(), 1u32..6).prop_map(|(lba, clusters)| Op::Update { lba, clusters }),
        4 => (lba(), 1u32..700).prop_map(|(lba, clusters)| Op::Update { lba, clusters }),
        3 => (lba(), 1u64..40).prop_map(|(lba, clusters)| Op::Clear { lba, clusters }),
        3 => (lba(), 100u64..1000).prop_map(|(lba, clusters)| Op::Clear { lba, clusters }),
        1 => (0u64..1 << 20, (1u64 << 18)..(1 << 43)).prop_map(|(lba, clusters)| Op::Clear { lba, clusters }),
        1 => Just(Op::Clear { lba: 0, clusters: u64::MAX }),
        6 => (lba(), 1u32..900).prop_map(|(lba, clusters)| Op::Lookup { lba, clusters }),
        4 => Just(Op::Cut),
        5 => Just(Op::Commit),
        2 => Just(Op::CommitUnreported),
        3 => Just(Op::Begin),
        2 => Just(Op::Build),
        4 => Just(Op::Install),
        1 => Just(Op::Crash),
        1 => Just(Op::Elsewhere),
        1 => Just(Op::Clone),
    ]
}

/// What the map should say, and how many clusters each SCO has.
#[derive(Clone, Default)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    lsn: u64,
}

struct Begun {
    builder: Option<CheckpointBuilder>,
    done: Option<(RootRef, FinishedCheckpoint)>,
    model: Model,
    lineage: Vec<LineageEntry>,
}

struct World {
    _dirs: Vec<tempfile::TempDir>,
    store: Arc<MapStore>,
    cache_bytes: usize,
    volume: Uuid,
    map: VolumeMap,
    now: Model,
    committed: Option<Model>,
    outstanding: Option<(Cut, Model)>,
    begun: Option<Begun>,
    installed: Option<(RootRef, Vec<u8>, Model, Vec<LineageEntry>)>,
    objects: HashMap<(Uuid, u64, u64), Vec<u8>>,
    scos: BTreeMap<u64, u32>,
    sco: u64,
    slot: u32,
    next_object: u64,
    volumes: u8,
    limits: CheckpointLimits,
}

fn store(cache_bytes: usize) -> (tempfile::TempDir, Arc<MapStore>) {
    let dir = tempfile::tempdir().unwrap();
    let store = MapStore::open(dir.path(), 1 << 30, cache_bytes, false).unwrap();
    (dir, store)
}

/// One object in a root's table.
struct Row {
    number: u64,
    live: usize,
    bytes: usize,
}

/// The table of objects in a root (offsets: `docs/formats/checkpoint.md`).
fn table(root: &[u8]) -> Vec<Row> {
    let u32_at = |at: usize| u32::from_le_bytes(root[at..at + 4].try_into().unwrap()) as usize;
    let u64_at = |at: usize| u64::from_le_bytes(root[at..at + 8].try_into().unwrap());
    let (lineage, objects) = (u32_at(112), u32_at(116));
    let row = |i: usize| 120 + 32 * lineage + 48 * i;
    (0..objects)
        .map(|i| Row {
            number: u64_at(row(i)),
            live: u64_at(row(i) + 32) as usize,
            bytes: u64_at(row(i) + 40) as usize,
        })
        .collect()
}

impl World {
    fn new(cache_bytes: usize, limits: CheckpointLimits) -> World {
        let (dir, store) = store(cache_bytes);
        let volume = [1; 16];
        let mut map = VolumeMap::create(&store, volume, 4, None).unwrap();
        map.set_lineage(vec![LineageEntry {
            first: 1,
            origin: volume,
            epoch: 1,
        }]);
        World {
            _dirs: vec![dir],
            store,
            cache_bytes,
            volume,
            map,
            now: Model::default(),
            committed: None,
            outstanding: None,
            begun: None,
            installed: None,
            objects: HashMap::new(),
            scos: BTreeMap::new(),
            sco: 1,
            slot: 0,
            next_object: 1,
            volumes: 1,
            limits,
        }
    }

    fn fetch(&self, fetch: &Fetch) -> Vec<u8> {
        let object = &self.objects[&(fetch.origin, fetch.epoch, fetch.number)];
        object[fetch.offset as usize..][..fetch.length as usize].to_vec()
    }

    fn lookup(&mut self, lba: u64, clusters: u32) -> Vec<Entry> {
        let mut out = vec![Entry {
            loc: Loc(7777),
            crc: 7,
        }];
        for _ in 0..8 {
            match self.map.lookup(lba, clusters, &mut out).unwrap() {
                Lookup::Found => {
                    assert_eq!(out.remove(0).loc, Loc(7777));
                    return out;
                }
                Lookup::Need(fetches) => {
                    assert_eq!(out.len(), 1);
                    for fetch in fetches {
                        let mut bytes = self.fetch(&fetch);
                        self.map.supply(&fetch, &bytes).unwrap();
                        bytes[0] ^= 1;
                        assert!(matches!(
                            self.map.supply(&fetch, &bytes),
                            Err(Error::Corrupt(_))
                        ));
                    }
                }
            }
        }
        panic!("a lookup asks for ever");
    }

    fn check(&mut self, lba: u64, clusters: u32) {
        let found = self.lookup(lba, clusters);
        for (i, entry) in found.iter().enumerate() {
            let at = lba + i as u64;
            assert_eq!(
                *entry,
                self.now.entries.get(&at).copied().unwrap_or_default(),
                "cluster {at}"
            );
        }
        assert_eq!(found.len(), clusters as usize);
    }

    /// What the map finds by itself is what the model has: nothing missing, no holes, in order.
    fn check_gathered(&mut self, first: u64, end: u64) {
        let (mut page, mut found) = (first, Vec::new());
        while page < end {
            let before = found.len();
            let gathered = self.map.gather(page, end, &mut found).unwrap();
            assert!(gathered.until > page || !gathered.need.is_empty());
            let until = gathered.until * 128;
            assert!(found[before..].iter().all(|(lba, _)| *lba < until));
            page = gathered.until;
            for fetch in gathered.need {
                let bytes = self.fetch(&fetch);
                self.map.supply(&fetch, &bytes).unwrap();
            }
        }
        let model = self.now.entries.range(first * 128..end * 128);
        let model: Vec<(u64, Entry)> = model.map(|(&lba, &entry)| (lba, entry)).collect();
        assert_eq!(found, model);
    }

    fn check_all(&mut self) {
        self.check_gathered(0, 1 << 36);
        self.check_gathered(AREAS[1] / 128 + 1, AREAS[3] / 128 + 5);
        for area in AREAS {
            self.check(area, 1024);
            self.check(area + 1024, 700);
        }
    }

    fn update(&mut self, lba: u64, clusters: u32) {
        self.now.lsn += 1;
        if self.slot + clusters > SCO_CLUSTERS {
            self.sco += 1 + u64::from(self.slot % 3) * 200;
            self.slot = 0;
        }
        let crcs: Vec<u32> = (0..clusters)
            .map(|i| (self.now.lsn as u32) << 8 | i)
            .collect();
        let loc = Loc::new(self.sco, self.slot);
        self.map.update(lba, loc, &crcs);
        for (i, crc) in crcs.iter().enumerate() {
            let entry = Entry {
                loc: Loc(loc.0 + i as u64),
                crc: *crc,
            };
            self.now.entries.insert(lba + i as u64, entry);
        }
        self.slot += clusters;
        self.scos.insert(self.sco, self.slot);
    }

    fn clear(&mut self, lba: u64, clusters: u64) {
        self.now.lsn += 1;
        self.map.clear(lba, clusters);
        let end = lba.saturating_add(clusters);
        self.now.entries.retain(|at, _| !(lba..end).contains(at));
    }

    fn included(&self) -> Included {
        Included {
            lsn: self.now.lsn,
            number: self.sco,
            chain: self.now.lsn * 31,
        }
    }

    fn cut(&mut self) {
        let cut = self.map.cut(self.included());
        self.outstanding = Some((cut, self.now.clone()));
    }

    fn commit(&mut self) {
        if self.outstanding.is_none() {
            self.cut();
        }
        if let Some((cut, model)) = self.outstanding.take() {
            cut.commit().unwrap();
            self.map.committed(cut.id());
            self.committed = Some(model);
        }
    }

    fn commit_unreported(&mut self) {
        if let Some((cut, model)) = self.outstanding.take() {
            cut.commit().unwrap();
            cut.commit().unwrap();
            self.committed = Some(model);
        }
    }

    fn begin(&mut self) {
        if self.outstanding.is_none() {
            self.cut();
        }
        let (cut, model) = self.outstanding.take().unwrap();
        assert!(matches!(
            self.map
                .root()
                .map(|_| cut.commit_and_checkpoint(1, 0, 1, 1, 1)),
            None | Some(Err(Error::Invalid(_)))
        ));
        let builder = cut
            .commit_and_checkpoint(1, self.next_object, 1, model.lsn, self.sco + 1)
            .unwrap();
        self.map.committed(cut.id());
        self.committed = Some(model.clone());
        let builder = Some(builder.with_limits(self.limits));
        self.begun = Some(Begun {
            builder,
            done: None,
            model,
            lineage: self.map.lineage().to_vec(),
        });
    }

    fn build(&mut self) {
        let Some(mut begun) = self.begun.take() else {
            return;
        };
        if let Some(mut builder) = begun.builder.take() {
            let reference = loop {
                match builder.step().unwrap() {
                    Step::Need(fetches) => {
                        for fetch in fetches {
                            let bytes = self.fetch(&fetch);
                            let mut wrong = bytes.clone();
                            wrong[bytes.len() / 2] ^= 4;
                            let _ = builder.supply(&fetch, &wrong);
                            builder.supply(&fetch, &bytes).unwrap();
                        }
                    }
                    Step::Object { number, bytes } => {
                        assert_eq!(number, self.next_object);
                        self.next_object += 1;
                        assert!(self
                            .objects
                            .insert((self.volume, 1, number), bytes)
                            .is_none());
                    }
                    Step::Done(reference) => break reference,
                }
            };
            let finished = builder.finish();
            let object = &self.objects[&(self.volume, 1, reference.object)];
            assert_eq!(
                &object[reference.offset as usize..][..reference.length as usize],
                finished.root_bytes()
            );
            self.check_table(finished.root_bytes());
            self.check_live(reference, finished.root_bytes(), &begun.model);
            begun.done = Some((reference, finished));
        }
        self.begun = Some(begun);
    }

    /// Compaction keeps the table of objects bounded.
    fn check_table(&self, root: &[u8]) {
        let table = table(root);
        let (objects, live) = (table.len(), table.iter().map(|row| row.live).sum::<usize>());
        // Nodes do not fill small objects, and one checkpoint adds several.
        let most = 2 * (self.limits.objects_max + 2 * live / self.limits.object_bytes_max) + 24;
        assert!(
            objects <= most,
            "{objects} objects for {live} live bytes, {most} allowed"
        );
        for row in table {
            assert!(row.live > 0 && row.live < row.bytes);
            assert!(self
                .objects
                .iter()
                .any(|(name, o)| name.2 == row.number && o.len() == row.bytes));
        }
    }

    fn installed_table(&self) -> Vec<Row> {
        table(&self.installed.as_ref().unwrap().1)
    }

    fn check_live(&self, reference: RootRef, root: &[u8], model: &Model) {
        let mut expected: BTreeMap<u64, u32> = BTreeMap::new();
        for entry in model.entries.values() {
            *expected.entry(entry.loc.number()).or_default() += 1;
        }
        let mut found = BTreeMap::new();
        let mut walk = LiveWalk::new(reference, root).unwrap();
        loop {
            match walk.step().unwrap() {
                LiveStep::Need(fetches) => {
                    for fetch in fetches {
                        walk.supply(&fetch, &self.fetch(&fetch)).unwrap();
                    }
                }
                LiveStep::Scos(scos) => {
                    for sco in scos {
                        // A SCO may have grown since the cut, never shrunk.
                        assert!(sco.clusters >= sco.live && sco.clusters <= self.scos[&sco.number]);
                        found.insert(sco.number, sco.live);
                    }
                }
                LiveStep::Done => break,
            }
        }
        assert_eq!(found, expected);
    }

    fn install(&mut self) {
        self.build();
        let Some(begun) = self.begun.take() else {
            return;
        };
        let Some((reference, finished)) = begun.done else {
            self.begun = Some(begun);
            return;
        };
        let root = finished.root_bytes().to_vec();
        self.map
            .checkpoint_installed(reference, &root, finished)
            .unwrap();
        assert_eq!(self.map.root().unwrap().reference, reference);
        self.installed = Some((reference, root, begun.model, begun.lineage));
    }

    fn crash(&mut self) {
        self.outstanding = None;
        self.begun = None;
        let (included, lineage) = (self.map.included(), self.map.lineage().to_vec());
        let found = VolumeMap::load(&self.store, self.volume, 4).unwrap();
        assert!(VolumeMap::load(&self.store, self.volume, 5)
            .unwrap()
            .is_none());
        match (&self.committed, found) {
            (Some(model), Some(map)) => {
                assert_eq!(map.included().lsn, model.lsn);
                assert!(map.included().lsn <= included.lsn);
                assert_eq!(
                    map.root().map(|r| r.reference),
                    self.installed.as_ref().map(|i| i.0)
                );
                assert_eq!(map.lineage(), lineage);
                self.map = map;
                self.now = model.clone();
            }
            (None, None) => {
                let root = self.installed.as_ref().map(|i| (i.0, i.1.as_slice()));
                self.map = VolumeMap::create(&self.store, self.volume, 4, root).unwrap();
                self.map.set_lineage(lineage);
                self.now = self
                    .installed
                    .as_ref()
                    .map(|i| i.2.clone())
                    .unwrap_or_default();
            }
            (committed, found) => panic!(
                "committed {} found {}",
                committed.is_some(),
                found.is_some()
            ),
        }
    }

    fn elsewhere(&mut self, clone: bool) {
        let Some((reference, root, model, lineage)) = self.installed.clone() else {
            return;
        };
        self.outstanding = None;
        self.begun = None;
        self.committed = None;
        let (dir, store) = store(self.cache_bytes);
        self._dirs.push(dir);
        self.store = store;
        if clone {
            self.volumes += 1;
            self.volume = [self.volumes; 16];
        }
        self.map =
            VolumeMap::create(&self.store, self.volume, 1, Some((reference, &root))).unwrap();
        assert_eq!(self.map.lineage(), lineage);
        assert!(VolumeMap::load(&self.store, self.volume, 4)
            .unwrap()
            .is_none());
        self.sco += 1;
        self.slot = 0;
        let mut lineage = lineage;
        lineage.push(LineageEntry {
            first: self.sco,
            origin: self.volume,
            epoch: 2,
        });
        self.map.set_lineage(lineage);
        self.now = model;
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Update { lba, clusters } => self.update(lba, clusters),
            Op::Clear { lba, clusters } => self.clear(lba, clusters),
            Op::Lookup { lba, clusters } => self.check(lba, clusters),
            Op::Cut => self.cut(),
            Op::Commit => self.commit(),
            Op::CommitUnreported => self.commit_unreported(),
            Op::Begin => self.begin(),
            Op::Build => self.build(),
            Op::Install => self.install(),
            Op::Crash => self.crash(),
            Op::Elsewhere => self.elsewhere(false),
            Op::Clone => self.elsewhere(true),
        }
    }

    fn finish(&mut self) {
        self.check_all();
        self.begin();
        self.build();
        self.install();
        self.check_all();
        self.elsewhere(false);
        self.check_all();
        self.crash();
        self.check_all();
    }
}

/// Would break: the table of objects grows with every checkpoint, and with it each root, and what a restart has to read.
#[test]
fn compaction_makes_the_table_of_objects_shorter() {
    let limits = |objects_max| CheckpointLimits {
        object_bytes_max: 6000,
        objects_max,
    };
    let mut world = World::new(8 << 20, limits(10_000));
    let checkpoint = |world: &mut World| {
        world.begin();
        world.build();
        world.install();
        world.installed_table().len()
    };
    let mut before = 0;
    for round in 0..80 {
        // Eight leaves, of which the next round writes seven again: what an object holds is used no more, but for one leaf.
        world.update(round * 128, 1000);
        before = checkpoint(&mut world);
    }
    assert!(before > 80, "{before} objects: nothing to make shorter");
    world.limits = limits(4);
    let mut sizes = vec![before];
    loop {
        world.update(0, 1); // a checkpoint has something to say
        let size = checkpoint(&mut world);
        if size >= sizes[sizes.len() - 1] {
            break;
        }
        sizes.push(size);
    }
    let least = sizes[sizes.len() - 1];
    let live: usize = world.installed_table().iter().map(|row| row.live).sum();
    let filled = live / world.limits.object_bytes_max;
    assert!(
        least < before && least <= 4 + 2 * filled + 1,
        "{sizes:?}: {live} live bytes would fill {filled} objects"
    );
    world.finish();
}

/// `MAP_CASES` multiplies how many are tried.
fn cases(default: u32) -> ProptestConfig {
    let times = std::env::var("MAP_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    ProptestConfig {
        cases: default * times,
        max_shrink_iters: 2_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn map_says_what_the_model_says(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new(8 << 20, CheckpointLimits::default());
        for op in &ops {
            world.run(op);
        }
        world.finish();
    }

    /// Pages hardly fit in the cache, objects hold a few nodes and few are allowed: eviction and compaction all the time.
    #[test]
    fn map_says_what_the_model_says_when_cramped(ops in prop::collection::vec(op(), 1..120)) {
        let limits = CheckpointLimits { object_bytes_max: 6000, objects_max: 4 };
        let mut world = World::new(16 << 10, limits);
        for op in &ops {
            world.run(op);
        }
        world.finish();
    }
}
