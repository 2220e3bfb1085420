"""A log of another node, as it is brought here: in the one place that a node has for an object's log (``Engine.replica``).

What this node has of the object already stays as far as it is the beginning of what comes, and that comes behind it; if it does
not reach so far it goes. Notes beside it say what it counts as, before anything is taken and when everything is here.

Concurrency: one task at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import trio

from engine import Engine, Replica, WouldBlock
from volumedriver.executed import Entries
from volumedriver.local_choice import LocalChoice
from volumedriver.local_logs import StagedMark
from volumedriver.log_notes import LogNotes, Notes
from volumedriver.tail import Lineage, TailRecord
from vpool.errors import Corrupt, NoSpace


class StagedLog:
    """Of one attempt; see ``begin``."""

    def __init__(self, object_id: str, notes: LogNotes, replica: Replica, first_lsn: int, mark: StagedMark) -> None:
        self._object, self._notes, self._replica, self._first, self._mark = object_id, notes, replica, first_lsn, mark

    @classmethod
    async def begin(
        cls,
        object_id: str,
        engine: Engine,
        notes: LogNotes,
        choice: LocalChoice,
        mark: StagedMark,
        *,
        first_lsn: int,
        lineage: Lineage,
        end_lsn: int,
    ) -> StagedLog:
        """Make the place ready for a log that begins at ``first_lsn``; ``lineage`` and ``end_lsn``: of the whole, as of now.

        Durable on return is that it does not count yet (``mark``). Corrupt, Conflict, Halted.
        """
        await choice.unstage(object_id)
        volume = bytes.fromhex(object_id)
        known = await choice.durably(notes.read, object_id)
        replica = await trio.to_thread.run_sync(engine.replica, volume)
        ours = Lineage() if known is None else known.lineage
        common_lsn = ours.common_end(replica.end_lsn, lineage, end_lsn)
        if replica.first_lsn <= first_lsn <= common_lsn + 1:
            await trio.to_thread.run_sync(replica.cut, common_lsn)
        else:
            await trio.to_thread.run_sync(replica.close)
            await choice.forget(object_id)
            replica = await trio.to_thread.run_sync(engine.replica, volume)
        own_end = replica.end_lsn

        def noted(notes: Notes) -> Notes:
            return replace(notes, staged=mark, own_end_lsn=own_end)

        await choice.durably(notes.change, object_id, noted)
        return cls(object_id, notes, replica, first_lsn, mark)

    @property
    def end_lsn(self) -> int:
        """Of the last record that is here; 0: none is."""
        return self._replica.end_lsn

    async def take(self, runs: Iterable[TailRecord]) -> None:
        """Append what has come; records that are here already are compared. Corrupt, Conflict, Halted, NoSpace."""
        for run in runs:
            assert isinstance(run.payload, bytes)
            try:
                await trio.to_thread.run_sync(self._replica.take, run.payload)
            except WouldBlock:
                raise NoSpace("the cache has no room for the log of another node", object=self._object) from None

    async def sync(self) -> None:
        """All that was taken is durable on return. Halted."""
        await trio.to_thread.run_sync(self._replica.sync)

    async def complete(self, end_lsn: int, lineage: Lineage, executed: Entries) -> None:
        """It is all here; from now on it counts if the registry says so. Corrupt: it does not end there."""
        is_clean = end_lsn < self._first and not self._replica.end_lsn  # the backend has everything
        if self._replica.end_lsn != end_lsn and not is_clean:
            raise Corrupt("what has come does not end where it should", end=self._replica.end_lsn, wanted=end_lsn)
        mark = replace(self._mark, complete=True)

        def noted(notes: Notes) -> Notes:
            return replace(notes, staged=mark, lineage=lineage, executed=executed, kept=(mark.epoch - 1, end_lsn))

        await LocalChoice.durably(self._notes.change, self._object, noted)

    async def close(self) -> None:
        """Let go of it; it stays."""
        await trio.to_thread.run_sync(self._replica.close)
