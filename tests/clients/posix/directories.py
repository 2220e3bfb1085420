"""Cases: listing, and what is used after it was removed."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
from pathlib import Path
from typing import Any

from tests.clients.posix.observing import as_user, case, make, outcome

MANY = 1500


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_ulong),
        ("d_off", ctypes.c_long),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


class Stream:
    """A directory stream of libc: readdir, telldir, seekdir."""

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.opendir.restype = ctypes.c_void_p
        self._libc.readdir.restype = ctypes.POINTER(_Dirent)
        self._libc.telldir.restype = ctypes.c_long
        self._stream = ctypes.c_void_p(self._libc.opendir(os.fsencode(path)))
        assert self._stream.value

    def read(self) -> str | None:
        entry = self._libc.readdir(self._stream)
        return os.fsdecode(entry.contents.d_name) if entry else None

    def tell(self) -> int:
        return int(self._libc.telldir(self._stream))

    def seek(self, place: int) -> None:
        self._libc.seekdir(self._stream, ctypes.c_long(place))

    def rewind(self) -> None:
        self._libc.rewinddir(self._stream)

    def rest(self) -> list[str]:
        names = []
        while (name := self.read()) is not None:
            names.append(name)
        return names

    def close(self) -> None:
        self._libc.closedir(self._stream)


def _filled(top: Path, number: int) -> Path:
    directory = top / "d"
    directory.mkdir()
    for at in range(number):
        (directory / f"{at:05}").touch()
    return directory


@case
def listing_while_names_are_removed(top: Path) -> Any:
    """As rm -r does: no name may be skipped, whatever is removed meanwhile."""
    directory = _filled(top, MANY)
    stream = Stream(directory)
    seen = []
    while (name := stream.read()) is not None:
        if name not in (".", ".."):
            seen.append(name)
            os.unlink(directory / name)
    stream.close()
    return sorted(seen) == [f"{at:05}" for at in range(MANY)], os.listdir(directory)


@case
def listing_while_names_come_and_go(top: Path) -> Any:
    """Names that stay are seen exactly once."""
    directory = _filled(top, MANY)
    stream = Stream(directory)
    seen: list[str] = []
    step = 0
    while (name := stream.read()) is not None:
        seen.append(name)
        step += 1
        if step % 7 == 0:
            (directory / f"new-{step}").touch()
        if step % 11 == 0 and step < MANY:
            os.unlink(directory / f"{step:05}")
    stream.close()
    removed = {f"{at:05}" for at in range(11, min(step + 1, MANY), 11)}
    stayed = [f"{at:05}" for at in range(MANY) if f"{at:05}" not in removed]
    return [name for name in stayed if seen.count(name) != 1], seen.count("."), seen.count("..")


@case
def places_in_a_listing(top: Path) -> Any:
    directory = _filled(top, 300)
    stream = Stream(directory)
    for _ in range(100):
        stream.read()
    place = stream.tell()
    first = stream.rest()
    stream.seek(place)
    second = stream.rest()
    stream.rewind()
    third = stream.rest()
    stream.close()
    return first == second, len(third), sorted(third) == sorted([".", "..", *os.listdir(directory)])


@case
def types_in_a_listing(top: Path) -> Any:
    for kind in ("file", "directory", "symlink", "fifo", "socket", "character", "block"):
        make(top / kind, kind)
    with os.scandir(top) as entries:
        found = {
            entry.name: (entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False), entry.is_symlink())
            for entry in entries
        }
        return found, {name: os.lstat(top / name).st_ino for name in found} == {e.name: e.inode() for e in os.scandir(top)}


@case
def counts_of_names(top: Path) -> Any:
    found = [top.stat().st_nlink]
    for name in ("a", "b", "c"):
        (top / name).mkdir()
        found.append(top.stat().st_nlink)
    os.rename(top / "a", top / "b/a")
    found += [top.stat().st_nlink, (top / "b").stat().st_nlink]
    os.rename(top / "c", top / "b/a")
    os.rmdir(top / "b/a")
    found += [top.stat().st_nlink, (top / "b").stat().st_nlink]
    make(top / "f", "file")
    for number in range(50):
        os.link(top / "f", top / f"f{number}")
    found.append((top / "f").stat().st_nlink)
    return found


@case
def a_directory_that_is_removed_while_open(top: Path) -> Any:
    directory = top / "d"
    directory.mkdir()
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir(directory)
    status = os.fstat(descriptor)
    found = [
        stat.S_ISDIR(status.st_mode),
        status.st_nlink,
        outcome(os.listdir, descriptor),
        outcome(os.mkdir, "x", dir_fd=descriptor),
        outcome(os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor),
        outcome(os.stat, "x", dir_fd=descriptor),
        outcome(os.fchmod, descriptor, 0o700),
        oct(stat.S_IMODE(os.fstat(descriptor).st_mode)),
        outcome(os.fsync, descriptor),
    ]
    os.close(descriptor)
    return found


@case
def a_working_directory_that_is_removed(top: Path) -> Any:
    directory = top / "d"
    directory.mkdir()

    def act() -> list[Any]:
        os.chdir(directory)
        os.rmdir(directory)
        return [
            outcome(os.getcwd),
            outcome(lambda: os.stat(".").st_nlink),
            outcome(os.listdir, "."),
            outcome(os.mkdir, "x"),
            outcome(os.stat, "x"),
            outcome(lambda: stat.S_ISDIR(os.stat("..").st_mode)),
        ]

    return as_user(0, 0, act)


@case
def things_that_are_removed_while_open(top: Path) -> Any:
    found: dict[str, Any] = {}
    for kind in ("file", "fifo"):
        path = make(top / kind, kind)
        descriptor = os.open(path, os.O_RDWR)
        os.unlink(path)
        make(path, "file")
        status = os.fstat(descriptor)
        found[kind] = [
            status.st_nlink,
            status.st_ino != os.stat(path).st_ino,
            outcome(os.fchmod, descriptor, 0o640),
            oct(stat.S_IMODE(os.fstat(descriptor).st_mode)),
            outcome(os.fchown, descriptor, 1, 2),
            os.fstat(descriptor).st_uid,
            outcome(os.utime, descriptor, ns=(1, 2)),
            os.fstat(descriptor).st_mtime_ns,
            outcome(os.open, f"/proc/self/fd/{descriptor}", os.O_RDWR),
            outcome(os.link, f"/proc/self/fd/{descriptor}", top / "revived", follow_symlinks=True),
        ]
        os.close(descriptor)
    path = make(top / "by-path", "symlink")
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    os.unlink(path)
    found["symlink"] = [os.fstat(descriptor).st_nlink, outcome(os.readlink, "", dir_fd=descriptor)]
    os.close(descriptor)
    return found


@case
def a_file_that_is_replaced_while_open(top: Path) -> Any:
    path = make(top / "f", "file")
    old = os.open(path, os.O_RDWR)
    make(top / "new", "file")
    os.rename(top / "new", path)
    os.pwrite(old, b"still mine", 0)
    found = [os.fstat(old).st_nlink, os.pread(old, 100, 0), path.read_bytes()]
    os.close(old)
    return found


@case
def sockets_and_pipes(top: Path) -> Any:
    os.chdir(top)  # the path of a socket has at most 107 bytes
    server = socket.socket(socket.AF_UNIX)
    server.bind("s")
    server.listen(1)
    client = socket.socket(socket.AF_UNIX)
    client.connect("s")
    accepted, _ = server.accept()
    client.sendall(b"hello")
    found: list[Any] = [accepted.recv(10), stat.S_ISSOCK(os.stat("s").st_mode)]
    for each in (client, accepted, server):
        each.close()
    refused = socket.socket(socket.AF_UNIX)
    found += [outcome(refused.connect, "s"), outcome(os.unlink, "s"), outcome(refused.connect, "s")]
    refused.close()
    os.mkfifo("p")
    child = os.fork()
    if child == 0:
        descriptor = os.open("p", os.O_WRONLY)
        os.write(descriptor, b"through the pipe")
        os._exit(0)
    with open("p", "rb") as reading:
        found.append(reading.read())
    os.waitpid(child, 0)
    os.chdir("/")
    return found
