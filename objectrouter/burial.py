"""Logs of objects that other nodes own go when nobody can need them any more: a head has passed them, or somebody has said so.

What is kept as a DTL store goes when another node has all of it (``is_superseded``). What is being staged is left alone, and so
is everything that may be nowhere else (``fate_of_log``).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from registry import DtlState, ObjectRecord, ObjectState, RegistryClient
from volumedriver import LocalChoice, LogNotes, VolumeDriver, fate_of_log
from vpool.errors import VPoolError

log = structlog.get_logger()

LOOK_S = 5.0


def is_superseded(record: ObjectRecord, me: str) -> bool:
    """Whether what this node keeps for an owner is on another node as well, and is counted on there.

    As long as that is so no owner has a session here: it degrades before it chooses another peer.
    """
    is_elsewhere = record.dtl.state is DtlState.IN_SYNC and me not in (record.dtl.peer, record.owner)
    return is_elsewhere and not any(remains.node == me and remains.lost for remains in record.remains)


class Burial:
    """Of one node's logs. ``in_use``: a machine works on the object's log, or keeps it."""

    def __init__(self, registry: RegistryClient, volumes: VolumeDriver, notes: LogNotes, in_use: Callable[[str], bool]) -> None:
        self._registry, self._volumes, self._notes, self._in_use = registry, volumes, notes, in_use

    async def run(self) -> None:
        """For ever."""
        while True:
            await trio.sleep(LOOK_S)
            for volume in self._volumes.engine.logs():
                record = self._registry.view.object(volume.hex())
                if record is not None and record.owner not in ("", self._registry.node):
                    await self._look_at(record)

    async def _look_at(self, record: ObjectRecord) -> None:
        try:
            if await self._is_worthless(record):
                async with self._volumes.staging(record.id):
                    fresh = self._registry.view.object(record.id)
                    if fresh == record and not self._in_use(record.id):
                        await trio.to_thread.run_sync(self._volumes.forget, record.id)
                        log.info("remains_dropped", object=record.id, owner=record.owner, epoch=record.epoch)
        except VPoolError as error:
            log.info("remains_stay", object=record.id, reason=str(error))

    async def _is_worthless(self, record: ObjectRecord) -> bool:
        if self._in_use(record.id) or self._volumes.opened(record.id) is not None:
            return False
        if record.state is ObjectState.CONDEMNED:
            return True
        notes = await LocalChoice.durably(self._notes.read, record.id)
        if notes is None:
            return False
        if notes.store is not None:
            is_staged = notes.staged is not None and notes.staged.epoch > record.epoch
            return not is_staged and is_superseded(record, self._registry.node)
        if not notes.epochs:  # what a hand-over that came to nothing has left
            return notes.staged is None or notes.staged.epoch <= record.epoch
        return fate_of_log(record, self._registry.node, notes.epochs, 0).what == "drop"
