//! Formats are fixed: what the code builds today must be the bytes in `tests/golden/`, and those must still be read.
//!
//! A deliberate change of a format raises its version, and adds files: `GOLDEN_WRITE=1 cargo test --test golden` writes them.
//! The local map's are in `src/map/golden.rs`: its encoders are private.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use vpool_engine::batch::*;
use vpool_engine::map::*;
use vpool_engine::read_cache::{CacheKey, ReadCache};
use vpool_engine::segment::*;
use vpool_engine::tlog::*;
use vpool_engine::types::*;

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

fn header(combined: bool) -> TlogHeader {
    let previous = TlogRef {
        epoch: 3,
        number: 41,
        combined_sco: 76,
        checksum: 0x1122_3344_5566_7788,
    };
    TlogHeader {
        volume: VOLUME,
        epoch: 4,
        number: 42,
        previous: Some(previous),
        first_of_epoch: true,
        first_sco: 77,
        next_sco: if combined { 78 } else { 80 },
        last_lsn: 123_456,
        combined,
    }
}

#[test]
fn tlog() {
    let mut builder = TlogBuilder::new(header(false));
    builder.sco(TlogSco {
        number: 77,
        clusters: 1024,
        crc: 0xdead_beef,
    });
    builder.sco(TlogSco {
        number: 78,
        clusters: 0,
        crc: 0,
    });
    builder.sco(TlogSco {
        number: 79,
        clusters: 5,
        crc: 0x0bad_cafe,
    });
    builder
        .write(1000, 77, 0, &[1, 2, 3])
        .write(5, 77, 1022, &[4, 5])
        .zero(1 << 40, 1 << 30)
        .write(0, 79, 4, &[6]);
    let tlog = decode(&compare("tlog-1.bin", &builder.finish())).unwrap();
    assert_eq!(tlog.header, header(false));
    assert_eq!(tlog.scos.len(), 3);
    assert_eq!(
        tlog.entries[1],
        TlogEntry {
            lba: 5,
            op: TlogOp::Write {
                number: 77,
                slot: 1022,
                crcs: vec![4, 5]
            }
        }
    );
    assert_eq!(
        tlog.entries[2],
        TlogEntry {
            lba: 1 << 40,
            op: TlogOp::Zero { clusters: 1 << 30 }
        }
    );
}

#[test]
fn combined_object() {
    let data: Vec<u8> = (0..2 * CLUSTER).map(|i| (i / 16) as u8).collect();
    let mut builder = TlogBuilder::new(header(true));
    builder.sco(TlogSco {
        number: 77,
        clusters: 2,
        crc: crc32c::crc32c(&data),
    });
    let crcs: Vec<u32> = data.chunks(CLUSTER).map(crc32c::crc32c).collect();
    builder.write(9, 77, 0, &crcs);
    let golden = compare("combined-1.bin", &combine(&data, &builder.finish()));
    let tlog = decode(split_combined(&golden).unwrap()).unwrap();
    assert!(tlog.header.combined);
    assert_eq!(tlog.entries.len(), 1);
    assert_eq!(
        split_combined(&golden[4096..]).unwrap(),
        split_combined(&golden).unwrap()
    );
}

fn run(
    mut builder: CheckpointBuilder,
    objects: &mut HashMap<u64, Vec<u8>>,
) -> (RootRef, FinishedCheckpoint) {
    loop {
        match builder.step().unwrap() {
            Step::Need(fetches) => {
                for f in fetches {
                    builder
                        .supply(
                            &f,
                            &objects[&f.number][f.offset as usize..][..f.length as usize],
                        )
                        .unwrap();
                }
            }
            Step::Object { number, bytes } => assert!(objects.insert(number, bytes).is_none()),
            Step::Done(reference) => return (reference, builder.finish()),
        }
    }
}

