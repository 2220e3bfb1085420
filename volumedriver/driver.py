"""The Volume Driver: opens, streams, stops and deletes the volumes that this node owns.

Concurrency: an open volume is one entry in ``_open``, changed only under the object's own lock; ``attach`` and ``detach`` of one
object exclude each other, those of different objects do not. All tasks run in one nursery of the driver, so none outlives it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from backend import ObjectStore
from engine import CLUSTER, Engine, Replica
from registry import Condemn, Forget, ObjectKind, ObjectRecord, ObjectState, RegistryClient, Unhalt, Unsaved
from volumedriver.completions import CompletionPump
from volumedriver.evacuation import Evacuation, EvacuationStatus
from volumedriver.exchange import Exchange, OpenVolume
from volumedriver.fetch import Fetcher, pauses
from volumedriver.gate import Gate
from volumedriver.heads import HeadCommitter
from volumedriver.judging import LogKnowledge
from volumedriver.knowledge import know
from volumedriver.local_choice import LocalChoice
from volumedriver.log_notes import LogNotes
from volumedriver.names import BirthRecord, Place, place_of, shared_bucket
from volumedriver.patrol import PatrolGround
from volumedriver.removal import remove_bucket
from volumedriver.restart import open_volume, opening
from volumedriver.settings import VolumeDriverSettings
from volumedriver.stream import Stream
from volumedriver.unsaved import OpenLog, unsaved
from volumedriver.unsent import LEVELS, StillDirty, unsent
from volumedriver.verification import Event as VerificationEvent
from volumedriver.verification import Verification
from volumedriver.volume import Volume
from vpool.errors import Conflict, Halted, Moved, NoSpace, NotFound, Unavailable, VPoolError

log = structlog.get_logger()

REAP_PAUSE_S = 5.0
REPAIR_CHECK_S = 5.0
REPAIR_PAUSE_S = 60.0
CHECK_S = 3.0  # how long a stop that leaves something behind asks the backend why


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """What an operator sees of one object with a log (a volume, or the log of files)."""

    object: str
    kind: str
    state: str  # "serving", "halted", "closed"
    size: int
    epoch: int
    dirty_bytes: int  # acknowledged, not yet safe in the backend
    oldest_dirty_age_s: float
    head_tlog: int
    uploading: int
    retries: int
    stalled: str  # why the backend takes nothing just now; "" if it does
    waiting_writers: int  # requests that wait at the hard limit
    writes: int
    reads: int
    bytes_written: int
    bytes_read: int
    misses: int  # requests that needed something from the backend
    halted_reason: str
    inode: int = 0
    hit_bytes: int = 0  # read from the read cache
    missed_bytes: int = 0  # fetched from the backend because a request needed them
    owner: str = ""  # node that serves it; "" while nobody does
    dtl: str = "off"  # as the registry says: off, degraded, catching-up, in-sync
    dtl_peer: str = ""
    dtl_lag: int = 0  # records that the peer has not confirmed; of what this node owns
    dtl_lag_bytes: int = 0  # the same in bytes, at most
    dtl_lag_s: float = 0.0  # age of the oldest of them, at most
    dtl_mode: str = "off"  # off, sync, async


@dataclass(frozen=True, slots=True)
class TailLeft:
    """What a stop had to leave in the cache: acknowledged, not in the backend, to be sent after the next start."""

    object: str
    path: str  # "" for the log of files, or a volume without a name
    bytes: int | None  # None: nobody has looked in this life
    reason: str


@dataclass(frozen=True, slots=True)
class BackendQueues:
    """Objects and ranges on their way, of all volumes of the node."""

    uploads: int
    uploads_waiting: int  # for one of ``uploads`` places
    fetches: int
    fetches_waiting: int


class LogWatcher(Protocol):
    """Who is told which logs are open on this node, without an await between that and the first request."""

    def began(self, record: ObjectRecord, first_lsn: int, volume: Volume) -> None:
        """A log was opened: ``record.epoch`` writes from ``first_lsn`` on."""

    def ended(self, object_id: str) -> None:
        """A log was closed."""

    async def leaving(self) -> None:
        """Copies of other nodes' logs are let go of, until ``entered``: the cache directory is exchanged."""

    def entered(self) -> None:
        """There is a cache directory again."""


