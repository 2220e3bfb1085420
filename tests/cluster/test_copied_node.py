"""A copy of a node's directory is started on another host: the node goes on as if nothing were, and the copy never serves."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, hosts
from tests.cluster.test_forwarding import made_on, read, stamp, written
from tests.mounted_pool import mounts_at, wait_until

pytestmark = pytest.mark.mount

COPIED_S = 7.0  # a lease and more: long enough for whoever would be declared dead


def test_a_copy_of_a_node_does_not_get_in(tmp_path: Path) -> None:
    with hosts(tmp_path, 3) as made:
        original, other = made[1], made[0]
        made_on(original, "disk.raw")  # type: ignore[arg-type]
        copy = Host(tmp_path, 4, made.network, {})
        copy.address = made.network.address(3).replace(":9470", ":9480")  # beside the third, on its network
        copy.number = 3
        shutil.copytree(
            original.directory,
            copy.directory,
            ignore=lambda _, names: [each for each in names if each.endswith((".sock", "socket"))],
        )
        told = copy.directory / "cluster" / "node.json"
        told.write_text(told.read_text().replace(original.address, copy.address))
        try:
            copy.spawn()
            end = time.monotonic() + COPIED_S
            version = 1
            while time.monotonic() < end:
                version += 1
                written(original.mount / "disk.raw", version % 60, stamp(version % 60, version), sync=True)
                assert read(other.mount / "disk.raw", version % 60) == stamp(version % 60, version)
                assert not original.ended(), original.tail_of_log()
                assert b"vpool ready" not in copy.log.read_bytes(), "it serves nobody"
                assert not mounts_at(copy.mount) or not answers(copy.mount)
            wait_until(lambda: "two with one id" in copy.tail_of_log(), "and is told why", 60)
        finally:
            print(f"the copy: exit code {copy.code}\n{copy.tail_of_log()}")
            copy.close()
        assert original.node(original) is not None
        assert not original.ended()


def answers(mount: Path) -> bool:
    """Whether a mount shows the vPool."""
    with contextlib.suppress(OSError):
        return "disk.raw" in os.listdir(mount)
    return False
