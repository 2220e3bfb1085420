//! Pages of the tree as a change has them in RAM.

use crate::map::tree::stored::{
    key_at, order, records, sealed, Key, Ref, Stored, Value, BRANCH, CHILDREN_MAX, INLINE_MAX,
    KEY_BYTES, LEAF, PAGE, POINTER, ROOM,
};

/// A page as it is in the file, or as the change has it.
pub(crate) enum Child {
    Stored(Ref),
    Changed(Box<Node>),
}

pub(crate) enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

/// Records, one behind the other, ascending.
#[derive(Default)]
pub(crate) struct Leaf {
    body: Vec<u8>,
    count: u16,
}

/// Each child with a key that no key in it is below. The first one's is never looked at.
pub(crate) struct Branch {
    pub(crate) level: u8,
    pub(crate) children: Vec<(Key, Child)>,
}

impl Node {
    /// A page of the file, to be changed.
    pub(crate) fn thawed(page: &Stored) -> Node {
        if page.level() == Some(0) {
            let mut body = Vec::with_capacity(ROOM + KEY_BYTES + 2 + INLINE_MAX);
            body.extend_from_slice(page.body());
            return Node::Leaf(Leaf {
                body,
                count: page.count(),
            });
        }
        let children = (0..page.children()).map(|i| {
            let (key, at) = page.child(i);
            (key, Child::Stored(at))
        });
        Node::Branch(Branch {
            level: page.level().unwrap_or(1),
            children: children.collect(),
        })
    }

    pub(crate) fn level(&self) -> u8 {
        match self {
            Node::Leaf(_) => 0,
            Node::Branch(branch) => branch.level,
        }
    }

    /// Bytes that its body takes in a page.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.body.len(),
            Node::Branch(branch) => branch.children.len() * POINTER,
        }
    }

    /// Everything of the right neighbour, whose first key is `key`.
    pub(crate) fn append(&mut self, key: Key, right: Node) {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                left.body.extend_from_slice(&right.body);
                left.count += right.count;
            }
            (Node::Branch(left), Node::Branch(mut right)) => {
                if let Some(first) = right.children.first_mut() {
                    first.0 = key;
                }
                left.children.append(&mut right.children);
            }
            _ => debug_assert!(false, "neighbours are of one level"),
        }
    }

    /// The page. All children must be stored.
    pub(crate) fn sealed(&self, page: u64, commit: u64) -> Box<[u8; PAGE]> {
        match self {
            Node::Leaf(leaf) => sealed(LEAF, 0, leaf.count, &leaf.body, page, commit),
            Node::Branch(branch) => {
                let mut body = Vec::with_capacity(ROOM);
                for (key, child) in &branch.children {
                    body.extend_from_slice(key);
                    match child {
                        Child::Stored(at) => at.put(&mut body),
                        Child::Changed(_) => debug_assert!(false, "children are stored first"),
                    }
                }
                let count = branch.children.len() as u16;
                sealed(BRANCH, branch.level, count, &body, page, commit)
            }
        }
    }
}

impl Leaf {
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Puts a record in, in place of the one with that key; what does not fit any more is the right neighbour, with its first key.
    pub(crate) fn put(&mut self, key: &Key, value: Value<'_>) -> Option<(Key, Leaf)> {
        let new = value.record(key);
        let key = order(key);
        let (mut start, mut end) = (self.body.len(), self.body.len());
        if let Some(found) = records(&self.body).find(|record| record.key >= key) {
            start = found.start;
            end = if found.key == key { found.end } else { start };
        }
        let is_last = end == self.body.len();
        self.count += u16::from(start == end);
        self.body.splice(start..end, new);
        if self.body.len() <= ROOM {
            return None;
        }
        Some(self.split(is_last.then_some(start)))
    }

    /// `at`: where the right neighbour should begin, if that will do; else they become as equal as they can.
    fn split(&mut self, at: Option<usize>) -> (Key, Leaf) {
        let total = self.body.len();
        let fits = |at: usize| at > 0 && at <= ROOM && total - at <= ROOM;
        let starts = || records(&self.body).map(|record| record.start);
        let balanced = || {
            let places = starts().filter(|start| fits(*start));
            places.min_by_key(|start| start.abs_diff(total / 2))
        };
        let at = at.filter(|at| fits(*at)).or_else(balanced);
        // Two records of any length fit into a page, so there is always such a place.
        let at = at.unwrap_or(total / 2);
        let left = records(&self.body[..at]).count() as u16;
        let right = Leaf {
            body: self.body.split_off(at),
            count: self.count - left,
        };
        self.count = left;
        (key_at(&right.body, 0), right)
    }

    /// Takes a record out; says whether it was there.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let key = order(key);
        let found = records(&self.body).find(|record| record.key >= key);
        let Some(found) = found.filter(|record| record.key == key) else {
            return false;
        };
        let (start, end) = (found.start, found.end);
        self.body.drain(start..end);
        self.count -= 1;
        true
    }
}

impl Branch {
    /// The child in which a key would be.
    pub(crate) fn child_of(&self, key: &Key) -> usize {
        let others = &self.children[1..];
        others.partition_point(|(first, _)| first <= key)
    }

    /// Puts a child behind that of `index`; what does not fit any more is the right neighbour, with its first key.
    pub(crate) fn put_behind(
        &mut self,
        index: usize,
        key: Key,
        child: Node,
    ) -> Option<(Key, Branch)> {
        let child = (key, Child::Changed(Box::new(child)));
        self.children.insert(index + 1, child);
        let count = self.children.len();
        if count <= CHILDREN_MAX {
            return None;
        }
        let at = if index + 2 == count {
            count - 1
        } else {
            count / 2
        };
        let children = self.children.split_off(at);
        let key = children[0].0;
        let level = self.level;
        Some((key, Branch { level, children }))
    }
}
