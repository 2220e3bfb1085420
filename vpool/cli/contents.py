"""Contents of volumes over the management API: several requests at once on connections that stay open, and long work.

A request waits as long as the daemon does (a slow backend slows its writers); the end of the daemon ends it.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from vpool.cli.client import UnixConnection, refusal
from vpool.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 4


class Contents:
    """Reads and fills volumes of the daemon of one DIR; for use in a ``with`` block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._local = threading.local()
        self._connections: list[UnixConnection] = []
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="contents")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close; after an error, requests under way are cut off."""
        if error is not None:
            self._cut_off()
        self._pool.shutdown(cancel_futures=True)
        self._cut_off()

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a volume."""
        return self._request("GET", f"/v1/data/{_quoted(path)}?offset={offset}&length={length}")

    def write(self, path: str, offset: int, data: bytes) -> None:
        """Write into a volume that is being filled."""
        self._request("PUT", f"/v1/data/{_quoted(path)}?offset={offset}", data)

    def object(self, address: str) -> bytes:
        """An object of the backend; ``address``: bucket, slash, name, quoted."""
        return self._request("GET", f"/v1/objects/{address}")

    def in_order(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """The results of ``work`` on each item, a few at once, in the order of the items."""
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(self._pool.submit(work, item))
            if len(waiting) >= AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def extents(self, path: str, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """(Offset, length) of what is mapped from ``offset`` on, ascending."""
        while offset < size:
            found = json.loads(self._request("GET", f"/v1/extents/{_quoted(path)}?offset={offset}&end={size}"))
            yield from map(tuple, found["extents"])
            offset = found["until"]

    def _request(self, method: str, address: str, body: bytes | None = None) -> bytes:
        connection: UnixConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = UnixConnection(self._directory, timeout_s=None)
            self._connections.append(connection)
        try:
            headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
            connection.request(method, address, body, headers)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unavailable(f"the connection to the daemon in {self._directory} broke: {error}") from None
        if response.status >= 400:
            raise refusal(json.loads(data))
        return data

    def _cut_off(self) -> None:
        for connection in self._connections:
            connection.cut_off()


def events(directory: Path, address: str, body: dict[str, object]) -> Iterator[dict[str, Any]]:
    """What long work in the daemon tells, line by line; its refusals are raised. Ends with the event ``done``."""
    connection = UnixConnection(directory, timeout_s=None)
    try:
        connection.request("POST", address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status >= 400:
            raise refusal(json.loads(response.read()))
        for line in response:
            event = json.loads(line)
            if event["event"] == "error":
                raise refusal(event)
            yield event
            if event["event"] == "done":
                return
        raise Unavailable(f"the daemon in {directory} ended before it had finished")
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"the connection to the daemon in {directory} broke: {error}") from None
    finally:
        connection.close()


def _quoted(path: str) -> str:
    return quote(path.strip("/"), errors="surrogateescape")
