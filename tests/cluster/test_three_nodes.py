"""Three daemons with one vPool: a directory made on one mount is on the others; a node that dies takes nobody with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry import RegistryView
from tests.cluster.registries import free_port
from tests.cluster.running import vpool
from tests.mounted_pool import TEST_VARIABLES, unmount, wait_until
from vpool.clustering import ask
from vpool.place import Place

pytestmark = pytest.mark.mount

START_S = 60.0
SETTINGS = {
    "VPOOL_CACHE__SIZE_BYTES": "512MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "128MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "256MiB",
}


class Daemon:
    """One node: its directory, mount and process."""

    def __init__(self, top: Path, number: int) -> None:
        self.directory, self.mount, self.log = top / f"n{number}", top / f"m{number}", top / f"n{number}.log"
        self.address = f"127.0.0.{number + 1}:{free_port()}"
        self.mount.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        self.log.write_bytes(b"")
        kept = {key: value for key, value in os.environ.items() if key not in TEST_VARIABLES}
        environment = {**kept, **SETTINGS, "VPOOL_RUNTIME_DIR": str(self.directory.parent / "run")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vpool", "up", str(self.directory), str(self.mount), *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        wait_until(lambda: b"vpool ready" in self.log.read_bytes() or self.ended(), "the daemon is ready", START_S)
        assert not self.ended(), self.log.read_text()

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)
        unmount(self.mount)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def status(self) -> dict[str, Any]:
        found = ask(self.directory, "status")
        assert isinstance(found, dict)
        return found

    def names(self) -> set[str]:
        return set(os.listdir(self.mount))


@contextlib.contextmanager
def three(top: Path) -> Iterator[list[Daemon]]:
    (top / "shared").mkdir()
    nodes = [Daemon(top, number) for number in range(3)]
    try:
        first = nodes[0]
        made = vpool("cluster", "init", "--dir", first.directory, "--backend", f"dir:{top / 'shared'}", "--listen", first.address)
        assert made.code == 0, made.err
        first.start()
        for node in nodes[1:]:
            token = vpool("cluster", "token", "--dir", first.directory).out.strip()
            joined = vpool("cluster", "join", "--dir", node.directory, "--token", token, "--listen", node.address)
            assert joined.code == 0, joined.err
            node.start()
        wait_until(lambda: [m["state"] for m in first.status()["members"]] == ["votes"] * 3, "all vote", START_S)
        yield nodes
    finally:
        for node in nodes:
            if not node.ended():
                assert node.process is not None
                node.process.send_signal(signal.SIGCONT)
                node.process.kill()
                node.process.wait(30)
            unmount(node.mount)


def within(seconds: float, call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    taken = time.monotonic() - began
    assert taken < seconds, f"{taken:.1f} s"
    return taken


def test_three_daemons_share_a_namespace(tmp_path: Path) -> None:
    with three(tmp_path) as nodes:
        for number, node in enumerate(nodes):
            (node.mount / f"d{number}").mkdir()
        for node in nodes:
            wait_until(lambda node=node: node.names() == {"d0", "d1", "d2"}, "all names are everywhere", 10)  # type: ignore[misc]
        (nodes[1].mount / "d0").rename(nodes[1].mount / "moved")
        wait_until(lambda: nodes[2].names() == {"moved", "d1", "d2"}, "a rename is seen", 10)
        with pytest.raises(FileExistsError):
            (nodes[2].mount / "moved").mkdir()
        for number, node in enumerate(nodes):
            (node.mount / f"d{number}" if number else node.mount / "moved").joinpath("own").write_bytes(b"%d" % number * 10_000)
        for number, node in enumerate(nodes):
            own = (node.mount / f"d{number}" if number else node.mount / "moved") / "own"
            assert own.read_bytes() == b"%d" % number * 10_000, "each node serves the files that it has made"
        # the node that leads is killed: the others go on, and it finds everything when it comes back
        leader = next(node for node in nodes if node.status()["leader"] == node.status()["node"])
        rest = [node for node in nodes if node is not leader]
        leader.kill()
        within(10, lambda: (rest[0].mount / "after").mkdir())
        wait_until(lambda: "after" in rest[1].names(), "the others go on", 10)
        leader.start()
        wait_until(lambda: leader.names() == rest[0].names(), "it has caught up", 10)
        # one of three is stopped in order, then two: no majority, so names wait, and go on when one is back
        assert rest[1].stop() == 0
        within(10, lambda: (rest[0].mount / "two").mkdir())
        assert rest[0].stop() == 0
        alone = subprocess.Popen([sys.executable, "-c", f"import os; os.mkdir({str(leader.mount / 'moved' / 'three')!r})"])
        with pytest.raises(subprocess.TimeoutExpired):
            alone.wait(3)
        within(5, lambda: (os.statvfs(leader.mount), leader.mount.stat()))  # what needs no name is answered
        rest[0].start()
        assert alone.wait(20) == 0
        wait_until(lambda: (rest[0].mount / "moved" / "three").is_dir(), "what waited was done", 10)
        # the third is away for good: its lease is over, so that it can be removed though it has a log of files
        gone = Place(rest[1].directory).identity
        assert gone is not None
        wait_until(lambda: vpool("cluster", "remove", gone.node, "--dir", leader.directory).code == 0, "it is removed", 30)
        wait_until(lambda: [m["state"] for m in leader.status()["members"]] == ["votes"] * 2, "two are left", 10)
        (leader.mount / "four").mkdir()
        # a node that was paused for longer than a lease is declared dead, ends, and comes back as another
        assert rest[0].process is not None
        rest[0].process.send_signal(signal.SIGSTOP)
        paused = rest[0].status()["node"]
        with RegistryView(leader.directory / "registry") as view:
            wait_until(lambda: (node := view.node(paused)) is not None and node.expired, "it is declared dead", 30)
        rest[0].process.send_signal(signal.SIGCONT)
        assert rest[0].process.wait(60) == 12, "fenced"
        unmount(rest[0].mount)
        rest[0].start()
        wait_until(lambda: "four" in rest[0].names(), "it is back", 10)


def test_a_vpool_of_one_node_becomes_a_cluster_with_a_witness(tmp_path: Path) -> None:
    """What there was stays; without the second node, node and witness are a majority."""
    (tmp_path / "shared").mkdir()
    first, witness = Daemon(tmp_path, 0), Daemon(tmp_path, 1)
    backend = f"dir:{tmp_path / 'shared'}"
    voting: subprocess.Popen[bytes] | None = None
    try:
        first.start("--backend", backend)
        (first.mount / "kept").mkdir()
        running = vpool("cluster", "init", "--dir", first.directory, "--listen", first.address)
        assert (running.code, "in use by a running daemon" in running.err) == (5, True), running.err
        assert first.stop() == 0
        wrong = vpool("cluster", "init", "--dir", first.directory, "--listen", "0.0.0.0:9470")
        assert (wrong.code, "--advertise" in wrong.err) == (2, True), wrong.err
        made = vpool("cluster", "init", "--dir", first.directory, "--listen", first.address)
        assert made.code == 0, made.err
        again = vpool("cluster", "init", "--dir", first.directory, "--listen", first.address)
        assert (again.code, "already" in again.err) == (5, True), again.err
        first.start()
        assert first.names() == {"kept"}
        token = vpool("cluster", "token", "--dir", first.directory).out.strip()
        arguments = ["cluster", "join", "--witness", "--dir", str(witness.directory), "--token", token]
        joined = vpool(*arguments, "--listen", witness.address)
        assert joined.code == 0, joined.err
        assert not (witness.directory / "cluster" / "authority.key").exists()
        with witness.log.open("ab") as log:
            voting = subprocess.Popen(
                [sys.executable, "-m", "vpool", "cluster", "witness", "--dir", str(witness.directory)], stdout=log, stderr=log
            )
        wait_until(lambda: [m["state"] for m in first.status()["members"]] == ["votes"] * 2, "both vote", START_S)
        (first.mount / "with witness").mkdir()
        shown = vpool("cluster", "status", "--dir", witness.directory)
        assert "witness, votes, this node" in shown.out
        voting.terminate()
        assert voting.wait(20) == 0
    finally:
        if voting is not None and voting.poll() is None:
            voting.kill()
            voting.wait(10)
        if not first.ended():
            first.kill()
        unmount(first.mount)


def test_a_vpool_whose_backend_no_other_can_reach_stays_alone(tmp_path: Path) -> None:
    ran = vpool("cluster", "init", "--dir", tmp_path / "n", "--listen", "127.0.0.1:9470")
    assert (ran.code, "inside DIR" in ran.err) == (2, True), ran.err
    assert not (tmp_path / "n").exists()
