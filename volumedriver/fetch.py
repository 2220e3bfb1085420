"""Ranges of objects from the backend, for requests that missed everything local.

The registry says that these objects exist, so a 404 is retried, not believed (Swift may not have them everywhere yet), and
an absent backend is waited for. Only when an object has been missing for ``lost_object_s``, or comes back damaged every
time, the request fails.

Concurrency: one ``Fetcher`` per node. A whole SCO is fetched at most once at a time: whoever wants it meanwhile waits for the
first. The table of those under way is changed only between awaits.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog
import trio

from backend import ObjectStore
from engine import CLUSTER, SCO_CLUSTERS, Engine, Miss, Plan
from volumedriver.names import Place
from volumedriver.settings import VolumeDriverSettings
from volumedriver.together import together
from vpool.errors import Corrupt, Denied, NotFound, Unavailable, VPoolError

log = structlog.get_logger()

SCO_BYTES = CLUSTER * SCO_CLUSTERS
MAP_BLOCK_BYTES = 64 << 10
MAP_BLOCKS = 128  # 8 MiB of checkpoint objects around what was asked for last
CROWD = 8  # ranges of one SCO in one plan from which on it is fetched whole: that many requests cost more than 4 MiB
DAMAGED_TRIES = 3  # a store that returns damaged bytes this often has damaged bytes
WAIT_SAID_AFTER_S = 2.0
PAUSE_S_FIRST = 0.05
PAUSE_S_MAX = 5.0

Reference = tuple[bytes, int, int]  # origin, epoch, number of a SCO


class _WholeSco:
    """A SCO under way from the backend; ``data`` stays empty when it did not come."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.data = b""
        self.done = trio.Event()


def pauses() -> Callable[[], float]:
    """Lengths of the waits between tries: doubling, with full jitter, bounded."""
    ceiling = PAUSE_S_FIRST

    def next_pause() -> float:
        nonlocal ceiling
        pause = random.uniform(ceiling / 2, ceiling)  # noqa: S311 (jitter)
        ceiling = min(ceiling * 2, PAUSE_S_MAX)
        return pause

    return next_pause


