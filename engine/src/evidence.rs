//! Whether something on the local disk says that more of a log had been durable than a restart finds.
//!
//! `docs/formats/segment.md` names what may say so: the local map, a header, a seal or a record behind the gap, a damaged header.

use crate::error::Result;
use crate::pool::Found;
use crate::scan::read_records;
use crate::segment::{record_at, RECORDS_BYTES};
use crate::types::{Included, Uuid};

/// A segment at or behind the head's next one.
pub struct Later {
    pub found: Found,
    /// None: not part of the tail; else whether it is the tail's last.
    pub last_of_tail: Option<bool>,
}

/// Everything that is to be asked; see the module.
pub struct Evidence {
    pub volume: Uuid,
    pub next_sco: u64,
    pub map: Option<Included>,
    /// By number.
    pub later: Vec<Later>,
    /// Files of any volume whose header is wrong.
    pub damaged: Vec<Found>,
}

impl Evidence {
    /// What is missing although it had been durable, if the log ends at record `lsn`. `chain`: after that record, if known.
    pub fn against(&self, lsn: u64, chain: Option<u64>) -> Result<Option<String>> {
        let gap = lsn + 1;
        let said = |(what, durable): (String, u64)| {
            format!(
                "the log ends at record {lsn}, but {what} says that record {durable} was durable"
            )
        };
        if let Some(map) = self.map.filter(|map| map.lsn >= gap) {
            return Ok(Some(said(("the local map".into(), map.lsn))));
        }
        for later in &self.later {
            if let Some(witness) = later.witness(gap)? {
                return Ok(Some(said(witness)));
            }
        }
        let unreadable = self.damaged.iter().find(|found| {
            let header = &found.header;
            let follows = chain.is_some_and(|chain| header.previous_chain == chain);
            let behind = header.number >= self.next_sco || header.first_lsn >= gap;
            let ours = uuid_distance(&header.volume, &self.volume) <= 2;
            (ours && (behind || follows)) || (follows && chain != Some(0))
        });
        Ok(unreadable.map(|found| {
            let number = found.header.number;
            format!("the header of a log segment (SCO {number}) is damaged")
        }))
    }
}

impl Later {
    /// What in this segment stands behind the gap and names a durable LSN at or past it, and that LSN.
    fn witness(&self, gap: u64) -> Result<Option<(String, u64)>> {
        let (header, seal) = (&self.found.header, self.found.seal);
        let name = format!("segment {}", header.number);
        // In a copy all other claims are the owner's, of its disk.
        if let Some(mark) = self.found.mark {
            let what = format!("the mark of the copy in {name}");
            return Ok((mark.synced_lsn >= gap).then_some((what, mark.synced_lsn)));
        }
        if header.first_lsn > gap && header.durable_lsn >= gap {
            return Ok(Some((name, header.durable_lsn)));
        }
        if self.last_of_tail == Some(false) {
            return Ok(None);
        }
        if let Some(seal) = seal.filter(|s| s.last_lsn >= gap && s.durable_lsn >= gap) {
            return Ok(Some((name, seal.durable_lsn)));
        }
        // Records behind a seal are of the time before the restart that wrote it.
        let until = seal.map_or(u64::MAX, |seal| seal.last_lsn);
        let area = read_records(&self.found)?;
        for at in (0..RECORDS_BYTES).step_by(8) {
            if let Some(record) = record_at(&area, at, header.nonce_crc()) {
                if record.lsn > gap && record.lsn <= until && record.durable_lsn >= gap {
                    let name = format!("record {} in {name}", record.lsn);
                    return Ok(Some((name, record.durable_lsn)));
                }
            }
        }
        Ok(None)
    }
}

/// Bytes in which two UUIDs differ: one or two is damage, more is another volume.
pub fn uuid_distance(a: &Uuid, b: &Uuid) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}
