"""Clients on every host's mount at once: they write and read the blocks of one disk, or make, move and remove names, and note
it all.

A thread per host and load. A request that fails is of unknown outcome, whatever the error; then the thread opens anew, for as
long as the host is away. Nothing here waits for anything but the requests themselves, so a host that never answers holds up its
own thread only.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import http.client
import itertools
import mmap
import os
import random
import struct
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.cluster.histories import FOR_EVER, INITIAL, Access, Flush
from tests.cluster.hosts import Host
from tests.cluster.name_histories import Call, Result, Verb
from tests.mounted_pool import wait_until
from vpool.cli.contents import events
from vpool.errors import VPoolError

BLOCK = 4096
STAMP = struct.Struct("<QQI")  # value, block, CRC of both
AWAY_S = 0.05  # between two tries to open what is not there
STOP_S = 90.0
NAMES = ("a", "b", "c")


def stamped(value: int, block: int) -> bytes:
    """A block that says which write it is, all over."""
    head = struct.pack("<QQ", value, block)
    one = head + struct.pack("<I", zlib.crc32(head))
    return (one * (BLOCK // len(one) + 1))[:BLOCK]


def value_of(data: bytes, block: int) -> int:
    """Which write a block holds. Raises AssertionError for what nobody has written here, also a mixture of two."""
    if data == bytes(BLOCK):
        return INITIAL
    value = int(STAMP.unpack_from(data)[0])
    assert data == stamped(value, block), f"block {block} holds no write, or parts of several: {data[:40].hex()}…"
    return value


class Load(ABC):
    """Threads; a context manager."""

    def __init__(self, hosts: Sequence[Host], seed: int) -> None:
        self._stop = threading.Event()
        self.done = [0] * len(hosts)  # requests that succeeded, by host
        self.wrong: list[BaseException] = []
        self.refused: list[OSError | None] = [None] * len(hosts)  # by host: the last, for messages
        self._threads = [
            threading.Thread(target=self._run, args=(number, host, random.Random(f"{seed}:{number}")), daemon=True)
            for number, host in enumerate(hosts)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def stop(self, deadline_s: float = STOP_S) -> None:
        """End; every request that was begun must return. Raises what a thread has found wrong."""
        self._stop.set()
        end = time.monotonic() + deadline_s
        for number, thread in enumerate(self._threads):
            thread.join(max(0.0, end - time.monotonic()))
            assert not thread.is_alive(), f"a request of client {number} never returned"
        self.check_threads()

    def check_threads(self) -> None:
        """Raise what a thread has found wrong."""
        if self.wrong:
            raise self.wrong[0]

    def goes_on(self, count: int, tended: Callable[[], object] = lambda: None, deadline_s: float = STOP_S) -> None:
        """Wait until so many more requests have succeeded on every host; ``tended`` is called meanwhile."""
        wanted = [done + count for done in self.done]

        def enough() -> bool:
            self.check_threads()
            tended()
            return all(done >= least for done, least in zip(self.done, wanted, strict=True))

        try:
            wait_until(enough, f"each host does {count} requests", deadline_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; done {self.done}, wanted {wanted}, last errors {self.refused}") from None

    def _run(self, number: int, host: Host, chosen: random.Random) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._session(number, host, chosen)
                except OSError as error:
                    self.refused[number] = error
                    self._stop.wait(AWAY_S)  # it is away, or comes back
        except BaseException as error:
            self.wrong.append(error)

    @abstractmethod
    def _session(self, number: int, host: Host, chosen: random.Random) -> None:
        """Requests until the first error, which is raised as OSError after it was noted."""


class Blocks(Load):
    """Blocks of one disk, past every cache: O_DIRECT."""

    def __init__(
        self, hosts: Sequence[Host], name: str, blocks: int, seed: int, *, pause_s: float = 0.0, writes: float = 0.5
    ) -> None:
        super().__init__(hosts, seed)
        self.name, self.blocks = name, blocks
        self.accesses: list[Access] = []
        self.flushes: list[Flush] = []
        self.errors: list[int | None] = []
        self._values = itertools.count(1)
        self._pause_s, self._writes = pause_s, writes

    def _session(self, number: int, host: Host, chosen: random.Random) -> None:
        with _direct(host.mount / self.name) as (disk, buffer):
            while not self._stop.is_set():
                block, kind = chosen.randrange(self.blocks), chosen.random()
                if kind < 0.04:
                    self._flush(disk)
                elif kind < 0.04 + self._writes:
                    self._write(disk, buffer, block, str(host))
                else:
                    self._read(disk, buffer, block, str(host))
                self.done[number] += 1
                if self._pause_s:
                    self._stop.wait(self._pause_s * chosen.random() * 2)

    def _flush(self, disk: int) -> None:
        began = time.monotonic_ns()
        try:
            os.fsync(disk)
        except OSError as error:
            self.errors.append(error.errno)
            raise
        self.flushes.append(Flush(began, time.monotonic_ns()))

    def _write(self, disk: int, buffer: mmap.mmap, block: int, who: str) -> None:
        value = next(self._values)
        buffer[:] = stamped(value, block)
        began = time.monotonic_ns()
        ended = FOR_EVER
        try:
            written = os.pwritev(disk, [buffer], block * BLOCK)
            assert written == BLOCK, written
            ended = time.monotonic_ns()
        except OSError as error:
            self.errors.append(error.errno)
            raise
        finally:
            self.accesses.append(Access(block, True, value, began, ended, who))

    def _read(self, disk: int, buffer: mmap.mmap, block: int, who: str) -> None:
        began = time.monotonic_ns()
        try:
            got = os.preadv(disk, [buffer], block * BLOCK)
        except OSError as error:
            self.errors.append(error.errno)
            raise
        assert got == BLOCK, got
        self.accesses.append(Access(block, False, value_of(buffer[:], block), began, time.monotonic_ns(), who))

    def read_all(self, host: Host) -> None:
        """Every block once more, through one host's mount."""
        with _direct(host.mount / self.name) as (disk, buffer):
            for block in range(self.blocks):
                self._read(disk, buffer, block, f"{host} at the end")


