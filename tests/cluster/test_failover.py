"""Three daemons with one vPool, and one of them dies for good: what it owned goes on elsewhere."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from registry import Dtl, DtlState, RegistryView
from tests.cluster.records import record_of
from tests.cluster.running import vpool
from tests.cluster.test_forwarding import BLOCK, SIZE, read, stamp
from tests.cluster.test_three_nodes import Daemon, three
from tests.mounted_pool import unmount, wait_until
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
        assert "when the node last reported" in unsaid.err, "how much, and as of when"
        assert "since is unknown" in unsaid.err
        taken = vpool("node", "steal", dead[:8], "--accept-loss", "--dir", thief.directory, "--json")
        assert taken.code == 0, taken.err
        report = {each["path"] or each["kind"]: each for each in json.loads(taken.out)["taken"]}
        assert report["disk.raw"]["lost"]
        assert report["disk.raw"]["loss_bytes_at_most"] is not None
        assert abs(report["disk.raw"]["loss_reported_ms"] / 1000 - time.time()) < 300
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(thief.directory / "admin.sock")), base_url="http://vpool") as api:
            metrics = api.get("/metrics").text
        assert re.search(r'^vpool_steal_seconds_count\{cause="command"[^}]*\} [1-9]', metrics, re.MULTILINE), metrics[-2000:]
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
    return record_of(seen_by.directory, name).dtl


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
        print(f"first flush {first:.2f} s, {len(writer.times)} flushes, failed {writer.failed}")
        assert first < 10
        for node in others:
            writer.check(node.mount / "disk.raw")


def all_in_backend(daemon: Daemon) -> bool:
    report = json.loads(vpool("status", "--json", "--dir", daemon.directory).out)
    return bool(report["dirty_bytes"] == 0)


def made_in_sync(owner: Daemon, name: str = "disk.raw") -> str:
    """A volume of this node whose DTL is in sync; the peer."""
    with (owner.mount / name).open("wb", buffering=0) as file:
        os.ftruncate(file.fileno(), SIZE)
        os.pwrite(file.fileno(), stamp(0, 0), 0)
        os.fsync(file.fileno())
    return wait_in_sync(owner, name)


def test_files_follow_to_the_peer(tmp_path: Path) -> None:
    """The log of a node's files is mirrored and taken over like a volume: what was flushed is there, small or large."""
    with three(tmp_path) as (owner, *others):
        content = {f"f{number}": os.urandom(number * 1000) for number in range(20)}
        for name, data in content.items():
            with (owner.mount / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        with RegistryView(others[0].directory / "registry") as view:
            inode = view.resolve("f0")
            assert inode is not None
            record = view.object(inode.object)
            assert record is not None
            wait_until(lambda: view.object(record.log).dtl.state is DtlState.IN_SYNC, "the log of files is in sync", 20)  # type: ignore[union-attr]
            for name in content:
                with (owner.mount / name).open("ab") as file:
                    file.write(b"more")
                    file.flush()
                    os.fsync(file.fileno())
            owner.kill()
            wait_until(lambda: view.object(record.log).owner != node_id(owner), "its peer has taken it over", 15)  # type: ignore[union-attr]
        for node in others:
            for name, data in content.items():
                assert (node.mount / name).read_bytes() == data + b"more", (node.mount, name)


def test_an_owner_that_was_stopped_longer_than_a_lease_is_owner_no_more(tmp_path: Path) -> None:
    """Promise 6: when it wakes it acknowledges nothing, and ends; what it was asked meanwhile is done by who has taken over."""
    with three(tmp_path) as (owner, *others):
        peer = made_in_sync(owner)
        client = next(node for node in others if node_id(node) != peer)
        writer = Writer(client.mount / "disk.raw")
        wait_until(lambda: len(writer.times) > 50, "it writes", 30)
        assert owner.process is not None
        owner.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        wait_until(lambda: writer.times[-1] > stopped + 1, "another node serves it", 20)
        owner.process.send_signal(signal.SIGCONT)
        assert owner.process.wait(60) == 12, "fenced"
        unmount(owner.mount)
        owner.start()
        woken = time.monotonic()
        wait_until(lambda: writer.times[-1] > woken + 1, "it goes on", 20)
        writer.stop()
        for node in (owner, *others):
            writer.check(node.mount / "disk.raw")


def test_a_stop_that_ends_in_time_moves_nothing(tmp_path: Path) -> None:
    with three(tmp_path) as (owner, *others):
        peer = made_in_sync(owner)
        client = next(node for node in others if node_id(node) != peer)
        writer = Writer(client.mount / "disk.raw")
        for _ in range(3):
            before = len(writer.times)
            wait_until(lambda before=before: len(writer.times) > before + 30, "it writes", 30)  # type: ignore[misc]
            assert owner.process is not None
            owner.process.send_signal(signal.SIGSTOP)
            time.sleep(1.5)  # what is tested: a pause well within a lease
            owner.process.send_signal(signal.SIGCONT)
        before = len(writer.times)
        wait_until(lambda: len(writer.times) > before + 30, "it writes", 30)
        writer.stop()
        assert writer.failed == []
        with RegistryView(client.directory / "registry") as view:
            inode = view.resolve("disk.raw")
            assert inode is not None
            record = view.object(inode.object)
            assert record is not None
            assert record.owner == node_id(owner)


def test_a_dtl_peer_that_dies_is_replaced(tmp_path: Path) -> None:
    """Flushes wait until the registry says that they go on without it; then another peer is chosen, and counts again."""
    with three(tmp_path) as (owner, *others):
        peer = made_in_sync(owner)
        dead = next(node for node in others if node_id(node) == peer)
        other = next(node for node in others if node is not dead)
        writer = Writer(other.mount / "disk.raw")
        wait_until(lambda: len(writer.times) > 50, "it writes", 30)
        dead.kill()
        killed = time.monotonic()
        wait_until(lambda: dtl_of(owner, "disk.raw").state is DtlState.DEGRADED, "that is said", 20)
        wait_until(lambda: writer.times[-1] > killed + 3, "it goes on without", 20)
        wait_until(lambda: dtl_of(owner, "disk.raw").peer == node_id(other), "another peer", 30)
        assert wait_in_sync(owner, "disk.raw") == node_id(other)
        gone_on = len(writer.times)
        wait_until(lambda: len(writer.times) > gone_on + 30, "it writes", 30)
        print(f"flushes paused for {writer.gap_s():.2f} s, failed {writer.failed}")
        dead.start()  # two of three are needed for the registry to decide
        wait_until(lambda: b"remains_dropped" in dead.log.read_bytes(), "what it kept is of no use, and goes", 30)
        owner.kill()
        wait_until(lambda: writer.times[-1] > time.monotonic() - 0.5, "the new peer has taken it over", 20)
        writer.stop()
        assert writer.failed in ([], [errno.EIO])
        for node in others:
            writer.check(node.mount / "disk.raw")


def test_the_dtl_and_remains_are_governed_by_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by the setting, on for one volume with the peer named, off again; what a lost owner kept is shown, and dropped."""
    monkeypatch.setenv("VPOOL_DTL__MODE", "off")
    with three(tmp_path) as (owner, one, two):
        for name in ("disk.raw", "plain.raw"):
            with (owner.mount / name).open("wb", buffering=0) as file:
                os.ftruncate(file.fileno(), SIZE)
                os.fsync(file.fileno())
        where = ("--dir", owner.directory)
        assert dtl_of(owner, "disk.raw").state is DtlState.OFF
        elsewhere = vpool("volume", "dtl", "disk.raw", "--sync", "--dir", one.directory)
        assert (elsewhere.code != 0, "another node owns" in elsewhere.err) == (True, True), elsewhere.err
        itself = vpool("volume", "dtl", "disk.raw", "--sync", "--peer", node_id(owner)[:8], *where)
        assert (itself.code, "not the one that owns" in itself.err) == (2, True), itself.err
        on = vpool("volume", "dtl", "disk.raw", "--sync", "--peer", node_id(two)[:8], *where)
        assert on.code == 0, on.err
        assert wait_in_sync(owner, "disk.raw") == node_id(two)
        assert "in-sync" in vpool("volume", "show", "disk.raw", *where).out
        assert vpool("volume", "dtl", "disk.raw", "--peer", node_id(one)[:8], *where).code == 0
        assert wait_in_sync(owner, "disk.raw") == node_id(one)
        assert vpool("volume", "dtl", "plain.raw", "--sync", *where).code == 0
        wait_in_sync(owner, "plain.raw")
        assert vpool("volume", "dtl", "plain.raw", "--off", *where).code == 0
        assert dtl_of(owner, "plain.raw").state is DtlState.OFF
        owner.kill()
        wait_until(lambda: owner_of(one, "disk.raw") == node_id(one), "its peer has taken it over", 15)
        assert owner_of(one, "plain.raw") == node_id(owner), "what may lose something is nobody's to take"
        taken = vpool("volume", "steal", "plain.raw", "--accept-loss", "--dir", two.directory)
        assert (taken.code, "is lost" in taken.out) == (0, True), taken
        owner.start()
        left = json.loads(vpool("node", "remains", "--json", *where).out)["remains"]
        assert {(each["path"], each["node"], each["lost"]) for each in left} >= {("plain.raw", node_id(owner), True)}
        dropped = vpool("node", "remains", "--drop", "plain.raw", "--of", node_id(owner), *where)
        assert dropped.code == 0, dropped.err
        assert "plain.raw" not in vpool("node", "remains", *where).out


def owner_of(seen_by: Daemon, name: str) -> str:
    return record_of(seen_by.directory, name).owner


@pytest.mark.long
def test_owners_are_killed_again_and_again(tmp_path: Path) -> None:
    """Its owner is killed, the peer takes it over, the dead one comes back and is a peer again; nothing flushed is lost."""
    print(f"VPOOL_SEED={SEED}")
    chosen = random.Random(SEED)
    with three(tmp_path) as nodes:
        made_in_sync(nodes[0])
        for number in range(int(os.environ.get("VPOOL_ROUNDS", "0")) or 10):
            peer = wait_in_sync(nodes[0], "disk.raw")
            owner = next(node for node in nodes if node_id(node) == owner_of(nodes[0], "disk.raw"))
            client = next(node for node in nodes if node is not owner and node_id(node) != peer)
            writer = Writer(client.mount / "disk.raw")
            wait_until(lambda: len(writer.times) > 20, "it writes", 30)  # noqa: B023
            time.sleep(chosen.uniform(0, 2))
            owner.kill()
            killed = time.monotonic()
            wait_until(lambda: writer.times[-1] > killed + 1, "it writes again", 30)  # noqa: B023
            first = next(at for at in writer.times if at > killed + 0.5) - killed
            writer.stop()
            assert owner_of(client, "disk.raw") == peer
            writer.check(client.mount / "disk.raw")
            owner.start()
            for node in nodes:
                writer.check(node.mount / "disk.raw")
            print(
                f"round {number}: first flush {first:.2f} s after the kill, {len(writer.times)} flushes, failed {writer.failed}"
            )


def test_a_peer_gets_another_cache(tmp_path: Path) -> None:
    """What it kept for others goes with the old one: its owner says so before flushes count without it, and sends it anew."""
    with three(tmp_path) as (owner, *others):
        peer = made_in_sync(owner)
        keeper = next(node for node in others if node_id(node) == peer)
        writer = Writer(owner.mount / "disk.raw")
        wait_until(lambda: len(writer.times) > 20, "it writes", 30)
        before = dtl_of(owner, "disk.raw").version
        replaced = vpool("cache", "replace", "--dir", keeper.directory)
        assert replaced.code == 0, replaced.err
        wait_until(lambda: dtl_of(owner, "disk.raw").version > before, "that is said", 20)
        wait_in_sync(owner, "disk.raw")
        gone_on = len(writer.times)
        wait_until(lambda: len(writer.times) > gone_on + 20, "it goes on", 20)
        owner.kill()
        writer._stop.set()  # its mount is dead
        wait_until(lambda: owner_of(keeper, "disk.raw") != node_id(owner), "its peer has taken it over", 20)
        for node in others:
            writer.check(node.mount / "disk.raw")


def registry_of(daemon: Daemon) -> psutil.Process:
    assert daemon.process is not None
    found = [child for child in psutil.Process(daemon.process.pid).children() if "registry" in child.cmdline()]
    assert len(found) == 1, found
    return found[0]


def test_an_owner_in_sync_goes_on_without_a_majority_of_the_registry(tmp_path: Path) -> None:
    """The peer's word counts instead of the lease; once the peer is silent too, nothing is acknowledged, and nothing fails."""
    with three(tmp_path) as (owner, *others):
        peer = made_in_sync(owner)
        keeper = next(node for node in others if node_id(node) == peer)
        writer = Writer(owner.mount / "disk.raw")
        wait_until(lambda: len(writer.times) > 20, "it writes", 30)
        assert keeper.process is not None
        stopped = [registry_of(node) for node in others]
        for registry in stopped:
            registry.suspend()
        try:
            began = time.monotonic()
            wait_until(lambda: writer.times[-1] > began + 8, "it writes for longer than a lease", 20)
            keeper.process.send_signal(signal.SIGSTOP)
            silent = time.monotonic()
            wait_until(lambda: time.monotonic() > silent + 5, "the word has run out", 10)
            count = len(writer.times)
            wait_until(lambda: time.monotonic() > silent + 8, "some time passes", 10)
            assert len(writer.times) == count, "without lease and word nothing is acknowledged"
        finally:
            keeper.process.send_signal(signal.SIGCONT)
            for registry in stopped:
                registry.resume()
        wait_until(lambda: len(writer.times) > count + 20, "it goes on", 30)
        writer.stop()
        assert writer.failed == []
        assert owner_of(owner, "disk.raw") == node_id(owner), "a registry that was away and is back takes nothing from anybody"
        print(f"the longest pause was {writer.gap_s():.1f} s")


def test_nothing_is_taken_over_before_the_dead_host_is_powered_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the site names a command for that: as long as it fails the object waits."""
    allowed, told = tmp_path / "allowed", tmp_path / "told"
    script = tmp_path / "power-off"
    script.write_text(f'#!/bin/sh\necho "$VPOOL_DEAD_NODE" >> {told}\ntest -e {allowed}\n')
    script.chmod(0o755)
    monkeypatch.setenv("VPOOL_DTL__POWER_OFF", json.dumps([str(script)]))
    with three(tmp_path) as (owner, *others):
        peer = made_in_sync(owner)
        keeper = next(node for node in others if node_id(node) == peer)
        owner.kill()
        wait_until(told.exists, "the command is run", 20)
        assert told.read_text().split() == [node_id(owner)]
        assert owner_of(keeper, "disk.raw") == node_id(owner)
        allowed.touch()
        wait_until(lambda: owner_of(keeper, "disk.raw") == peer, "it is taken over", 30)
        assert read(others[0].mount / "disk.raw", 0) == stamp(0, 0)
