"""Reads every live cluster of a volume again, from each place that has it, and says what is damaged or lost.

A copy in the log on this host and the copy in the backend are both looked at; the read cache only where nothing else is left.
Nothing is changed. The volume serves meanwhile: what is overwritten while it is looked at is not judged.

Concurrency: one task looks addresses up, a few compare SCOs; what they share, counters and the list of objects that the backend
denied to have, is only added to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from backend import ObjectStore
from engine import CLUSTER, Survey, SurveyedSco, tlog_previous
from registry import ObjectRecord
from registry.model import TlogName
from volumedriver.fetch import DAMAGED_TRIES, pauses
from volumedriver.names import Place
from volumedriver.survey import survey
from volumedriver.volume import Volume
from vpool.errors import Corrupt, Denied, NotFound, Unavailable

SCOS_AT_ONCE = 4
READ_BYTES = 4 << 20

Ranges = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a verification has come."""

    position: int  # everything of the volume before this byte has been looked up
    size: int
    local_bytes: int  # compared in the log on this host
    backend_bytes: int  # compared in the backend
    waiting_for: str  # what it waits for just now; "" if for nothing


@dataclass(frozen=True, slots=True)
class Damage:
    """A range of the volume with a copy that is damaged or missing; or, without a range, something a restart needs."""

    offset: int
    length: int
    lost: bool  # no good copy is left: reading it is an error
    place: str  # "backend" or "local"
    bucket: str
    object: str
    reason: str


Event = Progress | Damage


@dataclass
class _Missing:
    """SCOs of one window that the backend denied to have; asked for again before that is believed.

    Only numbers are kept, and the window is looked up again: a bucket that is gone must not fill the memory.
    """

    offset: int
    end: int
    since: float
    numbers: list[int] = field(default_factory=list)


