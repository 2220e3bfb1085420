"""A host whose cache has no room is given nothing, says so to all others, and is given something again when there is room."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, hosts
from tests.cluster.records import record_in
from tests.mounted_pool import wait_until

pytestmark = pytest.mark.mount

MIB = 1 << 20


def room_of(host: Host, seen_by: Host) -> int | None:
    found = seen_by.node(host)
    assert found is not None
    return found.room_bytes


def fill(file: int, count: int) -> None:
    """So many MiB, each synced."""
    try:
        for _ in range(count):
            os.write(file, os.urandom(MIB))
            os.fsync(file)
    finally:
        os.close(file)


def test_a_full_host_is_given_no_volume(tmp_path: Path) -> None:
    with hosts(tmp_path, 2, own_disks=True, environment={"VPOOL_DTL__MODE": "off"}) as (owner, full):
        assert full.disk is not None
        with (owner.mount / "disk.raw").open("xb", buffering=0) as file:
            os.ftruncate(file.fileno(), MIB)
            os.pwrite(file.fileno(), b"here", 0)
            os.fsync(file.fileno())
        wait_until(lambda: (room_of(full, owner) or 0) > 0, "its room is known", 10)
        with (full.mount / "file").open("xb", buffering=0) as file:
            file.write(bytes(MIB))
            full.disk.fill()
            writer = threading.Thread(target=fill, args=(os.dup(file.fileno()), 128), daemon=True)
        writer.start()  # it takes what there is, and waits
        wait_until(lambda: room_of(full, owner) == 0, "it is known to be full", 20)
        refused = owner.vpool("volume", "move", "disk.raw", "--to", full.id, "--dir", owner.directory)
        assert refused.code != 0
        assert "full" in refused.err, refused.err
        with owner.view() as view:
            assert record_in(view, "disk.raw").owner == owner.id
        assert (owner.mount / "disk.raw").read_bytes()[:4] == b"here"
        late = threading.Thread(target=lambda: (full.mount / "late.raw").write_bytes(b"late"), daemon=True)
        late.start()
        late.join(2)
        assert late.is_alive(), "what is opened for the first time waits, too"
        full.disk.make_room()
        wait_until(lambda: (room_of(full, owner) or 0) > 0, "there is room again", 20)
        writer.join(60)
        assert not writer.is_alive(), "it goes on when there is room"
        late.join(60)
        assert (full.mount / "late.raw").read_bytes() == b"late"
        moved = owner.vpool("volume", "move", "disk.raw", "--to", full.id, "--dir", owner.directory)
        assert moved.code == 0, moved.err
        assert (full.mount / "disk.raw").read_bytes()[:4] == b"here"
