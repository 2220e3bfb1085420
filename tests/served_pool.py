"""``vpool serve`` under a service manager that the test plays: a configuration file, a notification socket, a watchdog."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.mounted_pool import STOP_S, TEST_VARIABLES, unmount, wait_until

START_S = 60.0
SETTINGS = """
[cache]
size_bytes = "512MiB"

[volumes]
soft_bytes = "128MiB"
hard_bytes = "256MiB"
"""


class Notifications:
    """The manager's end of sd_notify: every message in the order it came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def receive(self, wait_s: float = 0) -> list[str]:
        """What has come since the last call; waits for the first of it."""
        found: list[str] = []
        if select.select([self._socket], [], [], wait_s)[0]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    found += self._socket.recv(4096).decode().splitlines()
        self.lines += found
        return found

    def wait_for(self, line: str, deadline_s: float) -> None:
        """Until a line that begins so comes; TimeoutError says what came instead."""
        end = time.monotonic() + deadline_s
        seen: list[str] = []
        while not any(item.startswith(line) for item in seen):
            if time.monotonic() > end:
                raise TimeoutError(f"no {line} within {deadline_s} s, only {seen}")
            seen += self.receive(0.1)


class ServedPool:
    """One node as a service; may be killed and started again."""

    def __init__(self, top: Path, *, node: str = "", more: str = "", settings: str = SETTINGS, watchdog_s: float = 0) -> None:
        self.directory = top / "pool"
        self.mount = top / "mount"
        self.config = top / "vpool.toml"
        self.log = top / "service.log"
        self.notifications = Notifications(top / "notify")
        self.watchdog_s = watchdog_s
        self.mount.mkdir(exist_ok=True)
        named = f'[node]\ndirectory = "{self.directory}"\nmountpoint = "{self.mount}"\n{node}\n'
        self.config.write_text(named + settings + more, encoding="utf-8")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        unmount(self.mount)
        self.notifications.close()

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start it as systemd would, and do not wait."""
        environment = {key: value for key, value in os.environ.items() if key not in TEST_VARIABLES}
        environment |= {"NOTIFY_SOCKET": str(self.notifications.path), "PYTHONDONTWRITEBYTECODE": "1"}
        if self.watchdog_s:
            environment["WATCHDOG_USEC"] = str(int(self.watchdog_s * 1e6))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vpool", "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        return self.process

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        process = self.spawn()
        try:
            self.notifications.wait_for("READY=1", START_S)
        except TimeoutError:
            raise AssertionError(f"not ready (exit code {process.poll()}):\n{self.said()}") from None

    def stop(self, deadline_s: float = STOP_S) -> int:
        """SIGTERM to the main process, as KillMode=mixed does; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(deadline_s)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """A signal that it cannot answer; its children go with it."""
        assert self.process is not None
        children = self.children()
        self.process.send_signal(number)
        code = self.process.wait(30)
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "its children end with it", 10)
        return code

    def children(self) -> list[int]:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        return [int(child) for child in text.split()]

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def events(self, name: str) -> list[dict[str, object]]:
        """What the log has under an event's name."""
        import json

        entries = []
        for line in self.said().splitlines():
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
        return [entry for entry in entries if entry.get("event") == name]
