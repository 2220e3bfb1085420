"""The reference for FUSE without a lane: a file system in pyfuse3 whose handlers only pread and pwrite one file on a tmpfs.

Directories and further files can be made too: they are numbers, and what is written to them is nowhere.

``python -m bench.null_pyfuse3 MOUNT FILE`` serves until SIGTERM; mount options, handles and tasks are those of ``fuse.mount``.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from pathlib import Path

import pyfuse3
import trio

NAME = b"null.raw"
FILE = 2  # its inode
REQUESTS_MAX = 64


class NullOperations(pyfuse3.Operations):
    """A directory with one file, and names that lead to nothing."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._inodes: dict[tuple[int, bytes], int] = {(pyfuse3.ROOT_INODE, NAME): FILE}
        self._directories: set[int] = {pyfuse3.ROOT_INODE}

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, off)

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        return os.pwrite(self._descriptor, buf, off) if fh == FILE else len(buf)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        pass

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        pass

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        pass

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), direct_io=True, keep_cache=False)

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        inode = self._inodes.get((parent_inode, name))
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(inode)

    async def mkdir(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, mode: pyfuse3.ModeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        inode = self._named(parent_inode, name)
        self._directories.add(inode)
        return self._attributes(inode)

    async def create(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        inode = self._named(parent_inode, name)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode)), self._attributes(inode)

    def _named(self, parent: int, name: bytes) -> int:
        inode = FILE + len(self._inodes)
        self._inodes[parent, name] = inode
        return inode

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def access(self, inode: pyfuse3.InodeT, mode: pyfuse3.ModeT, ctx: pyfuse3.RequestContext) -> bool:
        return True

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(inode)
        entry.entry_timeout = entry.attr_timeout = 1.0
        entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o755 if inode in self._directories else stat.S_IFREG | 0o644)
        entry.st_nlink = 1
        entry.st_size = os.fstat(self._descriptor).st_size if inode == FILE else 0
        return entry


async def _serve() -> None:
    async with trio.open_nursery() as nursery:

        async def until_told() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    pyfuse3.terminate()
                    return

        nursery.start_soon(until_told)
        await pyfuse3.main(min_tasks=2, max_tasks=REQUESTS_MAX)
        nursery.cancel_scope.cancel()


def main(mountpoint: Path, file: Path) -> None:
    """Mount, serve, unmount."""
    descriptor = os.open(file, os.O_RDWR)
    options = {"fsname=null_pyfuse3", "default_permissions"}
    if os.geteuid() == 0:
        options.add("allow_other")
    pyfuse3.init(NullOperations(descriptor), str(mountpoint), options)
    try:
        trio.run(_serve)
    finally:
        pyfuse3.close(unmount=True)
        os.close(descriptor)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
