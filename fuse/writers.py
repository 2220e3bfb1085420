"""How many may change data through the mount at once, decided when they come, not when they write. Pure but for the log.

The kernel sends one synchronous write (or truncation) per file at a time, and each that waits for room keeps one of the mount's
places for requests. So the handles open for writing bound the places that waiting writes can take, and what is left is for reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog

from vpool.errors import Unavailable

log = structlog.get_logger()

_CALM_SHARE = 0.9  # a full house is said again only after it was emptier than this


class Writers:
    """Counts handles open for writing, and truncations by name; refuses those beyond the most there may be."""

    def __init__(self, writers_max: int) -> None:
        self.count = 0
        self._max = writers_max
        self._said = False

    def enter(self) -> None:
        """One more.

        Raises:
            Unavailable: there are as many as the settings allow (ENFILE).
        """
        if self.count >= self._max:
            if not self._said:
                log.warning(
                    "too_many_open_for_writing",
                    limit=self._max,
                    consequence="further opens for writing are refused with ENFILE",
                    remedy="raise fuse.open_for_writing_max",
                )
                self._said = True
            raise Unavailable("too many handles are open for writing", limit=self._max, reason="too_many_writers")
        self.count += 1

    def leave(self) -> None:
        """One less."""
        self.count -= 1
        if self.count < self._max * _CALM_SHARE:
            self._said = False

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """One more for as long as the block takes."""
        self.enter()
        try:
            yield
        finally:
            self.leave()
