"""Watching how many of a mount's places for requests are taken.

pyfuse3 has a task for each request under way, up to ``requests_max``; when all are taken it leaves requests with the kernel, and
whoever made them waits, also for what is here. The settings keep waiting writes from taking all. Reads that wait for a
backend that is away can: one per thread of a client. That is said, in time.
"""

from __future__ import annotations

import structlog
import trio

log = structlog.get_logger()

LOOK_S = 1.0
_FULL_SHARE = 0.9
_CALM_SHARE = 0.7


async def watch_places(serving: trio.lowlevel.Task, requests_max: int) -> None:
    """Warn when nearly all places are taken, once until it is better. ``serving`` runs ``pyfuse3.main``; ends by cancellation."""
    said = False
    while True:
        await trio.sleep(LOOK_S)
        taken = sum(len(nursery.child_tasks) for nursery in serving.child_nurseries)
        if taken >= requests_max * _FULL_SHARE and not said:
            said = True
            log.warning(
                "fuse_requests_nearly_used_up",
                taken=taken,
                limit=requests_max,
                consequence="when all are taken, requests for local data wait too",
                remedy="bring the backend back, or raise fuse.requests_max",
            )
        elif said and taken < requests_max * _CALM_SHARE:
            said = False
            log.info("fuse_requests_eased", taken=taken)
