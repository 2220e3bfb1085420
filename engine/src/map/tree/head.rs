//! The two heads of the file, which name the root in turn.

use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::map::fields::{checked, seal, Fields};
use crate::map::tree::stored::{Ref, PAGE};

/// Pages at the front of the file, one for each head.
pub(crate) const HEAD_PAGES: u64 = 2;
/// What is written of a page with a head: what a disk writes at once.
pub(crate) const SLOT_BYTES: usize = 512;

const MAGIC: &[u8; 8] = b"vPoolMTR";
const VERSION: u32 = 2;
const WHAT: &str = "local map: head";
const HEAD_BYTES: usize = 64;

/// What one commit has made of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) commit: u64,
    /// Pages of the file that have ever been used.
    pub(crate) pages: u64,
    /// The root and its level; None when there are no records.
    pub(crate) root: Option<(Ref, u8)>,
}

impl Head {
    pub(crate) fn empty(commit: u64) -> Head {
        Head {
            commit,
            pages: HEAD_PAGES,
            root: None,
        }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.commit % HEAD_PAGES * PAGE as u64
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let nothing = Ref { page: 0, sum: 0 };
        let (root, level) = self.root.unwrap_or((nothing, 0));
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(PAGE as u32).to_le_bytes());
        for field in [self.commit, self.pages, root.page, root.sum] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&[level, 0, 0, 0, 0, 0, 0, 0]);
        seal(&mut out, 0);
        out.resize(SLOT_BYTES, 0);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Head> {
        let bytes = &bytes[..HEAD_BYTES];
        Fields::new(WHAT, bytes).magic(MAGIC, VERSION)?;
        let (body, _) = checked(WHAT, bytes)?;
        let mut f = Fields::new(WHAT, body);
        f.take(12)?;
        if f.u32()? != PAGE as u32 {
            return Err(f.corrupt("another size of pages"));
        }
        let (commit, pages) = (f.u64()?, f.u64()?);
        let at = Ref {
            page: f.u64()?,
            sum: f.u64()?,
        };
        let level = f.u8()?;
        Ok(Head {
            commit,
            pages,
            root: (at.page != 0).then_some((at, level)),
        })
    }
}

/// The newest of the two heads. Both must be right, and of two commits in a row: a disk writes a head as a whole or not at all, so one
/// that is wrong is damage, and whether it was the newest nobody can tell.
///
/// Errors: Corrupt, Halted (I/O).
pub(crate) fn read(file: &dyn DiskFile) -> Result<Head> {
    let wrong = |error: std::io::Error| Error::disk("local map: look at its file", &error);
    let bytes = file.size().map_err(wrong)?;
    if bytes < HEAD_PAGES * PAGE as u64 {
        return Err(Error::Corrupt(format!(
            "{WHAT}: the file has {bytes} bytes"
        )));
    }
    let mut heads = [Head::empty(0); HEAD_PAGES as usize];
    for (slot, place) in heads.iter_mut().enumerate() {
        let mut data = [0; SLOT_BYTES];
        let offset = (slot * PAGE) as u64;
        file.pread(&mut data, offset).map_err(wrong)?;
        *place = Head::decode(&data)?;
        if place.offset() != offset {
            return Err(Error::Corrupt(format!("{WHAT}: in the other's place")));
        }
    }
    let [even, odd] = heads;
    if even.commit.abs_diff(odd.commit) != 1 {
        return Err(Error::Corrupt(format!(
            "{WHAT}: of commits {} and {}",
            even.commit, odd.commit
        )));
    }
    let newest = if even.commit > odd.commit { even } else { odd };
    if newest.pages < HEAD_PAGES || newest.pages > bytes / PAGE as u64 {
        return Err(Error::Corrupt(format!(
            "{WHAT}: the file has {bytes} bytes, {} pages of {PAGE} are in use",
            newest.pages
        )));
    }
    Ok(newest)
}
