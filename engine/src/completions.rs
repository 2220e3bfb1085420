//! What finished without anybody waiting for it in a thread: a queue and a descriptor that a poll loop watches.

use std::io;
use std::os::fd::RawFd;

use parking_lot::Mutex;

use crate::error::Error;
use crate::system::EventFd;

/// See the module.
pub struct Completions {
    queue: Mutex<Vec<(u64, Option<Error>)>>,
    event: EventFd,
}

impl Completions {
    pub fn new() -> io::Result<Completions> {
        Ok(Completions {
            queue: Mutex::new(Vec::new()),
            event: EventFd::new()?,
        })
    }

    /// Readable while there is something to take.
    pub fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    pub fn push(&self, items: impl IntoIterator<Item = (u64, Option<Error>)>) {
        let mut queue = self.queue.lock();
        let was_empty = queue.is_empty();
        queue.extend(items);
        if was_empty && !queue.is_empty() {
            self.event.raise();
        }
    }

    pub fn take(&self) -> Vec<(u64, Option<Error>)> {
        let mut queue = self.queue.lock();
        self.event.clear();
        std::mem::take(&mut *queue)
    }
}
