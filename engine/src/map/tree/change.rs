//! Writing: a change is made beside what is there, and becomes what is there with one write of a head.

use parking_lot::MutexGuard;
use rustc_hash::FxHashSet;

use crate::error::{Error, Result};
use crate::map::tree::check::LONG_TABLE;
use crate::map::tree::head::Head;
use crate::map::tree::node::{Branch, Child, Leaf, Node};
use crate::map::tree::space::Space;
use crate::map::tree::stored::{find, Key, Ref, Value, INLINE_MAX, KEY_BYTES, ROOM};
use crate::map::tree::view::{View, Visit};
use crate::map::tree::Tree;

/// A page with less than this is put together with a neighbour that has room for it.
const SPARSE: usize = ROOM / 4;
/// What neighbours become together, so that the next record does not part them again.
const JOINED_MAX: usize = ROOM * 7 / 8;

/// See `Tree::change`. Dropping it undoes it.
pub(crate) struct Change<'a> {
    pub(super) tree: &'a Tree,
    pub(super) space: MutexGuard<'a, Space>,
    pub(super) before: Head,
    pub(super) root: Option<Child>,
    pub(super) level: u8,
    /// Pages that this change has taken: nobody else has seen them.
    pub(super) own: FxHashSet<u64>,
    let_go: Vec<u64>,
    /// Changed pages in RAM.
    pub(super) changed: usize,
    /// Pages on their way to the file, one behind the other from the first on.
    pub(super) outgoing: (u64, Vec<u8>),
    committed: bool,
    /// Something has failed half-way: not to be committed.
    broken: bool,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.committed {
            for page in self.own.drain() {
                self.space.give_back(page);
            }
        }
    }
}

impl View for Change<'_> {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        match &self.root {
            Some(root) => self.tree.get_below(root, self.level, key),
            None => Ok(None),
        }
    }

    fn scan(&self, from: &Key, visit: &mut Visit<'_>) -> Result<()> {
        if let Some(root) = &self.root {
            self.tree.scan_below(root, self.level, from, visit)?;
        }
        Ok(())
    }
}

