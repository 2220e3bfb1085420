"""A log of another node, as it is brought here: in the one place that a node has for an object's log (``Engine.replica``).

What this node has of the object already stays as far as it is the beginning of what comes, and that comes behind it; if it does
not reach so far it goes. Notes beside it say what it counts as, before anything is taken and when everything is here.

Concurrency: one task at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

import trio

from engine import Replica, WouldBlock
from volumedriver.executed import Entries
from volumedriver.local_choice import LocalChoice
from volumedriver.local_logs import StagedMark
from volumedriver.log_notes import LogNotes, Notes
from volumedriver.tail import Lineage, TailRecord
from vpool.errors import Conflict, Corrupt, NoSpace


@dataclass(frozen=True, slots=True)
class StagingPlace:
    """Where a node has the log of an object. ``open`` blocks."""

    object: str
    notes: LogNotes
    choice: LocalChoice
    open: Callable[[str], Replica]


def take_in(replica: Replica, runs: Iterable[TailRecord]) -> None:
    """Append what has come; records that are here already are compared. Blocks. Corrupt, Conflict, Halted, NoSpace."""
    for run in runs:
        assert isinstance(run.payload, bytes)
        _in_room(lambda data=run.payload: replica.take(data))  # type: ignore[misc]


def make_durable(replica: Replica) -> None:
    """All that was taken is durable on return. Blocks. Halted, NoSpace."""
    _in_room(replica.sync)


def _in_room(work: Callable[[], object]) -> None:
    try:
        work()
    except WouldBlock:
        raise NoSpace("the cache has no room for the log of another node") from None


class StagedLog:
    """Of one attempt; see ``begin``."""

    def __init__(
        self,
        place: StagingPlace,
        replica: Replica,
        first_lsn: int,
        mark: StagedMark,
        has_lsn: int,
        release: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.has_lsn = has_lsn  # so much of what comes was here already
        self._place, self._replica, self._first, self._mark = place, replica, first_lsn, mark
        self._release = release  # of the copy that is kept for its owner, who goes on sending to it; None: it is not that

    @classmethod
    async def begin(
        cls,
        place: StagingPlace,
        mark: StagedMark,
        *,
        first_lsn: int,
        lineage: Lineage,
        end_lsn: int,
        kept: Replica | None,
        release: Callable[[], Awaitable[None]],
        is_counted_on: Callable[[], bool],
    ) -> StagedLog:
        """Make the place ready for a log that begins at ``first_lsn``; ``lineage`` and ``end_lsn``: of the whole, as of now.

        ``kept``: the copy that is kept here for the log's owner (DTL), if it is open; ``release`` closes it. ``is_counted_on``:
        whether the registry says that what is here has all that was flushed, so that it may not go before its replacement is
        here. Durable on return is that what comes does not count yet (``mark``). Corrupt, Conflict, Halted.
        """
        choice = place.choice
        if kept is None:
            await choice.unstage(place.object)
        known = await choice.durably(place.notes.read, place.object)
        replica = kept if kept is not None else await trio.to_thread.run_sync(place.open, place.object)
        ours = Lineage() if known is None else known.lineage
        common_lsn = ours.common_end(replica.end_lsn, lineage, end_lsn)
        if kept is not None and common_lsn < min(replica.end_lsn, end_lsn):  # its owner is not the one whose log comes
            await release()
            kept, replica = None, await trio.to_thread.run_sync(place.open, place.object)
        fits = replica.first_lsn <= first_lsn <= common_lsn + 1
        if not fits:
            refused = is_counted_on()
            if kept is None:
                await trio.to_thread.run_sync(replica.close)
            elif not refused:
                await release()
            if refused:  # the head that is known here may be newer than the one that the owner's log has been told: soon it fits
                raise Conflict("what comes does not continue the copy that is counted on here", object=place.object)
            await choice.forget(place.object)
            replica = await trio.to_thread.run_sync(place.open, place.object)
        elif kept is None:
            await trio.to_thread.run_sync(replica.cut, common_lsn)
        own_end = replica.end_lsn

        def noted(notes: Notes) -> Notes:
            return replace(notes, staged=mark, own_end_lsn=own_end)

        await choice.durably(place.notes.change, place.object, noted)
        has_lsn = common_lsn if fits else 0
        return cls(place, replica, first_lsn, mark, has_lsn, release if fits and kept is not None else None)

    @property
    def end_lsn(self) -> int:
        """Of the last record that is here; 0: none is."""
        return self._replica.end_lsn

    async def take(self, runs: Iterable[TailRecord]) -> None:
        """See ``take_in``."""
        await trio.to_thread.run_sync(take_in, self._replica, runs)

    async def sync(self) -> None:
        """See ``make_durable``."""
        await trio.to_thread.run_sync(make_durable, self._replica)

    async def complete(self, end_lsn: int, lineage: Lineage, executed: Entries) -> None:
        """It is all here; from now on it counts if the registry says so. Corrupt: it does not end there."""
        if self._release is not None:  # from here on it ends where its owner has stopped, whatever is still on its way
            await self._release()
            self._release, self._replica = None, await trio.to_thread.run_sync(self._place.open, self._place.object)
        if self._replica.end_lsn > end_lsn:  # what an owner says of its own log when it is idle
            await trio.to_thread.run_sync(self._replica.cut, end_lsn)
        is_clean = end_lsn < self._first and not self._replica.end_lsn  # the backend has everything
        if self._replica.end_lsn != end_lsn and not is_clean:
            raise Corrupt("what has come does not end where it should", end=self._replica.end_lsn, wanted=end_lsn)
        mark = replace(self._mark, complete=True)

        def noted(notes: Notes) -> Notes:
            return replace(notes, staged=mark, lineage=lineage, executed=executed, kept=(mark.epoch - 1, end_lsn))

        await LocalChoice.durably(self._place.notes.change, self._place.object, noted)

    def lend(self) -> None:
        """It is complete, and it is open whether it will count: from now on its owner's peer here may open it. The mark stays."""
        self._replica.close()

    async def close(self) -> None:
        """It is complete, and about to be opened as the object's log."""
        await trio.to_thread.run_sync(self._replica.close)

    async def drop(self) -> None:
        """Nothing has come of it: what was here before stays. Corrupt, Halted."""
        attempt = self._mark.attempt
        if self._release is None:
            await trio.to_thread.run_sync(self._replica.close)
            await self._place.choice.unstage(self._place.object, attempt)
            return

        def noted(notes: Notes) -> Notes:
            is_ours = notes.staged is not None and notes.staged.attempt == attempt
            return replace(notes, staged=None) if is_ours else notes

        await LocalChoice.durably(self._place.notes.change, self._place.object, noted)
