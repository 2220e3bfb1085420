"""Streams one volume's log to the backend: SCOs in parallel, then their TLog, then the head.

An object's name has the epoch in it, and within an epoch every number is closed once: so whatever is sent again after an error
is the same bytes under the same name, and whatever an earlier life of the volume still has under way does no harm.

Concurrency: ``run`` is the only one that closes TLogs. Several TLogs may be on their way at once; heads are proposed
strictly in the order of the TLogs, each task waiting for the one before it. An await between closing a TLog and noting it
in ``_last`` would break that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

import structlog
import trio

from backend import ObjectStore
from engine import Checkpoint, RootRef, Tlog, WouldBlock
from registry import Head, HeadAdvance, RootName, TlogName
from volumedriver.fetch import Fetcher, pauses
from volumedriver.names import BirthRecord, Place
from volumedriver.settings import VolumeDriverSettings
from volumedriver.together import together
from volumedriver.volume import Volume
from vpool.errors import Denied, NoSpace, NotFound, Unavailable, VPoolError

log = structlog.get_logger()

FULL_PAUSE_S = 1.0  # how soon what the cache disk had no room for is tried again
STALL_SAID_AFTER_S = 2.0  # a single refusal is the weather; this long without any success is news


@dataclass
class StreamState:
    """What ``status`` shows of a volume's way to the backend."""

    uploading: int = 0
    retries: int = 0
    stalled: str = ""  # why the backend takes nothing just now


class _InFlight:
    """A TLog on its way; when ``done`` is set its head is committed, or it has ``failed`` and so has all behind it."""

    def __init__(self) -> None:
        self.admitted = trio.Event()  # it has one of the slots; they are given in the order of the TLogs
        self.done = trio.Event()
        self.failed = True


