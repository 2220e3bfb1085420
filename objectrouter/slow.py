"""The last requests that took too long, and what they waited for. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlowRequest:
    """A request that took longer than the threshold."""

    number: int  # 1 for the first since the daemon's start
    at: float  # unix time of its end
    operation: str  # read, write, flush, zero
    inode: int
    offset: int
    length: int
    seconds: float
    waited_s: Mapping[str, float]  # by phase; the rest is the engine, its disk and the queue of the loop
    error: str  # how it was refused; empty if it was answered


class SlowRequests:
    """A bounded ring of them. ``threshold_ns``: a request that takes as long is slow."""

    def __init__(self, *, threshold_s: float, kept: int) -> None:
        self.threshold_ns = int(threshold_s * 1e9)
        self.seen = 0  # since the start, kept or not
        self._ring: deque[SlowRequest] = deque(maxlen=kept)

    def note(
        self,
        *,
        at: float,
        operation: str,
        inode: int,
        offset: int,
        length: int,
        seconds: float,
        waited_s: Mapping[str, float],
        error: str,
    ) -> None:
        """Keep one; the oldest goes when there is no room."""
        self.seen += 1
        self._ring.append(SlowRequest(self.seen, at, operation, inode, offset, length, seconds, waited_s, error))

    def kept(self) -> list[SlowRequest]:
        """Those that are kept, oldest first."""
        return list(self._ring)
