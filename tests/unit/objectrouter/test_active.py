"""An object that is open here, and goes to another node."""

from __future__ import annotations

from typing import Any, cast

import pytest

from objectrouter.active import Active
from objectrouter.operation import Attributes
from objectrouter.remote_object import RemoteObject
from objectrouter.remote_region import RemoteRegion
from objectrouter.traffic import ObjectTraffic
from registry import Inode, InodeKind, ObjectKind, ObjectRecord, ObjectState
from volumedriver import Region, Volume

OBJECT = "1" * 32
RECORD = ObjectRecord(OBJECT, ObjectKind.VOLUME, ObjectState.LIVE, "a", 3, None, None, 0, 16, 0, "", "")


class Remote:
    """How the new owner is reached."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, int]] = []

    def written(self, *what: int) -> None:
        self.told.append(cast(Any, what))


class Left:
    """A volume of which another node is the owner."""

    has_moved, left_at = True, (3, 20)


@pytest.mark.parametrize("unsynced", [False, True])
def test_the_new_owner_is_asked_for_what_was_acknowledged_here(unsynced: bool) -> None:
    """If this fails, a flush succeeds though what it is for has gone with the new owner and been given up with consent."""
    remote = Remote()
    here = Region(cast(Volume, Left()), start=0, meta_offset=1 << 40, bytes_max=1 << 30)
    here.unsynced = unsynced
    inode = Inode(16, InodeKind.VOLUME, OBJECT, 0o600, 0, 0, 1, 0, 0, 0, 0, "", 0)
    active = Active(RECORD, inode, here, cast(ObjectTraffic, None))
    there = RemoteRegion(cast(RemoteObject, remote), Attributes(0, 0, 0, None))
    active.follow(there)
    assert remote.told == [(0, 3, 20)] * unsynced
    assert there.unsynced is unsynced
