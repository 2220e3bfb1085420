"""Takes over what nodes owned that the registry has expired: the shell around ``Thief``.

Concurrency: one loop; a ``Thief`` is called without an await between its answer and the carrying out of its effects. One attempt
at an object at a time; who asks for it meanwhile waits for that one's end, unless it may do more than that one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from registry import ObjectKind, ObjectRecord, RegistryClient, Steal
from volumedriver import Consent, GaveUp, Keep, Send, Stolen, SubmitSteal, Thief, may_be_stolen
from volumedriver.steal import Effect
from vpool.errors import Conflict, NotFound, VPoolError

log = structlog.get_logger()

TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class Taken:
    """What has been taken over.

    Attributes:
        lost: what had not got to the backend has gone with the former owner; False: everything that was flushed is there.
        problem: why it is not open yet; "" if it is.
    """

    record: ObjectRecord
    former: str
    lost: bool
    problem: str


class _Attempt:
    def __init__(self, thief: Thief, former: str) -> None:
        self.thief, self.former = thief, former
        self.over = trio.Event()
        self.taken: Taken | None = None
        self.why = ""


class Takeover:
    """All attempts of this node."""

    def __init__(
        self,
        registry: RegistryClient,
        send: Callable[[str, object], None],
        keep: Callable[[ObjectRecord, Keep], Awaitable[None]],
        open_it: Callable[[ObjectRecord], Awaitable[None]],
        now: Callable[[], float],
        nursery: trio.Nursery,
    ) -> None:
        """``keep`` makes a tail durable as what the object will be opened with; ``open_it`` opens it."""
        self._registry, self._send, self._keep, self._open_it = registry, send, keep, open_it
        self._now, self._nursery = now, nursery
        self._attempts: dict[str, _Attempt] = {}

    async def steal(self, object_id: str, consent: Consent) -> Taken:
        """Take one object over, and open it.

        Errors: ``Conflict`` (its owner has not expired; what was flushed might be lost, and that is not accepted; somebody else
        was faster), ``NotFound``, ``Halted``.
        """
        await self._registry.barrier()
        record = self._registry.view.object(object_id)
        if record is None:
            raise NotFound("no such object", object=object_id)
        self._check(record)
        under_way = self._attempts.get(object_id)
        if under_way is None or not (consent.accept_loss and not under_way.thief.is_submitted):
            attempt = under_way or self._begin(record, consent)
        else:
            attempt = self._begin(record, consent)
        await attempt.over.wait()
        if attempt.taken is None:
            raise Conflict(f"the object was not taken over: {attempt.why}", object=object_id)
        return attempt.taken

    def is_taking(self, object_id: str) -> bool:
        """Whether an attempt is under way."""
        return object_id in self._attempts

    def receive(self, sender: str, message: object) -> None:
        """An answer of a peer (``Fenced``, ``Fetched``)."""
        attempt = self._attempts.get(message.object)  # type: ignore[attr-defined]
        if attempt is not None:
            self._run(attempt, attempt.thief.receive(sender, message, self._now()))  # type: ignore[arg-type]

    async def run(self) -> None:
        """Keep attempts going; ends by cancellation."""
        while True:
            await trio.sleep(TICK_S)
            for object_id, attempt in list(self._attempts.items()):
                record = self._registry.view.object(object_id)
                if record is not None:
                    owner = self._registry.view.node(record.owner)
                    self._run(attempt, attempt.thief.changed(record, owner))
                self._run(attempt, attempt.thief.tick(self._now()))

    # -- parts of the above ----------------------------------------------------------------------------------------------

    def _check(self, record: ObjectRecord) -> None:
        me = self._registry.node
        if record.kind is ObjectKind.FILE:
            raise Conflict("a file is taken over with the log of files that it is in", object=record.id, log=record.log)
        if record.owner in ("", me):
            raise Conflict("the object is this node's, or nobody's: it needs no taking over", object=record.id)
        if not may_be_stolen(record, self._registry.view.node(record.owner), me):
            raise Conflict(
                "the owner's lease lives, or the object is halted: only what a dead node owned is taken over",
                object=record.id,
                owner=record.owner,
            )
        if any(remains.node == me and remains.lost for remains in record.remains):
            raise Conflict(
                "this node has a log of the object that nobody else may have; take it over on another node, or drop that first",
                object=record.id,
            )

    def _begin(self, record: ObjectRecord, consent: Consent) -> _Attempt:
        attempt = _Attempt(Thief(self._registry.node, record, consent), record.owner)
        before = self._attempts.get(record.id)
        if before is not None:
            self._end(record.id, before, "another attempt has taken its place")
        self._attempts[record.id] = attempt
        log.info("takeover_begins", object=record.id, owner=record.owner, epoch=record.epoch, dtl=record.dtl.state.value)
        self._run(attempt, attempt.thief.begin(self._now()))
        return attempt

    def _run(self, attempt: _Attempt, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect.node, effect.message)
                case Keep():
                    self._nursery.start_soon(self._keeps, attempt, effect)
                case SubmitSteal():
                    self._nursery.start_soon(self._submits, attempt, effect)
                case Stolen():
                    self._nursery.start_soon(self._opens, attempt, effect)
                case GaveUp():
                    self._end(attempt.thief.record.id, attempt, effect.why)

    async def _keeps(self, attempt: _Attempt, effect: Keep) -> None:
        try:
            await self._keep(attempt.thief.record, effect)
        except VPoolError as error:
            self._end(attempt.thief.record.id, attempt, str(error))
        else:
            self._run(attempt, attempt.thief.kept(self._now()))

    async def _submits(self, attempt: _Attempt, effect: SubmitSteal) -> None:
        record = attempt.thief.record
        command = Steal(
            record.id, self._registry.node, effect.epoch, effect.dtl_version, effect.fenced_peer,
            effect.accept_loss, effect.powered_off,
        )  # fmt: skip
        try:
            stolen = await self._registry.submit(command)
        except VPoolError as error:
            self._run(attempt, attempt.thief.outcome(None, str(error)))
        else:
            self._run(attempt, attempt.thief.outcome(stolen))

    async def _opens(self, attempt: _Attempt, effect: Stolen) -> None:
        record, lost, problem = effect.record, effect.end_lsn is None, ""
        log.warning("stolen", object=record.id, epoch=record.epoch, former=attempt.former, everything_flushed=not lost)
        try:
            await self._open_it(record)
        except VPoolError as error:  # it is this node's all the same, and opened by whoever asks for it next
            problem = str(error)
            log.error("stolen_not_opened", object=record.id, reason=problem)
        attempt.taken = Taken(record, attempt.former, lost, problem)
        self._end(record.id, attempt, "")

    def _end(self, object_id: str, attempt: _Attempt, why: str) -> None:
        if why:
            log.info("takeover_given_up", object=object_id, reason=why)
        attempt.why = why
        if self._attempts.get(object_id) is attempt:
            del self._attempts[object_id]
        attempt.over.set()
