"""How many requests front ends made of each volume, how large, how long they took. Pure: times are handed in.

On the way of every request, so nothing here may cost much: an index into a list that is there already, no search, no lock. A
latency falls into the bucket of its highest bit.

Not thread-safe: counted on the trio loop without an await; a reader in another thread may see one request half counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TICK_NS = 1 << 10
BUCKETS = 38  # the last one: all that took longer than 2^36 ticks, 19 hours


def bucket_bound_s(bucket: int) -> float:
    """The latency that all requests in this bucket and those below it are shorter than."""
    return (TICK_NS << bucket) / 1e9


class OperationTimes:
    """Requests of one kind on one object since the start of the daemon."""

    __slots__ = ("bytes", "counts", "failed", "sum_ns")

    def __init__(self) -> None:
        self.bytes = 0  # of requests that were answered
        self.failed = 0  # refused, apart from ``counts``
        self.sum_ns = 0
        self.counts = [0] * BUCKETS

    def ended(self, elapsed_ns: int, length: int) -> None:
        """A request was answered after ``elapsed_ns``, with ``length`` bytes read or written."""
        self.bytes += length
        self.sum_ns += elapsed_ns
        try:
            self.counts[(elapsed_ns >> 10).bit_length()] += 1
        except IndexError:
            self.counts[-1] += 1

    @property
    def answered(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class ObjectTraffic:
    """Requests on one object with a log: a volume, or all files of the node together."""

    reads: OperationTimes
    writes: OperationTimes
    flushes: OperationTimes
    zeroes: OperationTimes


class Traffic:
    """The traffic of all objects, by id. An object's figures stay while it is closed, and go with ``keep_only``."""

    def __init__(self) -> None:
        self._of: dict[str, ObjectTraffic] = {}

    def of(self, object_id: str) -> ObjectTraffic:
        """The figures of an object, made if it has none."""
        found = self._of.get(object_id)
        if found is None:
            found = self._of[object_id] = ObjectTraffic(OperationTimes(), OperationTimes(), OperationTimes(), OperationTimes())
        return found

    def known(self, object_id: str) -> ObjectTraffic | None:
        """The figures of an object that had a request; None: it had none."""
        return self._of.get(object_id)

    def requests(self, object_id: str) -> int:
        """How many requests of an object were answered, of all kinds."""
        found = self._of.get(object_id)
        if found is None:
            return 0
        return sum(times.answered for times in (found.reads, found.writes, found.flushes, found.zeroes))

    def keep_only(self, object_ids: Iterable[str]) -> None:
        """Forget objects that are not among these: they were deleted."""
        for gone in self._of.keys() - set(object_ids):
            del self._of[gone]
