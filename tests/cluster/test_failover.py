"""Three daemons with one vPool, and one of them dies for good: what it owned goes on elsewhere."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from pathlib import Path

import pytest

from registry import Dtl, DtlState, RegistryView
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


def test_a_volume_without_dtl_comes_back_as_a_prefix_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 5: the state after some write, all writes before it and none after; and nobody takes it without being told to."""
    monkeypatch.setenv("VPOOL_DTL__MODE", "off")
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


def dtl_of(seen_by: Daemon, name: str) -> Dtl:
    with RegistryView(seen_by.directory / "registry") as view:
        inode = view.resolve(name)
        assert inode is not None
        record = view.object(inode.object)
        assert record is not None
        return record.dtl


def wait_in_sync(owner: Daemon, name: str) -> str:
    """Until the volume's DTL is in sync; its peer."""
    wait_until(lambda: dtl_of(owner, name).state is DtlState.IN_SYNC, f"the DTL of {name} is in sync", 20)
    return dtl_of(owner, name).peer


class Writer:
    """Writes stamped blocks through a mount, one after the other, each flushed; knows what was flushed."""

    def __init__(self, path: Path, blocks: int = 64) -> None:
        self.path, self.blocks = path, blocks
        self.flushed: dict[int, int] = {}  # block -> version that an fsync has confirmed
        self.tried: dict[int, int] = {}
        self.failed: list[int | None] = []
        self.times: list[float] = []  # of each fsync that has returned
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        version = 0
        with self.path.open("r+b", buffering=0) as file:
            while not self._stop.is_set():
                version += 1
                block = version % self.blocks
                self.tried[block] = version
                try:
                    os.pwrite(file.fileno(), stamp(block, version), block * BLOCK)
                    os.fsync(file.fileno())
                except OSError as error:
                    self.failed.append(error.errno)
                    continue
                self.flushed[block] = version
                self.times.append(time.monotonic())

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the writer goes on"

    def gap_s(self) -> float:
        """The longest time without a flush that has returned."""
        return max(after - before for before, after in itertools.pairwise(self.times))

    def check(self, path: Path) -> None:
        """Nothing flushed is missing: each block has at least the version that was confirmed, and none that was not written."""
        with path.open("rb", buffering=0) as file:
            for block, version in self.flushed.items():
                found = os.pread(file.fileno(), BLOCK, block * BLOCK)
                number = int(found.split(b";")[0].split(b":")[1])
                assert found == stamp(block, number), "a whole write or none"
                assert version <= number <= self.tried[block], f"block {block}: {number}, flushed was {version}"


def test_a_killed_owner_is_followed_by_its_dtl_peer(tmp_path: Path) -> None:
    """Promise 4, and the time it takes: first I/O within 10 s of the kill, by itself, nothing flushed lost."""
    with three(tmp_path) as (owner, *others):
        volume = owner.mount / "disk.raw"
        with volume.open("wb", buffering=0) as file:
            os.ftruncate(file.fileno(), SIZE)
            os.pwrite(file.fileno(), stamp(0, 0), 0)
            os.fsync(file.fileno())
        peer = wait_in_sync(owner, "disk.raw")
        client = next(node for node in others if node_id(node) != peer)
        writer = Writer(client.mount / "disk.raw")
        wait_until(lambda: len(writer.times) > 100, "it writes", 30)
        owner.kill()
        killed = time.monotonic()
        wait_until(lambda: writer.times[-1] > killed + 1, "it writes again", 30)
        first = next(at for at in writer.times if at > killed + 1) - killed
        wait_until(lambda: writer.times[-1] > killed + first + 1, "it goes on", 30)
        writer.stop()
        print(f"first flush {first:.2f} s after the kill, {len(writer.times)} flushes, failed {writer.failed}")
        assert first < 10
        for node in others:
            writer.check(node.mount / "disk.raw")


def all_in_backend(daemon: Daemon) -> bool:
    report = json.loads(vpool("status", "--json", "--dir", daemon.directory).out)
    return bool(report["dirty_bytes"] == 0)
