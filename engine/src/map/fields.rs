//! Little-endian fields out of bytes that may be hostile: every read is bounds-checked, none allocates.

use crate::error::{Error, Result};
use crate::types::Uuid;

/// Walks over bytes of one format; an error names that format.
pub(crate) struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Fields { what, rest: bytes }
    }

    pub(crate) fn corrupt(&self, why: &str) -> Error {
        Error::Corrupt(format!("{}: {why}", self.what))
    }

    /// The next `n` bytes, or Corrupt when there are fewer.
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.corrupt("cut short")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(crate) fn u128(&mut self) -> Result<u128> {
        Ok(u128::from_le_bytes(self.array()?))
    }
    pub(crate) fn uuid(&mut self) -> Result<Uuid> {
        self.array()
    }

    /// A magic and a version; a newer version is refused by name.
    pub(crate) fn magic(&mut self, magic: &[u8; 8], version: u32) -> Result<()> {
        if self.take(8)? != magic {
            return Err(self.corrupt("wrong magic"));
        }
        let found = self.u32()?;
        if found != version {
            return Err(self.corrupt(&format!(
                "version {found}, this build reads version {version}"
            )));
        }
        Ok(())
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Nothing may be left over.
    pub(crate) fn end(&self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.corrupt("bytes left over"))
        }
    }
}

/// Splits off the XXH3-64 that the last 8 bytes hold of all before them, and verifies it.
pub(crate) fn checked<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(&'a [u8], u64)> {
    let at = bytes.len().saturating_sub(8);
    let (body, mut tail) = (&bytes[..at], Fields::new(what, &bytes[at..]));
    let checksum = tail.u64()?;
    if xxhash_rust::xxh3::xxh3_64(body) != checksum {
        return Err(tail.corrupt("wrong checksum"));
    }
    Ok((body, checksum))
}

/// Appends the XXH3-64 of what `out` holds from `from` on, and returns it.
pub(crate) fn seal(out: &mut Vec<u8>, from: usize) -> u64 {
    let checksum = xxhash_rust::xxh3::xxh3_64(&out[from..]);
    out.extend_from_slice(&checksum.to_le_bytes());
    checksum
}
