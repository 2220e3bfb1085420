"""The kernel's side of one FUSE connection, by its control file system (fusectl).

The kernel hands out at most ``max_background`` asynchronous requests of a connection at once, 12 unless told otherwise: reads and
writes of ``io_submit`` and io_uring, read-ahead, write-back of mapped files. Twelve writes that wait for room would hold up all
asynchronous reads, so the limit is raised to what the daemon is set to take.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import structlog

log = structlog.get_logger()

_CONNECTIONS = Path("/sys/fs/fuse/connections")  # where distributions mount fusectl
_UNPRIVILEGED_MAX = Path("/sys/module/fuse/parameters/max_user_bgreq")
_CONGESTED_SHARE = 0.75  # from there on the kernel reads less ahead; the kernel's own default
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on all architectures
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6


def allow_background(number: int, requests_max: int) -> bool:
    """Let the kernel hand out so many asynchronous requests of a connection at once; False, with a warning, if it cannot be.

    Call it after INIT has been answered: the answer carries limits too. Does not block on the mount.

    Args:
        number: of the connection, the minor number of the mount's device.
        requests_max: 1 to 65,535; less is taken where an unprivileged user may not have as much.
    """
    try:
        with _control(number) as directory:
            try:
                _set_limits(directory, requests_max)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                _set_limits(directory, min(requests_max, int(_UNPRIVILEGED_MAX.read_text(encoding="ascii"))))
    except OSError as error:
        log.warning(
            "fuse_background_limit_stays",
            wanted=requests_max,
            reason=str(error),
            consequence="a few asynchronous writes that wait for room hold up all asynchronous reads",
            remedy="mount -t fusectl fusectl /sys/fs/fuse/connections, or run as root",
        )
        return False
    return True


def abort(number: int) -> None:
    """End a connection: whoever waits for an answer, and whoever asks later, gets an error.

    Raises:
        FileNotFoundError: there is no such connection.
        OSError: the kernel refuses, or shows its connections neither here nor to this user.
    """
    with _control(number) as directory:
        _write(directory, "abort", 1)


def _set_limits(directory: int, requests_max: int) -> None:
    _write(directory, "max_background", requests_max)
    _write(directory, "congestion_threshold", max(1, int(requests_max * _CONGESTED_SHARE)))


def _write(directory: int, name: str, value: int) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(file, str(value).encode("ascii"))
    finally:
        os.close(file)


@contextlib.contextmanager
def _control(number: int) -> Iterator[int]:
    """The directory of a connection, open: in a mount that nobody sees and that ends here, else where fusectl is mounted."""
    try:
        top = _detached_fusectl()  # first: where it is mounted a service may find it read-only
    except OSError:
        top = os.open(_CONNECTIONS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        directory = os.open(str(number), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
        try:
            yield directory
        finally:
            os.close(directory)
    finally:
        os.close(top)


def _detached_fusectl() -> int:
    """A mount of fusectl outside of every name space (Linux 5.2, CAP_SYS_ADMIN); it goes when its descriptor is closed."""
    context = _syscall(_FSOPEN, b"fusectl", _FSOPEN_CLOEXEC)
    try:
        _syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
