"""A file gets a log of its own, on the node that owns it, so that it can be handed over by itself (docs/adr/0014).

Its bytes are copied into a new log while it is used, what has changed meanwhile again, until the rest is small; then its requests
wait, the rest goes, everything is made durable, and the registry is told (``Relocate``). Until that is committed the file is
where it was; from then on it is in its own log. Both are this node's, and nobody else is asked.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import structlog
import trio

from objectrouter.active import Active
from objectrouter.serving import Serving
from registry import Condemn, CreateObject, DtlState, ObjectRecord, RegistryClient, Relocate
from volumedriver import FILE_REGION_BYTES, Region, RegionCopy, Volume, VolumeDriver, erase_region
from vpool.errors import Conflict, VPoolError

log = structlog.get_logger()

SMALL_BYTES = 4 << 20  # the rest, for which clients are kept waiting
ROUNDS_MAX = 60
PAUSE_S = 5.0
PROTECTED_S = 60.0  # for the second copy of the new log
LOOK_S = 0.05


class Parting:
    """Of one file; see ``run``."""

    def __init__(
        self,
        registry: RegistryClient,
        volumes: VolumeDriver,
        serving: Serving,
        record: ObjectRecord,
        tell: Callable[[int, int], None],
    ) -> None:
        self._registry, self._volumes, self._serving, self._record, self._tell = registry, volumes, serving, record, tell
        self._is_unknown = False  # whether the registry has the file in its new log

    async def run(self, active: Active) -> ObjectRecord:
        """The file's record after that. ``active`` stays open meanwhile. Cancelled before it is decided: nothing has changed.

        Errors: ``Conflict`` (it cannot be done now), those of reading and writing.
        """
        began, region, object_id = trio.current_time(), active.region, self._record.id
        assert isinstance(region, Region), "the caller has seen that it is this node's"
        await self._serving.attached(object_id)
        source, epoch = region.volume, self._volumes.epoch(self._record.log)
        made = await self._registry.submit(CreateObject(uuid.uuid4().hex, epoch=epoch))
        relocated: ObjectRecord | None = None
        try:
            copy = RegionCopy(region, await self._volumes.attach(made.id), self._tell)
            await self._copy_all(copy)
            await self._second_copy(made.id)
            held_at = trio.current_time()
            relocated = await self._decide(active, region, copy, epoch)
        finally:
            if relocated is None and not self._is_unknown:
                if region.volume is source:
                    region.go_on()
                self._serving.file_resumes(object_id)
                with trio.CancelScope(shield=True):
                    await self._drop(made.id)
        now = trio.current_time()
        log.info(
            "file_relocated", object=object_id, log=relocated.log, bytes=copy.bytes, pause_s=round(now - held_at, 4),
            took_s=round(now - began, 3),
        )  # fmt: skip
        return relocated

    async def erase_former(self, former: Volume) -> None:
        """What the file has left in the log where it was. Its address is not given again, so there is no hurry."""
        try:
            await erase_region(former, self._record.address)
        except VPoolError as error:
            log.info("former_region_stays", object=self._record.id, log=former.object_id, reason=str(error))

    # -- parts of the above ------------------------------------------------------------------------------------------------

    async def _copy_all(self, copy: RegionCopy) -> None:
        await copy.all()
        for _ in range(ROUNDS_MAX):
            if await copy.changed() <= SMALL_BYTES:
                return
        raise Conflict("the file is written faster than it can be copied", object=self._record.id)

    async def _decide(self, active: Active, region: Region, copy: RegionCopy, epoch: int) -> ObjectRecord:
        object_id = self._record.id
        with trio.move_on_after(PAUSE_S) as scope:
            await self._serving.file_drained(object_id)
            region.hold()
            await region.drained()
            await copy.last()
        if scope.cancelled_caught:
            raise Conflict("clients would have had to wait too long", object=object_id)
        if active.region is not region or region.volume is not copy.source or copy.source.has_moved:
            raise Conflict("the file was opened anew meanwhile", object=object_id)
        with trio.CancelScope(shield=True):  # the answer is to be known before anybody goes on
            to_epoch = self._volumes.epoch(copy.target.object_id)
            command = Relocate(object_id, self._record.log, epoch, copy.target.object_id, to_epoch)
            self._is_unknown = True
            try:
                relocated = await self._registry.submit(command)
            except VPoolError as error:
                self._is_unknown = self._registry.has_ended  # then it may have been applied all the same: nobody goes on
                log.info("file_relocation_refused", object=object_id, reason=str(error), unknown=self._is_unknown)
                raise
            self._is_unknown = False
            active.record = relocated
            self._serving.relocated(object_id, relocated.log)
            region.go_on(copy.target, relocated.address * FILE_REGION_BYTES)
        return relocated

    async def _second_copy(self, log_id: str) -> None:
        """What has one is not put where it has none."""
        with trio.move_on_after(PROTECTED_S):
            while self._is_protected(self._record.log) and not self._is_protected(log_id):  # noqa: ASYNC110  # the registry tells nobody
                await trio.sleep(LOOK_S)
            return
        raise Conflict("the file's own log has got no second copy (DTL) yet", object=self._record.id)

    def _is_protected(self, log_id: str) -> bool:
        found = self._registry.view.object(log_id)
        return found is not None and found.dtl.state is DtlState.IN_SYNC

    async def _drop(self, log_id: str) -> None:
        """Nothing has come of it."""
        try:
            await self._volumes.detach(log_id, drain=False)
            found = self._registry.view.object(log_id)
            if found is not None:
                await self._registry.submit(Condemn(log_id, found.epoch))
                await trio.to_thread.run_sync(self._volumes.forget, log_id)
        except VPoolError as error:
            log.info("log_stays", object=log_id, reason=str(error))