class Stream:
    """The uploader of one volume in one epoch."""

    def __init__(
        self,
        volume: Volume,
        *,
        epoch: int,
        head: Head | None,
        place: Place,
        birth: BirthRecord,
        store: ObjectStore,
        fetcher: Fetcher,
        uploads: trio.CapacityLimiter,
        advance: Callable[[HeadAdvance], Awaitable[None]],
        settings: VolumeDriverSettings,
    ) -> None:
        self.state = StreamState()
        self.head = head
        self._volume = volume
        self._native = volume.native  # of this epoch; the volume may be given another one, and another stream with it
        self._epoch = epoch
        self._place = place
        self._birth = birth
        self._store = store
        self._fetcher = fetcher
        self._uploads = uploads
        self._advance = advance
        self._settings = settings
        self._wake = trio.Event()
        self._closing = trio.Lock()
        self._slots = trio.CapacityLimiter(settings.tlogs_in_flight)
        self._last: _InFlight | None = None
        self._born = head is not None
        self._stalled_since: float | None = None  # no put has been taken since
        self._stall_said = False
        self._next_object = head.checkpoint.object + 1 if head is not None and head.checkpoint is not None else 1
        self._closed_tlog = head.tlog.number if head is not None else 0
        self._checkpoint_tlog = head.checkpoint_tlog if head is not None else 0
        self._checkpointed = trio.Event()  # no checkpoint is being written
        self._checkpointed.set()
        self._advancing = trio.Lock()  # one change of the head at a time
        self._under_way: set[trio.CancelScope] = set()  # what sends, in whatever nursery
        self._idle = trio.Event()  # made anew by who waits for nothing to be under way
        self._is_over = False
        self._begun_lsn = volume.native.stats().lsn  # all that the epoch began with
        self._is_past_tail = False  # the head includes that

    def sealed(self) -> None:
        """The engine sealed a SCO (its event token)."""
        self._wake.set()

    async def stop(self) -> None:
        """Send nothing more, and return when nothing is under way: from then on the log may be closed."""
        self._is_over = True
        for scope in self._under_way:
            scope.cancel()
        while self._under_way:
            self._idle = trio.Event()
            await self._idle.wait()

    async def run(self, nursery: trio.Nursery) -> None:
        """Close and send TLogs until cancelled or halted: when enough SCOs are sealed, or when the oldest byte is old enough."""
        while self._volume.halted is None:
            stats = self._native.stats()
            old = stats.unclosed_age_s >= self._settings.tlog_age_s
            due = old or stats.sealed_scos >= self._settings.scos_per_tlog
            if due and await self.close_tlog(nursery, seal_open=old):
                continue
            self._wake = trio.Event()
            with trio.move_on_after(max(0.05, self._settings.tlog_age_s / 4)):
                await self._wake.wait()

    async def drain(self, nursery: trio.Nursery) -> None:
        """Send everything that is acknowledged now; returns when its head is committed, or the stream is halted or stopped."""
        while await self.close_tlog(nursery, seal_open=True):
            pass
        if self._last is not None:
            await self._last.done.wait()
        await self._checkpointed.wait()

    async def close_tlog(self, nursery: trio.Nursery, *, seal_open: bool) -> bool:
        """Close a TLog and send it off; False when there was nothing to close. Waits while too many are on their way.

        A checkpoint is of the whole log: when one is due, a backlog is closed up to its end, or a writer that is faster than
        the backend would put it off for ever. What that closes waits for its turn to be sent.

        When the log cannot be closed (its disk has failed, its content is damaged), the volume is halted: False, too.
        """
        async with self._closing:
            if self._last is not None:
                await self._last.admitted.wait()
            if self._is_over:
                return False
            token = object()
            await self._slots.acquire_on_behalf_of(token)
            started = False
            try:
                due = self._closed_tlog + 1 - self._checkpoint_tlog >= self._settings.tlogs_per_checkpoint
                with_map = due and self._checkpointed.is_set()
                while True:
                    if with_map:
                        self._native.cut_next_tlog()
                    tlog = await self._close(seal_open or with_map)
                    if tlog is None:
                        return started
                    self._closed_tlog = tlog.ref.number
                    before, self._last = self._last, _InFlight()
                    self._start(nursery, partial(self._send, None if started else token, tlog, before, self._last))
                    started = True
                    if not with_map or self._begin_checkpoint(nursery) or not self._native.stats().sealed_scos:
                        return True
            except VPoolError as error:
                self._halt(error)
                return False
            finally:
                if not started:
                    self._slots.release_on_behalf_of(token)

    async def _close(self, seal_open: bool) -> Tlog | None:
        limit = self._settings.scos_per_tlog
        seal_open = seal_open and self._native.stats().sealed_scos < limit  # else it would not be in this TLog
        while True:
            try:
                return await trio.to_thread.run_sync(lambda: self._native.close_tlog(seal_open=seal_open, scos_max=limit))
            except WouldBlock:  # the cache disk has no room even to say where the log ends
                await trio.sleep(FULL_PAUSE_S)

    def _begin_checkpoint(self, nursery: trio.Nursery) -> bool:
        """What the engine has kept a cut for. It alone knows of which TLog: it puts a cut off when it cannot take it."""
        checkpoint = self._native.begin_checkpoint(self._next_object)
        if checkpoint is None or checkpoint.tlog is None:
            return False
        self._checkpoint_tlog = checkpoint.tlog.number
        self._checkpointed = trio.Event()
        self._start(nursery, partial(self._send_checkpoint, checkpoint, checkpoint.tlog.number))
        return True

    def _start(self, nursery: trio.Nursery, task: Callable[[], Awaitable[None]]) -> None:
        scope = trio.CancelScope()

        async def within() -> None:
            try:
                with scope:
                    await task()
            finally:
                self._under_way.discard(scope)
                self._idle.set()

        self._under_way.add(scope)
        nursery.start_soon(within)

    async def _send(self, token: object | None, tlog: Tlog, before: _InFlight | None, mine: _InFlight) -> None:
        """One TLog's way: a slot (``token`` has one already), bucket, SCOs, TLog, head."""
        try:
            if token is None:
                if before is not None:
                    await before.admitted.wait()
                waiting = object()
                await self._slots.acquire_on_behalf_of(waiting)
                token = waiting
            mine.admitted.set()
            await self._birth_once()
            if tlog.ref.combined_sco:
                await self._put(self._place.tlog(_tlog_name(tlog)), tlog.encode)
            else:
                await together(partial(self._put_sco, sco.number) for sco in tlog.scos)
                await self._put(self._place.tlog(_tlog_name(tlog)), tlog.encode)
            if before is not None:
                await before.done.wait()
                if before.failed:
                    return
            await self._commit(tlog)
            mine.failed = False
        except VPoolError as error:
            self._halt(error)
        finally:
            mine.admitted.set()
            mine.done.set()
            if token is not None:
                self._slots.release_on_behalf_of(token)

    async def _commit(self, tlog: Tlog) -> None:
        """Propose the head; from its commit on the local copies may go."""
        async with self._advancing:
            before = self.head
            checkpoint, checkpoint_tlog = (before.checkpoint, before.checkpoint_tlog) if before is not None else (None, 0)
            self._is_past_tail = self._is_past_tail or tlog.last_lsn >= self._begun_lsn
            await self._advance_to(Head(_tlog_name(tlog), tlog.next_sco, checkpoint, checkpoint_tlog))
        await trio.to_thread.run_sync(self._native.head_committed, tlog.ref.number)
        self._volume.room_freed()

    async def _advance_to(self, head: Head) -> None:
        previous = self.head.tlog.number if self.head is not None else 0
        await self._advance(HeadAdvance(self._volume.object_id, self._epoch, previous, head, past_tail=self._is_past_tail))
        self.head = head

    async def _send_checkpoint(self, checkpoint: Checkpoint, tlog: int) -> None:
        """Write a checkpoint beside the TLogs, and have the head name it as soon as the head is at its TLog or past it."""
        try:
            root = await self._put_checkpoint(checkpoint)
            last = self._last
            while last is not None and (self.head is None or self.head.tlog.number < tlog):
                await last.done.wait()
                if last.failed:
                    return
            async with self._advancing:
                assert self.head is not None
                name = RootName(root.epoch, root.object, root.offset, root.length, root.checksum)
                await self._advance_to(replace(self.head, checkpoint=name, checkpoint_tlog=tlog))
            await self._install(root)
        except VPoolError as error:
            self._halt(error)
        finally:
            self._checkpointed.set()

    async def _install(self, root: RootRef) -> None:
        """Have the local map stand on the new checkpoint. It must: the objects of the older one may go."""
        while True:
            try:
                await trio.to_thread.run_sync(self._native.checkpoint_committed, root)
            except NoSpace:
                await trio.sleep(FULL_PAUSE_S)
            else:
                return

    async def _birth_once(self) -> None:
        if not self._born:
            await self._until_taken(lambda: self._store.create_bucket(self._place.bucket), "bucket")
            await self._put(self._place.birth_record(), self._birth.encode)
            self._born = True

    async def _put_sco(self, number: int) -> None:
        await self._put(self._place.sco(self._epoch, number), lambda: self._native.sco(number))

    async def _put_checkpoint(self, checkpoint: Checkpoint) -> RootRef:
        while True:
            step = await trio.to_thread.run_sync(checkpoint.step)
            if isinstance(step, RootRef):
                return step
            if isinstance(step, tuple):
                number, data = step
                self._next_object = max(self._next_object, number + 1)
                await self._put(self._place.map(self._epoch, number), lambda data=data: data)  # type: ignore[misc]
                continue
            for index, miss in enumerate(step):
                place = self._fetcher.place(miss.origin)
                await self._fetcher.map_node(place, miss, lambda data, i=index: checkpoint.supply(i, data))  # type: ignore[misc]

    async def _put(self, name: str, content: Callable[[], bytes]) -> None:
        """Put one object however long it takes; its bytes are made only when there is a slot to send them."""

        async def attempt() -> None:
            async with self._uploads:
                self.state.uploading += 1
                try:
                    data = await trio.to_thread.run_sync(content)
                    await self._store.put(self._place.bucket, name, data)
                finally:
                    self.state.uploading -= 1

        await self._until_taken(attempt, name)

    async def _until_taken(self, attempt: Callable[[], Awaitable[None]], what: str) -> None:
        """Repeat while the backend is away or refuses us: that is for an operator to mend, not for a guest to notice."""
        pause = pauses()
        while True:
            try:
                await attempt()
            except (Unavailable, Denied, NotFound) as error:
                self._refused(what, error)
            else:
                self._taken()
                return
            await trio.sleep(pause())

    def _halt(self, error: VPoolError) -> None:
        """What no repetition mends: local data are damaged, the log's disk has failed, or the registry refuses our epoch."""
        if self._is_over:  # the volume has another log by now, or will have
            return
        reason = f"nothing more can be sent to the backend: {error}"
        self._volume.halt(reason)
        log.error("volume_halted", object=self._volume.object_id, reason=reason)

    def _refused(self, what: str, error: VPoolError) -> None:
        self.state.retries += 1
        self.state.stalled = str(error)
        if self._stalled_since is None:
            self._stalled_since = trio.current_time()
        elif not self._stall_said and trio.current_time() - self._stalled_since > STALL_SAID_AFTER_S:
            self._stall_said = True
            log.warning("backend_write_waits", bucket=self._place.bucket, object=what, reason=str(error))

    def _taken(self) -> None:
        if self._stall_said:
            log.warning("backend_write_goes_on", bucket=self._place.bucket)
        self.state.stalled = ""
        self._stalled_since = None
        self._stall_said = False


def _tlog_name(tlog: Tlog) -> TlogName:
    ref = tlog.ref
    return TlogName(ref.epoch, ref.number, ref.combined_sco, ref.checksum)
