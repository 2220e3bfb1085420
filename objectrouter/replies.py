"""When an answer on an object of this node may leave: decided at the reply, not at the admission.

One function for both kinds of requests: those of this node's front ends wait here (``allowed``), those that other nodes
forwarded wait in their ``OwnedObject``, which asks ``may_reply``. A node without neighbours has none of this.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from registry import Lease
from volumedriver import Phase, Waiting
from vpool.errors import Fenced


class Replies:
    """See above. ``tick`` lets those go on that may."""

    def __init__(self, lease: Lease, now: Callable[[], float]) -> None:
        self._lease, self._now = lease, now
        self._vouches: Callable[[str, float], bool] = lambda log_id, now: False
        self._waiting = trio.lowlevel.ParkingLot()

    def also_by_word(self, vouches: Callable[[str, float], bool]) -> None:
        """``vouches``: the DTL peer of a log, in sync, has lately said that it has not been fenced: enough without a lease."""
        self._vouches = vouches

    @property
    def waiting(self) -> int:
        """Answers to this node's front ends that wait for the lease."""
        return len(self._waiting)

    def may_reply(self, log_id: str, now: float) -> bool:
        """Whether this node may answer at this very moment for what is in a log (a volume's, or that of files)."""
        return self._lease.serves(now) or self._vouches(log_id, now)

    async def allowed(self, log_id: str) -> None:
        """Return when ``may_reply`` says yes; at once, without a checkpoint, if it does so now.

        Errors: ``Fenced`` (this life of the node is over: somebody else may serve the object, and has perhaps).
        """
        if self.may_reply(log_id, self._now()):
            return
        with Waiting(Phase.LEASE):
            while not self.may_reply(log_id, self._now()):
                if self._lease.ended:
                    raise Fenced("this life of the node is over; whether the request counts is unknown", log=log_id)
                await self._waiting.park()

    def tick(self) -> None:
        """Time has passed: whoever waits looks again."""
        self._waiting.unpark_all()
