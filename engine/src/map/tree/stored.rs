//! Pages of the tree as they stand in the file: how they are built, checked and searched.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

pub(crate) const PAGE: usize = 4096;
/// Table (1), volume (16), number (8), as they sort.
pub(crate) const KEY_BYTES: usize = 25;
/// What the records or pointers of a page have of it.
pub(crate) const ROOM: usize = PAGE - HEADER - 8;
/// A longer value stands in pages of its own: two records always fit into a leaf.
pub(crate) const INLINE_MAX: usize = 2000;
/// Bytes of a long value that one page takes.
pub(crate) const PART_MAX: usize = ROOM - 16;
/// More levels than any file could fill.
pub(crate) const LEVELS_MAX: u8 = 16;

const HEADER: usize = 24;
pub(super) const LEAF: u8 = 1;
pub(super) const BRANCH: u8 = 2;
const PART: u8 = 3;
const LONG: u16 = 0x8000;
pub(super) const POINTER: usize = KEY_BYTES + 16;
pub(super) const CHILDREN_MAX: usize = ROOM / POINTER;

pub(crate) type Key = [u8; KEY_BYTES];

/// A page, and the checksum that it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ref {
    pub(crate) page: u64,
    pub(crate) sum: u64,
}

impl Ref {
    fn decode(bytes: &[u8]) -> Ref {
        Ref {
            page: u64_at(bytes, 0),
            sum: u64_at(bytes, 8),
        }
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.page.to_le_bytes());
        out.extend_from_slice(&self.sum.to_le_bytes());
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn key_at(bytes: &[u8], at: usize) -> Key {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&bytes[at..at + KEY_BYTES]);
    key
}

/// A key as numbers, which compare as its bytes do, and quicker.
pub(super) type Order = (u64, u64, u64, u8);

pub(super) fn order(key: &[u8]) -> Order {
    let part = |at: usize| {
        let mut field = [0; 8];
        field.copy_from_slice(&key[at..at + 8]);
        u64::from_be_bytes(field)
    };
    (part(0), part(8), part(16), key[24])
}

/// What a leaf has under a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Inline(&'a [u8]),
    /// So many bytes, in a chain of pages.
    Long(usize, Ref),
}

impl Value<'_> {
    pub(super) fn record(&self, key: &Key) -> Vec<u8> {
        let mut out = Vec::with_capacity(KEY_BYTES + 22);
        out.extend_from_slice(key);
        match self {
            Value::Inline(bytes) => {
                out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Value::Long(bytes, first) => {
                out.extend_from_slice(&(LONG | 20).to_le_bytes());
                out.extend_from_slice(&(*bytes as u32).to_le_bytes());
                first.put(&mut out);
            }
        }
        out
    }
}

/// One record in the body of a leaf.
pub(super) struct Record<'a> {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) key: Order,
    pub(super) value: Value<'a>,
}

/// The records of a body that has been checked, or that this program has built.
pub(super) fn records(body: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= body.len() {
            return None;
        }
        let (start, size) = (at, u16_at(body, at + KEY_BYTES));
        let from = at + KEY_BYTES + 2;
        at = from + usize::from(size & !LONG);
        let content = &body[from..at];
        let value = if size & LONG == 0 {
            Value::Inline(content)
        } else {
            let bytes = u32::from_le_bytes([content[0], content[1], content[2], content[3]]);
            Value::Long(bytes as usize, Ref::decode(&content[4..]))
        };
        Some(Record {
            start,
            end: at,
            key: order(&body[start..start + KEY_BYTES]),
            value,
        })
    })
}

/// A page of the file that is what its pointer means.
pub(crate) struct Stored([u8; PAGE]);

impl Stored {
    /// A page whose bytes are still to be read, and then to be checked.
    pub(crate) fn unread() -> Arc<Stored> {
        Arc::new(Stored([0; PAGE]))
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Err says what is wrong.
    pub(crate) fn check(&self, at: Ref) -> Result<(), &'static str> {
        let sum = u64_at(&self.0, PAGE - 8);
        if sum != xxh3_64(&self.0[..PAGE - 8]) {
            return Err("wrong checksum");
        }
        if sum != at.sum || u64_at(&self.0, 8) != at.page {
            return Err("not the page that was written there last");
        }
        let right = match self.0[0] {
            LEAF => self.0[1] == 0 && self.is_right_leaf(),
            BRANCH => (1..=LEVELS_MAX).contains(&self.0[1]) && self.is_right_branch(),
            PART => self.body_bytes() >= 16 && self.body_bytes() <= ROOM,
            _ => false,
        };
        if right {
            Ok(())
        } else {
            Err("malformed")
        }
    }

