"""The management API on its unix socket."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from admin.api import make_api
from admin.service import Administration

STOP_S = 2.0  # how long requests under way may take when the daemon stops


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A socket at ``path`` that only its owner may use. The directory's lock makes us its only user."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # By way of the directory's descriptor: the address of a unix socket has room for 107 bytes only.
        address = f"/proc/self/fd/{directory}/{path.name}"
        before = os.umask(0o177)
        try:
            listener.bind(address)
        finally:
            os.umask(before)
        yield listener
    finally:
        listener.close()
        os.close(directory)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


async def serve(
    administration: Administration, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer on the socket ``path`` (mode 0600) until cancelled; the socket goes with it."""
    with _listening(path) as listener:
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.accesslog = None
        config.errorlog = None
        config.graceful_timeout = STOP_S
        api = cast(Any, make_api(administration))
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(hypercorn_serve, api, config, mode="asgi"))
            task_status.started()
