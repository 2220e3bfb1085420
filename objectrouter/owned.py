"""An object at the node that owns it, for one epoch: which requests are executed, and when they may be answered. Pure.

Input: ``request``, ``executed``, ``synced``, ``changed``, ``hold``/``resume``, ``depose``, ``ban``, ``tick``. Output: effects.
The shell executes ``Execute`` in the order given (writes go to the log in that order) and makes the log durable for ``Sync``.

- **At the reply, not at the admission**: an answer leaves only if at that moment ``may_reply`` allows it (the lease, or the word
  of a peer in sync), and the object is not held.
- A flush is answered when the log here is durable so far and the DTL covers it.
- While *held* (a hand-over drains) nothing new is begun and nothing at all is answered, reads included.
- A write executed before, here or by an owner before, is answered from the table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from objectrouter.requests import Answer, Done, Failed, Moved, Reply, Request, RequestKind
from volumedriver import Executed, Lineage, Origin, Send


@dataclass(frozen=True, slots=True)
class Execute:
    """Effect: do it, then call ``executed``; for a write with the LSN of its record, which carries ``request.origin``."""

    request: Request


@dataclass(frozen=True, slots=True)
class Sync:
    """Effect: make the log durable through ``lsn``, then call ``synced``."""

    lsn: int


Effect = Send | Execute | Sync


class OwnedObject:
    """From the beginning of an epoch until it is known here that it is over."""

    def __init__(
        self,
        object_id: str,
        epoch: int,
        lineage: Lineage,
        end_lsn: int,
        executed: Executed,
        *,
        may_reply: Callable[[float], bool],
        covers: Callable[[int], bool],
    ) -> None:
        """``lineage`` includes this epoch, which begins behind ``end_lsn``; everything through ``end_lsn`` is durable here."""
        self.object, self.epoch, self.lineage = object_id, epoch, lineage
        self.end_lsn = self.synced_lsn = end_lsn
        self.executed_table = executed
        self.held = False
        self.moved: Moved | None = None  # the epoch is over
        self._may_reply, self._covers = may_reply, covers
        self._queue: deque[Request] = deque()
        self._executing: dict[Origin, Request] = {}
        self._flushing: dict[Origin, tuple[Request, int]] = {}
        self._answers: dict[Origin, tuple[Request, Answer]] = {}  # not sent yet
        self._sessions: dict[str, tuple[int, int]] = {}  # node -> (incarnation, session)
        self._banned: dict[str, int] = {}  # node -> incarnations up to this one are over

    @property
    def drained(self) -> bool:
        """Nothing is being executed."""
        return not self._executing

    @property
    def executing(self) -> list[str]:
        """What is being executed, as far as that can be named."""
        return [str(getattr(request.payload, "name", request.kind.value)) for request in self._executing.values()]

    @property
    def queued(self) -> int:
        """Requests that wait to be begun."""
        return len(self._queue)

    # -- events ----------------------------------------------------------------------------------------------------------

    def request(self, request: Request, now: float) -> list[Effect]:
        """A request has come, for the first time or again."""
        origin = request.origin
        if self._is_banned(origin):
            return [self._reply(request, Failed("fenced"))]
        if self.moved is not None:
            return [self._reply(request, self.moved)]
        if request.epoch != self.epoch:
            return [self._reply(request, Moved("", self.epoch))]
        if not self._in_session(request):
            return []
        self.executed_table.settle(origin.node, origin.incarnation, request.lowest)
        if origin in self._executing or origin in self._flushing or any(queued.origin == origin for queued in self._queue):
            return []
        if request.kind is RequestKind.WRITE and not self.executed_table.fits(origin):
            return [self._reply(request, Failed("invalid"))]
        if self.held:
            self._queue.append(request)
            return []
        return self._begin(request, now)

    def executed(self, origin: Origin, value: object, lsn: int, now: float) -> list[Effect]:
        """The shell has done what ``Execute`` asked for; ``lsn``: of a write's record, 0 for a read."""
        request = self._executing.pop(origin, None)
        if lsn:
            self.executed_table.note(origin, self.epoch, lsn)
            self.end_lsn = max(self.end_lsn, lsn)
        if request is None:
            return []
        self._answers[origin] = (request, Done(value, self.epoch if lsn else 0, lsn))
        return self.changed(now)

    def put_back(self, origin: Origin, now: float) -> list[Effect]:
        """The shell has not done it, since the object is held: it is queued again."""
        request = self._executing.pop(origin, None)
        if request is None or self.moved is not None or self._is_banned(origin):
            return []
        if not self.held:
            return self._begin(request, now)
        self._queue.appendleft(request)
        return []

    def synced(self, lsn: int, now: float) -> list[Effect]:
        """The log is durable here through ``lsn``."""
        self.synced_lsn = max(self.synced_lsn, lsn)
        return self.changed(now)

    def written(self, lsn: int) -> None:
        """The owner itself has written through ``lsn``: a flush that comes now is for that too."""
        self.end_lsn = max(self.end_lsn, lsn)

    def not_synced(self, why: object, now: float) -> list[Effect]:
        """The log cannot be made durable: whoever waits for that is told ``why`` as the value of the answer."""
        for origin, (request, _) in list(self._flushing.items()):
            del self._flushing[origin]
            self._answers[origin] = (request, Done(why))
        return self.changed(now)

    def changed(self, now: float) -> list[Effect]:
        """Lease, DTL or log may allow more than before: answer what may be answered."""
        if self.moved is not None or self.held:
            return []
        for origin, (request, point) in list(self._flushing.items()):
            if self.synced_lsn >= point and self._covers(point):
                del self._flushing[origin]
                self._answers[origin] = (request, Done())
        if not self._answers or not self._may_reply(now):
            return []
        answers, self._answers = self._answers, {}
        return [self._reply(request, answer) for request, answer in answers.values()]

    def tick(self, now: float) -> list[Effect]:
        """Time passes."""
        return self.changed(now)

    def hold(self) -> None:
        """Answer nothing and begin nothing from now on: a hand-over drains."""
        self.held = True

    def resume(self, now: float) -> list[Effect]:
        """The hand-over has been given up."""
        self.held = False
        queued, self._queue = self._queue, deque()
        effects = [effect for request in queued for effect in self._begin(request, now)]
        return effects + self.changed(now)

    def depose(self, owner: str, epoch: int) -> list[Effect]:
        """The object has another owner: whoever waits here is to ask there, where it is known what has been executed."""
        if self.moved is not None:
            return []
        self.moved = Moved(owner, epoch)
        waiting = [
            *self._queue,
            *self._executing.values(),
            *(request for request, _ in self._flushing.values()),
            *(request for request, _ in self._answers.values()),
        ]
        self._queue.clear()
        for gone in (self._executing, self._flushing, self._answers):
            gone.clear()
        return [self._reply(request, self.moved) for request in waiting]

    def ban(self, node: str, incarnation: int) -> None:
        """The registry has expired a node's life, or knows a later one: nothing more of it is begun."""
        self._banned[node] = max(incarnation, self._banned.get(node, 0))
        self._queue = deque(request for request in self._queue if not self._is_banned(request.origin))

    # -- parts of the above ----------------------------------------------------------------------------------------------

    def _is_banned(self, origin: Origin) -> bool:
        return origin.incarnation <= self._banned.get(origin.node, 0)

    def _in_session(self, request: Request) -> bool:
        """False for what is left of an older session; a newer one ends it: what is queued of it is cancelled."""
        node, mine = request.origin.node, (request.origin.incarnation, request.session)
        known = self._sessions.get(node, (0, 0))
        if mine < known:
            return False
        if mine > known:
            self._sessions[node] = mine
            self._queue = deque(
                queued
                for queued in self._queue
                if queued.origin.node != node or (queued.origin.incarnation, queued.session) >= mine
            )
        return True

    def _begin(self, request: Request, now: float) -> list[Effect]:
        if request.kind is RequestKind.FLUSH:
            return self._begin_flush(request, now)
        if request.kind is RequestKind.WRITE:
            if self.executed_table.is_over(request.origin):  # a late duplicate, perhaps one that was queued
                return []
            record = self.executed_table.record_of(request.origin)
            if record is not None:
                is_whole = record[1] > 0
                self._answers[request.origin] = (request, Done(None, *record) if is_whole else Failed("lost"))
                return self.changed(now)
            if request.first_epoch < self.executed_table.since:
                self._answers[request.origin] = (request, Failed("lost"))
                return self.changed(now)
        self._executing[request.origin] = request
        return [Execute(request)]

    def _begin_flush(self, request: Request, now: float) -> list[Effect]:
        for epoch, lsn in request.acknowledged:
            if lsn > self.executed_table.former.get(epoch, 0) and not self.lineage.holds(epoch, lsn, self.end_lsn):
                self._answers[request.origin] = (request, Failed("lost"))
                return self.changed(now)
        self._flushing[request.origin] = (request, self.end_lsn)
        if self.synced_lsn >= self.end_lsn:
            return self.changed(now)
        return [Sync(self.end_lsn)]

    def _reply(self, request: Request, answer: Answer) -> Send:
        return Send(request.origin.node, Reply(self.object, request.origin, request.epoch, answer))
