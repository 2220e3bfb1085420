//! A request that waits for the backend: what it needs, what it got, and how it goes on.

use std::sync::Arc;

use crc32c::crc32c;

use crate::error::{Error, Result};
use crate::read_cache::CacheKey;
use crate::sources::{Miss, Supplied};
use crate::types::{Fetch, FetchKind, CLUSTER};
use crate::volume::{Reply, Volume};

pub(crate) enum Request {
    Read {
        offset: u128,
        length: usize,
    },
    Write {
        offset: u128,
        data: Vec<u8>,
    },
    Zero {
        offset: u128,
        bytes: u128,
    },
    /// Map nodes for a survey, which goes on by itself.
    Survey,
}

/// See the module. The request has had no effect yet.
pub struct Plan {
    volume: Arc<Volume>,
    pub(crate) request: Request,
    misses: Vec<Miss>,
    supplied: Supplied,
}

impl Plan {
    pub(crate) fn new(
        volume: &Arc<Volume>,
        request: Request,
        misses: Vec<Miss>,
        supplied: Supplied,
    ) -> Box<Plan> {
        Box::new(Plan {
            volume: volume.clone(),
            request,
            misses,
            supplied,
        })
    }

    /// What to fetch. Several may be fetched at once.
    pub fn misses(&self) -> impl ExactSizeIterator<Item = &Fetch> {
        self.misses.iter().map(|miss| &miss.fetch)
    }

    /// Bytes that a read wants, so that the caller can make the buffer; None for a write.
    pub fn read_length(&self) -> Option<usize> {
        match self.request {
            Request::Read { length, .. } => Some(length),
            _ => None,
        }
    }

    pub fn is_of(&self, volume: &Arc<Volume>) -> bool {
        Arc::ptr_eq(&self.volume, volume)
    }

    /// Gives the bytes of one miss; `data` begins at object offset `start` (None: where the miss does) and may go
    /// further than it. `Error::Corrupt`: they are not what the map says; nothing has changed.
    pub fn supply(&mut self, index: usize, data: &[u8], start: Option<u64>) -> Result<()> {
        let Some(miss) = self.misses.get(index) else {
            return Err(Error::Invalid(format!("there is no miss {index}")));
        };
        let fetch = miss.fetch;
        let start = start.unwrap_or(fetch.offset);
        let wanted = fetch
            .offset
            .checked_sub(start)
            .and_then(|skip| data.get(skip as usize..)?.get(..fetch.length as usize));
        let Some(wanted) = wanted else {
            return Err(Error::Invalid(format!(
                "{} bytes from {start} do not cover {} bytes from {}",
                data.len(),
                fetch.length,
                fetch.offset
            )));
        };
        if fetch.kind == FetchKind::Map {
            return self.volume.lock()?.map.supply(&fetch, wanted);
        }
        for (data, entry) in wanted.chunks_exact(CLUSTER).zip(&miss.entries) {
            if crc32c(data) != entry.crc {
                return Err(Error::Corrupt(format!(
                    "SCO {} of epoch {} is damaged in the backend at slot {}",
                    fetch.number,
                    fetch.epoch,
                    entry.loc.slot()
                )));
            }
        }
        for (data, entry) in wanted.chunks_exact(CLUSTER).zip(&miss.entries) {
            self.supplied.insert((entry.loc, entry.crc), data.into());
        }
        let key = CacheKey {
            origin: fetch.origin,
            epoch: fetch.epoch,
            number: fetch.number,
        };
        // What is beyond the miss is read-ahead: the cache's reader verifies it.
        let skip = (start.next_multiple_of(CLUSTER as u64) - start) as usize;
        let whole = data.get(skip..).unwrap_or_default();
        let whole = &whole[..whole.len() / CLUSTER * CLUSTER];
        let first = (start + skip as u64) / CLUSTER as u64;
        if !whole.is_empty() && first + (whole.len() / CLUSTER) as u64 <= 1024 {
            self.volume.shared.cache.insert(&key, first as u32, whole);
        }
        Ok(())
    }

    /// Goes on. Looks everything up again, so what moved meanwhile is planned anew. `out`: for a read, `read_length` bytes.
    pub fn resume(self, out: &mut [u8]) -> Result<Reply> {
        let Plan {
            volume,
            request,
            supplied,
            ..
        } = self;
        match request {
            Request::Read { offset, length } => {
                if out.len() != length {
                    return Err(Error::Internal("a buffer of the wrong length".into()));
                }
                volume.read_with(offset, out, supplied)
            }
            Request::Write { offset, data } => volume.write_with(offset, &data, supplied),
            Request::Zero { offset, bytes } => volume.zero_with(offset, bytes, supplied),
            Request::Survey => Err(Error::Invalid("a survey goes on with its own step".into())),
        }
    }
}