class Fetcher:
    """Brings what plans miss. ``places`` tells which bucket a volume's UUID stands for."""

    def __init__(
        self,
        store: ObjectStore,
        engine: Engine,
        settings: VolumeDriverSettings,
        places: Callable[[bytes], Place],
        background: trio.Nursery,
    ) -> None:
        self._store = store
        self._engine = engine
        self._settings = settings
        self.place = places
        self._background = background
        self._limit = trio.CapacityLimiter(settings.fetches)
        self._under_way: dict[Reference, _WholeSco] = {}
        self._expected: dict[Reference, int] = {}  # SCOs a sequential reader is expected to want next, and the offset to start at
        self._map_blocks: dict[tuple[Place, str, int], bytes] = {}
        self._caching = engine.stats().read_cache_bytes > 0
        self.lost: set[tuple[str, str]] = set()  # (bucket, name) of objects that are known to be gone: a 404 is believed at once

    def statistics(self) -> trio.CapacityLimiterStatistics:
        """Ranges under way, and those that wait for a place."""
        return self._limit.statistics()

    async def object(self, place: Place, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """A range of an object that must exist. Corrupt when it stays missing, Unavailable after ``stall_s``."""
        began = trio.current_time()
        pause = pauses()
        said = False
        while True:
            try:
                async with self._limit:
                    return await self._store.get(place.bucket, name, start=start, length=length)
            except NotFound as error:
                waited = trio.current_time() - began
                if (place.bucket, name) in self.lost:
                    raise Corrupt("an object is lost in the backend", bucket=place.bucket, object=name) from error
                if waited > self._settings.lost_object_s:
                    log.error("object_lost", bucket=place.bucket, object=name, waited_s=round(waited))
                    raise Corrupt("an object is missing in the backend", bucket=place.bucket, object=name) from error
            except (Unavailable, Denied) as error:  # an operator mends it; a guest need not know
                waited = trio.current_time() - began
                if self._settings.stall_s is not None and waited > self._settings.stall_s:
                    raise
                if not said and waited > WAIT_SAID_AFTER_S:
                    log.warning("backend_read_waits", bucket=place.bucket, object=name, reason=str(error))
                    said = True
            await trio.sleep(pause())

    async def supply(self, plan: Plan) -> None:
        """Fetch and hand over all misses of a plan."""
        by_object: dict[tuple[str, Reference], list[tuple[int, Miss]]] = {}
        for index, miss in enumerate(plan.misses):
            by_object.setdefault((miss.kind, _reference(miss)), []).append((index, miss))
        parts: list[Callable[[], Awaitable[None]]] = []
        for (kind, reference), misses in by_object.items():
            if kind == "sco" and self._caching and len(misses) >= CROWD:
                parts.append(partial(self._supply_crowd, plan, reference, misses))
            else:
                parts += [partial(self._supply_one, plan, index, miss) for index, miss in misses]
        if len(parts) == 1:
            await parts[0]()
        else:
            await together(parts)

    async def verified(self, place: Place, name: str, miss: Miss, accept: Callable[[bytes], None]) -> None:
        """Fetch exactly one range and hand it to ``accept``, which raises Corrupt when it is damaged; a few tries."""
        for tries_left in reversed(range(DAMAGED_TRIES)):
            try:
                data = await self.object(place, name, start=miss.offset, length=miss.length)
                if len(data) != miss.length:
                    raise Corrupt("an object is shorter than it was", bucket=place.bucket, object=name)
                accept(data)
            except Corrupt as error:
                log.warning("backend_range_damaged", bucket=place.bucket, object=name, offset=miss.offset, reason=str(error))
                if not tries_left:
                    raise
            else:
                return

    async def map_node(self, place: Place, miss: Miss, accept: Callable[[bytes], None]) -> None:
        """A node of a checkpoint. Its neighbours, which are likely to be wanted next, come with it and are kept for a while."""
        name = place.map(miss.epoch, miss.number)
        first, last = miss.offset // MAP_BLOCK_BYTES, (miss.offset + miss.length - 1) // MAP_BLOCK_BYTES
        blocks = [await self._map_block(place, name, miss, number) for number in range(first, last + 1)]
        start = miss.offset - first * MAP_BLOCK_BYTES
        data = b"".join(blocks)[start : start + miss.length]
        if len(data) == miss.length:
            try:
                return accept(data)
            except Corrupt as error:
                log.info("map_block_damaged", bucket=place.bucket, object=name, reason=str(error))
        for number in range(first, last + 1):
            self._map_blocks.pop((place, name, number), None)
        return await self.verified(place, name, miss, accept)

    async def _map_block(self, place: Place, name: str, miss: Miss, number: int) -> bytes:
        key = (place, name, number)
        data = self._map_blocks.pop(key, None)
        if data is None:
            data = await self.object(place, name, start=number * MAP_BLOCK_BYTES, length=MAP_BLOCK_BYTES)
        self._map_blocks[key] = data  # newest last
        while len(self._map_blocks) > MAP_BLOCKS:
            del self._map_blocks[next(iter(self._map_blocks))]
        return data

    async def _supply_one(self, plan: Plan, index: int, miss: Miss) -> None:
        place = self.place(miss.origin)
        if miss.kind == "map":
            await self.map_node(place, miss, partial(plan.supply, index))
            return
        if self._is_sequential(miss):
            self._begin_ahead(miss, place)
            if _supplied(plan, index, miss, await self._whole(_reference(miss), place)):
                return
        await self.verified(place, place.sco(miss.epoch, miss.number), miss, partial(plan.supply, index))

    async def _supply_crowd(self, plan: Plan, reference: Reference, misses: Sequence[tuple[int, Miss]]) -> None:
        """Serve what a plan misses all over one SCO from the whole of it; what cannot be, is fetched by itself."""
        origin, epoch, number = reference
        place = self.place(origin)
        data = await self._whole(reference, place)
        for index, miss in misses:
            if not _supplied(plan, index, miss, data):
                await self.verified(place, place.sco(epoch, number), miss, partial(plan.supply, index))

    def _is_sequential(self, miss: Miss) -> bool:
        """Whether this miss goes on where an earlier one ended; notes what would go on from here."""
        if not self._caching or self._settings.read_ahead_scos == 0:
            return False
        reference = _reference(miss)
        expected = self._expected.pop(reference, None)
        end = miss.offset + miss.length
        following = (miss.origin, miss.epoch, miss.number + 1) if end >= SCO_BYTES else reference
        self._expected[following] = 0 if end >= SCO_BYTES else end
        while len(self._expected) > 1024:
            self._expected.pop(next(iter(self._expected)))
        return reference in self._under_way or expected == miss.offset or (miss.offset == 0 and miss.length >= SCO_BYTES // 2)

    def _begin_ahead(self, miss: Miss, place: Place) -> None:
        """Fetch the SCOs behind a miss in the background."""
        for step in range(1, self._settings.read_ahead_scos + 1):
            ahead = (miss.origin, miss.epoch, miss.number + step)
            if ahead not in self._under_way and not self._engine.cache_has(*ahead, 0, 1):
                self._background.start_soon(self._read_ahead, self._begin(ahead), place)
        self._expected[(miss.origin, miss.epoch, miss.number + self._settings.read_ahead_scos + 1)] = 0

    async def _whole(self, reference: Reference, place: Place) -> bytes:
        """A whole SCO, which is in the read cache from then on; nothing when another task fetched it in vain."""
        whole = self._under_way.get(reference)
        if whole is not None:
            await whole.done.wait()
            return whole.data
        whole = self._begin(reference)
        _, epoch, number = reference
        try:
            whole.data = await self.object(place, place.sco(epoch, number), length=SCO_BYTES)
        finally:
            self._finish(whole)
        return whole.data

    async def _read_ahead(self, whole: _WholeSco, place: Place) -> None:
        """Best effort: what comes is a gain, what does not is fetched when it is asked for."""
        _, epoch, number = whole.reference
        try:
            async with self._limit:
                whole.data = await self._store.get(place.bucket, place.sco(epoch, number), length=SCO_BYTES)
        except VPoolError as error:
            log.debug("read_ahead_missed", bucket=place.bucket, number=number, reason=str(error))
        finally:
            self._finish(whole)

    def _begin(self, reference: Reference) -> _WholeSco:
        whole = self._under_way[reference] = _WholeSco(reference)
        return whole

    def _finish(self, whole: _WholeSco) -> None:
        del self._under_way[whole.reference]
        clusters = len(whole.data) // CLUSTER
        if clusters:
            self._engine.cache_insert(*whole.reference, 0, whole.data[: clusters * CLUSTER])
        whole.done.set()


def _reference(miss: Miss) -> Reference:
    return miss.origin, miss.epoch, miss.number


def _supplied(plan: Plan, index: int, miss: Miss, whole: bytes) -> bool:
    """Hand over a miss from the SCO it is in. False: it is not there, or damaged; the exact range, fetched again, will tell."""
    if len(whole) < miss.offset + miss.length:
        return False
    try:
        plan.supply(index, whole, 0)
    except Corrupt:
        return False
    return True
