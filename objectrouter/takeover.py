"""Takes over what nodes owned that the registry has expired: the shell around ``Thief``.

Concurrency: one loop; a ``Thief`` is called without an await between its answer and the carrying out of its effects. One attempt
at an object at a time; who asks for it meanwhile waits for that one's end, unless it may do more than that one.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from objectrouter.loss import Loss, loss_of
from objectrouter.wire_ownership import OwnershipMessage
from registry import NodeRecord, ObjectKind, ObjectRecord, Steal
from volumedriver import (
    Consent,
    Fenced,
    Fetched,
    GaveUp,
    Keep,
    Send,
    Stolen,
    SubmitSteal,
    Thief,
    has_some_tail,
    may_be_stolen,
    without_loss,
)
from volumedriver.steal import Effect
from vpool.errors import Conflict, NotFound, VPoolError

if TYPE_CHECKING:
    from objectrouter.ownership import Ownership

log = structlog.get_logger()

TICK_S = 0.2
AGAIN_S = 2.0  # after an attempt that came to nothing
POWER_OFF_S = 60.0
POWER_OFF_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What has been taken over.

    Attributes:
        lost: what had not got to the backend has gone with the former owner; False: everything that was flushed is there.
        loss: how much that is, as far as is known; None: nothing.
        from_peer: it begins with what the peer of its DTL had; False: with what the backend has.
        problem: why it is not open yet; "" if it is.
    """

    record: ObjectRecord
    former: str
    lost: bool
    loss: Loss | None
    from_peer: bool
    problem: str


class _Attempt:
    def __init__(self, thief: Thief, former: str, loss: Loss, began: float) -> None:
        self.thief, self.former, self.loss, self.began = thief, former, loss, began
        self.over = trio.Event()
        self.by_command = False
        self.taken: Taken | None = None
        self.why = ""


