//! TLogs: what goes in comes out, and no damage passes.

use proptest::prelude::*;
use vpool_engine::tlog::*;
use vpool_engine::types::*;

/// (kind, length, address) per record; SCOs follow from them as they would in a log.
fn build(records: &[(bool, u16, u64)], combined: bool) -> (Vec<u8>, Vec<TlogEntry>) {
    let (mut number, mut slot) = (10, 0);
    let mut scos = vec![TlogSco {
        number,
        clusters: 0,
        crc: 3,
    }];
    let mut entries = Vec::new();
    for &(write, n, lba) in records {
        let op = if write {
            let n = u32::from(n % 20 + 1);
            if slot + n > 60 && !combined {
                number += 1;
                slot = 0;
                scos.push(TlogSco {
                    number,
                    clusters: 0,
                    crc: 4,
                });
            }
            let crcs = (0..n).map(|i| i * 77 + n).collect();
            scos.last_mut().unwrap().clusters = slot + n;
            slot += n;
            TlogOp::Write {
                number,
                slot: slot - n,
                crcs,
            }
        } else {
            TlogOp::Zero {
                clusters: u64::from(n) + 1,
            }
        };
        entries.push(TlogEntry { lba, op });
    }
    let header = TlogHeader {
        volume: [7; 16],
        epoch: 2,
        number: 9,
        previous: None,
        first_of_epoch: false,
        first_sco: 10,
        next_sco: number + 1,
        last_lsn: 99,
        combined,
    };
    let mut builder = TlogBuilder::new(header);
    for sco in scos {
        builder.sco(sco);
    }
    for entry in &entries {
        match &entry.op {
            TlogOp::Write { number, slot, crcs } => builder.write(entry.lba, *number, *slot, crcs),
            TlogOp::Zero { clusters } => builder.zero(entry.lba, *clusters),
        };
    }
    (builder.finish(), entries)
}

fn records() -> impl Strategy<Value = Vec<(bool, u16, u64)>> {
    prop::collection::vec((any::<bool>(), any::<u16>(), 0u64..1 << 60), 0..40)
}

proptest! {
    #[test]
    fn round_trip(records in records()) {
        let (bytes, entries) = build(&records, false);
        let tlog = decode(&bytes).unwrap();
        prop_assert_eq!(tlog.entries, entries);
        prop_assert_eq!(&tlog.checksum.to_le_bytes()[..], &bytes[bytes.len() - 8..]);
    }

    #[test]
    fn a_flipped_byte_or_a_cut_is_found(records in records(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let (bytes, _) = build(&records, false);
        let at = at.index(bytes.len());
        let mut wrong = bytes.clone();
        wrong[at] ^= flip;
        prop_assert!(decode(&wrong).is_err());
        prop_assert!(decode(&bytes[..at]).is_err());
    }

    /// Damage with a right checksum: bounds and order are what protects then, and nothing panics.
    #[test]
    fn hostile_bytes_do_no_harm(records in records(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (mut bytes, _) = build(&records, false);
        let end = bytes.len() - 8;
        for (at, value) in flips {
            bytes[at.index(end)] = value;
        }
        let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[..end]);
        bytes[end..].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(tlog) = decode(&bytes) {
            for entry in tlog.entries {
                if let TlogOp::Write { number, slot, crcs } = entry.op {
                    let sco = tlog.scos.iter().find(|sco| sco.number == number).unwrap();
                    prop_assert!(slot as usize + crcs.len() <= sco.clusters as usize && sco.clusters <= SCO_CLUSTERS);
                }
            }
        }
    }

    #[test]
    fn noise_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(decode(&bytes).is_err());
        prop_assert!(split_combined(&bytes).is_err());
    }

    #[test]
    fn combined_damage_is_found(n in 0u16..30, at in any::<prop::sample::Index>(), flip in 1u8.., from in any::<prop::sample::Index>()) {
        let (tlog, _) = build(&[(true, n, 5), (false, 3, 8)], true);
        let clusters = usize::from(n % 20 + 1);
        let object = combine(&vec![9; clusters * CLUSTER], &tlog);
        let part = clusters * CLUSTER;
        let from = from.index(part + 1);
        prop_assert_eq!(split_combined(&object[from..]).unwrap(), &tlog[..]);
        let mut wrong = object.clone();
        let at = part + at.index(object.len() - part);
        wrong[at] ^= flip;
        prop_assert!(split_combined(&wrong[from..]).is_err());
        prop_assert!(split_combined(&wrong[part..]).is_err());
        prop_assert!(split_combined(&object[part + 1..]).is_err());
        prop_assert!(split_combined(&object[..at]).is_err());
    }
}
