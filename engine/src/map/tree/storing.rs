//! How a change gets to the file: first in places that nobody sees.

use crate::error::{Error, Result};
use crate::map::tree::change::Change;
use crate::map::tree::node::{Child, Node};
use crate::map::tree::stored::{pointer, sealed_part, Ref, PAGE, PART_MAX};

/// With more than this changed in RAM, what is there goes to the file, where nobody sees it yet.
const CHANGED_BYTES_MAX: usize = 16 << 20;
const WRITE_BYTES: usize = 1 << 20;

impl Change<'_> {
    fn take(&mut self) -> Result<u64> {
        let page = self.space.take()?;
        self.own.insert(page);
        Ok(page)
    }

    pub(super) fn write_parts(&mut self, value: &[u8]) -> Result<Ref> {
        let mut next = None;
        for part in value.chunks(PART_MAX).rev() {
            let page = self.take()?;
            let bytes = sealed_part(part, next, page, self.commit_number());
            self.write(page, &bytes)?;
            next = Some(pointer(&bytes));
        }
        self.flush()?;
        next.ok_or_else(|| Error::Internal("local map: a long value without bytes".into()))
    }

    /// Keeps what is in RAM within bounds.
    pub(super) fn relieve(&mut self) -> Result<()> {
        if self.changed * PAGE > CHANGED_BYTES_MAX {
            self.store_root()?;
        }
        Ok(())
    }

    pub(super) fn store_root(&mut self) -> Result<Option<(Ref, u8)>> {
        let Some(mut root) = self.root.take() else {
            return Ok(None);
        };
        let at = self.store(&mut root)?;
        self.flush()?;
        self.root = Some(root);
        Ok(Some((at, self.level)))
    }

    /// Writes a page and what is below it, as far as it has changed.
    fn store(&mut self, child: &mut Child) -> Result<Ref> {
        let node = match child {
            Child::Stored(at) => return Ok(*at),
            Child::Changed(node) => node,
        };
        if let Node::Branch(branch) = &mut **node {
            for (_, child) in &mut branch.children {
                self.store(child)?;
            }
        }
        let page = self.take()?;
        let bytes = node.sealed(page, self.commit_number());
        let at = pointer(&bytes);
        self.write(page, &bytes)?;
        self.changed -= 1;
        *child = Child::Stored(at);
        Ok(at)
    }

    fn write(&mut self, page: u64, bytes: &[u8; PAGE]) -> Result<()> {
        let behind = self.outgoing.0 + (self.outgoing.1.len() / PAGE) as u64;
        if page != behind || self.outgoing.1.len() >= WRITE_BYTES {
            self.flush()?;
        }
        if self.outgoing.1.is_empty() {
            self.outgoing.0 = page;
        }
        self.outgoing.1.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let (first, bytes) = &mut self.outgoing;
        if !bytes.is_empty() {
            let written = self.tree.file.pwrite(bytes, *first * PAGE as u64);
            written.map_err(|error| Error::disk("local map: write", &error))?;
            bytes.clear();
        }
        Ok(())
    }
}
