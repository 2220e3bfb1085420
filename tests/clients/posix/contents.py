"""Cases: what is in files, and how much room it takes."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

from tests.clients.posix.observing import case, in_memory, make, outcome

CLUSTER = 4096


def room(descriptor: int) -> tuple[int, int]:
    """Size and bytes that are there, as st_blocks tells them when all is on disk."""
    os.fsync(descriptor)
    status = os.fstat(descriptor)
    return status.st_size, status.st_blocks * 512


@in_memory
@case
def sparse_files(top: Path) -> Any:
    """Compared with a file system in memory: others count what they need to find the pieces, too."""
    descriptor = os.open(top / "f", os.O_RDWR | os.O_CREAT, 0o600)
    found: list[Any] = [room(descriptor)]

    def look() -> None:
        found.append(room(descriptor))

    os.pwrite(descriptor, b"x", 0)
    look()
    os.pwrite(descriptor, b"x" * CLUSTER, 10 * CLUSTER)
    look()
    os.pwrite(descriptor, b"across", 5 * CLUSTER - 3)
    look()
    os.ftruncate(descriptor, 1 << 30)
    look()
    os.pwrite(descriptor, b"end", (1 << 30) - 1)
    look()
    os.pwrite(descriptor, b"again", 10 * CLUSTER)
    look()
    os.ftruncate(descriptor, 10 * CLUSTER + 1)
    look()
    found.append(os.pread(descriptor, CLUSTER, 5 * CLUSTER - 10))
    os.ftruncate(descriptor, 20 * CLUSTER)
    look()
    found.append(os.pread(descriptor, 2 * CLUSTER, 10 * CLUSTER))
    os.ftruncate(descriptor, 0)
    look()
    os.pwrite(descriptor, b"z", 5_000_000)
    look()
    found.append(os.pread(descriptor, 10, 4_999_998))
    os.close(descriptor)
    found.append((top / "f").stat().st_blocks)
    return found


@case
def room_of_an_open_file_without_a_name(top: Path) -> Any:
    descriptor = os.open(top / "f", os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink(top / "f")
    os.pwrite(descriptor, b"x" * 100_000, 0)
    os.ftruncate(descriptor, 50_000)
    found = room(descriptor), os.fstat(descriptor).st_nlink, os.pread(descriptor, 10, 49_995), os.listdir(top)
    os.close(descriptor)
    return found


@case
def truncation_of_every_kind(top: Path) -> Any:
    found: dict[str, Any] = {}
    for kind in ("none", "file", "directory", "symlink", "fifo", "socket", "character"):
        path = make(top / kind, kind)
        found[kind] = [outcome(os.truncate, path, size) for size in (5, 0, -1, 1 << 62)]
    reading = os.open(top / "file", os.O_RDONLY)
    found["read only"] = outcome(os.ftruncate, reading, 1)
    os.close(reading)
    return found


@case
def reads_and_writes_at_odd_places(top: Path) -> Any:
    descriptor = os.open(top / "f", os.O_RDWR | os.O_CREAT, 0o600)
    found: list[Any] = [os.pread(descriptor, 10, 0), os.pread(descriptor, 10, 1 << 40), os.pwrite(descriptor, b"", 1 << 20)]
    found.append(os.fstat(descriptor).st_size)
    found += [outcome(os.pread, descriptor, 10, -1), outcome(os.pwrite, descriptor, b"x", -1)]
    os.pwrite(descriptor, b"0123456789", 3)
    os.lseek(descriptor, 5, os.SEEK_SET)
    os.write(descriptor, b"XY")
    found += [os.lseek(descriptor, 0, os.SEEK_CUR), os.lseek(descriptor, 0, os.SEEK_END), outcome(os.lseek, descriptor, -1, 0)]
    found.append(os.pread(descriptor, 100, 0))
    os.writev(descriptor, [b"a" * 5000, b"b", b"c" * 9000])
    found += [os.fstat(descriptor).st_size, os.pread(descriptor, 12, 5005)]
    reading = os.open(top / "f", os.O_RDONLY)
    found += [outcome(os.write, reading, b"x"), outcome(os.pread, os.open(top, os.O_RDONLY), 1, 0)]
    os.close(reading)
    os.close(descriptor)
    return found


@case
def appending(top: Path) -> Any:
    path = top / "f"
    one = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    two = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in range(100):
        os.write(one if number % 2 else two, b"%03d" % number)
    os.lseek(one, 0, os.SEEK_SET)
    os.write(one, b"end")
    os.truncate(path, 150)
    os.write(two, b"after")
    os.close(one)
    os.close(two)
    return path.read_bytes()


@case
def appending_processes(top: Path) -> Any:
    path = top / "f"
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            for _ in range(50):
                os.write(descriptor, b"%d" % number * 10)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    data = path.read_bytes()
    pieces = [data[at : at + 10] for at in range(0, len(data), 10)]
    return len(data), all(len(set(piece)) == 1 for piece in pieces), sorted(pieces)[::50]


@case
def shared_memory(top: Path) -> Any:
    path = top / "f"
    path.write_bytes(b"a" * 3 * CLUSTER)
    descriptor = os.open(path, os.O_RDWR)
    found: list[Any] = []
    with mmap.mmap(descriptor, 0) as shared, mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY) as private:
        shared[CLUSTER - 3 : CLUSTER + 3] = b"shared"
        found.append(os.pread(descriptor, 10, CLUSTER - 5))
        os.pwrite(descriptor, b"written", 2 * CLUSTER)
        found.append(shared[2 * CLUSTER : 2 * CLUSTER + 7])
        private[:7] = b"private"
        shared.flush()
        found.append(path.read_bytes()[:10])
        found.append(bytes(private[CLUSTER - 3 : CLUSTER + 3]))
        os.close(descriptor)
        shared[0:5] = b"after"
    again = os.open(path, os.O_RDONLY)
    found += [os.pread(again, 5, 0), outcome(lambda: mmap.mmap(again, 0, access=mmap.ACCESS_WRITE))]
    os.close(again)
    return found


@case
def memory_of_a_file_without_a_name(top: Path) -> Any:
    path = top / "f"
    path.write_bytes(bytes(CLUSTER))
    descriptor = os.open(path, os.O_RDWR)
    with mmap.mmap(descriptor, 0) as shared:
        path.unlink()
        os.close(descriptor)
        shared[:4] = b"gone"
        shared.flush()
        return shared[:8]


@case
def direct_transfers(top: Path) -> Any:
    path = top / "f"
    buffer = mmap.mmap(-1, 4 * CLUSTER)
    buffer.write(os.urandom(4 * CLUSTER))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    found: list[Any] = [os.pwritev(descriptor, [buffer], 4 * CLUSTER)]
    target = mmap.mmap(-1, 4 * CLUSTER)
    found += [os.preadv(descriptor, [target], 4 * CLUSTER), target[:] == buffer[:]]
    found += [os.preadv(descriptor, [target], 0), target[:] == bytes(4 * CLUSTER)]
    found.append(path.read_bytes()[4 * CLUSTER :] == buffer[:])
    with path.open("r+b", buffering=0) as file:
        file.seek(5 * CLUSTER)
        file.write(b"through the cache")
    found += [os.preadv(descriptor, [target], 4 * CLUSTER), target[CLUSTER : CLUSTER + 17]]
    os.close(descriptor)
    return found


@case
def opening_with_truncation(top: Path) -> Any:
    path = top / "f"
    path.write_bytes(b"old" * 10_000)
    other = os.open(path, os.O_RDONLY)
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    found: list[Any] = [os.fstat(other).st_size, os.pread(other, 10, 0)]
    os.write(descriptor, b"new")
    found += [os.pread(other, 10, 0), room(descriptor)]
    os.close(descriptor)
    os.close(other)
    return found


@case
def copies_within_the_kernel(top: Path) -> Any:
    source = top / "source"
    source.write_bytes(os.urandom(200_000))
    reading, writing = os.open(source, os.O_RDONLY), os.open(top / "copy", os.O_RDWR | os.O_CREAT, 0o600)
    copied = 0
    while copied < 200_000:
        copied += os.copy_file_range(reading, writing, 200_000 - copied)
    found: list[Any] = [copied, (top / "copy").read_bytes() == source.read_bytes()]
    os.lseek(writing, 0, os.SEEK_SET)
    found += [os.sendfile(writing, reading, 100, 50), os.pread(writing, 50, 0) == source.read_bytes()[100:150]]
    libc = ctypes.CDLL(None, use_errno=True)
    found += [libc.posix_fallocate(writing, ctypes.c_long(0), ctypes.c_long(500_000)), os.fstat(writing).st_size]
    os.close(reading)
    os.close(writing)
    return found
