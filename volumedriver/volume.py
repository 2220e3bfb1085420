"""One open volume: requests on its address space.

The engine does a request at once whenever it can. What is left for this module is to wait: for ranges from the backend, for
room in the write cache, for a sync. Everything runs on the trio loop.

Concurrency: ``read``, ``write`` and ``zero`` call the engine before their first await, so requests reach the log in the
order of the calls; an await added in front of the engine call would break that. A request that had to wait is concurrent
with those that came meanwhile.

The log under a volume may be exchanged (``exchange.py``): a request that the closed one has refused, without effect, is made
anew on the next. It may also be held for a hand-over: then nothing is read either, nobody waits within a request for the backend,
for room or for a delay, and since every call of the engine is done at once, what is not answered by then has not been done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import structlog
import trio

from engine import CLUSTER, REQUEST_BYTES_MAX, Plan, WouldBlock
from engine import Volume as EngineVolume
from volumedriver.completions import CompletionPump
from volumedriver.fetch import Fetcher
from volumedriver.giving_way import check_not_held
from volumedriver.phases import Phase, Waiting
from volumedriver.settings import VolumeDriverSettings
from vpool.errors import Halted, Moved, Unavailable, VPoolError

log = structlog.get_logger()

T = TypeVar("T")


class MirrorOfLog(Protocol):
    """The DTL of an open log."""

    def wrote(self) -> None:
        """The log has grown."""

    @property
    def lag_records(self) -> int:
        """How far the peer is behind."""

    @property
    def lag_bytes(self) -> int:
        """The same in bytes, at most."""

    @property
    def lag_s(self) -> float:
        """For how long it has been."""

    @property
    def is_within_bound(self) -> bool:
        """Whether a write may be acknowledged, as far as the lag of an asynchronous peer goes."""

    async def near_enough(self) -> None:
        """Returns when it may."""

    def flushes(self, lsn: int) -> None:
        """A flush has begun of everything through ``lsn``."""

    async def covered(self, lsn: int) -> None:
        """A flush of everything through ``lsn`` may be acknowledged on return. ``Unavailable``: the log is closed meanwhile."""


WAIT_SAID_AFTER_S = 1.0
LSN_UNKNOWN = (1 << 63) - 1  # no log gets so far
ROOM_CHECK_S = 0.5  # waiting writers also look for room freed by other volumes of the node


class Volume:
    """Reads, writes, zeroes and flushes byte ranges of one volume's address space; made by the Volume Driver.

    The address space has no end here (up to 2^64 bytes); sizes are ``Region``'s.
    """

    def __init__(
        self,
        object_id: str,
        native: EngineVolume,
        fetcher: Fetcher,
        pump: CompletionPump,
        settings: VolumeDriverSettings,
        *,
        opening: str = "vpool volume open PATH",
        repair: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self.object_id = object_id
        self.native = native
        self.waiting_writers = 0
        self.mirror: MirrorOfLog | None = None
        self.handed_over_lsn: int | None = None  # where the log ends that a hand-over under way has sent
        self.left_at: tuple[int, int] | None = None  # (epoch, its last LSN), once another node owns it; None: it has none
        self.missed_clusters = 0  # of reads (and of writes that needed old content), fetched because they were not here
        self._stalled_since: float | None = None  # a writer waits at the limit since then, and the log says so
        self._fetcher = fetcher
        self._pump = pump
        self._settings = settings
        self._opening = opening  # the command that opens it again
        self._repair = repair or _nothing_to_repair  # what is only a cache is had anew; True if that was the matter
        self._held: trio.Event | None = None  # requests wait for it
        self._queue = trio.StrictFIFOLock()  # of those that are held back
        self._room = trio.Event()
        self._line = trio.Lock()  # of those that wait for room
        self._halted: str | None = None
        self._is_given_up = False  # there is no log under it any more
        self._is_exchanged = False  # held since the log under it may be closed
        self._holds_reads = False  # held for a hand-over; each of the two lasts until its own end
        self._has_moved = False  # to another node
        self._waits: set[trio.CancelScope] = set()  # within requests; a hand-over ends them

    async def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``; holes are zeros. Corrupt, Halted; Unavailable only after ``stall_s``."""
        if offset % CLUSTER + length > REQUEST_BYTES_MAX:
            return b"".join([await self.read(at, end - at) for at, end in _parts(offset, offset + length)])
        while True:
            if self._holds_reads:
                await self._parked()
            native = self.native
            try:
                result = native.read(offset, length)
                if isinstance(result, bytes):
                    return result
                data = await self._finish(native, result)
                assert isinstance(data, bytes)
                return data
            except VPoolError as error:
                await self.exchanged(native, error)

    async def write(self, offset: int, data: bytes) -> None:
        """Append a write; on return it is acknowledged (survives the death of the process), not yet flushed.

        Waits at the limits of the write cache. Halted, Corrupt (old content of a partly written cluster).
        """
        if offset % CLUSTER + len(data) > REQUEST_BYTES_MAX:
            view = memoryview(data)
            for at, end in _parts(offset, offset + len(data)):
                await self.write(at, bytes(view[at - offset : end - offset]))
            return
        await self._change(lambda native: native.write(offset, data))

    async def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros and give its space back. As ``write``."""
        await self._change(lambda native: native.zero(offset, length))

    async def flush(self) -> None:
        """On return everything acknowledged before the call is durable on this host, and at the DTL peer if flushes wait for it.

        Halted after a failed sync.
        """
        while True:
            native = await self._writable()
            try:
                return await self._flushed(native)
            except VPoolError as error:
                await self.exchanged(native, error)

    async def _flushed(self, native: EngineVolume) -> None:
        mirror = self.mirror
        if mirror is None:
            await self._pump.completed(native.submit_flush)
            return
        lsn = native.stats().lsn
        mirror.flushes(lsn)
        await self._pump.completed(native.submit_flush)
        await mirror.covered(lsn)

    async def here(self, offset: int) -> bytes | None:
        """A cluster, if no SCO has to be fetched for it (nodes of the map may be). Corrupt, Halted."""
        while True:
            native = self.native
            try:
                result = native.read(offset, CLUSTER)
                while isinstance(result, Plan):
                    if any(miss.kind == "sco" for miss in result.misses):
                        return None
                    await self.supply(result)
                    resumed = native.resume(result)
                    assert not isinstance(resumed, float)
                    result = resumed
            except VPoolError as error:
                await self.exchanged(native, error)
                continue
            return result

    async def replace(self, offset: int, sco: int, data: bytes | None) -> bool:
        """Where a cluster stands in ``sco`` now, write it anew (``data`` must be what it has been) or, with None, make it zeros.

        False: it is somewhere else; nothing has changed. As ``write``; Corrupt: ``data`` is not what the map says.
        """
        while True:
            native = await self._writable()
            try:
                try:
                    result = native.replace(offset, sco, data)
                except WouldBlock:
                    result = await self._when_room(partial(native.replace, offset, sco, data))
                if isinstance(result, Plan):
                    await self.supply(result)
                    continue
            except VPoolError as error:
                await self.exchanged(native, error)
                continue
            if result:
                await trio.sleep(result)
            return result is not None

    async def _writable(self) -> EngineVolume:
        """The log that takes a request now. Halted.

        Does not wait unless the log is being exchanged; those that were held back then go on in the order in which they came, and
        before whoever comes later.
        """
        if self._held is not None or self._queue.locked():
            if self._holds_reads:
                check_not_held()
            async with self._queue:
                await self._parked()
        if self._has_moved:
            raise self._moved()
        if self._halted is not None:
            raise Halted(self._halted, object=self.object_id)
        return self.native

    async def _change(self, request: Callable[[EngineVolume], float | Plan]) -> None:
        while True:
            native = await self._writable()
            result: bytes | float | Plan
            try:
                try:
                    result = request(native)
                except WouldBlock:
                    result = await self._when_room(partial(request, native))
                if isinstance(result, Plan):
                    result = await self._finish(native, result)
            except VPoolError as error:
                await self.exchanged(native, error)
                continue
            assert isinstance(result, float)
            if (mirror := self.mirror) is not None:
                mirror.wrote()
                if not mirror.is_within_bound:
                    await self._followed(mirror)
            return await self._delay(result) if result else None

    async def exchanged(self, native: EngineVolume, error: VPoolError) -> None:
        """Returns when a request that has failed is to be made anew: the log under it was closed, and had not taken it.

        Raises ``error`` when that is not why it failed.
        """
        if self._is_given_up:
            raise Halted(str(self._halted), object=self.object_id)
        if self._held is None and self.native is native and not self._has_moved and not await self._repair():
            raise error
        await self._parked()

    async def _parked(self) -> None:
        """Returns when requests are not held back. ``Moved``: they never will go on here. ``Held``: see ``giving_way``."""
        while self._held is not None:
            if self._holds_reads:
                check_not_held()
            await self._held.wait()
        if self._has_moved:
            raise self._moved()

    def _moved(self) -> Moved:
        return Moved("another node owns the volume now", object=self.object_id)

    def _check_log(self) -> None:
        """To be called before a request that had to wait touches the log again: one that is about to be closed takes no more."""
        if self._held is not None or self._has_moved:
            raise Unavailable("the log of the volume is being exchanged", object=self.object_id)

    async def ready(self) -> None:
        """Returns when requests are not held back."""
        while self._held is not None:
            await self._held.wait()

    def hold(self) -> None:
        """Keep requests back until ``go_on``. From now on the log under them takes nothing more; what it has is still read."""
        self._is_exchanged = True
        self._held = trio.Event() if self._held is None else self._held

    def hold_all(self) -> None:
        """As ``hold``, reads too, until ``release``. Who waits within a request waits outside of it; what is done is answered."""
        self._holds_reads = True
        self._held = trio.Event() if self._held is None else self._held
        for scope in self._waits:
            scope.cancel()
        self.room_freed()

    def move_away(self, epoch: int | None = None, first_lsn: int = 1) -> None:
        """Another node owns it: whoever waits, or comes, is told ``Moved``.

        ``epoch``: the last that was served here, from ``first_lsn`` on; None: an exchange had sent everything before.
        """
        self._has_moved = True
        if epoch is not None and (last_lsn := self._last_lsn()) >= first_lsn:
            self.left_at = epoch, last_lsn
        self._let_go()

    @property
    def has_moved(self) -> bool:
        """Whether another node owns it now: who has it open is to look where."""
        return self._has_moved

    async def sync_held(self) -> None:
        """Everything in the log is durable on return, while it is held. Halted."""
        await self._pump.completed(self.native.submit_flush)

    def go_on(self, native: EngineVolume) -> None:
        """Let requests go on with this log: the same content, wherever it is now.

        With the same log they go on waiting for the end of a hand-over that is under way; with another none can be.
        """
        self._is_exchanged = False
        if native is not self.native:
            self.native, self._halted = native, None
        elif self._holds_reads and not self._has_moved:
            return
        self._let_go()

    def release(self) -> None:
        """The hand-over has come to nothing: requests go on, unless the log is being exchanged."""
        self._holds_reads, self.handed_over_lsn = False, None
        if not self._is_exchanged:
            self._let_go()

    def _last_lsn(self) -> int:
        if self.handed_over_lsn is not None:
            return self.handed_over_lsn
        try:
            return self.native.stats().lsn
        except VPoolError as error:  # it is closed: then no log is known to have everything
            log.info("end_of_log_unknown", object=self.object_id, reason=str(error))
            return LSN_UNKNOWN

    def _let_go(self) -> None:
        self._holds_reads = False
        held, self._held = self._held, None
        if held is not None:
            held.set()
        self.room_freed()

    async def supply(self, plan: Plan) -> None:
        """Bring what a plan of somebody else (a survey) misses. Corrupt; Unavailable after ``stall_s``."""
        await self._fetcher.supply(plan)

    def halt(self, reason: str) -> None:
        """Refuse writes and flushes from now on; what can be read is still read."""
        self._halted = reason
        self.room_freed()

    def give_up(self, reason: str) -> None:
        """Refuse everything for good: the log has been given up, and whoever goes on is to attach anew."""
        self._is_given_up = True
        self.halt(reason)
        self._let_go()

    @property
    def halted(self) -> str | None:
        """Why it takes no writes, and what to do."""
        reason = self._halted or self.native.stats().halted
        return f"{reason}; once the cause is mended: {self._opening}" if reason else None

    def room_freed(self) -> None:
        """A head was committed: writers that wait for room try again."""
        self._room.set()
        self._room = trio.Event()

    async def _followed(self, mirror: MirrorOfLog) -> None:
        """A writer waits for an asynchronous peer that is too far behind; what it has written is in the log."""
        with Waiting(Phase.DELAY), self._wait_within():
            await mirror.near_enough()

    async def _delay(self, seconds: float) -> None:
        """What the soft limit asks of a writer."""
        with Waiting(Phase.DELAY), self._wait_within():
            await trio.sleep(seconds)

    @contextmanager
    def _wait_within(self) -> Iterator[None]:
        """A wait that ends early when the log is held for a hand-over."""
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                if self._holds_reads:
                    scope.cancel()
                yield
            finally:
                self._waits.discard(scope)

    async def _finish(self, native: EngineVolume, plan: Plan) -> bytes | float:
        """Bring what a plan misses until the engine can complete it."""
        result: bytes | float | Plan = plan
        while isinstance(result, Plan):
            waiting = result
            self.missed_clusters += sum(miss.length for miss in waiting.misses if miss.kind == "sco") // CLUSTER
            with Waiting(Phase.BACKEND), self._wait_within():
                await self._fetcher.supply(waiting)
            try:
                self._check_log()
                result = native.resume(waiting)
            except WouldBlock:
                result = await self._when_room(partial(native.resume, waiting))
        return result

    async def _when_room(self, attempt: Callable[[], T]) -> T:
        """Repeat an attempt whenever there may be room again; this is how a slow backend slows its writers.

        In order of arrival, and only the first in line tries: a thousand that wait cost no more than one.
        """
        began = trio.current_time()
        self.waiting_writers += 1
        try:
            with Waiting(Phase.ROOM):
                async with self._line:
                    return await self._first_in_line(attempt, began)
        finally:
            self.waiting_writers -= 1
            if not self.waiting_writers and self._stalled_since is not None:
                log.info("writers_go_on", object=self.object_id, stalled_s=round(trio.current_time() - self._stalled_since, 3))
                self._stalled_since = None

    async def _first_in_line(self, attempt: Callable[[], T], began: float) -> T:
        while True:
            if self._halted is not None:
                raise Halted(self._halted, object=self.object_id)
            freed = self._room
            self._check_log()
            try:
                return attempt()
            except WouldBlock:
                waited = trio.current_time() - began
                if self._stalled_since is None and waited > WAIT_SAID_AFTER_S:
                    self._stalled_since = began
                    log.info("writers_wait", object=self.object_id, writers=self.waiting_writers)
                if self._settings.stall_s is not None and waited > self._settings.stall_s:
                    raise Unavailable("the write cache is full, and no room comes", waited_s=round(waited)) from None
            with trio.move_on_after(ROOM_CHECK_S):
                await freed.wait()


async def _nothing_to_repair() -> bool:
    return False


def _parts(start: int, end: int) -> Iterator[tuple[int, int]]:
    """A range in pieces that the engine takes: cut at multiples of the longest request, so none touches a cluster too many."""
    while start < end:
        stop = min(end, (start // REQUEST_BYTES_MAX + 1) * REQUEST_BYTES_MAX)
        yield start, stop
        start = stop
