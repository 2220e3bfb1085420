"""Which daemons run on this machine: a small directory of links, one per daemon, each to its DIR."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from vpool.errors import Conflict, NotFound

SOCKET = "admin.sock"


def runtime_directory() -> Path | None:
    """Where the links are: ``VPOOL_RUNTIME_DIR``, /run/vpool for root, below XDG_RUNTIME_DIR for others; None without one."""
    if chosen := os.environ.get("VPOOL_RUNTIME_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/vpool")
    users = os.environ.get("XDG_RUNTIME_DIR")
    return Path(users) / "vpool" if users else None


@contextlib.contextmanager
def announced(directory: Path, node: str) -> Iterator[None]:
    """Let commands find the daemon of ``directory`` while the block runs. A machine that cannot have the link does without."""
    where = runtime_directory()
    if where is None:
        yield
        return
    link = where / node
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(directory)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        link.unlink(missing_ok=True)


def connect(directory: Path) -> socket.socket:
    """A connection to the daemon of ``directory``.

    Raises:
        NotFound: none runs there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # By way of a descriptor: the address of a unix socket has room for 107 bytes only.
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
        finally:
            os.close(descriptor)
    except OSError as error:
        connection.close()
        raise NotFound(
            f"no vPool daemon answers in {directory}; start it with: vpool up {directory} MOUNT", reason=error.strerror
        ) from None
    return connection


def find_directory() -> Path:
    """The DIR of the only daemon that runs on this machine.

    Raises:
        NotFound: none runs.
        Conflict: several run.
    """
    where = runtime_directory()
    found = []
    if where is not None and where.is_dir():
        for link in sorted(where.iterdir()):
            try:
                directory = link.readlink()
                connect(directory).close()
            except (OSError, NotFound):
                continue  # left by a daemon that was killed
            found.append(directory)
    if not found:
        raise NotFound(
            "no vPool daemon runs on this machine; start one with: vpool up DIR MOUNT, or name its directory with --dir"
        )
    if len(found) > 1:
        raise Conflict("several vPool daemons run on this machine; choose one with --dir: " + ", ".join(map(str, found)))
    return found[0]
