"""What a node of a cluster makes of the log that it finds of an object: a lost one is not taken for an empty one."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from engine import Engine
from registry import Dtl, DtlState, ObjectKind, ObjectRecord, ObjectState
from volumedriver import LogNotes
from volumedriver.local_choice import LocalChoice
from vpool.errors import Unavailable

OBJECT = "0" * 32


def record(owner: str, dtl: Dtl) -> ObjectRecord:
    return ObjectRecord(OBJECT, ObjectKind.VOLUME, ObjectState.LIVE, owner, 3, None, None, 4096, 2, 0, "", "", dtl=dtl)


async def test_a_lost_log_whose_peer_is_in_sync_is_not_opened_from_the_backend(tmp_path: Path) -> None:
    """If this fails, another disk in a host loses silently what its peer has."""
    notes = LogNotes(tmp_path / "notes")
    choice = LocalChoice(notes, cast(Engine, None), "me")
    in_sync = Dtl(DtlState.IN_SYNC, "peer", 4)
    with pytest.raises(Unavailable, match="node peer"):
        await choice.check_not_lost(record("me", in_sync))
    for dtl in (Dtl(), Dtl(DtlState.DEGRADED, "peer", 5), Dtl(DtlState.CATCHING_UP, "peer", 5)):
        await choice.check_not_lost(record("me", dtl))
    await choice.check_not_lost(record("", in_sync))
    notes.opened(OBJECT, 3, 17)
    await choice.check_not_lost(record("me", in_sync))
