"""What TLogs of a log of files say about its files: which were made, changed or erased since a namespace was written down. Pure.

Every file has a meta cluster at the end of its region (docs/formats/volume-json.md), written whenever its size changes and
cleared, durably, before its record is dropped. So the last thing that happened to a meta cluster tells whether its file is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine import CLUSTER, TlogContents
from volumedriver import FILE_BYTES_MAX

REGION_CLUSTERS = FILE_BYTES_MAX // CLUSTER + 1
ZEROED_REGIONS_MAX = 1 << 20  # of one entry: an erasure is of one file


@dataclass(frozen=True, slots=True)
class MetaPlace:
    """Where a meta cluster stands."""

    number: int  # of the SCO
    slot: int


def meta_changes(history: Iterable[TlogContents]) -> dict[int, MetaPlace | None]:
    """By address: where its meta cluster was last written, or None if it was cleared after that. In log order."""
    changes: dict[int, MetaPlace | None] = {}
    for tlog in history:
        for record in tlog.records():
            for address in _metas_within(record.lba, record.clusters):
                meta = meta_lba(address)
                changes[address] = MetaPlace(record.number, record.slot + meta - record.lba) if record.number else None
    return changes


def meta_lba(address: int) -> int:
    """Where a file's meta cluster is in the log's address space."""
    return (address + 1) * REGION_CLUSTERS - 1


def _metas_within(lba: int, clusters: int) -> range:
    """Addresses whose meta clusters are in a range."""
    return range(lba // REGION_CLUSTERS, min((lba + clusters) // REGION_CLUSTERS, lba // REGION_CLUSTERS + ZEROED_REGIONS_MAX))
