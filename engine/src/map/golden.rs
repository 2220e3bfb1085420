//! What the file has of a map is fixed (`docs/formats/local-map.md`): what the code builds today must be the bytes in `tests/golden/`, and
//! those must still be read.
//!
//! A deliberate change of a format raises its version, and adds files: `GOLDEN_WRITE=1 cargo test --lib map::golden` writes them.

use std::path::PathBuf;

use crate::map::meta::{Changed, LiveDelta, Meta};
use crate::map::node::Ptr;
use crate::map::page::{Below, Page};
use crate::map::ranges::{Cleared, ClearedRanges};
use crate::map::root::{Ground, ObjectRef, Root};
use crate::map::store::{key, keys_from, number_in, MapStore, Table, View};
use crate::types::*;

const VOLUME: Uuid = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\xfe\xdc\xba\x98\x76\x54\x32\x10";
const PARENT: Uuid = *b"parent--parent--";

fn compare(name: &str, bytes: &[u8]) -> Vec<u8> {
    let crate_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = crate_dir.join("../tests/golden/engine").join(name);
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        golden == bytes,
        "{name}: what the code builds is not the golden file"
    );
    golden
}

fn lineage() -> Vec<LineageEntry> {
    vec![
        LineageEntry {
            first: 1,
            origin: PARENT,
            epoch: 2,
        },
        LineageEntry {
            first: 70,
            origin: VOLUME,
            epoch: 4,
        },
    ]
}

/// A root as a checkpoint of a clone has it: objects of its own, and one of its parent's.
fn ground() -> Ground {
    let object = |number, origin, epoch| ObjectRef {
        number,
        origin,
        epoch,
        live_bytes: 640,
        bytes: 4_000,
    };
    let ptr = |offset, crc| Ptr {
        object: 9,
        offset,
        length: 80,
        crc,
    };
    let root = Root {
        levels: 4,
        live_levels: 4,
        volume: VOLUME,
        epoch: 4,
        tlog_epoch: 4,
        tlog_number: 42,
        next_sco: 77,
        map_top: ptr(1_000, 0xdead_beef),
        live_top: ptr(2_000, 0x0bad_cafe),
        lineage: lineage(),
        objects: vec![object(3, PARENT, 2), object(9, VOLUME, 4)],
    };
    let (bytes, checksum) = root.encode();
    let reference = RootRef {
        epoch: 4,
        object: 9,
        offset: 3_000,
        length: bytes.len() as u32,
        checksum,
    };
    Ground::new(reference, &bytes).unwrap()
}

fn same(found: &Meta, meta: &Meta) {
    assert_eq!(found.levels, meta.levels);
    assert_eq!(found.included, meta.included);
    assert_eq!((found.cut, found.ground_cut), (meta.cut, meta.ground_cut));
    assert_eq!(found.lineage, meta.lineage);
    assert_eq!(found.cleared, meta.cleared);
    let parts = |meta: &Meta| {
        let ground = meta.ground.as_ref();
        ground.map(|g| (g.reference, g.bytes.clone(), g.root.clone()))
    };
    assert_eq!(parts(found), parts(meta));
}

/// Would break: after an update of the program every map on the disk were lost, or read as something else.
#[test]
fn meta() {
    let cleared = [
        Cleared {
            first: 100,
            end: 104,
            cut: 12,
        },
        Cleared {
            first: 1 << 33,
            end: 1 << 34,
            cut: 11,
        },
    ];
    let mut meta = Meta {
        levels: 4,
        included: Included {
            lsn: 123_456,
            number: 78,
            chain: 0x1122_3344_5566_7788,
        },
        cut: 12,
        ground_cut: 10,
        ground: Some(ground()),
        lineage: lineage(),
        cleared: ClearedRanges::from_list(cleared),
    };
    let golden = compare("local-map-meta-1.bin", &meta.encode());
    same(&Meta::decode(&golden).unwrap(), &meta);

    // Before the first checkpoint.
    meta.ground = None;
    meta.ground_cut = 0;
    meta.cleared = ClearedRanges::default();
    let golden = compare("local-map-meta-no-checkpoint-1.bin", &meta.encode());
    same(&Meta::decode(&golden).unwrap(), &meta);
}

