"""Why an object is in a bucket: what of a log's part of the backend is live, garbage, history, on its way, stale, foreign. Pure.

For people and tools that look; nothing is deleted on the strength of it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from engine import LineageEntry, xxh3
from registry import ObjectRecord
from vpool.errors import Corrupt

CLUSTER_BYTES = 4096
_NAME = re.compile(r"(sco|tlog|map)/([0-9a-f]{16})/([0-9a-f]{16})")
_ROOT_COUNTS = struct.Struct("<II")
_OBJECT = struct.Struct("<Q16sQQQ")


@dataclass(frozen=True, slots=True)
class Judgement:
    """One object: its class, and in words why."""

    what: str  # birth, sco, tlog, checkpoint, foreign
    state: str  # live, garbage, history, uploading, stale, unknown
    why: str


@dataclass(frozen=True, slots=True)
class MapObject:
    """A checkpoint object that the newest root refers to."""

    live_bytes: int
    bytes: int


@dataclass(slots=True)
class LogKnowledge:
    """What is known of a log when its objects are judged."""

    record: ObjectRecord
    lineage: list[LineageEntry] | None  # None: the log is not open here
    live: dict[int, int] = field(default_factory=dict)  # SCO number to clusters that the map uses now
    map_objects: dict[tuple[int, int], MapObject] = field(default_factory=dict)  # (epoch, number), of this log's own bucket
    chain: set[tuple[int, int]] = field(default_factory=set)  # (epoch, number) of TLogs that a restart without cache reads
    chain_scos: set[tuple[int, int]] = field(default_factory=set)  # (epoch, number) of SCOs that have one of them behind them
    is_dirty: bool = False  # something is not in the backend yet
    problem: str = ""  # why it is not open


def judge(name: str, size_bytes: int, known: LogKnowledge) -> Judgement:
    """``name`` without the log's prefix."""
    if name == "volume.json":
        return Judgement("birth", "live", "the birth record")
    match = _NAME.fullmatch(name)
    if match is None:
        return Judgement("foreign", "unknown", "no name that vPool gives")
    kind, epoch, number = match[1], int(match[2], 16), int(match[3], 16)
    if epoch > known.record.epoch or not epoch or not number:
        return Judgement(_what(kind), "unknown", f"of epoch {epoch}, which the registry does not know")
    if kind == "tlog":
        return _tlog(epoch, number, known)
    if kind == "map":
        return _map(epoch, number, known)
    return _sco(epoch, number, size_bytes, known)


def map_objects_of(root: bytes, object_id: str) -> dict[tuple[int, int], MapObject]:
    """The checkpoint objects in a log's own bucket that a root refers to (docs/formats/checkpoint.md). Corrupt."""
    if len(root) < 128 or xxh3(root[:-8]) != int.from_bytes(root[-8:], "little"):
        raise Corrupt("the checkpoint's root does not match its checksum")
    lineage, objects = _ROOT_COUNTS.unpack_from(root, 112)
    found = {}
    for index in range(objects):
        number, origin, epoch, live_bytes, size = _OBJECT.unpack_from(root, 120 + 32 * lineage + 48 * index)
        if origin.hex() == object_id:
            found[epoch, number] = MapObject(live_bytes, size)
    return found


def _what(kind: str) -> str:
    return {"map": "checkpoint"}.get(kind, kind)


def _tlog(epoch: int, number: int, known: LogKnowledge) -> Judgement:
    head = known.record.head
    if (epoch, number) in known.chain:
        return Judgement("tlog", "live", f"TLog {number} of epoch {epoch}: a restart without cache reads it")
    if head is not None and number <= head.checkpoint_tlog:
        return Judgement(
            "tlog", "history", f"TLog {number} of epoch {epoch}: the checkpoint includes TLog {head.checkpoint_tlog}"
        )
    return _beyond("tlog", f"TLog {number}", epoch, known)


def _beyond(what: str, name: str, epoch: int, known: LogKnowledge) -> Judgement:
    if epoch == known.record.epoch:
        return Judgement(what, "uploading", f"{name} of epoch {epoch}: the head has not passed it yet")
    return Judgement(what, "stale", f"{name} of epoch {epoch}: beyond where that epoch ended; never read")


def _map(epoch: int, number: int, known: LogKnowledge) -> Judgement:
    head = known.record.head
    root = head.checkpoint if head is not None else None
    used = known.map_objects.get((epoch, number))
    if root is not None and (epoch, number) == (root.epoch, root.object):
        includes = f"TLog {head.checkpoint_tlog}" if head is not None else ""
        return Judgement("checkpoint", "live", f"has the root of the newest checkpoint, as of {includes}")
    if used is not None:
        return Judgement("checkpoint", "live", f"{used.live_bytes} of {used.bytes} bytes are nodes of the newest checkpoint")
    if epoch == known.record.epoch and (root is None or root.epoch < epoch or number > root.object):
        return Judgement("checkpoint", "uploading", "of a checkpoint that the head does not name yet")
    return Judgement("checkpoint", "garbage", "no node of it is in the newest checkpoint")


def _sco(epoch: int, number: int, size_bytes: int, known: LogKnowledge) -> Judgement:
    head = known.record.head
    if head is None or number >= head.next_sco:
        return _beyond("sco", f"SCO {number}", epoch, known)
    if known.lineage is None:
        return Judgement("sco", "unknown", f"SCO {number} of epoch {epoch}: what is live is not known, {known.problem}")
    entry = next((entry for entry in reversed(known.lineage) if entry.first <= number), None)
    own = bytes.fromhex(known.record.id)
    if entry is None or entry.origin != own or entry.epoch != epoch:
        return Judgement("sco", "stale", f"SCO {number} of epoch {epoch}: the history has another SCO of that number; never read")
    clusters = size_bytes // CLUSTER_BYTES
    live = known.live.get(number, 0)
    with_tlog = " and a TLog behind them" if size_bytes % CLUSTER_BYTES else ""
    if live:
        return Judgement("sco", "live", f"the map uses {live} of its {clusters} clusters{with_tlog}")
    if (epoch, number) in known.chain_scos:
        return Judgement(
            "sco", "live", f"the map uses none of its {clusters} clusters, but a restart without cache reads its TLog"
        )
    replaced = "; what has replaced it may not be in the backend yet" if known.is_dirty else ""
    return Judgement("sco", "garbage", f"the map uses none of its {clusters} clusters{with_tlog}{replaced}")
