"""A volume moves from node to node while clients on all mounts use it: no error, no lost write, and never two owners."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
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
ROUNDS = int(os.environ.get("VPOOL_ROUNDS", "4"))


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
    """Writes stamps through one mount, and syncs now and then; knows what must be there.

    ``bears``: an owner is killed, so a request that was on its way may fail, and nobody knows what came of it.
    """

    def __init__(self, path: Path, blocks: range, *, bears: bool = False, sync_every: int = 16) -> None:
        self.path, self.blocks, self.bears, self.sync_every = path, blocks, bears, sync_every
        self.done: dict[int, set[int]] = {}  # block -> versions of which one must be there
        self.version = 0
        self.errors: list[OSError] = []
        self.borne = 0
        self.slowest_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_on, daemon=True)

    def start(self) -> Writer:
        self._thread.start()
        return self

    def _write_on(self) -> None:
        with self.path.open("r+b", buffering=0) as file:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    self._write(file.fileno(), self.blocks[self.version % len(self.blocks)], self.version + 1)
                except OSError as error:
                    if not (self.bears and error.errno == errno.EIO):
                        self.errors.append(error)
                        return
                    self.borne += 1
                self.version += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def _write(self, file: int, block: int, version: int) -> None:
        self.done.setdefault(block, set()).add(version)
        os.pwrite(file, stamp(block, version), block * BLOCK)
        self.done[block] = {version}
        if os.pread(file, BLOCK, block * BLOCK) != stamp(block, version):
            raise OSError(0, f"block {block} has not what was written last")
        if version % self.sync_every == 0:
            os.fsync(file)

    def goes_on(self, seconds: float = 60) -> None:
        """Each of its blocks is written once more."""
        from_version = self.version
        wait_until(lambda: bool(self.errors) or self.version > from_version + len(self.blocks), "it writes", seconds)
        assert not self.errors, self.errors

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the writer hangs"
        assert not self.errors, self.errors

    def check(self, path: Path) -> None:
        for block, versions in self.done.items():
            found = read(path, block)
            assert any(found == stamp(block, version) for version in versions), f"block {block}: {found[:20]!r}, not {versions}"


def test_a_volume_moves_while_all_nodes_write_to_it(tmp_path: Path) -> None:
    """Promises 1, 6 and 11: every acknowledged write is there, on every mount, after each of several moves with dirty data."""
    with three(tmp_path) as nodes:
        made_on(nodes[0])
        share = BLOCKS // 3
        writers = [Writer(node.mount / NAME, range(at * share, (at + 1) * share)).start() for at, node in enumerate(nodes)]
        for writer in writers:
            writer.goes_on()
        for number, target in enumerate([1, 2, 0, 1]):
            before = record(nodes[0]).epoch
            moved(nodes[number % 3], nodes[target])
            after = record(nodes[target])
            assert (after.owner, after.epoch) == (node_id(nodes[target]), before + 1), "one epoch for each move"
            for writer in writers:
                writer.goes_on()
        for writer in writers:
            writer.stop()
        print(f"slowest write and read: {max(writer.slowest_s for writer in writers):.3f} s")
        for writer in writers:
            for node in nodes:
                writer.check(node.mount / NAME)


def test_source_or_target_dies_or_pauses_at_any_step(tmp_path: Path) -> None:
    """Whoever dies, and whenever: the registry tells who owns it, and every acknowledged write is there."""
    chosen = random.Random(SEED)
    print(f"VPOOL_SEED={SEED}")
    with three(tmp_path) as nodes:
        made_on(nodes[0])
        ids = {node_id(node): node for node in nodes}
        for number in range(ROUNDS):
            source = ids[record(nodes[0]).owner]
            target, other = chosen.sample([node for node in nodes if node is not source], 2)
            writer = Writer(other.mount / NAME, range(BLOCKS), bears=True).start()
            writer.goes_on()
            move = subprocess.Popen(
                [sys.executable, "-m", "vpool", "volume", "move", NAME, "--to", node_id(target), "--dir", str(other.directory)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            wait_s = chosen.uniform(0.2, 1.6)  # the command alone takes most of the first second
            victim, what = chosen.choice([source, target]), chosen.choice(["kill", "kill", "pause"])
            time.sleep(wait_s)
            print(f"round {number}: {what} {'source' if victim is source else 'target'} after {wait_s:.2f} s", end="")
            if what == "kill":
                victim.kill()
                victim.start()
            else:
                assert victim.process is not None
                victim.process.send_signal(signal.SIGSTOP)
                time.sleep(chosen.uniform(0.5, 2.0))
                victim.process.send_signal(signal.SIGCONT)
            move.wait(60)
            writer.goes_on()
            writer.stop()
            moved_to = ids[record(other).owner]
            print(f": {'moved' if moved_to is target else 'stayed'}, {writer.borne} failed, slowest {writer.slowest_s:.1f} s")
            assert moved_to in (source, target)
            for node in nodes:
                writer.check(node.mount / NAME)