class Takeover:
    """All attempts of this node."""

    def __init__(
        self, ownership: Ownership, open_it: Callable[[ObjectRecord], Awaitable[None]], power_off: Sequence[str] = ()
    ) -> None:
        """``open_it`` opens what is this node's now. ``power_off``: a command that powers a dead node's host off; none if ()."""
        self._ownership, self._open_it, self._power_off = ownership, open_it, power_off
        self._registry, self._now, self._nursery = ownership.registry, ownership.now, ownership.nursery
        self._attempts: dict[str, _Attempt] = {}
        self._tried_at: dict[str, float] = {}  # objects that this node has begun to take over by itself
        self._powered_off: dict[tuple[str, int], bool] = {}  # (node, incarnation) -> whether it is known to be off

    async def steal(self, object_id: str, consent: Consent) -> Taken:
        """Take one object over, and open it.

        Errors: ``Conflict`` (its owner has not expired; what was flushed might be lost, and that is not accepted; somebody else
        was faster), ``NotFound``, ``Halted``.
        """
        await self._registry.barrier()
        record = self._registry.view.object(object_id)
        if record is None:
            raise NotFound("no such object", object=object_id)
        self._check(record, consent)
        under_way = self._attempts.get(object_id)
        if under_way is None or not (consent.accept_loss and not under_way.thief.is_submitted):
            attempt = under_way or self._begin(record, consent)
        else:
            attempt = self._begin(record, consent)
        attempt.by_command = True
        await attempt.over.wait()
        if attempt.taken is None:
            raise Conflict(f"the object was not taken over: {attempt.why}", object=object_id)
        return attempt.taken

    def receive(self, sender: str, message: Fenced | Fetched) -> None:
        """An answer of a peer."""
        attempt = self._attempts.get(message.object)
        if attempt is not None:
            self._run(attempt, attempt.thief.receive(sender, message, self._now()))

    async def run(self) -> None:
        """Keep attempts going, and begin those that lose nothing; ends by cancellation."""
        while True:
            await trio.sleep(TICK_S)
            self._begin_by_itself()
            for object_id, attempt in list(self._attempts.items()):
                record = self._registry.view.object(object_id)
                if record is not None:
                    owner = self._registry.view.node(record.owner)
                    self._run(attempt, attempt.thief.changed(record, owner))
                self._run(attempt, attempt.thief.tick(self._now()))

    # -- parts of the above ----------------------------------------------------------------------------------------------

    def _begin_by_itself(self) -> None:
        """What this node is the peer of, in sync, and whose owner has expired."""
        view, me, now = self._registry.view, self._registry.node, self._now()
        expired = {node.id: node for node in view.nodes() if node.expired}
        if not expired:
            return
        own = {log_id.hex() for log_id in self._ownership.volumes.engine.logs()}  # a source becomes the peer unasked
        for object_id in own.union(self._ownership.kept_for_others()):
            record = view.object(object_id)
            if record is None or record.owner not in expired or object_id in self._attempts:
                continue
            if record.dtl.peer != me or not without_loss(record) or not may_be_stolen(record, expired[record.owner], me):
                continue
            if now - self._tried_at.get(object_id, -AGAIN_S) < AGAIN_S or not self._is_off(expired[record.owner]):
                continue
            self._tried_at[object_id] = now
            self._begin(record, Consent())

    def _is_off(self, node: NodeRecord) -> bool:
        """Whether the dead node's host may be taken for off: always, if there is no command to see to that."""
        if not self._power_off:
            return True
        key = (node.id, node.incarnation)
        if key not in self._powered_off:
            self._powered_off[key] = False
            self._nursery.start_soon(self._powers_off, node)
        return self._powered_off[key]

    async def _powers_off(self, node: NodeRecord) -> None:
        environment = {**os.environ, "VPOOL_DEAD_NODE": node.id, "VPOOL_DEAD_ADDRESS": node.address}
        key = (node.id, node.incarnation)
        try:
            with trio.fail_after(POWER_OFF_S):
                done = await trio.run_process(
                    list(self._power_off), env=environment, check=False, capture_stdout=True, capture_stderr=True
                )
        except (OSError, trio.TooSlowError) as error:
            log.error("not_powered_off", node=node.id, reason=str(error) or f"no end within {POWER_OFF_S:g} s")
        else:
            if done.returncode == 0:
                log.warning("powered_off", node=node.id)
                self._powered_off[key] = True
                return
            said = done.stderr.decode(errors="replace").strip()[-200:]
            log.error("not_powered_off", node=node.id, exit_code=done.returncode, reason=said)
        await trio.sleep(POWER_OFF_AGAIN_S)
        self._powered_off.pop(key, None)

    def _check(self, record: ObjectRecord, consent: Consent) -> None:
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
        if not without_loss(record) and not consent.accept_loss:
            loss = loss_of(record, self._registry.view.node(record.owner))
            raise Conflict(f"what was flushed might be lost: {loss.text}. To go on without it: --accept-loss", object=record.id)
        if without_loss(record) and record.dtl.peer != me and not consent.powered_off:
            raise Conflict(
                f"the peer of its DTL has everything that was flushed: take it over there, on node {record.dtl.peer}; "
                "or, if that one is gone too, with --accept-loss --powered-off",
                object=record.id,
            )
        if has_some_tail(record) and record.dtl.peer != me and consent.accept_loss and not consent.powered_off:
            raise Conflict(
                f"node {record.dtl.peer}, which mirrors it ({record.dtl.state.value}), may have more of it than the backend: "
                "take it over there; or, if that one is gone too, with --accept-loss --powered-off",
                object=record.id,
            )
        if any(remains.node == me and remains.lost for remains in record.remains):
            raise Conflict(
                "this node has a log of the object that nobody else may have; take it over on another node, or drop that first",
                object=record.id,
            )

    def _begin(self, record: ObjectRecord, consent: Consent) -> _Attempt:
        owner = self._registry.view.node(record.owner)
        attempt = _Attempt(Thief(self._registry.node, record, consent), record.owner, loss_of(record, owner), self._now())
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
                    assert isinstance(effect.message, OwnershipMessage)
                    self._ownership.send(effect.node, effect.message)
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
            await self._ownership.stage(attempt.thief.record, effect)
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
        await self._ownership.release_kept(record.id)  # it is opened as soon as it is this node's, by whoever asks for it
        try:
            stolen = await self._registry.submit(command)
        except VPoolError as error:
            self._run(attempt, attempt.thief.outcome(None, str(error)))
        else:
            self._run(attempt, attempt.thief.outcome(stolen))

    async def _opens(self, attempt: _Attempt, effect: Stolen) -> None:
        record, lost, problem = effect.record, effect.lost, ""
        loss = attempt.loss if lost else None
        cause = "command" if attempt.by_command else "automatic"
        log.warning(
            "stolen", object=record.id, epoch=record.epoch, former=attempt.former, everything_flushed=not lost, cause=cause,
            from_peer=effect.end_lsn is not None, **({} if loss is None else {"lost": loss.text}),
        )  # fmt: skip
        try:
            await self._ownership.release_kept(record.id)  # a message of its former owner may have opened it again
            await self._open_it(record)
        except VPoolError as error:  # it is this node's all the same, and opened by whoever asks for it next
            problem = str(error)
            log.error("stolen_not_opened", object=record.id, reason=problem)
        self._ownership.counters.stole(cause, self._now() - attempt.began, lost=lost)
        attempt.taken = Taken(record, attempt.former, lost, loss, effect.end_lsn is not None, problem)
        self._end(record.id, attempt, "")

    def _end(self, object_id: str, attempt: _Attempt, why: str) -> None:
        if why:
            log.info("takeover_given_up", object=object_id, reason=why)
        attempt.why = why
        if self._attempts.get(object_id) is attempt:
            del self._attempts[object_id]
        attempt.over.set()
