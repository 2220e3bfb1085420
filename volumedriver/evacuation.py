"""Sends everything that only the cache of this host has, so that the disk could be taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from volumedriver.exchange import OpenVolume, still_dirty
from volumedriver.unsent import StillDirty
from volumedriver.volume import Volume


@dataclass(frozen=True, slots=True)
class EvacuationStatus:
    """How far an evacuation is."""

    running: bool
    bytes_at_start: int  # what only the cache had when it began
    bytes_left: int  # of all open volumes now, what was written since included
    waiting: int  # volumes whose data of the start are not all in the backend yet
    left: tuple[StillDirty, ...]
    unopened: tuple[str, ...]  # objects with a log here that nobody could open: what they have dirty is not known


class Evacuation:
    """One evacuation of the volumes that are open when it begins. What clients write meanwhile is not part of it.

    ``volumes``, ``absent``: those that are open, and those whose log is being exchanged, at any time.
    """

    def __init__(self, volumes: Mapping[str, OpenVolume], absent: Mapping[str, Volume], unopened: Sequence[str]) -> None:
        self._volumes = volumes
        self._absent = absent
        self._waiting = {*volumes, *absent}
        self._unopened = frozenset(unopened) - self._waiting
        self._running = True
        self._bytes = sum(each.bytes for each in still_dirty(volumes))

    async def run(self, nursery: trio.Nursery) -> None:
        """To the end, however long the backend takes. ``nursery``: for what outlives it."""
        try:
            async with trio.open_nursery() as drains:
                for object_id in list(self._waiting):
                    drains.start_soon(self._drain, object_id, nursery)
        finally:
            self._running = False

    async def _drain(self, object_id: str, nursery: trio.Nursery) -> None:
        while True:
            each, absent = self._volumes.get(object_id), self._absent.get(object_id)
            if absent is not None:
                await absent.ready()
            elif each is None or each.volume.halted is not None:
                return
            else:
                await each.stream.drain(nursery)
                if self._volumes.get(object_id) is each and each.volume.halted is None:
                    self._waiting.discard(object_id)
                    return
            await trio.lowlevel.checkpoint()

    def status(self) -> EvacuationStatus:
        """How far it is."""
        left = tuple(still_dirty(self._volumes))
        unopened = tuple(sorted((self._unopened | set(self._absent)) - set(self._volumes)))
        return EvacuationStatus(self._running, self._bytes, sum(each.bytes for each in left), len(self._waiting), left, unopened)
