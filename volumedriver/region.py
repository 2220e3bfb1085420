"""The bytes of one object: a region of a volume's address space that has a size.

A volume's region is its whole address space; a file's is its share of the node's file log. The size is kept in the object's *meta
cluster*, written through the same log as the data (docs/formats/volume-json.md), so that both come back as one prefix.

A region can be put elsewhere while it is used (``region_copy``): requests wait (``hold``), those under way end (``drained``),
then it goes on at its new place (``go_on``). What changes meanwhile is noted (``changes``).

Concurrency: sizes change only under ``_sizing``. When an object grows, the meta cluster is written before the data, or with them
in one record; when it shrinks, the bytes are zeroed before the meta cluster is: so no crash leaves old bytes beyond the end that
a later growth would show. ``write`` looks at the size and calls the engine without an await between: another would let a
truncation come between, and leave bytes behind the end.
"""

from __future__ import annotations

import time

import structlog
import trio

from engine import CLUSTER, REQUEST_BYTES_MAX
from volumedriver.allocation import Allocation
from volumedriver.giving_way import check_not_held
from volumedriver.meta_cluster import LAYOUT_NAMED, MetaCluster
from volumedriver.record_marks import current_marks
from volumedriver.volume import Volume
from vpool.errors import Invalid, NoSpace, VPoolError

log = structlog.get_logger()

VOLUME_BYTES_MAX = 64 << 40
VOLUME_META_OFFSET = (1 << 35) * CLUSTER

FILE_REGION_BYTES = (1 << 28) * CLUSTER
FILE_BYTES_MAX = FILE_REGION_BYTES - CLUSTER
FILE_ADDRESSES = (1 << 64) // FILE_REGION_BYTES


class _Request:
    """One that is under way, and changes a range."""

    __slots__ = ("_length", "_offset", "_region")

    def __init__(self, region: Region, offset: int, length: int) -> None:
        self._region, self._offset, self._length = region, offset, length

    def __enter__(self) -> None:
        self._region.begun()

    def __exit__(self, *error: object) -> None:
        self._region.ended(self._offset, self._length)


