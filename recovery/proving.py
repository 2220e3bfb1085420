"""Reads what proves a log's history out of the backend: TLogs, their SCOs, checkpoints.

Concurrency: requests of one log run side by side within the ``limit`` that all logs of a recovery share.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from backend import ObjectStore
from engine import CLUSTER, TlogContents, crc32c, read_tlog
from recovery.history import ScoFact, TlogFact, beginnings, fact_of, furthest
from recovery.listing import LogListing, Numbered
from registry import Head, RootName, TlogName
from volumedriver import TRAILER_BYTES, Place, read_root, read_trailer
from vpool.errors import Corrupt, NotFound, VPoolError

TRIES = 3
COMBINED_TRAILER = struct.Struct("<QQ8s")
COMBINED_MAGIC = b"vPoolCMB"

T = TypeVar("T")


@dataclass(slots=True)
class Proof:
    """What the objects of one log prove."""

    head: Head | None  # the furthest that is proven; None: nothing is in the backend
    tlogs_walked: int = 0  # beyond the head that was known
    tlogs_beyond: int = 0  # that cannot be used, because something before or of them is missing or damaged
    bytes_checked: int = 0
    problems: list[str] = field(default_factory=list)
    contents: list[TlogContents] = field(default_factory=list)  # of the TLogs walked, oldest first, where asked for
    epochs: dict[int, int] = field(default_factory=dict)  # of the SCOs of those TLogs, by number


@dataclass(slots=True)
class _Reading:
    facts: list[TlogFact] = field(default_factory=list)
    contents: dict[TlogName, TlogContents] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Prover:
    """Looks into one log; see ``prove``."""

    def __init__(self, store: ObjectStore, place: Place, listing: LogListing, limit: trio.CapacityLimiter) -> None:
        self._store = store
        self._place = place
        self._listing = listing
        self._limit = limit

    async def prove(self, known: Head | None, epoch: int, *, keep_contents: bool) -> Proof:
        """The furthest head from ``known`` on, which the registry had when the log's epoch was ``epoch``.

        Without anything known (epoch 0) the whole log is read. Unavailable, Denied.
        """
        first_tlog = known.tlog.number + 1 if known is not None else 1
        first_sco = known.next_sco if known is not None else 1
        wanted = [key for key in sorted(self._listing.tlogs) if key[1] >= first_tlog and key[0] >= epoch]
        reading = _Reading()
        await self._each(wanted, lambda key: self._read(reading, self._place.tlog(TlogName(*key, 0, 0)), None))
        likely = [key for key, size in self._listing.scos.items() if size % CLUSTER and key[1] >= first_sco and key[0] >= epoch]
        await self._each(likely, lambda key: self._read_combined(reading, key))
        way = await self._way(reading, known, epoch)
        proof = Proof(known, problems=reading.problems)
        if known is not None:
            await self._look_at_known(known, reading.problems)
        good = await self._with_right_scos(way, proof)
        proof.tlogs_walked, proof.tlogs_beyond = len(good), len(way) - len(good)
        if keep_contents:
            proof.contents = [reading.contents[fact.name] for fact in good]
            proof.epochs = {sco.number: fact.name.epoch for fact in good for sco in fact.scos}
        await self._set_head(proof, good, known)
        return proof

    async def _look_at_known(self, known: Head, problems: list[str]) -> None:
        """Without its own TLog a head cannot be opened; that is no reason to go back, but to be told."""
        name = self._place.tlog(known.tlog)

        async def load() -> bool:
            contents = await trio.to_thread.run_sync(read_tlog, await self._get(name))
            if fact_of(contents).name != known.tlog:
                raise Corrupt("this is not the TLog of the head", object=name)
            return True

        await self._tried(load, name, problems)

    async def _way(self, reading: _Reading, known: Head | None, epoch: int) -> list[TlogFact]:
        """The TLogs that count; a combined one whose size looked like a SCO's is found where the way seems to end."""
        while True:
            starts = [known.tlog] if known is not None else beginnings(reading.facts)
            ways = [furthest(reading.facts, start, epoch) for start in starts]
            way = max(ways, key=lambda way: (way[-1].name.epoch, way[-1].name.number) if way else (0, 0), default=[])
            next_sco = way[-1].next_sco if way else known.next_sco if known is not None else 1
            more = [
                key for key, size in self._listing.scos.items() if key[1] == next_sco and size % CLUSTER == 0 and key[0] >= epoch
            ]
            before = len(reading.facts)
            await self._each(more, lambda key: self._read_combined(reading, key))
            if len(reading.facts) == before:
                return way

    async def _set_head(self, proof: Proof, good: list[TlogFact], known: Head | None) -> None:
        names = {fact.name: fact for fact in good}
        covered = {(name.epoch, name.number) for name in names}
        if known is not None:
            covered.add((known.tlog.epoch, known.tlog.number))
        starts_at = good[0].previous if good else None
        if known is None and starts_at is not None:
            covered.add((starts_at.epoch, starts_at.number))
        checkpoint_tlog = known.checkpoint_tlog if known is not None else 0
        root = await self._newest_root(covered, checkpoint_tlog, proof)
        if good and known is None and starts_at is not None and root is None:
            proof.problems.append(f"the log's first TLogs are gone ({starts_at}), and no checkpoint covers them")
            proof.tlogs_beyond, proof.tlogs_walked = proof.tlogs_beyond + len(good), 0
            return
        tlog, next_sco = (good[-1].name, good[-1].next_sco) if good else (known.tlog, known.next_sco) if known else (None, 0)
        if tlog is None:
            return
        if root is not None:
            proof.head = Head(tlog, next_sco, root[0], root[1])
        elif known is not None:
            proof.head = Head(tlog, next_sco, known.checkpoint, known.checkpoint_tlog)
        else:
            proof.head = Head(tlog, next_sco, None, 0)

    # -- TLogs and SCOs ----------------------------------------------------------------------------------------------------

    async def _read(self, reading: _Reading, name: str, start: int | None) -> None:
        async def load() -> TlogContents:
            data = await self._get(name, start=start or 0)
            return await trio.to_thread.run_sync(read_tlog, data)

        contents = await self._tried(load, name, reading.problems)
        if contents is None:
            return
        fact = fact_of(contents)
        if self._place.tlog(fact.name) != name:
            reading.problems.append(f"{name} has a TLog of another name in it ({fact.name})")
            return
        if fact.name not in reading.contents:
            reading.contents[fact.name] = contents
            reading.facts.append(fact)

    async def _read_combined(self, reading: _Reading, key: Numbered) -> None:
        name, size = self._place.sco(*key), self._listing.scos[key]
        if size < COMBINED_TRAILER.size:
            return
        try:
            trailer = await self._get(name, start=size - COMBINED_TRAILER.size)
        except NotFound as error:
            reading.problems.append(f"{name} was listed, but is not there: {error}")
            return
        data_bytes, tlog_bytes, magic = COMBINED_TRAILER.unpack(trailer) if len(trailer) == COMBINED_TRAILER.size else (0, 0, b"")
        if magic == COMBINED_MAGIC and data_bytes + tlog_bytes + COMBINED_TRAILER.size == size:
            await self._read(reading, name, data_bytes)

    async def _with_right_scos(self, way: list[TlogFact], proof: Proof) -> list[TlogFact]:
        """The TLogs up to the first one with a SCO that is missing or damaged."""
        wrong: dict[TlogName, str] = {}

        async def check(fact: TlogFact, sco: ScoFact) -> None:
            name = self._place.sco(fact.name.epoch, sco.number)
            found: list[str] = []

            async def load() -> bool:
                data = await self._get(name, length=sco.clusters * CLUSTER)
                if len(data) != sco.clusters * CLUSTER or await trio.to_thread.run_sync(crc32c, data) != sco.crc:
                    raise Corrupt("a SCO is not what its TLog says", object=name)
                return True

            if await self._tried(load, name, found):
                proof.bytes_checked += sco.clusters * CLUSTER
            else:
                wrong[fact.name] = found[-1]

        await self._each([(fact, sco) for fact in way for sco in fact.scos], lambda pair: check(*pair))
        for index, fact in enumerate(way):
            if fact.name in wrong:
                proof.problems.append(wrong[fact.name])
                return way[:index]
        return way

    # -- checkpoints -------------------------------------------------------------------------------------------------------

    async def _newest_root(self, covered: set[Numbered], beyond: int, proof: Proof) -> tuple[RootName, int] | None:
        """The newest checkpoint that includes one of the ``covered`` TLogs, of a number greater than ``beyond``."""
        epochs = {epoch for epoch, _ in covered}
        for key in sorted(self._listing.maps, reverse=True):
            if epochs and key[0] < min(epochs):
                return None
            found: list[str] = []
            root = await self._tried(lambda key=key: self._root_of(key), self._place.map(*key), found)  # type: ignore[misc]
            proof.problems += found
            if root is not None and root[1] in covered and root[1][1] > beyond:
                return root[0], root[1][1]
        return None

    async def _root_of(self, key: Numbered) -> tuple[RootName, Numbered] | None:
        """The root in a checkpoint's object, if it has one whose objects are all there, and the TLog that it includes."""
        name, size = self._place.map(*key), self._listing.maps[key]
        trailer = read_trailer(await self._get(name, start=max(0, size - TRAILER_BYTES)))
        if not trailer.root_at:
            return None
        facts = read_root(await self._get(name, start=trailer.root_at, length=trailer.index_at - trailer.root_at))
        for needed in facts.objects:
            if needed.origin == facts.volume and (needed.epoch, needed.number) not in self._listing.maps:
                raise Corrupt("an object that a checkpoint needs is missing", object=self._place.map(needed.epoch, needed.number))
        root = RootName(key[0], key[1], trailer.root_at, trailer.index_at - trailer.root_at, facts.checksum)
        return root, (facts.tlog_epoch, facts.tlog_number)

    # -- requests ----------------------------------------------------------------------------------------------------------

    async def _get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        async with self._limit:
            return await self._store.get(self._place.bucket, name, start=start, length=length)

    async def _tried(self, load: Callable[[], Awaitable[T]], name: str, problems: list[str]) -> T | None:
        """What ``load`` gives; a few tries, since what comes damaged may be right where it lies. None: noted as a problem."""
        for left in reversed(range(TRIES)):
            try:
                return await load()
            except (Corrupt, NotFound) as error:
                if not left:
                    problems.append(f"{name}: {error}")
        return None

    async def _each(self, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
        await side_by_side(items, work, int(self._limit.total_tokens))


async def side_by_side(items: Iterable[T], work: Callable[[T], Awaitable[None]], limit: int) -> None:
    """Do the work for each item, at most ``limit`` at a time. The first error ends it and is raised as it is."""
    places = trio.Semaphore(limit)
    failed: list[VPoolError] = []

    async def one(item: T) -> None:
        try:
            await work(item)
        except VPoolError as error:
            failed.append(error)
            nursery.cancel_scope.cancel()
        finally:
            places.release()

    async with trio.open_nursery() as nursery:
        for item in items:
            await places.acquire()
            nursery.start_soon(one, item)
    if failed:
        raise failed[0]
