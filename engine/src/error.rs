//! Kinds of errors, one to one with `vpool.errors`.

use std::io;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A limit is used up for now; wait for a committed head and try again.
    #[error("the write cache is full")]
    WouldBlock,
    #[error("{0}")]
    Invalid(String),
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
        if error.raw_os_error() == Some(libc::ENOSPC) {
            Error::NoSpace(format!("{what}: {error}"))
        } else {
            Error::Halted(format!("{what}: {error}"))
        }
    }
}
