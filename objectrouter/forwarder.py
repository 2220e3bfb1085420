"""One node's requests on one object, wherever its owner is: sent, sent again, answered once. Pure.

Input: ``submit`` (from a front end), ``route`` (what the registry says), ``reply``, ``reconnected``, ``fence``, ``tick``. Output:
effects. The owner may be this very node: then ``Send`` goes to its own ``OwnedObject``.

- A request keeps its number, so that an owner can tell that it has been executed, also by an owner before it.
- After it has been sent under a newer epoch, answers under older ones are ignored: what they tell may not have survived, and the
  request may be executed yet.
- A write that was answered and is not flushed is remembered as (epoch, LSN), by *stream*: whoever is to be told, once, that it
  has been lost (an open file, an NBD connection). A flush says which; an owner whose log does not have it refuses, instead of
  promising what is gone.
- Requests wait while there is no owner; after ``wait_s`` they fail.
"""

from __future__ import annotations

from dataclasses import dataclass

from objectrouter.requests import Answer, Done, Failed, Moved, Reply, Request, RequestKind
from volumedriver import WINDOW, Origin, Send


@dataclass(frozen=True, slots=True)
class Complete:
    """Effect: a request is over."""

    number: int
    answer: Done | Failed


@dataclass(frozen=True, slots=True)
class AskRegistry:
    """Effect: read the object's record again (behind a barrier, if it shows nothing newer), and call ``route``."""


Effect = Send | Complete | AskRegistry


@dataclass(frozen=True, slots=True)
class _Unflushed:
    lsn: int  # the last that was answered
    answers: int  # how many were: a flush is for those before it only


@dataclass(slots=True)
class _Pending:
    kind: RequestKind
    payload: object
    since: float
    stream: int
    acknowledged: dict[int, _Unflushed]  # a flush: as of its submission, by epoch
    first_epoch: int = 0  # under which it was sent first; 0: not yet
    epoch: int = 0  # under which it was sent last
    sent_at: float = 0.0


class Forwarder:
    """Of one object, for one incarnation of a node."""

    def __init__(self, object_id: str, me: str, incarnation: int, *, try_s: float = 5.0, wait_s: float = float("inf")) -> None:
        """``try_s``: after that a request is sent again. ``wait_s``: after that it fails."""
        self.object, self.me, self.incarnation = object_id, me, incarnation
        self.owner, self.epoch = "", 0
        self._try_s, self._wait_s = try_s, wait_s
        self._session = 1
        self._number = 0
        self._pending: dict[int, _Pending] = {}
        self._unflushed: dict[int, dict[int, _Unflushed]] = {}  # stream -> epoch ->
        self._fenced = False

    @property
    def waiting(self) -> int:
        """Requests that have no answer."""
        return len(self._pending)

    @property
    def has_room(self) -> bool:
        """Whether ``submit`` may be called: numbers must stay within the owners' window."""
        return self._number + 1 < self._lowest() + WINDOW

    def submit(self, kind: RequestKind, payload: object, now: float, stream: int = 0) -> tuple[int, list[Effect]]:
        """A new request; its number. ``stream``: whose it is."""
        self._number += 1
        number = self._number
        if self._fenced:
            return number, [Complete(number, Failed("fenced"))]
        unflushed = dict(self._unflushed.get(stream, {})) if kind is RequestKind.FLUSH else {}
        self._pending[number] = _Pending(kind, payload, now, stream, unflushed)
        return number, self._send(number, now)

    def route(self, owner: str, epoch: int, now: float) -> list[Effect]:
        """What the registry says. Under a newer epoch everything is sent again."""
        if epoch <= self.epoch:
            return []
        self.owner, self.epoch = owner, epoch
        return self._send_all(now)

    def reply(self, reply: Reply, now: float) -> list[Effect]:
        """An answer has come."""
        number = reply.origin.number
        pending = self._pending.get(number)
        if pending is None or reply.origin.incarnation != self.incarnation or not self._counts(reply, pending):
            return []
        if isinstance(reply.answer, Moved):
            pending.sent_at = now
            return [AskRegistry()]
        del self._pending[number]
        self._note(pending, reply.answer)
        return [Complete(number, reply.answer)]

    def written(self, stream: int, epoch: int, lsn: int) -> None:
        """A stream was answered a write by this very node, as owner at that epoch, and has not flushed it."""
        unflushed = self._unflushed.setdefault(stream, {})
        before = unflushed.get(epoch, _Unflushed(0, 0))
        unflushed[epoch] = _Unflushed(max(lsn, before.lsn), before.answers + 1)

    def closed(self, stream: int) -> None:
        """Nobody is left who could be told."""
        self._unflushed.pop(stream, None)

    def reconnected(self, now: float) -> list[Effect]:
        """The connection to the owner was lost and is there again: a new session."""
        self._session += 1
        return self._send_all(now)

    def fence(self) -> list[Effect]:
        """This incarnation is over: what waits fails, and is never replayed."""
        self._fenced = True
        numbers, self._pending = sorted(self._pending), {}
        return [Complete(number, Failed("fenced")) for number in numbers]

    def abandon(self) -> list[Effect]:
        """The owner cannot serve the object, and waiting will not change that: what waits fails as after ``wait_s``."""
        numbers, self._pending = sorted(self._pending), {}
        return [Complete(number, Failed("waited")) for number in numbers]

    def tick(self, now: float) -> list[Effect]:
        """Send again what has no answer; fail what has waited too long."""
        failed: list[Effect] = []
        again: list[Effect] = []
        for number, pending in sorted(self._pending.items()):
            if now - pending.since >= self._wait_s:
                del self._pending[number]
                failed.append(Complete(number, Failed("waited")))
            elif now - pending.sent_at >= self._try_s:
                again += self._send(number, now)
        return [*failed, AskRegistry(), *again] if again else failed

    # -- parts of the above ----------------------------------------------------------------------------------------------

    def _counts(self, reply: Reply, pending: _Pending) -> bool:
        return reply.epoch == pending.epoch

    def _note(self, pending: _Pending, answer: Answer) -> None:
        if pending.kind is RequestKind.WRITE and isinstance(answer, Done):
            self.written(pending.stream, answer.epoch, answer.lsn)
        if pending.kind is RequestKind.FLUSH:  # done, or told once that something is lost
            unflushed = self._unflushed.get(pending.stream, {})
            for epoch, covered in pending.acknowledged.items():
                if unflushed.get(epoch) == covered:
                    del unflushed[epoch]

    def _lowest(self) -> int:
        return next(iter(self._pending), self._number + 1)  # they are in the order of their numbers

    def _send_all(self, now: float) -> list[Effect]:
        return [effect for number in sorted(self._pending) for effect in self._send(number, now)]

    def _send(self, number: int, now: float) -> list[Effect]:
        if not self.owner:
            return []
        pending = self._pending[number]
        pending.epoch, pending.sent_at = self.epoch, now
        pending.first_epoch = pending.first_epoch or self.epoch
        origin = Origin(self.me, self.incarnation, number)
        request = Request(
            object=self.object,
            origin=origin,
            session=self._session,
            lowest=self._lowest(),
            epoch=self.epoch,
            first_epoch=pending.first_epoch,
            kind=pending.kind,
            payload=pending.payload,
            acknowledged=tuple((epoch, last.lsn) for epoch, last in sorted(pending.acknowledged.items())),
        )
        return [Send(self.owner, request)]
