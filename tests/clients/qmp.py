"""A QEMU that can be told things while it runs, and moved to another one: QMP over a Unix socket.

Wire format: one JSON object per line; a greeting, then answers to commands in their order, with events between them (QEMU's
docs/interop/qmp-spec.rst).
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.mounted_pool import wait_until

ANSWER_S = 60.0
START_S = 30.0
MIGRATION_S = 120.0
MEMORY_MIB = 32


class Guest:
    """One QEMU on a disk; what its guest reports is appended to ``said``. Killed on leaving, if it has not ended by itself."""

    def __init__(self, disk: Path, said: Path, sockets: Path, *, incoming: bool = False, cache: str = "none") -> None:
        self.disk, self.said = disk, said
        sockets.mkdir(exist_ok=True)
        self._qmp, self.incoming = sockets / "qmp", sockets / "incoming"
        drive = f"file={disk},format=raw,if=virtio,cache={cache},werror=report,rerror=report"
        command = ["qemu-system-x86_64", "-accel", "tcg", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"]
        command += ["-no-reboot", "-drive", drive, "-qmp", f"unix:{self._qmp},server=on,wait=off"]
        command += ["-chardev", f"file,id=said,path={said},append=on", "-device", "isa-debugcon,chardev=said,iobase=0xe9"]
        command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        if incoming:
            command += ["-incoming", f"unix:{self.incoming}"]
        self.log = sockets / "qemu.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.events: list[tuple[str, float]] = []  # name, time.monotonic when it came
        self._answers: list[dict[str, Any]] = []
        self._rest = b""
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """No QEMU is left."""
        if hasattr(self, "_socket"):
            self._socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)

    def call(self, command: str, **arguments: object) -> Any:
        """A command, and its answer. Raises RuntimeError with QEMU's reason."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        end = time.monotonic() + ANSWER_S
        while not self._answers:
            self._receive(end - time.monotonic())
        answer = self._answers.pop(0)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error'].get('desc')}")
        return answer["return"]

    def state(self) -> str:
        """``running``, ``inmigrate``, ``postmigrate``, ``paused`` …"""
        return str(self.call("query-status")["status"])

    def migrate_to(self, other: Guest, *, meanwhile: Callable[[], None] = lambda: None) -> float:
        """Move the guest to a QEMU that was started with ``incoming``; it runs there then. Returns the pause, in seconds."""
        self.call("migrate", uri=f"unix:{other.incoming}")
        state: dict[str, Any] = {}

        def ended() -> bool:
            meanwhile()
            state.update(self.call("query-migrate"))
            assert state["status"] not in ("failed", "cancelled"), f"{state}\n{self.log.read_text()}\n{other.log.read_text()}"
            return bool(state["status"] == "completed")

        wait_until(ended, "the guest has moved", MIGRATION_S)
        wait_until(lambda: other.state() == "running", "the guest runs where it has moved to", START_S)
        stopped = [when for name, when in self.events if name == "STOP"]
        resumed = [when for name, when in other.events if name == "RESUME"]
        return resumed[-1] - stopped[-1]

    def finish(self) -> int:
        """Stop the guest between two instructions, and QEMU; how many writes it knows to be done."""
        self.call("stop")
        self.call("quit")
        assert self.process.wait(30) == 0, self.log.read_text()
        return self.said.stat().st_size

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)

        def connected() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                self._socket.connect(str(self._qmp))
                return True
            return False

        wait_until(connected, "QEMU listens", START_S)
        self.call("qmp_capabilities")

    def _receive(self, within_s: float) -> None:
        self._socket.settimeout(max(0.01, within_s))
        data = self._socket.recv(65536)
        if not data:
            raise RuntimeError(f"QEMU has ended: {self.process.poll()}\n{self.log.read_text()}")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "event" in message:
                self.events.append((message["event"], time.monotonic()))
            elif "QMP" not in message:
                self._answers.append(message)
