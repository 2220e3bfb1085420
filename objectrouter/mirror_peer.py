"""A peer's side of the DTL: the shell around ``DtlStore``, with a replica of the owner's log as what is kept.

Concurrency: one loop; the machine is called without an await between its answer and the carrying out of its effects. What it
orders to be stored is done by one task, in order, in a thread; what has gathered meanwhile shares one sync.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
import trio

from objectrouter.burial import is_superseded
from registry import ObjectRecord, ObjectState
from volumedriver import (
    NOTHING_KEPT,
    DtlStore,
    DtlTimings,
    Entries,
    Fetched,
    Keep,
    Kept,
    Lineage,
    LocalChoice,
    Notes,
    SendRecords,
    StagedMark,
    Store,
    StoreMark,
    TailRecord,
    ToPeer,
    Volume,
    make_durable,
    take_in,
    without_loss,
)
from volumedriver.dtl_messages import Append, Begin, Fence, Fetch, Open, Ping, Refused, Trim
from vpool.errors import Conflict, VPoolError

if TYPE_CHECKING:
    from objectrouter.place import Place

log = structlog.get_logger()

FETCH_BYTES = 1 << 20


class MirrorPeer:
    """See above; one per place."""

    takes = (Open, Begin, Append, Trim, Ping, Fence, Fetch)

    def __init__(self, place: Place, timings: DtlTimings) -> None:
        self._place, self._timings = place, timings
        self._object = place.object
        self._store: DtlStore | None = None
        self._replica: Any = None
        self._orders: deque[Store] = deque()
        self._is_storing = False
        self._is_served_here = False
        self._is_void = False  # what was kept is gone
        self._noted = NOTHING_KEPT  # as the notes have it
        self._idle = trio.Event()

    @property
    def effects(self) -> Mapping[type, Callable[[Any], None]]:
        """See ``Role``."""
        return {Store: self._order, SendRecords: self._send_records}

    @property
    def is_idle(self) -> bool:
        """See ``Role``."""
        return self._store is None

    @property
    def holds(self) -> tuple[int, int] | None:
        """(last LSN, bytes) of what is kept; None: nothing is."""
        return None if self._store is None or self._replica is None else (self._store.end_lsn, self._replica.bytes)

    @property
    def kept(self) -> Any:
        """The copy of the log that is open here; None: there is none."""
        return self._replica

    async def release(self) -> None:
        """Let go of what is kept: it is about to be opened, or to go."""
        while self._is_storing:
            await self._idle.wait()
        self._let_go()

    def receive(self, sender: str, message: ToPeer) -> None:
        """A message of an owner, or of a thief."""
        ownership = self._place.ownership
        if self._is_served_here or ownership.is_away:
            return
        record = ownership.registry.view.object(self._object)
        if record is not None and message.epoch < record.epoch and isinstance(message, Open | Begin | Append | Trim | Ping):
            # Also where the fence has gone with a copy that was of no use any more.
            ownership.send(sender, Refused(self._object, message.epoch, message.session, "fenced"))
            return
        if self._store is None:
            try:
                self._store = self._found()
            except VPoolError as error:
                log.warning("dtl_store_not_opened", object=self._object, reason=str(error))
                if isinstance(message, Open):
                    refused = Refused(self._object, message.epoch, message.session, "no-space")
                    self._place.ownership.send(sender, refused)
                return
        self._place.run(self._store.receive(sender, message, self._place.ownership.now()))

    def began(self, record: ObjectRecord, first_lsn: int, volume: Volume) -> None:
        """This node serves the object now: what it kept is its log, or of no use."""
        self._is_served_here = True
        self._let_go()

    def ended(self) -> None:
        """Its log was closed here."""
        self._is_served_here = False

    def see(self, record: ObjectRecord) -> None:
        """The registry's word: what is removed, or kept by another node now, is let go of, for ``Burial`` to remove it."""
        is_over = record.state is ObjectState.CONDEMNED or is_superseded(record, self._place.ownership.registry.node)
        if is_over and not self._is_storing:
            self._let_go()

    def tick(self, now: float) -> None:
        """Time passes."""
        if self._store is not None:
            self._place.run(self._store.tick(now))

    def wake(self) -> None:
        """After a start: what is kept here is known again."""
        if self._store is None and not self._is_served_here:
            try:
                self._store = self._found()
            except VPoolError as error:
                log.warning("dtl_store_not_opened", object=self._object, reason=str(error))

    async def stage(self, record: ObjectRecord, effect: Keep) -> None:
        """Make what is kept the object's log at the next epoch, if this node gets that: durable on return.

        What was executed is known as far as what is kept is all that was flushed, and its owner has told it to this very process.
        """
        end_lsn = 0 if self._store is None else self._store.end_lsn
        is_known = end_lsn > 0 and without_loss(record) and effect.executed.since <= record.epoch
        await self.release()

        def staged(notes: Notes) -> Notes:
            return replace(
                notes,
                staged=StagedMark(record.epoch + 1, None, True),
                lineage=effect.lineage,
                executed=effect.executed,
                kept=(record.epoch, end_lsn) if is_known else None,
                kept_exactly=is_known,
            )

        await LocalChoice.durably(self._place.ownership.notes.change, self._object, staged)

    # -- parts of the above ------------------------------------------------------------------------------------------------

    def _found(self) -> DtlStore:
        """What the disk has. Errors: ``Conflict`` (what is here is not to be overwritten), and the engine's."""
        ownership = self._place.ownership
        record, notes = ownership.registry.view.object(self._object), ownership.notes.read(self._object)
        me = ownership.registry.node
        if record is not None and record.state is ObjectState.CONDEMNED:
            raise Conflict("the object is being removed", object=self._object)
        if record is not None and is_superseded(record, me):
            raise Conflict("another node keeps the object's log now", object=self._object)
        if record is not None and (
            record.owner == me or any(remains.node == me and remains.lost for remains in record.remains)
        ):  # fmt: skip
            raise Conflict("this node's own log of the object may be needed", object=self._object)
        replica = ownership.volumes.replica(self._object)
        self._replica = replica
        self._noted = kept = _kept_of(notes, replica)
        return DtlStore(
            self._object, kept, max(replica.end_lsn, kept.trimmed_through), ownership.now(),
            word_s=self._timings.word_s, margin_s=self._timings.margin_s,
        )  # fmt: skip

    def _let_go(self) -> None:
        replica, self._replica, self._store = self._replica, None, None
        self._orders.clear()
        if replica is not None:
            replica.close()

    def _order(self, effect: Store) -> None:
        self._orders.append(effect)
        if not self._is_storing:
            self._is_storing = True
            self._place.ownership.nursery.start_soon(self._work)

    async def _work(self) -> None:
        try:
            while self._orders and self._store is not None:
                store, orders = self._store, list(self._orders)
                self._orders.clear()
                done = await trio.to_thread.run_sync(self._keep, self._replica, orders)
                if self._store is not store:
                    return
                now = self._place.ownership.now()
                for order in orders[:done]:
                    self._place.run(store.stored(order.token, now))
                if self._is_void:
                    self._is_void = False
                    self._let_go()
                    return
                if done < len(orders):
                    failed = [*orders[done:], *self._orders]
                    self._orders.clear()
                    for order in failed:
                        self._place.run(store.failed(order.token))
        finally:
            self._is_storing = False
            self._idle.set()
            self._idle = trio.Event()

    def _keep(self, replica: Any, orders: list[Store]) -> int:
        """Carry out as many orders as can be, durably; how many. Blocks."""
        notes = self._place.ownership.notes
        done = 0
        try:
            for order in orders:
                if order.cut_past is not None:
                    self._begin(replica, order)
                take_in(replica, order.records)
                done += 1
        except Conflict as error:  # of another history: nobody can go on from it
            self._refused(error)
            try:
                replica.cut(0)
                self._noted = Kept(orders[0].kept.fenced, 0, 0, 0, Lineage(), Entries())
                notes.change(self._object, lambda found: _with(found, self._noted, None))
            except (VPoolError, OSError) as failed:
                self._refused(failed)
                return 0
            self._is_void = True
            return 0
        except (VPoolError, OSError) as error:
            self._refused(error)
        try:
            if any(order.records for order in orders[:done]):
                make_durable(replica)
            if done:
                kept = _lasting(orders[done - 1].kept)
                replica.trim(kept.trimmed_through)
                if kept != self._noted:
                    end_lsn = max(replica.end_lsn, kept.trimmed_through)
                    notes.change(self._object, lambda found: _with(found, kept, end_lsn))
                    self._noted = kept
        except (VPoolError, OSError) as error:
            self._refused(error)
            return 0
        return done

    def _begin(self, replica: Any, order: Store) -> None:
        assert order.cut_past is not None
        if order.cut_past == order.kept.trimmed_through and replica.end_lsn != order.cut_past:
            replica.cut(0)  # what is here lies before the head, or is of another history
        elif replica.end_lsn > order.cut_past:
            replica.cut(order.cut_past)
        make_durable(replica)  # what is here already may not be synced, or be this node's former log: from now on it counts

    def _refused(self, error: Exception) -> None:
        log.warning("dtl_not_kept", object=self._object, reason=str(error))

    def _send_records(self, effect: SendRecords) -> None:
        if self._replica is None:
            return
        try:
            batch = self._replica.read(effect.first_lsn, FETCH_BYTES)
        except VPoolError as error:
            log.warning("dtl_store_not_read", object=self._object, reason=str(error))
            return
        runs = () if batch is None else (
            TailRecord(batch.first_lsn, None, batch.data, batch.last_lsn - batch.first_lsn + 1),
        )  # fmt: skip
        self._place.ownership.send(effect.node, Fetched(self._object, effect.epoch, runs))


