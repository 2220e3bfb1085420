"""Files that get logs of their own because an administrator wants them elsewhere: asked for from any node, done by the owner.

As with moves the owner is told again and again what is wanted (``Bid``, of a file), and answers how it goes (``Wish``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import structlog
import trio

from objectrouter.wishes import Bid, Wish
from vpool.errors import VPoolError

log = structlog.get_logger()

REMEMBER_S = 30.0  # how one went, for who asks
FORGOTTEN_S = 5.0  # without a bid nobody wants it any more

Part = Callable[[str, Callable[[int, int], None]], Awaitable[None]]


@dataclass(slots=True)
class _Job:
    wish: Wish
    asked_at: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended_at: float | None = None


class Partings:
    """Of one node. ``part``: does it; ``answer``: to who carries out an administrator's wish."""

    def __init__(self, part: Part, answer: Callable[[str, Wish], None], nursery: trio.Nursery) -> None:
        self._part, self._answer, self._nursery = part, answer, nursery
        self._jobs: dict[str, _Job] = {}

    def bid(self, sender: str, bid: Bid) -> None:
        """A file of this node is wanted in a log of its own."""
        now = trio.current_time()
        job = self._jobs.get(bid.object)
        if bid.cancel:
            if job is not None and job.wish.ticket == bid.ticket:
                job.scope.cancel()
            return
        if job is None or (job.ended_at is not None and job.wish.ticket != bid.ticket):
            job = self._jobs[bid.object] = _Job(Wish(bid.object, bid.ticket, "asking"), now)
            self._nursery.start_soon(self._run, job)
        job.asked_at = now
        self._answer(sender, replace(job.wish, ticket=bid.ticket))

    def tick(self) -> None:
        """Time passes."""
        now = trio.current_time()
        for object_id, job in list(self._jobs.items()):
            if job.ended_at is not None and now - job.ended_at > REMEMBER_S:
                del self._jobs[object_id]
            elif job.ended_at is None and now - job.asked_at > FORGOTTEN_S:
                job.scope.cancel()

    async def _run(self, job: _Job) -> None:
        def tell(came: int, wanted: int) -> None:
            job.wish = replace(job.wish, state="receiving", came=came, wanted=wanted)

        try:
            with job.scope:
                await self._part(job.wish.object, tell)
                job.wish = replace(job.wish, state="done")
        except VPoolError as error:
            log.warning("file_not_relocated", object=job.wish.object, reason=str(error))
            job.wish = replace(job.wish, state="failed", why=str(error))
        finally:
            if job.wish.state != "done" and job.wish.state != "failed":
                job.wish = replace(job.wish, state="failed", why="cancelled")
            job.ended_at = trio.current_time()
