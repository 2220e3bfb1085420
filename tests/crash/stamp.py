"""Stamped writer and reader: every sector says whose it is, so a reader can tell each write from every other.

Layout of a stamped sector (512 bytes, little-endian):

====== ====== =======================================================
offset bytes  what
====== ====== =======================================================
0      8      magic ``vPstamp1``
8      8      number of the unit it was written to
16     8      sequence of the write, see ``history``
24     8      seed of the run
32     4      round
36     4      thread
40     468    filling that depends on the sequence
508    4      CRC-32 of all before
====== ====== =======================================================
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.history import CLUSTER_UNITS, NEVER_WRITTEN, UNIT_BYTES, History, Violation

MAGIC = b"vPstamp1"
FIELDS = struct.Struct("<8sQQQII")
SUM = struct.Struct("<I")
READ_BYTES = 1 << 20
ZEROS = bytes(UNIT_BYTES)
GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNRESET, errno.EBADF})  # what a killed daemon leaves its clients


@dataclass(frozen=True, slots=True)
class Signature:
    """Who writes."""

    seed: int
    round: int
    thread: int


def stamped(signature: Signature, sequence: int, first: int, count: int) -> bytes:
    """``count`` stamped sectors, from unit ``first`` on."""
    filling = sequence.to_bytes(8, "little") * ((UNIT_BYTES - FIELDS.size - SUM.size) // 8 + 1)
    filling = filling[: UNIT_BYTES - FIELDS.size - SUM.size]
    sectors = []
    for unit in range(first, first + count):
        body = FIELDS.pack(MAGIC, unit, sequence, signature.seed, signature.round, signature.thread) + filling
        sectors.append(body + SUM.pack(zlib.crc32(body)))
    return b"".join(sectors)


def sequences(data: bytes, first: int, seed: int) -> Iterator[tuple[int, int]]:
    """(unit, sequence) of each sector that is not zeros.

    Raises:
        Violation: a sector is neither zeros nor one that this run has written to this unit.
    """
    view = memoryview(data)
    for at in range(0, len(data), UNIT_BYTES):
        sector = view[at : at + UNIT_BYTES]
        if sector == ZEROS:
            continue
        unit = first + at // UNIT_BYTES
        magic, stamped_unit, sequence, stamped_seed, _, _ = FIELDS.unpack_from(sector)
        if len(sector) < UNIT_BYTES or zlib.crc32(sector[: -SUM.size]) != SUM.unpack_from(sector, UNIT_BYTES - SUM.size)[0]:
            raise Violation(f"unit {unit} is damaged: {bytes(sector[:48]).hex()}…")
        if (magic, stamped_unit, stamped_seed) != (MAGIC, unit, seed) or sequence == NEVER_WRITTEN:
            raise Violation(f"unit {unit} has the content of unit {stamped_unit}, written with seed {stamped_seed}")
        yield unit, sequence


def read_stamps(path: Path, first: int, count: int, seed: int, *, key: int = 0) -> dict[int, int]:
    """What is on a disk, read past all caches of the kernel: unit → sequence; what is beyond the end reads as zeros.

    ``key`` is added to the unit numbers: that of a file, in a history of many files.
    """
    seen: dict[int, int] = {}
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, READ_BYTES) as buffer:
            at, end = first * UNIT_BYTES, (first + count) * UNIT_BYTES
            while at < end:
                got = os.preadv(fd, [memoryview(buffer)[: min(READ_BYTES, end - at)]], at)
                if got <= 0:
                    break
                seen.update(sequences(buffer[:got], key + at // UNIT_BYTES, seed))
                at += got
    finally:
        os.close(fd)
    return seen


@dataclass(frozen=True, slots=True)
class Load:
    """What the writers do; ratios are of one."""

    units: int  # size of the volume
    threads: int = 4
    sub_cluster: float = 0.15  # requests of 512 bytes to 8 KiB, at any sector
    large: float = 0.02  # requests of up to 1 MiB
    fsyncs: float = 0.03
    reads: float = 0.15
    hot: float = 0.5  # requests that go to the first 1/16 of the volume, which is therefore written again and again
    bytes_max: int = 24 << 20  # after that the writers rest


@dataclass(slots=True)
class Writers:
    """Threads that write to a volume until it goes away, or they are told to stop; a context manager."""

    path: Path
    history: History
    load: Load
    signature: Signature
    errors: list[Exception] = field(default_factory=list)  # wrong reads, and I/O errors other than those of a daemon that is gone
    acknowledged: int = 0
    fsyncs: int = 0
    reads: int = 0
    bytes_written: int = 0
    slowest_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Writers:
        for number in range(self.load.threads):
            thread = threading.Thread(target=self._run, args=(number,), name=f"writer-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, timeout_s: float = 60.0) -> None:
        """End the writers and wait for them. AssertionError where one hangs."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout_s)
            assert not thread.is_alive(), f"{thread.name} hangs in a request although the daemon is gone or was told to stop"

    @property
    def busy(self) -> bool:
        """Whether a thread still writes."""
        return any(thread.is_alive() for thread in self._threads)

    def _run(self, number: int) -> None:
        dice = random.Random(f"{self.signature.seed}/{self.signature.round}/{number}")
        signature = Signature(self.signature.seed, self.signature.round, number)
        try:
            fd = os.open(self.path, os.O_RDWR)
        except OSError as error:
            if error.errno not in GONE:
                self.errors.append(error)
            return
        try:
            while not self._stop.is_set():
                if self.bytes_written >= self.load.bytes_max:
                    self._stop.wait()
                elif not self._one(fd, dice, signature):
                    return
        finally:
            close_of_gone(fd)

    def _one(self, fd: int, dice: random.Random, signature: Signature) -> bool:
        """One request; False when the volume is gone."""
        kind = dice.random()
        try:
            if kind < self.load.fsyncs:
                os.fsync(fd)
                self.fsyncs += 1
            elif kind < self.load.fsyncs + self.load.reads:
                self._read(fd, *pick(dice, self.load))
            else:
                self._write(fd, signature, *pick(dice, self.load))
        except (OSError, Violation) as error:
            if not isinstance(error, OSError) or error.errno not in GONE:
                self.errors.append(error)
            return False
        return True

    def _read(self, fd: int, first: int, count: int) -> None:
        floor = self.history.floor(first, count)
        data = os.pread(fd, count * UNIT_BYTES, first * UNIT_BYTES)
        self.history.compare(floor, dict(sequences(data, first, self.signature.seed)))
        self.reads += 1

    def _write(self, fd: int, signature: Signature, first: int, count: int) -> None:
        write = self.history.issue(first, count)
        if write is None:
            return
        data = stamped(signature, write.sequence, first, count)
        began = time.monotonic()
        try:
            write_whole(fd, data, first * UNIT_BYTES)
        except OSError:
            self.history.refuse(write)
            raise
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self.history.acknowledge(write)
        self.acknowledged += 1
        self.bytes_written += len(data)


def pick(dice: random.Random, load: Load) -> tuple[int, int]:
    """Place and length of a request, in units."""
    kind = dice.random()
    if kind < load.large:
        count = dice.randrange(16, 257) * CLUSTER_UNITS
    elif kind < load.large + load.sub_cluster:
        count = dice.randrange(1, 17)
    else:
        count = CLUSTER_UNITS
    space = load.units // 16 if dice.random() < load.hot else load.units
    count = min(count, space)
    first = dice.randrange(space - count + 1)
    if kind >= load.large + load.sub_cluster:
        first -= first % CLUSTER_UNITS
    return first, count


def write_whole(fd: int, data: bytes, offset: int | None = None) -> None:
    """Write at ``offset``, or at the end; OSError also where the kernel split the request and the daemon died within it."""
    done = os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
    if done < len(data):
        os.fsync(fd)  # fails if the daemon is gone; the next request would, too
        raise OSError(errno.EIO, f"a write of {len(data)} bytes ended after {done} although the daemon is there")


def close_of_gone(fd: int) -> None:
    """Close what may be of a daemon that was killed."""
    try:
        os.close(fd)
    except OSError as error:
        if error.errno not in GONE:
            raise
