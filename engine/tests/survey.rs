//! A survey finds every live cluster, and sees a copy that is damaged, short or of another time.

mod simulation;

use std::collections::BTreeMap;
use std::sync::Arc;

use simulation::backend::Backend;
use simulation::{scratch, seed, Rng};
use vpool_engine::engine::{Engine, Options};
use vpool_engine::error::Error;
use vpool_engine::survey::Survey;
use vpool_engine::types::{Fetch, FetchKind, CLUSTER};
use vpool_engine::volume::{Limits, Volume};

const VOLUME: [u8; 16] = *b"tests of surveys";
const CLUSTERS: u64 = 20_000;

fn open(engine: &Arc<Engine>) -> Arc<Volume> {
    let limits = Limits {
        soft_bytes: 1 << 30,
        hard_bytes: 1 << 30,
    };
    let recovery = engine.recover(VOLUME, 4, None, 1).unwrap();
    recovery.open(1, limits, 1, false).unwrap()
}

fn ship(volume: &Volume, backend: &mut Backend) {
    while let Some(tlog) = volume.close_tlog(true, 4).unwrap() {
        backend.put(volume, &tlog).unwrap();
        backend.commit(&tlog);
        volume.head_committed(tlog.reference.number).unwrap();
    }
}

fn survey(volume: &Arc<Volume>, first: u64, end: u64) -> Survey {
    let mut survey = Survey::new(volume, first, end, usize::MAX);
    assert!(survey.step().unwrap().is_none());
    assert_eq!(survey.position(), end);
    survey
}

fn expected(model: &BTreeMap<u64, u64>, first: u64, end: u64) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (&lba, _) in model.range(first..end) {
        match out.last_mut() {
            Some((first, count)) if *first + *count == lba => *count += 1,
            _ => out.push((lba, 1)),
        }
    }
    out
}

/// Would break: an export, a copy or a verification leaves out what is there, or takes damage for right.
#[test]
fn a_survey_finds_what_is_live_and_judges_copies_of_it() {
    let directory = scratch();
    let options = Options {
        segments_max: 8,
        map_cache_bytes: 4 << 20,
        map_size_bytes: 64 << 20,
        map_dirty_bytes_max: 64 << 10,
        ..Options::default()
    };
    let engine = Engine::open(directory.path(), options).unwrap();
    let volume = open(&engine);
    let mut backend = Backend::new();
    let mut rng = Rng(seed());
    let mut model = BTreeMap::new();
    for n in 0..3000u64 {
        let lba = rng.below(CLUSTERS);
        let count = 1 + rng.below(8);
        let at = u128::from(lba) * CLUSTER as u128;
        if rng.chance(10) {
            let bytes = u128::from(count) * CLUSTER as u128;
            volume.zero(at, bytes).unwrap();
            model.retain(|at, _| !(lba..lba + count).contains(at));
        } else {
            let data = rng.bytes(count as usize * CLUSTER);
            volume.write(at, &data).unwrap();
            model.extend((lba..lba + count).map(|lba| (lba, n)));
        }
        if n % 700 == 699 {
            ship(&volume, &mut backend);
        }
    }
    assert_eq!(
        survey(&volume, 0, u64::MAX).extents(),
        expected(&model, 0, u64::MAX)
    );
    let (first, end) = (777, 15_555);
    let mut found = survey(&volume, first, end);
    assert_eq!(found.extents(), expected(&model, first, end));
    assert_eq!(found.clusters(), model.range(first..end).count());
    let scos = found.scos().unwrap();
    let clusters: u32 = scos.iter().map(|sco| sco.clusters).sum();
    assert_eq!(clusters as usize, found.clusters());
    for sco in &scos {
        if sco.is_local {
            assert_eq!(found.check_local(sco.number).unwrap(), Some(Vec::new()));
        }
        if sco.number >= backend.next_sco {
            continue;
        }
        let mut copy = backend.fetch(&Fetch {
            kind: FetchKind::Sco,
            origin: sco.at.origin,
            epoch: sco.at.epoch,
            number: sco.number,
            offset: u64::from(sco.first_slot) * CLUSTER as u64,
            length: sco.slots * CLUSTER as u32,
            crc: 0,
        });
        let all = found.ranges(sco.number);
        assert!(found.check(sco.number, sco.first_slot, &copy).is_empty());
        assert_eq!(found.check(sco.number, sco.first_slot + 1, &copy), all);
        assert_eq!(found.check(sco.number, sco.first_slot, &[]), all);
        let short = copy.len() - 1;
        let wrong = found.check(sco.number, sco.first_slot, &copy[..short]);
        assert_eq!(wrong.iter().map(|range| range.1).sum::<u64>(), 1);
        copy[17] ^= 1;
        let wrong = found.check(sco.number, sco.first_slot, &copy);
        assert_eq!(wrong.iter().map(|range| range.1).sum::<u64>(), 1);
    }
    assert!(scos.iter().any(|sco| sco.is_local) && scos.iter().any(|sco| !sco.is_local));
    let mut short = Survey::new(&volume, 0, CLUSTERS, 1000);
    assert!(short.step().unwrap().is_none());
    assert!(short.clusters() >= 1000 && short.position() < CLUSTERS);
    engine.close().unwrap();
    let mut late = Survey::new(&volume, 0, CLUSTERS, 1);
    assert!(matches!(late.step(), Err(Error::Invalid(_))));
}
