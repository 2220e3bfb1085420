"""What a log's own objects say, without its map: are all its SCOs whole, and would a restart find what it needs?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from engine import CLUSTER, TlogContents, TlogRef, crc32c, read_tlog
from registry import Head, TlogName
from volumedriver.checkpoint_objects import check_map_object, read_root
from volumedriver.fetch import DAMAGED_TRIES, pauses
from volumedriver.names import Place
from volumedriver.patrol_pace import Pace
from vpool.errors import Corrupt, NotFound

T = TypeVar("T")


async def scos_are_whole(pace: Pace, place: Place, start: TlogName, reached: Callable[[TlogName], Awaitable[None]]) -> bool:
    """Walk TLogs back from ``start`` and compare their SCOs as wholes. False: something is wrong, or cannot be told this way."""
    tlog: TlogName | None = start
    while tlog is not None:
        await reached(tlog)
        contents = await _read_tlog(pace, place, tlog)
        if contents is None:
            return False
        for sco in contents.scos:
            if sco.clusters and not await _is_whole(pace, place.sco(tlog.epoch, sco.number), place, sco.clusters, sco.crc):
                return False
        tlog = _name(contents.previous)
    return True


async def _is_whole(pace: Pace, name: str, place: Place, clusters: int, crc: int) -> bool:
    for _ in range(DAMAGED_TRIES):
        try:
            data = await pace.get(place, name, length=clusters * CLUSTER)
        except NotFound:
            return False
        if len(data) == clusters * CLUSTER and await trio.to_thread.run_sync(crc32c, data) == crc:
            return True
    return False


async def _read_tlog(pace: Pace, place: Place, tlog: TlogName) -> TlogContents | None:
    for _ in range(DAMAGED_TRIES):
        try:
            contents = await trio.to_thread.run_sync(read_tlog, await pace.get(place, place.tlog(tlog)))
        except NotFound:
            return None
        except Corrupt:
            continue
        return contents if contents.ref.checksum == tlog.checksum else None
    return None


@dataclass(frozen=True, slots=True)
class Wrong:
    """An object that a restart without the cache would not get."""

    place: Place
    name: str
    reason: str


@dataclass
class RestartPath:
    """The checkpoint with all objects that it refers to, and the TLogs behind it, up to a head."""

    pace: Pace
    place: Place
    place_of_origin: Callable[[bytes], Place]
    patience_s: float
    wrong: list[Wrong] = field(default_factory=list)

    async def look(self, head: Head) -> list[Wrong]:
        """What is damaged or missing of it."""
        root = head.checkpoint
        if root is not None:
            name = self.place.checkpoint(root)
            facts = await self._checked(self.place, name, read_root, start=root.offset, length=root.length)
            for each in facts.objects if facts is not None else ():
                place = self.place_of_origin(each.origin)
                await self._checked(place, place.map(each.epoch, each.number), check_map_object)
        tlog: TlogName | None = head.tlog
        while tlog is not None and tlog.number > head.checkpoint_tlog:
            contents = await self._checked(self.place, self.place.tlog(tlog), read_tlog)
            tlog = _name(contents.previous) if contents is not None else None
        return self.wrong

    async def _checked(
        self, place: Place, name: str, check: Callable[[bytes], T], *, start: int = 0, length: int | None = None
    ) -> T | None:
        began, pause, tries = trio.current_time(), pauses(), 0
        while True:
            try:
                data = await self.pace.get(place, name, start=start, length=length)
                return await trio.to_thread.run_sync(check, data)
            except Corrupt as error:
                tries += 1
                if tries == DAMAGED_TRIES:
                    self.wrong.append(Wrong(place, name, str(error)))
                    return None
            except NotFound:
                if trio.current_time() - began > self.patience_s:
                    self.wrong.append(Wrong(place, name, "the object is missing"))
                    return None
                await trio.sleep(pause())


def _name(ref: TlogRef | None) -> TlogName | None:
    return None if ref is None else TlogName(ref.epoch, ref.number, ref.combined_sco, ref.checksum)