/// Two checkpoints, the second on top of the first: objects with both trees, root, index, trailer.
#[test]
fn checkpoint_object_and_root() {
    let dir = tempfile::tempdir().unwrap();
    let store = MapStore::open(dir.path(), 1 << 26, 1 << 20, false).unwrap();
    let mut map = VolumeMap::create(&store, VOLUME, 4, None).unwrap();
    let lineage = vec![
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
    ];
    map.set_lineage(lineage.clone());
    map.update(100, Loc::new(7, 1000), &[0xa0, 0xa1, 0xa2]);
    map.update(127, Loc::new(70, 0), &[0xb0, 0xb1]);
    map.update(128 * 512 * 9, Loc::new(7_000, 3), &[0xc0]);
    let mut objects = HashMap::new();
    let cut = map.cut(Included {
        lsn: 5,
        number: 7_000,
        chain: 6,
    });
    let builder = cut.commit_and_checkpoint(4, 1, 4, 42, 7_001).unwrap();
    map.committed(cut.id());
    let (reference, finished) = run(builder, &mut objects);
    let root = finished.root_bytes().to_vec();
    map.checkpoint_installed(reference, &root, finished)
        .unwrap();
    map.update(101, Loc::new(7_001, 0), &[0xd0]);
    map.clear(128 * 512 * 9, 128);
    let cut = map.cut(Included {
        lsn: 7,
        number: 7_001,
        chain: 8,
    });
    let builder = cut.commit_and_checkpoint(4, 2, 4, 43, 7_002).unwrap();
    let (reference, finished) = run(builder, &mut objects);

    let first = compare("checkpoint-object-1.bin", &objects[&1]);
    let second = compare("checkpoint-object-2.bin", &objects[&2]);
    let root = compare("checkpoint-root-1.bin", finished.root_bytes());
    assert_eq!(
        root,
        second[reference.offset as usize..][..reference.length as usize]
    );

    let dir = tempfile::tempdir().unwrap();
    let store = MapStore::open(dir.path(), 1 << 26, 1 << 20, false).unwrap();
    let mut map = VolumeMap::create(&store, VOLUME, 1, Some((reference, &root))).unwrap();
    assert_eq!(map.lineage(), lineage);
    let info = map.root().unwrap();
    assert_eq!(
        (info.tlog_epoch, info.tlog_number, info.next_sco),
        (4, 43, 7_002)
    );
    let golden = [Vec::new(), first, second];
    let mut out = Vec::new();
    while let Lookup::Need(fetches) = map.lookup(99, 31, &mut out).unwrap() {
        for f in fetches {
            map.supply(
                &f,
                &golden[f.number as usize][f.offset as usize..][..f.length as usize],
            )
            .unwrap();
        }
    }
    assert_eq!(out[0], Entry::default());
    assert_eq!(
        out[1],
        Entry {
            loc: Loc::new(7, 1000),
            crc: 0xa0
        }
    );
    assert_eq!(
        out[2],
        Entry {
            loc: Loc::new(7_001, 0),
            crc: 0xd0
        }
    );
    assert_eq!(
        out[29],
        Entry {
            loc: Loc::new(70, 1),
            crc: 0xb1
        }
    );
}

#[test]
fn read_cache_index() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ReadCache::open(dir.path(), 4 << 16, Arc::default()).unwrap();
    let key = CacheKey {
        origin: VOLUME,
        epoch: 4,
        number: 77,
    };
    let data: Vec<u8> = (0..3 * CLUSTER).map(|i| (i / 64) as u8).collect();
    cache.insert(&key, 1023 - 2, &data);
    cache.insert(&CacheKey { number: 78, ..key }, 15, &data[..2 * CLUSTER]);
    let mut out = vec![0; CLUSTER];
    assert!(cache.read(
        &key,
        1022,
        crc32c::crc32c(&data[CLUSTER..2 * CLUSTER]),
        &mut out
    ));
    drop(cache);
    let golden = compare(
        "read-cache-index-1.bin",
        &std::fs::read(dir.path().join("index")).unwrap(),
    );
    std::fs::write(dir.path().join("index"), golden).unwrap();
    let cache = ReadCache::open(dir.path(), 4 << 16, Arc::default()).unwrap();
    assert!(cache.has(&key, 1021, 3) && cache.has(&CacheKey { number: 78, ..key }, 15, 2));
    assert!(!cache.has(&key, 1020, 1));
    assert!(cache.read(&key, 1021, crc32c::crc32c(&data[..CLUSTER]), &mut out));
}

