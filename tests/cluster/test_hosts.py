"""The harness itself: hosts on networks of their own see one vPool; nothing of them is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.hosts import hosts
from tests.mounted_pool import alive_in_group, mounts_at, wait_until

pytestmark = pytest.mark.mount


def test_hosts_are_cut_off_and_come_back(tmp_path: Path) -> None:
    with hosts(tmp_path, 3) as made:
        (made[0].mount / "d").mkdir()
        wait_until(lambda: (made[2].mount / "d").is_dir(), "it is seen", 10)
        leader = made.leader()
        made.switch.cut(leader.number)
        rest = [host for host in made if host is not leader]
        wait_until(lambda: rest[0].status()["leader"] not in (None, "", leader.id), "another leads", 20)
        (rest[0].mount / "e").mkdir()
        made.heal()
        wait_until(lambda: (leader.mount / "e").is_dir(), "it has caught up", 20)
        groups = [host.process.pid for host in made if host.process is not None]
    assert not any(mounts_at(host.mount) for host in made)
    assert not any(alive_in_group(group) for group in groups)
