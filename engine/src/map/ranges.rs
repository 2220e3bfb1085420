//! Cleared ranges of pages, each with the cut that has it: coalesced, never overlapping.

use std::collections::BTreeMap;

/// Pages `first..end` were cleared as a whole, at the latest before cut `cut`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cleared {
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) cut: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClearedRanges {
    by_first: BTreeMap<u64, (u64, u64)>,
}

impl ClearedRanges {
    pub(crate) fn from_list(list: impl IntoIterator<Item = Cleared>) -> Self {
        let mut ranges = ClearedRanges::default();
        for range in list {
            ranges.add(range);
        }
        ranges
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Cleared> + '_ {
        self.by_first
            .iter()
            .map(|(&first, &(end, cut))| Cleared { first, end, cut })
    }

    pub(crate) fn len(&self) -> usize {
        self.by_first.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.by_first.clear();
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        self.next_from(page)
            .is_some_and(|range| range.first <= page)
    }

    /// The first range that ends after `page`.
    pub(crate) fn next_from(&self, page: u64) -> Option<Cleared> {
        let cleared = |(&first, &(end, cut)): (&u64, &(u64, u64))| Cleared { first, end, cut };
        let before = self.by_first.range(..=page).next_back().map(cleared);
        before
            .filter(|range| range.end > page)
            .or_else(|| self.by_first.range(page..).next().map(cleared))
    }

    /// Adds a range over what is there; neighbours with the same cut become one.
    pub(crate) fn add(&mut self, new: Cleared) {
        if new.first >= new.end {
            return;
        }
        let (mut first, mut end) = (new.first, new.end);
        // What touches or overlaps: from the last range that begins before us.
        let start = self
            .by_first
            .range(..=first)
            .next_back()
            .map_or(first, |(&f, _)| f);
        let touched: Vec<Cleared> = self
            .by_first
            .range(start..=end)
            .map(|(&first, &(end, cut))| Cleared { first, end, cut })
            .filter(|old| old.end >= first && old.first <= new.end)
            .collect();
        for old in touched {
            if old.cut == new.cut {
                self.by_first.remove(&old.first);
                first = first.min(old.first);
                end = end.max(old.end);
                continue;
            }
            if old.end <= new.first || old.first >= new.end {
                continue;
            }
            self.by_first.remove(&old.first);
            if old.first < new.first {
                self.by_first.insert(old.first, (new.first, old.cut));
            }
            if old.end > new.end {
                self.by_first.insert(new.end, (old.end, old.cut));
            }
        }
        self.by_first.insert(first, (end, new.cut));
    }

    /// A checkpoint has pruned everything cleared up to `cut`.
    pub(crate) fn forget_up_to(&mut self, cut: u64) {
        self.by_first.retain(|_, (_, at)| *at > cut);
    }

    /// Raises what was cleared up to `pending` to `pending` and the rest to `cut`, so that neighbours melt. A range that stays a
    /// checkpoint too long is harmless: whatever was written in it since is a complete local page.
    pub(crate) fn coalesce(&mut self, pending: u64, cut: u64) {
        let mut out = ClearedRanges::default();
        let mut last: Option<Cleared> = None;
        for mut range in self.iter() {
            range.cut = if range.cut <= pending { pending } else { cut };
            last = match last {
                Some(l) if l.end == range.first && l.cut == range.cut => Some(Cleared {
                    end: range.end,
                    ..l
                }),
                Some(l) => {
                    out.by_first.insert(l.first, (l.end, l.cut));
                    Some(range)
                }
                None => Some(range),
            };
        }
        if let Some(l) = last {
            out.by_first.insert(l.first, (l.end, l.cut));
        }
        *self = out;
    }
}
