"""What a cache directory has that the backend has not, looked at while no daemon runs. Blocks."""

from __future__ import annotations

from engine import CLUSTER, Engine, Recovery, TlogRef
from registry import Head, ObjectKind, ObjectState, RegistryView
from volumedriver.exchange import StillDirty

LEVELS = {ObjectKind.VOLUME: 4, ObjectKind.FILE_LOG: 5}


def look_at(engine: Engine, object_id: str, levels: int, head: Head | None) -> Recovery:
    """What is local of one object's log, given its head."""
    reference, next_sco = (None, 1)
    if head is not None:
        tlog = head.tlog
        reference, next_sco = TlogRef(tlog.epoch, tlog.number, tlog.combined_sco, tlog.checksum), head.next_sco
    return engine.recover(bytes.fromhex(object_id), levels=levels, head=reference, head_next_sco=next_sco)


def unsent(engine: Engine, view: RegistryView) -> list[StillDirty]:
    """All logs with something that their head does not cover, or that cannot be judged. Nothing is changed."""
    found = []
    for volume in engine.logs():
        record = view.object(volume.hex())
        if record is None or record.kind not in LEVELS or record.state is ObjectState.CONDEMNED:
            continue
        recovery = look_at(engine, record.id, LEVELS[record.kind], record.head)
        if recovery.damage is not None:
            found.append(StillDirty(record.id, recovery.tail_clusters * CLUSTER, f"its log is damaged: {recovery.damage}"))
        elif recovery.tail_segments:
            found.append(StillDirty(record.id, recovery.tail_clusters * CLUSTER, "it was not sent before the daemon ended"))
    return found
