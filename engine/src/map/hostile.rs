//! Decoders of the map against bytes that somebody damaged: nothing panics, and a flipped byte never passes.

use proptest::prelude::*;

use crate::map::meta::{Changed, LiveDelta, Meta};
use crate::map::node::{self, Live, Ptr, Tree};
use crate::map::object::{ObjectBuilder, Trailer, TRAILER_BYTES};
use crate::map::page::{Below, Page};
use crate::map::ranges::{Cleared, ClearedRanges};
use crate::map::root::{Ground, ObjectRef, Root};
use crate::map::store::verified;
use crate::types::*;

fn a_page(slots: &[(usize, u64)], below: Below) -> Page {
    let mut page = Page::new(below);
    for &(slot, loc) in slots {
        let loc = if loc % 5 == 0 {
            Loc::HOLE
        } else {
            Loc(1024 + loc)
        };
        page.set(
            slot % 128,
            Entry {
                loc,
                crc: if loc == Loc::HOLE { 0 } else { 9 },
            },
        );
    }
    page
}

fn a_root(n: u64) -> Root {
    let ptr = Ptr {
        object: 1,
        offset: 32,
        length: 64,
        crc: 5,
    };
    let object = |i| ObjectRef {
        number: i + 1,
        origin: [3; 16],
        epoch: 2,
        live_bytes: 64,
        bytes: 400,
    };
    let entry = |i| LineageEntry {
        first: i,
        origin: [4; 16],
        epoch: i,
    };
    Root {
        levels: 4,
        live_levels: 4,
        volume: [1; 16],
        epoch: 2,
        tlog_epoch: 2,
        tlog_number: 3,
        next_sco: 4,
        map_top: ptr,
        live_top: Ptr::default(),
        lineage: (0..n).map(entry).collect(),
        objects: (0..n).map(object).collect(),
    }
}

fn a_node(kind: u8, slots: &[(usize, u64)]) -> Vec<u8> {
    let mut by_slot: Vec<(usize, u64)> = slots.to_vec();
    by_slot.sort_unstable();
    by_slot.dedup_by_key(|item| item.0);
    let live = |item: &(usize, u64)| Live {
        slot: item.0 as u16,
        live: 1,
        clusters: 2,
    };
    let child = |item: &(usize, u64)| {
        (
            item.0 as u16,
            Ptr {
                object: item.1 + 1,
                offset: 1,
                length: 2,
                crc: 3,
            },
        )
    };
    match kind {
        0 => node::encode_map_leaf(256, &a_page(slots, Below::Nothing)),
        1 => node::encode_live_leaf(512, &by_slot.iter().map(live).collect::<Vec<_>>()),
        _ => node::encode_inner(
            Tree::Map,
            2,
            0,
            &by_slot.iter().map(child).collect::<Vec<_>>(),
        ),
    }
}

fn slots() -> impl Strategy<Value = Vec<(usize, u64)>> {
    prop::collection::vec((0usize..128, 0u64..1 << 40), 0..128)
}

fn flipped(bytes: &[u8], at: &prop::sample::Index, flip: u8) -> Vec<u8> {
    let mut wrong = bytes.to_vec();
    wrong[at.index(bytes.len())] ^= flip;
    wrong
}

