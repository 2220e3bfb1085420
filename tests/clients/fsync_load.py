"""A load on a file system that keeps, outside of it, a record of what was fsynced; and the check of that record after a crash.

Every worker has a directory of its own and does one of: append to a log, replace a file by rename, rename, unlink, overwrite
blocks of a file in place. After each fsync (of the file, or of the directory for names) it notes what may not be lost any
more; what is under way when the disk dies is in doubt, and may be there or not.
"""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from vpool.durable import sync_directory

BLOCK = 4096
BLOCKS = 256
NAMES = 24
STAMP = struct.Struct("<QQI")


def content(seed: int, number: int) -> bytes:
    """The bytes of the file version with this number; sizes differ, and none is so short that two versions are the same."""
    source = random.Random(f"{seed}/{number}")
    return source.randbytes(source.choice((8, 100, 4096, 5000, 65536, 300_000)))


def block(position: int, sequence: int) -> bytes:
    """A block that carries its place, its number and a checksum."""
    body = STAMP.pack(position, sequence, 0) + bytes([sequence & 0xFF]) * (BLOCK - STAMP.size - 4)
    return body + struct.pack("<I", crc32(body))


@dataclass
class Record:
    """What one worker may rely on after a crash."""

    log: bytearray = field(default_factory=bytearray)
    log_synced: int = 0  # bytes
    files: dict[str, int | None] = field(default_factory=dict)  # name -> version that is durable; None: durably gone
    doubt: dict[str, set[int | None]] = field(
        default_factory=dict
    )  # what each name may have instead, while an operation is under way
    moving: tuple[str, str, int] | None = None  # a rename under way: the version is under one of the names at least
    blocks_synced: dict[int, int] = field(default_factory=dict)
    blocks_written: dict[int, int] = field(default_factory=dict)
    syncs: int = 0


