"""A real block device that fails when a test says so: ext4 on a loop device whose file is served by a FUSE process of our own.

Run as a program it is that process: ``python -m tests.failing_disk IMAGE DIRECTORY FAULTS``.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyfuse3
import trio

from tests.mounted_pool import unmount, wait_until

IMAGE_INODE = pyfuse3.ROOT_INODE + 1
NAME = b"image"


class FailingDisk:
    """A context manager; ``fail`` and ``mend`` say what the device refuses from now on."""

    def __init__(self, path: Path, size: int) -> None:
        """``path``: where its file system is mounted; what it is made of stands beside it."""
        self.path = path
        self._size = size
        self._image = path.with_name(f"{path.name}.image")
        self._served = path.with_name(f"{path.name}.device")
        self._faults = path.with_name(f"{path.name}.faults")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for directory in (self.path, self._served):
            directory.mkdir()
        with self._image.open("wb") as file:
            file.truncate(self._size)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(self._image)], check=True, timeout=60)
        self.mend()
        command = [sys.executable, "-m", "tests.failing_disk", str(self._image), str(self._served), str(self._faults)]
        self._process = subprocess.Popen(command)
        wait_until((self._served / NAME.decode()).exists, "the device is there", 30)
        options = "loop,errors=continue"
        subprocess.run(["mount", "-o", options, str(self._served / NAME.decode()), str(self.path)], check=True, timeout=60)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.mend()
        unmount(self.path)
        unmount(self._served)
        if self._process is not None:
            self._process.wait(30)

    def fail(self, *operations: str) -> None:
        """From now on: ``read``, ``write`` give EIO."""
        self._faults.write_text(" ".join(operations), encoding="ascii")

    def mend(self) -> None:
        """Nothing fails any more."""
        self.fail()


class _Image(pyfuse3.Operations):
    """One file; no caches between it and the loop device."""

    def __init__(self, image: Path, faults: Path) -> None:
        super().__init__()
        self._fd = os.open(image, os.O_RDWR)
        self._faults = faults

    def _check(self, operation: str) -> None:
        if operation in self._faults.read_text(encoding="ascii").split():
            raise pyfuse3.FUSEError(errno.EIO)

    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFREG | 0o600 if inode == IMAGE_INODE else stat.S_IFDIR | 0o700
        entry.st_nlink = 1
        entry.st_size = os.fstat(self._fd).st_size
        entry.entry_timeout = entry.attr_timeout = 3600
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: object = None) -> pyfuse3.EntryAttributes:
        if parent_inode != pyfuse3.ROOT_INODE or name != NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(IMAGE_INODE, ctx)

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode, direct_io=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        self._check("read")
        return os.pread(self._fd, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self._check("write")
        return os.pwrite(self._fd, buf, off)

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._check("write")


def serve(arguments: Sequence[str]) -> None:
    """Until it is unmounted."""
    image, directory, faults = arguments
    pyfuse3.init(_Image(Path(image), Path(faults)), directory, {"fsname=failing-disk"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    serve(sys.argv[1:])
