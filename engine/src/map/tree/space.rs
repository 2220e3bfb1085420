//! Which pages of the file are free.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::map::tree::head::HEAD_PAGES;

/// One bit per page. What a commit does not use any more becomes free when no snapshot sees it any more.
pub(crate) struct Space {
    used: Vec<u64>,
    /// Pages of the file so far.
    pub(crate) pages: u64,
    pages_max: u64,
    /// The search for a free page goes on here.
    hint: usize,
    /// By the commit that has let go of them.
    waiting: VecDeque<(u64, Vec<u64>)>,
}

impl Space {
    pub(crate) fn new(pages: u64, pages_max: u64) -> Space {
        let mut space = Space {
            used: vec![0; pages.div_ceil(64) as usize],
            pages,
            pages_max,
            hint: 0,
            waiting: VecDeque::new(),
        };
        for page in 0..HEAD_PAGES {
            space.mark(page);
        }
        space
    }

    /// The page is used; false: it was already, or cannot be.
    pub(crate) fn mark(&mut self, page: u64) -> bool {
        let (word, bit) = ((page / 64) as usize, 1u64 << (page % 64));
        let Some(word) = self.used.get_mut(word).filter(|_| page < self.pages) else {
            return false;
        };
        let was = *word & bit != 0;
        *word |= bit;
        !was
    }

    /// Errors: NoSpace.
    pub(crate) fn take(&mut self) -> Result<u64> {
        while let Some(word) = self.used.get_mut(self.hint) {
            let free = (!*word).trailing_zeros();
            let page = self.hint as u64 * 64 + u64::from(free);
            if free < 64 && page < self.pages {
                *word |= 1 << free;
                return Ok(page);
            }
            self.hint += 1;
        }
        if self.pages >= self.pages_max {
            return Err(Error::NoSpace(
                "local map: the map's size limit is reached".into(),
            ));
        }
        let page = self.pages;
        self.pages += 1;
        self.used.resize(self.pages.div_ceil(64) as usize, 0);
        self.hint = (page / 64) as usize;
        self.mark(page);
        Ok(page)
    }

    /// Nobody has ever seen what is in the page.
    pub(crate) fn give_back(&mut self, page: u64) {
        let word = (page / 64) as usize;
        self.used[word] &= !(1 << (page % 64));
        self.hint = self.hint.min(word);
    }

    /// A commit does not use these any more; older snapshots may.
    pub(crate) fn let_go(&mut self, commit: u64, pages: Vec<u64>) {
        if !pages.is_empty() {
            self.waiting.push_back((commit, pages));
        }
    }

    /// Frees what no snapshot sees any more, when `oldest` is the commit that the oldest of them, or else the head, has.
    pub(crate) fn reclaim(&mut self, oldest: u64) {
        while self
            .waiting
            .front()
            .is_some_and(|(commit, _)| *commit <= oldest)
        {
            let pages = self
                .waiting
                .pop_front()
                .map_or(Vec::new(), |(_, pages)| pages);
            pages.into_iter().for_each(|page| self.give_back(page));
        }
        self.hint = 0;
    }

    /// Free pages at the end, which may never have been written, are not pages of the file.
    pub(crate) fn trim(&mut self) {
        while self.pages > HEAD_PAGES && !self.is_used(self.pages - 1) {
            self.pages -= 1;
        }
    }

    fn is_used(&self, page: u64) -> bool {
        self.used[(page / 64) as usize] >> (page % 64) & 1 == 1
    }
}
