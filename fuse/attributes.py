"""Inodes as the kernel wants them told, and what it may call an extended attribute."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from pyfuse3 import EntryAttributes, FUSEError

if TYPE_CHECKING:
    from objectrouter import Inode

BLOCK_BYTES = 512  # of st_blocks, stat(2)
PREFERRED_BYTES = 4096
TYPE_BITS = {
    "directory": stat.S_IFDIR,
    "file": stat.S_IFREG,
    "volume": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character-device": stat.S_IFCHR,
    "block-device": stat.S_IFBLK,
}
NODE_KINDS = {
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character-device",
    stat.S_IFBLK: "block-device",
}
_NAMESPACES = (b"user.", b"trusted.", b"security.")  # system.* is for access control lists, which are not kept
_PRIVILEGED = b"trusted."


def entry_of(inode: Inode, *, entry_timeout_s: float, attributes_timeout_s: float) -> EntryAttributes:
    """An inode as struct stat and how long the kernel may believe it."""
    entry = EntryAttributes()
    entry.st_ino = inode.number
    entry.generation = 0  # inode numbers are never used again
    entry.entry_timeout = entry_timeout_s
    entry.attr_timeout = attributes_timeout_s
    entry.st_mode = TYPE_BITS[inode.kind.value] | inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = len(os.fsencode(inode.target)) if inode.target else inode.size
    entry.st_blksize = PREFERRED_BYTES
    entry.st_blocks = -(-inode.held_bytes // BLOCK_BYTES)
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    return entry


def check_attribute_name(name: bytes) -> None:
    """Refuse extended attributes that are not kept.

    Raises:
        FUSEError: ENOTSUP (another namespace), EINVAL (a namespace and nothing more).
    """
    if not name.startswith(_NAMESPACES):
        raise FUSEError(errno.ENOTSUP)
    if name in _NAMESPACES:
        raise FUSEError(errno.EINVAL)


def may_see_attribute(name: bytes, uid: int) -> bool:
    """Whether a list names it: trusted ones are for root, as with the kernel's own file systems."""
    return uid == 0 or not name.startswith(_PRIVILEGED)
