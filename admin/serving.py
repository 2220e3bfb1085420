"""The management API on its unix socket."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog
import trio
from fastapi import FastAPI
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp

from admin.api import make_api
from admin.service import Administration

log = structlog.get_logger()

BACKLOG = 100


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
    administration: Administration,
    path: Path,
    *more: Callable[[FastAPI], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on the socket ``path`` (mode 0600) until cancelled; the socket goes with it. ``more`` add further routes."""
    with _listening(path) as listener:
        await serve_app(make_api(administration, more), listener, task_status=task_status)


async def serve_app(
    app: ASGIApp, listener: socket.socket, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer on a bound socket until cancelled; it is closed then."""
    config = Config()
    config.accesslog = None
    config.errorlog = None
    wrapped = wrap_app(cast(Any, app), config.wsgi_max_body_size, "asgi")
    connect = partial(_connection, wrapped, config, WorkerContext(None))
    listener.listen(BACKLOG)
    sockets = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, connect, sockets)
        task_status.started()


async def _connection(app: AppWrapper, config: Config, context: WorkerContext, stream: trio.SocketStream) -> None:
    """One client. What goes wrong with it must not end the daemon: hypercorn raises when one leaves in the middle of a body."""
    try:
        await TCPServer(app, config, context, ConnectionState({}), cast(Any, stream))
    except Exception as error:
        log.info("admin_connection_broke", error=repr(error))
