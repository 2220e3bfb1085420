"""Tells the registry what owners have kept to themselves, many objects in one command: sizes, times, handles given back.

Nothing waits for it: what is not told yet is in the object's log, and the registry knows (by a handle) that it has to be looked
up there if this node dies.

Concurrency: what a command says of an object is decided, and the object marked as told, in the moment in which the command gets
its place in the order of commands; an await between would let a later change be marked with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
import trio

from objectrouter.active import Active
from registry import ObjectRecord, RegistryClient, Settle, Settlement, error_of
from vpool.errors import NotFound, VPoolError

log = structlog.get_logger()

SETTLE_S = 2.0
SETTLED_AT_ONCE = 256
LOOKS_AT_ONCE = 32  # at how much of one object's map; the rest is counted the next time
LACKING_MAX = 4096  # objects that wait for parts of their map; what further ones take is estimated
COUNTED_BYTES_MAX = 1 << 30  # the map of what is larger is not fetched only to be counted


class Settler:
    """See above; ``epoch_of`` tells under which epoch an object is written now."""

    def __init__(self, registry: RegistryClient, epoch_of: Callable[[ObjectRecord], int]) -> None:
        self._registry = registry
        self._epoch_of = epoch_of
        self._let_go: dict[str, ObjectRecord] = {}
        self._waiting = 0
        self._many = trio.Event()
        self._lacking: dict[Active, None] = {}  # in the order in which their maps are fetched
        self._lacks = trio.Event()

    def released(self) -> None:
        """An object has lost its last handle; when many have, they are not kept waiting."""
        self._waiting += 1
        if self._waiting >= SETTLED_AT_ONCE:
            self._many.set()

    def let_go(self, record: ObjectRecord) -> None:
        """An object has neither name nor handle any more: the registry is to take back the handle of this node."""
        self._let_go[record.id] = record
        self.released()

    async def pause(self) -> None:
        """Until it is time to settle."""
        with trio.move_on_after(SETTLE_S):
            await self._many.wait()
        self._many = trio.Event()
        self._waiting = 0

    async def settle_let_go(self) -> bool:
        """Give back the handles of what is gone; True if there was any."""
        gone, self._let_go = self._let_go, {}
        records = list(gone.values())
        for at in range(0, len(records), SETTLED_AT_ONCE):
            settlements = [Settlement(record.id, 0, close=1) for record in records[at : at + SETTLED_AT_ONCE]]
            await self._submit(settlements, None)
        return bool(records)

    async def bring_maps(self) -> None:
        """Fetch what counts lack, one after the other, for ever: nothing else waits for the backend in here."""
        while True:
            await self._lacks.wait()
            self._lacks = trio.Event()
            while self._lacking:
                active = next(iter(self._lacking))
                try:
                    while active.region.lacks_map:
                        await active.region.bring_map()
                        active.count()
                except VPoolError as error:
                    log.info("not_counted", object=active.record.id, reason=str(error))
                    active.estimate()
                del self._lacking[active]
                active.awaits_map = False

    async def settle(self, actives: Iterable[Active]) -> None:
        """Publish these, and give back the handles of those that nobody holds; returns when that is durable."""
        batch: list[Active] = []
        for active in actives:
            batch.append(active)
            if len(batch) == SETTLED_AT_ONCE:
                await self._settle(batch)
                batch = []
        if batch:
            await self._settle(batch)

    async def _settle(self, batch: list[Active]) -> None:
        for active in batch:
            if active.region.unpublished or active.uncounted:
                await self._count(active)
        told: list[Active] = []
        settlements: list[Settlement] = []
        for active in batch:
            if active.region.unpublished:
                active.count()  # again, with what was written while others were counted
            # A next life would go on with the count of what stays open: cheap for a file, not worth opening a volume for.
            close = active.registered and not active.handles and (active.is_volume or not active.uncounted)
            if not (active.unpublished or close):
                continue
            try:
                settlements.append(self._settlement(active, close))
            except NotFound:  # closed by its driver meanwhile
                continue
            told.append(active)
            active.region.unpublished = active.read_since = active.recounted = False
            active.settling += 1
            if close:
                active.registered = False
        if not settlements:
            return
        try:
            await self._submit(settlements, told)
        finally:
            for active in told:
                active.settling -= 1

    async def _count(self, active: Active) -> None:
        """How much the content takes, as far as some looks at the map tell; others get on between them."""
        for _ in range(LOOKS_AT_ONCE):
            active.count()
            if not active.region.counting:
                break
            await trio.lowlevel.checkpoint()
        if not active.region.lacks_map or active.awaits_map:
            return
        if active.region.size > COUNTED_BYTES_MAX:
            return  # what was counted last stays: nobody asked for its map, which may be gigabytes
        if len(self._lacking) >= LACKING_MAX:
            active.estimate()
            return
        active.awaits_map = True
        self._lacking[active] = None
        self._lacks.set()

    def _settlement(self, active: Active, close: bool) -> Settlement:
        region, changed = active.region, active.region.unpublished
        return Settlement(
            active.record.id,
            self._epoch_of(active.record),
            size=region.size if changed and not active.is_volume else None,
            mtime_ns=region.mtime_ns if changed else None,
            ctime_ns=region.ctime_ns if changed else None,
            atime_ns=active.atime_ns if active.read_since else None,
            allocated=active.allocated if changed or active.recounted else None,
            close=1 if close else 0,
        )

    async def _submit(self, settlements: list[Settlement], told: list[Active] | None) -> None:
        sizes = [settlement.size for settlement in settlements]
        try:
            results = await self._registry.submit(Settle(tuple(settlements)))
        except VPoolError as error:
            log.warning("not_settled", objects=len(settlements), reason=str(error))
            for active in told or ():
                active.region.unpublished = True
            return
        for number, settled in enumerate(results):
            if told is None:
                continue
            size = sizes[number]
            if settled.error is None and size is not None:
                told[number].published_size = size
            elif settled.error is not None and settled.error.kind != "NotFound":
                told[number].region.unpublished = True
                log.info("not_published", object=settled.object, reason=str(error_of(settled.error)))
