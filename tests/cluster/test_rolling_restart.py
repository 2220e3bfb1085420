"""Maintenance: every daemon restarted in turn under writers, and stopped when the registry has no majority.

If this fails: an upgrade of a cluster gives guests I/O errors, or has volumes taken over for nothing, or a host hangs at its
shutdown.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from registry import RegistryView
from tests.cluster.running import vpool
from tests.cluster.test_names import leader_of
from tests.cluster.test_three_nodes import Daemon, three
from tests.mounted_pool import unmount, wait_until
from vpool.exitcodes import REGISTRY_UNTOLD

pytestmark = pytest.mark.mount

BLOCK = 4096
STOP_S = 60.0  # 2 × fuse.stop_s, what the registry is waited for, volumes.stop_s, the export; and a busy host


class Writer:
    """Writes and syncs one block after the other, and counts; an error ends it."""

    def __init__(self, path: Path) -> None:
        self.written = 0
        self.error: OSError | None = None
        self.longest_s = 0.0
        self._stop = threading.Event()
        self._file = path.open("r+b", buffering=0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                os.pwrite(self._file.fileno(), self.stamp(self.written), (self.written % 64) * BLOCK)
                if self.written % 8 == 7:
                    os.fsync(self._file.fileno())
            except OSError as error:
                self.error = error
                return
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self.written += 1

    @staticmethod
    def stamp(number: int) -> bytes:
        return (f"{number};".encode() * BLOCK)[:BLOCK]

    def goes_on(self, what: str, seconds: float = 30) -> None:
        before = self.written
        wait_until(lambda: self.written > before + 20 or self.error is not None, what, seconds)
        assert self.error is None, f"{what}: {self.error}"

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._file.close()
        assert self.error is None, self.error


def disk(node: Daemon, name: str) -> None:
    with (node.mount / name).open("wb", buffering=0) as file:
        os.ftruncate(file.fileno(), 64 * BLOCK)
        os.fsync(file.fileno())


def maintenance(asked: Daemon, node: str, state: str) -> None:
    ran = vpool("node", "maintenance", node, state, "--dir", asked.directory)
    assert ran.code == 0, ran.err


def test_all_daemons_are_restarted_under_writers(tmp_path: Path) -> None:
    with three(tmp_path) as nodes:
        ids = [node.status()["node"] for node in nodes]
        for number, node in enumerate(nodes):
            disk(node, f"disk{number}.raw")
        for number, node in enumerate(nodes):
            other = nodes[(number + 1) % 3]
            # one writes to what the restarted node owns, one to what is owned where it is written
            writers = [Writer(other.mount / f"disk{number}.raw"), Writer(other.mount / f"disk{(number + 1) % 3}.raw")]
            for writer in writers:
                writer.goes_on("it writes")
            maintenance(other, ids[number], "on")
            shown = vpool("node", "show", ids[number], "--dir", other.directory, "--json")
            assert '"status": "maintenance"' in shown.out
            wait_until(lambda node=node: leader_of(nodes) is not node, "who is in maintenance does not lead", 20)  # type: ignore[misc]
            assert node.stop() == 0
            writers[1].goes_on("the others are not concerned", 10)
            with RegistryView(other.directory / "registry") as view:
                record = view.node(ids[number])
                assert record is not None
                time.sleep(6)  # longer than a lease and its margin: that it is not declared dead is what is tested
                after = view.node(ids[number])
                assert after is not None
                assert (after.expired, after.incarnation) == (False, record.incarnation)
            node.start()
            for writer in writers:
                writer.goes_on("it is back")
            maintenance(other, ids[number], "off")
            for writer in writers:
                writer.end()
            print(f"longest write {[round(writer.longest_s, 2) for writer in writers]} s")
        listed = vpool("node", "list", "--dir", nodes[0].directory)
        assert (listed.code, listed.out.count("voter")) == (0, 3), listed.out
        assert "maintenance" not in listed.out


def test_a_node_stops_in_order_without_a_majority(tmp_path: Path) -> None:
    """It says that something is left in its cache, and does not hang; what was written is there when the others are back."""
    with three(tmp_path) as nodes:
        last = nodes[2]
        disk(last, "disk.raw")
        with (last.mount / "disk.raw").open("r+b", buffering=0) as file, (last.mount / "grows").open("wb", buffering=0) as grows:
            os.pwrite(file.fileno(), Writer.stamp(7), 7 * BLOCK)
            os.pwrite(grows.fileno(), b"1234", 0)
            for node in nodes[:2]:
                node.kill()
            os.pwrite(file.fileno(), Writer.stamp(8), 8 * BLOCK)  # within the lease that it has
            os.pwrite(grows.fileno(), b"5678", 4)
        began = time.monotonic()
        assert last.process is not None
        last.process.terminate()
        code = last.process.wait(STOP_S)
        print(f"stopped after {time.monotonic() - began:.1f} s with code {code}")
        assert code == REGISTRY_UNTOLD
        unmount(last.mount)
        starting = [threading.Thread(target=node.start) for node in nodes]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join(60)
        with (last.mount / "disk.raw").open("rb", buffering=0) as file:
            for number in (7, 8):
                assert os.pread(file.fileno(), BLOCK, number * BLOCK) == Writer.stamp(number)
        assert (nodes[0].mount / "grows").read_bytes() == b"12345678"
