"""An ``ObjectStore`` from the synchronous requests of a library: checks and prefixes names, threads, retries and counts."""

from __future__ import annotations

from builtins import list as list_of
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Protocol

import trio
from typing_extensions import override

from backend.calls import Calls
from backend.counters import StoreCounters
from backend.names import STORED_CHARS_MAX, check_bucket, check_object, check_range
from backend.settings import BackendSettings
from backend.store import ObjectInfo, ObjectStore
from vpool.errors import VPoolError


class StoreRequests(Protocol):
    """What a kind of store must do: one try of each request, blocking, from several threads at once.

    Every request must be repeatable. Names are those at the store, already checked. Errors: ``VPoolError`` or whatever
    ``translate`` can turn into one.
    """

    def check(self) -> None:
        """One cheap request that needs endpoint, credentials and the permission to list buckets."""

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket; one that is ours already is fine."""

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket; one that is not there is fine."""

    def buckets(self, prefix: str) -> list_of[str]:
        """All buckets with the prefix, ascending."""

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Store an object; what arrived has been compared with what was sent."""

    def put_if_absent(self, bucket: str, name: str, data: bytes) -> bool:
        """Store an object unless the store finds one there; whether it did."""

    def get(self, bucket: str, name: str, start: int, length: int | None) -> bytes:
        """A part of an object, of the right length."""

    def size(self, bucket: str, name: str) -> int:
        """Bytes of an object."""

    def delete(self, bucket: str, name: str) -> None:
        """Remove an object; one that is not there is fine."""

    def page(self, bucket: str, prefix: str, cursor: Any) -> tuple[list_of[ObjectInfo], Any]:
        """One page of a listing from ``cursor`` (None: the first), and the cursor of the next (None: it was the last)."""

    def translate(self, error: Exception) -> VPoolError:
        """Turn an exception of the library into ours. Total. ``Unavailable`` and ``Corrupt`` are tried again."""

    def close(self) -> None:
        """Let go of connections and files."""


class ThreadedStore(ObjectStore):
    """A store whose requests run in threads. ``prefix`` stands in front of the names of buckets."""

    def __init__(self, url: str, requests: StoreRequests, settings: BackendSettings, *, prefix: str = "") -> None:
        """Use ``requests``, which this store closes at its end."""
        self.url = url
        self.counters = StoreCounters()
        self._requests = requests
        self._prefix = prefix
        self._check_deadline_s = settings.check_deadline_s
        self._calls = Calls(url, settings, self.counters, translate=requests.translate)

    @override
    async def check(self) -> None:
        await self._calls.run("check", self._requests.check, deadline_s=self._check_deadline_s)

    @override
    async def create_bucket(self, bucket: str) -> None:
        whole = check_bucket(bucket, prefix=self._prefix)
        await self._calls.run("create_bucket", lambda: self._requests.create_bucket(whole))

    @override
    async def delete_bucket(self, bucket: str) -> None:
        whole = check_bucket(bucket, prefix=self._prefix)
        await self._calls.run("delete_bucket", lambda: self._requests.delete_bucket(whole))

    @override
    async def list_buckets(self) -> AsyncIterator[str]:
        for whole in await self._calls.run("list_buckets", lambda: self._requests.buckets(self._prefix)):
            yield whole[len(self._prefix) :]

    @override
    async def put(self, bucket: str, name: str, data: bytes) -> None:
        whole, name = check_bucket(bucket, prefix=self._prefix), check_object(name, chars_max=STORED_CHARS_MAX)
        await self._calls.run("put", lambda: self._requests.put(whole, name, data))
        self.counters.moved("put", sent_bytes=len(data))

    @override
    async def put_if_absent(self, bucket: str, name: str, data: bytes) -> bool:
        whole, name = check_bucket(bucket, prefix=self._prefix), check_object(name, chars_max=STORED_CHARS_MAX)
        return await self._calls.run("put", lambda: self._requests.put_if_absent(whole, name, data))

    @override
    async def get(self, bucket: str, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        whole, name = check_bucket(bucket, prefix=self._prefix), check_object(name, chars_max=STORED_CHARS_MAX)
        check_range(start, length)
        if length == 0:
            await self.size(bucket, name)  # no store has a range of no bytes, but the object must be there
            return b""
        data = await self._calls.run("get", lambda: self._requests.get(whole, name, start, length))
        self.counters.moved("get", received_bytes=len(data))
        return data

    @override
    async def size(self, bucket: str, name: str) -> int:
        whole, name = check_bucket(bucket, prefix=self._prefix), check_object(name, chars_max=STORED_CHARS_MAX)
        return await self._calls.run("size", lambda: self._requests.size(whole, name))

    @override
    async def delete(self, bucket: str, name: str) -> None:
        whole, name = check_bucket(bucket, prefix=self._prefix), check_object(name, chars_max=STORED_CHARS_MAX)
        await self._calls.run("delete", lambda: self._requests.delete(whole, name))

    @override
    async def list(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        whole = check_bucket(bucket, prefix=self._prefix)
        cursor: Any = None
        while True:
            page, cursor = await self._calls.run("list", partial(self._requests.page, whole, prefix, cursor))
            for info in page:
                yield info
            if cursor is None:
                return

    @override
    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self._calls.drain()
            await trio.to_thread.run_sync(self._requests.close)
