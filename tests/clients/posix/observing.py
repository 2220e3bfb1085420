"""What a case of the comparison with a local file system can look at, in terms that do not depend on where it runs."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Case = Callable[[Path], Any]
CASES: dict[str, Case] = {}
IN_MEMORY: set[str] = set()
NOBODY, OTHERS = 65534, 12345  # a user, and a group that it is not in
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
}


def case(function: Case) -> Case:
    """Register a case: a function of an empty directory whose result must be the same on the mount and on a local disk."""
    assert function.__name__ not in CASES
    CASES[function.__name__] = function
    return function


def in_memory(function: Case) -> Case:
    """Compare this case with tmpfs and not with the disk."""
    IN_MEMORY.add(function.__name__)
    return function


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call returns (None for descriptors, which are closed), or the name of its errno."""
    try:
        result = function(*args, **kwargs)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    if function is os.open:
        os.close(result)
        return "opened"
    return result


def kind_of(path: Path | str) -> str:
    """The kind of what has a name; "none" if nothing has."""
    try:
        return _KINDS[stat.S_IFMT(os.lstat(path).st_mode)]
    except FileNotFoundError:
        return "none"


def tree(top: Path) -> dict[str, Any]:
    """All names below a directory with kind, permissions, owner, number of names, and content."""
    found: dict[str, Any] = {}
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            kind = _KINDS[stat.S_IFMT(status.st_mode)]
            content: object = None
            if kind == "file":
                content = Path(path).read_bytes()
            elif kind == "symlink":
                content = os.readlink(path)
            relative = os.path.relpath(path, top)
            found[relative] = (kind, oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid, status.st_nlink, content)
    return found


def make(path: Path, kind: str) -> Path:
    """Something of a kind; a "full" directory has a file in it, "other" is a second name of a file beside it."""
    match kind:
        case "none":
            pass
        case "file":
            path.write_bytes(path.name.encode())
        case "directory":
            path.mkdir()
        case "full":
            path.mkdir()
            (path / "inner").write_bytes(b"inner")
        case "symlink":
            path.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o644)
        case "character":
            os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 3))
        case "block":
            os.mknod(path, stat.S_IFBLK | 0o644, os.makedev(7, 300))
        case _:
            raise AssertionError(kind)
    return path


def as_user(uid: int, gid: int, function: Callable[[], Any], groups: tuple[int, ...] = ()) -> Any:
    """The result of a function that runs in a process of another user; made of what repr and eval carry."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        code = 0
        try:
            os.close(readable)
            os.setgroups(list(groups))
            os.setgid(gid)
            os.setuid(uid)
            os.write(writable, repr(function()).encode())
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            code = 1
        finally:
            os._exit(code)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child failed: {signal.Signals(status).name if os.WIFSIGNALED(status) else status}"
    return eval(data)


def changed_times(path: Path | int, change: Callable[[], Any]) -> tuple[Any, list[str]]:
    """The outcome of a change and which times of ``path`` it moved; all are set to the past first, but ctime, which cannot be."""
    past = 1_000_000_000_123_456_789
    follow: dict[str, Any] = {} if isinstance(path, int) else {"follow_symlinks": False}
    os.utime(path, ns=(past, past), **follow)
    before = os.stat(path, **follow)
    done = outcome(change)
    after = os.stat(path, **follow)
    names = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
    return done, [name for name in names if getattr(before, name) != getattr(after, name)]
