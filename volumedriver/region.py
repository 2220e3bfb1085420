"""The bytes of one object: a region of a volume's address space that has a size.

A volume's region is its whole address space; a file's is its share of the node's file log. The size is kept in the object's *meta
cluster*, written through the same log as the data (docs/formats/volume-json.md), so that both come back as one prefix.

Concurrency: sizes change only under ``_sizing``. When an object grows, the meta cluster is written before the data; when it
shrinks, the bytes are zeroed before the meta cluster is: so no crash leaves old bytes beyond the end that a later growth
would show.
"""

from __future__ import annotations

import time
from struct import Struct
from zlib import crc32

import trio

from engine import CLUSTER
from volumedriver.volume import Volume
from vpool.errors import Corrupt, Invalid, NoSpace

META = Struct("<8sIIQQQ")
META_SUM = Struct("<I")
META_MAGIC = b"vPoolMET"
META_VERSION = 1

VOLUME_BYTES_MAX = 64 << 40
VOLUME_META_OFFSET = (1 << 35) * CLUSTER

FILE_REGION_BYTES = (1 << 28) * CLUSTER
FILE_BYTES_MAX = FILE_REGION_BYTES - CLUSTER
FILE_ADDRESSES = (1 << 64) // FILE_REGION_BYTES


class Region:
    """Reads and writes within an object's size; writes beyond it make it grow. Made by ``Region.of_volume`` / ``of_file``."""

    def __init__(self, volume: Volume, *, start: int, meta_offset: int, bytes_max: int) -> None:
        self.volume = volume
        self.size = 0
        self.mtime_ns = 0
        self.unpublished = False  # size or time have changed since they were last published to the registry
        self._start = start
        self._meta_offset = meta_offset
        self._bytes_max = bytes_max
        self._sizing = trio.Lock()

    @classmethod
    async def of_volume(cls, volume: Volume, size: int, mtime_ns: int) -> Region:
        """The region of a volume; ``size`` and time as published, which count until the volume has been given its own."""
        region = cls(volume, start=0, meta_offset=VOLUME_META_OFFSET, bytes_max=VOLUME_BYTES_MAX)
        await region._load(size, mtime_ns)
        return region

    @classmethod
    async def of_file(cls, log: Volume, address: int, size: int, mtime_ns: int) -> Region:
        """The region of a file in the log of files."""
        if address >= FILE_ADDRESSES:
            raise NoSpace("the log of files has no address left", address=address, limit=FILE_ADDRESSES)
        start = address * FILE_REGION_BYTES
        region = cls(log, start=start, meta_offset=start + FILE_BYTES_MAX, bytes_max=FILE_BYTES_MAX)
        await region._load(size, mtime_ns)
        return region

    async def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes; short, maybe empty, at the end."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        return await self.volume.read(self._start + offset, length)

    async def write(self, offset: int, data: bytes) -> None:
        """Write and, beyond the end, grow. Acknowledged (not flushed) on return. NoSpace beyond the largest size."""
        if offset + len(data) > self.size:
            await self._grow(offset + len(data))
        await self.volume.write(self._start + offset, data)
        self.mtime_ns = time.time_ns()
        self.unpublished = True

    async def zero(self, offset: int, length: int) -> None:
        """Make a range within the size read as zeros, without storing it."""
        length = min(length, self.size - offset)
        if length > 0:
            await self.volume.zero(self._start + offset, length)
            self.mtime_ns = time.time_ns()
            self.unpublished = True

    async def truncate(self, size: int) -> None:
        """Set the size; what is cut reads as zeros if the object grows again. Invalid, NoSpace."""
        if size < 0:
            raise Invalid("a size cannot be negative", size=size)
        self._check(size)
        async with self._sizing:
            if size < self.size:
                await self.volume.zero(self._start + size, self.size - size)
            await self._write_meta(size)

    async def erase(self) -> None:
        """Give back everything, meta cluster included: the region is as new, durably."""
        async with self._sizing:
            if self.size:
                await self.volume.zero(self._start, self.size)
            await self.volume.zero(self._meta_offset, CLUSTER)
            self.size = 0
            await self.volume.flush()

    async def flush(self) -> None:
        """Durable on return: all that was acknowledged before, size included."""
        await self.volume.flush()

    async def _grow(self, size: int) -> None:
        self._check(size)
        async with self._sizing:
            if size > self.size:
                await self._write_meta(size)

    def _check(self, size: int) -> None:
        if size > self._bytes_max:
            raise NoSpace("larger than an object can be", size=size, limit=self._bytes_max, reason="too_large")

    async def _write_meta(self, size: int) -> None:
        now = time.time_ns()
        fields = META.pack(META_MAGIC, META_VERSION, 0, size, now, 0)
        cluster = fields + META_SUM.pack(crc32(fields))
        await self.volume.write(self._meta_offset, cluster.ljust(CLUSTER, b"\0"))
        self.size = size
        self.mtime_ns = now
        self.unpublished = True

    async def _load(self, size: int, mtime_ns: int) -> None:
        cluster = await self.volume.read(self._meta_offset, CLUSTER)
        if cluster.count(0) == CLUSTER:
            self.size, self.mtime_ns = size, mtime_ns
            if size:
                await self._write_meta(size)
                self.mtime_ns = mtime_ns
            return
        fields = cluster[: META.size]
        magic, version, _, self.size, changed_ns, _ = META.unpack(fields)
        if magic != META_MAGIC or META_SUM.unpack_from(cluster, META.size)[0] != crc32(fields):
            raise Corrupt("the meta cluster of the object cannot be read", object=self.volume.object_id)
        if version > META_VERSION:
            raise Corrupt("the meta cluster is of a newer format; use a newer vPool", version=version)
        self.mtime_ns = max(mtime_ns, changed_ns)
        self.unpublished = self.size != size
