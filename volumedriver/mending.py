"""What is done about a SCO whose copy in the backend is damaged or gone: written again from a copy here, or known to be lost.

A cluster that the log or the read cache of this host still has is appended to the log as an ordinary entry, if it stands in that
SCO at that moment: so it gets a new name, no name is written twice, and no write of a client is undone. What nobody has is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import trio

from engine import CLUSTER
from volumedriver.survey import survey
from volumedriver.volume import Volume
from vpool.errors import Corrupt

CLUSTERS_AT_ONCE = 64  # between two checkpoints of the loop

Ranges = list[tuple[int, int]]  # (offset, length) in bytes


@dataclass(frozen=True, slots=True)
class Mended:
    """What came of a SCO's clusters."""

    rewritten: int  # clusters that have a new copy in the log
    moved: int  # clusters that stand elsewhere by now
    lost: Ranges  # neighbours together


async def mend(volume: Volume, sco: int, ranges: Iterable[tuple[int, int]]) -> Mended:
    """Write again what is here of ``ranges`` as far as it stands in ``sco``. Halted; Unavailable only after ``stall_s``."""
    rewritten = moved = 0
    lost: Ranges = []
    for count, offset in enumerate(_clusters(ranges)):
        if count % CLUSTERS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        data = await volume.here(offset)
        if data is None:
            if await stands_in(volume, offset, sco):
                _add(lost, offset)
            else:
                moved += 1
            continue
        try:
            done = await volume.replace(offset, sco, data)
        except Corrupt:  # it was overwritten between the two: what is here is not of that SCO
            done = False
        rewritten, moved = rewritten + done, moved + (not done)
    return Mended(rewritten, moved, lost)


async def give_up(volume: Volume, sco: int, ranges: Iterable[tuple[int, int]]) -> int:
    """Make zeros of what still stands in ``sco``; the number of clusters. Halted; Unavailable only after ``stall_s``."""
    zeroed = 0
    for count, offset in enumerate(_clusters(ranges)):
        if count % CLUSTERS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        zeroed += await volume.replace(offset, sco, None)
    return zeroed


async def stands_in(volume: Volume, offset: int, sco: int) -> bool:
    """Whether a cluster is in the SCO now."""
    found = await survey(volume, offset, offset + CLUSTER)
    return bool(await trio.to_thread.run_sync(found.ranges, sco))


def _clusters(ranges: Iterable[tuple[int, int]]) -> Iterable[int]:
    for start, length in ranges:
        yield from range(start - start % CLUSTER, start + length, CLUSTER)


def _add(ranges: Ranges, offset: int) -> None:
    if ranges and sum(ranges[-1]) == offset:
        ranges[-1] = (ranges[-1][0], ranges[-1][1] + CLUSTER)
    else:
        ranges.append((offset, CLUSTER))
