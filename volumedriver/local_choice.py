"""Before a log is opened: is what lies here of the object its log at all, and what has to be done with it first?

Only nodes of a cluster note that; anywhere else what is here is the object's log.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, TypeVarTuple

import structlog
import trio

from engine import Engine
from registry import DtlState, ObjectRecord
from volumedriver.local_logs import log_to_open
from volumedriver.log_notes import LogNotes, Notes
from vpool.errors import Conflict, Halted, NoSpace, Unavailable

log = structlog.get_logger()

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

EPOCHS_KEPT = 4


class LocalChoice:
    """The marks beside the logs of one node, and what follows from them for an opening."""

    def __init__(self, notes: LogNotes, engine: Engine, node_id: str) -> None:
        self._notes, self._engine, self._node_id = notes, engine, node_id

    async def prepare(self, record: ObjectRecord, *, taken: bool) -> None:
        """Leave here what is the object's log at the record's epoch, and nothing else.

        ``taken``: that epoch is this node's already and will be opened; until that is noted, what is staged stays marked so.

        Errors: ``Corrupt``, ``Halted``; ``Conflict`` (what is here may be nowhere else: an administrator has to decide on it).
        """
        notes = await self.durably(self._notes.read, record.id)
        if notes is None or not record.epoch:
            return
        choice = log_to_open(record, notes.epochs, notes.staged)
        if choice == "staged":
            if not taken:
                await self.taken_over(record)
        elif choice == "none":
            if any(remains.node == self._node_id and remains.lost for remains in record.remains):
                raise Conflict("this node has a log of the object that may have what nobody else has", object=record.id)
            log.warning("local_log_is_not_the_objects", object=record.id, epoch=record.epoch, own=sorted(notes.epochs))
            await self.forget(record.id)
        elif notes.staged is not None:
            await self.unstage(record.id)

    async def unstage(self, object_id: str, attempt: int | None = None) -> None:
        """Cut what an unfinished hand-over (this attempt, if it is given) has brought; what was here before stays.

        A copy that is kept for the log's owner stays whole.
        """
        notes = await self.durably(self._notes.read, object_id)
        if notes is None or notes.staged is None or attempt not in (None, notes.staged.attempt):
            return
        if notes.store is not None:  # its owner may count on it, and cuts at its next session what is not of its log
            await self._note(object_id, lambda notes: replace(notes, staged=None, own_end_lsn=0))
            return
        if not notes.own_end_lsn:
            await self.forget(object_id)
            return
        await self.durably(self._cut, object_id, notes.own_end_lsn)
        await self._note(object_id, lambda notes: replace(notes, staged=None))

    async def check_not_lost(self, record: ObjectRecord) -> None:
        """Whether a log that was here has gone with its disk, while a peer has all that was flushed: then that one must go on.

        Errors: ``Unavailable`` says what to do.
        """
        dtl, peer = record.dtl, record.dtl.peer
        if dtl.state is not DtlState.IN_SYNC or peer in ("", self._node_id) or record.owner != self._node_id:
            return
        if await self.durably(self._notes.read, record.id) is not None:
            return
        raise Unavailable(
            f"the local log of the object is gone, and node {peer} has what was flushed: stop this node for ten seconds, "
            "and that one takes the object over by itself",
            object=record.id,
        )

    async def before_epoch(self, record: ObjectRecord) -> None:
        """The log is about to get the epoch after the record's: durable on return."""
        epochs = (record.epoch, record.epoch + 1)
        await self._note(record.id, lambda notes: replace(notes, epochs=_newest(notes.epochs | set(epochs))))

    async def opened(self, object_id: str, epoch: int, first_lsn: int) -> None:
        """The epoch is served, from this LSN on."""
        await self.durably(self._notes.opened, object_id, epoch, first_lsn)

    def forgotten(self, object_id: str) -> None:
        """There is no log of the object here any more. Blocks."""
        self._notes.forget(object_id)

    async def taken_over(self, record: ObjectRecord) -> None:
        """What was staged is served at the record's epoch."""
        await self._note(record.id, lambda notes: replace(notes, epochs=frozenset((record.epoch,)), staged=None, store=None))

    async def forget(self, object_id: str) -> None:
        """There is no log of the object here from now on."""
        await self.durably(self._engine.forget, bytes.fromhex(object_id))
        await self.durably(self._notes.forget, object_id)

    async def _note(self, object_id: str, how: Callable[[Notes], Notes]) -> None:
        await self.durably(self._notes.change, object_id, how)

    def _cut(self, object_id: str, end_lsn: int) -> None:
        replica = self._engine.replica(bytes.fromhex(object_id))
        try:
            replica.cut(end_lsn)
        finally:
            replica.close()

    @staticmethod
    async def durably(write: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Something that blocks, in a thread. ``NoSpace``: the disk is full. ``Halted``: it does not take it."""
        try:
            return await trio.to_thread.run_sync(write, *arguments)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"there is no room for what is known of the object's log: {error}") from None
            raise Halted(f"what is known of the object's log cannot be kept: {error}") from None


def _newest(epochs: frozenset[int] | set[int]) -> frozenset[int]:
    return frozenset(sorted(epochs)[-EPOCHS_KEPT:])
