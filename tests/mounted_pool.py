"""A vPool of one node as its users see it: the real daemon on a directory, its mount, and ways to end it.

Used by the tests of clients and crashes and by ``bench/``. Everything that ``MountedPool`` starts is ended by its process id
and unmounted by ``close``, which every way of leaving the ``with`` block goes through.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

START_S = 60.0
STOP_S = 90.0
POLL_S = 0.02
CHILDREN_S = 10.0
TEST_VARIABLES = frozenset(
    {"VPOOL_SEED", "VPOOL_ROUNDS", "VPOOL_SWIFT_VENV", "VPOOL_PJDFSTEST"}
)  # the daemon refuses settings that it does not know


class DaemonError(Exception):
    """The daemon ended, or did not do in time what it should; the message has the end of its log."""


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float) -> None:
    """Poll a condition that no event announces. Raises TimeoutError that says what did not happen."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"after {deadline_s:.0f} s still not: {what}")
        time.sleep(POLL_S)


def mounts_at(path: Path) -> int:
    """How many file systems are mounted on a path; also true for dead ones, which ``os.path.ismount`` cannot look at."""
    wanted = str(path).replace(" ", "\\040")
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return sum(1 for line in table if line.split()[4] == wanted)


def unmount(path: Path, *, lazy: bool = True) -> None:
    """Unmount everything from a path; lazily, so that a dead or busy file system goes too."""
    for _ in range(mounts_at(path)):
        subprocess.run(["umount", *(["-l"] if lazy else []), str(path)], check=True, capture_output=True, timeout=60)


def alive_in_group(group: int) -> list[str]:
    """Processes of a process group (a daemon's is its own) that have not ended, reaped or not."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


class MountedPool:
    """One ``vpool up DIR MOUNT``; may be killed and started again on the same DIR."""

    def __init__(
        self, directory: Path, mount: Path, *, backend: str | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory.absolute()
        self.mount = mount.absolute()
        self.log = directory.with_name(f"{directory.name}.log")
        self._backend = backend
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.mount.mkdir(parents=True, exist_ok=True)
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the daemon."""
        assert self._process is not None, "the daemon is not running"
        return self._process.pid

    def start(self, deadline_s: float = START_S) -> float:
        """Start the daemon and wait until its mount answers; returns how many seconds that took."""
        began = time.monotonic()
        self.spawn()
        wait_until(self._answers, f"{self.mount} answers\n{self.tail_of_log()}", deadline_s)
        return time.monotonic() - began

    def spawn(self) -> None:
        """Start the daemon and do not wait for it; for tests that end it before it is up."""
        assert self._process is None, "already running"
        command = [sys.executable, "-m", "vpool", "up", str(self.directory), str(self.mount)]
        if self._backend is not None:
            command += ["--backend", self._backend]
        environment = {key: value for key, value in os.environ.items() if key not in TEST_VARIABLES}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment, "VPOOL_LOG__FORMAT": "json", **self._environment},
                start_new_session=True,
            )

    def kill(self) -> None:
        """``kill -9`` of the daemon, as a crash; the mount stays behind, dead."""
        assert self._process is not None
        process, self._process = self._process, None
        process.kill()
        process.wait()
        self._reap_group(process.pid)

    def stop(self, deadline_s: float = STOP_S) -> int:
        """SIGTERM, as an operator; returns the exit code."""
        assert self._process is not None
        process = self._process
        process.terminate()
        code = process.wait(deadline_s)
        self._process = None
        self._reap_group(process.pid)
        return code

    def close(self) -> None:
        """Whatever the state: no process and no mount is left."""
        if self._process is not None:
            self.kill()
        unmount(self.mount)

    def tail_of_log(self, lines: int = 25) -> str:
        """The end of what the daemon said."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def make_volume(self, name: str, size: int) -> Path:
        """A volume made through the mount, as any client would."""
        path = self.mount / name
        with path.open("xb") as file:
            file.truncate(size)
        return path

    def memory_kib(self, field: str = "RssAnon") -> int:
        """A line of the daemon's ``/proc/<pid>/status``."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
        raise KeyError(field)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            code, self._process = self._process.returncode, None
            raise DaemonError(f"vpool up ended with exit code {code}:\n{self.tail_of_log()}")
        try:
            return os.path.ismount(self.mount) and os.statvfs(self.mount).f_blocks >= 0
        except OSError:
            return False  # still the dead mount of a predecessor

    @staticmethod
    def _reap_group(group: int) -> None:
        """End what the daemon started (its registry process) if it has not ended with it."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not alive_in_group(group), "the daemon's children end with it", CHILDREN_S)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