/// Would break: as with meta.
#[test]
fn page() {
    let mut complete = Page::new(Below::Nothing);
    complete.write(0, Loc::new(77, 1_022), &[0xa0, 0xa1]);
    complete.write(127, Loc::new(1 << 40, 0), &[0xb0]);
    let golden = compare("local-map-page-1.bin", &complete.encode());
    let found = Page::decode(&golden).unwrap();
    assert_eq!(found, complete);
    assert_eq!(found.get(5), Entry::default());

    let mut partial = Page::new(Below::Checkpoint);
    partial.write(3, Loc::new(77, 5), &[0xc0, 0xc1, 0xc2]);
    partial.clear(64, 2);
    let golden = compare("local-map-page-partial-1.bin", &partial.encode());
    let found = Page::decode(&golden).unwrap();
    assert_eq!(found, partial);
    assert!(found.is_defined(65) && !found.is_defined(66));
}

/// Would break: as with meta.
#[test]
fn changed_and_live() {
    let changed = Changed {
        cut: 12,
        ground: 10,
        known: 1 << 127 | 0x0123_4567_89ab_cdef,
        known_next: u128::MAX - 1,
    };
    let golden = compare("local-map-changed-1.bin", &changed.encode());
    assert_eq!(Changed::decode(&golden).unwrap(), changed);

    let live = LiveDelta {
        cut: 12,
        ground: 10,
        delta: -1_000,
        before: -24,
        clusters: 1_024,
    };
    let golden = compare("local-map-live-1.bin", &live.encode());
    assert_eq!(LiveDelta::decode(&golden).unwrap(), live);
}

/// Would break: the pages of a map on the disk would not be found, or not in their order.
#[test]
fn keys() {
    let number = 0x0102_0304_0506_0708;
    let bytes = [&[2], VOLUME.as_slice(), &[1, 2, 3, 4, 5, 6, 7, 8]].concat();
    let found = key(Table::Changed, &VOLUME, number);
    assert_eq!(found.as_slice(), bytes);
    assert_eq!(number_in(Table::Changed, &VOLUME, &found), Some(number));
    assert_eq!(number_in(Table::Live, &VOLUME, &found), None);
    assert_eq!(number_in(Table::Changed, &PARENT, &found), None);
    let sorted = [Table::Meta, Table::Page, Table::Changed, Table::Live].map(|table| table as u8);
    assert_eq!(sorted, [0, 1, 2, 3]);
}

/// Would break: a map that a release has left is not read by the next one, and must come from the backend.
#[test]
fn file() {
    let directory = tempfile::tempdir().unwrap();
    let store = MapStore::open(directory.path(), 1 << 30, 1 << 20, false).unwrap();
    let records = |change: &mut crate::map::store::Change<'_>, count: u64| {
        change
            .put(&key(Table::Meta, &VOLUME, 0), &[7; 5_000])
            .unwrap();
        for number in 0..count {
            let value = vec![number as u8; 100 + number as usize];
            change
                .put(&key(Table::Page, &VOLUME, number), &value)
                .unwrap();
        }
    };
    for count in [5, 40] {
        let mut change = store.write().unwrap();
        records(&mut change, count);
        change.commit().unwrap();
    }
    drop(store);
    let path = directory.path().join("map.tree");
    let bytes = std::fs::read(&path).unwrap();
    let used = bytes.len().min(12 * 4096);
    assert!(bytes[used..].iter().all(|byte| *byte == 0));
    let golden = compare("local-map-2.bin", &bytes[..used]);
    std::fs::write(&path, golden).unwrap();
    let store = MapStore::open(directory.path(), 1 << 30, 1 << 20, false).unwrap();
    assert_eq!(store.volumes().unwrap(), [VOLUME]);
    let view = store.read();
    assert_eq!(
        view.get(&key(Table::Meta, &VOLUME, 0)).unwrap(),
        Some(vec![7; 5_000])
    );
    let last = view.get(&key(Table::Page, &VOLUME, 39)).unwrap();
    assert_eq!(last, Some(vec![39; 139]));
    let all = keys_from(&view, Table::Page, &VOLUME, (0, u64::MAX), 100).unwrap();
    assert_eq!(all, (0..40).collect::<Vec<_>>());
}
