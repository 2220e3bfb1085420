"""What a log of files says about its files: which were made, changed or erased since a namespace was written down.

Every file has a meta cluster in its region (docs/formats/volume-json.md), written whenever its size changes and cleared, durably,
before its record is dropped. So the last thing that happened to a meta cluster tells whether the file is there; in layout 2 it
also tells which file it is, because addresses are given again. Pure but for ``read_metas``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from engine import CLUSTER, TlogContents
from registry import ObjectRecord
from volumedriver import FILE_BYTES_MAX, LAYOUT_NAMED, LAYOUT_PLAIN, MetaCluster
from vpool.errors import Corrupt

REGION_CLUSTERS = FILE_BYTES_MAX // CLUSTER + 1
ZEROED_REGIONS_MAX = 1 << 20  # of one entry: an erasure is of one file
_META_AT = {LAYOUT_PLAIN: REGION_CLUSTERS - 1, LAYOUT_NAMED: 0}  # clusters from the region's beginning


@dataclass(frozen=True, slots=True)
class MetaKey:
    """A meta cluster: layouts 1 and 2 have theirs at different places of a region."""

    address: int
    layout: int


@dataclass(frozen=True, slots=True)
class MetaPlace:
    """Where a meta cluster stands."""

    sco: int
    slot: int


@dataclass(frozen=True, slots=True)
class FileFinding:
    """A file that the namespace does not know, or (``found`` False) that it knows though it is gone."""

    log: str
    address: int
    found: bool
    layout: int = LAYOUT_PLAIN
    object_id: str = ""  # "" in layout 1, which does not say
    size: int = 0
    changed_ns: int = 0


def meta_changes(history: Iterable[TlogContents]) -> dict[MetaKey, MetaPlace | None]:
    """Where meta clusters were last written, or None where they were cleared after that. In log order."""
    changes: dict[MetaKey, MetaPlace | None] = {}
    for tlog in history:
        for record in tlog.records():
            for layout, at in _META_AT.items():
                for address in _regions_with(record.lba, record.clusters, at):
                    slot = record.slot + address * REGION_CLUSTERS + at - record.lba
                    changes[MetaKey(address, layout)] = MetaPlace(record.number, slot) if record.number else None
    return changes


async def read_metas(
    changes: dict[MetaKey, MetaPlace | None], read: Callable[[int, int, int], Awaitable[bytes]]
) -> dict[MetaKey, MetaCluster | None]:
    """What the meta clusters say; None: cleared, or no meta cluster of its layout. ``read``: (SCO, first slot, slots) → bytes."""
    by_sco: dict[int, list[tuple[MetaKey, int]]] = {}
    said: dict[MetaKey, MetaCluster | None] = {}
    for key, place in changes.items():
        if place is None:
            said[key] = None
        else:
            by_sco.setdefault(place.sco, []).append((key, place.slot))
    for sco, wanted in by_sco.items():
        first, last = min(slot for _, slot in wanted), max(slot for _, slot in wanted)
        data = await read(sco, first, last - first + 1)
        for key, slot in wanted:
            said[key] = _decoded(data[(slot - first) * CLUSTER : (slot - first + 1) * CLUSTER], key.layout)
    return said


def judge_files(log: str, said: dict[MetaKey, MetaCluster | None], at: Callable[[int], ObjectRecord | None]) -> list[FileFinding]:
    """What differs from the namespace. ``at``: the file that it has at an address of the log."""
    findings: list[FileFinding] = []
    for address in sorted({key.address for key in said}):
        known = at(address)
        keep = False
        if known is not None:
            key = MetaKey(address, known.layout)
            meta = said.get(key)
            gone = key in said and (meta is None or meta.object_id not in ("", known.id))
            if gone:
                findings.append(FileFinding(log, address, found=False))
            keep = not gone
        if keep:
            continue
        for layout in (LAYOUT_NAMED, LAYOUT_PLAIN):
            meta = said.get(MetaKey(address, layout))
            if meta is not None:
                findings.append(FileFinding(log, address, True, layout, meta.object_id, meta.size, meta.changed_ns))
                break
    return findings


def _regions_with(lba: int, clusters: int, at: int) -> range:
    """Addresses whose cluster ``at`` is in a range."""
    first = -((at - lba) // REGION_CLUSTERS)
    end = -((at - lba - clusters) // REGION_CLUSTERS)
    return range(max(0, first), max(0, min(end, first + ZEROED_REGIONS_MAX)))


def _decoded(cluster: bytes, layout: int) -> MetaCluster | None:
    """None for what only stands where the other layout has its meta cluster."""
    try:
        meta = MetaCluster.decode(cluster)
    except Corrupt:
        return None
    return meta if meta is not None and bool(meta.object_id) == (layout == LAYOUT_NAMED) else None