class Verification:
    """One run over one open volume; ``run`` once."""

    def __init__(
        self,
        volume: Volume,
        *,
        size: int,
        record: Callable[[], ObjectRecord],
        place: Callable[[bytes], Place],
        store: ObjectStore,
        patience_s: float,
        tell: Callable[[Event], Awaitable[None]],
    ) -> None:
        """``record``: the registry's, as of now. ``patience_s``: how long a 404 is not believed."""
        self._volume = volume
        self._size = size
        self._record = record
        self._place = place
        self._store = store
        self._patience_s = patience_s
        self._tell = tell
        self._missing: list[_Missing] = []
        self._position = 0
        self._local_bytes = 0
        self._backend_bytes = 0
        self._waiting_for = ""

    async def run(self) -> None:
        """Look at everything; ends when all is judged. Halted, Corrupt (the map itself cannot be read)."""
        while self._position < self._size:
            found = await survey(self._volume, self._position, self._size)
            missing = _Missing(self._position, found.position, trio.current_time())
            await self._scos(found, missing)
            if missing.numbers:
                self._missing.append(missing)
            self._position = found.position
            await self._progress()
        await self._restart_path()
        for missing in self._missing:
            await self._ask_again(missing)
        self._position = self._size
        await self._progress()

    async def _progress(self) -> None:
        await self._tell(Progress(self._position, self._size, self._local_bytes, self._backend_bytes, self._waiting_for))

    async def _scos(self, found: Survey, missing: _Missing) -> None:
        waiting = iter(await trio.to_thread.run_sync(found.scos))

        async def work() -> None:
            for sco in waiting:
                await self._sco(sco, found, missing)

        async with trio.open_nursery() as nursery:
            for _ in range(SCOS_AT_ONCE):
                nursery.start_soon(work)

    async def _sco(self, sco: SurveyedSco, found: Survey, missing: _Missing) -> None:
        wrong = await trio.to_thread.run_sync(found.check_local, sco.number)
        if wrong is not None:
            self._local_bytes += sco.clusters * CLUSTER
        head = self._record().head
        in_backend = head is not None and sco.number < head.next_sco
        if wrong:
            lost = not in_backend
            await self._damaged(sco, wrong, b"", lost=lost, place="local", reason="the copy in the log on this host is damaged")
        if not in_backend:
            return
        try:
            await self._compare(sco, found, is_only=wrong is None)
        except NotFound:
            missing.numbers.append(sco.number)
            missing.since = trio.current_time()
        await self._progress()

    async def _compare(self, sco: SurveyedSco, found: Survey, *, is_only: bool) -> None:
        """The copy in the backend. NotFound: it denies to have the object."""
        for tries_left in reversed(range(DAMAGED_TRIES)):
            data = await self._get(sco)
            wrong = await trio.to_thread.run_sync(found.check, sco.number, sco.first_slot, data)
            if not wrong:
                break
            if not tries_left:
                reason = "the object is damaged" if len(data) == sco.slots * CLUSTER else "the object is cut short"
                await self._damaged(sco, wrong, data, lost=is_only, place="backend", reason=reason)
        self._backend_bytes += sco.clusters * CLUSTER

    async def _get(self, sco: SurveyedSco) -> bytes:
        place = self._place(sco.origin)
        name = place.sco(sco.epoch, sco.number)
        return await self._fetch(place, name, start=sco.first_slot * CLUSTER, length=sco.slots * CLUSTER)

    async def _fetch(self, place: Place, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """A range of an object; an absent backend is waited for, and said. NotFound."""
        pause = pauses()
        while True:
            try:
                data = await self._store.get(place.bucket, name, start=start, length=length)
            except (Unavailable, Denied) as error:
                self._waiting_for = str(error)
                await self._progress()
                await trio.sleep(pause())
            else:
                self._waiting_for = ""
                return data

    async def _ask_again(self, missing: _Missing) -> None:
        """Until each is there, or the patience since the last denial is over."""
        pause = pauses()
        while missing.numbers:
            found = await survey(self._volume, missing.offset, missing.end)
            wanted = set(missing.numbers)
            scos = [sco for sco in await trio.to_thread.run_sync(found.scos) if sco.number in wanted]
            is_over = trio.current_time() - missing.since > self._patience_s
            missing.numbers = [sco.number for sco in scos if not await self._is_there(sco, found, is_over)]
            if missing.numbers:
                self._waiting_for = f"{len(missing.numbers)} objects which the backend says it does not have"
                await self._progress()
                await trio.sleep(pause())
                self._waiting_for = ""

    async def _is_there(self, sco: SurveyedSco, found: Survey, is_over: bool) -> bool:
        """Whether nothing more has to be asked: it is there, or it is told that it is missing."""
        is_only = await trio.to_thread.run_sync(found.check_local, sco.number) != []
        try:
            await self._compare(sco, found, is_only=is_only)
        except NotFound:
            if is_over:
                wrong = found.ranges(sco.number)
                await self._damaged(sco, wrong, b"", lost=is_only, place="backend", reason="the object is missing")
            return is_over
        return True

    async def _damaged(self, sco: SurveyedSco, wrong: Ranges, data: bytes, *, lost: bool, place: str, reason: str) -> None:
        """Tell of ranges that are still where they were; ``lost`` unless the read cache has them."""
        at = self._place(sco.origin)
        for offset, length in wrong:
            now = await survey(self._volume, offset, offset + length)
            for start, count in now.ranges(sco.number) if not data else now.check(sco.number, sco.first_slot, data):
                for part in range(start, start + count, READ_BYTES):
                    size = min(READ_BYTES, start + count - part)
                    gone = lost and await trio.to_thread.run_sync(self._not_here, part, size)
                    await self._tell(Damage(part, size, gone, place, at.bucket, at.sco(sco.epoch, sco.number), reason))

    def _not_here(self, offset: int, length: int) -> bool:
        try:
            return not isinstance(self._volume.native.read(offset, length), bytes)
        except Corrupt:
            return True

    async def _restart_path(self) -> None:
        """What a restart without the cache reads first: the checkpoint's root and the TLogs from there to the head."""
        record = self._record()
        head = record.head
        if head is None:
            return
        place = self._place(bytes.fromhex(record.id))
        root = head.checkpoint
        if root is not None:
            name = place.checkpoint(root)
            data = await self._needed(place, name, start=root.offset, length=root.length)
            if data is not None and data[-8:] != root.checksum.to_bytes(8, "little"):
                await self._tell(Damage(0, 0, False, "backend", place.bucket, name, "not the checkpoint that the registry names"))
        tlog: TlogName | None = head.tlog
        while tlog is not None and tlog.number > head.checkpoint_tlog:
            name = place.tlog(tlog)
            data = await self._needed(place, name)
            if data is None:
                return
            try:
                previous = tlog_previous(data)
            except Corrupt as error:
                await self._tell(Damage(0, 0, False, "backend", place.bucket, name, str(error)))
                return
            tlog = previous and TlogName(previous.epoch, previous.number, previous.combined_sco, previous.checksum)

    async def _needed(self, place: Place, name: str, *, start: int = 0, length: int | None = None) -> bytes | None:
        began, pause = trio.current_time(), pauses()
        while True:
            try:
                return await self._fetch(place, name, start=start, length=length)
            except NotFound:
                if trio.current_time() - began > self._patience_s:
                    reason = "the object is missing; a restart without the cache needs it"
                    await self._tell(Damage(0, 0, False, "backend", place.bucket, name, reason))
                    return None
            self._waiting_for = f"{name}, which the backend says it does not have"
            await self._progress()
            await trio.sleep(pause())
            self._waiting_for = ""