class _Open:
    """An open volume with all that runs for it."""

    def __init__(self, volume: Volume, stream: Stream, record: ObjectRecord, token: int) -> None:
        self.volume = volume
        self.stream = stream
        self.record = record
        self.token = token
        self.first_lsn = volume.native.stats().lsn + 1  # of this epoch
        self.tasks = trio.CancelScope()
        self.stopped = trio.Event()


class VolumeDriver:
    """All volumes of one node; see ``start``."""

    def __init__(
        self,
        engine: Engine,
        store: ObjectStore,
        registry: RegistryClient,
        node_id: str,
        vpool_id: str,
        settings: VolumeDriverSettings,
        nursery: trio.Nursery,
        notes: LogNotes | None = None,
    ) -> None:
        self.engine = engine
        self.registry = registry
        self.local_choice = None if notes is None else LocalChoice(notes, engine, node_id)
        self.node_id = node_id
        self._store = store
        self._vpool_id = vpool_id
        self._settings = settings
        self._nursery = nursery
        self._pump = CompletionPump(engine)
        self._heads = HeadCommitter(registry)
        self._fetcher = Fetcher(store, engine, settings, self._place_of_origin, nursery)
        self._uploads = trio.CapacityLimiter(settings.uploads)
        self._open: dict[str, _Open] = {}
        self._kinds: dict[str, ObjectKind] = {}
        self._locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._gate = Gate()  # volumes are opened and closed within; the cache directory is exchanged alone
        self._exchange = Exchange(engine, self._gate, self, nursery)
        self._evacuation: Evacuation | None = None
        self._repair_wanted, self._repaired = trio.Event(), trio.Event()
        self._repair_from = -math.inf  # not before; a disk that fails again at once is not asked all the time
        self._reap = trio.Event()
        self._taking_up = trio.CancelScope()
        self._watcher: LogWatcher | None = None
        self._staging: dict[str, trio.Event] = {}  # logs that are being brought here; set when that is over
        self.left: list[TailLeft] = []  # filled by the stop

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls,
        *,
        engine: Engine,
        store: ObjectStore,
        registry: RegistryClient,
        node_id: str,
        vpool_id: str,
        settings: VolumeDriverSettings,
        notes: LogNotes | None = None,
    ) -> AsyncIterator[VolumeDriver]:
        """Run the driver. ``notes``: of a node of a cluster.

        On leaving, all volumes are flushed, their tails sent (within ``stop_s``) and closed; the engine stays open.
        """
        async with trio.open_nursery() as nursery:
            driver = cls(engine, store, registry, node_id, vpool_id, settings, nursery, notes)
            nursery.start_soon(driver._pump.run)
            nursery.start_soon(driver._heads.run)
            nursery.start_soon(driver._reaper)
            nursery.start_soon(driver._take_up)
            nursery.start_soon(driver._repairer)
            try:
                yield driver
            finally:
                driver._taking_up.cancel()
                with trio.CancelScope(shield=True):
                    await driver._stop()
                nursery.cancel_scope.cancel()

    def tell(self, watcher: LogWatcher) -> None:
        """Tell of each log that is open, and of all that is opened or closed from now on."""
        self._watcher = watcher
        for entry in self._open.values():
            watcher.began(entry.record, entry.first_lsn, entry.volume)

    async def attach(self, object_id: str, *, accept_loss: bool = False) -> Volume:
        """The open volume; opened into a new epoch if it is not open yet. NotFound, Halted, Corrupt, Unavailable."""
        found = self._volume(object_id)
        if found is not None:
            return found
        await self._not_staging(object_id)
        async with self._locks[object_id]:
            found = self._volume(object_id)
            if found is not None:
                return found
            record = self._record(object_id)
            self._check_owner(record)
            if record.state is ObjectState.HALTED and not accept_loss:
                raise Halted(record.halted_reason, object=object_id)
            return await self._attach(record, accept_loss)

    async def take_over(self, record: ObjectRecord) -> Volume:
        """Open what the registry has given to this node, at the record's epoch: by a steal or a hand-over.

        With what was staged for it, or from the backend alone. Errors: as ``attach``; Conflict (there is a log here that an
        administrator has to decide on).
        """
        async with self._locks[record.id]:
            found = self._volume(record.id)
            if found is not None:
                raise Conflict("the object is open here already", object=record.id, epoch=self.epoch(record.id))
            return await self._attach(record, False, taken=True)

    @contextlib.asynccontextmanager
    async def staging(self, object_id: str) -> AsyncIterator[None]:
        """Nobody opens the object on this node meanwhile, but ``take_over``. Conflict: it is open, or being staged already."""
        async with self._locks[object_id]:
            if object_id in self._staging or self._volume(object_id) is not None:
                raise Conflict("the object's log is in use here", object=object_id)
            over = self._staging[object_id] = trio.Event()
        try:
            yield
        finally:
            del self._staging[object_id]
            over.set()

    async def move_away(self, object_id: str) -> None:
        """Another node owns the object: whoever waits is told ``Moved``, and the log is closed without sending it."""
        async with self._locks[object_id]:
            entry = self._open.get(object_id)
            if entry is None:
                return
            entry.volume.move_away(entry.record.epoch, entry.first_lsn)
            async with self._gate.shared():
                if self._open.get(object_id) is entry:
                    await self.close(object_id)

    async def _not_staging(self, object_id: str) -> None:
        while object_id in self._staging:
            self._check_owner(self._record(object_id))
            await self._staging[object_id].wait()

    async def reopen(self, object_id: str, *, accept_loss: bool) -> Volume:
        """Open a halted volume again: after its cause was mended, or (``accept_loss``) without what lies behind the damage.

        Conflict: it is not halted. NotFound; Halted, Corrupt, Unavailable: it still cannot be opened.
        """
        async with self._locks[object_id]:
            found = self._open.get(object_id)
            record = self._record(object_id)
            self._check_owner(record)
            halted = record.state is ObjectState.HALTED or object_id in self._exchange.given_up
            if not halted and (found is None or found.volume.halted is None):
                raise Conflict("the volume is not halted", object=object_id)
            await self._detach(object_id, False)
            self._repair_from = -math.inf  # it may have been in the way of a repair of the local map, which it may need
            if record.state is ObjectState.HALTED:
                record = await self.registry.submit(Unhalt(object_id))
            log.warning("volume_reopened", object=object_id, accept_loss=accept_loss)
            return await self._attach(record, accept_loss)

    async def detach(self, object_id: str, *, drain: bool) -> None:
        """Close an open volume; ``drain``: send its tail first (waits for the backend). The log stays on this host."""
        async with self._locks[object_id]:
            await self._detach(object_id, drain)

    def opened(self, object_id: str) -> Volume | None:
        """The volume, if it is open."""
        found = self._open.get(object_id)
        return found.volume if found is not None else None

    def open_objects(self) -> list[str]:
        """All that are open here."""
        return list(self._open)

    def epoch(self, object_id: str) -> int:
        """Epoch of an open volume. NotFound if it is not open."""
        found = self._open.get(object_id)
        if found is None:
            raise NotFound("the volume is not open", object=object_id)
        return found.record.epoch

    def begun(self, object_id: str) -> tuple[int, int]:
        """(epoch, its first LSN) of an open volume. NotFound if it is not open."""
        found = self._open.get(object_id)
        if found is None:
            raise NotFound("the volume is not open", object=object_id)
        return found.record.epoch, found.first_lsn

    def written(self, object_id: str) -> int:
        """LSN of the last record of an open volume. NotFound if it is not open."""
        found = self._open.get(object_id)
        if found is None:
            raise NotFound("the volume is not open", object=object_id)
        return found.volume.native.stats().lsn

    @contextlib.asynccontextmanager
    async def at_epoch(self, object_id: str) -> AsyncIterator[int]:
        """Epoch of an open volume, which stays that while within; waits for one that is being exchanged. NotFound: not open."""
        while True:
            async with self._gate.shared():
                if object_id not in self._exchange.absent:
                    yield self.epoch(object_id)
                    return
            await self._present(object_id)

    async def _present(self, object_id: str) -> None:
        volume = self._exchange.absent.get(object_id)
        if volume is not None:
            await volume.ready()
        else:
            await trio.lowlevel.checkpoint()

    async def drain(self, object_id: str) -> None:
        """Send everything that is acknowledged now to the backend; returns when its head is committed."""
        while True:
            await self.attach(object_id)
            opened = self._open.get(object_id)
            if opened is not None:
                await opened.stream.drain(self._nursery)
                if self._open.get(object_id) is opened:
                    return
            await self._present(object_id)  # its log is being exchanged

    def verification(
        self, object_id: str, *, size: int, patience_s: float | None, tell: Callable[[VerificationEvent], Awaitable[None]]
    ) -> Verification:
        """A look at every live cluster of an open volume; see ``Verification``.

        ``patience_s``: how long a 404 is not believed; None: ``lost_object_s``.
        """

        def record() -> ObjectRecord:
            found = self.registry.view.object(object_id)
            if found is None:
                raise NotFound("no such object", object=object_id)
            return found

        volume = self._volume(object_id)
        if volume is None:
            raise NotFound("the volume is not open", object=object_id)
        return Verification(
            volume,
            size=size,
            record=record,
            place=self._place_of_origin,
            store=self._store,
            patience_s=self._settings.lost_object_s if patience_s is None else patience_s,
            tell=tell,
        )

    async def knowledge(self, object_id: str, advance: Callable[[int, int], Awaitable[None]]) -> LogKnowledge:
        """What it takes to judge the objects of a log; opens it if it is not open. NotFound; as ``know``."""
        volume, problem = None, ""
        try:
            volume = await self.attach(object_id)
        except NotFound:
            raise
        except VPoolError as error:
            problem = str(error)
        record = self.registry.view.object(object_id)
        if record is None:
            raise NotFound("no such object", object=object_id)
        return await know(record, volume, self._place(record), self._store, problem=problem, advance=advance)

    def patrol_ground(self) -> PatrolGround:
        """What the background verification works on."""
        return PatrolGround(
            view=self.registry.view,
            node_id=self.node_id,
            store=self._store,
            place=self._place,
            place_of_origin=self._place_of_origin,
            opened=self.opened,
            attach=self.attach,
            is_busy=self._is_busy,
            lost_objects=self._fetcher.lost,
        )

    def _is_busy(self) -> bool:
        """Requests wait for the backend, or for room."""
        queues = self.backend_queues()
        waiting = any(entry.volume.waiting_writers for entry in self._open.values())
        return waiting or queues.fetches > 0 or queues.uploads_waiting > 0

    def orphaned(self) -> None:
        """Something has lost its last name and handle: the reaper looks for it."""
        self._reap.set()

    def statuses(self) -> list[VolumeStatus]:
        """All objects with a log, open or not."""
        return [self._status(record) for record in self.registry.view.objects_with_log()]

    def unsaved(self) -> Unsaved:
        """What would be lost with this node."""
        view, logs, not_open = self.registry.view, [], 0
        for object_id, entry in self._open.items():
            record = view.object(object_id) or entry.record
            try:
                stats = entry.volume.native.stats()
            except VPoolError:  # its log is being exchanged
                not_open += 1
            else:
                logs.append(OpenLog(stats.dirty_bytes, stats.oldest_dirty_age_s, record.dtl.state))
        closed = (view.object(log_id.hex()) for log_id in self.engine.logs() if log_id.hex() not in self._open)
        not_open += sum(record is not None and record.owner == self.registry.node for record in closed)
        return unsaved(logs, not_open, time.time_ns() // 1_000_000)

    def backend_queues(self) -> BackendQueues:
        """What waits for the backend just now."""
        uploads, fetches = self._uploads.statistics(), self._fetcher.statistics()
        return BackendQueues(uploads.borrowed_tokens, uploads.tasks_waiting, fetches.borrowed_tokens, fetches.tasks_waiting)

    @property
    def has_halted(self) -> bool:
        """Whether a log that is open here takes no writes."""
        return any(entry.volume.halted is not None for entry in self._open.values())

    def ask_engine(self) -> None:
        """Ask the engine and each open volume of it for their numbers: it returns only if no lock there is held for ever.

        Blocks; for a thread.
        """
        self.engine.stats()
        for entry in list(self._open.values()):
            entry.volume.native.stats()

    async def _attach(self, record: ObjectRecord, accept_loss: bool, *, taken: bool = False) -> Volume:
        pause, began, said = pauses(), trio.current_time(), False
        while True:
            try:
                async with self._gate.shared():
                    found = self._volume(record.id)
                    return found if found is not None else await self._open_log(record, accept_loss, None, taken=taken)
            except NoSpace as error:
                waited = trio.current_time() - began
                if self._settings.stall_s is not None and waited > self._settings.stall_s:
                    raise Unavailable("the cache disk has no room for the volume's map", waited_s=round(waited)) from error
                if not said:
                    said = True
                    log.warning("opening_waits_for_room", object=record.id, reason=str(error))
                await trio.sleep(pause())
            except VPoolError:
                if not await self._repair():
                    raise
            before, record = record, self._record(record.id)  # the epoch may be a later one now
            taken = taken and record.epoch == before.epoch

    def _volume(self, object_id: str) -> Volume | None:
        """One that is open, or whose clients wait for it to be so again."""
        entry = self._open.get(object_id)
        return entry.volume if entry is not None else self._exchange.absent.get(object_id)

    def _record(self, object_id: str) -> ObjectRecord:
        record = self.registry.view.object(object_id)
        if record is None or record.state is ObjectState.CONDEMNED:
            raise NotFound("no such object", object=object_id)
        return record

    def _check_owner(self, record: ObjectRecord) -> None:
        """What another node owns is its to open."""
        if record.owner not in ("", self.node_id):
            what = "volume" if record.kind is ObjectKind.VOLUME else "log of files"
            raise Moved(f"another node owns the {what}", object=record.id, owner=record.owner)

    async def _open_log(self, record: ObjectRecord, accept_loss: bool, volume: Volume | None, *, taken: bool = False) -> Volume:
        """Open a log and serve it, as ``volume`` if clients have one of an earlier opening."""
        if self.local_choice is not None and volume is None and not taken:
            await self.local_choice.check_not_lost(record)
        place = self._place(record)
        streams: list[Stream] = []
        token = self._pump.listen(lambda: streams[0].sealed() if streams else None)
        try:
            opened = await open_volume(
                record,
                levels=LEVELS[record.kind],
                place=place,
                node_id=self.node_id,
                engine=self.engine,
                fetcher=self._fetcher,
                registry=self.registry,
                settings=self._settings,
                event_token=token,
                accept_loss=accept_loss,
                choice=self.local_choice,
                taken=taken,
            )
        except BaseException:
            self._pump.forget(token)
            raise
        if volume is None:
            volume = Volume(
                record.id,
                opened.native,
                self._fetcher,
                self._pump,
                self._settings,
                opening=opening(record.kind),
                repair=self._repair,
            )
        else:
            volume.go_on(opened.native)
        stream = Stream(
            volume,
            epoch=opened.record.epoch,
            head=opened.record.head,
            place=place,
            birth=BirthRecord(
                self._vpool_id, record.id, "volume" if record.kind is ObjectKind.VOLUME else "files", LEVELS[record.kind]
            ),
            store=self._store,
            fetcher=self._fetcher,
            uploads=self._uploads,
            advance=self._heads.advance,
            settings=self._settings,
        )
        streams.append(stream)
        entry = _Open(volume, stream, opened.record, token)
        self._open[record.id] = entry
        self._exchange.given_up.discard(record.id)
        self._nursery.start_soon(self._run, entry)
        if self._watcher is not None:
            self._watcher.began(entry.record, entry.first_lsn, volume)
        return volume

    async def _take_up(self) -> None:
        """Open what an earlier life left a log of.

        Its tail has to go to the backend although nobody may want it here again, and nobody else gets its segments before.
        """
        with self._taking_up:
            for volume in self.engine.logs():
                record = self.registry.view.object(volume.hex())
                if record is None or record.owner != self.node_id or record.state is not ObjectState.LIVE:
                    continue
                try:
                    await self.attach(record.id)
                except VPoolError as error:
                    log.warning("tail_not_taken_up", object=record.id, reason=str(error))

    async def _run(self, entry: _Open) -> None:
        try:
            with entry.tasks:
                async with trio.open_nursery() as nursery:
                    await entry.stream.run(nursery)
        finally:
            entry.stopped.set()

    async def _detach(self, object_id: str, drain: bool) -> None:
        entry = self._open.get(object_id)
        if entry is None:
            return
        if drain and entry.volume.halted is None:
            await entry.stream.drain(self._nursery)
        async with self._gate.shared():
            if object_id in self._open:
                await self.close(object_id)

    # -- the cache directory -------------------------------------------------------------------------------------------

    def evacuate(self) -> EvacuationStatus:
        """Begin to send everything that only the cache has, if nobody has begun; how far that is."""
        if self._evacuation is None or not self._evacuation.status().running:
            self._evacuation = Evacuation(self._open, self._exchange.absent, [record.id for record in self._never_opened()])
            self._nursery.start_soon(self._evacuation.run, self._nursery)
        return self._evacuation.status()

    def evacuation(self) -> EvacuationStatus | None:
        """How far the last one is; None if there has been none in this life."""
        return self._evacuation.status() if self._evacuation is not None else None

    async def replace_cache(self, change: Callable[[bool], None], *, send_s: float, accept_loss: bool) -> list[StillDirty]:
        """Have another directory in the place of the cache; see ``Exchange.of_directory``."""
        lost = await self._exchange.of_directory(change, send_s=send_s, accept_loss=accept_loss)
        log.warning("cache_replaced", lost={each.object: each.bytes for each in lost})
        return lost

    def unsent(self) -> list[StillDirty]:
        """What logs have that are in the cache, and not open; for an exchange. Blocks."""
        return unsent(self.engine, self.registry.view, self.node_id, but=set(self._open))

    def replica(self, object_id: str) -> Replica:
        """The copy of another node's log that is kept here, or an empty one; to be closed before the object is opened here."""
        record = self.registry.view.object(object_id)
        next_sco = 1 if record is None or record.head is None else record.head.next_sco
        return self.engine.replica(bytes.fromhex(object_id), head_next_sco=next_sco)

    def log_bytes(self, object_id: str) -> int | None:
        """Bytes in the log of an object that is not open here; None: there is none, or it is in use. Looks at its segments."""
        if object_id in self._open or bytes.fromhex(object_id) not in self.engine.logs():
            return None
        try:
            replica = self.replica(object_id)
        except Conflict:
            return None
        try:
            return replica.bytes
        finally:
            replica.close()

    def forget(self, object_id: str) -> None:
        """Drop everything local of an object that is not open. Blocks."""
        self.engine.forget(bytes.fromhex(object_id))
        if self.local_choice is not None:
            self.local_choice.forgotten(object_id)

    def entries(self) -> Mapping[str, OpenVolume]:
        """All open volumes; for an exchange."""
        return self._open

    async def close(self, object_id: str) -> None:
        """Stop a stream and close its log; only within the gate."""
        entry = self._open[object_id]
        entry.tasks.cancel()
        await entry.stopped.wait()
        await entry.stream.stop()
        del self._open[object_id]
        if self._watcher is not None:
            self._watcher.ended(object_id)
        self._pump.forget(entry.token)
        try:
            await trio.to_thread.run_sync(entry.volume.native.close)
        except VPoolError as error:  # the log's disk has failed: what it holds is found again at the next opening
            log.error("volume_not_closed_cleanly", object=object_id, reason=str(error))

    async def leaving(self) -> None:
        """For an exchange."""
        if self._watcher is not None:
            await self._watcher.leaving()

    def entered(self) -> None:
        """For an exchange."""
        if self._watcher is not None:
            self._watcher.entered()

    async def open_again(self, object_id: str, volume: Volume) -> None:
        """Open the log of a volume that its clients have kept; only within the gate."""
        record = self._record(object_id)
        if record.owner not in ("", self.node_id):  # a hand-over was decided while the log was closed
            volume.move_away()
        self._check_owner(record)
        if record.state is ObjectState.HALTED:
            raise Halted(record.halted_reason, object=object_id)
        await self._open_log(record, False, volume)

    async def _repair(self) -> bool:
        """For a request that has failed: if the local map is why, that is had anew first. False: it is not, or it cannot be."""
        if self.engine.stats().map_failure is None or trio.current_time() < self._repair_from:
            return False
        self._repair_wanted.set()
        await self._repaired.wait()
        return self.engine.stats().map_failure is None

    async def _repairer(self) -> None:
        """Has the local map anew when it has failed, whether a request has noticed or not."""
        while True:
            with trio.move_on_after(REPAIR_CHECK_S):
                await self._repair_wanted.wait()
            self._repair_wanted = trio.Event()
            if self.engine.stats().map_failure is not None and trio.current_time() >= self._repair_from:
                if refusal := await self._backends_refusal():  # the map comes from there: who can do without it should go on
                    log.warning("local_map_repair_waits", reason=refusal)
                    await trio.sleep(REPAIR_CHECK_S)
                    continue
                try:
                    await self._exchange.of_map()
                except VPoolError as error:
                    log.error("local_map_not_repaired", reason=str(error))
                self._repair_from = trio.current_time() + REPAIR_PAUSE_S
            repaired, self._repaired = self._repaired, trio.Event()
            repaired.set()

    async def _stop(self) -> None:
        """Send all tails side by side as long as ``stop_s`` allows; then close, which keeps what is left in the log."""
        with trio.move_on_after(self._settings.stop_s):
            async with trio.open_nursery() as nursery:
                for entry in list(self._open.values()):
                    if entry.volume.halted is None:
                        nursery.start_soon(entry.stream.drain, nursery)
        for record in await trio.to_thread.run_sync(self._never_opened):
            self._leave(record, None, record.halted_reason or "not opened since the last start")
        dirty = {object_id: entry.volume.native.stats().dirty_bytes for object_id, entry in self._open.items()}
        refusal = await self._backends_refusal() if any(dirty.values()) else ""
        for object_id, entry in list(self._open.items()):
            if dirty[object_id]:
                self._leave(entry.record, dirty[object_id], self._why_left(entry, refusal))
            await self.detach(object_id, drain=False)

    def _never_opened(self) -> list[ObjectRecord]:
        """Logs of an earlier life that this one has not taken up: the stop came first, or they could not be opened."""
        records = [self.registry.view.object(volume.hex()) for volume in self.engine.logs()]
        states = (ObjectState.LIVE, ObjectState.HALTED)
        ours = [record for record in records if record is not None and record.owner == self.node_id and record.state in states]
        return [record for record in ours if record.id not in self._open]

    def _leave(self, record: ObjectRecord, left: int | None, reason: str) -> None:
        path = (record.inode and self.registry.view.path_of(record.inode)) or ""
        log.warning("tail_left_in_cache", object=record.id, path=path, bytes=left, reason=reason)
        self.left.append(TailLeft(record.id, path, left, reason))

    async def _backends_refusal(self) -> str:
        """What is wrong with the backend now; empty if it answers."""
        with trio.move_on_after(CHECK_S):
            try:
                await self._store.check()
            except VPoolError as error:
                return str(error)
            return ""
        return f"no answer within {CHECK_S:g} s"

    def _why_left(self, entry: _Open, refusal: str) -> str:
        if entry.volume.halted is not None:
            return f"halted: {entry.volume.halted}"
        if refusal or entry.stream.state.stalled:
            return f"the backend takes nothing: {entry.stream.state.stalled or refusal}"
        return f"the time for it was over (volumes.stop_s, {self._settings.stop_s:g} s)"

    async def _reaper(self) -> None:
        """Remove what nobody can reach any more: orphans without handles, then the buckets of what is condemned."""
        pause = pauses()
        while True:
            self._reap = trio.Event()
            for record in self.registry.view.orphans():
                if record.kind is ObjectKind.VOLUME and record.state is ObjectState.ORPHAN:
                    await self._condemn(record)
            condemned = [record for record in self.registry.view.orphans() if _is_condemned_volume(record)]
            removed = [await self._remove(record) for record in condemned if self._is_ours_to_remove(record)]
            if all(removed):
                pause = pauses()
            with trio.move_on_after(REAP_PAUSE_S if all(removed) else pause()):
                await self._reap.wait()

    def _is_ours_to_remove(self, record: ObjectRecord) -> bool:
        """Not while another node that lives may have its log open: then it is that one's to remove."""
        if record.owner in ("", self.node_id):
            return True
        owner = self.registry.view.node(record.owner)
        return owner is None or owner.expired

    async def _condemn(self, record: ObjectRecord) -> None:
        if self.registry.view.handles(record.inode) or not self._is_ours_to_remove(record):
            return
        try:
            await self.detach(record.id, drain=False)
            fresh = self.registry.view.object(record.id)
            if fresh is not None:
                await self.registry.submit(Condemn(fresh.id, fresh.epoch))
                await trio.to_thread.run_sync(self.forget, record.id)  # the bucket may wait
        except VPoolError as error:  # what one volume meets must not end the reaper, and with it the daemon
            log.info("orphan_stays", object=record.id, reason=str(error))

    async def _remove(self, record: ObjectRecord) -> bool:
        """Delete a condemned volume's bucket and local log. False: the backend refuses now, to be tried again."""
        place = self._place(record)
        try:
            await remove_bucket(self._store, place, object_id=record.id, shared=shared_bucket(self._vpool_id))
        except VPoolError as error:
            log.debug("bucket_stays", bucket=place.bucket, reason=str(error))
            return False
        try:
            async with self._locks[record.id]:
                await trio.to_thread.run_sync(self.forget, record.id)
                await self.registry.submit(Forget(record.id))
        except VPoolError as error:
            log.warning("condemned_volume_stays", object=record.id, reason=str(error))
            return False
        self._locks.pop(record.id, None)
        self._kinds.pop(record.id, None)
        log.info("volume_removed", object=record.id)
        return True

    def _place(self, record: ObjectRecord) -> Place:
        self._kinds[record.id] = record.kind
        return place_of(record.id, record.kind, self._vpool_id)

    def _place_of_origin(self, origin: bytes) -> Place:
        object_id = origin.hex()
        return place_of(object_id, self._kinds.get(object_id, ObjectKind.VOLUME), self._vpool_id)

    def _status(self, record: ObjectRecord) -> VolumeStatus:
        entry = self._open.get(record.id)
        halted = record.halted_reason
        if entry is None:
            state = "halted" if record.state is ObjectState.HALTED else "closed"
            head = record.head.tlog.number if record.head is not None else 0
            return VolumeStatus(
                record.id, record.kind.value, state, record.size, record.epoch, 0, 0.0, head, 0, 0, "", 0, 0, 0, 0, 0, 0, halted,
                record.inode, owner=record.owner, dtl=record.dtl.state.value, dtl_peer=record.dtl.peer,
                dtl_mode=record.dtl.mode,
            )  # fmt: skip
        stats = entry.volume.native.stats()
        halted = entry.volume.halted or halted
        stream, mirror = entry.stream, entry.volume.mirror
        return VolumeStatus(
            object=record.id,
            kind=record.kind.value,
            state="halted" if halted else "serving",
            size=record.size,
            epoch=entry.record.epoch,
            dirty_bytes=stats.dirty_bytes,
            oldest_dirty_age_s=round(stats.oldest_dirty_age_s, 3),
            head_tlog=stream.head.tlog.number if stream.head is not None else 0,
            uploading=stream.state.uploading,
            retries=stream.state.retries,
            stalled=stream.state.stalled,
            waiting_writers=entry.volume.waiting_writers,
            writes=stats.writes,
            reads=stats.reads,
            bytes_written=stats.bytes_written,
            bytes_read=stats.bytes_read,
            misses=stats.misses,
            halted_reason=halted or "",
            inode=record.inode,
            hit_bytes=stats.read_cache_hits * CLUSTER,
            missed_bytes=entry.volume.missed_clusters * CLUSTER,
            owner=record.owner,
            dtl=record.dtl.state.value,
            dtl_peer=record.dtl.peer,
            dtl_lag=0 if mirror is None else mirror.lag_records,
            dtl_lag_bytes=0 if mirror is None else mirror.lag_bytes,
            dtl_lag_s=0.0 if mirror is None else round(mirror.lag_s, 3),
            dtl_mode=record.dtl.mode,
        )


def _is_condemned_volume(record: ObjectRecord) -> bool:
    return record.state is ObjectState.CONDEMNED and record.kind is ObjectKind.VOLUME
