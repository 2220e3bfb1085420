//! The file behind the maps: an ordered table of records, copied on write, in which every page is checked when it is read.
//!
//! A pointer to a page carries the page's checksum, up to the head of the file: whatever a disk returns that is not what was written
//! there, be it flipped, cut, misplaced or older, is an error and never a record. Format: `docs/formats/local-map.md`.
//!
//! One [`Change`] at a time; any number of [`Snapshot`]s beside it, which keep what they see from being overwritten.

mod change;
mod check;
mod head;
mod node;
mod space;
mod stored;
mod storing;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::map::clock::ClockCache;

pub(crate) use change::Change;
use head::{Head, HEAD_PAGES};
use space::Space;
pub(crate) use stored::{Key, KEY_BYTES};
use stored::{Ref, Stored, PAGE};
pub(crate) use view::{Snapshot, View};

/// What a page costs in the cache.
const CACHED_BYTES: usize = PAGE + 96;

const REMEDY: &str = "it is to be had from the backend and the log";

/// What readers and the writer share.
struct Now {
    head: Head,
    /// Snapshots by the commit that they see.
    readers: BTreeMap<u64, usize>,
}

/// One file. Send + Sync.
pub(crate) struct Tree {
    file: Arc<dyn DiskFile>,
    durable: bool,
    now: Mutex<Now>,
    /// Whoever holds it may change the tree.
    space: Mutex<Space>,
    /// Pages that have been checked. Their checksum is part of the name, so a page that is used again is another.
    cache: ClockCache<Ref, Arc<Stored>>,
    failure: OnceLock<String>,
}

impl Tree {
    /// Makes an empty tree of a file, whatever it holds; durable when this returns.
    pub(crate) fn format(file: &dyn DiskFile) -> Result<()> {
        let wrong = |error: std::io::Error| Error::disk("local map: make its file", &error);
        file.set_len(0)
            .and_then(|()| file.set_len(HEAD_PAGES * PAGE as u64))
            .map_err(wrong)?;
        for commit in 0..2 {
            let head = Head::empty(commit);
            file.pwrite(&head.encode(), head.offset()).map_err(wrong)?;
        }
        file.sync_data().map_err(wrong)
    }

    /// Opens what `format` or an earlier life has left, and looks at every page that points to others.
    ///
    /// `bytes_max`: most that the file may become. `cache_bytes`: budget for checked pages in RAM. `durable` false: nothing is synced.
    ///
    /// Errors: Corrupt (also for another version: then it is to be made anew), Halted (I/O).
    pub(crate) fn open(
        file: Arc<dyn DiskFile>,
        bytes_max: u64,
        cache_bytes: usize,
        durable: bool,
    ) -> Result<Arc<Tree>> {
        let head = head::read(&*file)?;
        let tree = Tree {
            file,
            durable,
            now: Mutex::new(Now {
                head,
                readers: BTreeMap::new(),
            }),
            space: Mutex::new(Space::new(head.pages, bytes_max / PAGE as u64)),
            cache: ClockCache::new(cache_bytes),
            failure: OnceLock::new(),
        };
        tree.take_stock(&head)?;
        Ok(Arc::new(tree))
    }

    /// What the last commit left, for as long as the snapshot lives.
    pub(crate) fn snapshot(self: &Arc<Self>) -> Snapshot {
        let mut now = self.now.lock();
        let head = now.head;
        *now.readers.entry(head.commit).or_insert(0) += 1;
        drop(now);
        Snapshot::new(self.clone(), head)
    }

    /// Waits for the change that is under way, and begins another. Errors: Halted after a failure that leaves the file's state open.
    pub(crate) fn change(&self) -> Result<Change<'_>> {
        let mut space = self.space.lock();
        self.still_right()?;
        let (head, oldest) = {
            let now = self.now.lock();
            let first = now.readers.keys().next();
            (now.head, first.map_or(now.head.commit, |first| *first))
        };
        space.reclaim(oldest);
        Ok(Change::new(self, space, head))
    }

    /// Why nothing is written to the file any more.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    fn still_right(&self) -> Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some(reason) => Err(Error::Halted(format!("{reason}; {REMEDY}"))),
        }
    }

    /// Bytes of the file that have ever been used.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.now.lock().head.pages * PAGE as u64
    }

    /// Bytes that checked pages take in RAM.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    fn forget_reader(&self, commit: u64) {
        let mut now = self.now.lock();
        if let Some(readers) = now.readers.get_mut(&commit) {
            *readers -= 1;
            if *readers == 0 {
                now.readers.remove(&commit);
            }
        }
    }

    /// The page that a pointer means. Errors: Corrupt when it is not that page, Halted (I/O).
    fn load(&self, at: Ref, level: u8) -> Result<Arc<Stored>> {
        if let Some(page) = self.cache.get(&at) {
            if page.level() == Some(level) {
                return Ok(page);
            }
        }
        let page = self.read(at)?;
        if page.level() != Some(level) {
            return Err(self.condemn(format!("page {} is of another kind", at.page)));
        }
        self.cache.put(at, page.clone(), CACHED_BYTES);
        Ok(page)
    }

    fn read(&self, at: Ref) -> Result<Arc<Stored>> {
        let mut page = Stored::unread();
        let Some(bytes) = Arc::get_mut(&mut page).map(Stored::bytes_mut) else {
            return Err(Error::Internal("local map: a page that others have".into()));
        };
        let offset = at.page.saturating_mul(PAGE as u64);
        match self.file.pread(bytes, offset) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(self.condemn(format!("page {} is cut off", at.page)));
            }
            Err(error) => {
                let error = Error::disk("local map: read", &error);
                let _ = self.failure.set(error.to_string());
                return Err(error);
            }
        }
        match page.check(at) {
            Ok(()) => Ok(page),
            Err(why) => Err(self.condemn(format!("page {} is damaged: {why}", at.page))),
        }
    }

    /// The file holds what was never written: it is not written any more, and the next opening does not take it.
    fn condemn(&self, reason: String) -> Error {
        let reason = format!("local map: {reason}");
        if self.failure.set(reason.clone()).is_ok() {
            let older = (self.now.lock().head.commit + 1) % HEAD_PAGES * PAGE as u64;
            // Where even this fails, the next opening finds the damage itself, or whoever reads it does.
            let _ = self.file.pwrite(&[0; head::SLOT_BYTES], older);
            let _ = self.file.sync_data();
        }
        Error::Corrupt(format!("{reason}; {REMEDY}"))
    }
}
