"""Background verification: every object that counts is read again and compared, within so many days, while a node runs.

Of an open volume (or log of files) the map says which SCOs count: each is fetched as far as it is used and every live cluster
compared. One that is not open is not opened for this: its TLogs are walked back from the head and each SCO compared as a whole;
only when something is wrong it is opened, and looked at by its map. What a restart without the cache needs (checkpoints, TLogs
behind them) is read, too. What is damaged or gone is mended from copies on this host (``mending``), or noted as lost.

It is slow on purpose (``patrol_pace``). Where it stands is kept on disk (``patrol_record``), so a restart goes on.

Concurrency: one task. ``record`` is changed by it, by ``lost`` and by ``accept``, never across an await between look and change.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
import trio

from backend import ObjectStore
from engine import CLUSTER, Survey, SurveyedSco
from registry import Head, ObjectRecord, ObjectState, RegistryView
from volumedriver.fetch import DAMAGED_TRIES, pauses
from volumedriver.mending import Ranges, give_up, mend
from volumedriver.meta_cluster import MetaCluster
from volumedriver.names import Place
from volumedriver.patrol_history import RestartPath, scos_are_whole
from volumedriver.patrol_pace import DAY_S, Pace, PatrolSettings
from volumedriver.patrol_record import At, LostRange, NeededObject, PatrolRecord
from volumedriver.survey import survey
from volumedriver.volume import Volume
from vpool.errors import Corrupt, NotFound, VPoolError

log = structlog.get_logger()

ADDRESS_END = (1 << 64) - CLUSTER
PIECE_CLUSTERS = 1 << 18  # looked up at once: 1 GiB, 6 MiB of memory
SAVE_S = 30.0
RETRY_S = 60.0  # after something that was in its way


@dataclass(frozen=True, slots=True)
class PatrolGround:
    """What the patrol needs of the volume driver."""

    view: RegistryView
    node_id: str
    store: ObjectStore
    place: Callable[[ObjectRecord], Place]
    place_of_origin: Callable[[bytes], Place]
    opened: Callable[[str], Volume | None]
    attach: Callable[[str], Awaitable[Volume]]
    is_busy: Callable[[], bool]
    lost_objects: set[tuple[str, str]]  # (bucket, name): a 404 on these is believed at once


@dataclass(frozen=True, slots=True)
class PatrolStatus:
    """Where the verification stands; counters since the start of the daemon."""

    enabled: bool
    number: int  # of the pass that runs, or was last; 0: none yet
    running: bool
    started_ns: int
    ended_ns: int
    next_start_ns: int  # 0 while one runs, or when none will
    objects_done: int
    objects: int
    pass_bytes: int
    bytes_per_s: int  # that it allows itself now
    bytes_compared: int
    damaged_objects: int
    rewritten_clusters: int
    lost_ranges: int
    lost_bytes: int
    needed_objects: int  # that a restart needs, and that are damaged or missing
    waiting_for: str


class Patrol:
    """See the module; made by ``start``."""

    def __init__(self, ground: PatrolGround, path: Path, settings: PatrolSettings) -> None:
        self.record = PatrolRecord()
        self._ground = ground
        self._path = path
        self._settings = settings
        self._pace = Pace(ground.store, ground.view, settings, ground.is_busy)
        self._saved_at = 0.0
        self._objects = self._objects_done = self._bytes_before = 0
        self._counts = dict.fromkeys(("damaged_objects", "rewritten_clusters"), 0)
        self._problem = ""
        self._asked = False
        self._saving = trio.Lock()

    @classmethod
    @asynccontextmanager
    async def start(cls, ground: PatrolGround, path: Path, settings: PatrolSettings) -> AsyncIterator[Patrol]:
        """Run it; ``path`` is where it remembers."""
        patrol = cls(ground, path, settings)
        try:
            patrol.record = await trio.to_thread.run_sync(PatrolRecord.load, path)
        except (Corrupt, OSError) as error:
            log.warning("verification_begins_anew", reason=str(error))
        ground.lost_objects.update((lost.bucket, lost.name) for lost in patrol.record.lost)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(patrol._run)
                try:
                    yield patrol
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await patrol._save()

    def ask(self, *, hurry: bool = True) -> None:
        """Begin a pass now, or go on with the one that runs; ``hurry``: as fast as ``bytes_per_s_max`` allows."""
        self._asked = True
        self._pace.hurry(hurry)

    def status(self) -> PatrolStatus:
        """As of now."""
        record, running = self.record, self.record.number > 0 and not self.record.ended_ns
        days = self._settings.days
        due = 0 if running or days is None else record.started_ns + int(days * DAY_S * 1e9)
        return PatrolStatus(
            enabled=days is not None,
            number=record.number,
            running=running,
            started_ns=record.started_ns,
            ended_ns=record.ended_ns,
            next_start_ns=due,
            objects_done=self._objects_done,
            objects=self._objects,
            pass_bytes=self._pass_bytes(),
            bytes_per_s=self._pace.rate,
            bytes_compared=self._pace.bytes_read,
            lost_ranges=len(record.lost),
            lost_bytes=sum(lost.length for lost in record.lost),
            needed_objects=len(record.needed),
            waiting_for=self._pace.waiting_for or self._problem,
            **self._counts,
        )

    async def lost(self, object_id: str | None = None) -> list[LostRange]:
        """What is lost, of one object or of all; what has been overwritten meanwhile is no longer."""
        for known in [lost for lost in self.record.lost if object_id in (None, lost.object)]:
            volume = self._ground.opened(known.object)
            if volume is None:
                if self._ground.view.object(known.object) is None:
                    self.record.remove_lost(known.object, known.offset, known.length)
                continue
            now = await survey(volume, known.offset, known.offset + known.length)
            still = await trio.to_thread.run_sync(now.ranges, known.sco)
            self.record.remove_lost(known.object, known.offset, known.length)
            for offset, length in still:
                self.record.add_lost(replace(known, offset=offset, length=length))
        return [lost for lost in self.record.lost if object_id in (None, lost.object)]

    async def accept(self, object_id: str, offset: int, end: int) -> int:
        """Make zeros of what is lost between two bytes of an object; durable on return. The bytes that are zeros now.

        What can be read again by now is not touched. NotFound, Halted; Unavailable only after ``stall_s``.
        """
        volume = await self._ground.attach(object_id)
        zeroed = 0
        for known in await self.lost(object_id):
            start, stop = max(known.offset, offset), min(known.offset + known.length, end)
            if start >= stop:
                continue
            found = await survey(volume, start, stop)
            wrong: Ranges | None = []
            for sco in await trio.to_thread.run_sync(found.scos):
                if sco.number == known.sco:
                    wrong = await self._wrong(sco, found, at_once=True)
            if wrong is None:
                wrong = await trio.to_thread.run_sync(found.ranges, known.sco)
            clusters = await give_up(volume, known.sco, wrong)
            log.warning("loss_accepted", object=object_id, offset=start, length=stop - start, zeroed_bytes=clusters * CLUSTER)
            zeroed += clusters * CLUSTER
            self.record.remove_lost(object_id, start, stop - start)
        await volume.flush()
        await self._save()
        return zeroed

    async def tell_size(self, log_id: str, offset: int, meta: MetaCluster) -> None:
        """Write a file's meta cluster where a lost one was accepted: else the file would be empty. Durable on return."""
        volume = await self._ground.attach(log_id)
        if MetaCluster.decode(await volume.read(offset, CLUSTER)) is None:
            await volume.write(offset, meta.encode())
            await volume.flush()

    # -- passes ------------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._until_due()
            try:
                await self._pass()
                self._problem = ""
            except VPoolError as error:  # what one object meets is noted there; this is the registry
                self._problem = str(error)
                log.warning("verification_interrupted", reason=str(error))
                await trio.sleep(RETRY_S)

    async def _until_due(self) -> None:
        """Until a pass is to begin or to go on."""
        while not self._is_running() and not self._asked:
            due_s = DAY_S
            if self._settings.days is not None:
                due_s = self.record.started_ns / 1e9 + self._settings.days * DAY_S - time.time()
            if due_s <= 0:
                return
            with trio.move_on_after(min(due_s, DAY_S)):
                await self._pace.changed()

    def _is_running(self) -> bool:
        return self.record.number > 0 and not self.record.ended_ns

    async def _pass(self) -> None:
        record, self._asked = self.record, False
        if not self._is_running():
            record.number, record.started_ns, record.ended_ns = record.number + 1, time.time_ns(), 0
            record.bytes_checked, record.at = 0, None
            await self._save()
        self._bytes_before = self._pace.bytes_read - record.bytes_checked
        self._pace.last_bytes = record.last_bytes
        mine = [each for each in self._ground.view.objects_with_log() if self._is_mine(each)]
        self._objects, self._objects_done = len(mine), 0
        for each in sorted(mine, key=lambda each: each.id):
            if record.at is None or each.id >= record.at.object:
                at = record.at if record.at is not None and record.at.object == each.id else At(each.id)
                await self._object(each, at)
            self._objects_done += 1
        record.bytes_checked = record.last_bytes = self._pass_bytes()
        record.ended_ns, record.at = time.time_ns(), None
        self._pace.hurry(False)
        log.info("verification_ended", number=record.number, objects=len(mine), bytes=record.last_bytes, lost=len(record.lost))
        await self._save()

    def _pass_bytes(self) -> int:
        """Compared in the pass that runs, or was last."""
        return self._pace.bytes_read - self._bytes_before if self._is_running() else self.record.bytes_checked

    def _is_mine(self, record: ObjectRecord) -> bool:
        return record.state is ObjectState.LIVE and record.head is not None and record.owner in ("", self._ground.node_id)

    async def _object(self, record: ObjectRecord, at: At) -> None:
        try:
            volume = self._ground.opened(record.id)
            if volume is None:
                if await self._closed(record, at):
                    await self._needed(record)
                    return
                volume, at = await self._ground.attach(record.id), At(record.id)
            await self._open(volume, record, at)
            await self._needed(record)
        except VPoolError as error:
            log.warning("verification_left_out", object=record.id, reason=str(error))

    async def _closed(self, record: ObjectRecord, at: At) -> bool:
        assert record.head is not None
        start = at.tlog or record.head.tlog
        place = self._ground.place(record)
        return await scos_are_whole(self._pace, place, start, lambda tlog: self._reached(At(record.id, tlog=tlog)))

    # -- one that is open --------------------------------------------------------------------------------------------------

    async def _open(self, volume: Volume, record: ObjectRecord, at: At) -> None:
        position, done = at.position, at.sco
        while position < ADDRESS_END:
            found = await survey(volume, position, ADDRESS_END, clusters_max=PIECE_CLUSTERS)
            head = self._head(record.id)
            missing: list[SurveyedSco] = []
            for sco in await trio.to_thread.run_sync(found.scos):
                if head is not None and done <= sco.number < head.next_sco:
                    await self._reached(At(record.id, position, sco.number))
                    wrong = await self._wrong(sco, found)
                    if wrong is None:
                        missing.append(sco)
                    else:
                        await self._judged(volume, sco, wrong, "the object is damaged")
            since = trio.current_time()
            for sco in missing:
                await self._ask_again(volume, sco, found, since)
            position, done = found.position, 0
            await self._reached(At(record.id, position))

    async def _wrong(self, sco: SurveyedSco, found: Survey, *, at_once: bool = False) -> Ranges | None:
        """What of a SCO is not as the map says; None: the backend says that it does not have it."""
        place = self._ground.place_of_origin(sco.origin)
        wrong: Ranges = []
        for _ in range(DAMAGED_TRIES):
            try:
                name, start, length = place.sco(sco.epoch, sco.number), sco.first_slot * CLUSTER, sco.slots * CLUSTER
                data = await self._pace.get(place, name, start=start, length=length, at_once=at_once)
            except NotFound:
                return None
            wrong = await trio.to_thread.run_sync(found.check, sco.number, sco.first_slot, data)
            if not wrong:
                break
        return wrong

    async def _ask_again(self, volume: Volume, sco: SurveyedSco, found: Survey, since: float) -> None:
        """A 404 is not believed at once."""
        pause = pauses()
        place = self._ground.place_of_origin(sco.origin)
        while True:
            wrong = await self._wrong(sco, found)
            if wrong is not None:
                await self._judged(volume, sco, wrong, "the object is damaged")
                return
            if trio.current_time() - since > self._settings.patience_s:
                ranges = await trio.to_thread.run_sync(found.ranges, sco.number)
                await self._judged(volume, sco, ranges, "the object is missing")
                return
            self._pace.waiting_for = f"{place.sco(sco.epoch, sco.number)}, which the backend says it does not have"
            await trio.sleep(pause())
            self._pace.waiting_for = ""

    async def _judged(self, volume: Volume, sco: SurveyedSco, wrong: Ranges, reason: str) -> None:
        """Mend what is wrong of a SCO; note what is lost, and take off the list what is not lost any more."""
        object_id = volume.object_id
        for known in [lost for lost in self.record.lost if (lost.object, lost.sco) == (object_id, sco.number)]:
            if not any(offset < known.offset + known.length and known.offset < offset + length for offset, length in wrong):
                self.record.remove_lost(object_id, known.offset, known.length)
        if not wrong:
            return
        place = self._ground.place_of_origin(sco.origin)
        name = place.sco(sco.epoch, sco.number)
        mended = await mend(volume, sco.number, wrong)
        self._counts["damaged_objects"] += 1
        self._counts["rewritten_clusters"] += mended.rewritten
        if mended.rewritten:
            log.warning(
                "content_mended", object=object_id, bucket=place.bucket, name=name, clusters=mended.rewritten, reason=reason
            )
        for offset, length in mended.lost:
            found = LostRange(object_id, offset, length, sco.number, place.bucket, name, reason, time.time_ns())
            if self.record.add_lost(found):
                log.error(
                    "content_lost", object=object_id, offset=offset, length=length, bucket=place.bucket, name=name, reason=reason
                )
        if mended.lost:
            self._ground.lost_objects.add((place.bucket, name))
        await self._save()

    def _head(self, object_id: str) -> Head | None:
        record = self._ground.view.object(object_id)
        return record.head if record is not None else None

    # -- what a restart needs ----------------------------------------------------------------------------------------------

    async def _needed(self, record: ObjectRecord) -> None:
        head = self._head(record.id)
        if head is None:
            return
        place = self._ground.place(record)
        wrong = await RestartPath(self._pace, place, self._ground.place_of_origin, self._settings.patience_s).look(head)
        still = {each.name for each in wrong}
        self.record.needed = [known for known in self.record.needed if known.object != record.id or known.name in still]
        if wrong and self._head(record.id) != head:
            return  # a newer checkpoint may have made them needless: the next pass looks
        for each in wrong:
            found = NeededObject(record.id, each.place.bucket, each.name, each.reason, time.time_ns())
            if self.record.add_needed(found):
                log.error("restart_would_fail", object=record.id, bucket=found.bucket, name=found.name, reason=found.reason)

    # -- what it remembers -------------------------------------------------------------------------------------------------

    async def _reached(self, at: At) -> None:
        self.record.at = at
        if trio.current_time() - self._saved_at > SAVE_S:
            await self._save()

    async def _save(self) -> None:
        self._saved_at = trio.current_time()
        self.record.bytes_checked = self._pass_bytes()
        try:
            async with self._saving:
                await trio.to_thread.run_sync(self.record.save, self._path)
        except OSError as error:
            log.warning("verification_not_noted", path=str(self._path), reason=error.strerror)
