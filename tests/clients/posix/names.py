"""Cases: names, and what may be done with which kind of thing."""

from __future__ import annotations

import ctypes
import itertools
import os
import stat
from pathlib import Path
from typing import Any

from tests.clients.posix.observing import case, kind_of, make, outcome, tree

KINDS = ("file", "directory", "full", "symlink", "fifo", "socket", "character", "block")
TARGETS = ("none", *KINDS)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
AT_FDCWD = -100


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _renames(top: Path, flags: int, *, across: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for source, target in itertools.product(KINDS, TARGETS):
        work = top / f"{source}-{target}"
        (work / "a").mkdir(parents=True)
        (work / "b").mkdir()
        old, new = work / "a/old", work / ("b/new" if across else "a/new")
        make(old, source)
        make(new, target)
        done = outcome(renameat2, old, new, flags)
        found[work.name] = (done, tree(work), (work / "a").stat().st_nlink, (work / "b").stat().st_nlink)
    return found


@case
def rename_of_every_kind_over_every_kind(top: Path) -> Any:
    return _renames(top, 0, across=False)


@case
def rename_across_directories(top: Path) -> Any:
    return _renames(top, 0, across=True)


@case
def rename_without_replacing(top: Path) -> Any:
    return _renames(top, NOREPLACE, across=True)


@case
def rename_in_exchange(top: Path) -> Any:
    return _renames(top, EXCHANGE, across=True)


@case
def rename_of_odd_pairs(top: Path) -> Any:
    (top / "d/e/f").mkdir(parents=True)
    make(top / "file", "file")
    os.link(top / "file", top / "d/same")
    return [
        outcome(os.rename, top / "d", top / "d/e/f/g"),
        outcome(renameat2, top / "d", top / "d/e/f", EXCHANGE),
        outcome(renameat2, top / "d/e/f", top / "d", EXCHANGE),
        outcome(os.rename, top / "d/e", top / "d"),
        outcome(os.rename, top / "file", top / "d/same"),
        outcome(renameat2, top / "file", top / "d/same", EXCHANGE),
        outcome(renameat2, top / "file", top / "other", NOREPLACE | EXCHANGE),
        outcome(renameat2, top / "file", top / "other", EXCHANGE),
        outcome(os.rename, top / "d/.", top / "x"),
        outcome(os.rename, top / "d", top / "x/.."),
        outcome(os.rename, top / "file", top / "none/x"),
        outcome(os.rename, top / "file", top / "file/x"),
        outcome(os.rename, f"{top}/file/", top / "x"),
        outcome(os.rename, f"{top}/d/", f"{top}/z/"),
        outcome(os.rename, top / "file", f"{top}/new/"),
        tree(top),
    ]


@case
def removal_of_every_kind(top: Path) -> Any:
    found: dict[str, Any] = {}
    for kind, remove in itertools.product(TARGETS, (os.unlink, os.rmdir)):
        path = make(top / f"{kind}-{remove.__name__}", kind)
        found[path.name] = (outcome(remove, path), kind_of(path))
    (top / "dots/inner").mkdir(parents=True)
    found["dot"] = outcome(os.rmdir, f"{top}/dots/inner/.")
    found["dots"] = outcome(os.rmdir, f"{top}/dots/inner/..")
    found["slash"] = outcome(os.unlink, f"{make(top / 'file', 'file')}/")
    found["slash of a directory"] = outcome(os.rmdir, f"{top}/dots/inner/")
    return found


@case
def open_of_every_kind_in_every_way(top: Path) -> Any:
    ways = {
        "read": os.O_RDONLY,
        "write": os.O_WRONLY,
        "create": os.O_RDWR | os.O_CREAT,
        "exclusive": os.O_RDWR | os.O_CREAT | os.O_EXCL,
        "truncate": os.O_RDWR | os.O_TRUNC,
        "directory": os.O_RDONLY | os.O_DIRECTORY,
        "no link": os.O_RDONLY | os.O_NOFOLLOW,
        "create, no link": os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW,
        "path": os.O_PATH | os.O_NOFOLLOW,
        "append": os.O_WRONLY | os.O_APPEND,
        "sync": os.O_RDWR | os.O_SYNC,
        "no time": os.O_RDONLY | os.O_NOATIME,
    }
    found: dict[str, Any] = {}
    for kind in ("none", "file", "directory", "symlink", "fifo", "socket"):
        for way, flags in ways.items():
            path = make(top / f"{kind}-{way}", kind)
            found[path.name] = (outcome(os.open, path, flags | os.O_NONBLOCK, 0o640), kind_of(path))
    return found, tree(top)


@case
def making_where_something_is(top: Path) -> Any:
    found: dict[str, Any] = {}
    for kind in TARGETS:
        for name, function in (
            ("mkdir", os.mkdir),
            ("mkfifo", os.mkfifo),
            ("mknod", lambda path: os.mknod(path, stat.S_IFREG | 0o600)),
            ("symlink", lambda path: os.symlink("target", path)),
            ("link", lambda path: os.link(make(path.with_name(f"{path.name}.of"), "file"), path)),
        ):
            path = make(top / f"{kind}-{name}", kind)
            found[path.name] = (outcome(function, path), kind_of(path))
    return found


@case
def links_to_every_kind(top: Path) -> Any:
    found: dict[str, Any] = {}
    for kind in TARGETS:
        path = make(top / kind, kind)
        found[kind] = (outcome(os.link, path, top / f"{kind}-2", follow_symlinks=False), kind_of(top / f"{kind}-2"))
    (top / "to-file").symlink_to("file")
    found["followed"] = outcome(os.link, top / "to-file", top / "followed", follow_symlinks=True), kind_of(top / "followed")
    return found, tree(top)


@case
def lengths_of_names(top: Path) -> Any:
    found = []
    for name in ("a" * 255, "a" * 256, "ü" * 127, "ü" * 128, "a" * 1000, "\udcff\udcfe", "back\\slash", " ", "new\nline", "..."):
        path = top / name
        found += [
            outcome(os.mkdir, path),
            outcome(os.open, path / "x", os.O_CREAT | os.O_WRONLY, 0o600),
            outcome(os.unlink, path / "x"),
            outcome(os.rmdir, path),
            outcome(os.symlink, "t", path),
            outcome(os.rename, path, top / "moved"),
            outcome(os.unlink, top / "moved"),
            outcome(os.stat, path) if len(os.fsencode(name)) > 255 else None,
            outcome(os.link, top / "none", path),
        ]
    return found, sorted(os.listdir(os.fsencode(top)))


@case
def symbolic_links(top: Path) -> Any:
    for number in range(45):
        (top / f"l{number}").symlink_to(f"l{number + 1}")
    (top / "l45").write_bytes(b"end")
    (top / "self").symlink_to("self")
    (top / "a").symlink_to("b")
    (top / "b").symlink_to("a")
    found: list[Any] = [outcome(lambda n=number: (top / f"l{n}").read_bytes()) for number in (0, 4, 5, 6, 20)]
    found += [outcome(lambda name=name: (top / name).read_bytes()) for name in ("self", "a")]
    for length in (0, 1, 4095, 4096):
        target = "x" * length
        found.append((length, outcome(os.symlink, target, top / f"t{length}")))
        if kind_of(top / f"t{length}") == "symlink":
            status = os.lstat(top / f"t{length}")
            found += [os.readlink(top / f"t{length}") == target, status.st_size, oct(stat.S_IMODE(status.st_mode))]
    found.append(outcome(os.readlink, make(top / "file", "file")))
    os.symlink("\udcff/..", top / "bytes")
    return found, os.readlink(os.fsencode(top / "bytes"))


@case
def paths_through_what_is_no_directory(top: Path) -> Any:
    make(top / "file", "file")
    make(top / "fifo", "fifo")
    (top / "link").symlink_to("file")
    (top / "dangling").symlink_to("nowhere/at/all")
    found: dict[str, Any] = {}
    for through in ("file", "fifo", "link", "dangling", "none"):
        path = top / through / "x"
        found[through] = [
            outcome(os.stat, path),
            outcome(os.mkdir, path),
            outcome(os.open, path, os.O_CREAT | os.O_WRONLY, 0o600),
            outcome(os.unlink, path),
            outcome(os.rename, path, top / "y"),
            outcome(os.listdir, top / through) if through != "fifo" else None,
        ]
    found["created through a link"] = outcome(os.open, top / "dangling", os.O_CREAT | os.O_WRONLY, 0o600)
    return found