/// A batch with the end of one segment and the beginning of the next.
#[test]
fn log_batch() {
    let first = Header {
        volume: VOLUME,
        epoch: 4,
        number: 77,
        nonce: 0x0123_4567_89ab_cdef,
        first_lsn: 123_450,
        previous_chain: 0x1122_3344_5566_7788,
        durable_lsn: 123_440,
    };
    let data: Vec<u8> = (0..CLUSTER).map(|i| (i / 16) as u8).collect();
    let mut record = vec![0; record_bytes(1)];
    let chain = encode_record(
        &mut record,
        first.nonce_crc(),
        first.chain(),
        Op::Write { lba: 1000, slot: 0 },
        123_450,
        123_440,
        &[crc32c::crc32c(&data)],
    );
    let seal = Seal {
        last_lsn: 123_450,
        chain,
        durable_lsn: 123_449,
        clusters: 1,
        record_bytes: record.len() as u32,
    };
    let second = Header {
        number: 78,
        nonce: 0xfedc_ba98_7654_3210,
        first_lsn: 123_451,
        previous_chain: chain,
        durable_lsn: 123_450,
        ..first
    };
    let mut mark = vec![0; record_bytes(0)];
    encode_record(
        &mut mark,
        second.nonce_crc(),
        second.chain(),
        Op::Mark,
        123_451,
        123_450,
        &[],
    );
    let parts = [
        PartHead {
            header: first,
            seal: Some(seal),
            at: 0,
            bytes: record.len() as u32,
            slot: 0,
            slots: 1,
        },
        PartHead {
            header: second,
            seal: None,
            at: 0,
            bytes: mark.len() as u32,
            slot: 0,
            slots: 0,
        },
    ];
    let mut batch = vec![0; batch_bytes(&parts)];
    let content = encode_head(&mut batch, &parts, &VOLUME, (123_450, 123_451));
    content.copy_from_slice(&[record.clone(), data.clone(), mark.clone()].concat());
    let golden = compare("log-batch-1.bin", &batch);
    let read = Batch::decode(&golden).unwrap();
    assert_eq!((read.first_lsn, read.last_lsn), (123_450, 123_451));
    let heads: Vec<PartHead> = read.parts.iter().map(|part| part.head).collect();
    assert_eq!(heads, parts);
    assert_eq!(
        (read.parts[0].records, read.parts[0].data),
        (&record[..], &data[..])
    );
    assert_eq!(
        (read.parts[1].records, read.parts[1].data.len()),
        (&mark[..], 0)
    );

    let copied = CopyMark {
        first_number: 70,
        first_lsn: 120_000,
        synced_lsn: 123_449,
    };
    let page = compare(
        "segment-copy-1.bin",
        &first.encode_copy(Some(&seal), &copied),
    );
    assert_eq!(Header::decode(&page), HeaderPage::Valid(first, Some(seal)));
    assert_eq!(Header::copy_mark(&page), Some(copied));
    assert_eq!(Header::copy_mark(&first.encode(Some(&seal))), None);
}

/// A closed segment as it stands in the file, up to the end of its records, and the header page that it began with.
#[test]
fn segment() {
    let header = Header {
        volume: VOLUME,
        epoch: 4,
        number: 77,
        nonce: 0x0123_4567_89ab_cdef,
        first_lsn: 123_450,
        previous_chain: 0x1122_3344_5566_7788,
        durable_lsn: 123_440,
    };
    let records = [
        (Op::Write { lba: 1000, slot: 0 }, 123_440, vec![0xdead_beef]),
        (
            Op::Zero {
                lba: 1 << 40,
                clusters: 1 << 30,
            },
            123_450,
            vec![],
        ),
        (Op::Write { lba: 5, slot: 1 }, 123_451, vec![1, 2, 3]),
        (Op::Mark, 123_452, vec![]),
    ];
    let mut area = Vec::new();
    let mut chain = header.chain();
    for (lsn, (op, durable_lsn, crcs)) in (header.first_lsn..).zip(&records) {
        let at = area.len();
        // Room for a record may hold stale bytes: all of it is written.
        area.resize(at + record_bytes(crcs.len()), 0xff);
        chain = encode_record(
            &mut area[at..],
            header.nonce_crc(),
            chain,
            *op,
            lsn,
            *durable_lsn,
            crcs,
        );
    }
    let seal = Seal {
        last_lsn: 123_453,
        chain,
        durable_lsn: 123_452,
        clusters: 4,
        record_bytes: area.len() as u32,
    };
    assert_eq!(
        Header::decode(&compare("segment-header-1.bin", &header.encode(None))),
        HeaderPage::Valid(header, None)
    );
    let closed = [header.encode(Some(&seal)), area].concat();
    let golden = compare("segment-1.bin", &closed);
    let (page, area) = golden.split_at(RECORDS_AT as usize);
    assert_eq!(Header::decode(page), HeaderPage::Valid(header, Some(seal)));
    let mut found = Records::new(&header, area);
    for (op, durable_lsn, crcs) in &records {
        let record = found.next().unwrap();
        assert_eq!((record.op, record.durable_lsn), (*op, *durable_lsn));
        assert_eq!(record.crcs().collect::<Vec<u32>>(), *crcs);
    }
    assert!(found.next().is_none());
    assert_eq!(
        (found.lsn, found.chain, found.slots, found.at),
        (seal.last_lsn, seal.chain, seal.clusters, area.len())
    );
    // Where things stand in the file.
    assert_eq!(RECORDS_AT + RECORDS_BYTES as u64, DATA_AT);
    assert_eq!((DATA_AT, data_offset(3)), (65_536, 77_824));
    assert_eq!(SEGMENT_BYTES, 65_536 + (4 << 20));
}
