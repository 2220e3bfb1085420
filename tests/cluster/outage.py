"""An outage of the object store as it is seen from outside: who reads meanwhile, and a record of what the daemon says."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.crash.history import UNIT_BYTES, History, Violation
from tests.crash.stamp import sequences
from tests.mounted_pool import MountedPool

SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon at one moment."""

    at_s: float
    dirty_bytes: int
    waiting_writers: int
    stalled: str
    rss_anon_kib: int


def ask_status(pool: MountedPool, timeout_s: float = 10.0) -> dict[str, object]:
    """What ``vpool status --json`` shows, asked for without starting a process."""
    transport = httpx.HTTPTransport(uds=str(pool.directory / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://vpool", timeout=timeout_s) as client:
        answer = client.get("/v1/status")
        answer.raise_for_status()
        report = answer.json()
        assert isinstance(report, dict)
        return report


@dataclass(slots=True)
class Recorder:
    """A thread that samples a daemon; a context manager."""

    pool: MountedPool
    samples: list[Sample] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Recorder:
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            try:
                self.samples.append(self._sample())
            except (httpx.HTTPError, OSError) as error:
                self.errors.append(error)
                return

    def _sample(self) -> Sample:
        report = ask_status(self.pool)
        objects = report["objects"]
        assert isinstance(objects, list)
        return Sample(
            at_s=time.monotonic(),
            dirty_bytes=int(str(report["dirty_bytes"])),
            waiting_writers=sum(each["waiting_writers"] for each in objects),
            stalled=next((each["stalled"] for each in objects if each["stalled"]), ""),
            rss_anon_kib=self.pool.memory_kib("RssAnon"),
        )


@dataclass(slots=True)
class Reader:
    """A thread that reads units again and again that nobody writes to; a context manager."""

    path: Path
    history: History
    units: range
    seed: int
    reads: int = 0
    slowest_s: float = 0.0
    errors: list[Exception] = field(default_factory=list)
    _began_s: float | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Reader:
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive(), "a read hangs"

    @property
    def waits_s(self) -> float:
        """For how long the read under way has been so."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def _run(self) -> None:
        dice = random.Random(self.seed)
        fd = os.open(self.path, os.O_RDONLY)
        try:
            while not self._stop.wait(0.01):
                first = dice.randrange(self.units.start, self.units.stop - 8)
                floor = self.history.floor(first, 8)
                self._began_s = time.monotonic()
                data = os.pread(fd, 8 * UNIT_BYTES, first * UNIT_BYTES)
                self.slowest_s = max(self.slowest_s, time.monotonic() - self._began_s)
                self._began_s = None
                self.history.compare(floor, dict(sequences(data, first, self.seed)))
                self.reads += 1
        except (OSError, Violation) as error:
            self.errors.append(error)
        finally:
            os.close(fd)
