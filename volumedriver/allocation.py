"""How many bytes of an object are there: what st_blocks of a sparse file says.

The map knows, and is asked part by part: about ``CLUSTERS_AT_ONCE`` per look, so that no look takes long; a large object is
counted over several looks. Only parts that were changed since are counted again. What of the map is in the backend only (nodes of
a checkpoint, which also say where nothing is) stops the count until somebody has brought it.
"""

from __future__ import annotations

from engine import CLUSTER, Plan, Survey
from volumedriver.volume import Volume
from vpool.errors import Invalid

PART_BYTES = 16 << 20
PARTS_AT_ONCE = 8
CLUSTERS_AT_ONCE = PARTS_AT_ONCE * PART_BYTES // CLUSTER


class Allocation:
    """The count of one region, which begins at ``start`` in the address space of ``volume`` and has ``size`` bytes now."""

    def __init__(self, volume: Volume, start: int, size: int) -> None:
        self._volume = volume
        self._start = start
        self._clusters: dict[int, int] = {}  # of the parts that have any
        self._changed: set[int] = set()  # parts to be counted again
        self._uncounted, self._uncounted_end = 0, _parts(size)  # parts of which nothing is known yet
        self.unfinished = False  # the last look could not see all, and a further one sees more
        self.missing: Plan | None = None  # what the last look found to be not on this host

    def written(self, offset: int, length: int) -> None:
        """A range has been written."""
        for part in range(offset // PART_BYTES, _parts(offset + length)):
            self._change(part)

    def zeroed(self, offset: int, length: int) -> None:
        """A range, maybe a very long one, has been given back; its edges may have been written."""
        first, end = offset // PART_BYTES, _parts(offset + length)
        self._changed.update(part for part in self._clusters if first <= part < end)
        self._change(first)
        self._change(end - 1)

    def _change(self, part: int) -> None:
        if not self._uncounted <= part < self._uncounted_end:
            self._changed.add(part)

    def counted(self) -> int | None:
        """Bytes; None if that takes further looks (``unfinished``), or parts of the map that are not here (``missing``)."""
        self.unfinished, self.missing = False, None
        for _ in range(PARTS_AT_ONCE):
            if not self._changed:
                break
            part = next(iter(self._changed))
            if not self._count(part, part + 1):
                return None
            self._changed.discard(part)
        if self._uncounted < self._uncounted_end and not self._count(self._uncounted, self._uncounted_end):
            return None
        if self._changed or self._uncounted < self._uncounted_end:
            self.unfinished = True
            return None
        return sum(self._clusters.values()) * CLUSTER

    def _count(self, first: int, end: int) -> bool:
        """Count parts from ``first`` on, as many as one look allows; False if the map is not here."""
        begin, stop = self._start + first * PART_BYTES, self._start + end * PART_BYTES
        try:
            survey = Survey(self._volume.native, begin, stop, clusters_max=CLUSTERS_AT_ONCE)
            self.missing = survey.step()
        except Invalid:  # the log is closed, or being exchanged
            return False
        position = survey.position - self._start
        counted_end = end if position >= end * PART_BYTES else position // PART_BYTES  # the last one may be counted in part
        if self.missing is not None and counted_end <= first:
            return False
        for part in [part for part in self._clusters if first <= part < counted_end]:
            del self._clusters[part]
        for offset, length in survey.extents:
            self._add(offset - self._start, length, counted_end)
        if first == self._uncounted:
            self._uncounted = max(counted_end, self._uncounted)
        return self.missing is None  # what is counted stays counted: a count goes on where it has stopped

    def _add(self, offset: int, length: int, end: int) -> None:
        """An extent, which may lie in several parts."""
        while length:
            part = offset // PART_BYTES
            piece = min(length, (part + 1) * PART_BYTES - offset)
            if part < end:
                self._clusters[part] = self._clusters.get(part, 0) + piece // CLUSTER
            offset, length = offset + piece, length - piece


def _parts(size: int) -> int:
    return -(-size // PART_BYTES)
