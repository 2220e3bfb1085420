"""Three daemons with one vPool, and one of them dies for good: what it owned goes on elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from registry import RegistryView
from tests.cluster.running import vpool
from tests.cluster.test_forwarding import BLOCK, SIZE, read, stamp
from tests.cluster.test_three_nodes import Daemon, three
from tests.mounted_pool import wait_until
from vpool.place import Place

pytestmark = pytest.mark.mount

EXPIRED_S = 15.0
SEED = int(os.environ.get("VPOOL_SEED", "1"))


def node_id(daemon: Daemon) -> str:
    identity = Place(daemon.directory).identity
    assert identity is not None
    return identity.node


def wait_expired(seen_by: Daemon, dead: Daemon) -> None:
    with RegistryView(seen_by.directory / "registry") as view:
        wait_until(lambda: (node := view.node(node_id(dead))) is not None and node.expired, "it is declared dead", EXPIRED_S)


def test_a_volume_without_dtl_comes_back_as_a_prefix_by_command(tmp_path: Path) -> None:
    """Promise 5: the state after some write, all writes before it and none after; and nobody takes it without being told to."""
    with three(tmp_path) as (owner, thief, client):
        volume = owner.mount / "disk.raw"
        with volume.open("wb", buffering=0) as file:
            os.ftruncate(file.fileno(), SIZE)
            for block in range(64):
                os.pwrite(file.fileno(), stamp(block, 1), block * BLOCK)
            os.fsync(file.fileno())
            (owner.mount / "note.txt").write_bytes(b"kept" * 1000)
            wait_until(lambda: all_in_backend(owner), "it is in the backend", 30)
            for block in range(64):
                os.pwrite(file.fileno(), stamp(block, 2), block * BLOCK)
            os.fsync(file.fileno())
        dead = node_id(owner)
        alive = vpool("volume", "steal", "disk.raw", "--accept-loss", "--dir", thief.directory)
        assert (alive.code, "lease lives" in alive.err) == (5, True), alive.err
        owner.kill()
        wait_expired(thief, owner)
        unsaid = vpool("volume", "steal", "disk.raw", "--dir", thief.directory)
        assert (unsaid.code, "might be lost" in unsaid.err) == (5, True), unsaid.err
        taken = vpool("node", "steal", dead[:8], "--accept-loss", "--dir", thief.directory, "--json")
        assert taken.code == 0, taken.err
        report = {each["path"] or each["kind"]: each for each in json.loads(taken.out)["taken"]}
        assert report["disk.raw"]["lost"]
        assert not report["disk.raw"]["problem"]
        for node in (thief, client):
            versions = [int(read(node.mount / "disk.raw", block).split(b";")[0].split(b":")[1]) for block in range(64)]
            assert versions == sorted(versions, reverse=True), "a prefix: no write without all before it"
            assert versions[0] in (1, 2)
        assert (thief.mount / "note.txt").read_bytes() == b"kept" * 1000
        assert (client.mount / "note.txt").read_bytes() == b"kept" * 1000
        # it goes on there, also through the third
        with (client.mount / "disk.raw").open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), stamp(0, 3), 0)
            os.fsync(file.fileno())
        assert read(thief.mount / "disk.raw", 0) == stamp(0, 3)
        # the dead node comes back: what it owned is no more its own, and what it makes is
        owner.start()
        assert read(owner.mount / "disk.raw", 0) == stamp(0, 3)
        (owner.mount / "again.txt").write_bytes(b"x")
        assert (client.mount / "again.txt").read_bytes() == b"x"


def all_in_backend(daemon: Daemon) -> bool:
    report = json.loads(vpool("status", "--json", "--dir", daemon.directory).out)
    return bool(report["dirty_bytes"] == 0)
