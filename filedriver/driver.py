"""The File Driver: plain files in the node's log of files.

All files of a node share one log (an object of kind FILE_LOG, streamed to the vPool's one bucket for files): each has a
region of that log's address space (docs/adr/0005, 0008). So a small file costs one record of a log, not a bucket, and every
promise made for volumes holds for files.

Concurrency: the log is opened once, by whoever needs it first, under the Volume Driver's lock. The reaper erases only files
that have neither name nor handle, which nothing can open again.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable

import structlog
import trio

from registry import (
    CreateObject,
    ForgetFiles,
    NewEpoch,
    NodeStatus,
    ObjectKind,
    ObjectRecord,
    ObjectState,
    RegistryClient,
    error_of,
)
from volumedriver import LAYOUT_NAMED, Region, Volume, VolumeDriver
from vpool.errors import Conflict, VPoolError

log = structlog.get_logger()

REAP_PAUSE_S = 5.0
REAP_GATHER_S = 0.1  # how long orphans gather, so that one sync and one command do for many
REAPED_AT_ONCE = 256


class FileDriver:
    """All files of one node; see ``start``."""

    layout = LAYOUT_NAMED  # of the regions of new files

    def __init__(self, volumes: VolumeDriver, registry: RegistryClient, log_id: str) -> None:
        self.log_id = log_id  # object id of this node's log of files
        self._volumes = volumes
        self._registry = registry
        self._reap = trio.Event()
        self._choosing = trio.Lock()
        self._handles_on: Callable[[int], int] = lambda inode: 0

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

    def handles_are_counted_by(self, handles_on: Callable[[int], int]) -> None:
        """Whom to ask how many handles clients of this node hold on an inode: while there are any the file stays."""
        self._handles_on = handles_on

    async def log_for_new(self) -> str:
        """The log in which a new file is made.

        A drained node goes on with the one that was its own, wherever that is now; any other makes itself another one.
        """
        view, node_id = self._registry.view, self._volumes.node_id
        if view.cluster() is not None:
            record, node = view.object(self.log_id), view.node(node_id)
            is_ours = record is not None and record.owner in ("", node_id) and record.state is not ObjectState.CONDEMNED
            if not is_ours and node is not None and node.status is not NodeStatus.DRAINED:
                async with self._choosing:
                    record = view.object(self.log_id)
                    if record is None or record.owner not in ("", node_id):
                        self.log_id = await _own_log(self._registry, node_id)
                        log.info("log_of_files_made", log=self.log_id)
        return self.log_id

    async def region(self, record: ObjectRecord, mtime_ns: int, ctime_ns: int = 0) -> Region:
        """The bytes of a file; times as published. NotFound, Halted, Corrupt, Unavailable, NoSpace."""
        log_volume = await self._log(record)
        return await Region.of_file(
            log_volume, record.address, record.size, mtime_ns, ctime_ns, layout=record.layout, object_id=record.id
        )

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
            for log_id in self._logs():
                after = 0
                while found := self._registry.view.orphan_files(log_id, after, REAPED_AT_ONCE):
                    after = found[-1].address
                    await self._remove([record for record in found if self._is_unreachable(record)])
            with trio.move_on_after(REAP_PAUSE_S):
                await self._reap.wait()
                await trio.sleep(REAP_GATHER_S)

    def _logs(self) -> list[str]:
        """Logs of files of this node: its own, and those that have come to it."""
        return [
            record.id
            for record in self._registry.view.objects_with_log()
            if record.kind is ObjectKind.FILE_LOG and record.owner in (self._volumes.node_id, "")
            if record.owner or record.id == self.log_id
        ]

    def _is_unreachable(self, record: ObjectRecord) -> bool:
        """Neither name nor handle, here or elsewhere; that stays so."""
        return (
            record.state is not ObjectState.HALTED
            and not self._handles_on(record.inode)
            and not self._registry.view.handles(record.inode)
        )

    async def _remove(self, records: list[ObjectRecord]) -> None:
        """Erase durably, then forget: a later file can only get an address after the erasure is durable."""
        erased: list[str] = []
        try:
            for record in records:
                if await self._erase(record):
                    erased.append(record.id)
            if not erased:
                return
            await (await self._log(records[0])).flush()
            for settled in await self._registry.submit(ForgetFiles(tuple(erased))):
                if settled.error is not None:
                    log.info("orphan_stays", object=settled.object, reason=str(error_of(settled.error)))
        except VPoolError as error:
            log.info("orphans_stay", objects=len(records), reason=str(error))

    async def _erase(self, record: ObjectRecord) -> bool:
        try:
            region = await self.region(record, 0)
            await region.erase()
        except VPoolError as error:  # what one file meets must not keep the others
            log.info("orphan_stays", object=record.id, reason=str(error))
            return False
        return True


async def _own_log(registry: RegistryClient, node_id: str) -> str:
    """This node's log of files, made when there is none.

    The first opening makes the node its owner; of several nodes each takes its own at once, so that no two open the same.
    """
    logs = [
        record
        for record in registry.view.objects_with_log()
        if record.kind is ObjectKind.FILE_LOG and record.state is ObjectState.LIVE
    ]
    found = [record for record in logs if record.owner in (node_id, "")]
    alone, node = registry.view.cluster() is None, registry.view.node(node_id)
    if not found and not alone and node is not None and node.status is NodeStatus.DRAINED and logs:
        return min(record.id for record in logs)  # it is given nothing: its new files are made in another node's log
    for record in sorted(found, key=lambda record: record.owner == ""):
        if alone or record.owner == node_id or await _taken(registry, record, node_id):
            return record.id
    made = await registry.submit(CreateObject(uuid.uuid4().hex, ObjectKind.FILE_LOG))
    if not alone and not await _taken(registry, made, node_id):
        return await _own_log(registry, node_id)
    return made.id


async def _taken(registry: RegistryClient, record: ObjectRecord, node_id: str) -> bool:
    """Whether this node was the first to take a log that nobody owns."""
    try:
        await registry.submit(NewEpoch(record.id, record.epoch, node_id))
    except Conflict:
        return False
    return True
