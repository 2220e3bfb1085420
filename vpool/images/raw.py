"""Raw images: a file or a block device, byte for byte what the guest sees."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from vpool.errors import Denied, Invalid, NoSpace, NotFound, Unavailable, VPoolError

SAMPLE_BYTES = 1 << 20


class RawSource:
    """A raw file or block device, read only."""

    def __init__(self, path: Path) -> None:
        """NotFound, Denied, Invalid."""
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise failure(error, path) from None
        try:
            facts = os.fstat(self._descriptor)
            if not stat.S_ISREG(facts.st_mode) and not stat.S_ISBLK(facts.st_mode):
                raise Invalid(f"{path} is neither a file nor a block device")
            self.size = os.lseek(self._descriptor, 0, os.SEEK_END)
            if not self.size:
                raise Invalid(f"{path} is empty; a volume cannot have 0 bytes")
            self.description = f"{path} (raw)"
            self._is_file = stat.S_ISREG(facts.st_mode)
            self.fingerprint = self._fingerprint()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    def is_unchanged(self) -> bool:
        """Whether it is what was opened; always of a device."""
        return self._fingerprint() == self.fingerprint

    def extents(self, offset: int) -> Iterator[tuple[int, int]]:
        """What the file system has written; all of a device."""
        while offset < self.size:
            try:
                start = os.lseek(self._descriptor, offset, os.SEEK_DATA)
                end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise failure(error, self._path) from None
                start, end = offset, self.size  # it knows nothing of holes
            yield start, min(end, self.size) - start
            offset = end

    def read(self, offset: int, length: int) -> bytes:
        """Bytes within the size. Invalid: the file has become shorter."""
        parts: list[bytes] = []
        while length:
            try:
                part = os.pread(self._descriptor, length, offset)
            except OSError as error:
                raise failure(error, self._path) from None
            if not part:
                raise Invalid(f"{self._path} ends at byte {offset}: it has become shorter since it was opened")
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def _fingerprint(self) -> str:
        """Nothing for a device: what changes in it leaves no trace that could be looked at."""
        if not self._is_file:
            return ""
        return fingerprint("raw", self.size, [os.fstat(self._descriptor)], self._sample())

    def _sample(self) -> bytes:
        first = os.pread(self._descriptor, SAMPLE_BYTES, 0)
        return first + os.pread(self._descriptor, SAMPLE_BYTES, max(0, self.size - SAMPLE_BYTES))


class RawTarget:
    """A raw file that is written beside its final name; where nothing is written it has holes."""

    def __init__(self, path: Path, part: Path, size: int, *, resumed: bool) -> None:
        """NotFound (directory), Denied, NoSpace."""
        self._path = path
        self._part = part
        flags = os.O_RDWR | os.O_CLOEXEC | (0 if resumed else os.O_CREAT | os.O_TRUNC)
        try:
            self._descriptor = os.open(part, flags, 0o600)
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise failure(error, part) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    def write(self, offset: int, data: bytes) -> None:
        """Write a range. NoSpace, Unavailable."""
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                raise failure(error, self._part) from None
            view, offset = view[done:], offset + done

    def flush(self) -> None:
        """Durable on return."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise failure(error, self._part) from None

    def finish(self) -> None:
        """Give the file its name, durably."""
        self.flush()
        rename_durably(self._part, self._path)


def rename_durably(part: Path, path: Path) -> None:
    """Give a file its final name; durable on return."""
    try:
        part.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise failure(error, path) from None


def fingerprint(kind: str, size: int, files: list[os.stat_result], sample: bytes) -> str:
    """Of an image's content: sizes, times of change and a sample; it says "changed" too often rather than too seldom."""
    digest = hashlib.sha256(f"{kind} {size}".encode())
    for facts in files:
        digest.update(f" {facts.st_size} {facts.st_mtime_ns}".encode())
    digest.update(sample)
    return digest.hexdigest()[:40]


def failure(error: OSError, path: Path) -> VPoolError:
    """What the file system said, as ours."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"{path} does not exist")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Denied(f"{path}: {error.strerror}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace(f"{path}: {error.strerror}")
    if error.errno == errno.EISDIR:
        return Invalid(f"{path} is a directory")
    return Unavailable(f"{path}: {error.strerror}")