impl<'a> Change<'a> {
    pub(crate) fn new(tree: &'a Tree, space: MutexGuard<'a, Space>, before: Head) -> Change<'a> {
        Change {
            tree,
            space,
            before,
            root: before.root.map(|(at, _)| Child::Stored(at)),
            level: before.root.map_or(0, |(_, level)| level),
            own: FxHashSet::default(),
            let_go: Vec::new(),
            changed: 0,
            outgoing: (0, Vec::new()),
            committed: false,
            broken: false,
        }
    }

    pub(super) fn commit_number(&self) -> u64 {
        self.before.commit + 1
    }

    /// Errors: NoSpace, Corrupt, Halted (I/O), Invalid for a value that is too long for its table. After one the change is only to be
    /// dropped.
    pub(crate) fn put(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        let done = self.put_record(key, value);
        self.broken |= done.is_err();
        done
    }

    fn put_record(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        let value = if value.len() <= INLINE_MAX {
            Value::Inline(value)
        } else if key[0] == LONG_TABLE {
            Value::Long(value.len(), self.write_parts(value)?)
        } else {
            return Err(Error::Invalid(format!(
                "local map: a record of {} bytes",
                value.len()
            )));
        };
        let mut root = self.root.take();
        let split = match &mut root {
            Some(root) => self.insert(root, self.level, key, value),
            None => {
                let mut leaf = Leaf::default();
                leaf.put(key, value);
                self.changed += 1;
                root = Some(Child::Changed(Box::new(Node::Leaf(leaf))));
                Ok(None)
            }
        };
        self.root = root;
        if let Some((key, right)) = split? {
            self.grow(key, right);
        }
        self.relieve()
    }

    /// Takes a record out, if it is there. Errors: as of `put`.
    pub(crate) fn delete(&mut self, key: &Key) -> Result<()> {
        let done = self.delete_record(key);
        self.broken |= done.is_err();
        done
    }

    fn delete_record(&mut self, key: &Key) -> Result<()> {
        if self.get(key)?.is_none() {
            return Ok(());
        }
        let Some(mut root) = self.root.take() else {
            return Ok(());
        };
        let removed = self.remove(&mut root, self.level, key);
        self.root = Some(root);
        removed?;
        self.shrink();
        self.relieve()
    }

    /// Makes the change what is there, all of it or nothing; durable when this returns. Errors: NoSpace, Halted (I/O).
    pub(crate) fn commit(mut self) -> Result<()> {
        if self.broken {
            return Err(Error::Internal(
                "local map: a change that has failed".into(),
            ));
        }
        if self.own.is_empty() && self.let_go.is_empty() && self.changed == 0 {
            return Ok(());
        }
        let root = self.store_root()?;
        self.space.trim();
        let head = Head {
            commit: self.commit_number(),
            pages: self.space.pages,
            root,
        };
        if self.tree.durable {
            let synced = self.tree.file.sync_data();
            synced.map_err(|error| Error::disk("local map: sync", &error))?;
        }
        self.tree.still_right()?;
        self.write_head(&head)?;
        self.committed = true;
        self.tree.now.lock().head = head;
        let let_go = std::mem::take(&mut self.let_go);
        self.space.let_go(head.commit, let_go);
        Ok(())
    }

    /// After a failure here nobody knows which of the two heads the disk has: no page of either may be used again.
    fn write_head(&mut self, head: &Head) -> Result<()> {
        let file = &self.tree.file;
        let mut written = file.pwrite(&head.encode(), head.offset());
        if self.tree.durable {
            written = written.and_then(|()| file.sync_data());
        }
        written.map_err(|error| {
            let error = Error::disk("local map: write its head", &error);
            let _ = self.tree.failure.set(error.to_string());
            self.committed = true;
            Error::Halted(error.to_string())
        })
    }

    /// Puts a record in below a page; what does not fit any more is the right neighbour, with its first key.
    fn insert(
        &mut self,
        child: &mut Child,
        level: u8,
        key: &Key,
        value: Value<'_>,
    ) -> Result<Option<(Key, Node)>> {
        match self.thaw(child, level)? {
            Node::Leaf(leaf) => {
                if let Some(Value::Long(bytes, first)) = find(leaf.body(), key) {
                    self.release_parts(bytes, first)?;
                }
                let right = leaf.put(key, value);
                self.changed += usize::from(right.is_some());
                Ok(right.map(|(key, leaf)| (key, Node::Leaf(leaf))))
            }
            Node::Branch(branch) => {
                let index = branch.child_of(key);
                let below = &mut branch.children[index].1;
                let Some((key, node)) = self.insert(below, level - 1, key, value)? else {
                    return Ok(None);
                };
                let right = branch.put_behind(index, key, node);
                self.changed += usize::from(right.is_some());
                Ok(right.map(|(key, branch)| (key, Node::Branch(branch))))
            }
        }
    }

    /// A level more.
    fn grow(&mut self, key: Key, right: Node) {
        let Some(left) = self.root.take() else { return };
        self.level = right.level() + 1;
        self.changed += 1;
        let right = Child::Changed(Box::new(right));
        self.root = Some(Child::Changed(Box::new(Node::Branch(Branch {
            level: self.level,
            children: vec![([0; KEY_BYTES], left), (key, right)],
        }))));
    }

    fn remove(&mut self, child: &mut Child, level: u8, key: &Key) -> Result<()> {
        match self.thaw(child, level)? {
            Node::Leaf(leaf) => {
                if let Some(Value::Long(bytes, first)) = find(leaf.body(), key) {
                    self.release_parts(bytes, first)?;
                }
                leaf.remove(key);
            }
            Node::Branch(branch) => {
                let index = branch.child_of(key);
                self.remove(&mut branch.children[index].1, level - 1, key)?;
                self.tidy(branch, index)?;
            }
        }
        Ok(())
    }

    /// Drops a child that has become empty, or puts a sparse one together with a neighbour.
    fn tidy(&mut self, branch: &mut Branch, index: usize) -> Result<()> {
        let bytes = match &branch.children[index].1 {
            Child::Changed(node) => node.bytes(),
            Child::Stored(_) => return Ok(()),
        };
        if bytes == 0 {
            branch.children.remove(index);
            self.changed -= 1;
            return Ok(());
        }
        if bytes >= SPARSE || branch.children.len() < 2 {
            return Ok(());
        }
        let level = branch.level - 1;
        let left = index.saturating_sub(1);
        let other = if left == index { index + 1 } else { left };
        let beside = match &branch.children[other].1 {
            Child::Changed(node) => node.bytes(),
            Child::Stored(at) => self.tree.load(*at, level)?.body().len(),
        };
        if bytes + beside > JOINED_MAX {
            return Ok(());
        }
        self.thaw(&mut branch.children[other].1, level)?;
        let (key, right) = branch.children.remove(left + 1);
        if let (Child::Changed(left), Child::Changed(right)) = (&mut branch.children[left].1, right)
        {
            left.append(key, *right);
            self.changed -= 1;
        }
        Ok(())
    }

    /// A root with one child is one too many, and an empty one, too.
    fn shrink(&mut self) {
        while let Some(Child::Changed(node)) = &mut self.root {
            match &mut **node {
                Node::Branch(branch) if branch.children.len() == 1 => {
                    self.root = branch.children.pop().map(|(_, child)| child);
                    self.level -= 1;
                    self.changed -= 1;
                }
                node if node.bytes() == 0 => {
                    self.root = None;
                    self.level = 0;
                    self.changed -= 1;
                }
                _ => return,
            }
        }
    }

    /// The page, to be changed.
    fn thaw<'b>(&mut self, child: &'b mut Child, level: u8) -> Result<&'b mut Node> {
        if let Child::Stored(at) = *child {
            let node = Node::thawed(&*self.tree.load(at, level)?);
            self.tree.cache.take(&at);
            self.release(at.page);
            self.changed += 1;
            *child = Child::Changed(Box::new(node));
        }
        match child {
            Child::Changed(node) => Ok(node),
            Child::Stored(_) => Err(Error::Internal("local map: a page that was thawed".into())),
        }
    }

    /// The tree does not use this page any more.
    fn release(&mut self, page: u64) {
        if self.own.remove(&page) {
            self.space.give_back(page);
        } else {
            self.let_go.push(page);
        }
    }

    fn release_parts(&mut self, bytes: usize, first: Ref) -> Result<()> {
        let mut pages = Vec::new();
        self.tree.parts(bytes, first, |page, _| pages.push(page))?;
        pages.into_iter().for_each(|page| self.release(page));
        Ok(())
    }
}
