//! Kinds of errors, one to one with `vpool.errors`.

use std::io;

use crate::fullness::is_full;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A limit, or the disk, is used up for now and nothing has changed; wait for a committed head or for room and try again.
    #[error("the write cache is full")]
    WouldBlock,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    NoSpace(String),
    #[error("{0}")]
    Corrupt(String),
    #[error("{0}")]
    Halted(String),
    #[error("{0}")]
    Internal(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An I/O error on the cache disk, with what was tried.
    pub fn disk(what: &str, error: &io::Error) -> Error {
        if is_full(error) {
            Error::NoSpace(format!("{what}: {error}"))
        } else {
            Error::Halted(format!("{what}: {error}"))
        }
    }
}
