//! What a restart finds of a replica.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Damage, Last, Replica, State};
use crate::engine::Engine;
use crate::error::Result;
use crate::log::Durability;
use crate::map::VolumeMap;
use crate::pool::{Found, Segment};
use crate::scan::{self, Known, TailSegment};
use crate::segment::{CopyMark, Seal};
use crate::types::{Included, Uuid};

impl Replica {
    /// What is here of a volume that is not open: a replica of before, this node's own former log, or nothing. Changes nothing.
    /// `head_next_sco`: a former log is looked at from there on, as by a recovery; a replica knows where it begins.
    pub(crate) fn look(
        engine: &Arc<Engine>,
        volume: Uuid,
        head_next_sco: Option<u64>,
    ) -> Result<Replica> {
        let (shared, store) = (engine.shared()?, engine.store()?);
        let left = VolumeMap::left_lineage(&store, &volume)?;
        let (mut found, damaged) = shared.pool.found(&volume)?;
        let marked: BTreeSet<usize> = (found.iter())
            .filter_map(|found| found.mark.map(|_| found.index))
            .collect();
        let is_copy = scan::judge_marks(&mut found, &volume, &left);
        let synced = found.iter().filter_map(|found| found.mark);
        let synced = synced.map(|mark| mark.synced_lsn).max().unwrap_or(0);
        let begins = begins(&found);
        let begins_behind = begins.first_lsn.saturating_sub(1);
        let mut older = scan::before_copy(&mut found);
        let first_number = match is_copy {
            true => begins.first_number,
            false => head_next_sco.unwrap_or_else(|| newest_run(&found)),
        };
        let before = |found: &Found| found.header.number < first_number;
        older.extend(found.iter().filter(|found| before(found)).cloned());
        found.retain(|found| !before(found));
        let scanned = scan::scan(
            found,
            &damaged,
            &Known {
                volume,
                head: None,
                next_sco: first_number,
                map: None,
                left: &[],
                is_copy,
                check_chain: engine.check_chain,
            },
        )?;
        let what = match (scanned.damage, &scanned.unjudged) {
            (Some(damage), _) => Some(damage),
            (None, Some(evidence)) if is_copy => evidence.against(begins_behind, None)?,
            // Of a former log, what is said to have been durable may be what the head has.
            (None, _) => None,
        };
        let mut state = State {
            pool: shared.pool.clone(),
            store,
            segments: BTreeMap::new(),
            last: None,
            end: Included::default(),
            outdated: Vec::new(),
            stale: scanned.stale,
            is_claimed: false,
            unsynced: Vec::new(),
            taken: None,
            damage: None,
        };
        let mut seal = None;
        for tail in scanned.tail {
            seal = state.add(tail);
        }
        state.open_last(seal)?;
        // What stood here before this process is synced only as far as a mark says.
        let synced_before =
            |segment: &&Arc<Segment>| segment.end().is_some_and(|end| end.last_lsn <= synced);
        let unsynced = state.segments.values().filter(|s| !synced_before(s));
        state.unsynced = unsynced.cloned().collect();
        state.damage = what.map(|what| Damage {
            what,
            synced_lsn: synced,
            is_final: !is_copy || state.segments.is_empty(),
        });
        if !is_copy || state.segments.is_empty() {
            let outdated: Vec<Found>;
            (outdated, older) = (older.into_iter()).partition(|f| marked.contains(&f.index));
            state.outdated = outdated.iter().map(|found| found.index).collect();
        }
        for found in older {
            let segment = Segment::new(found.index, found.file, found.header, found.seal);
            shared.pool.offer_trimmed(&Arc::new(segment));
        }
        Ok(Replica {
            volume,
            durability: Durability::new(synced.min(state.end.lsn)),
            state: Mutex::new(Some(state)),
            syncing: Mutex::new(()),
        })
    }
}

/// The mark that says where the copy begins now.
fn begins(found: &[Found]) -> CopyMark {
    let marks = found.iter().filter_map(|found| found.mark);
    let newest = marks.max_by_key(|mark| (mark.first_number, mark.synced_lsn));
    newest.unwrap_or(CopyMark {
        first_number: 1,
        first_lsn: 1,
        synced_lsn: 0,
    })
}

/// Of a log of this node's own, where the last stretch of consecutive segments begins: what is before it was recycled in part.
fn newest_run(found: &[Found]) -> u64 {
    let numbers: std::collections::BTreeSet<u64> = found.iter().map(|f| f.header.number).collect();
    let mut newest_first = numbers.iter().rev().copied();
    let Some(mut first) = newest_first.next() else {
        return 1;
    };
    for number in newest_first {
        if number + 1 != first {
            break;
        }
        first = number;
    }
    first
}

impl State {
    /// Returns the owner's seal, if it fits.
    fn add(&mut self, tail: TailSegment) -> Option<Seal> {
        let TailSegment { found, end } = tail;
        self.end = Included {
            lsn: end.last_lsn,
            number: found.header.number,
            chain: end.chain,
        };
        let seal = found.seal.filter(|seal| seal.chain == end.chain);
        let segment = Segment::new(
            found.index,
            found.file,
            found.header,
            Some(seal.unwrap_or(end)),
        );
        self.segments.insert(found.header.number, Arc::new(segment));
        seal
    }

    /// The newest segment goes on where it ends, unless the owner has sealed it.
    fn open_last(&mut self, seal: Option<Seal>) -> Result<()> {
        let Some(segment) = self.segments.values().next_back().cloned() else {
            return Ok(());
        };
        let last = Last::reopened(&segment, self.end.lsn, seal)?;
        self.segments
            .insert(segment.header.number, last.segment.clone());
        self.last = Some(last);
        Ok(())
    }
}
