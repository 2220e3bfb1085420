"""What vPool does above a store: tries again what is Unavailable, and does not believe a 404 at once (design, promise 8)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import trio

from backend import ObjectInfo, ObjectStore
from vpool.errors import NotFound, Unavailable

T = TypeVar("T")
TRIES_MAX = 30
DISBELIEF_S = 0.3


async def patiently(request: Callable[[], Awaitable[T]]) -> T:
    """Run a request until it is answered; a 404 is believed after a while."""
    until_s = trio.current_time() + DISBELIEF_S
    for attempt in range(TRIES_MAX):
        try:
            return await request()
        except Unavailable:
            if attempt == TRIES_MAX - 1:
                raise
        except NotFound:
            if trio.current_time() > until_s:
                raise
        await trio.sleep(0.01)
    raise AssertionError("not reached")


class PatientStore(ObjectStore):
    """``inner`` with patience."""

    def __init__(self, inner: ObjectStore) -> None:
        self.url, self.counters, self._inner = inner.url, inner.counters, inner

    async def check(self) -> None:
        await patiently(self._inner.check)

    async def create_bucket(self, bucket: str) -> None:
        await patiently(lambda: self._inner.create_bucket(bucket))

    async def delete_bucket(self, bucket: str) -> None:
        await patiently(lambda: self._inner.delete_bucket(bucket))

    async def list_buckets(self) -> AsyncIterator[str]:
        async def all_of_them() -> list[str]:
            return [bucket async for bucket in self._inner.list_buckets()]

        for bucket in await patiently(all_of_them):
            yield bucket

    async def put(self, bucket: str, name: str, data: bytes) -> None:
        await patiently(lambda: self._inner.put(bucket, name, data))

    async def get(self, bucket: str, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        return await patiently(lambda: self._inner.get(bucket, name, start=start, length=length))

    async def size(self, bucket: str, name: str) -> int:
        return await patiently(lambda: self._inner.size(bucket, name))

    async def delete(self, bucket: str, name: str) -> None:
        await patiently(lambda: self._inner.delete(bucket, name))

    async def list(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        async def all_of_them() -> tuple[ObjectInfo, ...]:
            return tuple([info async for info in self._inner.list(bucket, prefix)])

        for info in await patiently(all_of_them):
            yield info

    async def aclose(self) -> None:
        await self._inner.aclose()
