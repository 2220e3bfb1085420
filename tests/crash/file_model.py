"""Random operations on a few files through a mount, beside a model of what must be in them; as fsx does, with kills.

An operation counts when its call has returned: then its effect must be there whatever happens to the daemon. What is stored
through a mapping counts when it has been synced (msync): before that it is in the kernel's memory, which goes with the mount.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import mmap
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SIZE_MAX = 3 << 20
PAGE = mmap.PAGESIZE
FILES = 4


class Mismatch(AssertionError):
    """The file is not what the model says."""


class File:
    """One file and what must be in it; ``content`` None: it does not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: bytearray | None = None
        self.descriptor: int | None = None

    def close(self) -> None:
        """Let go of the descriptor; after a kill that fails, and does not matter."""
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self.descriptor)
            self.descriptor = None

    def check(self) -> None:
        """Compare all of it, through a descriptor of its own."""
        if self.content is None:
            if self.path.exists():
                raise Mismatch(f"{self.path} was removed and is there")
            return
        found = self.path.read_bytes()
        if found != self.content:
            at = next((i for i, (a, b) in enumerate(zip(found, self.content, strict=False)) if a != b), None)
            raise Mismatch(f"{self.path}: {len(found)} bytes, expected {len(self.content)}; first difference at {at}")


def in_child(function: Callable[[], bool]) -> bool:
    """The answer of a function that touches mapped memory: without its daemon that is SIGBUS, which nobody survives.

    Raises:
        OSError: the mount has died.
    """
    child = os.fork()
    if child == 0:
        code = 2
        faulthandler.disable()
        try:
            code = 0 if function() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 2:
        raise OSError(errno.ENOTCONN, "the mount has died under a mapping")
    return os.WEXITSTATUS(status) == 0


def put(content: bytearray, offset: int, data: bytes) -> bytearray:
    """The content with a write in it."""
    changed = bytearray(content)
    if data and len(changed) < offset:
        changed.extend(bytes(offset - len(changed)))
    changed[offset : offset + len(data)] = data
    return changed


@dataclass
class Unsure:
    """What a file may be, apart from what it was, when the daemon has died in the middle of an operation.

    A write beyond the end and a cut are two records of the log: what is between them is a state, too. The kernel may split a
    write into several requests, which come one after the other.
    """

    file: File
    states: list[bytearray | None]
    is_mapped: bool = False
    written: tuple[int, bytes] | None = None  # offset and data of a write

    def is_possible(self, found: bytearray | None) -> bool:
        """Whether the file can be so."""
        if found in self.states:
            return True
        if found is None:
            return False
        return self.is_mixed(found) if self.is_mapped else self.is_begun(found)

    def is_begun(self, found: bytearray) -> bool:
        """The first requests of a write have been done; and of the next one, maybe, that the file is longer."""
        if self.written is None or self.file.content is None:
            return False
        offset, data = self.written
        pairs = zip(found[offset : offset + len(data)], data, strict=False)
        done = next((at for at, (have, wanted) in enumerate(pairs) if have != wanted), min(len(data), len(found) - offset))
        expected = put(self.file.content, offset, data[:done])
        return found == expected + bytes(max(0, len(found) - len(expected))) and len(found) <= max(
            len(expected), offset + len(data)
        )

    def is_mixed(self, found: bytearray) -> bool:
        """Stored through a mapping, the kernel writes page by page: each is the old or the new one."""
        old, new = self.file.content, self.states[0]
        assert old is not None
        assert new is not None
        pages = range(0, len(new), PAGE)
        return len(found) == len(new) and all(found[at : at + PAGE] in (old[at : at + PAGE], new[at : at + PAGE]) for at in pages)


