"""What the kernel says is mounted where, and cleaning up after a killed daemon; never asks a mount that may not answer.

A path is resolved from its parent, and looked at only if nothing is mounted on it: even ``lstat`` of a mount point waits for the
file system mounted there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from fuse import connection
from vpool.errors import Conflict, Denied, Invalid, Unavailable

SUBTYPE = "vpool"
_LINKS_MAX = 40
_MNT_DETACH = 2
_ANSWER_S = 5.0
_OCTAL = re.compile(rb"\\([0-7]{3})")
_CAP_SYS_ADMIN = 1 << 21
_CONFIGURATION = Path("/etc/fuse.conf")


class Answer(Enum):
    """What comes back from the daemon behind a mount."""

    ALIVE = "alive"
    DEAD = "dead"  # there is no daemon any more; every access gets ENOTCONN
    SILENT = "silent"  # there is one, and it says nothing


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of /proc/self/mountinfo."""

    mountpoint: str
    kind: str  # "ext4", "fuse.vpool"
    source: str
    device: str  # "0:57"

    @property
    def connection(self) -> int:
        """The number by which the kernel knows the FUSE connection behind the mount."""
        return int(self.device.partition(":")[2])


def mounted() -> list[MountEntry]:
    """All mounts that this process sees, in the order they were made."""
    entries = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        kind, source, *_ = [*right.split(b" "), b""]
        _, _, device, _, mountpoint, *_ = left.split(b" ")
        entries.append(MountEntry(_text(mountpoint), _text(kind), _text(source), _text(device)))
    return entries


def mount_on(path: str) -> MountEntry | None:
    """What is mounted on exactly this path; the uppermost one."""
    return next((entry for entry in reversed(mounted()) if entry.mountpoint == path), None)


def resolve(path: Path) -> Path:
    """The absolute path without symbolic links, without asking a file system that is mounted on it.

    Raises:
        Invalid: symbolic links go round in a circle.
    """
    current = os.path.abspath(path)
    for _ in range(_LINKS_MAX):
        current = os.path.join(os.path.realpath(os.path.dirname(current)), os.path.basename(current))
        if mount_on(current) is not None or not os.path.islink(current):
            return Path(current)
        current = os.path.join(os.path.dirname(current), os.readlink(current))
        current = os.path.abspath(current)
    raise Invalid(f"{path}: too many symbolic links")


def source_name(vpool_id: str) -> str:
    """What our mounts show as their source."""
    return f"vpool:{vpool_id}"


def check_mountpoint(mountpoint: Path, vpool_id: str | None) -> bool:
    """See that a resolved path can be mounted on; True if a dead mount of ours has to be removed first (``detach``).

    Raises:
        Invalid: it is missing, not a directory, or not empty.
        Conflict: something is mounted there.
        Denied: it may not be read.
    """
    entry = mount_on(str(mountpoint))
    if entry is None:
        _check_directory(mountpoint)
        return False
    if not is_ours(entry):
        raise Conflict(
            f"{mountpoint} is in use: {entry.source} ({entry.kind}) is mounted there; unmount it or name another directory"
        )
    if answer_of(mountpoint) is not Answer.DEAD:
        raise Conflict(f"{mountpoint} is in use: a running vPool is mounted there; stop that daemon or name another directory")
    if vpool_id is None or entry.source != source_name(vpool_id):
        raise Conflict(f"{mountpoint} has the dead mount of another vPool; remove it with: vpool umount {mountpoint}")
    return True


def is_ours(entry: MountEntry) -> bool:
    """Whether a mount is one of vPool's."""
    return entry.kind == f"fuse.{SUBTYPE}"


def may_mount() -> bool:
    """Whether this process may mount and unmount by itself; others go by way of fusermount3, which is setuid root."""
    if os.geteuid() == 0:
        return True
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _CAP_SYS_ADMIN)
    return False


def may_let_others_in() -> bool:
    """Whether other users, as hypervisors are, may use a mount of this process. fuse.conf(5) decides for unprivileged ones."""
    if may_mount():
        return True
    try:
        lines = _CONFIGURATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return "user_allow_other" in (line.strip() for line in lines)


def abort(mountpoint: Path) -> None:
    """End the connection behind a mount: all that wait for an answer, and all later requests, get an error. Nothing for no mount.

    Raises:
        Unavailable: the kernel refuses.
    """
    entry = mount_on(str(mountpoint))
    if entry is None or not is_ours(entry):
        return
    try:
        connection.abort(entry.connection)
    except FileNotFoundError:
        return  # it has ended, or the kernel shows no connections here: detaching does the rest
    except OSError as error:
        raise Unavailable(f"the connection behind {mountpoint} cannot be ended: {error.strerror}") from None


def detach(mountpoint: Path) -> None:
    """Take a mount out of the name space at once, also if it is in use.

    Raises:
        Unavailable: the kernel refuses.
    """
    if not may_mount():
        refusal = _fusermount("-z", mountpoint)
        if refusal and mount_on(str(mountpoint)) is not None:
            raise Unavailable(f"{mountpoint} cannot be unmounted: {refusal}")
    elif (code := _umount2(mountpoint, _MNT_DETACH)) not in (0, errno.EINVAL):
        raise Unavailable(f"{mountpoint} cannot be unmounted: {os.strerror(code)}")


def unmount(mountpoint: Path) -> bool:
    """Unmount if nobody uses it; False if somebody does.

    Blocks until the kernel has written back what it holds; the daemon must go on serving meanwhile.
    """
    if not may_mount():
        return not _fusermount("-q", mountpoint)
    return _umount2(mountpoint, 0) == 0


def _umount2(mountpoint: Path, flags: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.umount2(os.fsencode(mountpoint), flags) == 0 else ctypes.get_errno()


def _fusermount(option: str, mountpoint: Path) -> str:
    """What fusermount3 complains of; empty if it has done what it should."""
    command = ["fusermount3", "-u", option, "--", str(mountpoint)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def _check_directory(mountpoint: Path) -> None:
    try:
        with os.scandir(mountpoint) as entries:
            first = next(entries, None)
    except FileNotFoundError:
        raise Invalid(f"the mount point {mountpoint} does not exist; make it with: mkdir {mountpoint}") from None
    except NotADirectoryError:
        raise Invalid(f"the mount point {mountpoint} is not a directory") from None
    except PermissionError:
        raise Denied(f"the mount point {mountpoint} cannot be read; run as its owner or as root") from None
    if first is not None:
        raise Invalid(f"the mount point {mountpoint} is not empty (it has {first.name!r}); the mount would hide what is in it")


def answer_of(mountpoint: Path) -> Answer:
    """Whether the daemon behind a FUSE mount lives. Asked in a process of its own, to be left behind if no answer comes."""
    asked = subprocess.Popen(  # noqa: S603
        ["stat", "--file-system", "--", str(mountpoint)],  # noqa: S607
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )
    try:
        _, said = asked.communicate(timeout=_ANSWER_S)
    except subprocess.TimeoutExpired:
        asked.kill()  # it ends when the daemon answers, or its connection is ended: not to be waited for here
        return Answer.SILENT
    gone = (b"endpoint is not connected", b"Software caused connection abort")
    return Answer.DEAD if any(words in said for words in gone) else Answer.ALIVE


def _text(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))
