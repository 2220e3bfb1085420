"""The bytes of a file's region as they go into another log while the file is used: all, then what has changed, several times."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from engine import CLUSTER
from volumedriver.region import FILE_REGION_BYTES, Region
from volumedriver.survey import survey
from volumedriver.volume import Volume

PIECE_BYTES = 1 << 20
TARGET = FILE_REGION_BYTES  # of the address 1: the first file of a log


class RegionCopy:
    """Of one region, to the first file's place in a new log. ``tell``: bytes that are there, bytes that are to be."""

    def __init__(self, region: Region, target: Volume, tell: Callable[[int, int], None]) -> None:
        self._region, self.source, self.target, self._tell = region, region.volume, target, tell
        self._start, self._meta = region.place
        self.bytes = 0

    async def all(self) -> None:
        """Everything that has data; from now on the region notes what changes."""
        self._region.changes()
        async for at, length in _mapped(self.source, self._start, self._start + FILE_REGION_BYTES):
            await self._copy(at, length)

    async def changed(self) -> int:
        """What has changed since; bytes."""
        changed = _merged(self._region.changes())
        for at, length in changed:
            await self._renew(at, length)
        return sum(length for _, length in changed)

    async def last(self) -> None:
        """The region is held: what has changed since and the size; durable on return."""
        await self.changed()
        await self._renew(self._meta, CLUSTER)
        await self.target.flush()

    async def _renew(self, at: int, length: int) -> None:
        """It may have been cut, too."""
        await self.target.zero(TARGET + at - self._start, length)
        if length <= PIECE_BYTES:
            await self._copy(at, length)
            return
        async for mapped, piece in _mapped(self.source, at, at + length):
            await self._copy(mapped, piece)

    async def _copy(self, at: int, length: int) -> None:
        end = at + length
        while at < end:
            piece = min(PIECE_BYTES, end - at)
            data = await self.source.read(at, piece)
            if data.count(0) != piece:
                await self.target.write(TARGET + at - self._start, data)
            self.bytes += piece
            self._tell(self.bytes, max(self.bytes, self._region.size))
            at += piece


async def erase_region(volume: Volume, address: int) -> None:
    """What a file has left where it was; durable on return."""
    start = address * FILE_REGION_BYTES
    async for at, length in _mapped(volume, start, start + FILE_REGION_BYTES):
        await volume.zero(at, length)
    await volume.flush()


async def _mapped(volume: Volume, at: int, end: int) -> AsyncIterator[tuple[int, int]]:
    """Ranges that have data, as whole clusters."""
    while at < end:
        found = await survey(volume, at, end)
        for start, length in found.extents:
            first, last = max(start, at), min(start + length, end)
            if last > first:
                yield first, last - first
        at = max(found.position, at + CLUSTER)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """As whole clusters, ascending, none twice."""
    merged: list[list[int]] = []
    for at, length in sorted(ranges):
        first, last = at // CLUSTER * CLUSTER, -(-(at + length) // CLUSTER) * CLUSTER
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return [(first, last - first) for first, last in merged]
