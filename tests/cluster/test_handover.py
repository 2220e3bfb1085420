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

from registry import ObjectRecord
from tests.cluster.records import record_of
from tests.cluster.running import vpool
from tests.cluster.test_failover import node_id, wait_expired
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
    return record_of(node.directory, name)


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


def test_a_volume_comes_to_the_node_that_uses_it_and_stays_where_both_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By threshold; two nodes that write alternately settle instead of passing it to and fro."""
    monkeypatch.setenv("VPOOL_CLUSTER__MOVE_REQUESTS", "300")
    monkeypatch.setenv("VPOOL_CLUSTER__MOVE_HALF_LIFE_S", "5")
    monkeypatch.setenv("VPOOL_CLUSTER__MOVE_STAY_S", "2")
    with three(tmp_path) as (first, second, third):
        made_on(first)
        alone = Writer(second.mount / NAME, range(BLOCKS)).start()
        wait_until(lambda: record(second).owner == node_id(second), "it has come to its user", 60)
        half = BLOCKS // 2
        alone.stop()
        both = [Writer(second.mount / NAME, range(half)).start(), Writer(third.mount / NAME, range(half, BLOCKS)).start()]
        began_epoch = record(first).epoch
        time.sleep(12)  # long enough for a handful of moves, were there any
        assert record(first).epoch - began_epoch <= 1, "it settles"
        for writer in both:
            writer.stop()
            writer.check(first.mount / NAME)


def test_a_node_is_drained_and_takes_nothing_until_that_is_undone(tmp_path: Path) -> None:
    """And moves that cannot be are refused with a reason, and change nothing."""
    with three(tmp_path) as (first, second, third):
        made_on(first)
        (first.mount / "note.txt").write_text("stays")
        writer = Writer(third.mount / NAME, range(BLOCKS)).start()
        writer.goes_on()

        def refused(code: int, said: str, *arguments: str) -> None:
            epoch = record(third).epoch
            ran = vpool(*arguments, "--dir", third.directory)
            assert (ran.code, said in ran.err) == (code, True), ran.err
            assert record(third).epoch == epoch, "nothing has changed"

        refused(5, "there already", "volume", "move", NAME, "--to", node_id(first))
        refused(3, "no node", "volume", "move", NAME, "--to", "0000")
        refused(3, "none.raw", "volume", "move", "none.raw", "--to", node_id(second))
        refused(2, "not a volume", "volume", "move", "note.txt", "--to", node_id(second))
        drained = vpool("node", "drain", node_id(first)[:12], "--dir", third.directory, "--json")
        assert drained.code == 0, drained.err
        assert [(each["path"], each["problem"]) for each in json.loads(drained.out)["volumes"]] == [(NAME, "")]
        assert record(third).owner != node_id(first)
        refused(5, "drained", "volume", "move", NAME, "--to", node_id(first))
        writer.goes_on()
        undone = vpool("node", "drain", node_id(first), "--undo", "--dir", second.directory)
        assert undone.code == 0, undone.err
        moved(second, first)
        writer.goes_on()
        other = next(node for node in (second, third) if record(third).owner != node_id(node))
        other.kill()
        wait_expired(first, other)
        if other is second:
            refused(5, "dead", "volume", "move", NAME, "--to", node_id(other))
            writer.stop()
        assert (first.mount / "note.txt").read_text() == "stays"


def test_what_former_owners_keep_goes_when_the_backend_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail stays with the source until a head has passed it; then its segments are given back. With a DTL it is a mirror."""
    monkeypatch.setenv("VPOOL_DTL__MODE", "off")
    with three(tmp_path) as (first, second, _):
        made_on(first, 32 << 20)
        with (first.mount / NAME).open("r+b", buffering=0) as file:
            for at in range(16):
                os.pwrite(file.fileno(), os.urandom(1 << 20), at << 20)
        moved(first, second)
        assert [left.node for left in record(second).remains] == [node_id(first)]
        written = (second.mount / NAME).read_bytes()
        wait_until(lambda: not record(second).remains, "the head has passed the tail", 60)
        wait_until(lambda: b"remains_dropped" in first.log.read_bytes(), "its log is forgotten", 30)
        assert (first.mount / NAME).read_bytes() == written
