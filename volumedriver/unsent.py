"""What the logs in a cache directory have that the backend has not, looked at while they are closed. Blocks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from engine import CLUSTER, Engine, Recovery, TlogRef
from registry import Head, ObjectKind, ObjectState, RegistryView

UNREACHABLE = (ObjectState.ORPHAN, ObjectState.CONDEMNED)  # for an orphan: where it is not open
LEVELS = {ObjectKind.VOLUME: 4, ObjectKind.FILE_LOG: 5}


@dataclass(frozen=True, slots=True)
class StillDirty:
    """What only the cache of this host has."""

    object: str
    bytes: int
    reason: str  # why the backend has not got it


def look_at(engine: Engine, object_id: str, levels: int, head: Head | None) -> Recovery:
    """What is local of one object's log, given its head."""
    reference, next_sco = (None, 1)
    if head is not None:
        tlog = head.tlog
        reference, next_sco = TlogRef(tlog.epoch, tlog.number, tlog.combined_sco, tlog.checksum), head.next_sco
    return engine.recover(bytes.fromhex(object_id), levels=levels, head=reference, head_next_sco=next_sco)


def unsent(engine: Engine, view: RegistryView, node_id: str, *, but: Collection[str] = ()) -> list[StillDirty]:
    """All logs with something that their head does not cover, or that cannot be judged. Nothing is changed.

    ``but``: objects that are not looked at, because they are open. What nobody can reach does not count, nor what another
    node owns, of which a copy is here.
    """
    found = []
    for volume in engine.logs():
        record = view.object(volume.hex())
        if record is None or record.owner not in ("", node_id):
            continue
        if record.id in but or record.kind not in LEVELS or record.state in UNREACHABLE:
            continue
        recovery = look_at(engine, record.id, LEVELS[record.kind], record.head)
        if recovery.damage is not None:
            found.append(StillDirty(record.id, recovery.tail_clusters * CLUSTER, f"its log is damaged: {recovery.damage}"))
        elif recovery.tail_segments:
            found.append(StillDirty(record.id, recovery.tail_clusters * CLUSTER, "its log is closed, and was not sent before"))
    return found
