"""The target of a hand-over: the shell around ``HandoverTarget``, for an object that this node wants.

What comes is staged in the one place that the node has for the object's log (``Engine.replica``): behind what it has already, if
that reaches so far, else in its place. Notes beside it say what it counts as. When the registry says so, it is opened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
import trio

from objectrouter.handover_messages import Cancelled, Copy, Denied, Finish, Granted
from objectrouter.handover_target import Dropped, HandoverTarget, Stage, TakeOver
from objectrouter.mirror_peer import MirrorPeer
from objectrouter.wishes import Bid, Wish, WishState
from registry import DtlState, ObjectKind, ObjectRecord
from volumedriver import LocalChoice, StagedLog, StagedMark, StagingPlace, Volume
from vpool.errors import Conflict, VPoolError

if TYPE_CHECKING:
    from objectrouter.place import Place

log = structlog.get_logger()

RETRY_S = 0.5
PATIENCE_S = 10.0
REMEMBER_S = 30.0  # how a wish went, for who asks
LOOK_S, LOOK_S_MAX = 0.002, 0.25  # how often the registry is looked at once all is here


class TakingOver:
    """See above; one per place."""

    takes = (Denied, Granted, Copy, Finish, Cancelled, Bid)

    def __init__(self, place: Place) -> None:
        self.wish: Wish | None = None  # the last
        self._ticket = 0  # of the command for which it is, or was
        self._bidding = False
        self._ended_at = 0.0
        self._place = place
        self._machine: HandoverTarget | None = None
        self._stages: deque[Stage] = deque()
        self._staged = trio.Event()
        self._over = trio.Event()
        self._log: StagedLog | None = None
        self._is_lent = False
        self._taken: tuple[ObjectRecord, Finish] | None = None

    @property
    def effects(self) -> Mapping[type, Callable[[Any], None]]:
        """See ``Role``."""
        return {Stage: self._stage, TakeOver: self._take_over, Dropped: self._dropped}

    @property
    def is_idle(self) -> bool:
        """See ``Role``."""
        return (
            self._machine is None
            and not self._bidding
            and (self.wish is None or self._ended_at + REMEMBER_S < self._place.ownership.now())
        )

    @property
    def is_busy(self) -> bool:
        """A wish is under way."""
        return self._machine is not None

    def want(self, record: ObjectRecord, *, use: float = 0.0, by_command: bool = False) -> None:
        """Ask its owner for the object. Conflict: that cannot be; the message says why."""
        registry = self._place.ownership.registry
        if self._machine is not None:
            return
        if record.kind is ObjectKind.FILE:
            raise Conflict("a file moves with the log of files that it is in", object=record.id, log=record.log)
        if record.owner in ("", registry.node):
            raise Conflict("no other node owns the object", object=record.id)
        if any(left.node == registry.node and left.lost for left in record.remains):
            raise Conflict("this node has remains of the object that nobody else may have; they come first", object=record.id)
        self._machine = HandoverTarget(
            record.id, registry.incarnation, record.owner, record.epoch, use=use, by_command=by_command, retry_s=RETRY_S,
            patience_s=PATIENCE_S,
        )  # fmt: skip
        self.wish = self._wish("asking")
        self._stages.clear()
        self._is_lent = False
        self._taken, self._over = None, trio.Event()
        self._place.ownership.nursery.start_soon(self._stay, self._machine, record)

    def cancel(self) -> None:
        """Give the wish up, unless the registry may decide about it already."""
        machine = self._machine
        if machine is not None and not machine.is_ready and self._taken is None:
            cancelled = Cancelled(machine.object, machine.epoch, machine.attempt)
            if machine.attempt:
                self._place.ownership.send(machine.source, cancelled)
            self._place.run(machine.receive(machine.source, cancelled, self._place.ownership.now()))
            if not machine.is_over:  # nothing has been granted yet
                self._dropped(Dropped("cancelled"))

    def began(self, record: ObjectRecord, first_lsn: int, volume: Volume) -> None:
        """See ``Role``: nothing, whoever opens it."""

    def ended(self) -> None:
        """See ``Role``: nothing."""

    def receive(self, sender: str, message: Denied | Granted | Copy | Finish | Cancelled | Bid) -> None:
        """A message of the source, or the wish of an administrator."""
        if isinstance(message, Bid):
            self._bid(sender, message)
        elif self._machine is not None:
            self._place.run(self._machine.receive(sender, message, self._place.ownership.now()))
            self._show()

    def see(self, record: ObjectRecord) -> None:
        """The registry's word."""
        if self._machine is not None:
            self._place.run(self._machine.changed(record, self._place.ownership.registry.node))

    def tick(self, now: float) -> None:
        """Time passes."""
        if self._machine is not None:
            self._lend_to_thief(self._machine)
            self._place.run(self._machine.tick(now))

    def _lend_to_thief(self, machine: HandoverTarget) -> None:
        """Where the source has died while all is here, nobody may be left to end the wish but a thief, who has to fence the peer.

        The peer that is counted on may be this very node, and then what is to be fenced and fetched is what was staged.
        """
        source = self._place.ownership.registry.view.node(machine.source)
        if self._log is not None and machine.is_ready and self._taken is None and source is not None and source.expired:
            self._log.lend()
            self._is_lent = True

    def _bid(self, sender: str, bid: Bid) -> None:
        if bid.cancel:
            if bid.ticket == self._ticket:
                self.cancel()
        elif bid.ticket != self._ticket and self._machine is None:
            if not self._bidding:
                self._bidding = True
                self._place.ownership.nursery.start_soon(self._begin, bid)
        else:
            self._ticket = bid.ticket
            wish = self.wish or self._wish("asking")
            self._place.ownership.answer(sender, replace(wish, ticket=bid.ticket))

    async def _begin(self, bid: Bid) -> None:
        """An administrator wants it here."""
        registry = self._place.ownership.registry
        try:
            await registry.barrier()
            record = registry.view.object(bid.object)
            if record is not None:
                self.want(record, by_command=True)
        except VPoolError as error:
            self.wish = self._wish("failed", why=str(error))
        finally:
            self._ticket, self._bidding = bid.ticket, False

    def _wish(self, state: WishState, came: int = 0, wanted: int = 0, *, why: str = "") -> Wish:
        return Wish(self._place.object, self._ticket, state, came, wanted, why)

    # -- the wish ----------------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        if self._machine is not None and self._taken is None and not self._machine.is_over:
            step, came, wanted = self._machine.progress
            self.wish = self._wish(step, came, wanted)

    async def _stay(self, machine: HandoverTarget, record: ObjectRecord) -> None:
        """From the wish to its end; meanwhile nobody opens the object here."""
        ownership = self._place.ownership
        try:
            async with ownership.volumes.staging(record.id):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._stage_all, machine)
                    self._place.run(machine.begin(ownership.now()))
                    await self._over.wait()
                    nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    log_here, self._log = self._log, None
                    if self._is_lent:
                        await self._peer.release()
                    if self._taken is not None:
                        if log_here is not None:
                            await log_here.close()
                        await self._open(*self._taken)
                    elif log_here is not None:
                        await log_here.drop()
        except VPoolError as error:
            log.warning("not_taken_over", object=record.id, reason=str(error))
            self.wish = self._wish("failed", why=str(error))
        finally:
            self._machine, self._taken, self._ended_at = None, None, ownership.now()

    @property
    def _peer(self) -> MirrorPeer:
        return self._place.role(MirrorPeer)

    @property
    def _choice(self) -> LocalChoice:
        choice = self._place.ownership.volumes.local_choice
        assert choice is not None, "a node of a cluster has notes"
        return choice

    async def _open(self, record: ObjectRecord, finish: Finish) -> None:
        began = self._place.ownership.now()
        self.wish = self._wish("opening")
        await self._place.ownership.open_it(record)
        self.wish = self._wish("done")
        self._place.ownership.counters.taken_over += 1
        log.info(
            "taken_over", object=record.id, epoch=record.epoch, end_lsn=finish.end_lsn,
            opened_in_s=round(self._place.ownership.now() - began, 4),
        )  # fmt: skip

    # -- staging -----------------------------------------------------------------------------------------------------------

    async def _stage_all(self, machine: HandoverTarget) -> None:
        while True:
            await self._staged.wait()
            self._staged = trio.Event()
            while self._stages:
                ready, self._stages = self._stages, deque()
                try:
                    await self._stage_these(machine, ready)
                except VPoolError as error:
                    log.warning("not_staged", object=machine.object, reason=str(error))
                    self._place.run(machine.failed(ready[-1].token))
                    return
                for stage in ready:
                    self._place.run(machine.staged(stage.token))
                self._show()
                if machine.is_ready:
                    self._place.ownership.nursery.start_soon(self._look, machine)

    async def _stage_these(self, machine: HandoverTarget, stages: deque[Stage]) -> None:
        """All that has come meanwhile, with one sync."""
        for stage in stages:
            if stage.fresh:
                await self._fresh(machine, stage)
            assert self._log is not None
            await self._log.take(stage.records)
        assert self._log is not None
        await self._log.sync()
        for stage in stages:
            if stage.finish is not None:
                await self._log.complete(stage.finish.end_lsn, stage.finish.lineage, stage.finish.executed)

    async def _fresh(self, machine: HandoverTarget, stage: Stage) -> None:
        ownership = self._place.ownership
        if self._log is not None:
            await self._log.drop()
            self._log = None
        self._log = await StagedLog.begin(
            StagingPlace(machine.object, ownership.notes, self._choice, ownership.volumes.replica),
            StagedMark(stage.epoch + 1, stage.attempt, complete=False),
            first_lsn=stage.first_lsn, lineage=stage.lineage, end_lsn=stage.end_lsn,
            kept=self._peer.kept, release=self._peer.release, is_counted_on=lambda: self._is_counted_on(machine.object),
        )  # fmt: skip
        machine.has(stage.token, self._log.has_lsn)

    def _is_counted_on(self, object_id: str) -> bool:
        registry = self._place.ownership.registry
        record = registry.view.object(object_id)
        return record is not None and record.dtl.state is DtlState.IN_SYNC and record.dtl.peer == registry.node

    async def _look(self, machine: HandoverTarget) -> None:
        """All is here: the registry may give the object to this node at any moment, and its clients wait."""
        pause, registry = LOOK_S, self._place.ownership.registry
        while self._machine is machine and machine.is_ready:
            try:
                await registry.barrier()
            except VPoolError as error:
                log.info("registry_not_asked", object=machine.object, reason=str(error))
            record = registry.view.object(machine.object)
            if record is not None and self._machine is machine:
                self._place.run(machine.changed(record, registry.node))
            await trio.sleep(pause)
            pause = min(1.5 * pause, LOOK_S_MAX)

    # -- effects -----------------------------------------------------------------------------------------------------------

    def _stage(self, effect: Stage) -> None:
        self._stages.append(effect)
        self._staged.set()

    def _take_over(self, effect: TakeOver) -> None:
        self._taken = effect.record, effect.finish
        self._over.set()

    def _dropped(self, effect: Dropped) -> None:
        assert self._machine is not None
        self.wish = self._wish("failed", why=effect.why)
        log.info("wish_given_up", object=self._machine.object, why=effect.why)
        self._place.ownership.use(self._machine.object).refused(self._place.ownership.now())
        self._over.set()