class FileOperations:
    """Does them, by dice, to the files below ``top``; ``run`` until the mount dies or so many are done."""

    def __init__(self, top: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.files = [File(top / f"file-{number}") for number in range(FILES)]
        self.spare = top / "spare"
        self.log: list[str] = []
        self.done = 0
        self._unsure: Unsure | None = None
        self._operations = {
            self._write: 8,
            self._append: 2,
            self._read: 6,
            self._cut: 3,
            self._map: 3,
            self._map_read: 2,
            self._sync: 1,
            self._reopen: 2,
            self._empty: 1,
            self._replace: 1,
            self._remove: 1,
        }

    def run(self, operations: int) -> None:
        """OSError when the mount has died: of the operation under way nothing is known, all before it have happened."""
        for _ in range(operations):
            self._unsure = None
            (operation,) = self.dice.choices(list(self._operations), weights=list(self._operations.values()))
            file = self.dice.choice(self.files)
            self.log.append(f"{operation.__name__} {file.path.name}")
            operation(file)
            self.done += 1
        self._unsure = None

    def after_kill(self) -> None:
        """The operation that was under way may have happened or not; all else is as it was acknowledged."""
        for file in self.files:
            file.close()
        self.spare.unlink(missing_ok=True)
        if self._unsure is not None:
            self._settle(self._unsure)
        self.check()

    def _settle(self, unsure: Unsure) -> None:
        file = unsure.file
        found = bytearray(file.path.read_bytes()) if file.path.exists() else None
        if unsure.is_possible(found):
            file.content = found
        self._unsure = None

    def check(self) -> None:
        """All files against the model."""
        for file in self.files:
            file.check()

    # -- one operation each: what may be is said before the call, what is afterwards ---------------------------------------

    def _descriptor(self, file: File) -> int:
        if file.descriptor is None:
            if file.content is None:
                self._unsure = Unsure(file, [bytearray()])
            file.descriptor = os.open(file.path, os.O_RDWR | os.O_CREAT, 0o600)
            if file.content is None:
                file.content = bytearray()
        return file.descriptor

    def _place(self, file: File) -> tuple[int, int]:
        size = len(file.content or b"")
        offset = self.dice.choice((self.dice.randrange(size + 1), self.dice.randrange(SIZE_MAX), size // PAGE * PAGE))
        longest = min(SIZE_MAX - offset, self.dice.choice((10, 5000, 100_000, 600_000)))
        return offset, self.dice.randrange(1, max(2, longest))

    def _write(self, file: File) -> None:
        descriptor = self._descriptor(file)
        offset, length = self._place(file)
        data = self.dice.randbytes(length)
        assert file.content is not None
        self._unsure = Unsure(file, [], written=(offset, data))
        written = os.pwrite(descriptor, data, offset)
        file.content = put(file.content, offset, data[:written])
        if written != length:
            raise OSError("the mount has died in the middle of a write")

    def _append(self, file: File) -> None:
        self._descriptor(file)
        assert file.content is not None
        if len(file.content) >= SIZE_MAX:
            return
        data = self.dice.randbytes(self.dice.randrange(1, 20_000))
        self._unsure = Unsure(file, [], written=(len(file.content), data))
        with file.path.open("ab", buffering=0) as appending:
            assert appending.write(data) == len(data)
        file.content += data

    def _read(self, file: File) -> None:
        descriptor = self._descriptor(file)
        offset, length = self._place(file)
        found = os.pread(descriptor, length, offset)
        assert file.content is not None
        expected = file.content[offset : offset + length]
        if len(found) < len(expected) and found == expected[: len(found)]:
            raise OSError("the mount has died in the middle of a read")
        if found != expected:
            at = next((at for at, (have, wanted) in enumerate(zip(found, expected, strict=False)) if have != wanted), None)
            raise Mismatch(
                f"{file.path}: {len(found)} bytes read at {offset}, expected {len(expected)}; first difference at {at}"
            )

    def _cut(self, file: File) -> None:
        descriptor = self._descriptor(file)
        assert file.content is not None
        size = self.dice.choice((0, self.dice.randrange(SIZE_MAX), self.dice.randrange(len(file.content) + 1)))
        changed = file.content[:size] + bytes(max(0, size - len(file.content)))
        self._unsure = Unsure(file, [changed, changed + bytes(max(0, len(file.content) - size))])
        os.ftruncate(descriptor, size)
        file.content = changed

    def _map(self, file: File) -> None:
        descriptor = self._descriptor(file)
        assert file.content is not None
        if not file.content:
            return
        changed = bytearray(file.content)
        offset = self.dice.randrange(len(changed))
        length = self.dice.randrange(1, min(len(changed) - offset, 3 * PAGE) + 1)
        data = changed[offset : offset + length] = self.dice.randbytes(length)
        self._unsure = Unsure(file, [changed], is_mapped=True)

        def store() -> bool:
            with mmap.mmap(descriptor, len(changed)) as shared:
                shared[offset : offset + length] = data
                shared.flush()
            return True

        in_child(store)
        file.content = changed

    def _map_read(self, file: File) -> None:
        descriptor = self._descriptor(file)
        assert file.content is not None
        content = file.content

        def compare() -> bool:
            with mmap.mmap(descriptor, len(content), access=mmap.ACCESS_READ) as shared:
                return shared[:] == content

        if content and not in_child(compare):
            raise Mismatch(f"{file.path}: what is mapped is wrong")

    def _sync(self, file: File) -> None:
        os.fsync(self._descriptor(file))

    def _reopen(self, file: File) -> None:
        self._descriptor(file)
        file.close()
        self._descriptor(file)

    def _empty(self, file: File) -> None:
        self._descriptor(file)
        assert file.content is not None
        self._unsure = Unsure(file, [bytearray(), bytearray(len(file.content))])
        file.path.open("wb").close()
        file.content = bytearray()

    def _replace(self, file: File) -> None:
        data = bytearray(self.dice.randbytes(self.dice.randrange(200_000)))
        self.spare.write_bytes(data)
        self._unsure = Unsure(file, [data])
        self.spare.rename(file.path)
        file.close()
        file.content = data

    def _remove(self, file: File) -> None:
        self._descriptor(file)
        self._unsure = Unsure(file, [None])
        file.path.unlink()
        file.close()
        file.content = None
