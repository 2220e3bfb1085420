"""The File Driver: plain files in the node's log of files.

All files of a node share one log (an object of kind FILE_LOG, streamed to the vPool's one bucket for files): each has a
region of that log's address space. So a small file costs one record of a log, not a bucket, and every promise made for
volumes holds for files.

Concurrency: the log is opened once, by whoever needs it first, under the Volume Driver's lock. The reaper erases only files
that have neither name nor handle, which nothing can open again.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator

import structlog
import trio

from registry import Condemn, CreateObject, Forget, ObjectKind, ObjectRecord, ObjectState, RegistryClient
from volumedriver import Region, Volume, VolumeDriver
from vpool.errors import VPoolError

log = structlog.get_logger()

REAP_PAUSE_S = 5.0


class FileDriver:
    """All files of one node; see ``start``."""

    def __init__(self, volumes: VolumeDriver, registry: RegistryClient, log_id: str) -> None:
        self.log_id = log_id  # object id of this node's log of files
        self._volumes = volumes
        self._registry = registry
        self._reap = trio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, *, volumes: VolumeDriver, registry: RegistryClient) -> AsyncIterator[FileDriver]:
        """Run the driver; the log of files is made if the node has none, and opened when a file is first touched."""
        log_id = await _own_log(registry, volumes.node_id)
        async with trio.open_nursery() as nursery:
            driver = cls(volumes, registry, log_id)
            nursery.start_soon(driver._reaper)
            try:
                yield driver
            finally:
                nursery.cancel_scope.cancel()

    async def region(self, record: ObjectRecord, mtime_ns: int) -> Region:
        """The bytes of a file. NotFound, Halted, Corrupt, Unavailable, NoSpace."""
        return await Region.of_file(await self._log(record), record.address, record.size, mtime_ns)

    def epoch(self, record: ObjectRecord) -> int:
        """Epoch under which the file is written: its log's. Only after ``region``."""
        return self._volumes.epoch(record.log)

    def orphaned(self) -> None:
        """A file has lost its last name and handle: the reaper looks for it."""
        self._reap.set()

    async def _log(self, record: ObjectRecord) -> Volume:
        return self._volumes.opened(record.log) or await self._volumes.attach(record.log)

    async def _reaper(self) -> None:
        while True:
            self._reap = trio.Event()
            for record in self._registry.view.orphans():  # condemned ones too
                if record.kind is ObjectKind.FILE and record.log == self.log_id:
                    await self._remove(record)
            with trio.move_on_after(REAP_PAUSE_S):
                await self._reap.wait()

    async def _remove(self, record: ObjectRecord) -> None:
        """Condemn, erase durably, forget: a later file can only get the address after the erasure is durable."""
        if self._registry.view.handles(record.inode):
            return
        try:
            if record.state is not ObjectState.CONDEMNED:
                await self._registry.submit(Condemn(record.id, record.epoch))
            region = await self.region(record, 0)
            await region.erase()
            await self._registry.submit(Forget(record.id))
        except VPoolError as error:
            log.info("orphan_stays", object=record.id, reason=str(error))


async def _own_log(registry: RegistryClient, node_id: str) -> str:
    """This node's log of files, made when there is none (the first opening makes the node its owner)."""
    for record in registry.view.objects():
        if record.kind is ObjectKind.FILE_LOG and record.owner in (node_id, "") and record.state is ObjectState.LIVE:
            return record.id
    return (await registry.submit(CreateObject(uuid.uuid4().hex, ObjectKind.FILE_LOG))).id
