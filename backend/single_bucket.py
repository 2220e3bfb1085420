"""All buckets in one: each logical bucket is a prefix ``<bucket>/`` in a bucket that the provider allows.

An empty object ``.buckets/<bucket>`` says that a logical bucket exists, so that buckets can be listed without listing all
objects. A marker always has the same content, so it may be written again. What a store with many buckets refuses by itself, a put
into a bucket that another process has deleted meanwhile, is not refused here; nor does a bucket whose listing lags count as
full. What stays behind so is found by listing ``<bucket>/``.
"""

from __future__ import annotations

from builtins import list as list_of
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from typing_extensions import override

from backend.names import check_bucket, check_object
from backend.store import ObjectInfo, ObjectStore
from vpool.errors import Conflict, Denied, NotFound

MARKERS = ".buckets/"


class SingleBucketStore(ObjectStore):
    """Logical buckets in ``bucket`` of ``inner``, which this store owns and closes.

    Concurrency: ``_known`` only ever gains names that were seen to exist and loses those that this process deletes; an await
    between its test and its change costs a request, never a wrong answer.
    """

    def __init__(self, inner: ObjectStore, bucket: str) -> None:
        """Use one bucket of ``inner``."""
        self.url = f"{inner.url}{'&' if '?' in inner.url else '?'}bucket={bucket}"
        self.counters = inner.counters
        self._inner = inner
        self._bucket = check_bucket(bucket)
        self._known: set[str] = set()

    @override
    async def check(self) -> None:
        try:
            await self._list_some(MARKERS)
        except NotFound:
            await self._inner.check()  # not made yet; that it can be made shows with the first bucket

    @override
    async def create_bucket(self, bucket: str) -> None:
        check_bucket(bucket)
        try:
            await self._inner.create_bucket(self._bucket)
        except Denied as denied:  # providers that limit buckets may forbid to make one; it may be there already
            try:
                await self._list_some(MARKERS)
            except NotFound:
                raise denied from None
        await self._inner.put(self._bucket, MARKERS + bucket, b"")
        self._known.add(bucket)

    @override
    async def delete_bucket(self, bucket: str) -> None:
        check_bucket(bucket)
        try:
            if await self._list_some(f"{bucket}/"):
                raise Conflict("the bucket is not empty", bucket=bucket)
        except NotFound:
            return
        self._known.discard(bucket)
        await self._inner.delete(self._bucket, MARKERS + bucket)

    @override
    async def list_buckets(self) -> AsyncIterator[str]:
        try:
            async with listing(self._inner, self._bucket, MARKERS) as markers:
                async for info in markers:
                    yield info.name[len(MARKERS) :]
        except NotFound:
            return  # the one bucket is made with the first logical one

    @override
    async def put(self, bucket: str, name: str, data: bytes) -> None:
        await self._require(check_bucket(bucket))
        await self._inner.put(self._bucket, f"{bucket}/{check_object(name)}", data)

    @override
    async def put_if_absent(self, bucket: str, name: str, data: bytes) -> bool:
        await self._require(check_bucket(bucket))
        return await self._inner.put_if_absent(self._bucket, f"{bucket}/{check_object(name)}", data)

    @override
    async def get(self, bucket: str, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        check_bucket(bucket)
        return await self._inner.get(self._bucket, f"{bucket}/{check_object(name)}", start=start, length=length)

    @override
    async def size(self, bucket: str, name: str) -> int:
        check_bucket(bucket)
        return await self._inner.size(self._bucket, f"{bucket}/{check_object(name)}")

    @override
    async def delete(self, bucket: str, name: str) -> None:
        check_bucket(bucket)
        await self._inner.delete(self._bucket, f"{bucket}/{check_object(name)}")

    @override
    async def list(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        front = f"{check_bucket(bucket)}/"
        found = False
        async with listing(self._inner, self._bucket, front + prefix) as objects:
            async for info in objects:
                found = True
                yield ObjectInfo(info.name[len(front) :], info.size_bytes)
        if not found:
            await self._require(bucket)

    @override
    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _require(self, bucket: str) -> None:
        """Raise NotFound unless the logical bucket has been made; asks the store once per bucket."""
        if bucket in self._known:
            return
        try:
            await self._inner.size(self._bucket, MARKERS + bucket)
        except NotFound:
            raise NotFound("no such bucket", bucket=bucket) from None
        self._known.add(bucket)

    async def _list_some(self, prefix: str) -> list_of[ObjectInfo]:
        """The first object with the prefix, if there is one."""
        async with listing(self._inner, self._bucket, prefix) as objects:
            async for info in objects:
                return [info]
        return []


@asynccontextmanager
async def listing(store: ObjectStore, bucket: str, prefix: str) -> AsyncIterator[AsyncIterator[ObjectInfo]]:
    """A listing that may be left before its end: its generator is closed here and not by the garbage collector."""
    objects = store.list(bucket, prefix)
    try:
        yield objects
    finally:
        if isinstance(objects, AsyncGenerator):
            await objects.aclose()
