"""The source of a hand-over: the shell around ``HandoverSource``, for an object that this node owns.

The log is copied while the object is served; then everything is held (``Volume.hold_all``, ``OwnedObject.hold``), what is under
way ends, the rest goes, and the registry decides. Whoever waits here then goes on here, or is sent to the new owner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
import trio

from objectrouter.handover_messages import Ask, Cancelled, Copied, Copy, Denied, Ready, WhyDenied
from objectrouter.handover_source import CopyOut, HandedOver, HandoverSource, HandoverTimings, Hold, Resume, Submit
from registry import NodeStatus, ObjectRecord
from volumedriver import TailCopy, TailRecord, Volume
from vpool.errors import Conflict, NotFound, VPoolError

if TYPE_CHECKING:
    from objectrouter.place import Place

log = structlog.get_logger()

SMALL_BYTES = 8 << 20  # the rest, for which clients are kept waiting


class HandingOver:
    """See above; one per place."""

    takes = (Ask, Copied, Ready, Cancelled)

    def __init__(self, place: Place, timings: HandoverTimings) -> None:
        self._place, self._timings = place, timings
        self._machine: HandoverSource | None = None
        self._volume: Volume | None = None
        self._record: ObjectRecord | None = None
        self._copy: TailCopy | None = None
        self._attempt = trio.CancelScope()  # what runs for it
        self._asking = False
        self._held_at: float | None = None
        self._is_drained = False
        self._asked_at = 0.0

    @property
    def effects(self) -> Mapping[type, Callable[[Any], None]]:
        """See ``Role``."""
        return {
            Hold: self._hold, Resume: self._resume, CopyOut: self._copy_out, Submit: self._submit, HandedOver: self._handed_over,
        }  # fmt: skip

    @property
    def is_idle(self) -> bool:
        """See ``Role``."""
        return self._machine is None and not self._asking

    @property
    def progress(self) -> tuple[str, int, int]:
        """(phase, records that the target has, records that it needs as of now)."""
        return ("idle", 0, 0) if self._machine is None else (self._machine.phase, *self._machine.progress)

    def began(self, record: ObjectRecord, first_lsn: int, volume: Volume) -> None:
        """This node has opened the object."""
        self._record, self._volume = record, volume
        self._machine = HandoverSource(
            record.id, self._place.ownership.registry.node, record.epoch, record.attempt, first_lsn - 1,
            volume.native.tail_first_lsn() - 1, self._place.ownership.now(),
            timings=self._timings,
        )  # fmt: skip

    def ended(self) -> None:
        """Its log was closed here."""
        self._end_attempt()
        self._place.ownership.stays(self._place.object)
        self._place.ownership.serving.hold_is_over(self._place.object)
        self._machine, self._volume, self._record = None, None, None

    def receive(self, sender: str, message: Ask | Copied | Ready | Cancelled) -> None:
        """A message of a target."""
        machine = self._machine
        if isinstance(message, Ask):
            if machine is None and self._is_ours(message):
                self._open_first()
            elif machine is None or message.epoch != machine.epoch:
                self._place.ownership.send(sender, Denied(message.object, message.epoch, "not-owner"))
            elif not self._asking:
                self._asking = True
                self._place.ownership.nursery.start_soon(self._asked, machine, sender, message)
            return
        if machine is None:
            return
        now = self._place.ownership.now()
        if isinstance(message, Copied) and self._copy is not None and message.attempt == machine.attempt:
            self._copy.confirmed(message.through)
            small = min(self._timings.small_records, self._copy.records_within(SMALL_BYTES))
            machine.timings = replace(self._timings, small_records=small)
        self._grown(machine)
        self._run(machine.receive(sender, message, now))

    def cancel(self) -> None:
        """An administrator wants it to stay."""
        if self._machine is not None:
            self._run(self._machine.cancel(self._place.ownership.now()))

    def see(self, record: ObjectRecord) -> None:
        """The registry's word: an object that somebody else has is theirs, whatever we believe."""
        machine = self._machine
        if machine is not None and record.epoch > machine.epoch and record.owner != self._place.ownership.registry.node:
            self._gone(record)

    def tick(self, now: float) -> None:
        """Time passes."""
        if self._machine is not None and self._machine.phase != "idle":
            self._grown(self._machine)
            self._run(self._machine.tick(now))

    # -- parts of the above ------------------------------------------------------------------------------------------------

    def _is_ours(self, ask: Ask) -> bool:
        """It has not been opened here since the start, or is just being opened or closed."""
        record = self._place.ownership.registry.view.object(ask.object)
        return record is not None and record.owner == self._place.ownership.registry.node

    def _open_first(self) -> None:
        """Who asks asks again."""
        if not self._asking:
            self._asking = True
            self._place.ownership.nursery.start_soon(self._open)

    async def _open(self) -> None:
        ownership = self._place.ownership
        try:
            await ownership.volumes.attach(self._place.object)
        except VPoolError as error:
            log.warning("not_handed_over", object=self._place.object, reason=str(error))
        finally:
            self._asking = False

    def _run(self, effects: list[Any]) -> None:
        self._place.run(effects)
        machine, volume = self._machine, self._volume
        if machine is None or volume is None:
            return
        try:
            volume.native.pin_tail(machine.pinned_from)
        except NotFound as error:  # a head was committed between the question and its grant
            log.info("hand_over_begins_too_late", object=machine.object, reason=str(error))
            self._place.run(machine.cancel(self._place.ownership.now()))
        if machine.phase == "idle":
            self._end_attempt()
            self._place.ownership.stays(self._place.object)

    def _grown(self, machine: HandoverSource) -> None:
        if self._volume is not None and machine.phase in ("idle", "copying"):
            machine.trimmed(self._volume.native.tail_first_lsn() - 1)
            self._place.run(machine.appended(self._volume.native.stats().lsn, self._place.ownership.now()))

    async def _asked(self, machine: HandoverSource, sender: str, ask: Ask) -> None:
        """The object must be served to other nodes before it goes: the target gets what is known of their requests."""
        ownership = self._place.ownership
        try:
            lineage = await ownership.serving.lineage(machine.object)
            if machine.phase == "idle":
                await ownership.may_leave(machine.object)
        except Conflict as error:
            log.info("not_handed_over", object=machine.object, target=sender, reason=str(error))
            ownership.send(sender, Denied(ask.object, ask.epoch, "nameless"))
            self._asking = False
            return
        except VPoolError as error:
            log.warning("not_handed_over", object=machine.object, target=sender, reason=str(error))
            self._asking = False
            return
        self._asking = False
        if self._machine is not machine:
            return
        was, now = machine.phase, ownership.now()
        self._grown(machine)
        machine.lineage = lineage
        me = ownership.registry.view.node(ownership.registry.node)
        machine.source_stays = me is not None and me.status is NodeStatus.ACTIVE
        takes, why = self._takes(sender, ask)
        yields = ownership.use(machine.object).yields(ask.use, now)
        self._run(machine.asked(sender, ask, now, takes=takes, yields=yields))
        if was == "idle" and self._machine is machine and machine.phase == "copying":
            self._begin_attempt(machine, sender)
        elif why:
            log.info("not_handed_over", object=machine.object, target=sender, reason=why)

    def _takes(self, target: str, ask: Ask) -> tuple[bool, WhyDenied | None]:
        node = self._place.ownership.registry.view.node(target)
        good = node is not None and not node.expired and node.status is NodeStatus.ACTIVE and node.incarnation == ask.incarnation
        return good, None if good else "status"

    def _begin_attempt(self, machine: HandoverSource, target: str) -> None:
        assert self._volume is not None
        self._attempt.cancel()
        self._attempt, self._asked_at = trio.CancelScope(), self._place.ownership.now()
        epoch, attempt, object_id = machine.epoch, machine.attempt, machine.object

        def send(runs: tuple[TailRecord, ...]) -> None:
            self._place.ownership.send(target, Copy(object_id, epoch, attempt, runs))

        self._copy = TailCopy(self._volume, send)
        self._place.ownership.nursery.start_soon(self._copying, machine, self._copy, self._attempt)
        log.info("hand_over_begins", object=object_id, target=target, epoch=epoch, attempt=attempt)

    async def _copying(self, machine: HandoverSource, copy: TailCopy, attempt: trio.CancelScope) -> None:
        with attempt:
            try:
                await copy.run()
            except VPoolError as error:
                log.warning("tail_not_copied", object=machine.object, reason=str(error))
                if self._machine is machine:
                    self._run(machine.cancel(self._place.ownership.now()))

    def _end_attempt(self) -> None:
        self._attempt.cancel()
        self._copy = None

    # -- effects -----------------------------------------------------------------------------------------------------------

    def _copy_out(self, effect: CopyOut) -> None:
        if self._copy is not None:
            self._copy.order(effect.first_lsn, effect.last_lsn)

    def _hold(self, effect: Hold) -> None:
        assert self._machine is not None
        assert self._volume is not None
        self._held_at, self._is_drained = self._place.ownership.now(), False
        self._volume.hold_all()
        self._place.ownership.nursery.start_soon(self._drain, self._machine, self._volume)

    async def _drain(self, machine: HandoverSource, volume: Volume) -> None:
        ownership, attempt = self._place.ownership, machine.attempt
        try:
            lineage, executed = await ownership.serving.drained(machine.object)
            end_lsn = volume.native.stats().lsn  # what the engine says behind that when it is idle does not go along
            await volume.sync_held()
            await ownership.leaves(machine.object)
        except VPoolError as error:
            log.warning("not_drained", object=machine.object, reason=str(error))
            if self._machine is machine and machine.attempt == attempt:
                self._run(machine.cancel(ownership.now()))
            return
        if self._machine is machine and machine.attempt == attempt and ownership.serving.is_held(machine.object):
            self._is_drained, volume.handed_over_lsn = True, end_lsn
            self._run(machine.drained(end_lsn, lineage, executed, ownership.now()))

    def _resume(self, effect: Resume) -> None:
        assert self._machine is not None
        assert self._volume is not None
        under_way = self._place.ownership.serving.executing(self._machine.object)
        self._volume.release()
        self._place.ownership.serving.resume(self._machine.object)
        log.warning(
            "hand_over_given_up", object=self._machine.object, attempt=self._machine.attempt, pause_s=round(self._pause(), 4),
            drained=self._is_drained, under_way=under_way,
        )  # fmt: skip
        self._place.ownership.counters.given_up += 1

    def _submit(self, effect: Submit) -> None:
        machine = self._machine
        assert machine is not None

        def decided(outcome: ObjectRecord | VPoolError) -> None:
            if self._machine is not machine:
                return
            record = outcome if isinstance(outcome, ObjectRecord) else None
            current = record or self._place.ownership.registry.view.object(machine.object)
            if record is None:
                log.info("hand_over_refused", object=machine.object, command=type(effect.command).__name__, reason=str(outcome))
            if current is not None:
                self._run(machine.outcome(effect.command, record, current, self._place.ownership.now()))

        self._place.ownership.submit(effect.command, decided)

    def _handed_over(self, effect: HandedOver) -> None:
        ownership, record = self._place.ownership, effect.record
        copied = 0 if self._copy is None else self._copy.bytes
        log.info(
            "handed_over", object=record.id, owner=record.owner, epoch=record.epoch, bytes=copied,
            took_s=round(ownership.now() - self._asked_at, 3), pause_s=round(self._pause(), 4),
        )  # fmt: skip
        ownership.counters.handed_over(self._pause())
        self._gone(record)

    def _gone(self, record: ObjectRecord) -> None:
        ownership = self._place.ownership
        self._end_attempt()
        self._machine = None
        ownership.serving.depose(record.id, record.owner, record.epoch)
        ownership.nursery.start_soon(ownership.leave, record.id)

    def _pause(self) -> float:
        return 0.0 if self._held_at is None else self._place.ownership.now() - self._held_at
