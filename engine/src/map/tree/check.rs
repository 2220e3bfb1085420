//! The look at a file that is opened: what is used, and whether what points to it is right.

use crate::error::Result;
use crate::map::tree::head::Head;
use crate::map::tree::stored::{self, Ref, Value, KEY_BYTES, LEVELS_MAX};
use crate::map::tree::Tree;

impl Tree {
    /// Reads every page that points to others (about one in a hundred), and marks all that are used. What is in leaves is looked at
    /// when they are read.
    ///
    /// Errors: Corrupt, Halted (I/O).
    pub(crate) fn take_stock(&self, head: &Head) -> Result<()> {
        let Some((root, level)) = head.root else {
            return Ok(());
        };
        if level > LEVELS_MAX {
            return Err(self.condemn("more levels than there can be".into()));
        }
        self.visit(root, level, true)
    }

    fn note(&self, page: u64) -> Result<()> {
        if self.space.lock().mark(page) {
            Ok(())
        } else {
            Err(self.condemn(format!("page {page} is named twice, or is beyond the end")))
        }
    }

    /// `may_be_long`: there may be long values below.
    fn visit(&self, at: Ref, level: u8, may_be_long: bool) -> Result<()> {
        self.note(at.page)?;
        if level > 0 {
            let page = self.load(at, level)?;
            for index in 0..page.children() {
                let (key, child) = page.child(index);
                let below = may_be_long && (index == 0 || key[0] == LONG_TABLE);
                self.visit(child, level - 1, below)?;
            }
            return Ok(());
        }
        if !may_be_long {
            return Ok(());
        }
        let page = self.load(at, 0)?;
        for (_, value) in stored::from(page.body(), &[0; KEY_BYTES]) {
            if let Value::Long(bytes, first) = value {
                let mut pages = Vec::new();
                self.parts(bytes, first, |page, _| pages.push(page))?;
                for page in pages {
                    self.note(page)?;
                }
            }
        }
        Ok(())
    }
}

/// The only table with values that may be long; it sorts before all others.
pub(crate) const LONG_TABLE: u8 = 0;
