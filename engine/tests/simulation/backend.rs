//! What the Python side does with a volume, in RAM: buckets, the head in the registry, restarts from them.

use std::collections::HashMap;
use std::sync::Arc;

use vpool_engine::error::{Error, Result};
use vpool_engine::recovery::Recovery;
use vpool_engine::request::Plan;
use vpool_engine::shipping::{CheckpointStep, Tlog};
use vpool_engine::types::{Fetch, FetchKind, RootRef, TlogRef};
use vpool_engine::volume::{Reply, Volume};

/// See the module.
#[derive(Clone, Default)]
pub struct Backend {
    objects: HashMap<(FetchKind, u64, u64), Vec<u8>>,
    tlogs: HashMap<(u64, u64), (TlogRef, Vec<u8>)>,
    pub head: Option<TlogRef>,
    pub next_sco: u64,
    /// Last LSN that the head has.
    pub head_lsn: u64,
    checkpoint: Option<(RootRef, (u64, u64))>,
    next_object: u64,
}

impl Backend {
    pub fn new() -> Backend {
        Backend {
            next_sco: 1,
            next_object: 1,
            ..Backend::default()
        }
    }

    /// Puts a TLog and its SCOs; the head does not move yet.
    pub fn put(&mut self, volume: &Volume, tlog: &Tlog) -> Result<()> {
        let epoch = tlog.reference.epoch;
        for (number, clusters) in &tlog.scos {
            let mut data = vec![0u8; volume.sco_bytes(*number)?];
            assert_eq!(data.len(), *clusters as usize * 4096);
            volume.read_sco(*number, &mut data)?;
            self.put_once((FetchKind::Sco, epoch, *number), data);
        }
        let bytes = tlog.encode()?;
        let key = (epoch, tlog.reference.number);
        let old = self.tlogs.insert(key, (tlog.reference, bytes));
        assert!(old.is_none(), "TLog {key:?} was put twice");
        Ok(())
    }

    fn put_once(&mut self, key: (FetchKind, u64, u64), bytes: Vec<u8>) {
        if let Some(old) = self.objects.insert(key, bytes) {
            assert_eq!(old, self.objects[&key], "{key:?} was put twice");
        }
    }

    pub fn commit(&mut self, tlog: &Tlog) {
        assert_eq!(
            tlog.previous, self.head,
            "a head over a missing predecessor"
        );
        self.head = Some(tlog.reference);
        self.next_sco = tlog.next_sco;
        self.head_lsn = tlog.last_lsn;
    }

    pub fn fetch(&self, fetch: &Fetch) -> Vec<u8> {
        let key = (fetch.kind, fetch.epoch, fetch.number);
        let object = self.objects.get(&key);
        let object = object.unwrap_or_else(|| panic!("{fetch:?} names what does not exist"));
        let at = fetch.offset as usize;
        object[at..at + fetch.length as usize].to_vec()
    }

    /// Supplies and resumes until a request is done. `out`: the buffer of a read.
    pub fn finish(&self, mut plan: Plan, out: &mut [u8]) -> Result<f64> {
        loop {
            let fetches: Vec<Fetch> = plan.misses().copied().collect();
            for (n, fetch) in fetches.iter().enumerate() {
                plan.supply(n, &self.fetch(fetch), None)?;
            }
            match plan.resume(out)? {
                Reply::Read => return Ok(0.0),
                Reply::Written(delay) => return Ok(delay),
                Reply::Plan(next) => plan = *next,
            }
        }
    }

    /// Brings the map of a recovery up to the head.
    pub fn load(&self, recovery: &mut Recovery) -> Result<()> {
        let mut chain = Vec::new();
        let mut at = self.head;
        let stop = self.checkpoint.map(|(_, tlog)| tlog);
        if let Some((root, _)) = self.checkpoint {
            let object = &self.objects[&(FetchKind::Map, root.epoch, root.object)];
            let range = root.offset as usize..(root.offset + root.length) as usize;
            recovery.load_checkpoint(root, &object[range])?;
        }
        // Down to the one that the checkpoint ends with: it says where the log goes on.
        while let Some(reference) = at {
            let tlog = (reference.epoch, reference.number);
            let (_, bytes) = &self.tlogs[&tlog];
            chain.push((reference, bytes));
            let previous = vpool_engine::recovery::tlog_previous(bytes)?;
            at = previous.filter(|_| stop != Some(tlog));
        }
        for (reference, bytes) in chain.into_iter().rev() {
            recovery.apply_tlog(reference, bytes)?;
        }
        Ok(())
    }

    /// Writes a checkpoint if the last TLog kept a cut; the head that names it is committed at once.
    pub fn checkpoint(&mut self, volume: &Arc<Volume>) -> Result<bool> {
        let Some(mut checkpoint) = volume.begin_checkpoint(self.next_object)? else {
            return Ok(false);
        };
        let tlog = (checkpoint.tlog.epoch, checkpoint.tlog.number);
        let root = loop {
            match checkpoint.step()? {
                CheckpointStep::Need(fetches) => {
                    for (n, fetch) in fetches.iter().enumerate() {
                        checkpoint.supply(n, &self.fetch(fetch))?;
                    }
                }
                CheckpointStep::Object { number, bytes } => {
                    self.next_object = self.next_object.max(number + 1);
                    self.put_once((FetchKind::Map, volume.epoch(), number), bytes);
                }
                CheckpointStep::Done(root) => break root,
            }
        };
        if self.head.map(|head| (head.epoch, head.number)) != Some(tlog) {
            return Ok(false);
        }
        self.checkpoint = Some((root, tlog));
        match volume.checkpoint_committed(root) {
            Err(Error::Invalid(why)) => panic!("{why}"),
            other => other.map(|()| true),
        }
    }
}