class Worker:
    """One thread of the load, in one directory."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._seed = seed
        self._random = random.Random(seed)
        self._version = 0
        self._sequence = 0
        self.record = Record()

    def prepare(self) -> None:
        """Make the directory and the files that are always there; durable on return."""
        self._directory.mkdir(exist_ok=True)
        log = self._directory / "log"
        blocks = self._directory / "blocks"
        log.touch()
        blocks.write_bytes(b"".join(block(position, 0) for position in range(BLOCKS)))
        for path in (log, blocks):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        for directory in (self._directory, self._directory.parent):
            sync_directory(directory)

    def step(self) -> None:
        """One operation, chosen by the seed. OSError when the disk has gone."""
        actions: tuple[Callable[[], None], ...] = (
            self._append,
            self._replace,
            self._replace,
            self._move,
            self._unlink,
            self._overwrite,
        )
        self._random.choice(actions)()

    def _append(self) -> None:
        data = self._random.randbytes(self._random.randint(1, 20_000))
        with (self._directory / "log").open("r+b", buffering=0) as file:
            file.seek(len(self.record.log))
            self.record.log += data
            _write_all(file.fileno(), data)
            if self._random.random() < 0.5:
                os.fsync(file.fileno())
                self.record.log_synced = len(self.record.log)
                self.record.syncs += 1

    def _replace(self) -> None:
        name = f"f{self._random.randrange(NAMES)}"
        self._version += 1
        version = self._version
        new = self._directory / f"{name}.new"
        with new.open("wb", buffering=0) as file:
            _write_all(file.fileno(), content(self._seed, version))
            os.fsync(file.fileno())
        self.record.doubt = {name: {version}}
        new.rename(self._directory / name)
        self._settle({name: version})

    def _move(self) -> None:
        there = [name for name, version in self.record.files.items() if version is not None]
        if not there:
            return
        old, new = self._random.choice(there), f"f{self._random.randrange(NAMES)}"
        version = self.record.files[old]
        if old == new or version is None:
            return
        self.record.doubt = {old: {None}, new: {version}}
        self.record.moving = (old, new, version)
        (self._directory / old).rename(self._directory / new)
        self._settle({old: None, new: version})

    def _unlink(self) -> None:
        there = [name for name, version in self.record.files.items() if version is not None]
        if not there:
            return
        name = self._random.choice(there)
        self.record.doubt = {name: {None}}
        (self._directory / name).unlink()
        self._settle({name: None})

    def _overwrite(self) -> None:
        written = {}
        with (self._directory / "blocks").open("r+b", buffering=0) as file:
            for _ in range(self._random.randint(1, 8)):
                position = self._random.randrange(BLOCKS)
                self._sequence += 1
                self.record.blocks_written[position] = self._sequence
                os.pwrite(file.fileno(), block(position, self._sequence), position * BLOCK)
                written[position] = self._sequence
            os.fsync(file.fileno())
        self.record.blocks_synced.update(written)
        self.record.syncs += 1

    def _settle(self, names: dict[str, int | None]) -> None:
        sync_directory(self._directory)
        self.record.files.update(names)
        self.record.doubt = {}
        self.record.moving = None
        self.record.syncs += 1

    def lost(self) -> list[str]:
        """Compare the directory with the record: everything that should be there and is not."""
        return [*self._lost_log(), *self._lost_names(), *self._lost_blocks()]

    def adopt(self) -> None:
        """After a check: go on from what the crash has left, which decides what was in doubt."""
        found = {name: self._version_of(name) for name in (f"f{number}" for number in range(NAMES))}
        log = self._directory / "log"
        kept = bytearray(log.read_bytes()[: self.record.log_synced])
        os.truncate(log, len(kept))
        blocks, written = dict(self.record.blocks_synced), dict(self.record.blocks_written)
        self.record = Record(log=kept, log_synced=len(kept), files=found, blocks_synced=blocks, blocks_written=written)

    def _lost_log(self) -> list[str]:
        record = self.record
        data = (self._directory / "log").read_bytes()
        if data[: record.log_synced] != record.log[: record.log_synced]:
            return [f"{self._directory.name}/log: of {record.log_synced} fsynced bytes, {len(data)} are there or some differ"]
        if len(data) > len(record.log):
            return [f"{self._directory.name}/log: {len(data)} bytes, only {len(record.log)} were written"]
        return []

    def _lost_names(self) -> list[str]:
        record, wrong = self.record, []
        found = {name: self._version_of(name) for name in {*record.files, *record.doubt}}
        for name, version in found.items():
            allowed = {record.files.get(name), *record.doubt.get(name, ())}
            if version not in allowed:
                wrong.append(f"{self._directory.name}/{name}: version {version}, allowed were {allowed}")
        if record.moving is not None:
            old, new, version = record.moving
            if version not in (found[old], found[new]):
                wrong.append(f"{self._directory.name}: version {version} is lost in a rename from {old} to {new}")
        return wrong

    def _lost_blocks(self) -> list[str]:
        wrong = []
        data = (self._directory / "blocks").read_bytes()
        for position in range(BLOCKS):
            found = data[position * BLOCK : (position + 1) * BLOCK]
            sequence = STAMP.unpack_from(found)[1] if len(found) == BLOCK else -1
            synced, written = self.record.blocks_synced.get(position, 0), self.record.blocks_written.get(position, 0)
            if sequence < 0 or found != block(position, sequence) or not synced <= sequence <= written:
                wrong.append(
                    f"{self._directory.name}/blocks at {position}: number {sequence}, fsynced {synced}, written {written}"
                )
        return wrong

    def _version_of(self, name: str) -> int | None:
        """Which version a file has; 0 for one that is none of them whole."""
        try:
            data = (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None
        candidates = (version for version in range(self._version, 0, -1) if content(self._seed, version) == data)
        return next(candidates, 0)


def _write_all(descriptor: int, data: bytes) -> None:
    """An unbuffered write may be short when a signal or a full disk interrupts it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class FsyncLoad:
    """Several workers at once, until the disk dies or ``stop``."""

    def __init__(self, target: Path, *, seed: int, workers: int) -> None:
        self.workers = [Worker(target / f"worker-{number}", seed * 1000 + number) for number in range(workers)]
        self.errors: list[str] = []  # why a worker ended by itself
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def syncs(self) -> int:
        """fsyncs that have returned since the last crash."""
        return sum(worker.record.syncs for worker in self.workers)

    def start(self) -> None:
        self._stopping.clear()
        self.errors.clear()
        self._threads = [threading.Thread(target=self._run, args=(worker,)) for worker in self.workers]
        for thread in self._threads:
            thread.start()

    def stop(self, deadline_s: float = 60) -> None:
        """Ask the workers to end, and wait for them; after a crash they have ended by the error they got."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(deadline_s)
            assert not thread.is_alive(), "a worker hangs in I/O"

    def reached(self, syncs: int) -> bool:
        """Whether so many fsyncs have returned, or there will be no more."""
        return self.syncs >= syncs or bool(self.errors)

    def lost(self) -> list[str]:
        return [line for worker in self.workers for line in worker.lost()]

    def _run(self, worker: Worker) -> None:
        try:
            while not self._stopping.is_set():
                worker.step()
        except OSError as error:
            self.errors.append(repr(error))
