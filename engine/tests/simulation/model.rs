//! A plain model of a volume: an image as of the head, and the list of what was done to it since.

use vpool_engine::types::CLUSTER;

/// What changes the image, with everything a request may leave half done as an entry of its own.
#[derive(Clone, Debug)]
pub struct Change {
    pub at: usize,
    pub bytes: Bytes,
    /// Last LSN of the request; `u64::MAX`: it was never acknowledged.
    pub lsn: u64,
}

#[derive(Clone, Debug)]
pub enum Bytes {
    Data(Vec<u8>),
    Zeros(usize),
}

impl Change {
    fn len(&self) -> usize {
        match &self.bytes {
            Bytes::Data(data) => data.len(),
            Bytes::Zeros(bytes) => *bytes,
        }
    }

    fn apply(&self, image: &mut [u8]) {
        let range = self.at..self.at + self.len();
        match &self.bytes {
            Bytes::Data(data) => image[range].copy_from_slice(data),
            Bytes::Zeros(_) => image[range].fill(0),
        }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Model {
    pub head: Vec<u8>,
    pub changes: Vec<Change>,
    pub now: Vec<u8>,
    /// How many changes are acknowledged, and how many an acknowledged flush covers.
    pub acknowledged: usize,
    pub flushed: usize,
}

impl Model {
    pub fn new(clusters: usize) -> Model {
        Model {
            head: vec![0; clusters * CLUSTER],
            changes: Vec::new(),
            now: vec![0; clusters * CLUSTER],
            acknowledged: 0,
            flushed: 0,
        }
    }

    /// Does everything that is listed to `image`.
    pub fn replay(&self, image: &mut [u8]) {
        self.changes.iter().for_each(|change| change.apply(image));
    }

    /// A write was tried. `lsn`: None when it was not acknowledged.
    pub fn write(&mut self, at: usize, data: Vec<u8>, lsn: Option<u64>) {
        self.push(at, Bytes::Data(data), lsn);
    }

    /// A zeroing was tried; its edges and its middle may survive without one another.
    pub fn zero(&mut self, at: usize, bytes: usize, lsn: Option<u64>) {
        let end = at + bytes;
        let (first, last) = (at.next_multiple_of(CLUSTER), end / CLUSTER * CLUSTER);
        if first > last {
            return self.push(at, Bytes::Zeros(bytes), lsn);
        }
        for (from, to) in [(at, first), (last, end), (first, last)] {
            if from < to {
                self.push(from, Bytes::Zeros(to - from), lsn);
            }
        }
    }

    fn push(&mut self, at: usize, bytes: Bytes, lsn: Option<u64>) {
        let change = Change {
            at,
            bytes,
            lsn: lsn.unwrap_or(u64::MAX),
        };
        if lsn.is_some() {
            change.apply(&mut self.now);
            self.acknowledged = self.changes.len() + 1;
        }
        self.changes.push(change);
    }

    pub fn flush(&mut self) {
        self.flushed = self.acknowledged;
    }

    /// The registry has a head that ends at this LSN.
    pub fn head_at(&mut self, lsn: u64) {
        let covered = self.changes.iter().take_while(|c| c.lsn <= lsn).count();
        for change in self.changes.drain(..covered) {
            change.apply(&mut self.head);
        }
        self.acknowledged -= covered.min(self.acknowledged);
        self.flushed -= covered.min(self.flushed);
    }

    /// The volume came back as `image`: the state after some change, `least` or later. Goes on from there, behind `lsn`.
    pub fn survived(&mut self, image: &[u8], least: usize, lsn: u64) -> Result<(), String> {
        let mut state = self.head.clone();
        let clusters = state.len() / CLUSTER;
        let differs = |state: &[u8], n: usize| {
            let range = n * CLUSTER..(n + 1) * CLUSTER;
            state[range.clone()] != image[range]
        };
        let mut wrong: Vec<bool> = (0..clusters).map(|n| differs(&state, n)).collect();
        let mut count = wrong.iter().filter(|wrong| **wrong).count();
        let mut prefix = (count == 0).then_some(0);
        for (n, change) in self.changes.iter().enumerate() {
            change.apply(&mut state);
            let first = change.at / CLUSTER;
            let touched = &mut wrong[first..(change.at + change.len()).div_ceil(CLUSTER)];
            for (n, wrong) in touched.iter_mut().enumerate() {
                let now = differs(&state, first + n);
                count = count + usize::from(now) - usize::from(*wrong);
                *wrong = now;
            }
            if count == 0 {
                prefix = Some(n + 1);
            }
        }
        match prefix {
            None => Err(format!(
                "the content is no prefix of {} changes ({} acknowledged, {} flushed)",
                self.changes.len(),
                self.acknowledged,
                self.flushed
            )),
            Some(prefix) if prefix < least => Err(format!(
                "only {prefix} changes survived, {least} had to (of {}, {} acknowledged)",
                self.changes.len(),
                self.acknowledged
            )),
            Some(prefix) => {
                self.changes.truncate(prefix);
                for change in &mut self.changes {
                    change.lsn = change.lsn.min(lsn);
                }
                self.acknowledged = prefix;
                self.flushed = prefix;
                self.now = image.to_vec();
                Ok(())
            }
        }
    }
}
