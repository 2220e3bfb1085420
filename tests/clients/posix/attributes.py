"""Cases: permissions, owners, times, extended attributes, locks."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import time
from pathlib import Path
from typing import Any

from tests.clients.posix.observing import NOBODY, OTHERS, as_user, case, changed_times, kind_of, make, outcome

MODES = (0o777, 0o4755, 0o2755, 0o6777, 0o1777, 0)


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(os.lstat(path).st_mode))


@case
def modes_and_masks(top: Path) -> Any:
    found: list[Any] = []
    for mask in (0o022, 0, 0o777):
        old = os.umask(mask)
        for number, bits in enumerate(MODES):
            path = top / f"{mask:o}-{number}"
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, bits))
            os.mkdir(f"{path}.d", bits)
            os.mkfifo(f"{path}.p", bits)
            found += [mode(path), mode(Path(f"{path}.d")), mode(Path(f"{path}.p"))]
        os.umask(old)
    return found


@case
def privileges_that_go_with_a_write(top: Path) -> Any:
    def touched(change: str, bits: int, uid: int) -> str:
        path = make(top / f"{change}-{bits:o}-{uid}", "file")
        os.chown(path, NOBODY, NOBODY)
        os.chmod(path, bits)

        def act() -> str:
            descriptor = os.open(path, os.O_RDWR)
            try:
                match change:
                    case "write":
                        return str(outcome(os.write, descriptor, b"x"))
                    case "empty":
                        return str(outcome(os.write, descriptor, b""))
                    case "truncate":
                        return str(outcome(os.ftruncate, descriptor, 1))
                    case "read":
                        return str(outcome(os.read, descriptor, 1))
                    case "open":
                        return str(outcome(os.open, path, os.O_WRONLY | os.O_TRUNC))
                return str(outcome(os.fchown, descriptor, -1, -1))
            finally:
                os.close(descriptor)

        done = act() if uid == 0 else as_user(uid, uid, act)
        return f"{done} {mode(path)}"

    return {
        (change, bits, uid): touched(change, bits, uid)
        for change in ("write", "empty", "truncate", "read", "open", "chown")
        for bits in (0o4755, 0o2755, 0o2745, 0o6777)
        for uid in (0, NOBODY)
    }


@case
def changes_of_owner(top: Path) -> Any:
    found: list[Any] = []
    for kind in ("file", "directory", "symlink", "fifo"):
        for uid, gid in ((NOBODY, OTHERS), (-1, OTHERS), (NOBODY, -1), (0, 0), (4_000_000_000, 4_000_000_001)):
            path = make(top / f"{kind}{uid}{gid}", kind)
            if kind != "symlink":
                os.chmod(path, 0o6755)
            found.append(outcome(os.lchown, path, uid, gid))
            status = os.lstat(path)
            found.append((status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode))))
    path = make(top / "own", "file")
    os.chown(path, NOBODY, NOBODY)
    os.chmod(path, 0o6755)

    def as_owner() -> list[Any]:
        return [
            outcome(os.chown, path, 0, -1),
            outcome(os.chown, path, -1, OTHERS),
            mode(path),
            outcome(os.chown, path, -1, 777),
            outcome(os.chmod, path, 0o2755),
            mode(path),
        ]

    found.append(as_user(NOBODY, NOBODY, as_owner, groups=(777,)))
    return found, os.stat(path).st_gid


@case
def set_group_id_directories(top: Path) -> Any:
    directory = top / "d"
    directory.mkdir()
    os.chown(directory, NOBODY, OTHERS)
    os.chmod(directory, 0o2777)

    def fill(prefix: str) -> None:
        os.umask(0)
        os.close(os.open(directory / f"{prefix}-file", os.O_CREAT | os.O_WRONLY, 0o2775))
        os.mkdir(directory / f"{prefix}-directory", 0o755)
        os.symlink("x", directory / f"{prefix}-link")
        os.mkfifo(directory / f"{prefix}-fifo", 0o2755)

    mask = os.umask(0)
    fill("root")
    os.umask(mask)
    as_user(NOBODY, NOBODY, lambda: fill("nobody"))
    os.chmod(directory / "root-directory", 0o755)
    return {
        name: (os.lstat(directory / name).st_uid, os.lstat(directory / name).st_gid, mode(directory / name))
        for name in sorted(os.listdir(directory))
    }


@case
def sticky_directories(top: Path) -> Any:
    directory = top / "d"
    directory.mkdir()
    os.chmod(directory, 0o1777)
    for name in ("theirs", "mine", "other"):
        make(directory / name, "file")
        make(directory / f"{name}-d", "directory")
    for name in ("mine", "mine-d"):
        os.chown(directory / name, NOBODY, NOBODY)

    def act() -> list[Any]:
        return [
            outcome(os.unlink, directory / "theirs"),
            outcome(os.rmdir, directory / "theirs-d"),
            outcome(os.rename, directory / "mine", directory / "other"),
            outcome(os.rename, directory / "theirs", directory / "x"),
            outcome(os.rename, directory / "mine", directory / "moved"),
            outcome(os.link, directory / "moved", directory / "again"),
            outcome(os.unlink, directory / "moved"),
            outcome(os.rmdir, directory / "mine-d"),
        ]

    return as_user(NOBODY, NOBODY, act), sorted(os.listdir(directory))


@case
def what_others_may(top: Path) -> Any:
    os.chmod(top, 0o755)
    found: dict[Any, Any] = {}
    for bits in (0o700, 0o744, 0o711, 0o722, 0o777, 0o770):
        path = make(top / f"f{bits:o}", "file")
        directory = make(top / f"d{bits:o}", "full")
        for each in (path, directory):
            os.chown(each, 0, OTHERS)
            os.chmod(each, bits)

        def act(path: Path = path, directory: Path = directory) -> list[Any]:
            return [
                outcome(os.open, path, os.O_RDONLY),
                outcome(os.open, path, os.O_WRONLY),
                outcome(os.access, path, os.X_OK),
                outcome(os.truncate, path, 3),
                outcome(os.chmod, path, 0o777),
                outcome(os.utime, path),
                outcome(os.utime, path, (1, 1)),
                outcome(os.setxattr, path, "user.x", b"1"),
                outcome(lambda: sorted(os.listdir(directory))),
                outcome(lambda: os.stat(directory / "inner").st_size),
                outcome(os.unlink, directory / "none"),
                outcome(os.mkdir, directory / "made"),
                outcome(os.rename, directory / "inner", directory / "moved"),
            ]

        found[bits] = as_user(NOBODY, NOBODY, act), as_user(NOBODY, NOBODY, act, groups=(OTHERS,))
    return found


@case
def times_that_are_set(top: Path) -> Any:
    found: list[Any] = []
    for kind in ("file", "directory", "symlink", "fifo"):
        path = make(top / kind, kind)
        for atime, mtime in (
            (0, 1),
            (1_700_000_000_123_456_789, 999_999_999),
            (-5_000_000_000, -1),
            (1 << 33, 9_000_000_000 * 10**9),
        ):
            os.utime(path, ns=(atime, mtime), follow_symlinks=False)
            status = os.lstat(path)
            found.append((status.st_atime_ns, status.st_mtime_ns))
    path = top / "file"
    os.utime(path, ns=(5, 6))
    before = time.time_ns()
    os.utime(path)
    now = os.stat(path)
    found.append(all(abs(moment - before) < 5 * 10**9 for moment in (now.st_atime_ns, now.st_mtime_ns, now.st_ctime_ns)))
    (top / "file").write_bytes(b"new content")
    found.append(abs(os.stat(path).st_mtime_ns - time.time_ns()) < 5 * 10**9)
    os.utime(path, ns=(7, 8))
    with path.open("rb") as file:
        file.read()
    found.append(os.stat(path).st_mtime_ns)
    return found


@case
def times_that_change_by_themselves(top: Path) -> Any:
    """Which of the times of what is changed, and of its directory, each change moves."""
    found: dict[str, Any] = {}

    def look(name: str, watched: Path | int, change: Any) -> None:
        found[name] = changed_times(watched, change)

    file, directory = make(top / "file", "file"), make(top / "directory", "full")
    link = make(top / "symlink", "symlink")
    look("write", file, lambda: file.open("r+b").write(b"x") and None)
    look("write of nothing", file, lambda: os.write(os.open(file, os.O_WRONLY), b""))
    look("truncate", file, lambda: os.truncate(file, 100))
    look("open to truncate", file, lambda: file.open("wb").close())
    look("chmod", file, lambda: os.chmod(file, 0o600))
    look("chown", file, lambda: os.chown(file, 1, 1))
    look("setxattr", file, lambda: os.setxattr(file, "user.a", b"1"))
    look("removexattr", file, lambda: os.removexattr(file, "user.a"))
    look("refused removexattr", file, lambda: os.removexattr(file, "user.a"))
    look("link", file, lambda: os.link(file, top / "second"))
    look("unlink of one of two", file, lambda: os.unlink(top / "second"))
    watched = os.open(file, os.O_RDONLY)
    look("rename", watched, lambda: os.rename(file, top / "moved"))
    os.close(watched)
    file = top / "moved"
    look("directory of a rename", top, lambda: os.rename(file, top / "file"))
    file = top / "file"
    look("making", directory, lambda: os.close(os.open(directory / "new", os.O_CREAT)))
    look("opening what is there", directory, lambda: os.close(os.open(directory / "new", os.O_CREAT)))
    look("removing", directory, lambda: os.unlink(directory / "new"))
    look("linking into", directory, lambda: os.link(file, directory / "l"))
    look("making a directory in", directory, lambda: os.mkdir(directory / "sub"))
    look("removing a directory in", directory, lambda: os.rmdir(directory / "sub"))
    look("renaming out of", directory, lambda: os.rename(directory / "l", top / "l"))
    look("renaming into", directory, lambda: os.rename(top / "l", directory / "l"))
    look("renaming over", directory, lambda: os.rename(make(top / "l", "file"), directory / "l"))
    look("refused rename", directory, lambda: os.rename(directory, directory / "x"))
    watched = os.open(directory, os.O_RDONLY)
    look("moving a directory", watched, lambda: os.rename(directory, top / "elsewhere"))
    os.close(watched)
    look("reading a link", link, lambda: os.readlink(link))
    look("chmod of a directory", top, lambda: os.chmod(top, 0o755))
    for name in ("reading a link",):
        found[name] = found[name][0]  # whether a read moves atime depends on how the local disk is mounted
    return found


@case
def extended_attributes(top: Path) -> Any:
    file, directory, link, fifo = (make(top / kind, kind) for kind in ("file", "directory", "symlink", "fifo"))
    found: list[Any] = []
    for path in (file, directory, link, fifo):
        found += [
            outcome(os.setxattr, path, "user.a", b"1", 0, follow_symlinks=False),
            outcome(os.setxattr, path, "trusted.a", b"\0two", 0, follow_symlinks=False),
            outcome(os.setxattr, path, "user.a", b"2", os.XATTR_CREATE, follow_symlinks=False),
            outcome(os.setxattr, path, "user.b", b"2", os.XATTR_REPLACE, follow_symlinks=False),
            outcome(os.setxattr, path, "trusted.a", b"", os.XATTR_REPLACE, follow_symlinks=False),
            sorted(name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("security.")),
            outcome(os.getxattr, path, "trusted.a", follow_symlinks=False),
            outcome(os.getxattr, path, "user.a", follow_symlinks=False),
            outcome(os.removexattr, path, "user.a", follow_symlinks=False),
            outcome(os.removexattr, path, "user.a", follow_symlinks=False),
        ]
    for name in ("user.", "user", "", "other.x", "user." + "n" * 250, "user." + "n" * 251, "user.ü"):
        found.append((name, outcome(os.setxattr, file, name, b"x")))
    found.append(outcome(os.setxattr, file, "user.big", bytes(3000)))
    found.append(outcome(os.setxattr, file, "user.big", bytes(65537)))
    found.append(len(os.getxattr(file, "user.big")))
    capability = struct.pack("<IIIII", 0x0200_0001, 1 << 10, 0, 0, 0)
    found += [outcome(os.setxattr, file, "security.capability", capability), os.getxattr(file, "security.capability")]
    file.write_bytes(b"changed")
    found.append(outcome(os.getxattr, file, "security.capability"))
    os.link(file, top / "same")
    found.append(outcome(os.getxattr, top / "same", "trusted.a"))
    found.append(as_user(NOBODY, NOBODY, lambda: (outcome(os.getxattr, file, "trusted.a"), sorted(os.listxattr(file)))))
    return found


@case
def locks(top: Path) -> Any:
    path = make(top / "f", "file")
    mine = os.open(path, os.O_RDWR)

    def other(function: Any, kind: int) -> Any:
        def act() -> Any:
            return outcome(function, os.open(path, os.O_RDWR), kind | fcntl.LOCK_NB)

        return as_user(0, 0, act)

    found: list[Any] = []
    for function in (fcntl.flock, lambda descriptor, kind: fcntl.lockf(descriptor, kind, 10, 5)):
        found += [outcome(function, mine, fcntl.LOCK_SH), other(function, fcntl.LOCK_SH), other(function, fcntl.LOCK_EX)]
        found += [outcome(function, mine, fcntl.LOCK_EX), other(function, fcntl.LOCK_SH), outcome(function, mine, fcntl.LOCK_UN)]
        found.append(other(function, fcntl.LOCK_EX))
    os.close(mine)
    return found


@case
def device_numbers(top: Path) -> Any:
    found: list[Any] = []
    for major, minor in ((1, 3), (0, 0), (511, 255), (4095, (1 << 20) - 1), (259, 70_000)):
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            path = top / f"{major}-{minor}-{kind}"
            os.mknod(path, kind | 0o600, os.makedev(major, minor))
            status = os.lstat(path)
            found.append((kind_of(path), os.major(status.st_rdev), os.minor(status.st_rdev), status.st_size))
    return found
