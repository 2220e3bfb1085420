"""A volume moves from node to node while clients on all mounts use it: no error, no lost write, and never two owners."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from registry import ObjectRecord, RegistryView
from tests.cluster.running import vpool
from tests.cluster.test_failover import node_id
from tests.cluster.test_forwarding import BLOCK, BLOCKS, read, stamp
from tests.cluster.test_three_nodes import Daemon, three
from tests.mounted_pool import wait_until

pytestmark = pytest.mark.mount

SEED = int(os.environ.get("VPOOL_SEED", "1"))
NAME = "disk.raw"


def made_on(node: Daemon, size: int = BLOCK * BLOCKS) -> None:
    with (node.mount / NAME).open("wb", buffering=0) as file:
        os.ftruncate(file.fileno(), size)
        os.fsync(file.fileno())


def record(node: Daemon, name: str = NAME) -> ObjectRecord:
    with RegistryView(node.directory / "registry") as view:
        inode = view.resolve(name)
        assert inode is not None
        found = view.object(inode.object)
        assert found is not None
        return found


def moved(asked: Daemon, to: Daemon) -> float:
    """Seconds."""
    began = time.monotonic()
    ran = vpool("volume", "move", NAME, "--to", node_id(to)[:12], "--dir", asked.directory, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["node"] == node_id(to)
    return time.monotonic() - began


class Writer:
    """Writes stamps through one mount, and syncs now and then; knows what must be there."""

    def __init__(self, path: Path, blocks: range, sync_every: int = 16) -> None:
        self.path, self.blocks, self.sync_every = path, blocks, sync_every
        self.done: dict[int, int] = {}  # block -> version that was acknowledged
        self.errors: list[OSError] = []
        self.slowest_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_on, daemon=True)

    def start(self) -> Writer:
        self._thread.start()
        return self

    def _write_on(self) -> None:
        with self.path.open("r+b", buffering=0) as file:
            version = 0
            while not self._stop.is_set():
                version += 1
                block = self.blocks[version % len(self.blocks)]
                began = time.monotonic()
                try:
                    os.pwrite(file.fileno(), stamp(block, version), block * BLOCK)
                    self.done[block] = version
                    if os.pread(file.fileno(), BLOCK, block * BLOCK) != stamp(block, version):
                        raise OSError(0, f"block {block} has not what was written last")
                    if version % self.sync_every == 0:
                        os.fsync(file.fileno())
                except OSError as error:
                    self.errors.append(error)
                    return
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the writer hangs"
        assert not self.errors, self.errors

    def check(self, path: Path) -> None:
        for block, version in self.done.items():
            assert read(path, block) == stamp(block, version), f"block {block} at version {version}"


def test_a_volume_moves_while_all_nodes_write_to_it(tmp_path: Path) -> None:
    """Promises 1, 6 and 11: every acknowledged write is there, on every mount, after each of several moves with dirty data."""
    with three(tmp_path) as nodes:
        made_on(nodes[0])
        share = BLOCKS // 3
        writers = [Writer(node.mount / NAME, range(at * share, (at + 1) * share)).start() for at, node in enumerate(nodes)]
        wait_until(lambda: all(len(writer.done) == share for writer in writers), "all write", 30)
        for number, target in enumerate([1, 2, 0, 1]):
            before = record(nodes[0]).epoch
            moved(nodes[number % 3], nodes[target])
            after = record(nodes[target])
            assert (after.owner, after.epoch) == (node_id(nodes[target]), before + 1), "one epoch for each move"
            counts = [max(writer.done.values()) for writer in writers]
            wait_until(
                lambda counts=counts: all(max(w.done.values()) > c + share for w, c in zip(writers, counts, strict=True)),  # type: ignore[misc]
                "all go on", 30,
            )  # fmt: skip
        for writer in writers:
            writer.stop()
        print(f"slowest write and read: {max(writer.slowest_s for writer in writers):.3f} s")
        for writer in writers:
            for node in nodes:
                writer.check(node.mount / NAME)