def _kept_of(notes: Notes | None, replica: Any) -> Kept:
    """As the machine has it. A former log of this node's own counts as one that its owner has stored here.

    What was executed while this node served it is not known to the notes; what is first asked of an owner after it is not in it.
    """
    if notes is None:
        return NOTHING_KEPT
    if notes.store is not None:
        mark = notes.store
        return Kept(mark.fenced, mark.epoch, mark.session, mark.trimmed_through, notes.lineage, notes.executed)
    if notes.epochs and replica.end_lsn:
        epoch = min(notes.epochs)
        return Kept(0, epoch, 0, replica.first_lsn - 1, notes.lineage, Entries(max(notes.epochs) + 1))
    return NOTHING_KEPT


def _lasting(kept: Kept) -> Kept:
    """What is noted durably: who asked for what is known to this process only, since to note it would cost a sync per flush."""
    return replace(kept, executed=Entries(kept.epoch + 1))


def _with(notes: Notes, kept: Kept, end_lsn: int | None) -> Notes:
    """``end_lsn``: where the log ends now; None: it is gone."""
    mark = StoreMark(kept.fenced, kept.epoch, kept.session, kept.trimmed_through)
    notes = replace(notes, epochs=frozenset(), store=mark, lineage=kept.lineage)
    if end_lsn is not None and _has_whole_table(notes, end_lsn):
        return notes
    return replace(notes, executed=kept.executed, kept=None, kept_exactly=False)


def _has_whole_table(notes: Notes, end_lsn: int) -> bool:
    """Whether a hand-over has brought all that was executed, which its owner's mirror cannot tell, and nothing has come since."""
    is_handed_over = notes.staged is not None and notes.staged.complete and notes.staged.attempt is not None
    return is_handed_over and notes.kept is not None and end_lsn <= notes.kept[1]