@contextlib.contextmanager
def _direct(path: Path) -> Iterator[tuple[int, mmap.mmap]]:
    disk = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, BLOCK) as buffer:
            yield disk, buffer
    finally:
        with contextlib.suppress(OSError):
            os.close(disk)


class Names(Load):
    """Few names in a directory that changes with each round.

    What is made is a symbolic link: that is one request, exclusive, and its length is its content, which comes with a look-up.
    """

    def __init__(self, hosts: Sequence[Host], seed: int, *, calls_max: int = 40, looks: bool = True) -> None:
        super().__init__(hosts, seed)
        self.calls: dict[str, list[Call]] = {}
        self._contents = itertools.count(1)
        self._directory = ""
        self._calls_max, self._looks = calls_max, looks

    def begin(self, directory: str) -> None:
        """Go on in a directory that is there and empty."""
        self.calls[directory] = []
        self._contents = itertools.count(1)
        self._directory = directory

    def _session(self, number: int, host: Host, chosen: random.Random) -> None:
        directory = self._directory
        if not directory:
            raise OSError(errno.ENOENT, "no round yet")
        outside = host.mount.parent.stat().st_dev
        within = os.open(host.mount / directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if os.fstat(within).st_dev == outside:
                raise OSError(errno.ENOTCONN, "nothing is mounted")
            for _ in range(self._calls_max):
                if self._stop.is_set() or self._directory != directory:
                    return
                self._call(within, directory, chosen, str(host))
                self.done[number] += 1
            while self._directory == directory and not self._stop.wait(AWAY_S):
                pass
        finally:
            with contextlib.suppress(OSError):
                os.close(within)

    def _call(self, within: int, directory: str, chosen: random.Random, who: str) -> None:
        verbs = [Verb.CREATE, Verb.CREATE, Verb.RENAME, Verb.UNLINK, *([Verb.LOOK] * 2 if self._looks else [])]
        verb, name = chosen.choice(verbs), chosen.choice(NAMES)
        target = chosen.choice([each for each in NAMES if each != name]) if verb is Verb.RENAME else ""
        content = str(next(self._contents)) if verb is Verb.CREATE else ""
        began = time.monotonic_ns()
        result, failure = Result.DONE, None
        try:
            if verb is Verb.CREATE:
                os.symlink("x" * int(content), name, dir_fd=within)
            elif verb is Verb.RENAME:
                os.rename(name, target, src_dir_fd=within, dst_dir_fd=within)
            elif verb is Verb.UNLINK:
                os.unlink(name, dir_fd=within)
            else:
                content = str(os.lstat(name, dir_fd=within).st_size)
        except FileExistsError:
            result = Result.EXISTS
        except FileNotFoundError:
            result = Result.ABSENT
        except OSError as error:
            result, failure = Result.UNKNOWN, error
        ended = FOR_EVER if result is Result.UNKNOWN else time.monotonic_ns()
        self.calls[directory].append(Call(verb, name, result, began, ended, content, target, who))
        if failure is not None:
            raise failure


class Moves:
    """Somebody who has volumes moved to other hosts all the while, by command; who is refused tries something else."""

    def __init__(self, hosts: Sequence[Host], names: Sequence[str], seed: int, *, pause_s: float = 0.3) -> None:
        self.moved, self.refused = 0, collections.Counter[str]()
        self._hosts, self._names, self._pause_s = hosts, names, pause_s
        self._chosen = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Moves:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def stop(self) -> None:
        """End; the last command is waited for."""
        self._stop.set()
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "a move never ended"

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s * 2 * self._chosen.random()):
            asked, target = self._chosen.choice(self._hosts), self._chosen.choice(self._hosts)
            order: dict[str, object] = {"path": self._chosen.choice(self._names), "node": target.id}
            try:
                for _ in events(asked.directory, "/v1/moves", order):
                    pass
                self.moved += 1
            except VPoolError as error:
                self.refused[error.message] += 1
            except (OSError, http.client.HTTPException) as error:  # nobody is there, or has gone meanwhile
                self.refused[type(error).__name__] += 1
