"""A daemon answers its own mount under its lease only: real daemons, paused for less and for more than a lease, and cut off.

If this fails: a host that slept while another took its volumes over answers from what it had, and two owners have answered.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from registry import RegistryView
from tests.cluster.test_forwarding import made_on, read, stamp, two, written
from tests.cluster.test_three_nodes import Daemon, three
from tests.mounted_pool import unmount, wait_until

pytestmark = pytest.mark.mount

FENCED = 12  # exit code
SHORT_S = 2.0  # of a lease of 4 s
BLOCK = 4096


class Reader:
    """Reads one block over and over; what it was answered, and when."""

    def __init__(self, path: Path) -> None:
        self.answers: list[float] = []
        self.error: OSError | None = None
        self._stop = threading.Event()
        self._file = path.open("rb", buffering=0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                os.pread(self._file.fileno(), BLOCK, 0)
            except OSError as error:
                self.error = error
                return
            self.answers.append(time.monotonic())

    def since(self, moment: float) -> int:
        return sum(answer > moment for answer in self.answers)

    def failed(self) -> bool:
        return self.error is not None

    def end(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._file.close()


def send(node: Daemon, number: signal.Signals) -> None:
    assert node.process is not None
    node.process.send_signal(number)


def test_a_paused_daemon_answers_nothing_that_another_may_have_changed(tmp_path: Path) -> None:
    with three(tmp_path) as nodes:
        owner, other = nodes[0], nodes[1]
        made_on(owner, "disk.raw")
        reader = Reader(owner.mount / "disk.raw")
        wait_until(lambda: len(reader.answers) > 10, "it reads", 10)
        # shorter than a lease: nobody takes over, nobody gets an error
        send(owner, signal.SIGSTOP)
        time.sleep(SHORT_S)  # the length of the pause is what is tested
        send(owner, signal.SIGCONT)
        woken = time.monotonic()
        wait_until(lambda: reader.since(woken) > 10, "it goes on", 10)
        assert not reader.failed()
        # longer: it has been declared dead when it wakes, and what it was asked it does not answer
        send(owner, signal.SIGSTOP)
        paused = owner.status()["node"]
        with RegistryView(other.directory / "registry") as view:
            wait_until(lambda: (node := view.node(paused)) is not None and node.expired, "it is declared dead", 30)
        woken = time.monotonic()
        send(owner, signal.SIGCONT)
        assert owner.process is not None
        assert owner.process.wait(60) == FENCED
        unmount(owner.mount)
        reader.end()
        assert reader.failed()
        assert reader.since(woken) == 0, "it has answered after its life was over"
        assert "node_was_paused" in owner.log.read_text()
        owner.start()
        assert read(owner.mount / "disk.raw", 0) == stamp(0, 0)


def test_without_a_majority_answers_wait_and_then_leave(tmp_path: Path) -> None:
    with two(tmp_path) as (owner, other):
        made_on(owner, "disk.raw")
        with (owner.mount / "disk.raw").open("r+b", buffering=0) as file:
            reader = Reader(owner.mount / "disk.raw")
            other.kill()
            wait_until(lambda: bool(reader.answers) and reader.answers[-1] < time.monotonic() - 1, "answers wait", 20)
            writing = threading.Thread(target=os.pwrite, args=(file.fileno(), stamp(1, 1), BLOCK), daemon=True)
            writing.start()
            writing.join(1)
            waits = writing.is_alive()
            assert waits, "a write was acknowledged by who may have been declared dead"
            began = time.monotonic()
            assert os.fstat(file.fileno()).st_size
            os.statvfs(owner.mount)
            assert time.monotonic() - began < 3
            other.start()
            writing.join(30)
            back = time.monotonic()
            wait_until(lambda: reader.since(back) > 10, "it goes on", 20)
            reader.end()
        assert not reader.failed()
        written(other.mount / "disk.raw", 2, stamp(2, 1), sync=True)
        assert read(other.mount / "disk.raw", 1) == stamp(1, 1)
