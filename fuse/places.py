"""Watching how much of what a mount takes at once is taken by requests that wait.

pyfuse3 has a task for each request under way, up to ``requests_max``; when all are taken it leaves requests with the kernel, and
whoever made them waits, also for what is here. The settings keep waiting writes from taking all. Reads that wait for a
backend that is away can: one per thread of a client. And asynchronous writes can take all of ``background_max``, after which
the kernel holds asynchronous reads back. Neither can be helped here, so it is said in time.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

log = structlog.get_logger()

LOOK_S = 1.0
_FULL_SHARE = 0.9
_CALM_SHARE = 0.7


class Gauge:
    """Says once that a limit is near, and once that it is not any more."""

    def __init__(self, setting: str, limit: int, taken: Callable[[], int], *, consequence: str) -> None:
        self._setting = setting
        self._limit = limit
        self._taken = taken
        self._consequence = consequence
        self._said = False

    def look(self) -> None:
        """Compare; called now and then."""
        taken = self._taken()
        if taken >= self._limit * _FULL_SHARE and not self._said:
            self._said = True
            log.warning(
                "fuse_limit_near",
                setting=self._setting,
                taken=taken,
                limit=self._limit,
                consequence=self._consequence,
                remedy="bring the backend back, or raise the limit",
            )
        elif self._said and taken < self._limit * _CALM_SHARE:
            self._said = False
            log.info("fuse_limit_eased", setting=self._setting, taken=taken)


def requests_of(serving: trio.lowlevel.Task) -> int:
    """How many tasks the one has that runs ``pyfuse3.main``: a few more than requests under way."""
    return sum(len(nursery.child_tasks) for nursery in serving.child_nurseries)


async def watch(gauges: list[Gauge]) -> None:
    """Until cancelled."""
    while True:
        await trio.sleep(LOOK_S)
        for gauge in gauges:
            gauge.look()
