"""Metrics on a TCP address of the loopback interface, for a Prometheus that cannot use unix sockets; nothing else is there."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import trio
from starlette.types import Receive, Scope, Send

from admin.serving import serve_app
from admin.watching.metrics import CONTENT_TYPE
from admin.watching.routes import metrics_of
from admin.watching.watch import Watch
from vpool.errors import Conflict, Invalid
from vpool.loopback import parse_loopback


@contextlib.contextmanager
def listening(address: str | None) -> Iterator[socket.socket | None]:
    """A socket that listens on an address; None without one.

    Raises:
        Conflict: somebody else listens there.
        Invalid: see ``vpool.loopback``; or this host has no such address.
    """
    if address is None:
        yield None
        return
    host, port = parse_loopback(address)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            kind = Invalid if isinstance(error, PermissionError) or "assign" in str(error) else Conflict
            raise kind(f"metrics cannot be served on {address} (setting watch.metrics_address)", reason=error.strerror) from None
        yield listener


async def serve_metrics(
    watch: Watch, listener: socket.socket, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer ``GET /metrics`` until cancelled."""
    await serve_app(_Metrics(watch), listener, task_status=task_status)


class _Metrics:
    """The whole application: one page."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] != "/metrics":
            status, kind, body = 404, b"text/plain", b"there is /metrics\n"
        elif scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, b"text/plain", b"GET only\n"
        else:
            status, kind, body = 200, CONTENT_TYPE.encode(), await metrics_of(self._watch)
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
