"""Writes of a surviving host that are on their way when the owner of the volume dies: they wait, and do not fail."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.cluster.test_failover import made_in_sync, node_id, owner_of
from tests.cluster.test_forwarding import BLOCK, read, stamp
from tests.cluster.test_three_nodes import three
from tests.mounted_pool import wait_until

pytestmark = pytest.mark.mount

WRITERS = 8


class Writers:
    """Each has a block, and writes it over and over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = [0] * WRITERS  # the last version that was acknowledged
        self.failed: list[OSError] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        with self.path.open("r+b", buffering=0) as file:
            while not self._stop.is_set():
                try:
                    os.pwrite(file.fileno(), stamp(number, self.written[number] + 1), number * BLOCK)
                except OSError as error:
                    self.failed.append(error)
                    return
                self.written[number] += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a writer goes on"


def test_writes_on_their_way_to_an_owner_that_dies_do_not_fail(tmp_path: Path) -> None:
    """Its mirror knows which of them have been executed: those are answered, and the others are executed there."""
    with three(tmp_path) as (owner, *others):
        peer = made_in_sync(owner)
        client = next(node for node in others if node_id(node) != peer)
        writers = Writers(client.mount / "disk.raw")
        wait_until(lambda: min(writers.written) > 50, "they write", 60)
        owner.kill()
        before = list(writers.written)
        wait_until(lambda: owner_of(client, "disk.raw") == peer, "its mirror takes it over", 30)
        wait_until(
            lambda: bool(writers.failed) or all(now > then + 20 for now, then in zip(writers.written, before, strict=True)),
            "they go on", 60,
        )  # fmt: skip
        began = time.monotonic()
        writers.stop()
        assert writers.failed == [], [error.errno for error in writers.failed]
        assert time.monotonic() - began < 60
        for node in others:
            for number, version in enumerate(writers.written):
                assert read(node.mount / "disk.raw", number) == stamp(number, version), (node.mount, number)
