"""Gathers what it takes to judge the objects of one log: the record, the open map, the newest checkpoint, the chain of TLogs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from backend import ObjectStore
from engine import tlog_previous
from registry import Head, ObjectKind, ObjectRecord, TlogName
from volumedriver.judging import LogKnowledge, map_objects_of
from volumedriver.names import Place
from volumedriver.region import VOLUME_META_OFFSET
from volumedriver.survey import survey
from volumedriver.volume import Volume
from vpool.errors import VPoolError

VOLUME_END = VOLUME_META_OFFSET + (1 << 20)  # behind the meta cluster and the mark of a filling
LOG_END = (1 << 64) - 1

Advance = Callable[[int, int], Awaitable[None]]


async def know(
    record: ObjectRecord, volume: Volume | None, place: Place, store: ObjectStore, *, problem: str, advance: Advance
) -> LogKnowledge:
    """Of a log; ``volume`` None: it is not open, because of ``problem``. ``advance`` is told how far the look at the map is.

    Corrupt, NotFound: an object that a restart needs is not right; Unavailable, Denied: the backend.
    """
    known = LogKnowledge(record, lineage=None, problem=problem)
    if record.head is not None:
        await _chain(record.head, known, place, store)
    if volume is not None:
        known.lineage = list(volume.native.lineage())
        known.is_dirty = volume.native.stats().dirty_bytes > 0
        await _live(volume, known, VOLUME_END if record.kind is ObjectKind.VOLUME else LOG_END, advance)
    return known


async def _live(volume: Volume, known: LogKnowledge, end: int, advance: Advance) -> None:
    position = 0
    while position < end:
        found = await survey(volume, position, end)
        for sco in await trio.to_thread.run_sync(found.scos):
            known.live[sco.number] = known.live.get(sco.number, 0) + sco.clusters
        position = max(found.position, position + 1)
        await advance(min(position, end), end)


async def _chain(head: Head, known: LogKnowledge, place: Place, store: ObjectStore) -> None:
    root = head.checkpoint
    if root is not None:
        data = await store.get(place.bucket, place.checkpoint(root), start=root.offset, length=root.length)
        known.map_objects = map_objects_of(data, known.record.id)
    tlog: TlogName | None = head.tlog
    while tlog is not None and (tlog == head.tlog or tlog.number > head.checkpoint_tlog):
        known.chain.add((tlog.epoch, tlog.number))
        if tlog.combined_sco:
            known.chain_scos.add((tlog.epoch, tlog.combined_sco))
        try:
            previous = tlog_previous(await store.get(place.bucket, place.tlog(tlog)))
        except VPoolError as error:
            known.problem = f"{known.problem}; {place.tlog(tlog)}: {error}".removeprefix("; ")
            return
        tlog = previous and TlogName(previous.epoch, previous.number, previous.combined_sco, previous.checksum)