proptest! {
    #[test]
    fn pages(slots in slots(), partial: bool, at: prop::sample::Index, flip in 1u8..) {
        let page = a_page(&slots, if partial { Below::Checkpoint } else { Below::Nothing });
        let bytes = page.encode();
        let decoded = Page::decode(&bytes).unwrap();
        prop_assert_eq!(decoded.defined, page.defined);
        prop_assert!((0..128).all(|slot| decoded.get(slot) == page.get(slot)));
        prop_assert!(bytes.len() <= 1568);
        prop_assert!(Page::decode(&flipped(&bytes, &at, flip)).is_err());
        prop_assert!(Page::decode(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn nodes(slots in slots(), kind in 0u8..3, at: prop::sample::Index, flip in 1u8..) {
        let bytes = a_node(kind, &slots);
        let fetch = Fetch { kind: FetchKind::Map, origin: [0; 16], epoch: 1, number: 1, offset: 32,
            length: bytes.len() as u32, crc: crc32c::crc32c(&bytes) };
        prop_assert!(verified(&fetch, &bytes).is_ok());
        prop_assert!(verified(&fetch, &flipped(&bytes, &at, flip)).is_err());
        prop_assert!(verified(&fetch, &bytes[..at.index(bytes.len())]).is_err());
        // Hostile, with the right checksum: refused or not, no panic.
        let _ = node::decode(&flipped(&bytes, &at, flip));
        let _ = node::decode(&bytes[..at.index(bytes.len())]);
    }

    #[test]
    fn roots(n in 0u64..20, at: prop::sample::Index, flip in 1u8..) {
        let root = a_root(n);
        let (bytes, _) = root.encode();
        prop_assert_eq!(Root::decode(&bytes).unwrap(), root);
        prop_assert!(Root::decode(&flipped(&bytes, &at, flip)).is_err());
        prop_assert!(Root::decode(&bytes[..at.index(bytes.len())]).is_err());
        // Hostile, with the right checksum.
        let mut hostile = flipped(&bytes, &at, flip);
        hostile.truncate(bytes.len() - 8);
        crate::map::fields::seal(&mut hostile, 0);
        let _ = Root::decode(&hostile);
    }

    #[test]
    fn metas(n in 0u64..20, at: prop::sample::Index, flip in 1u8..) {
        let (bytes, checksum) = a_root(n).encode();
        let reference = RootRef { epoch: 2, object: 3, offset: 4, length: bytes.len() as u32, checksum };
        let ranges = (0..n).map(|i| Cleared { first: i * 10, end: i * 10 + 5, cut: i });
        let meta = Meta { levels: 4, included: Included { lsn: 1, number: 2, chain: 3 }, cut: 9, ground_cut: 8,
            ground: Some(Ground::new(reference, &bytes).unwrap()), lineage: a_root(n).lineage,
            cleared: ClearedRanges::from_list(ranges) };
        let bytes = meta.encode();
        let decoded = Meta::decode(&bytes).unwrap();
        prop_assert_eq!(decoded.cleared, meta.cleared);
        prop_assert_eq!(decoded.ground.unwrap().reference, reference);
        prop_assert!(Meta::decode(&flipped(&bytes, &at, flip)).is_err());
        prop_assert!(Meta::decode(&bytes[..at.index(bytes.len())]).is_err());
        let mut hostile = flipped(&bytes, &at, flip);
        hostile.truncate(bytes.len() - 8);
        crate::map::fields::seal(&mut hostile, 0);
        let _ = Meta::decode(&hostile);
    }

    #[test]
    fn object_indexes(slots in slots(), nodes in 1usize..20, at: prop::sample::Index, flip in 1u8..) {
        let mut object = ObjectBuilder::new(7, &[6; 16]);
        for i in 0..nodes {
            object.add(&a_node(i as u8 % 3, &slots));
        }
        let bytes = object.finish(None);
        let read = |bytes: &[u8]| {
            let trailer = Trailer::decode(&bytes[bytes.len() - TRAILER_BYTES..], bytes.len() as u64)?;
            let index = &bytes[trailer.index_offset as usize..bytes.len() - TRAILER_BYTES];
            trailer.index(&[6; 16], 7, index)
        };
        prop_assert_eq!(read(&bytes).unwrap().len(), nodes);
        let tail = bytes.len() - TRAILER_BYTES - 24 * nodes;
        let mut wrong = bytes.clone();
        wrong[tail..].copy_from_slice(&flipped(&bytes[tail..], &at, flip));
        prop_assert!(read(&wrong).is_err());
    }

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Page::decode(&bytes).is_err());
        prop_assert!(Root::decode(&bytes).is_err());
        prop_assert!(Meta::decode(&bytes).is_err());
        let _ = node::decode(&bytes);
        let _ = Changed::decode(&bytes);
        let _ = LiveDelta::decode(&bytes);
        let _ = Trailer::decode(&bytes, 1 << 20);
    }

    /// Against a plain set: what is cleared, and with which cut.
    #[test]
    fn cleared_ranges(adds in prop::collection::vec((0u64..60, 1u64..20, 1u64..5), 0..40)) {
        let mut ranges = ClearedRanges::default();
        let mut model = [0u64; 100];
        for (first, pages, cut) in adds {
            ranges.add(Cleared { first, end: first + pages, cut });
            model[first as usize..(first + pages) as usize].fill(cut);
        }
        for page in 0..100u64 {
            prop_assert_eq!(ranges.contains(page), model[page as usize] != 0);
        }
        ranges.forget_up_to(2);
        for page in 0..100u64 {
            prop_assert_eq!(ranges.contains(page), model[page as usize] > 2);
        }
        ranges.coalesce(3, 9);
        let list: Vec<Cleared> = ranges.iter().collect();
        prop_assert!(list.windows(2).all(|w| w[0].end < w[1].first || w[0].cut != w[1].cut));
        prop_assert!((0..100u64).all(|page| ranges.contains(page) == (model[page as usize] > 2)));
    }
}