    fn is_right_leaf(&self) -> bool {
        let (mut at, mut count, mut last) = (0, 0u16, None);
        let bytes = self.body_bytes();
        if bytes > ROOM {
            return false;
        }
        let body = &self.0[HEADER..HEADER + bytes];
        while at < bytes {
            if bytes - at < KEY_BYTES + 2 {
                return false;
            }
            let (key, size) = (order(&body[at..]), u16_at(body, at + KEY_BYTES));
            at += KEY_BYTES + 2 + usize::from(size & !LONG);
            if at > bytes || last >= Some(key) || (size & LONG != 0 && size != LONG | 20) {
                return false;
            }
            last = Some(key);
            count += 1;
        }
        count == self.count() && count > 0
    }

    fn is_right_branch(&self) -> bool {
        let count = usize::from(self.count());
        let body = self.body_bytes();
        if count == 0 || count > CHILDREN_MAX || body != count * POINTER {
            return false;
        }
        (2..count).all(|i| self.child(i - 1).0 < self.child(i).0)
    }

    pub(super) fn count(&self) -> u16 {
        u16_at(&self.0, 2)
    }

    fn body_bytes(&self) -> usize {
        u32::from_le_bytes([self.0[4], self.0[5], self.0[6], self.0[7]]) as usize
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.0[HEADER..HEADER + self.body_bytes()]
    }

    /// Levels below; None of a part of a value.
    pub(crate) fn level(&self) -> Option<u8> {
        (self.0[0] != PART).then_some(self.0[1])
    }

    /// Of a part of a value: the bytes, and where the next part is.
    pub(crate) fn part(&self) -> Option<(&[u8], Option<Ref>)> {
        if self.0[0] != PART {
            return None;
        }
        let (next, bytes) = self.body().split_at(16);
        let next = Ref::decode(next);
        Some((bytes, (next.page != 0).then_some(next)))
    }

    /// Of a branch: how many children.
    pub(crate) fn children(&self) -> usize {
        usize::from(self.count())
    }

    /// Of a branch: a key that no key in the child is below (the first one's means nothing), and the child.
    pub(crate) fn child(&self, index: usize) -> (Key, Ref) {
        let at = HEADER + index * POINTER;
        let pointer = &self.0[at..at + POINTER];
        (key_at(pointer, 0), Ref::decode(&pointer[KEY_BYTES..]))
    }

    /// Of a branch: the child in which a key would be.
    pub(crate) fn child_of(&self, key: &Key) -> usize {
        let key = order(key);
        let (mut low, mut high) = (0, self.children());
        while high - low > 1 {
            let middle = (low + high) / 2;
            if order(&self.0[HEADER + middle * POINTER..]) <= key {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Finds a key in the body of a leaf.
pub(crate) fn find<'a>(body: &'a [u8], key: &Key) -> Option<Value<'a>> {
    let key = order(key);
    let found = records(body).find(|record| record.key >= key)?;
    (found.key == key).then_some(found.value)
}

/// The records of a leaf's body from a key on.
pub(crate) fn from<'a>(body: &'a [u8], key: &Key) -> impl Iterator<Item = (Key, Value<'a>)> {
    let key = order(key);
    records(body)
        .skip_while(move |record| record.key < key)
        .map(|record| (key_at(body, record.start), record.value))
}

/// A page with its header and checksum.
pub(super) fn sealed(
    kind: u8,
    level: u8,
    count: u16,
    body: &[u8],
    page: u64,
    commit: u64,
) -> Box<[u8; PAGE]> {
    let mut out = Box::new([0; PAGE]);
    out[0] = kind;
    out[1] = level;
    out[2..4].copy_from_slice(&count.to_le_bytes());
    out[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out[8..16].copy_from_slice(&page.to_le_bytes());
    out[16..24].copy_from_slice(&commit.to_le_bytes());
    out[HEADER..HEADER + body.len()].copy_from_slice(body);
    let sum = xxh3_64(&out[..PAGE - 8]);
    out[PAGE - 8..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The pointer to a page that was sealed.
pub(crate) fn pointer(bytes: &[u8; PAGE]) -> Ref {
    Ref {
        page: u64_at(&bytes[..], 8),
        sum: u64_at(&bytes[..], PAGE - 8),
    }
}

/// A part of a long value.
pub(crate) fn sealed_part(
    bytes: &[u8],
    next: Option<Ref>,
    page: u64,
    commit: u64,
) -> Box<[u8; PAGE]> {
    let mut body = Vec::with_capacity(16 + bytes.len());
    next.unwrap_or(Ref { page: 0, sum: 0 }).put(&mut body);
    body.extend_from_slice(bytes);
    sealed(PART, 0, 1, &body, page, commit)
}
