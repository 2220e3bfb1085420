//! What the cache disk refuses for want of room: noted, so that writers wait, an operator sees why, and it is tried again.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What wanted room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Further segments of the log.
    Growth,
    /// Bytes in a segment that was made before: only file systems that do not write in place refuse those.
    Log,
    Map,
    ReadCache,
}

const PARTS: usize = 4;

#[derive(Default)]
struct Refusal {
    /// Beside the lock, so that a hot path may ask.
    is_full: AtomicBool,
    last: Mutex<Option<(String, Instant)>>,
}

/// See the module. Shared by everything that writes to the cache disk.
pub struct Fullness {
    pause: Duration,
    parts: [Refusal; PARTS],
}

/// Whether an error says that the disk, or somebody's share of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

impl Default for Fullness {
    fn default() -> Fullness {
        Fullness::new(Duration::from_secs(1))
    }
}

impl Fullness {
    /// `pause`: how long what was refused is not tried again.
    pub fn new(pause: Duration) -> Fullness {
        Fullness {
            pause,
            parts: Default::default(),
        }
    }

    fn part(&self, part: Part) -> &Refusal {
        &self.parts[part as usize]
    }

    /// The disk has refused this.
    pub fn refused(&self, part: Part, reason: &str) {
        let refusal = self.part(part);
        *refusal.last.lock() = Some((reason.to_owned(), Instant::now()));
        refusal.is_full.store(true, Ordering::Release);
    }

    /// The disk has taken this.
    pub fn accepted(&self, part: Part) {
        let refusal = self.part(part);
        if refusal.is_full.load(Ordering::Acquire) {
            refusal.is_full.store(false, Ordering::Release);
            *refusal.last.lock() = None;
        }
    }

    pub fn is_full(&self, part: Part) -> bool {
        self.part(part).is_full.load(Ordering::Acquire)
    }

    /// Not refused, or long enough ago. Who is told yes tries at once: others are told no until the pause is over again.
    pub fn may_try(&self, part: Part) -> bool {
        if !self.is_full(part) {
            return true;
        }
        let mut last = self.part(part).last.lock();
        match last.as_mut() {
            Some((_, tried)) if tried.elapsed() < self.pause => false,
            Some((_, tried)) => {
                *tried = Instant::now();
                true
            }
            None => true,
        }
    }

    /// What is refused now, and why.
    pub fn reasons(&self) -> Vec<String> {
        let refused = self.parts.iter().filter_map(|part| {
            let last = part.last.lock();
            last.as_ref().map(|(reason, _)| reason.clone())
        });
        refused.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: a full disk would be tried by every write, or never again; a status would go on telling what is over.
    #[test]
    fn what_is_refused_is_tried_again_after_a_pause_by_one() {
        let fullness = Fullness::new(Duration::from_millis(20));
        assert!(fullness.may_try(Part::Map));
        fullness.refused(Part::Map, "no room for the map");
        assert!(!fullness.may_try(Part::Map) && fullness.may_try(Part::Growth));
        assert_eq!(fullness.reasons(), ["no room for the map"]);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !fullness.may_try(Part::Map) {
            assert!(Instant::now() < deadline);
        }
        assert!(fullness.is_full(Part::Map));
        fullness.accepted(Part::Map);
        assert!(fullness.may_try(Part::Map) && fullness.reasons().is_empty());
    }
}
