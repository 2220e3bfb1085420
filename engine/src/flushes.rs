//! Flushes that nobody waits for in a thread of his own: a queue of volumes and the few threads that work it off.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::volume::Volume;

#[derive(Default)]
struct Queue {
    volumes: VecDeque<Arc<Volume>>,
    stopped: bool,
}

/// See the module.
#[derive(Default)]
pub struct FlushQueue {
    queue: Mutex<Queue>,
    ready: Condvar,
}

impl FlushQueue {
    /// A queue without threads: `push` flushes at once.
    pub fn inline() -> FlushQueue {
        let queue = FlushQueue::default();
        queue.stop();
        queue
    }

    pub fn push(&self, volume: Arc<Volume>) {
        let mut queue = self.queue.lock();
        if queue.stopped {
            drop(queue);
            volume.flush_submitted();
            return;
        }
        queue.volumes.push_back(volume);
        drop(queue);
        self.ready.notify_one();
    }

    /// Works until `stop`, and until the queue is empty then.
    pub fn work(&self) {
        loop {
            let volume = {
                let mut queue = self.queue.lock();
                loop {
                    if let Some(volume) = queue.volumes.pop_front() {
                        break volume;
                    }
                    if queue.stopped {
                        return;
                    }
                    self.ready.wait(&mut queue);
                }
            };
            volume.flush_submitted();
        }
    }

    pub fn stop(&self) {
        self.queue.lock().stopped = true;
        self.ready.notify_all();
    }
}