class Region:
    """Reads and writes within an object's size; writes beyond it make it grow. Made by ``Region.of_volume`` / ``of_file``.

    Attributes:
        size: bytes.
        mtime_ns: of the content; may be set by whoever is told so by utimens(2).
        ctime_ns: of the last change of the content or the size.
        unpublished: size or times have changed since they were last published to the registry.
        unsynced: something was written since the last flush began.
    """

    def __init__(self, volume: Volume, *, start: int, meta_offset: int, bytes_max: int, object_id: str = "") -> None:
        self.volume = volume
        self.size = 0
        self.mtime_ns = 0
        self.ctime_ns = 0
        self.unpublished = False
        self.unsynced = False
        self._emptied = False  # content that was durable has been cut off, and what replaces it may not be
        self._start = start
        self._meta_offset = meta_offset
        self._bytes_max = bytes_max
        self._object_id = object_id  # "" in layout 1
        self._sizing = trio.Lock()
        self._allocation: Allocation | None = None  # made by whoever asks first
        self._busy = 0  # requests under way
        self._held: trio.Event | None = None  # others wait for it
        self._idle = trio.Event()
        self._changes: list[tuple[int, int]] | None = None  # (address in the volume, bytes), while somebody wants to know

    @classmethod
    async def of_volume(cls, volume: Volume, size: int, mtime_ns: int, ctime_ns: int = 0) -> Region:
        """The region of a volume; ``size`` and times as published, which count until the volume has been given its own."""
        region = cls(volume, start=0, meta_offset=VOLUME_META_OFFSET, bytes_max=VOLUME_BYTES_MAX)
        await region._load(size, mtime_ns, ctime_ns)
        return region

    @classmethod
    async def of_file(
        cls, log: Volume, address: int, size: int, mtime_ns: int, ctime_ns: int = 0, *, layout: int, object_id: str
    ) -> Region:
        """The region of a file in the log of files; what an earlier file has left at its address is erased first, durably."""
        if address >= FILE_ADDRESSES:
            raise NoSpace("the log of files has no such address", address=address, limit=FILE_ADDRESSES)
        start = address * FILE_REGION_BYTES
        if layout == LAYOUT_NAMED:
            region = cls(log, start=start + CLUSTER, meta_offset=start, bytes_max=FILE_BYTES_MAX, object_id=object_id)
        else:
            region = cls(log, start=start, meta_offset=start + FILE_BYTES_MAX, bytes_max=FILE_BYTES_MAX)
        await region._load(size, mtime_ns, ctime_ns)
        return region

    async def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes; short, maybe empty, at the end."""
        if self._held is not None:
            await self._may_begin()
        with _Request(self, 0, 0):
            length = min(length, self.size - offset)
            if length <= 0:
                return b""
            return await self.volume.read(self._start + offset, length)

    async def write(self, offset: int, data: bytes) -> None:
        """Write and, beyond the end, grow. Acknowledged (not flushed) on return. NoSpace beyond the largest size."""
        if self._held is not None:
            await self._may_begin()
        with _Request(self, offset, len(data)):
            end = offset + len(data)
            if end > self.size:
                self._check(end)
                if self._object_id and offset == 0 and len(data) < REQUEST_BYTES_MAX and await self._write_first(data):
                    return
            while end > self.size:
                await self._grow(end)
            self.unsynced = True
            if (marks := current_marks()) is not None:
                marks.is_last = (self._start + offset) % CLUSTER + len(data) <= REQUEST_BYTES_MAX
            await self.volume.write(self._start + offset, data)
            self._changed()
            if self._allocation is not None:
                self._allocation.written(offset, len(data))

    async def zero(self, offset: int, length: int) -> None:
        """Make a range within the size read as zeros, without storing it."""
        if self._held is not None:
            await self._may_begin()
        with _Request(self, offset, length):
            length = min(length, self.size - offset)
            if length > 0:
                self.unsynced = True
                await self.volume.zero(self._start + offset, length)
                self._changed()
                if self._allocation is not None:
                    self._allocation.zeroed(offset, length)

    async def truncate(self, size: int) -> None:
        """Set the size; what is cut reads as zeros if the object grows again. Invalid, NoSpace."""
        if size < 0:
            raise Invalid("a size cannot be negative", size=size)
        self._check(size)
        await self._may_begin()
        with _Request(self, 0, 0):
            await self._truncated(size)

    async def _truncated(self, size: int) -> None:
        async with self._sizing:
            self.unsynced = True
            before = self.size
            self._note(min(size, before), abs(size - before))
            if size < before:
                self.size = size  # from here on a write behind it has to grow the object, and waits for us
                try:
                    await self._cut(size, before)
                except BaseException:
                    self.size = before
                    raise
                self._emptied = self._emptied or size == 0
                if self._allocation is not None:
                    self._allocation.zeroed(size, before - size)
            await self._write_meta(size)

    def allocated(self) -> int | None:
        """Bytes that the content takes; None if that is not known yet (ask again) or cannot be known here."""
        if self._allocation is None:
            self._allocation = Allocation(self.volume, self._start, self.size)
        try:
            return self._allocation.counted()
        except VPoolError as error:  # closed, halted: whoever reads or writes hears of it, a count need not
            log.debug("not_counted", object=self.volume.object_id, reason=str(error))
            return None

    @property
    def without_holes(self) -> int:
        """Bytes that the content would take if it had no holes."""
        return _up(self.size)

    @property
    def counting(self) -> bool:
        """Whether ``allocated`` has begun to count and would get on if it were asked again."""
        return self._allocation is not None and self._allocation.unfinished

    @property
    def lacks_map(self) -> bool:
        """Whether ``allocated`` has stopped at a part of the map that is not on this host; ``bring_map`` brings it."""
        return self._allocation is not None and self._allocation.missing is not None

    async def bring_map(self) -> None:
        """Fetch what the last count lacked. Corrupt, Halted; Unavailable only after ``stall_s``."""
        if self._allocation is not None and self._allocation.missing is not None:
            await self.volume.supply(self._allocation.missing)

    async def erase(self) -> None:
        """Give back everything, meta cluster included: the region is as new. Durable after ``flush``."""
        await self._may_begin()
        with _Request(self, 0, 0):
            async with self._sizing:
                await self._erase(self.size)
                self.size = 0
                self.unsynced = True

    async def flush(self) -> None:
        """Durable on return: all that was acknowledged before, size included."""
        unsynced, self.unsynced = self.unsynced, False  # before: what is written meanwhile needs another flush
        try:
            await self.volume.flush()
        except BaseException:
            self.unsynced = unsynced
            raise
        self._emptied = False

    async def flush_replacement(self) -> None:
        """Flush if the content takes the place of older, durable content that was cut off: else a power cut loses both."""
        if self._emptied and self.unsynced:
            await self.flush()

    # -- to another place --------------------------------------------------------------------------------------------------

    @property
    def place(self) -> tuple[int, int]:
        """Where it is in its volume: (address, of the first byte that may be its own; of the meta cluster)."""
        return min(self._start, self._meta_offset), self._meta_offset

    def changes(self) -> list[tuple[int, int]]:
        """Ranges of the volume that have changed since this was asked last: (address, bytes); the first time, none."""
        found, self._changes = self._changes or [], []
        return found

    def hold(self) -> None:
        """Let no request begin until ``go_on``; flushes may."""
        if self._held is None:
            self._held = trio.Event()

    async def drained(self) -> None:
        """Returns when none is under way."""
        while self._busy:
            await self._idle.wait()

    def go_on(self, volume: Volume | None = None, start: int = 0) -> None:
        """Requests go on; with ``volume``, there: the region begins at ``start`` of it and has the same content."""
        self._changes = None
        if volume is not None:
            moved_by = start - self.place[0]
            self.volume, self._start, self._meta_offset = volume, self._start + moved_by, self._meta_offset + moved_by
            self._allocation, self.unsynced, self._emptied = None, False, False
        held, self._held = self._held, None
        if held is not None:
            held.set()

    async def _may_begin(self) -> None:
        """Returns when the region is not held. ``Held``: see ``giving_way``."""
        while self._held is not None:
            check_not_held()
            await self._held.wait()

    def ended(self, offset: int, length: int) -> None:
        """A request has ended that may have changed a range."""
        self._note(offset, length)
        self._busy -= 1
        if not self._busy and self._held is not None:
            self._idle.set()
            self._idle = trio.Event()

    def begun(self) -> None:
        """A request begins."""
        self._busy += 1

    def _note(self, offset: int, length: int) -> None:
        if self._changes is not None and length > 0:
            self._changes.append((self._start + offset, length))

    async def _cut(self, size: int, before: int) -> None:
        """Zero what is behind ``size``, by whole clusters but for the one that has the new end; that only if it has anything."""
        first, end = _up(size), _up(before)
        if first > size and (await self.volume.read(self._start + size, first - size)).count(0) != first - size:
            first = size
        if first < end:
            await self.volume.zero(self._start + first, end - first)

    async def _write_first(self, data: bytes) -> bool:
        """The first bytes of a file with its size, in one record; False if it is not empty any more."""
        async with self._sizing:
            if self.size:
                return False
            self.unsynced = True
            meta = MetaCluster(len(data), time.time_ns(), self._object_id)
            await self.volume.write(self._meta_offset, meta.encode() + data)
            self.size = len(data)
            self._changed()
            if self._allocation is not None:
                self._allocation.written(0, len(data))
            return True

    async def _grow(self, size: int) -> None:
        self._check(size)
        async with self._sizing:
            if size > self.size:
                await self._write_meta(size)

    def _check(self, size: int) -> None:
        if size > self._bytes_max:
            raise NoSpace("larger than an object can be", size=size, limit=self._bytes_max, reason="too_large")

    def _changed(self) -> None:
        self.mtime_ns = self.ctime_ns = time.time_ns()
        self.unpublished = True

    async def _write_meta(self, size: int) -> None:
        await self.volume.write(self._meta_offset, MetaCluster(size, time.time_ns(), self._object_id).encode())
        self.size = size
        self._changed()

    async def _load(self, size: int, mtime_ns: int, ctime_ns: int) -> None:
        found = MetaCluster.decode(await self.volume.read(self._meta_offset, CLUSTER))
        if found is not None and found.object_id != self._object_id and self._object_id:
            log.info("stale_region_erased", object=self._object_id, log=self.volume.object_id, bytes=found.size)
            await self._erase(found.size)
            await self.volume.flush()
            found = None
        self.mtime_ns = mtime_ns
        if found is not None:
            self.size = found.size
            self.ctime_ns = found.changed_ns
            if found.changed_ns > ctime_ns:  # else what is published is of a later change: that time may have been set to any
                self.mtime_ns = max(mtime_ns, found.changed_ns)
        elif size and not self._object_id:
            await self._write_meta(size)
            self.mtime_ns = mtime_ns
        self.unpublished = self.size != size

    async def _erase(self, size: int) -> None:
        if self._object_id:  # meta cluster and data side by side: one record, whole or not at all
            await self.volume.zero(self._meta_offset, CLUSTER + _up(size))
            return
        if size:
            await self.volume.zero(self._start, size)
        await self.volume.zero(self._meta_offset, CLUSTER)


def _up(size: int) -> int:
    """The next end of a cluster."""
    return -(-size // CLUSTER) * CLUSTER
