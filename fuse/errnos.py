"""Errors of the project as errno: one table, total over ``vpool.errors``. Pure."""

from __future__ import annotations

import errno

from vpool.errors import (
    Conflict,
    Corrupt,
    Denied,
    Exists,
    Fenced,
    Halted,
    Internal,
    Invalid,
    Moved,
    NoSpace,
    NotFound,
    Unavailable,
    VPoolError,
)

ERRNOS: dict[type[VPoolError], int] = {
    NotFound: errno.ENOENT,
    Exists: errno.EEXIST,
    Conflict: errno.EBUSY,
    Invalid: errno.EINVAL,
    Denied: errno.EACCES,
    NoSpace: errno.ENOSPC,
    Unavailable: errno.ETIMEDOUT,  # a limit of the settings has ended the wait; by default none does
    Moved: errno.EREMOTE,
    Fenced: errno.ESTALE,
    Corrupt: errno.EIO,
    Halted: errno.EIO,
    Internal: errno.EIO,
}

# Where POSIX tells apart what is one class for us (``details["reason"]``, see registry.commands.REASONS).
REASON_ERRNOS: dict[str, int] = {
    "not_directory": errno.ENOTDIR,
    "is_directory": errno.EISDIR,
    "not_empty": errno.ENOTEMPTY,
    "name_too_long": errno.ENAMETOOLONG,
    "bad_name": errno.EINVAL,
    "into_itself": errno.EINVAL,
    "too_many_links": errno.EMLINK,
    "not_permitted": errno.EPERM,
    "too_large": errno.EFBIG,
    "no_attribute": errno.ENODATA,
    "value_too_long": errno.E2BIG,
    "lost": errno.EIO,
    "log_full": errno.ENOSPC,
    "too_many_writers": errno.ENFILE,
}


def errno_of(error: VPoolError) -> int:
    """The errno that a client of the mount gets."""
    special = REASON_ERRNOS.get(str(error.details.get("reason", "")))
    if special is not None:
        return special
    return next((code for kind, code in ERRNOS.items() if isinstance(error, kind)), errno.EIO)
