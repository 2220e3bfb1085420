"""Promise 10 where the cache disk is full: writers wait, the state is shown, and all goes on by itself when there is room.

If this fails: a guest sees an I/O error, or its volume halts, because somebody filled the disk that DIR/cache is on; or nobody is
told; or a node does not come up again there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.outage import ask_status
from tests.mounted_pool import MountedPool, wait_until
from tests.small_disk import SmallDisk

pytestmark = pytest.mark.mount

MIB = 1 << 20
SIZE = 300 * MIB
SETTINGS = {
    "VPOOL_CACHE__SIZE_BYTES": "256MiB",
    "VPOOL_CACHE__READ_CACHE_BYTES": "32MiB",
    "VPOOL_CACHE__MAP_CACHE_BYTES": "8MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "120MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "144MiB",
    "VPOOL_VOLUMES__TLOG_AGE_S": "3600",
    "VPOOL_VOLUMES__SCOS_PER_TLOG": "256",
    "VPOOL_VOLUMES__STOP_S": "60",
}
WAITS_S = 30.0


class Writer(threading.Thread):
    """Writes 1 MiB after the other, each full of its number, and syncs each."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(name="writer", daemon=True)
        self.synced = 0
        self.error: OSError | None = None
        self._path = path
        self._count = count

    def run(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDWR)
            for number in range(self._count):
                os.pwrite(fd, bytes([number + 1]) * MIB, number * MIB)
                os.fsync(fd)
                self.synced = number + 1
            os.close(fd)
        except OSError as error:
            self.error = error


def full(pool: MountedPool) -> list[str]:
    cache = ask_status(pool)["cache"]
    assert isinstance(cache, dict)
    return [str(reason) for reason in cache["full"]]


def content(path: Path, count: int) -> list[int]:
    """The number that each MiB is full of."""
    found = []
    fd = os.open(path, os.O_RDONLY)
    try:
        for number in range(count):
            data = os.pread(fd, MIB, number * MIB)
            found.append(data[0] if data.count(data[:1]) == MIB else -1)
    finally:
        os.close(fd)
    return found


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """The disk of DIR/cache."""
    image = tmp_path / "image" if request.param == "ext4" else None
    with SmallDisk(tmp_path / "pool" / "cache", SIZE, image=image) as disk:
        yield disk


def test_writers_wait_for_room_and_go_on(tmp_path: Path, disk: SmallDisk) -> None:
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SETTINGS) as pool:
        volume = pool.make_volume("disk.raw", 128 * MIB)
        disk.fill(leave=40 * MIB)
        writer = Writer(volume, 100)
        writer.start()
        wait_until(lambda: bool(full(pool)) and _waiting(pool) > 0, "the writer waits and the status says why", WAITS_S)
        synced = writer.synced
        assert 8 < synced < 60
        assert content(volume, synced) == [number + 1 for number in range(synced)], "what is here is read"
        disk.make_room()
        writer.join(WAITS_S)
        assert not writer.is_alive()
        assert (writer.error, writer.synced) == (None, 100)
        wait_until(lambda: not full(pool), "the status is quiet again", WAITS_S)
        assert content(volume, 100) == [number + 1 for number in range(100)]
        assert pool.stop() == 0, pool.tail_of_log()


def test_a_node_that_dies_on_a_full_disk_comes_up_on_it(tmp_path: Path, disk: SmallDisk) -> None:
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SETTINGS) as pool:
        volume = pool.make_volume("disk.raw", 128 * MIB)
        Writer(volume, 20).run()
        disk.fill()
        writer = Writer(volume, 100)
        writer.start()
        wait_until(lambda: bool(full(pool)) and _waiting(pool) > 0, "the writer waits and the status says why", WAITS_S)
        synced = writer.synced
        pool.kill()
        writer.join(WAITS_S)
        pool.start()
        assert content(volume, max(20, synced)) == [number + 1 for number in range(max(20, synced))]
        again = Writer(volume, 100)
        again.start()
        wait_until(lambda: _waiting(pool) > 0, "the writer waits", WAITS_S)
        disk.make_room()
        again.join(WAITS_S)
        assert not again.is_alive()
        assert again.error is None
        assert content(volume, 100) == [number + 1 for number in range(100)]
        assert pool.stop() == 0, pool.tail_of_log()


def _waiting(pool: MountedPool) -> int:
    objects = ask_status(pool)["objects"]
    assert isinstance(objects, list)
    return sum(each["waiting_writers"] for each in objects)
