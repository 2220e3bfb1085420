//! Reading: by key, and in order.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::map::tree::head::Head;
use crate::map::tree::node::{Child, Node};
use crate::map::tree::stored::{self, Key, Ref, Value};
use crate::map::tree::Tree;

/// Called with each record of a scan; false: no more.
pub(crate) type Visit<'a> = dyn FnMut(&Key, &[u8]) -> Result<bool> + 'a;

/// A state of the tree: that of a commit, or of a change that is under way.
pub(crate) trait View {
    /// Errors: Corrupt, Halted (I/O); of both methods, also those of `visit`.
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>>;
    /// Records from a key on, ascending, until `visit` says that it has enough.
    fn scan(&self, from: &Key, visit: &mut Visit<'_>) -> Result<()>;
}

/// See `Tree::snapshot`. Send; keeps the tree open.
pub(crate) struct Snapshot {
    tree: Arc<Tree>,
    head: Head,
}

impl Snapshot {
    pub(crate) fn new(tree: Arc<Tree>, head: Head) -> Snapshot {
        Snapshot { tree, head }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.tree.forget_reader(self.head.commit);
    }
}

impl View for Snapshot {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        match self.head.root {
            Some((at, level)) => self.tree.get(at, level, key),
            None => Ok(None),
        }
    }

    fn scan(&self, from: &Key, visit: &mut Visit<'_>) -> Result<()> {
        if let Some((at, level)) = self.head.root {
            self.tree.scan(at, level, from, visit)?;
        }
        Ok(())
    }
}

impl Tree {
    /// Looks below a page of the file.
    pub(crate) fn get(&self, mut at: Ref, level: u8, key: &Key) -> Result<Option<Vec<u8>>> {
        for level in (0..=level).rev() {
            let page = self.load(at, level)?;
            if level == 0 {
                let found = stored::find(page.body(), key);
                return found.map(|value| self.content(value)).transpose();
            }
            at = page.child(page.child_of(key)).1;
        }
        Ok(None)
    }

    /// The same below a page that a change may have changed.
    pub(crate) fn get_below(&self, child: &Child, level: u8, key: &Key) -> Result<Option<Vec<u8>>> {
        match child {
            Child::Stored(at) => self.get(*at, level, key),
            Child::Changed(node) => match &**node {
                Node::Leaf(leaf) => {
                    let found = stored::find(leaf.body(), key);
                    found.map(|value| self.content(value)).transpose()
                }
                Node::Branch(branch) => {
                    let child = &branch.children[branch.child_of(key)].1;
                    self.get_below(child, branch.level - 1, key)
                }
            },
        }
    }

    /// False: `visit` has enough.
    pub(crate) fn scan(
        &self,
        at: Ref,
        level: u8,
        from: &Key,
        visit: &mut Visit<'_>,
    ) -> Result<bool> {
        let page = self.load(at, level)?;
        if level == 0 {
            return self.scan_leaf(page.body(), from, visit);
        }
        for index in page.child_of(from)..page.children() {
            if !self.scan(page.child(index).1, level - 1, from, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The same below a page that a change may have changed.
    pub(crate) fn scan_below(
        &self,
        child: &Child,
        level: u8,
        from: &Key,
        visit: &mut Visit<'_>,
    ) -> Result<bool> {
        let node = match child {
            Child::Stored(at) => return self.scan(*at, level, from, visit),
            Child::Changed(node) => node,
        };
        match &**node {
            Node::Leaf(leaf) => self.scan_leaf(leaf.body(), from, visit),
            Node::Branch(branch) => {
                for (_, child) in &branch.children[branch.child_of(from)..] {
                    if !self.scan_below(child, branch.level - 1, from, visit)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    fn scan_leaf(&self, body: &[u8], from: &Key, visit: &mut Visit<'_>) -> Result<bool> {
        for (key, value) in stored::from(body, from) {
            let more = match value {
                Value::Inline(bytes) => visit(&key, bytes)?,
                long => visit(&key, &self.content(long)?)?,
            };
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn content(&self, value: Value<'_>) -> Result<Vec<u8>> {
        let (bytes, first) = match value {
            Value::Inline(bytes) => return Ok(bytes.to_vec()),
            Value::Long(bytes, first) => (bytes, first),
        };
        let mut out = Vec::new();
        self.parts(bytes, first, |_, part| out.extend_from_slice(part))?;
        Ok(out)
    }

    /// Every page of a long value, in order. Errors: Corrupt when they do not have `bytes` together.
    pub(crate) fn parts(
        &self,
        bytes: usize,
        first: Ref,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<()> {
        let (mut left, mut next) = (bytes, Some(first));
        while let Some(at) = next {
            let page = self.read(at)?;
            let Some((part, behind)) = page.part().filter(|(part, _)| part.len() <= left) else {
                return Err(self.condemn(format!("page {} is of another kind", at.page)));
            };
            each(at.page, part);
            left -= part.len();
            // Where nothing is left, nothing may follow: a chain always ends.
            next = behind.filter(|_| !part.is_empty());
        }
        match left {
            0 => Ok(()),
            _ => Err(Error::Corrupt(
                "local map: a long value is cut short".into(),
            )),
        }
    }
}
